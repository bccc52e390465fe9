const image = element.querySelector("img"), canvas = element.querySelector("canvas"), ink = canvas.getContext("2d");
const width = element.querySelector("input[type=range]"), given = element.querySelector("input[type=file]");
const note = element.querySelector(".cu-note"), INK = "#ea580c"; // seen on white and on black; the file is white on black
let source = null, last = null, sent = 0, drawn = null;

const say = (text) => { note.textContent = text; };
const erasing = () => element.querySelector("[data-do=erase]").getAttribute("aria-pressed") === "true";

function blank() {
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  ink.lineCap = ink.lineJoin = "round";
  canvas.parentElement.style.setProperty("--aspect", canvas.width / canvas.height);
}

// The page's image, where it is another one than before; its mask, where the server has one.
function follow() {
  const now = document.querySelector("#image img")?.src || null;
  if (now === source) return;
  source = now;
  element.querySelectorAll(".cu-paper, .cu-tools").forEach((part) => { part.hidden = !now; });
  say(now ? "" : "Give an image first.");
  if (now) image.src = now;
  else image.removeAttribute("src");
}

image.addEventListener("load", () => { drawn = null; blank(); restore(); });

async function restore() {
  const value = props.value || {};
  const mine = value.mask && image.naturalWidth && decodeURIComponent(source || "").endsWith(`/${value.image}`);
  if (!mine || value.mask.path === drawn) return;
  drawn = value.mask.path;
  try {
    await put(await (await fetch(value.mask.url)).blob());
  } catch {
    say("The mask is no longer on the server: paint it again.");
  }
}

// A picture's brightness as ink. Gives false for one of another size.
async function put(blob) {
  const bitmap = await createImageBitmap(blob);
  if (bitmap.width !== canvas.width || bitmap.height !== canvas.height) {
    say(`The mask is ${bitmap.width} × ${bitmap.height} and the image is ${canvas.width} × ${canvas.height}: make the mask the size of the image.`);
    return false;
  }
  blank();
  ink.drawImage(bitmap, 0, 0);
  const pixels = ink.getImageData(0, 0, canvas.width, canvas.height), data = pixels.data;
  for (let k = 0; k < data.length; k += 4) {
    const light = (0.299 * data[k] + 0.587 * data[k + 1] + 0.114 * data[k + 2]) * data[k + 3] / 255;
    [data[k], data[k + 1], data[k + 2], data[k + 3]] = [234, 88, 12, Math.round(light)];
  }
  ink.putImageData(pixels, 0, 0);
  return true;
}

function encoded() {
  const sheet = document.createElement("canvas"), pen = sheet.getContext("2d");
  [sheet.width, sheet.height] = [canvas.width, canvas.height];
  pen.drawImage(canvas, 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, sheet.width, sheet.height);
  pen.globalCompositeOperation = "destination-over";
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, sheet.width, sheet.height);
  return new Promise((done, failed) => sheet.toBlob((blob) => (blob ? done(blob) : failed(new Error("no room"))), "image/png"));
}

// The newest one counts, whatever order the uploads arrive in.
async function commit() {
  const mine = ++sent;
  try {
    const { path } = await upload(new File([await encoded()], "mask.png", { type: "image/png" }));
    if (mine !== sent) return;
    drawn = path;
    say("");
    trigger("painted", { path });
  } catch {
    say("The mask could not be sent: paint again, or give a smaller image.");
  }
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
}

function stroke(event) {
  const now = place(event);
  ink.globalCompositeOperation = erasing() ? "destination-out" : "source-over";
  ink.strokeStyle = INK;
  ink.lineWidth = Math.max(1, Number(width.value) / 100 * Math.max(canvas.width, canvas.height));
  ink.beginPath();
  ink.moveTo(...(last || now));
  ink.lineTo(...now);
  ink.stroke();
  ink.globalCompositeOperation = "source-over";
  last = now;
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (last) for (const one of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) stroke(one);
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => { if (last) { last = null; commit(); } });
}

const acts = {
  paint: () => press(false),
  erase: () => press(true),
  clear: () => { blank(); drawn = null; sent++; trigger("painted", { path: null }); },
  load: () => given.click(),
  save: async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await encoded());
    link.download = props.value?.name || "mask.png";
    link.click();
    URL.revokeObjectURL(link.href);
  },
};

function press(erase) {
  element.querySelector("[data-do=paint]").setAttribute("aria-pressed", String(!erase));
  element.querySelector("[data-do=erase]").setAttribute("aria-pressed", String(erase));
}

element.addEventListener("click", (event) => acts[event.target.closest("button")?.dataset.do]?.());
given.addEventListener("change", async () => {
  const [file] = given.files;
  given.value = "";
  try {
    if (file && await put(file)) commit();
  } catch {
    say("That is no picture that this browser opens: give a PNG.");
  }
});
new MutationObserver(follow).observe(document.querySelector("#image"), { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] });
watch("value", restore);
follow();
