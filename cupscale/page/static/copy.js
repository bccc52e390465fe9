// The text beside a button that copies it.
document.addEventListener("click", async ({ target }) => {
  const button = target.closest?.('.cu-share [data-do="copy"]');
  if (!button) return;
  const area = button.parentElement.querySelector("textarea"), label = button.dataset.label ??= button.textContent;
  try {
    await navigator.clipboard.writeText(area.value);
  } catch {
    area.select();
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
});
