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
  if (unit.value === "fit" && number.value) return trigger("target", { kind: "fit", value: number.value.replace(/\s|px/g, "").replace("×", "x") });
  const value = Number(number.value);
  if (number.value === "" || !Number.isFinite(value)) return;
  if (unit.value === "scale") choose(value);
  else trigger("target", { kind: unit.value, value });
}

number.addEventListener("change", entered);
unit.addEventListener("change", () => {
  number.type = unit.value === "fit" ? "text" : "number";
  number.placeholder = unit.value === "fit" ? "3840x2160" : "";
  if (unit.value === "8k") {
    unit.value = "scale";
    trigger("target", { kind: "to", value: "8k" });
  }
  if (unit.value === "scale") number.value = String(Number(Number(props.value).toFixed(4)));
  else { number.value = ""; number.focus(); }
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  unit.value = "scale";
  number.type = "number";
  if (button.dataset.to) trigger("target", { kind: "to", value: button.dataset.to });
  else choose(Number(button.dataset.scale));
});
watch("value", show);
show();
