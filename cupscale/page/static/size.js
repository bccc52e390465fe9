const number = element.querySelector("input"), unit = element.querySelector("select");
let shown = null;

function show() {
  const scale = Number(props.value);
  if (scale !== shown) { // moved by something else than the number: a link, an example, a button
    shown = scale;
    if (unit.value === "scale" || !number.matches(":focus")) {
      unit.value = "scale";
      number.value = String(Number(scale.toFixed(4)));
    }
  }
  element.querySelectorAll("[data-scale]").forEach((button) => {
    button.setAttribute("aria-pressed", String(Number(button.dataset.scale) === scale));
  });
}

function choose(scale) {
  if (!Number.isFinite(scale)) return;
  props.value = scale;
  show();
  trigger("change");
}

function entered() {
  const value = Number(number.value);
  if (number.value === "" || !Number.isFinite(value)) return;
  if (unit.value === "scale") choose(value);
  else trigger("target", { kind: unit.value, value });
}

number.addEventListener("change", entered);
unit.addEventListener("change", () => {
  if (unit.value === "scale") number.value = String(Number(Number(props.value).toFixed(4)));
  else { number.value = ""; number.focus(); }
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  unit.value = "scale";
  if (button.dataset.long) trigger("target", { kind: "long_side", value: Number(button.dataset.long) });
  else choose(Number(button.dataset.scale));
});
watch("value", show);
show();
