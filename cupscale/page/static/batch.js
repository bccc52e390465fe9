const list = element.querySelector("ol");
const WORDS = { ready: "waits", running: "runs now", done: "done", failed: "failed" };

function row() {
  const item = document.createElement("li"), open = document.createElement("button");
  for (const [tag, name] of [["span", "cu-state"], ["b", ""], ["span", "cu-line-of"]]) {
    const part = document.createElement(tag);
    part.className = name;
    item.append(part);
  }
  open.type = "button";
  open.className = "cu-tool";
  open.textContent = "Open";
  item.append(open);
  return item;
}

function show() {
  const rows = (props.value || {}).rows || [];
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach((entry, k) => {
    const item = list.children[k] || list.appendChild(row()), [state, name, line, open] = item.children;
    item.dataset.state = entry.state;
    state.textContent = WORDS[entry.state];
    name.textContent = entry.name;
    line.textContent = entry.line;
    open.hidden = entry.state !== "done";
    open.setAttribute("aria-label", `Open ${entry.name} in the slider`);
  });
  list.hidden = !rows.length;
}

element.addEventListener("click", (event) => {
  const open = event.target.closest("button");
  if (open) trigger("open", { index: [...list.children].indexOf(open.closest("li")) });
});
watch("value", show);
show();
