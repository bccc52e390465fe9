// Two pictures of one image, zoomed together, and one answer. What the pictures are called is not known here.

const SETTLE_MS = 300; // a new pair takes no answer for so long: the second press of a double one is not meant for it
const MOST = 8; // pixels of the screen for one of a picture, at most

const one = (selector) => document.querySelector(selector);
const panes = [...document.querySelectorAll(".pane")];
const stage = one("#stage");
const answers = [...document.querySelectorAll("#answers button")];

let state = { questions: [], answered: 0, round: 1 };
let goesOnFrom = null; // answers given when the voter last chose to go on
let open = false; // whether the pair takes an answer
let loaded = new Map(); // address -> a picture that loads or has loaded
const view = { zoom: 1, x: 0.5, y: 0.5 }; // 1: all of the picture; x and y: its point in the middle of a pane, 0 to 1

// Talking to the server

async function post(path, data) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.error || `the server answered ${answer.status}`), { status: answer.status });
  return said;
}

async function ask() {
  try {
    take(await post("questions", {}));
  } catch (error) {
    complain(`The next pair did not come: ${error.message}. Reload the page to go on.`);
  }
}

async function vote(answer) {
  if (!open) return;
  accept(false);
  try {
    take(await post("votes", { question: state.questions[0].id, answer }));
  } catch (error) {
    if (error.status === 404) return ask();
    complain(`Your answer was not saved: ${error.message}. Answer again.`);
    settle();
  }
}

function take(next) {
  state = next;
  complain("");
  one("#ask").textContent = document.title = state.ask;
  const { answered, round, questions } = state;
  const from = Math.floor(answered / round) * round;
  one("#progress").textContent = `Pair ${Math.min(answered - from + 1, round)} of ${round}`;
  if (!questions.length) return rest("Thank you", "You have seen every pair of this study.", false);
  if (answered && answered === from && goesOnFrom !== answered)
    return rest("Thank you", `You have answered ${answered} questions, and every answer is saved. You can close the page, or go on.`, true);
  show();
}

function complain(text) {
  one("#problem").textContent = text;
  one("#problem").hidden = !text;
}

// The pair

const address = (question, side) => `pictures/${question.id}/${side}`;
const sides = (question) => ["first", "second", ...(question.original ? ["original"] : [])];

function load(question) {
  return sides(question).map((side) => {
    const url = address(question, side);
    if (!loaded.has(url)) {
      const image = new Image();
      image.decoding = "async";
      image.src = url;
      image.draggable = false;
      loaded.set(url, image);
    }
    return loaded.get(url);
  });
}

async function show() {
  const [question, next] = state.questions;
  document.body.dataset.state = "loading";
  const wanted = new Set(state.questions.flatMap((q) => sides(q).map((side) => address(q, side))));
  loaded = new Map([...loaded].filter(([url]) => wanted.has(url)));
  const [first, second, original] = load(question);
  try {
    await Promise.all([first.decode(), second.decode()]);
  } catch {
    if (question !== state.questions[0]) return;
    const before = question.id;
    await ask();
    if (state.questions[0]?.id === before) complain("The pictures did not load. Reload the page to go on.");
    return;
  }
  if (question !== state.questions[0]) return;
  panes.forEach((pane, index) => {
    const image = index ? second : first;
    image.alt = `Picture ${index + 1}`;
    const shown = [image];
    if (original) {
      const copy = index ? original.cloneNode() : original;
      copy.className = "original";
      copy.alt = "The original";
      shown.push(copy);
    }
    pane.querySelector(".picture").replaceChildren(...shown);
  });
  one("#original").hidden = !original;
  showOriginal(false);
  Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  document.body.dataset.state = "pair";
  draw();
  settle();
  if (next) load(next);
}

function settle() {
  setTimeout(() => {
    accept(document.body.dataset.state === "pair");
  }, SETTLE_MS);
}

function accept(now) {
  open = now;
  answers.forEach((button) => button.setAttribute("aria-disabled", !now)); // not disabled: that would lose the focus
}

function showOriginal(on) {
  stage.classList.toggle("shows-original", on);
  one("#original").setAttribute("aria-pressed", on);
  panes.forEach((pane, index) => (pane.querySelector("figcaption").textContent = on ? "original" : index + 1));
}

// The view, one for both panes

function scales() {
  const { width, height } = state.questions[0];
  const box = panes[0].getBoundingClientRect();
  const fit = Math.min(box.width / width, box.height / height);
  const pixel = 1 / devicePixelRatio;
  return { width, height, box, fit, pixel, most: Math.max((MOST * pixel) / fit, 1) };
}

function layOut() {
  const { width, height } = state.questions[0];
  const box = stage.getBoundingClientRect();
  const row = Math.min(box.width / 2 / width, box.height / height);
  const column = Math.min(box.width / width, box.height / 2 / height);
  stage.dataset.way = row >= column ? "row" : "column";
  const [first, , second] = answers.map((button) => button.querySelector("span"));
  [first.textContent, second.textContent] = row >= column ? ["Left", "Right"] : ["Upper", "Lower"];
}

function draw() {
  if (document.body.dataset.state !== "pair") return;
  layOut();
  const { width, height, box, fit, pixel, most } = scales();
  view.zoom = Math.min(Math.max(view.zoom, 1), most);
  const scale = fit * view.zoom;
  const place = (side, full, at) => {
    const half = Math.min(side / 2 / full, 0.5); // of the picture, what lies on either side of the middle of the pane
    const kept = Math.min(Math.max(at, half), 1 - half);
    return [kept, side / 2 - kept * full];
  };
  const [x, left] = place(box.width, width * scale, view.x);
  const [y, top] = place(box.height, height * scale, view.y);
  Object.assign(view, { x, y });
  for (const image of stage.querySelectorAll(".picture img")) {
    image.style.width = `${width * scale}px`;
    image.style.height = `${height * scale}px`;
    image.style.transform = `translate(${left}px, ${top}px)`;
  }
  stage.classList.toggle("sharp", scale / pixel >= 3);
  one("#zoom").textContent = view.zoom > 1.001 ? "Fit" : "Zoom";
}

// Zoom by a factor, and keep what lies under a point of the pane where it is.
function zoom(factor, point) {
  const { width, height, box, fit, most } = scales();
  const before = fit * view.zoom;
  view.zoom = Math.min(Math.max(view.zoom * factor, 1), most);
  const after = fit * view.zoom;
  const dx = (point?.x ?? box.width / 2) - box.width / 2;
  const dy = (point?.y ?? box.height / 2) - box.height / 2;
  view.x += (dx / before - dx / after) / width;
  view.y += (dy / before - dy / after) / height;
  draw();
}

function move(dx, dy) {
  const { width, height, fit } = scales();
  view.x -= dx / (width * fit * view.zoom);
  view.y -= dy / (height * fit * view.zoom);
  draw();
}

function toggleZoom(point) {
  const { fit, pixel } = scales();
  const target = view.zoom > 1.001 ? 1 : Math.max(pixel / fit, 2);
  zoom(target / view.zoom, point);
}

const ready = () => document.body.dataset.state === "pair";
const within = (pane, event) => {
  const box = pane.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};

panes.forEach((pane, index) => {
  const held = new Map(); // pointer -> where it is
  const ring = panes[1 - index].querySelector(".ring");

  pane.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    if (ready()) zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), within(pane, event));
  }, { passive: false });

  pane.addEventListener("dblclick", (event) => ready() && toggleZoom(within(pane, event)));

  pane.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pane.setPointerCapture(event.pointerId);
    held.set(event.pointerId, within(pane, event));
    pane.classList.add("held");
  });

  pane.addEventListener("pointermove", (event) => {
    const at = within(pane, event);
    ring.hidden = event.pointerType !== "mouse" || held.size > 0;
    ring.style.left = `${at.x}px`;
    ring.style.top = `${at.y}px`;
    const before = held.get(event.pointerId);
    if (!before || !ready()) return;
    const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    held.set(event.pointerId, at);
    if (!other) return move(at.x - before.x, at.y - before.y);
    const apart = (a) => Math.hypot(a.x - other.x, a.y - other.y) || 1;
    const middle = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
    move((at.x - before.x) / 2, (at.y - before.y) / 2);
    zoom(apart(at) / apart(before), middle);
  });

  for (const end of ["pointerup", "pointercancel"])
    pane.addEventListener(end, (event) => {
      held.delete(event.pointerId);
      pane.classList.toggle("held", held.size > 0);
    });
  pane.addEventListener("pointerleave", () => (ring.hidden = true));
});

new ResizeObserver(draw).observe(stage);

// Keys and buttons

const KEYS = {
  1: () => vote("first"),
  2: () => vote("second"),
  "=": () => vote("equal"),
  0: () => vote("equal"),
  o: () => !one("#original").hidden && showOriginal(!stage.classList.contains("shows-original")),
  z: () => toggleZoom(),
};
const MOVES = {
  "+": () => zoom(1.25),
  "-": () => zoom(0.8),
  ArrowLeft: () => move(80, 0),
  ArrowRight: () => move(-80, 0),
  ArrowUp: () => move(0, 80),
  ArrowDown: () => move(0, -80),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !ready()) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = MOVES[key] ?? (event.repeat ? null : KEYS[key]); // a key that is held down answers once
  if (!act) return;
  event.preventDefault();
  act();
});

answers.forEach((button) =>
  button.addEventListener("click", (event) => event.detail < 2 && vote(button.dataset.answer)), // not the second of a double click
);
one("#zoom").addEventListener("click", () => toggleZoom());
one("#original").addEventListener("click", KEYS.o);

// The card at the beginning and at the end

function rest(title, message, more) {
  accept(false);
  document.body.dataset.state = "card";
  one("#card h2").textContent = title;
  one("#message").textContent = message;
  one("#how").hidden = one("#stored").hidden = true;
  one("#go").hidden = !more;
  one("#go").textContent = `Go on with ${state.round} more`;
  one("#go").focus();
}

// The first pair loads while the card is read. Whoever starts before it is there waits for the same answer: a second
// request without a cookie yet would make a second voter, and the first one's questions would no longer be this browser's.
const first = post("questions", {});
first.then((next) => {
  state = next;
  next.questions.slice(0, 1).forEach(load);
}, () => {});

one("#go").addEventListener("click", async () => {
  await first.catch(() => {}); // where it failed, the start asks again
  goesOnFrom = state.answered;
  if (state.questions.length) take(state);
  else ask();
});
