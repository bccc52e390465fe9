"""The page's `gr.Blocks`: what a request brings is checked before any component or handler sees it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page import agents, references
from cupscale.page.desk import Desk
from cupscale.page.kept_links import KeptLinks
from cupscale.page.session import refusal
from cupscale.page.source import SourceImage


class Guarded(gr.Blocks):
    """Refuses files that are not the page's own, for every endpoint and every component.

    desk: the runs that wait and run. links: the results that visitors keep under a link.
    """

    desk: Desk
    links: KeptLinks
    _tools: Any = None

    @property
    def mcp_server_obj(self) -> Any:
        """gradio's server of tools for agents, which gradio sets as the page is launched, mended."""
        return self._tools

    @mcp_server_obj.setter
    def mcp_server_obj(self, server: Any) -> None:
        if server is not None:
            agents.mend(server)
        self._tools = server

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """As gradio's, after the check. The source image has its own words for an upload that was deleted."""
        try:
            for k, value in enumerate(inputs):
                block = block_fn.inputs[k] if k < len(block_fn.inputs) else None
                references.checked(value, gone=isinstance(block, SourceImage))
        except CupscaleError as error:
            raise refusal(error) from None
        made: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        return made
