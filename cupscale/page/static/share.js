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

watch("value", show);
show();
