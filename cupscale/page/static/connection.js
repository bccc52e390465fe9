// A server that went away is noticed in an open tab, said, and come back to: the reload finds the run and the settings again.
(() => {
  const EVERY = 8000, SOON = 2000, PATIENCE = 8000;
  let first = null, banner = null, missed = 0, timer = 0;

  async function identity() {
    const config = window.gradio_config || {};
    try {
      const answer = await fetch(`${config.root || ""}${config.api_prefix || "/gradio_api"}/app_id`, {
        cache: "no-store", signal: AbortSignal.timeout(PATIENCE),
      });
      return answer.ok ? (await answer.json()).app_id : null;
    } catch {
      return null;
    }
  }

  function say() {
    if (banner) return;
    banner = document.createElement("p");
    banner.className = "cu-lost";
    banner.setAttribute("role", "alert");
    banner.textContent = "The server does not answer. This page comes back by itself when it does, with what you set.";
    document.body.append(banner);
  }

  async function look() {
    clearTimeout(timer);
    const now = document.hidden ? first : await identity();
    if (now === null) {
      missed += 1;
      if (missed > 1) say();
    } else {
      first ??= now;
      if (now !== first) {
        location.reload();
        return;
      }
      missed = 0;
      banner?.remove();
      banner = null;
    }
    timer = setTimeout(look, missed ? SOON : EVERY);
  }

  look();
  addEventListener("online", look);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
})();

// The tab of the page that is open stands in its address. gradio selects the first one before it opens the wanted one.
(() => {
  let wanted = new URLSearchParams(location.search).get("tab");
  const forget = () => { wanted = null; };
  for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, forget, { capture: true, once: true });

  window.cupscaleTab = (name) => {
    if (wanted && name !== wanted) return;
    forget();
    const address = new URL(location.href);
    if (name === "upscale") address.searchParams.delete("tab");
    else address.searchParams.set("tab", name);
    history.replaceState(history.state, "", address);
  };
})();
