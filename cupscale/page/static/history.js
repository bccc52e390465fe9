const list = element.querySelector("ul"), note = element.querySelector(".cu-note");
let urls = [];

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "cu-tool";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function address(blob) {
  const url = URL.createObjectURL(blob);
  urls.push(url);
  return url;
}

// The input goes back to the server, which forgets uploads in time; the result itself stays here.
async function open(entry) {
  let input = null;
  try {
    if (entry.input) input = (await upload(new File([entry.input], entry.inputName || "image.png"))).path;
  } catch { /* too large for the page by now: the result still opens */ }
  trigger("open", { id: entry.id, settings: entry.settings, note: entry.note, input });
}

async function show() {
  let entries = [];
  try {
    entries = await cupscaleStore.all();
  } catch {
    note.textContent = "This browser keeps no data here (a private window, or storage is off), so there is no history.";
    return;
  }
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  list.replaceChildren(...entries.map((entry) => {
    const item = document.createElement("li"), image = document.createElement("img"), text = document.createElement("p");
    const tools = document.createElement("div"), when = document.createElement("time");
    image.alt = entry.name;
    image.loading = "lazy";
    image.src = address(entry.thumb || entry.blob);
    text.textContent = entry.note;
    when.textContent = new Date(entry.when).toLocaleString();
    tools.append(
      button("Open", `Open ${entry.name} in the slider`, () => open(entry)),
      button("Use settings", `Use the settings of ${entry.name}`, () => trigger("select", { settings: entry.settings })),
      button("Download", `Download ${entry.name}`, () => {
        const link = document.createElement("a");
        link.href = address(entry.blob);
        link.download = entry.name;
        link.click();
      }),
      button("Delete", `Delete ${entry.name}`, () => cupscaleStore.remove(entry.id)),
    );
    item.append(image, text, when, tools);
    return item;
  }));
  note.textContent = entries.length
    ? "Kept in this browser only, the newest 40."
    : "No results yet. What you make here is kept in this browser, and nowhere else.";
}

element.addEventListener("click", (event) => {
  if (event.target.closest('[data-do="clear"]')) cupscaleStore.clear();
});
window.addEventListener("cupscale-history", async (event) => {
  await show();
  if (event.detail) note.textContent = event.detail;
});
show();
