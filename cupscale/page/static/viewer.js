const find = (name) => element.querySelector(name);
const view = find(".cu-view"), stage = find(".cu-stage"), range = find(".cu-range"), lens = find(".cu-lens");
const before = find(".cu-before"), after = find(".cu-after");
let at = [0.5, 0.5]; // the lens' centre, as shares of the picture

function slide() {
  stage.style.setProperty("--cut", range.value + "%");
}

function magnify() {
  if (lens.hidden) return;
  const box = stage.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  const [width, height] = [props.value.width / ratio, props.value.height / ratio];
  [before, after].forEach((image, k) => {
    const pane = lens.children[k], side = pane.clientWidth;
    pane.style.backgroundImage = `url("${image.src.replace(/"/g, "%22")}")`;
    pane.style.backgroundSize = `${width}px ${height}px`;
    pane.style.backgroundPosition = `${side / 2 - at[0] * width}px ${pane.clientHeight / 2 - at[1] * height}px`;
  });
  const left = Math.min(Math.max(at[0] * box.width - lens.offsetWidth / 2, 0), box.width - lens.offsetWidth);
  const above = at[1] * box.height - lens.offsetHeight - 18;
  lens.style.left = Math.max(left, 0) + "px";
  lens.style.top = (above < 0 ? Math.min(at[1] * box.height + 18, box.height - lens.offsetHeight) : above) + "px";
}

function show() {
  const value = props.value || { state: "empty" };
  view.dataset.state = value.state;
  find(".cu-note").textContent = value.note || "";
  if (value.width) stage.style.setProperty("--shape", `${value.width} / ${value.height}`);
  if (value.width) stage.style.setProperty("--wide", value.width / value.height);
  if (value.state === "preview") {
    after.src = value.image;
    after.alt = "Preview of the result";
    before.removeAttribute("src");
  } else if (value.state === "pair") {
    before.src = value.before.url;
    after.src = value.after.url;
    before.alt = "Before: the input, plainly enlarged";
    after.alt = "After: the result";
    slide();
  } else {
    before.removeAttribute("src");
    after.removeAttribute("src");
    before.alt = after.alt = "";
  }
  if (value.state !== "pair") setLens(false);
  magnify();
}

function setLens(on) {
  lens.hidden = !on;
  find('[data-do="lens"]').setAttribute("aria-pressed", String(on));
  magnify();
}

range.addEventListener("input", slide);
stage.addEventListener("pointermove", (event) => {
  const box = stage.getBoundingClientRect();
  at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  magnify();
});
range.addEventListener("keydown", (event) => {
  if (lens.hidden || !event.shiftKey) return;
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move) return;
  event.preventDefault();
  at = at.map((share, k) => Math.min(1, Math.max(0, share + move[k] * 0.04)));
  magnify();
});
element.addEventListener("click", (event) => {
  const tool = event.target.closest(".cu-tool");
  if (!tool) return;
  if (tool.dataset.do === "lens") setLens(lens.hidden);
  else if (document.fullscreenElement) document.exitFullscreen();
  else if (view.requestFullscreen) view.requestFullscreen();
});
watch("value", () => {
  show();
  const value = props.value || {};
  if (value.keep && sessionStorage.getItem("cupscale-kept") !== value.keep.key) {
    sessionStorage.setItem("cupscale-kept", value.keep.key); // a reload shows it again, and keeps it once
    cupscaleStore.add({ ...value.keep, url: value.after.url });
  }
});
show();
