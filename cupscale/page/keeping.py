"""The button that keeps a result under a link, for whoever wants that, the links of this browser, and the opening of one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page.jobs import Updates
from cupscale.page.kept_links import KeptLinks
from cupscale.page.limits import Limits, on_space
from cupscale.page.opening import Opening
from cupscale.page.run import GONE, Shot
from cupscale.page.session import PRIVATE, complain
from cupscale.page.viewer import Scripted
from cupscale.page.visitor import visitor
from cupscale.planning import duration

# A reload shows the picture again; a run of this visit, and the settings that were changed since, stay.
# How the page was opened, and with which token; nothing where there is none, so that the server is not asked.
_OPENED = """() => {
  const token = new URLSearchParams(location.search).get('kept')
  const how = performance.getEntriesByType('navigation')[0]?.type === 'navigate' ? 'new'
    : sessionStorage.getItem('cupscale-run') ? 'run' : 'again'
  return [token ? `${how} ${token}` : '']
}"""


class Made(Scripted):
    """The links that this browser made, which it alone can delete. Its value is the newest one, with its secret."""

    def __init__(self, **options: Any) -> None:
        super().__init__("kept", {}, **options)


class Keeping:
    """Its components, made inside the accordion of links, and what they do. On a page that keeps nothing there are none."""

    def __init__(self, limits: Limits) -> None:
        self._offered = limits.link_seconds > 0
        span = "a day" if limits.link_seconds == 86_400 else duration(max(1, limits.link_seconds))
        with gr.Column(visible=self._offered, elem_id="keeping"):
            gr.Markdown(
                "**Your own picture in a link**: the result, its plain enlargement and its settings are kept on this server for "
                f"{span}, or until it is stopped or you delete them. Whoever has the link sees them; only this browser can "
                "delete them.",
                elem_classes="cu-small",
            )
            self._keep = gr.Button("Keep this result under a link", size="sm", elem_id="keep-link")
            self._made = Made(elem_id="kept-links")

    def wire(self, demo: Any, opening: Opening) -> None:
        """Connect the buttons, and the opening of the page.

        Args:
            demo: The page.
            opening: Shows what a link kept.
        """
        links: KeptLinks = demo.links

        def keep(shot: Any, request: gr.Request) -> Any:
            try:
                if not isinstance(shot, Shot):
                    raise CupscaleError("there is no result of a run in the slider: " + GONE)
                who = visitor(request.client.host if request.client else "", request.headers, on_space())
                kept, secret = links.keep(shot, who)
            except CupscaleError as error:
                complain(error)
                return gr.skip()
            seconds = links.limits.link_seconds
            return {"token": kept.token, "secret": secret, "seconds": seconds, "note": kept.note}

        def opened(text: str) -> Generator[Updates, None, None]:
            how, _, token = text.partition(" ")
            found = links.find(token)
            if found and how != "run":
                yield opening.kept(found, settings=how == "new")
            elif token and not found:
                line = (
                    "the picture of this link is gone: it was kept for a while only, or its owner deleted it"
                )
                complain(CupscaleError(line), "The picture of this link is gone")
            yield {opening.token: gr.skip()}

        self._keep.click(keep, opening.shown, self._made, show_progress="minimal", **PRIVATE)
        how = gr.Textbox("", visible=False, elem_id="opened-how")
        demo.load(None, None, how, js=_OPENED)
        opening.follow(how.change, opened, how)
