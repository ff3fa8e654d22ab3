"""What axe-core does not look at: the contrast of every visible text, those of charts included; headings; names."""

from typing import Any

from playwright.sync_api import Page

TEXTS = """
() => {
  const rgba = (text) => {
    const numbers = (text.match(/-?[\\d.]+(e-?\\d+)?/g) ?? []).map(Number);
    if (text.startsWith("color(")) return numbers.map((one, at) => (at < 3 ? 255 * one : one));
    return numbers;
  };
  const above = (one) => one.assignedSlot ?? one.parentElement ?? one.getRootNode().host ?? null;
  const opaque = (colour) => colour[3] ?? 1;
  const over = (top, below) => below.map((one, at) => top[at] * opaque(top) + one * (1 - opaque(top)));
  const groundOf = (element) => {
    const layers = [];
    for (let at = element; at; at = above(at)) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour.length && colour[3] !== 0) layers.push(colour);
      if (colour.length && (colour[3] ?? 1) === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const light = (colour) => {
    const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const see = (element, text) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) return;
    if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) return;
    // What is disabled or shown only under the pointer; a slider's figures, which hang out of their coloured thumbs.
    const exempt = "[disabled], [aria-disabled=true], [data-testid=stElementToolbar], [data-testid=stSlider] *";
    if (element.closest(exempt)) return;
    const drawn = element instanceof SVGElement;
    const ink = rgba(drawn ? style.fill : style.color);
    let strength = (ink[3] ?? 1) * (drawn ? Number(style.fillOpacity) : 1);
    for (let at = element; at; at = above(at)) strength *= Number(getComputedStyle(at).opacity);
    if (!strength) return;
    const ground = groundOf(element);
    const shown = over([...ink.slice(0, 3), strength], ground);
    const [dark, bright] = [light(shown), light(ground)].sort((one, other) => one - other);
    const size = parseFloat(style.fontSize);
    const sign = element.matches("[data-testid=stIconMaterial], [role=img]");
    const large = sign || size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (bright + 0.05) / (dark + 0.05);
    found.push({ text: text.trim().slice(0, 60), ratio, least: large ? 3 : 4.5, drawn });
  };
  const walk = (root) => {
    for (const element of root.querySelectorAll("*")) {
      if (element.matches("style, script, noscript, title")) continue;
      const own = [...element.childNodes].filter((one) => one.nodeType === Node.TEXT_NODE);
      const text = own.map((one) => one.data).join("");
      if (text.trim()) see(element, text);
      if (element.shadowRoot) walk(element.shadowRoot);
      if (element.tagName === "IFRAME" && element.contentDocument) walk(element.contentDocument);
    }
  };
  walk(document);
  return found;
}
"""
HEADINGS = """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter((one) => one.checkVisibility())
  .map((one) => Number(one.tagName[1]))"""
BUTTONS = """() => [...document.querySelectorAll("[data-testid=stMain] button")]
  .filter((one) => one.checkVisibility() && !one.closest("[data-testid=stElementToolbar]"))
  // The arrow of a labelled select box, which the keyboard does not reach and the field itself names.
  .filter((one) => !(one.closest("[data-testid=stSelectbox]") && one.tabIndex < 0))
  .map((one) => one.getAttribute("aria-label") ?? one.textContent.trim())"""


def texts(page: Page) -> list[dict[str, Any]]:
    """Each visible text with its contrast (WCAG 2), the least it needs, and whether it is drawn in a chart."""
    found: list[dict[str, Any]] = page.evaluate(TEXTS)
    return found


def faint(page: Page) -> list[str]:
    """The texts whose contrast is too low."""
    return [f"{one['text']}: {one['ratio']:.2f}" for one in texts(page) if one["ratio"] < one["least"]]


def skipped_headings(page: Page) -> list[int]:
    """The levels of the headings, where there is not one of the first or a level is left out on the way down."""
    levels: list[int] = page.evaluate(HEADINGS)
    fine = levels.count(1) == 1 and all(b <= a + 1 for a, b in zip([0, *levels], levels, strict=False))
    return [] if fine else levels


def same_names(page: Page) -> list[str]:
    """The names that several buttons share."""
    names: list[str] = page.evaluate(BUTTONS)
    return sorted({one for one in names if names.count(one) > 1})
