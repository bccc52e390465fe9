const find = (name) => element.querySelector(name);
const view = find(".cu-view"), stage = find(".cu-stage"), range = find(".cu-range"), lens = find(".cu-lens");
const before = find(".cu-before"), after = find(".cu-after");
const STEP = 1.25, HANDLE_PX = 28, SCROLL_MS = 300;
let size = [0, 0];  // of the result, in its own pixels
let zoom = 1, middle = [0.5, 0.5]; // of what is in sight, as shares of the picture
let at = [0.5, 0.5], power = 0; // the lens' centre, as shares of the picture, and how far it magnifies; 0 for off
let moved = false; // the divider, by a person, during a run
let laid = false; // the stage, for the first time
let own = []; // addresses of blobs, to be given back

const both = () => view.dataset.state === "pair" || (view.dataset.state === "preview" && view.dataset.both === "true");
const trueZoom = () => size[0] / (window.devicePixelRatio || 1) / (stage.clientWidth || 1);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function slide() {
  stage.style.setProperty("--cut", range.value + "%");
}

function place() {
  const room = 0.5 / zoom;
  middle = middle.map((share) => clamp(share, room, 1 - room));
  const [x, y] = middle.map((share) => (0.5 - share * zoom) * 100);
  for (const image of [before, after]) {
    image.style.transform = zoom === 1 ? "" : `translate(${x}%, ${y}%) scale(${zoom})`;
    image.style.imageRendering = zoom >= 2 * trueZoom() ? "pixelated" : "";
  }
  view.dataset.zoomed = String(zoom > 1);
  const shown = find(".cu-scale"), percent = size[0] ? `${Math.round(zoom / trueZoom() * 100)}%` : "";
  if (shown.textContent !== percent) shown.textContent = percent;
  magnify();
}

// Keeps the point of the picture that lies at `point`, in shares of the stage.
function zoomTo(wanted, point = [0.5, 0.5]) {
  const next = clamp(wanted, 1, Math.max(8, trueZoom() * 8));
  middle = middle.map((share, k) => share + (point[k] - 0.5) * (1 / zoom - 1 / next));
  zoom = next;
  place();
}

function pan(dx, dy) {
  middle = [middle[0] + dx / zoom, middle[1] + dy / zoom];
  place();
}

function magnify() {
  if (lens.hidden) return;
  const box = stage.getBoundingClientRect(), ratio = (window.devicePixelRatio || 1) / power;
  const [width, height] = size.map((side) => side / ratio);
  [before, after].forEach((image, k) => {
    const pane = lens.children[k], side = pane.clientWidth;
    pane.style.backgroundImage = image.src ? `url("${image.src.replace(/"/g, "%22")}")` : "none";
    pane.style.backgroundSize = `${width}px ${height}px`;
    pane.style.backgroundPosition = `${side / 2 - at[0] * width}px ${pane.clientHeight / 2 - at[1] * height}px`;
  });
  const [x, y] = at.map((share, k) => 0.5 + (share - middle[k]) * zoom);
  const left = Math.min(Math.max(x * box.width - lens.offsetWidth / 2, 0), box.width - lens.offsetWidth);
  const above = y * box.height - lens.offsetHeight - 18;
  lens.style.left = Math.max(left, 0) + "px";
  lens.style.top = (above < 0 ? Math.min(y * box.height + 18, box.height - lens.offsetHeight) : above) + "px";
}

function setLens(times) {
  power = times;
  lens.hidden = !times;
  lens.setAttribute("aria-label", `Lens: before and after, ${times === 2 ? "each pixel as two" : "at one pixel to one pixel"}`);
  find('[data-do="lens"]').setAttribute("aria-pressed", String(times === 1));
  find('[data-do="lens2"]').setAttribute("aria-pressed", String(times === 2));
  magnify();
}

// What is shown

function source(image, url, text) {
  if (url && image.getAttribute("src") !== url) image.src = url;
  if (!url) image.removeAttribute("src");
  image.alt = url ? text : "";
}

function address(blob) {
  if (!blob) return null;
  own.push(URL.createObjectURL(blob));
  return own[own.length - 1];
}

function lay(width, height) {
  size = [width, height];
  stage.style.setProperty("--shape", `${width} / ${height}`);
  stage.style.setProperty("--wide", width / height);
}

function put(state, first, second, note) {
  const was = view.dataset.state;
  source(before, first, "Before: the input, plainly enlarged");
  source(after, second, state === "preview" ? "Preview of the result" : "After: the result");
  view.dataset.both = String(Boolean(first && second));
  view.dataset.state = state;
  find(".cu-note").textContent = note || "";
  if (state === "preview" && was !== "preview") [moved, range.value] = [false, 0];
  if (state === "preview" && !second) range.value = 100;
  else if (state === "preview" && !moved) range.value = 0;
  if (state === "pair" && was !== "pair" && !moved) range.value = 50;
  if (state !== was && (state === "empty" || was === "empty")) [zoom, middle] = [1, [0.5, 0.5]];
  if (!both()) setLens(0);
  slide();
  if (laid) place(); // a size that is asked for before is a layout of half a page
}

async function putKept(value) {
  const entry = await cupscaleStore.get(value.id).catch(() => null);
  if (props.value !== value) return; // another one came meanwhile
  if (!entry) {
    put("empty", null, null, "This result is no longer in the history.");
    return;
  }
  const made = address(entry.blob), first = address(entry.before || entry.input);
  const picture = new Image();
  picture.src = made;
  await picture.decode();
  if (props.value !== value) return;
  lay(picture.naturalWidth, picture.naturalHeight);
  put("pair", first || made, made, value.note);
}

function show() {
  const value = props.value || { state: "empty" };
  own.forEach((url) => URL.revokeObjectURL(url));
  own = [];
  if (value.width) lay(value.width, value.height);
  find('[data-do="save"]').hidden = value.state !== "kept";
  if (value.state === "kept") putKept(value);
  else if (value.state === "preview") put("preview", value.before?.url, value.image, value.note);
  else if (value.state === "pair") put("pair", value.before.url, value.after.url, value.note);
  else put("empty", null, null, value.note);
}

// Pointer, wheel, keys

const pointers = new Map();
let gesture = null; // "slide", "pan" or "pinch"
let spread = 0, scrolled = -SCROLL_MS;

function shares(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function slideTo(event) {
  range.value = shares(event)[0] * 100;
  moved = true;
  slide();
}

function pinched() {
  const [one, other] = [...pointers.values()], box = stage.getBoundingClientRect();
  const point = [(one.x + other.x) / 2 - box.left, (one.y + other.y) / 2 - box.top];
  return { apart: Math.hypot(one.x - other.x, one.y - other.y), point: [point[0] / box.width, point[1] / box.height] };
}

stage.addEventListener("pointerdown", (event) => {
  if (!both() || event.button > 0) return;
  range.focus({ preventScroll: true });
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (pointers.size === 2) {
    gesture = "pinch";
    spread = pinched().apart;
  } else if (pointers.size === 1) {
    const away = Math.abs(shares(event)[0] - range.value / 100) * stage.clientWidth;
    gesture = zoom > 1 && away > HANDLE_PX ? "pan" : "slide";
    if (gesture === "slide") slideTo(event);
  }
});
stage.addEventListener("mousedown", (event) => {
  if (both()) event.preventDefault(); // it would take the focus from the slider, and with it the keys
});
stage.addEventListener("pointermove", (event) => {
  const [x, y] = shares(event);
  at = [middle[0] + (x - 0.5) / zoom, middle[1] + (y - 0.5) / zoom];
  const last = pointers.get(event.pointerId);
  if (last) {
    const [dx, dy] = [last.x - event.clientX, last.y - event.clientY];
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (gesture === "slide") slideTo(event);
    else if (gesture === "pan") pan(dx / stage.clientWidth, dy / stage.clientHeight);
    else if (gesture === "pinch" && pointers.size === 2) {
      const { apart, point } = pinched();
      pan(dx / 2 / stage.clientWidth, dy / 2 / stage.clientHeight);
      zoomTo(zoom * apart / (spread || apart), point);
      spread = apart;
    }
  }
  magnify();
});
for (const kind of ["pointerup", "pointercancel"]) {
  stage.addEventListener(kind, (event) => {
    pointers.delete(event.pointerId);
    gesture = null; // a finger that stays after a pinch moves nothing
  });
}
stage.addEventListener("dblclick", (event) => {
  if (both()) zoomTo(zoom > 1 ? 1 : Math.max(2, trueZoom()), shares(event));
});
// A page that scrolls goes on scrolling over the picture; so does one that is to be zoomed out no further.
addEventListener("scroll", () => { scrolled = performance.now(); }, { passive: true, capture: true });
stage.addEventListener("wheel", (event) => {
  if (!both()) return;
  const scrolls = performance.now() - scrolled < SCROLL_MS || (event.deltaY > 0 && zoom <= 1);
  if (scrolls && !event.ctrlKey && !filled()) return;
  event.preventDefault();
  const turn = event.deltaY * (event.deltaMode === 1 ? 16 : 1) * (event.ctrlKey ? 0.01 : 0.002);
  zoomTo(zoom * Math.exp(-clamp(turn, -0.7, 0.7)), shares(event));
}, { passive: false });
range.addEventListener("input", () => {
  moved = true;
  slide();
});

const KEYS = {
  "+": () => zoomTo(zoom * STEP), "=": () => zoomTo(zoom * STEP), "-": () => zoomTo(zoom / STEP),
  0: () => zoomTo(1), 1: () => zoomTo(trueZoom()), f: fill, l: () => setLens(power === 1 ? 2 : power ? 0 : 1),
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
view.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !both()) return;
  const arrow = event.shiftKey && ARROWS[event.key], act = KEYS[event.key.toLowerCase()];
  if (arrow && !lens.hidden) {
    at = at.map((share, k) => clamp(share + arrow[k] * 0.04 / zoom, 0, 1));
    magnify();
  } else if (arrow) pan(arrow[0] * 0.08, arrow[1] * 0.08);
  else if (event.key === "Escape" && view.classList.contains("cu-full")) fill();
  else if (act) act();
  else return;
  event.preventDefault();
});
new ResizeObserver(() => { laid = true; place(); }).observe(stage);

// The results that were put into the history.
function keptKeys() {
  try {
    return [].concat(JSON.parse(sessionStorage.getItem("cupscale-kept") || "[]"));
  } catch {
    return [];
  }
}

// Buttons

const filled = () => document.fullscreenElement === view || view.classList.contains("cu-full");

function fill() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (view.requestFullscreen) view.requestFullscreen();
  else view.classList.toggle("cu-full"); // a phone that has no full screen for pages
}

function say(button, text) {
  button.dataset.label ??= button.textContent;
  button.textContent = text;
  setTimeout(() => { button.textContent = button.dataset.label; }, 1500);
}

// As PNG, which is what clipboards take.
async function picture() {
  const blob = await (await fetch(after.src)).blob();
  if (blob.type === "image/png") return blob;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [after.naturalWidth, after.naturalHeight];
  canvas.getContext("2d").drawImage(after, 0, 0);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

async function copy(button) {
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": picture() })]);
    say(button, "Copied");
  } catch {
    say(button, "Not allowed here");
  }
}

// The server has the result of a run of this visit; another one goes there first.
async function use(button) {
  const key = props.value.keep?.key;
  try {
    const entry = props.value.state === "kept" ? await cupscaleStore.get(props.value.id) : null;
    const name = entry?.name || after.src.split("/").pop();
    trigger("use", key ? { key } : { input: (await upload(new File([await picture()], name))).path });
  } catch {
    say(button, "Too large to send");
  }
}

// What the server does not have goes there small enough for a card.
async function small(image, name) {
  const shrink = Math.min(1, 2400 / Math.max(image.naturalWidth, image.naturalHeight)), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight].map((side) => Math.max(16, Math.round(side * shrink)));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
  return (await upload(new File([blob], name))).path;
}

async function card(button) {
  const value = props.value, room = 0.5 / zoom;
  const part = zoom > 1 ? [...middle.map((share) => Math.max(0, share - room)), ...middle.map((share) => Math.min(1, share + room))] : null;
  try {
    const given = value.keep ? { key: value.keep.key } : {
      before: await small(before, "before.jpg"), after: await small(after, "after.jpg"), note: value.note,
      name: after.src.startsWith("blob:") ? "picture" : after.src.split("/").pop(),
    };
    if (props.value !== value) { await card(button); return; } // another one came meanwhile
    trigger("card", { ...given, part });
  } catch {
    say(button, "Could not be sent");
  }
}

async function save() {
  const entry = await cupscaleStore.get(props.value.id), link = document.createElement("a");
  link.href = after.src;
  link.download = entry.name;
  link.click();
}

const BUTTONS = {
  in: () => zoomTo(zoom * STEP), out: () => zoomTo(zoom / STEP), fit: () => zoomTo(1), true: () => zoomTo(trueZoom()),
  lens: () => setLens(power === 1 ? 0 : 1), lens2: () => setLens(power === 2 ? 0 : 2), full: fill, copy, use, save, card,
};
view.addEventListener("click", (event) => {
  const tool = event.target.closest(".cu-tool");
  if (tool) BUTTONS[tool.dataset.do]?.(tool);
});
find('[data-do="copy"]').hidden = !navigator.clipboard?.write;
watch("value", () => {
  show();
  const value = props.value || {}, there = keptKeys();
  if (!value.keep || there.includes(value.keep.key)) return; // a reload, or a batch, shows it again: it is kept once
  sessionStorage.setItem("cupscale-kept", JSON.stringify([...there.slice(-99), value.keep.key]));
  cupscaleStore.add({ ...value.keep, url: value.after.url, before: value.before.url });
});
show();
