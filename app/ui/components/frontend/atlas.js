// Draws chips, prediction bars, neuron tables and the charts that can be clicked. Every text is set as text. Whatever can be clicked is a link: a plain click
// is told to Python, which keeps the session; a click with a modifier, or without scripts, opens the same address anew.

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// What stands together and is read out under one name.
function group(tag, className, label) {
  const element = make(tag, className);
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", label);
  return element;
}

// What is wider or higher than its room: it takes the focus, so that the arrow keys scroll it.
function scrolling(element, label) {
  element.tabIndex = 0;
  element.setAttribute("role", "region");
  element.setAttribute("aria-label", label);
  return element;
}

function link(element, href, open) {
  element.href = href;
  return onPlainClick(element, href, open);
}

const isPlain = (event) => !(event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);

function onPlainClick(element, href, open) {
  element.addEventListener("click", (event) => {
    if (!isPlain(event)) return;
    event.preventDefault();
    open(href);
  });
  return element;
}

function chip(item, open) {
  const names = ["chip", item.tone, item.faint && "faint", item.current && "current"].filter(Boolean).join(" ");
  const element = item.href ? link(make("a", names), item.href, open) : make("span", names);
  element.append(make("span", "", item.text));
  if (item.note) element.append(make("small", "note", item.note));
  if (item.hint) element.title = item.hint;
  if (item.name) element.setAttribute("aria-label", item.name);
  if (item.current) element.setAttribute("aria-current", "true");
  if (item.removes) {
    element.append(make("span", "cross", "✕"));
    element.setAttribute("aria-label", `remove ${item.text}`);
  }
  return element;
}

function chips(data, open) {
  const line = group("div", "chips", data.label);
  for (const item of data.items) line.append(chip(item, open));
  return line;
}

// Where one is; the step before the last is one back.
function trail(data, open) {
  const whole = make("nav", "trail");
  const list = make("ol");
  whole.setAttribute("aria-label", data.label);
  data.steps.forEach((step, place) => {
    const item = make("li");
    const last = place === data.steps.length - 1;
    const element = last ? make("span", "", step.text) : link(make("a", "", step.text), step.href, open);
    element.title = step.text;
    if (last) element.setAttribute("aria-current", "location");
    item.append(element);
    list.append(item);
  });
  const before = data.steps.at(-2);
  if (before) {
    const back = link(make("a", "back", "← Back a step"), before.href, open);
    whole.append(back);
  }
  whole.append(list);
  return whole;
}

function bars(data, open) {
  const list = group("div", "bars", data.label);
  list.style.setProperty("--half", Math.ceil(data.items.length / 2));
  for (const item of data.items) {
    const { href, ...plain } = item.chip;
    const row = make("a", plain.current ? "current" : "");
    if (href) link(row, href, open);
    if (plain.current) row.setAttribute("aria-current", "true");
    const token = make("span");
    token.append(chip({ ...plain, href: "", current: false }, open));
    const track = make("span");
    const length = make("span", "length");
    length.style.width = `${100 * item.share}%`;
    track.append(length);
    row.append(token, track, make("span", "words", item.words));
    list.append(row);
  }
  return list;
}

function balance(cell, bothWays) {
  const whole = make("span", bothWays ? "balance both" : "balance");
  const track = make("span", "track");
  const share = cell.share ?? 0;
  const length = make("i", share < 0 ? "down" : "up");
  length.style.width = `${(bothWays ? 50 : 100) * Math.min(1, Math.abs(share))}%`;
  track.append(length);
  whole.append(make("b", "", cell.text), track);
  return whole;
}

function end(tone) {
  const element = make("span", `mark ${tone}`, tone === "promotes" ? "▲" : "▼");
  element.title = tone;
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", tone);
  return element;
}

function cellOf(column, cell, href, bothWays, open) {
  const element = make("td", column.role);
  element.dataset.title = column.title;
  if (column.role === "name") {
    if (cell.dot) element.append(make("span", `dot ${cell.dot}`));
    element.append(link(make("a", "", cell.text), href, open));
    if (cell.called) element.append(make("span", cell.own ? "called own" : "called", cell.called));
  } else if (column.role.startsWith("bar")) {
    element.append(balance(cell, bothWays));
  } else if (cell.chips) {
    const line = make("span", "line");
    if (cell.remark) line.append(make("span", "remark", cell.remark));
    if (cell.tone) line.append(end(cell.tone));
    if (cell.text) line.append(make("span", "place", cell.text));
    for (const item of cell.chips) line.append(chip(item, open));
    element.append(line);
  } else {
    element.append(make("span", "", cell.text));
  }
  return element;
}

function table(data, open) {
  const scroll = scrolling(make("div", "scroll"), data.label);
  const whole = make("table", data.columns.some((column) => column.role === "bar effect") ? "measured" : "");
  const long = (column) => ["tokens", "list", "action"].includes(column.role);
  whole.style.setProperty("--short", data.columns.filter((column) => !long(column)).length);
  const head = make("tr");
  for (const column of data.columns) {
    const arrow = { ascending: " ▲", descending: " ▼" }[column.sorted] ?? "";
    const title = make("th", column.role, column.href ? undefined : column.title);
    if (column.href) title.append(link(make("a", "", column.title + arrow), column.href, open));
    if (column.sorted) title.setAttribute("aria-sort", column.sorted);
    title.scope = "col";
    if (column.hint) title.title = column.hint;
    head.append(title);
  }
  const bothWays = data.columns.map((column, place) => column.both || data.rows.some((row) => row.cells[place].share < 0));
  const lineOf = (cells, href) => {
    const line = make("tr");
    cells.forEach((cell, place) => line.append(cellOf(data.columns[place], cell, href, bothWays[place], open)));
    return line;
  };
  const body = make("tbody");
  const top = make("thead");
  top.append(head);
  whole.append(top, body);
  scroll.append(whole);
  const rows = data.rows.map((row, place) => () => stopping(lineOf(row.cells, row.href), place === 0));
  fill(scroll, body, rows, () => lineOf(widest(data), ""));
  fromRowToRow(body);
  return scroll;
}

// Of a table's rows the Tab key stops at one, at each of its links; the arrow keys lead on from there.
function stopping(line, stops) {
  for (const one of line.querySelectorAll("a")) one.tabIndex = stops ? 0 : -1;
  return line;
}

function fromRowToRow(body) {
  body.addEventListener("focusin", (event) => {
    for (const stop of body.querySelectorAll('a[tabindex="0"]')) stop.tabIndex = -1;
    stopping(event.target.closest("tr"), true);
  });
  body.addEventListener("keydown", (event) => {
    const line = event.target.closest("tr");
    const next = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling }[event.key];
    const [here, there] = [line, next].map((row) => [...(row?.querySelectorAll("a") ?? [])]);
    const to = there[here.indexOf(event.target)] ?? there[0];
    if (!to) return;
    event.preventDefault();
    to.focus();
  });
}

// A long table's first rows are drawn at once, and those below them once somebody turns to the table, has the page searched or prints it: all
// rows of two long lists cost a browser seconds, which whatever is being measured would have to wait for. Until all are there, one unseen row
// that holds each column's longest texts keeps the columns as wide as they will be.
const LONG = 60; // rows that a table has at least, for some of them to follow
const AT_ONCE = 25;
const TURNS = ["pointerenter", "focusin", "scroll"];
const idle = (work) => (window.requestIdleCallback ? requestIdleCallback(work, { timeout: 500 }) : setTimeout(() => work({ timeRemaining: () => 8 }), 50));
const unfilled = new Set();

function fillAll() {
  for (const scroll of unfilled) scroll.whole();
}

window.addEventListener("beforeprint", fillAll);
document.addEventListener("keydown", (event) => (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "f" && fillAll());

function fill(scroll, body, rows, sizing) {
  let drawn = 0;
  const draw = (until) => {
    const fresh = rows.slice(drawn, until).map((row) => row());
    body.append(...fresh);
    drawn += fresh.length;
  };
  draw(rows.length > LONG ? AT_ONCE : rows.length);
  if (drawn === rows.length) return;
  body.parentElement.setAttribute("aria-rowcount", rows.length + 1); // with the headings
  const unseen = make("tfoot", "unseen");
  unseen.setAttribute("aria-hidden", "true");
  unseen.append(sizing());
  body.after(unseen);
  const done = () => {
    unseen.remove();
    unfilled.delete(scroll);
    scroll.removeAttribute("aria-busy");
  };
  const goOn = (deadline) => {
    if (!unfilled.has(scroll)) return;
    do draw(drawn + 20);
    while (drawn < rows.length && deadline.timeRemaining() > 4);
    if (drawn === rows.length) done();
    else idle(goOn);
  };
  const begin = () => {
    for (const turn of TURNS) scroll.removeEventListener(turn, begin);
    if (!unfilled.has(scroll)) return;
    scroll.setAttribute("aria-busy", "true");
    idle(goOn);
  };
  scroll.whole = () => {
    draw(rows.length);
    done();
  };
  for (const gone of [...unfilled].filter((one) => !one.isConnected)) unfilled.delete(gone);
  unfilled.add(scroll);
  for (const turn of TURNS) scroll.addEventListener(turn, begin);
}

function widest(data) {
  const long = (cell) => (cell.text ?? "").length + (cell.chips ?? []).reduce((sum, item) => sum + item.text.length + 2, 0);
  return data.columns.map((_, place) => data.rows.map((row) => row.cells[place]).reduce((most, cell) => (long(cell) > long(most) ? cell : most)));
}

// Charts: a column or a cell is a link where it leads somewhere.

function mark(item, className, open) {
  const element = item.href ? link(make("a", className), item.href, open) : make("span", className);
  if (item.hint) {
    element.title = item.hint;
    if (item.href) element.setAttribute("aria-label", item.hint);
  }
  if (item.current) element.setAttribute("aria-current", "true");
  return element;
}

// Among many links the Tab key stops at one; the arrow keys lead on from there.
function roam(root, across, what = "a") {
  const links = [...root.querySelectorAll(what)];
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  const first = links.find((one) => one.matches("[aria-current], .peak")) ?? links[0];
  const stopAt = (stop) => {
    for (const one of links) one.tabIndex = one === stop ? 0 : -1;
  };
  stopAt(first);
  root.addEventListener("focusin", (event) => links.includes(event.target) && stopAt(event.target));
  root.addEventListener("keydown", (event) => {
    const next = links[links.indexOf(event.target) + (steps[event.key] ?? 0)];
    if (!steps[event.key] || !next) return;
    event.preventDefault();
    next.focus();
  });
}

function columns(data, open) {
  const whole = group("div", data.groups.length > 16 ? "columns many" : "columns", data.label);
  const ticks = make("div", "ticks");
  const field = make("div", "field");
  const rules = make("div", "rules");
  field.append(rules);
  for (const tick of data.ticks) {
    const number = make("span", "", tick.text);
    number.style.bottom = `${100 * tick.at}%`;
    const rule = make("i", tick.text.match(/[1-9]/) ? "rule" : "rule zero");
    rule.style.bottom = `${100 * tick.at}%`;
    ticks.append(number);
    rules.append(rule);
  }
  const groups = make("div", "groups");
  for (const one of data.groups) {
    const column = mark(one, "group", open);
    const room = make("span", "room");
    one.bars.forEach((bar, place) => {
      const length = make("b", bar.tone);
      length.style.bottom = `${100 * bar.low}%`;
      length.style.height = `${100 * (bar.high - bar.low)}%`;
      length.style.left = `${(100 * place) / one.bars.length}%`;
      length.style.width = `${100 / one.bars.length}%`;
      room.append(length);
    });
    column.append(room, make("span", "under", one.text));
    groups.append(column);
  }
  roam(groups, data.groups.length);
  field.append(groups);
  const plot = make("div", "plot");
  plot.append(ticks, field);
  whole.append(make("div", "unit", data.unit), plot, make("div", "axis", data.axis));
  return whole;
}

function key(scale) {
  const whole = make("div", scale.low ? "key both" : "key");
  if (scale.low) whole.append(make("span", "", scale.low));
  whole.append(make("i"), make("span", "", scale.high), make("span", "what", scale.title));
  return whole;
}

function tinted(element, share) {
  element.style.setProperty("--strength", `${Math.round(100 * STRONGEST * Math.abs(share))}%`);
  if (share < 0) element.classList.add("down");
  return element;
}

function grid(data, open) {
  const whole = make("div", "map");
  const [down, along] = data.axes;
  const worded = data.rows.some((row) => row.cells.some((cell) => cell.text));
  const scroll = make("div", "sheet");
  const cells = group("div", worded ? "cells worded" : "cells", data.label);
  cells.style.setProperty("--across", data.places.length);
  for (const row of data.rows) {
    cells.append(make("span", "side", row.text));
    for (const one of row.cells) {
      const cell = tinted(mark(one, "cell", open), one.share);
      if (one.text) cell.append(make("span", "", one.text));
      cells.append(cell);
    }
  }
  cells.append(make("span", "side corner", down));
  for (const place of data.places) cells.append(make("span", "foot", place));
  roam(cells, data.places.length);
  scroll.append(cells);
  if (!cells.querySelector("a")) scrolling(scroll, `${data.label}, to be scrolled`); // nothing inside takes the focus
  whole.append(key(data.scale), sideways(scroll), scroll, make("div", "axis", along));
  return whole;
}

function coloured(data) {
  const whole = make("div", "coloured");
  const text = group("div", "pieces", data.label);
  for (const piece of data.pieces) {
    const element = tinted(mark(piece, "piece", () => {}), piece.share);
    element.textContent = piece.text;
    text.append(element);
  }
  whole.append(text, key(data.scale));
  return whole;
}

// Texts that activate a neuron, a line each: its figures, then its tokens, coloured. Each line is one stop of the Tab key, and the arrow keys lead along
// its tokens; the one that has the focus, or lies under the pointer, is read out beside the figures, with the way to its own page.
function excerpts(data, open) {
  const whole = make("div", "coloured");
  const list = make("ol", "excerpts");
  list.setAttribute("aria-label", data.label);
  for (const line of data.lines) {
    const item = make("li");
    const about = make("div", "about");
    const reading = make("span", "reading");
    about.append(make("b", "", line.value), make("span", "what", line.about));
    for (const one of line.links ?? []) about.append(chip(one, open));
    about.append(reading);
    const text = group("div", "pieces", line.label);
    const pieces = line.tokens.map((token) => {
      const piece = tinted(make("button", token.peak ? "piece peak" : "piece", token.text), token.share ?? 0);
      piece.type = "button";
      piece.setAttribute("aria-label", token.hint);
      const say = () => reading.replaceChildren(token.href ? link(make("a", "", token.hint), token.href, open) : token.hint);
      for (const kind of ["pointerenter", "focus", "click"]) piece.addEventListener(kind, say);
      return piece;
    });
    if (line.before) text.append("… ");
    text.append(...pieces);
    if (line.after) text.append(" …");
    roam(text, 1, "button");
    item.append(about, text);
    list.append(item);
  }
  whole.append(list, key(data.scale));
  return whole;
}

// What is wider than its room says at which side there is more, and fades there.
function sideways(sheet) {
  const hint = make("div", "hint");
  const look = () => {
    const [left, right] = [sheet.scrollLeft > 2, sheet.scrollLeft + sheet.clientWidth < sheet.scrollWidth - 2];
    sheet.classList.toggle("left", left);
    sheet.classList.toggle("right", right);
    hint.textContent = left && right ? "← more on both sides →" : left ? "← more to the left" : right ? "more to the right →" : "";
  };
  sheet.addEventListener("scroll", look);
  const watching = new ResizeObserver(look);
  for (const one of [sheet, ...sheet.children]) watching.observe(one);
  return hint;
}

// A grid wider than its room begins with what is chosen, else with its end: late layers and the explained position.
function reveal(fresh) {
  const sheet = fresh.querySelector(".sheet");
  if (!sheet) return;
  const chosen = sheet.querySelector("[aria-current]");
  const middle = () => chosen.getBoundingClientRect().left - sheet.getBoundingClientRect().left + sheet.scrollLeft - sheet.clientWidth / 2;
  const show = () => (sheet.scrollLeft = chosen ? middle() : sheet.scrollWidth);
  requestAnimationFrame(show);
}

// To another page as the browser's own back button would go there: one entry in the history. Switching pages from Python makes
// two, of which the first is this page with the other's parameters.
function toOtherPage(href) {
  const target = new URL(href, window.location.href);
  if (target.pathname === window.location.pathname) return false;
  remember();
  window.history.pushState({}, "", target);
  window.dispatchEvent(new PopStateEvent("popstate", { state: {} }));
  return true;
}

// Streamlit's navigation leads to each page's beginning. Here it leads back to where the page was left, as long as the model and the build are
// the same; with others, to its beginning with those. The entry of the page that is shown begins it anew.
const NAVIGATION = "[data-testid=stTopNavLink], [data-testid=stTopNavDropdownLink], [data-testid=stSidebarNavLink]";
const left = new Map();

function shared() {
  const all = new URLSearchParams(window.location.search);
  const same = ["model", "b"].filter((name) => all.has(name)).map((name) => [name, all.get(name)]);
  return same.length ? `?${new URLSearchParams(same)}` : "";
}

const remember = () => left.set(window.location.pathname + shared(), window.location.search);

function entryOf(event) {
  const entry = event.target.closest?.(NAVIGATION);
  if (!entry || entry.target === "_blank" || entry.pathname === window.location.pathname) return null;
  entry.search = left.get(entry.pathname + shared()) ?? shared(); // for a new tab, too
  return entry;
}

for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, entryOf, true);
document.addEventListener("click", (event) => {
  const entry = entryOf(event);
  if (!entry || !entry.search || !isPlain(event)) return;
  event.preventDefault();
  event.stopPropagation();
  toOtherPage(entry.href);
  document.querySelector("[data-testid=stSidebarCollapseButton] button")?.click(); // on a phone it lies over the page
}, true);

const VIEWS = { chips, bars, table, columns, grid, coloured, excerpts, trail, flow, cloud, promptBox, tokenField, copyLink };

// One style sheet for all views: the browser reads it once.
const sheet = new CSSStyleSheet();
sheet.replaceSync(STYLE);

// What comes while something is pressed is drawn once that is let go: a click on what was replaced meanwhile would be lost.
const held = new Map();
const AFTER = 50; // milliseconds within which the click follows, on a touch screen too
let pressed = false;
let soon;

function letGo() {
  pressed = false;
  for (const draw of held.values()) draw();
  held.clear();
}

function press(event) {
  if (!event.isPrimary || event.button) return;
  clearTimeout(soon);
  pressed = true;
}

document.addEventListener("pointerdown", press, true);
for (const kind of ["pointerup", "pointercancel"]) document.addEventListener(kind, () => (soon = setTimeout(letGo, AFTER)), true);
window.addEventListener("blur", letGo);

// The focus goes over to what stands for the same in the new view: in the row of the same name, else what is called the same, else what is at
// the same place.
function focusedIn(view) {
  const at = view.getRootNode().activeElement;
  if (!at || !view.contains(at)) return () => {};
  const nameOf = (one) => one?.getAttribute("aria-label") ?? one?.textContent;
  const keyOf = (one) => [one.closest("tr")?.querySelector("td.name"), one].map(nameOf).join("\n");
  const all = (one) => [...one.querySelectorAll(":is(a, button, [tabindex]):not(.unseen *)")];
  const [key, place] = [keyOf(at), all(view).indexOf(at)];
  return (fresh) => {
    let found = all(fresh).find((one) => keyOf(one) === key);
    if (!found) {
      fresh.querySelector(".scroll")?.whole?.();
      found = all(fresh).find((one) => keyOf(one) === key) ?? all(fresh)[place];
    }
    found?.focus({ preventScroll: true });
  };
}

export default function (given) {
  remember();
  if (pressed) held.set(given.parentElement, () => given.parentElement.isConnected && show(given));
  else show(given);
}

function show({ data, parentElement, setTriggerValue, setStateValue }) {
  if (!parentElement.adoptedStyleSheets.includes(sheet)) parentElement.adoptedStyleSheets = [sheet];
  const kept = parentElement.querySelector(".atlas")?.firstChild;
  if (kept?.renew) {
    Object.assign(kept.api, { setTriggerValue, setStateValue });
    kept.renew(data);
    return;
  }
  const open = (href) => href && (toOtherPage(href) || setTriggerValue("opened", href));
  const fresh = make("div", `atlas ${data.view === "chips" ? "chips" : ""}`);
  const focus = data.focus ?? "";
  fresh.dataset.focus = focus;
  const api = { setTriggerValue, setStateValue };
  const drawn = VIEWS[data.view](data, open, api);
  drawn.api = api;
  fresh.append(drawn);
  const old = parentElement.querySelector(".atlas");
  if (focus && old?.dataset.focus !== focus) {
    // What was asked for by a click far above is brought into view, once.
    setTimeout(() => (parentElement.host ?? parentElement).scrollIntoView({ block: "start", behavior: "smooth" }), 150);
  }
  if (!old) {
    parentElement.append(fresh);
    reveal(fresh);
    return;
  }
  const before = old.querySelector(".scroll, .sheet");
  const [left, top] = [before?.scrollLeft ?? 0, before?.scrollTop ?? 0];
  fresh.dataset.again = "true";
  const focusAgain = focusedIn(old);
  old.replaceWith(fresh);
  const scroll = fresh.querySelector(".scroll, .sheet");
  if (top) scroll?.whole?.();
  if (scroll) [scroll.scrollLeft, scroll.scrollTop] = [left, top];
  focusAgain(fresh);
}
