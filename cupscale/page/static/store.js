// The results of this browser, in IndexedDB. The slider adds to it, the History tab shows it.
window.cupscaleStore = (() => {
  const KEPT = 40, THUMB_PX = 320;

  function store(mode, work) {
    return new Promise((resolve, reject) => {
      const open = indexedDB.open("cupscale", 1);
      open.onupgradeneeded = () => open.result.createObjectStore("results", { keyPath: "id", autoIncrement: true });
      open.onerror = () => reject(open.error);
      open.onsuccess = () => {
        const base = open.result, transaction = base.transaction("results", mode);
        const request = work(transaction.objectStore("results"));
        transaction.oncomplete = () => { base.close(); resolve(request && request.result); };
        transaction.onabort = transaction.onerror = () => { base.close(); reject(transaction.error); };
      };
    });
  }

  async function thumbnail(blob) {
    const bitmap = await createImageBitmap(blob);
    const shrink = Math.min(1, THUMB_PX / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * shrink));
    canvas.height = Math.max(1, Math.round(bitmap.height * shrink));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.85));
  }

  async function content(url) {
    const answer = url ? await fetch(url) : null;
    return answer && answer.ok ? answer.blob() : null;
  }

  async function add(value) {
    const [blob, before, input] = await Promise.all([value.url, value.before, value.input?.url].map(content));
    const inputName = value.input ? decodeURIComponent(value.input.url.split("/").pop()) : null;
    await store("readwrite", (results) => results.add({
      when: Date.now(), name: value.name, note: value.note, settings: value.settings, blob, before, input, inputName, thumb: null,
    })).then(async (id) => {
      const thumb = await thumbnail(blob).catch(() => null);
      const entry = await store("readonly", (results) => results.get(id));
      if (entry && thumb) await store("readwrite", (results) => results.put({ ...entry, thumb }));
    });
    const ids = await store("readonly", (results) => results.getAllKeys());
    for (const id of ids.slice(0, -KEPT)) await store("readwrite", (results) => results.delete(id));
  }

  function changed(problem) {
    window.dispatchEvent(new CustomEvent("cupscale-history", { detail: problem || "" }));
  }

  return {
    get: (id) => store("readonly", (results) => results.get(id)),
    all: async () => (await store("readonly", (results) => results.getAll())).reverse(),
    add: (value) => add(value).then(() => changed(), () => changed("The newest result could not be kept: the browser's storage is full.")),
    remove: (id) => store("readwrite", (results) => results.delete(id)).then(() => changed()),
    clear: () => store("readwrite", (results) => results.clear()).then(() => changed()),
  };
})();
