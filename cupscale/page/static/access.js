// What axe-core finds in gradio's own components, mended where they appear.
(() => {
  const mends = [
    // The title of a picture stands beside it: read once.
    [".grid-container button img[alt]:not([alt=''])", (image) => { image.alt = ""; }],
    // A name needs a role that can have one.
    ["div[aria-label]:not([role])", (mark) => mark.setAttribute("role", "img"), "#captions"],
    // A button in a button: the inner one is the one that acts, and the one to come to.
    ["button.icon-button:has(button.upload-container):not([role])", (outer) => {
      outer.setAttribute("role", "link"); // of what a button may be called, the one that may hold another
      outer.setAttribute("aria-label", "Other files");
      outer.title = "Other files";
      outer.tabIndex = -1;
    }],
    ["input[type='checkbox'][title]:not([aria-label])", (box) => box.setAttribute("aria-label", box.title)],
  ];
  let waiting = false;

  function mend() {
    waiting = false;
    for (const [selector, change, within] of mends) {
      document.querySelectorAll(within ? `${within} ${selector}` : selector).forEach(change);
    }
  }

  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(mend);
  }).observe(document.documentElement, { subtree: true, childList: true });
})();
