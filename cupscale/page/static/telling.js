// A run that goes on is told by the title of the tab, and its end to whoever asks: by a sound, by a notification.
(() => {
  const KEY = "cupscale-tell";
  let own = "cupscale", going = null, sounds = null, waiting = false;

  const asked = () => new Set((localStorage.getItem(KEY) || "").split(" ").filter(Boolean));

  // Two soft tones. A browser lets a page sound after a click on it only.
  function sound() {
    sounds ??= new AudioContext();
    sounds.resume();
    [[0, 660], [0.18, 880]].forEach(([start, pitch]) => {
      const tone = sounds.createOscillator(), loud = sounds.createGain(), from = sounds.currentTime + start;
      tone.frequency.value = pitch;
      loud.gain.setValueAtTime(0, from);
      loud.gain.linearRampToValueAtTime(0.15, from + 0.02);
      loud.gain.exponentialRampToValueAtTime(0.001, from + 0.35);
      tone.connect(loud).connect(sounds.destination);
      tone.start(from);
      tone.stop(from + 0.4);
    });
  }

  function notify(text) {
    try {
      const note = new Notification("cupscale", { body: text, tag: "cupscale" });
      note.onclick = () => { window.focus(); note.close(); };
    } catch { /* phones take these from a service worker alone */ }
  }

  function tell(text) {
    document.title = `${text.split(".")[0].slice(0, 40)} · ${own}`;
    const ways = asked();
    if (ways.has("sound")) sound();
    if (ways.has("notify") && document.hidden && Notification?.permission === "granted") notify(text);
    dispatchEvent(new CustomEvent("cupscale-ended", { detail: text }));
  }

  function begin(place) {
    if (!going && !document.title.includes("·")) own = document.title;
    going = place.closest(".block, [id]");
  }

  // A short run's bar may be gone before anyone looks.
  function bars(records) {
    for (const { target, addedNodes } of records) {
      const bar = target.closest(".cu-status") ? "progress" : ".cu-status progress";
      if ([...addedNodes].some((node) => node.matches?.(bar) || node.querySelector?.(bar))) begin(target);
    }
  }

  function look() {
    waiting = false;
    show();
    const there = [...document.querySelectorAll(".cu-status progress")];
    document.body.classList.toggle("cu-running", there.length > 0);
    if (there.length) {
      begin(there[0]);
      document.title = `${Math.floor(Math.max(...there.map((bar) => bar.value)) * 100)}% · ${own}`;
    } else if (going) {
      const ended = going.isConnected ? going.innerText.trim() : "";
      going = null;
      document.title = own;
      if (ended && !/^(Cancelled|Stopped)/.test(ended)) tell(ended);
    }
  }

  new MutationObserver((records) => {
    bars(records);
    if (waiting) return;
    waiting = true;
    setTimeout(look, 100); // a tab in the background draws no frames
  }).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["value"] });

  function show() {
    const ways = asked();
    document.querySelectorAll("[data-tell]").forEach((button) => {
      const on = String(ways.has(button.dataset.tell));
      if (button.getAttribute("aria-pressed") !== on) button.setAttribute("aria-pressed", on);
    });
  }

  addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-tell]");
    if (!button) return;
    const ways = asked(), way = button.dataset.tell, on = !ways.has(way);
    if (on && way === "sound") sound();
    if (on && way === "notify" && (await window.Notification?.requestPermission()) !== "granted") {
      button.parentElement.querySelector("[role=status]").textContent = "This browser allows no notifications here.";
      return;
    }
    ways[on ? "add" : "delete"](way);
    localStorage.setItem(KEY, [...ways].join(" "));
    show();
  });
  for (const kind of ["focus", "pointerdown", "keydown"]) {
    addEventListener(kind, () => {
      if (asked().has("sound") && kind !== "focus") sounds ??= new AudioContext();
      if (!going && document.title !== own) document.title = own;
    }, { capture: true });
  }
})();
