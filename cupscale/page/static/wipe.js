// The example of the first screen is wiped slowly, twice, until someone takes the slider or another picture comes.
(() => {
  function begin(result) {
    const view = result.querySelector(".cu-view"), after = result.querySelector(".cu-after");
    result.classList.add("cu-wiping");
    const first = after.src;
    const end = () => {
      result.classList.remove("cu-wiping");
      watching.disconnect();
    };
    const watching = new MutationObserver(() => {
      if (view.dataset.state !== "pair" || (first && after.src !== first)) end();
    });
    watching.observe(result, { subtree: true, attributeFilter: ["data-state", "src"] });
    for (const kind of ["pointerdown", "keydown", "wheel"]) {
      result.addEventListener(kind, end, { once: true, passive: true });
    }
    result.addEventListener("animationend", end, { once: true });
  }

  const waiting = new MutationObserver(() => {
    const result = document.querySelector("#result:has(.cu-view[data-state='pair'] .cu-after[src])");
    if (!result) return;
    waiting.disconnect();
    if (performance.now() < 30_000) begin(result);
  });
  waiting.observe(document.documentElement, { subtree: true, childList: true, attributeFilter: ["data-state", "src"] });
})();
