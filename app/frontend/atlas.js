// Draws chips, prediction bars and neuron tables. Every text is set as text. Whatever can be clicked is a link: a plain click
// is told to Python, which keeps the session; a click with a modifier, or without scripts, opens the same address anew.

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function link(element, href, open) {
  element.href = href;
  element.addEventListener("click", (event) => {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    open(href);
  });
  return element;
}

function chip(item, open) {
  const names = ["chip", item.tone, item.faint && "faint", item.current && "current"].filter(Boolean).join(" ");
  const element = item.href ? link(make("a", names), item.href, open) : make("span", names);
  element.append(make("span", "", item.text));
  if (item.hint) element.title = item.hint;
  if (item.current) element.setAttribute("aria-current", "true");
  if (item.removes) {
    element.append(make("span", "cross", "✕"));
    element.setAttribute("aria-label", `remove ${item.text}`);
  }
  return element;
}

function chips(data, open) {
  const line = make("div", "chips");
  line.setAttribute("role", "group");
  line.setAttribute("aria-label", data.label);
  for (const item of data.items) line.append(chip(item, open));
  return line;
}

function bars(data, open) {
  const list = make("div", "bars");
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", data.label);
  for (const item of data.items) {
    const { href, ...plain } = item.chip;
    const row = link(make("a", plain.current ? "current" : ""), href, open);
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
  const length = make("i", cell.share < 0 ? "down" : "up");
  length.style.width = `${(bothWays ? 50 : 100) * Math.min(1, Math.abs(cell.share))}%`;
  track.append(length);
  whole.append(make("b", "", cell.text), track);
  return whole;
}

function mark(tone) {
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
  } else if (column.role === "bar") {
    element.append(balance(cell, bothWays));
  } else if (cell.chips.length) {
    const line = make("span", "line");
    if (cell.tone) line.append(mark(cell.tone));
    if (cell.text) line.append(make("span", "place", cell.text));
    for (const item of cell.chips) line.append(chip(item, open));
    element.append(line);
  } else {
    element.append(make("span", "", cell.text));
  }
  return element;
}

function table(data, open) {
  const scroll = make("div", "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", data.label);
  const whole = make("table");
  const head = make("tr");
  for (const column of data.columns) {
    const title = make("th", column.role, column.title);
    title.scope = "col";
    if (column.hint) title.title = column.hint;
    head.append(title);
  }
  const body = make("tbody");
  const bothWays = data.rows.some((row) => row.cells.some((cell) => cell.share < 0));
  for (const row of data.rows) {
    const line = make("tr");
    row.cells.forEach((cell, place) => line.append(cellOf(data.columns[place], cell, row.href, bothWays, open)));
    body.append(line);
  }
  const top = make("thead");
  top.append(head);
  whole.append(top, body);
  scroll.append(whole);
  return scroll;
}

const VIEWS = { chips, bars, table };

export default function ({ data, parentElement, setTriggerValue }) {
  const open = (href) => setTriggerValue("opened", href);
  const fresh = make("div", "atlas");
  fresh.append(VIEWS[data.view](data, open));
  const old = parentElement.querySelector(".atlas");
  if (!old) {
    parentElement.append(fresh);
    return;
  }
  const place = old.querySelector(".scroll")?.scrollTop ?? 0;
  old.replaceWith(fresh);
  const scroll = fresh.querySelector(".scroll");
  if (scroll) scroll.scrollTop = place;
}
