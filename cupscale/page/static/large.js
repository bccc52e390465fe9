const find = (name) => element.querySelector(name);
const stage = find(".cu-deep"), tiles = find(".cu-tiles"), STEP = 1.5;
let middle = [0.5, 0.5], zoom = 1; // as shares of the picture; 1: all of it is in sight
let showInput = false, drag = null, shown = new Map();

const value = () => props.value || {};
const whole = () => value().levels[value().levels.length - 1];
const density = () => window.devicePixelRatio || 1;
const trueZoom = () => whole()[0] / density() / (stage.clientWidth || 1);
const clamp = (number, low, high) => Math.min(high, Math.max(low, number));

// The smallest level that has a pixel for each of the screen's.
function level() {
  const wanted = stage.clientWidth * zoom * density();
  const found = value().levels.findIndex(([width]) => width >= wanted * 0.99);
  return found < 0 ? value().levels.length - 1 : found;
}

function put(key, src, left, top, width, height, keep) {
  let image = shown.get(key);
  if (!image) {
    image = document.createElement("img");
    image.alt = "";
    image.draggable = false;
    image.src = src;
    tiles.append(image);
    shown.set(key, image);
  }
  image.style.cssText = `left:${left}px;top:${top}px;width:${width}px;height:${height}px`;
  keep.add(key);
}

// The tiles in sight of the present level, over the coarsest level, which is there at once.
function draw() {
  if (!value().levels || !stage.clientWidth) return;
  const room = 0.5 / zoom, keep = new Set(), [wide, high] = [stage.clientWidth * zoom, stage.clientHeight * zoom];
  middle = middle.map((share) => clamp(share, room, 1 - room));
  const [x, y] = [stage.clientWidth / 2 - middle[0] * wide, stage.clientHeight / 2 - middle[1] * high];
  if (showInput) put("input", value().input.url, x, y, wide, high, keep);
  for (const at of showInput ? [] : new Set([0, level()])) {
    const [width, height] = value().levels[at], side = value().tile, [sx, sy] = [wide / width, high / height];
    for (let top = 0; top < height; top += side) {
      for (let left = 0; left < width; left += side) {
        const box = [x + left * sx, y + top * sy, Math.min(side, width - left) * sx, Math.min(side, height - top) * sy];
        const inSight = box[0] < stage.clientWidth && box[1] < stage.clientHeight && box[0] + box[2] > 0 && box[1] + box[3] > 0;
        const name = `${at}-${left / side}-${top / side}`;
        if (inSight) put(name, `${value().tiles}${name}.webp`, ...box, keep);
      }
    }
  }
  for (const [key, image] of shown) {
    if (!keep.has(key)) {
      image.remove();
      shown.delete(key);
    }
  }
  find(".cu-scale").textContent = `${Math.round(zoom / trueZoom() * 100)}%`;
  say(middle);
}

// The caption of the region whose middle is nearest to a place.
function say([x, y]) {
  const [width, height] = whole(), place = find(".cu-place");
  const far = ([left, top, right, bottom]) => Math.hypot((left + right) / 2 - x * width, (top + bottom) / 2 - y * height);
  const nearest = value().captions.reduce((best, one) => (far(one[0]) < far(best[0]) ? one : best));
  const text = `Caption here: ${nearest[1]}`;
  if (place.textContent !== text) place.textContent = text;
}

function shares(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function zoomTo(wanted, point = [0.5, 0.5]) {
  const next = clamp(wanted, 1, Math.max(1, trueZoom() * 4));
  middle = middle.map((share, k) => share + (point[k] - 0.5) * (1 / zoom - 1 / next));
  zoom = next;
  draw();
}

function pan(x, y) {
  middle = [middle[0] + x / zoom, middle[1] + y / zoom];
  draw();
}

stage.addEventListener("wheel", (event) => {
  if (event.deltaY > 0 && zoom <= 1) return; // the page scrolls on
  event.preventDefault();
  zoomTo(zoom * Math.exp(-clamp(event.deltaY * 0.002, -0.7, 0.7)), shares(event));
}, { passive: false });
stage.addEventListener("pointerdown", (event) => {
  drag = [event.clientX, event.clientY];
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  if (drag) {
    pan((drag[0] - event.clientX) / stage.clientWidth, (drag[1] - event.clientY) / stage.clientHeight);
    drag = [event.clientX, event.clientY];
  }
  const point = shares(event);
  say(middle.map((share, k) => share + (point[k] - 0.5) / zoom));
});
for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, () => { drag = null; });
stage.addEventListener("dblclick", (event) => zoomTo(zoom > 1 ? 1 : trueZoom(), shares(event)));

const KEYS = {
  "+": () => zoomTo(zoom * STEP), "=": () => zoomTo(zoom * STEP), "-": () => zoomTo(zoom / STEP), 0: () => zoomTo(1), 1: () => zoomTo(trueZoom()),
  ArrowLeft: () => pan(-0.1, 0), ArrowRight: () => pan(0.1, 0), ArrowUp: () => pan(0, -0.1), ArrowDown: () => pan(0, 0.1),
};
stage.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

const BUTTONS = {
  in: () => zoomTo(zoom * STEP), out: () => zoomTo(zoom / STEP), fit: () => zoomTo(1), true: () => zoomTo(trueZoom()),
  input: (button) => {
    showInput = !showInput;
    button.setAttribute("aria-pressed", String(showInput));
    draw();
  },
};
element.addEventListener("click", (event) => {
  const tool = event.target.closest(".cu-tool");
  if (tool) BUTTONS[tool.dataset.do](tool);
});

function show() {
  if (!value().levels) return;
  const [width, height] = whole();
  stage.style.aspectRatio = `${width} / ${height}`;
  stage.style.maxWidth = `${80 * width / height}vh`;
  find(".cu-note").textContent = value().note;
  draw();
}

new ResizeObserver(draw).observe(stage);
watch("value", show);
show();
