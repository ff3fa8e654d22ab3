// A map of neurons: tens of thousands of points on a canvas, to drag, zoom, point at and open. Points are drawn colour by colour; a grid of cells
// finds the one that is pointed at.

const RAMP = [[68, 62, 140], [52, 107, 148], [38, 146, 140], [106, 182, 86], [232, 196, 46]]; // low to high, told apart by brightness too
const NONE = 255; // the shade of points that have no value
const REACH = 9; // pixels from a point within which it is meant
const CELLS = 64;
const MOST_ZOOM = 60;
const VIEWED = {}; // how each map was left, also where it is drawn anew

function unpack(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);
}

function shadeOf(value, kinds) {
  if (value === NONE) return "#8a8f9860";
  if (kinds) return `hsl(${(value * 137.5) % 360} 55% 52%)`; // of groups: neighbours in number lie far apart
  const at = (value / (NONE - 1)) * (RAMP.length - 1);
  const [low, high] = [RAMP[Math.floor(at)], RAMP[Math.ceil(at)]];
  return `rgb(${low.map((one, place) => Math.round(one + (high[place] - one) * (at % 1))).join(" ")})`;
}

// Which points lie in each cell of the map, one after the other.
function inCells(x, y) {
  const cell = (place) => (x[place] >> 10) * CELLS + (y[place] >> 10);
  const starts = new Uint32Array(CELLS * CELLS + 1);
  for (let place = 0; place < x.length; place += 1) starts[cell(place) + 1] += 1;
  for (let one = 0; one < CELLS * CELLS; one += 1) starts[one + 1] += starts[one];
  const [next, order] = [starts.slice(), new Uint32Array(x.length)];
  for (let place = 0; place < x.length; place += 1) order[next[cell(place)]++] = place;
  return { starts, order };
}

function cloud(data, open) {
  const [x, y, shade, chosen] = [unpack(data.x, Uint16Array), unpack(data.y, Uint16Array), unpack(data.shade, Uint8Array), unpack(data.chosen, Uint8Array)];
  const names = data.names.split("\n");
  const byShade = new Uint32Array(x.length).map((_, place) => place).sort((one, other) => shade[one] - shade[other] || one - other);
  const cells = inCells(x, y);
  const some = chosen.some((one) => one);
  const whole = make("div", "cloud");
  const canvas = make("canvas");
  const hint = make("div", "told");
  const view = VIEWED[data.map] ??= { zoom: 1, left: 0, top: 0 }; // in shares of the map
  const context = canvas.getContext("2d");
  let [size, pointed, asked] = [0, -1, 0];
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", data.label);

  const across = (place) => (x[place] / 65535 - view.left) * view.zoom * size;
  const down = (place) => (y[place] / 65535 - view.top) * view.zoom * size;

  function points(strong, radius) {
    let last = -1;
    for (const place of byShade) {
      if (some && Boolean(chosen[place]) !== strong) continue;
      const [left, top] = [across(place), down(place)];
      if (left < -4 || top < -4 || left > size + 4 || top > size + 4) continue;
      if (shade[place] !== last) context.fillStyle = shadeOf((last = shade[place]), data.kinds);
      context.fillRect(left - radius, top - radius, 2 * radius, 2 * radius);
    }
  }

  function draw() {
    asked = 0;
    const sharp = window.devicePixelRatio || 1;
    context.setTransform(sharp, 0, 0, sharp, 0, 0);
    context.clearRect(0, 0, size, size);
    const radius = Math.min(4, (x.length > 20000 ? 0.7 : 1.3) * Math.sqrt(view.zoom));
    context.globalAlpha = some ? 0.18 : 0.85;
    points(false, radius);
    context.globalAlpha = 1;
    if (some) points(true, radius + 1);
    if (pointed < 0) return;
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(across(pointed), down(pointed), radius + 4, 0, 7);
    context.stroke();
  }

  const redraw = () => (asked ||= requestAnimationFrame(draw));

  function nearest(left, top) {
    const [reach, mapX, mapY] = [REACH / size / view.zoom, left / size / view.zoom + view.left, top / size / view.zoom + view.top];
    const span = (at) => [Math.max(0, Math.floor((at - reach) * CELLS)), Math.min(CELLS - 1, Math.floor((at + reach) * CELLS))];
    let [best, found] = [REACH ** 2, -1];
    for (let column = span(mapX)[0]; column <= span(mapX)[1]; column += 1) {
      for (let row = span(mapY)[0]; row <= span(mapY)[1]; row += 1) {
        const cell = column * CELLS + row;
        for (let at = cells.starts[cell]; at < cells.starts[cell + 1]; at += 1) {
          const place = cells.order[at];
          const far = (across(place) - left) ** 2 + (down(place) - top) ** 2 + (some && !chosen[place] ? REACH : 0);
          if (far < best) [best, found] = [far, place];
        }
      }
    }
    return found;
  }

  function tell(place) {
    if (place === pointed) return;
    pointed = place;
    hint.textContent = place < 0 ? data.told : names[place];
    canvas.style.cursor = place < 0 ? "grab" : "pointer";
    redraw();
  }

  function move(zoom, left, top) {
    view.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
    const most = 1 - 1 / view.zoom;
    [view.left, view.top] = [Math.min(most, Math.max(0, left)), Math.min(most, Math.max(0, top))];
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    redraw();
  }

  function zoomBy(factor, left = size / 2, top = size / 2) {
    const [before, zoom] = [view.zoom, Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor))];
    const shift = (1 / before - 1 / zoom) / size;
    move(zoom, view.left + left * shift, view.top + top * shift);
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, left: view.left, top: view.top, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return tell(nearest(event.offsetX, event.offsetY));
    const [byX, byY] = [event.offsetX - drag.x, event.offsetY - drag.y];
    drag.moved ||= Math.hypot(byX, byY) > 4;
    if (drag.moved) move(view.zoom, drag.left - byX / size / view.zoom, drag.top - byY / size / view.zoom);
  });
  canvas.addEventListener("pointerup", (event) => {
    const place = drag && !drag.moved ? nearest(event.offsetX, event.offsetY) : -1;
    drag = null;
    if (place >= 0) open(data.href.replace(data.stands, names[place].split(" ")[0]));
  });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", () => tell(-1));
  canvas.addEventListener("wheel", (event) => {
    if (canvas.getRootNode().activeElement !== canvas && !event.ctrlKey) return; // the page scrolls on over it
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
  }, { passive: false });
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (step) move(view.zoom, view.left + (0.15 * step[0]) / view.zoom, view.top + (0.15 * step[1]) / view.zoom);
    else if ("+-0".includes(event.key)) zoomBy({ "+": 1.5, "-": 1 / 1.5, 0: 1 / MOST_ZOOM }[event.key]);
    else return;
    event.preventDefault();
  });

  const buttons = group("div", "steps", "zoom");
  for (const [text, name, factor] of [["+", "nearer", 1.5], ["−", "farther", 1 / 1.5], ["all", "the whole map", 1 / MOST_ZOOM]]) {
    const button = make("button", "", text);
    button.type = "button";
    button.title = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => zoomBy(factor));
    buttons.append(button);
  }
  const watching = new ResizeObserver(() => {
    if (!canvas.clientWidth || canvas.clientWidth === size) return;
    size = canvas.clientWidth;
    canvas.width = canvas.height = Math.round(size * (window.devicePixelRatio || 1));
    draw();
  });
  watching.observe(canvas);
  hint.textContent = data.told;
  const frame = make("div", "frame");
  frame.append(canvas, buttons);
  whole.append(frame, hint);
  if (data.scale) {
    const legend = make("div", "key");
    const band = make("i");
    band.style.background = `linear-gradient(to right, ${RAMP.map((one) => `rgb(${one.join(" ")})`).join(", ")})`;
    legend.append(make("span", "", data.scale.low), band, make("span", "", data.scale.high), make("span", "what", data.scale.title));
    whole.append(legend);
  }
  return whole;
}
