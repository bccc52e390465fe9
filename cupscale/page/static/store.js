// What this browser keeps, in IndexedDB: a base of one store each, whose calls are "readonly" or "readwrite".
window.cupscaleBase = (base, name, key) => (mode, work) => new Promise((resolve, reject) => {
  const open = indexedDB.open(base, 1);
  open.onupgradeneeded = () => open.result.createObjectStore(name, key);
  open.onerror = () => reject(open.error);
  open.onsuccess = () => {
    const base = open.result, transaction = base.transaction(name, mode);
    const request = work(transaction.objectStore(name));
    transaction.oncomplete = () => { base.close(); resolve(request && request.result); };
    transaction.onabort = transaction.onerror = () => { base.close(); reject(transaction.error); };
  };
});

// The last input images and those of the present batch, so that a server that starts again, or forgets them in time, is given
// the present ones once more.
window.cupscaleInputs = (() => {
  const KEPT = 8, store = cupscaleBase("cupscale-inputs", "inputs", { keyPath: "path" });
  const server = () => `${window.gradio_config?.root || ""}/gradio_api`;
  const address = (path) => `${server()}/file=${path.split("/").map(encodeURIComponent).join("/")}`;
  const BATCH = "cupscale-batch-files";
  let last = null;

  function batch() {
    try { return JSON.parse(sessionStorage.getItem(BATCH) || "[]"); } catch { return []; }
  }

  async function add(path) {
    if (await store("readonly", (inputs) => inputs.getKey(path))) return;
    const answer = await fetch(address(path));
    if (!answer.ok) return;
    const blob = await answer.blob();
    await store("readwrite", (inputs) => inputs.put({ path, when: Date.now(), blob }));
    const held = batch(), all = await store("readonly", (inputs) => inputs.getAll());
    const old = all.filter((entry) => !held.includes(entry.path)).sort((one, other) => other.when - one.when).slice(KEPT);
    for (const { path } of old) await store("readwrite", (inputs) => inputs.delete(path));
  }

  // An example is the server's own.
  function keep(visit) {
    const { image, example } = JSON.parse(visit || "{}");
    if (!image || example || image === last) return;
    last = image;
    add(image).catch(() => { /* full, or off: an input that is gone is asked for */ });
  }

  // paths: as a text, JSON.
  async function keepBatch(paths) {
    try { sessionStorage.setItem(BATCH, paths); } catch { return; /* off: a reload starts without them */ }
    for (const path of batch()) await add(path).catch(() => { /* full: a file that is gone is left out */ });
  }

  // An image by its place on the server, to which it is given again where it has it no more.
  async function present(path) {
    if ((await fetch(address(path), { method: "HEAD", cache: "no-store" })).ok) return path;
    const entry = await store("readonly", (inputs) => inputs.get(path));
    if (!entry) return path;
    const form = new FormData();
    form.append("files", entry.blob, path.split("/").pop());
    return (await (await fetch(`${server()}/upload`, { method: "POST", body: form })).json())[0];
  }

  // The visit, whose image is on the server where it can be.
  async function brought(kept) {
    try {
      const visit = JSON.parse(kept), { image, example } = visit;
      return image && !example ? JSON.stringify({ ...visit, image: await present(image) }) : kept;
    } catch {
      return kept;
    }
  }

  // The batch's images likewise, after a reload or on the way back, with the name of its run; a link begins without them.
  async function broughtBatch() {
    if (performance.getEntriesByType("navigation")[0]?.type === "navigate") sessionStorage.removeItem(BATCH);
    const files = [];
    for (const path of batch()) files.push(await present(path).catch(() => path));
    return files.length ? JSON.stringify({ files, name: sessionStorage.getItem("cupscale-batch") || "" }) : "";
  }

  return { keep, brought, keepBatch, broughtBatch, clear: () => store("readwrite", (inputs) => inputs.clear()) };
})();

// The links under which this browser let results be kept, each with the secret that deletes it. Nobody else has that.
window.cupscaleLinks = (() => {
  const store = cupscaleBase("cupscale-links", "links", { keyPath: "token" });
  const here = new Map();  // of this visit, where the browser keeps nothing

  async function all() {
    const stored = await store("readonly", (links) => links.getAll()).catch(() => []);
    const links = new Map([...stored, ...here.values()].map((link) => [link.token, link]));
    return [...links.values()].sort((one, other) => other.until - one.until);
  }

  async function forget(token) {
    here.delete(token);
    await store("readwrite", (links) => links.delete(token)).catch(() => { /* off: it was never there */ });
  }

  // Those that are there. One that seems not to be is forgotten after its time only: a server that starts may not have it yet.
  async function live() {
    const found = [];
    for (const link of await all()) {
      const answer = await fetch(`card.jpg?kept=${link.token}`, { method: "HEAD", cache: "no-store" }).catch(() => null);
      if (answer?.status !== 404) found.push(link);
      else if (link.until < Date.now()) await forget(link.token);
    }
    return found;
  }

  async function add({ token, secret, seconds, note }) {
    const link = { token, secret, note, until: Date.now() + 1000 * seconds };
    here.set(token, link);
    await store("readwrite", (links) => links.put(link)).catch(() => { /* full, or off: this visit can delete it */ });
  }

  // Nothing where it is deleted, else why not.
  async function remove({ token, secret }) {
    const answer = await fetch(`kept/${token}`, { method: "DELETE", headers: { "cupscale-secret": secret } }).catch(() => null);
    if (answer?.ok) {
      await forget(token);
      return "";
    }
    const told = answer && await answer.json().catch(() => null);
    return told?.detail || "Nothing was deleted: the server does not answer. Try again.";
  }

  // How many are still there after it.
  async function clear() {
    const links = await live(), why = await Promise.all(links.map(remove));
    const left = links.filter((link, k) => why[k]).map(({ token }) => token);
    for (const { token } of await all()) if (!left.includes(token)) await forget(token);
    window.dispatchEvent(new CustomEvent("cupscale-links"));
    return left.length;
  }

  return { add, live, remove, clear };
})();

// The results of this browser. The slider adds to it, the History tab shows it.
window.cupscaleStore = (() => {
  const KEPT = 40, THUMB_PX = 320;
  const store = cupscaleBase("cupscale", "results", { keyPath: "id", autoIncrement: true });

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
    clear: async () => {
      const [left] = await Promise.all([
        cupscaleLinks.clear(), store("readwrite", (results) => results.clear()), cupscaleInputs.clear(),
      ]);
      const links = left ? `. Links to results are still there (${left}): the server did not delete them. Try again.` : ", and its links.";
      changed(`Deleted: the results and the input images that this browser kept${links}`);
    },
  };
})();
