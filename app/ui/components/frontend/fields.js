// Fields that tell what is typed while it is typed: Streamlit's own wait for Enter. A field that stands already is never replaced, so that focus
// and caret stay where they are; it is only told what is new (`renew`).

const LONGEST = 600; // characters of an address that are worth reading; see app/state/address.py
const PAUSE = 280; // milliseconds without a key before what was typed is told

function later(tell) {
  let timer = 0;
  return { soon: (...what) => { clearTimeout(timer); timer = setTimeout(() => tell(...what), PAUSE); }, never: () => clearTimeout(timer) };
}

function promptBox(data, open, api) {
  const form = make("form", "promptbox");
  const box = make("textarea");
  const button = make("button", "primary", data.button);
  button.type = "submit";
  Object.assign(box, { rows: data.rows ?? 2, placeholder: data.placeholder, spellcheck: false, value: data.value });
  box.setAttribute("aria-label", data.label);
  box.setAttribute("enterkeyhint", "go");
  if (data.rows) box.style.minHeight = 0;
  const grow = () => {
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + 2}px`;
  };
  let origin = data.value; // the text that the page explains
  const typing = later(() => api.setStateValue("typed", { text: box.value, origin }));
  box.addEventListener("input", () => { grow(); if (!data.quiet) typing.soon(); });
  const send = () => {
    typing.never();
    if (data.leads && !box.value) return undefined;
    if (!data.leads) return api.setTriggerValue("sent", box.value);
    const address = new URL(data.leads.href, window.location.href);
    address.searchParams.set(data.leads.parameter, box.value);
    // What is long is packed by the server, so that the address can be passed on.
    return address.search.length <= LONGEST && toOtherPage(address.href) ? undefined : api.setTriggerValue("sent", box.value);
  };
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  form.append(box, button);
  new ResizeObserver(grow).observe(form);
  form.renew = (fresh) => {
    if (fresh.value === origin) return; // the page still explains the same: what is being typed stays
    typing.never();
    origin = fresh.value;
    if (box.value !== fresh.value) box.value = fresh.value;
    grow();
  };
  return form;
}

// Streamlit's boxes send their form with Ctrl+Enter, once something was typed. Those of Compare do as the prompt's box: Enter sends, Shift+Enter
// begins a new line.
document.addEventListener("keydown", (event) => {
  const box = event.target;
  if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing || box.tagName !== "TEXTAREA") return;
  const form = box.closest("[class*=st-key-compare_]") && box.closest("[data-testid=stForm]");
  if (!form) return;
  event.preventDefault();
  event.stopPropagation();
  const sends = { key: "Enter", ctrlKey: true, bubbles: true, cancelable: true };
  if (box.dispatchEvent(new KeyboardEvent("keydown", sends))) form.querySelector("[data-testid=stFormSubmitButton] button").click();
}, true);

// One token: typed, or chosen from those that begin so. The pattern is WAI-ARIA's combobox with a list.
let boxes = 0;
function tokenField(data, open, api) {
  const whole = make("div", "tokenfield");
  const field = make("input");
  const list = make("div", "options");
  const id = `atlas-options-${(boxes += 1)}`;
  const name = make("label", "", data.label);
  Object.assign(field, { type: "text", placeholder: data.placeholder, autocomplete: "off", spellcheck: false, id: `${id}-field` });
  name.htmlFor = field.id;
  list.id = id;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "tokens that begin so");
  for (const [key, value] of [["role", "combobox"], ["aria-controls", id], ["aria-autocomplete", "list"], ["aria-expanded", "false"]]) {
    field.setAttribute(key, value);
  }
  let options = [];
  let chosen = -1;
  const show = () => {
    const rows = options.map((option, place) => {
      const row = make("div", place === chosen ? "option chosen" : "option");
      row.id = `${id}-${place}`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", String(place === chosen));
      row.append(chip({ text: option.text, hint: option.hint }, open), make("small", "", option.note));
      row.addEventListener("mousedown", (event) => { event.preventDefault(); pick(place); });
      return row;
    });
    list.replaceChildren(...rows);
    list.hidden = !rows.length;
    field.setAttribute("aria-expanded", String(rows.length > 0));
    if (chosen >= 0) field.setAttribute("aria-activedescendant", `${id}-${chosen}`);
    else field.removeAttribute("aria-activedescendant");
  };
  const close = () => { options = []; chosen = -1; show(); };
  const typing = later(() => api.setStateValue("typed", { text: field.value, origin: data.origin }));
  const tell = (what) => {
    typing.never();
    close();
    field.value = "";
    api.setTriggerValue("sent", what);
  };
  const pick = (place) => tell(String(options[place].id));
  field.addEventListener("input", () => { if (!field.value) close(); typing.soon(); });
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && options.length) {
      event.preventDefault();
      chosen = (chosen + step + options.length + (chosen < 0 && step < 0 ? 1 : 0)) % options.length;
      show();
    } else if (event.key === "Escape") close();
    else if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      if (chosen >= 0) pick(chosen);
      else if (field.value) tell(`=${field.value}`);
    }
  });
  whole.append(name, field, list);
  whole.renew = (fresh) => {
    data = fresh;
    if (fresh.asked !== field.value || whole.getRootNode().activeElement !== field) return; // an answer to something typed before
    options = fresh.asked ? fresh.options : [];
    chosen = -1;
    show();
  };
  show();
  return whole;
}

// The clipboard of browsers is open to https and localhost only; elsewhere the old command, and where that fails too the address to copy by hand.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = make("textarea");
    box.value = text;
    box.style.cssText = "position:fixed;top:0;opacity:0";
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  }
}

function copyLink(data) {
  const whole = make("span", "copylink");
  const button = make("button", "", data.label);
  const said = make("span", "said");
  button.type = "button";
  said.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    const address = new URL(window.location.href);
    for (const [name, value] of Object.entries(data.params)) address.searchParams.set(name, value);
    if (await copied(address.href)) {
      said.textContent = "Copied";
      setTimeout(() => (said.textContent = ""), 2500);
      return;
    }
    const field = make("input");
    Object.assign(field, { readOnly: true, value: address.href });
    field.setAttribute("aria-label", "the address of this view");
    said.replaceChildren(field);
    field.focus();
    field.select();
  });
  whole.append(button, said);
  whole.renew = (fresh) => { data = fresh; };
  return whole;
}
