// A refusal stands until the person does the next thing, and no longer.
for (const deed of ["input", "change", "drop", "paste", "click"]) {
  document.addEventListener(deed, ({ target }) => {
    if (deed === "click" && !target.closest?.("button, a, summary, label, [role]")) return;
    for (const line of document.querySelectorAll(".cu-refused [data-wrong]")) line.hidden = true;
  }, true);
}
