const section = element.querySelector("section"), note = element.querySelector(".cu-note");
let shown = 0, newest = "";

function row(link) {
  const made = element.querySelector("template").content.firstElementChild.cloneNode(true);
  made.querySelector("span").textContent = `Link to ${link.note}, until ${new Date(link.until).toLocaleString()}`;
  made.querySelector("textarea").value = `${location.origin}${location.pathname}?kept=${link.token}`;
  for (const button of made.querySelectorAll("button")) button.setAttribute("aria-label", `${button.textContent} to ${link.note}`);
  made.querySelector('[data-do="delete"]').addEventListener("click", async () => {
    note.textContent = await cupscaleLinks.remove(link) || "Deleted: the link opens nothing any more.";
    show();
  });
  return made;
}

async function show() {
  const turn = shown += 1, links = await cupscaleLinks.live();
  if (turn !== shown) return;
  section.querySelectorAll("div").forEach((old) => old.remove());
  section.append(...links.map(row));
}

async function take() {
  const made = props.value || {};
  if (!made.token || made.token === newest) return;
  newest = made.token;
  note.textContent = "";
  await cupscaleLinks.add(made);
  show();
}

watch("value", take);
window.addEventListener("cupscale-links", show);
document.addEventListener("visibilitychange", () => { if (!document.hidden) show(); });
show();
