"""A light first visit: the page's HTML is compressed and quickly read, and what no one sees yet is not fetched.

gradio's browser side fetches the code of every component that is visible by its own account, on tabs that are closed too.
Here the components of a closed part begin invisible, and its opening shows them, within the browser. And it fetches a style
sheet or two for every kind of component; those of the first screen are in the page, and marked as there, as is its theme. Their
scripts it asks for one after the other finds the next; the page names them all at its head, and runs them.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import BlockContext

_ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
_ENTRY = re.compile(r'<script type="module" crossorigin src="\./assets/(index-[\w-]+\.js)">')
# What a script of Vite's asks for as it runs, with all that goes with it; and which of those a component's kind needs.
_LISTED = re.compile(r"m\.f=(\[[^\]]*\])")
_ASKED = re.compile(r"import\(`\./(?P<name>[^`]*)`\)[^\[]*?__vite__mapDeps\(\[(?P<files>[\d,]*)\]\)")
_KIND = re.compile(
    r"[{,](?P<kind>[a-z_]+):\{[^{}]*component:\(\)=>\w+\(\(\)=>import\(`\./(?P<name>[^`]*)`\)"
    r"(?:\.then\(\w+=>\w+\.(?P<part>\w+)\))?"
)
# gradio escapes what ends a script in HTML.
_PROGRAM = re.compile(
    rb"<script>window\.(?P<name>gradio_config|gradio_api_info) = (?P<json>\{[^<]*\});</script>"
)
# Once: what a handler hides later stays hidden.
_SHOW = """() => {
  const opened = (window.cupscaleOpened ??= new Set()), first = !opened.has(%d)
  opened.add(%d)
  return Array(%d).fill(first ? {__type__: 'update', visible: true} : {__type__: 'update'})
}"""
_LINKS = """for (const name of %s) {
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", disabled: true })
  link.href = new URL(name, document.baseURI)
  document.head.append(link)
}"""
# gradio looks here for the code of a component, by its Python class, before it fetches any. Where a script was not to be had it
# is asked for once more.
_HERE = """const first = new Promise((done) => { window.cupscaleFirst = done }), kinds = %s
window.__GRADIO__CC__ = Object.fromEntries(Object.entries(%s).map(([key, kind]) => [key, { component: async () => {
  const part = (await first)[kind], [name, its] = kinds[kind]
  if (part) return part
  const whole = await import(new URL(name, document.baseURI))
  return its ? whole[its] : whole
} }]))"""


def as_data(html: bytes) -> bytes:
    """The page's HTML, with what gradio puts in it as a program (half a megabyte) put there as data.

    A browser reads JSON several times faster than the same text as JavaScript. HTML that is built in another way comes back as
    it is.
    """

    def read(found: re.Match[bytes]) -> bytes:
        name = found["name"]
        return (
            b'<script type="application/json" id="cupscale-%b">%b</script>'
            b'<script>window.%b = JSON.parse(document.getElementById("cupscale-%b").textContent);</script>'
        ) % (name, found["json"], name, name)

    return _PROGRAM.sub(read, html)


@lru_cache(maxsize=16)
def compressed(html: bytes) -> bytes:
    """The page's HTML, by gzip, once for all who get the same."""
    return gzip.compress(html, 6, mtime=0)


def later(part: BlockContext, opened: Callable[..., Any]) -> None:
    """Fetch the components of a closed part when it is opened for the first time.

    Args:
        part: An accordion or a tab.
        opened: Its event, such as `part.expand`.
    """
    waiting = [block for block in _within(part) if block.visible is True]
    for block in waiting:
        block.visible = False
    opened(None, None, waiting, js=_SHOW % (part._id, part._id, len(waiting)), api_visibility="private")


def never(part: BlockContext) -> None:
    """Fetch nothing for the components of a part that no one sees."""
    for block in _within(part):
        block.visible = False


def _within(part: BlockContext) -> Iterator[Any]:
    """The components inside, without the layout."""
    for child in part.children:
        if isinstance(child, BlockContext) and not isinstance(child, gr.HTML):
            yield from _within(child)
        elif isinstance(child, gr.components.Component) and not isinstance(child, gr.State):
            yield child


def head(demo: gr.Blocks) -> tuple[str, str]:
    """What the first screen needs, for the page's HTML: the names of its scripts, its style sheets, and the scripts' start.

    The browser's loader (Vite's) fetches a sheet unless a link to it is there: a disabled link is there and is not fetched. A
    script writes those links: what looks ahead in a browser for files to fetch takes a disabled one in the HTML for a sheet.
    Where this gradio is built in another way than the one that was looked at (6.31), both are empty, and all is fetched.

    Returns:
        For the beginning of the head, and for its end.
    """
    seen = [block for block in demo.blocks.values() if _seen(block)]
    parts = sorted({name for block in seen for name in _files().get(block.get_block_name(), ())})
    names = list(dict.fromkeys([*_of_the_whole(), *parts]))  # those that run first come first
    sheets = [name for name in names if name.endswith(".css") and not name.startswith("index-")]
    text = "".join((_ASSETS / name).read_text("utf-8") for name in sheets)
    if not sheets or "url(" in text or "</" in text:
        return "", ""
    there = [f"assets/{name}" for name in sheets]
    theme = getattr(demo, "theme_css", "")
    if theme and "</" not in theme:  # the page waits for it, and else asks when its scripts run
        text += theme
        there.append(f"theme.css?v={demo.theme_hash}")
    early = "".join(
        f'<link rel="modulepreload" href="assets/{name}">' for name in names if name.endswith(".js")
    )
    return early, f"<style>{text}</style><script>{_LINKS % json.dumps(there)}</script>{_started(seen)}"


def _started(seen: list[Any]) -> str:
    """HTML that runs the first screen's scripts and hands each component its code.

    gradio asks for the code of each kind of component as it builds the page. Even where the browser has it, it comes some of its
    tasks later, frames between them, and what is inside another component waits once more.
    """
    kinds = {block.component_class_id: block.get_block_name() for block in seen}
    kinds["column"] = "column"  # the page's own frame
    found = {kind: _parts()[kind] for kind in dict.fromkeys(kinds.values()) if kind in _parts()}
    files = {kind: (f"assets/{name}", part) for kind, (name, part) in found.items()}
    given = {key: kind for key, kind in kinds.items() if kind in found}
    whole = [name for name in _of_the_whole() if re.fullmatch(r"(?:Index|Blocks)-.*\.js", name)]
    code = "".join(f'import "./assets/{name}";' for name in whole)
    code += "".join(f'import * as _{kind} from "./{name}";' for kind, (name, _) in files.items())
    parts = ",".join(f"{kind}:_{kind}{part and '.'}{part}" for kind, (_, part) in found.items())
    return (
        f"<script>{{{_HERE % (json.dumps(files), json.dumps(given))}}}</script>"
        f'<script type="module" onerror="cupscaleFirst({{}})">{code}cupscaleFirst({{{parts}}})</script>'
    )


def _seen(block: Any) -> bool:
    """Whether the browser fetches the code of a block at first; it does so by the block's own word."""
    return getattr(block, "visible", True) is not False


def _of_the_whole() -> list[str]:
    """The page's first script, the files that it asks for, and those that the tree of components needs."""
    entry = _ENTRY.search((_ASSETS.parent / "index.html").read_text("utf-8"))
    script = entry[1] if entry else ""
    found = [script] if entry else []
    for part in ("Index-", "Blocks-"):
        asked = _asked(script)
        script = next((name for name in asked if name.startswith(part)), "")
        found += asked.get(script, ())
    return found


def _asked(script: str) -> dict[str, list[str]]:
    """Each script that a script of gradio's build asks for as it runs, with all files that go with it."""
    file = _ASSETS / script
    code = file.read_text("utf-8") if file.is_file() else ""
    listed = _LISTED.search(code)
    files = [name.removeprefix("./") for name in json.loads(listed[1])] if listed else []
    found = _ASKED.finditer(code)
    return {one["name"]: [files[int(k)] for k in one["files"].split(",") if k] for one in found}


@lru_cache(maxsize=1)
def _parts() -> dict[str, tuple[str, str]]:
    """kind of component -> its script, and what of that is the component, as gradio's own build lists them."""
    for file in _ASSETS.glob("core-*.js"):
        found = _KIND.finditer(file.read_text("utf-8"))
        return {one["kind"]: (one["name"], one["part"] or "") for one in found}
    return {}


@lru_cache(maxsize=1)
def _files() -> dict[str, list[str]]:
    """kind of component -> its style sheets and scripts, as gradio's own build lists them."""
    for file in _ASSETS.glob("core-*.js"):
        asked = _asked(file.name)
        return {kind: asked.get(name, []) for kind, (name, _) in _parts().items()}
    return {}
