const row = (name) => element.querySelector(`[data-row="${name}"]`);

function show() {
  const value = props.value || {};
  const link = value.query ? location.origin + location.pathname + "?" + value.query : "";
  element.querySelector(".cu-note").textContent = value.note || "";
  for (const [name, text] of [["link", link], ["command", value.command || ""], ["python", value.python || ""]]) {
    row(name).hidden = !text;
    row(name).querySelector("textarea").value = text;
  }
}

element.addEventListener("click", async (event) => {
  const button = event.target.closest(".cu-tool");
  if (!button) return;
  const area = button.parentElement.querySelector("textarea"), label = button.textContent;
  try {
    await navigator.clipboard.writeText(area.value);
  } catch {
    area.select();
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
});
watch("value", show);
show();
