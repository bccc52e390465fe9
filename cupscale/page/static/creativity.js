const range = element.querySelector("input"), output = element.querySelector("output");

function show() {
  const value = props.value || {};
  if (!range.matches(":active")) range.value = String(value.level ?? 50);
  output.textContent = value.exact ? String(value.level) : "set by hand";
  range.setAttribute("aria-valuetext", value.exact ? String(value.level) : "set by hand under Advanced");
  element.querySelector(".cu-note").textContent = value.note || "";
}

range.addEventListener("input", () => { output.textContent = range.value; });
range.addEventListener("change", () => trigger("choose", { level: Number(range.value) }));
watch("value", show);
show();
