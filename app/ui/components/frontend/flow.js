// The flow picture: positions from left to right, layers upwards; an arc is a head that moved information from a position to the analysed one.

const SVG = "http://www.w3.org/2000/svg";
const LANE = 9; // pixels between two heads that move from the same place
const ROW = 17; // pixels a layer
const MARKS = 74; // room to the right of the analysed position for its FFN bars
const PLACE = { least: 42, most: 150 };

function shape(name, attributes, className) {
  const element = document.createElementNS(SVG, name);
  if (className) element.setAttribute("class", className);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// A mark that leads somewhere: a link with a hint for pointer and reader, and a wider invisible line under it for the finger.
function leading(item, className, open) {
  const element = shape("a", { href: item.href, "aria-label": item.hint }, className);
  if (item.current) element.setAttribute("aria-current", "true");
  const title = shape("title", {});
  title.textContent = item.hint;
  element.append(title);
  return onPlainClick(element, item.href, open);
}

function arcPath(x, y, to, lane) {
  if (to - x < 1) {
    const out = x - 16 - 1.2 * LANE * lane;
    return `M${x},${y} C${out},${y - 1} ${out},${y - ROW + 1} ${x},${y - ROW}`;
  }
  const rise = (lane % 2 ? 1 : -1) * Math.ceil(lane / 2) * LANE * 0.6;
  const reach = (to - x) * 0.35;
  return `M${x},${y} C${x + reach},${y + rise - 2} ${to - reach},${y - ROW + rise + 2} ${to},${y - ROW}`;
}

function drawFlow(data, open, room) {
  const places = data.places.length;
  const wide = Math.min(PLACE.most, Math.max(PLACE.least, Math.floor((room - MARKS - 44) / places)));
  const [across, high] = [places * wide + MARKS, data.layers * ROW + ROW];
  const picture = shape("svg", { width: across, height: high, viewBox: `0 0 ${across} ${high}`, role: "group", "aria-label": data.label });
  const x = (place) => (place + 0.5) * wide;
  const y = (layer) => high - ROW / 2 - layer * ROW;
  const here = x(places - 1);
  for (let layer = 0; layer < data.layers; layer += 5) {
    picture.append(shape("line", { x1: 0, x2: across, y1: y(layer), y2: y(layer) }, "level"));
  }
  for (let place = 0; place < places; place += 1) {
    const last = place === places - 1;
    const line = { x1: x(place), x2: x(place), y1: y(0), y2: y(data.layers) };
    picture.append(
      shape("line", line, last ? "stream here" : "stream"),
      shape("line", { ...line, "stroke-dasharray": `0 ${ROW}` }, "points"), // a dash of no length, at every layer
    );
  }
  const arcs = shape("g", {});
  for (const move of data.moves) {
    const element = leading(move, `move ${move.tone}`, open);
    const path = arcPath(x(move.position), y(move.layer), here, move.lane);
    element.append(
      shape("path", { d: path }, "touch"),
      shape("path", { d: path, "stroke-width": move.width, "stroke-opacity": move.strength }, "line"),
      shape("circle", { cx: x(move.position), cy: y(move.layer), r: 2 + move.width / 4 }, "node"),
    );
    arcs.append(element);
  }
  const bars = shape("g", {});
  for (const mark of data.marks) {
    const element = leading(mark, `mark ${mark.tone}`, open);
    const [top, left] = [y(mark.layer) - ROW + 1, here + 5];
    element.append(
      shape("rect", { x: left, y: top, width: MARKS - 8, height: ROW - 2 }, "touch"),
      shape("rect", { x: left, y: top + 4, width: Math.max(1, mark.share * (MARKS - 10)), height: ROW - 10, rx: 2 }, "bar"),
    );
    bars.append(element);
  }
  picture.append(bars, arcs);
  roam(picture, 1);
  return picture;
}

function flow(data, open) {
  const whole = make("div", "flow");
  const sheet = make("div", "sheet");
  const feet = make("div", "feet");
  const floors = make("div", "floors");
  const drawn = make("div");
  floors.style.height = `${data.layers * ROW + ROW}px`;
  for (let layer = 0; layer < data.layers; layer += 5) {
    const name = make("span", "", String(layer));
    name.style.bottom = `${ROW / 2 + layer * ROW}px`;
    floors.append(name);
  }
  const top = make("span", "", "out");
  top.style.bottom = `${ROW / 2 + data.layers * ROW}px`;
  if (data.layers % 5 > 1 || data.layers < 5) floors.append(top);
  const draw = (room) => {
    const picture = drawFlow(data, open, room);
    drawn.replaceChildren(picture);
    const wide = (Number(picture.getAttribute("width")) - MARKS) / data.places.length;
    feet.style.width = picture.getAttribute("width") + "px";
    feet.replaceChildren(
      ...data.places.map((place) => {
        const foot = make("span", place.chosen ? "chosen" : "", place.text);
        foot.style.width = `${wide}px`;
        foot.title = place.hint;
        return foot;
      }),
      make("span", "ffn", "FFN"),
    );
  };
  draw(640);
  sheet.append(drawn, feet);
  const plain = make("div", "stage");
  plain.append(floors, sheet);
  whole.append(sideways(sheet), plain, make("div", "axis", data.axis));
  // Drawn anew where the room is another than thought; what is focused is left alone.
  let known = 0;
  const watching = new ResizeObserver(() => {
    if (!whole.isConnected || sheet.clientWidth === known || sheet.contains(whole.getRootNode().activeElement)) return;
    known = sheet.clientWidth;
    draw(known + 44);
    if (!whole.parentElement.dataset.again) reveal(whole);
  });
  watching.observe(whole);
  return whole;
}
