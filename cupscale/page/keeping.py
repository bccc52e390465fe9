"""The button that keeps a result under a link, for whoever wants that, and the opening of such a link."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page.jobs import Updates
from cupscale.page.kept_links import KeptLinks
from cupscale.page.limits import Limits
from cupscale.page.opening import Opening
from cupscale.page.run import GONE, Shot
from cupscale.page.session import PRIVATE, TOASTING, complain
from cupscale.planning import duration

# A reload shows the picture again; a run of this visit, and the settings that were changed since, stay.
# How the page was opened, and with which token; nothing where there is none, so that the server is not asked.
_OPENED = """() => {
  const token = new URLSearchParams(location.search).get('kept')
  const how = performance.getEntriesByType('navigation')[0]?.type === 'navigate' ? 'new'
    : sessionStorage.getItem('cupscale-run') ? 'run' : 'again'
  return [token ? `${how} ${token}` : '']
}"""
_WHOLE = "(token) => token ? `${location.origin}${location.pathname}?kept=${token}` : ''"


class Keeping:
    """Its components, made inside the accordion of links, and what they do. On a page that keeps nothing there are none."""

    def __init__(self, limits: Limits) -> None:
        self._offered = limits.link_seconds > 0
        kept = limits.kept_seconds
        self._token = gr.State("", time_to_live=max(kept, limits.link_seconds))
        span = "a day" if limits.link_seconds == 86_400 else duration(max(1, limits.link_seconds))
        with gr.Column(visible=self._offered, elem_id="keeping"):
            gr.Markdown(
                f"**Your own picture in a link**: the result, its plain enlargement and its settings are kept on this server for "
                f"{span}, or until it is stopped or you delete them. Whoever has the link sees them.",
                elem_classes="cu-small",
            )
            with gr.Row():
                self._keep = gr.Button("Keep this result under a link", size="sm", elem_id="keep-link")
                self._delete = gr.Button("Delete it now", size="sm", visible=False, elem_id="delete-link")
            self._box = gr.Textbox(
                label="Link to this result",
                interactive=False,
                buttons=["copy"],
                visible=False,
                elem_id="kept-link",
            )
            self._bare = gr.Textbox(visible="hidden", elem_id="kept-token")

    def wire(self, demo: Any, opening: Opening) -> None:
        """Connect the buttons, and the opening of the page.

        Args:
            demo: The page.
            opening: Shows what a link kept.
        """
        links: KeptLinks = demo.links
        outputs = [self._token, self._bare, self._box, self._delete]

        def keep(shot: Any, before: str) -> Updates:
            """The one before, of this visit, goes."""
            try:
                if not isinstance(shot, Shot):
                    raise CupscaleError("there is no result of a run in the slider: " + GONE)
                token = links.keep(shot).token
            except CupscaleError as error:
                complain(error)
                return {self._token: gr.skip()}
            links.withdraw(before)
            shown = gr.update(visible=True)
            return {self._token: token, self._bare: token, self._box: shown, self._delete: shown}

        def delete(token: str) -> Updates:
            links.withdraw(token)
            hidden = gr.update(visible=False)
            return {
                self._token: "",
                self._bare: "",
                self._box: gr.update(visible=False, value=""),
                self._delete: hidden,
            }

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

        self._keep.click(keep, [opening.shown, self._token], outputs, show_progress="minimal", **PRIVATE)
        self._delete.click(delete, self._token, outputs, **TOASTING)
        self._bare.change(None, self._bare, self._box, js=_WHOLE)
        how = gr.Textbox(visible="hidden", elem_id="opened-how")
        demo.load(None, None, how, js=_OPENED)
        opening.follow(how.change, opened, how)
