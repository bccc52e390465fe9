"""gradio's scripts and style sheets on their way out: out of memory, compressed once, and faults of theirs mended.

gradio reads and compresses each of some sixty files anew for each visitor.

Most of the faults are slowness, `_quick`, `_once`, `_plain`, `_spoken`. The other is an older value that replaces a newer one:
what is set on a component that is not there yet waits until it is, and gradio (6.31) then lets it wait once more, until the page
has settled, and sets it whatever came meanwhile. On a busy machine the settings of a link or a visit give way to earlier ones.
Here what comes meanwhile takes its place among what waits. Where this gradio is built in another way than the one that was looked
at, its scripts go out as they are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import brotli
import gradio as gr
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
_MENDED = ("core-", "Blocks-", "Index-", "runtime-")
_KEPT = 256  # files; whoever asks chooses the name
# The file's name holds the hash of gradio's own.
_YEAR = {"Cache-Control": "public, max-age=31536000, immutable"}
# Where a component comes to be, and where one is set. `of`: what waits, by component; `there`: how to set it.
_COMES = re.compile(
    r"let (?P<what>\w+)=(?P<of>this\.#\w+)\.get\((?P<key>\w+)\);(?P=what)&&\((?P=of)\.delete\((?P=key)\),(?P<settled>\w+\(\))"
    r"\.then\(\(\)=>\{let (?P<set>\w+)=(?P<there>this\.#\w+)\.get\((?P=key)\);(?P=set)&&(?P=set)\((?P=what)\)\}\)\)"
)
_IS_SET = re.compile(r"\b(?P<set>\w+)&&\((?=(?P=set)\((?P<news>\w+)\),\w+\?\.type===`tabitem`)")
# Looks through all steps of the page for each of its components, as objects that tell of every reading.
_LOOKS = re.compile(r"\bfind_attached_events\((?P<component>\w+),(?P<steps>\w+)\)\{(?=let )")
# Where the tree is built anew, by how often the page has changed; and where a component learns what its events say to a step.
_BUILT = re.compile(r"\b(?P<changes>\w+)\(\),(?P<then>\w+\(\(\)=>\{\w+\.reload\(\w+\.components,)")
_SAYS = re.compile(r"\basync set_event_args\(\w+,(?P<said>\w+)\)\{(?=let )")
# Where the tree grows, and where the page learns what it consists of: as objects that tell of every reading.
_GROWS = re.compile(
    r"this\.root=this\.create_node\(\{id:\w+\.id,children:\[\]\},new Map,!0\);.{0,600}?this\.postprocess\(this\.root\)"
)
_CONSISTS = re.compile(r"\b(?P<set>\w+\(\w+,\w+\(\w+\)\.get_url_config\(\)),!0\)")

# Where the language of a text is looked for among all that the browser has numbers and dates of: the first time takes 25 ms.
_LANGUAGE = re.compile(r"(?<=\.resolveLocale=function\((?P<of>\w)\)\{)(?=if\(Intl\.Locale!==void 0\)\{)")


def mended(code: str) -> str:
    """A script of gradio's, mended, or as it is where it is not known.

    Args:
        code: JavaScript.
    """
    return _spoken(_plain(_once(_quick(_in_order(code)))))


def _spoken(code: str) -> str:
    """The language of a text is read from its name: of one name it is the same, found or not."""
    return _LANGUAGE.sub(r"if(typeof \g<of>==`string`)return new Intl.Locale(\g<of>);", code)


def _plain(code: str) -> str:
    """What the page consists of, and the tree until it is grown, are plain objects; nobody listens to them yet."""
    code = _GROWS.sub(lambda tree: tree[0].replace("this.root", "this.cupscaleRoot"), code)
    return _CONSISTS.sub(r"\g<set>)", code)


def _once(code: str) -> str:
    """The tree is built once, and what an event says to a step is looked for where it says something.

    gradio builds the tree as the page opens, and at once builds it again, as for a page that has changed meanwhile.
    """
    code = _BUILT.sub(r"\g<changes>()&&\g<then>", code)
    return _SAYS.sub(r"\g<0>if(!Object.keys(\g<said>).length)return()=>{};", code)


def _quick(code: str) -> str:
    """The steps of each component are found once, out of gradio's observed objects, and again where steps are added."""
    looks = _LOOKS.search(code)
    if looks is None or "cupscaleSteps" in code:
        return code
    component, steps = looks["component"], looks["steps"]
    copied = (
        f"if(this.cupscaleSteps?.of!=={steps}||this.cupscaleSteps.count!=={steps}.length){{let by=new Map;"
        f"for(let s of {steps}){{let targets=s.targets.map(one=>[one[0],one[1]]);"
        f"for(let id of new Set(targets.map(one=>one[0])))by.has(id)||by.set(id,[]),by.get(id).push({{targets}})}}"
        f"this.cupscaleSteps={{of:{steps},count:{steps}.length,by}}}}"
        f"{steps}=this.cupscaleSteps.by.get({component}.id)??[];"
    )
    return code.replace(looks[0], looks[0] + copied)


def _in_order(code: str) -> str:
    comes, is_set = _COMES.search(code), _IS_SET.search(code)
    if comes is None or is_set is None:
        return code
    key, of, what, there = (comes[name] for name in ("key", "of", "what", "there"))
    later = (
        f"let {what}={of}.get({key});{what}&&{comes['settled']}.then(()=>{{let s={there}.get({key}),w={of}.get({key});"
        f"{of}.delete({key}),s&&w&&s(w)}})"
    )
    news = is_set["news"]
    first = f"{is_set[0]}Object.keys({of}.get({key})??{{}}).forEach(k=>k in {news}&&({of}.get({key})[k]={news}[k])),"
    return code.replace(comes[0], later).replace(is_set[0], first)


class Assets:
    """ASGI: gradio's scripts and style sheets, read, mended and compressed once, and not at every visit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        folder, _, name = scope["path"].rpartition("/") if scope["type"] == "http" else ("", "", "")
        text = _text(name) if folder == "/assets" and name.endswith((".js", ".css")) else b""
        if not text:
            await self._app(scope, receive, send)
            return
        headers = _YEAR | {"Vary": "Accept-Encoding"}
        if "br" in Headers(scope=scope).get("accept-encoding", ""):
            text, headers["Content-Encoding"] = _compressed(name), "br"
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        await Response(text, media_type=kind, headers=headers)(scope, receive, send)


@lru_cache(maxsize=_KEPT)
def _text(name: str) -> bytes:
    """A file of gradio's, mended; nothing where there is none."""
    file = _ASSETS / name
    if not file.is_file():
        return b""
    return mended(file.read_text("utf-8")).encode() if name.startswith(_MENDED) else file.read_bytes()


@lru_cache(maxsize=_KEPT)
def _compressed(name: str) -> bytes:
    return brotli.compress(_text(name), mode=brotli.MODE_TEXT, quality=9)
