const cells = element.querySelector(".cu-cells"), zoom = element.querySelector(".cu-zoom input");
let x = 0.5, y = 0.5, drag = null; // the point in the middle of every cell, as shares of the picture

function place() {
  const scale = Number(zoom.value), room = 0.5 / scale;
  x = Math.min(1 - room, Math.max(room, x));
  y = Math.min(1 - room, Math.max(room, y));
  cells.querySelectorAll("img").forEach((image) => {
    image.style.transform = `scale(${scale}) translate(${(0.5 - x) * 100}%, ${(0.5 - y) * 100}%)`;
    image.style.imageRendering = scale > 3 ? "pixelated" : "auto";
  });
}

function show() {
  const value = props.value || { cells: [] };
  element.querySelector(".cu-note").textContent = value.note || "";
  element.querySelector(".cu-tools").hidden = !value.cells.length;
  cells.hidden = !value.cells.length;
  while (cells.children.length > value.cells.length) cells.lastChild.remove();
  value.cells.forEach((cell, k) => {
    let figure = cells.children[k];
    if (!figure) {
      figure = document.createElement("figure");
      figure.append(document.createElement("div"), document.createElement("figcaption"));
      figure.firstChild.append(document.createElement("img"));
      const use = document.createElement("button");
      use.type = "button";
      use.className = "cu-tool";
      use.textContent = "Use these";
      figure.lastChild.append(document.createElement("b"), document.createElement("span"), use);
      cells.append(figure);
    }
    const image = figure.querySelector("img");
    if (image.getAttribute("src") !== cell.image.url) image.src = cell.image.url;
    image.alt = cell.title;
    image.draggable = false;
    figure.querySelector("b").textContent = cell.title;
    figure.querySelector("span").textContent = cell.line;
    const use = figure.querySelector("button");
    use.hidden = !(value.usable || []).includes(cell.title);
    use.setAttribute("aria-label", `Use these settings: ${cell.title}`);
  });
  place();
}

function move(dx, dy) {
  x += dx / Number(zoom.value);
  y += dy / Number(zoom.value);
  place();
}
function zoomBy(factor) {
  zoom.value = String(Math.min(12, Math.max(1, Number(zoom.value) * factor)));
  place();
}

zoom.addEventListener("input", place);
element.addEventListener("click", (event) => {
  const used = event.target.closest("figcaption button");
  if (used) trigger("use", { title: used.parentElement.querySelector("b").textContent });
  if (!event.target.closest('[data-do="reset"]')) return;
  zoom.value = "1";
  x = y = 0.5;
  place();
});
cells.addEventListener("wheel", (event) => {
  if (!event.target.closest("figure > div")) return;
  event.preventDefault();
  zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2);
}, { passive: false });
cells.addEventListener("pointerdown", (event) => {
  const frame = event.target.closest("figure > div");
  if (frame) drag = { x: event.clientX, y: event.clientY, width: frame.clientWidth, height: frame.clientHeight };
});
window.addEventListener("pointermove", (event) => {
  if (!drag) return;
  move((drag.x - event.clientX) / drag.width, (drag.y - event.clientY) / drag.height);
  drag.x = event.clientX;
  drag.y = event.clientY;
});
window.addEventListener("pointerup", () => { drag = null; });
cells.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
  if (step) move(...step);
  else if (event.key === "+" || event.key === "=") zoomBy(1.25);
  else if (event.key === "-") zoomBy(0.8);
  else return;
  event.preventDefault();
});
watch("value", show);
show();
