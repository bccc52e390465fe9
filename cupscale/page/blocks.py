"""The page's `gr.Blocks`: what a request brings is checked before any component or handler sees it."""

from __future__ import annotations

import traceback
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page import agents, answers, calls, references
from cupscale.page.desk import Desk
from cupscale.page.kept_links import KeptLinks
from cupscale.page.session import refusal
from cupscale.page.source import SourceImage

_SCHEMAS = ("api_info", "api_info_as_input", "api_info_as_output", "example_inputs")


class Guarded(gr.Blocks):
    """Refuses files that are not the page's own, for every endpoint and every component.

    desk: the runs that wait and run. links: the results that visitors keep under a link.
    """

    desk: Desk
    links: KeptLinks
    _tools: Any = None

    def get_config_file(self) -> Any:
        """As gradio's, without the schemas of components that no program calls: they were a quarter of the page."""
        config = super().get_config_file()
        public = [fn for fn in self.fns.values() if fn.api_visibility != "private"]
        called = {block._id for fn in public for block in (*fn.inputs, *fn.outputs)}
        for component in config["components"]:
            if component["id"] not in called:
                for name in _SCHEMAS:
                    component.pop(name, None)
        return config

    def queue(self, *given: Any, **named: Any) -> Guarded:
        """As gradio's, whose answers are bounded and whose visitors take turns."""
        super().queue(*given, **named)
        answers.bound(self._queue)
        calls.bound(self._queue)
        return self

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
            self._check(block_fn, inputs)
            made: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        finally:
            _forget(state)
        return made

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """As gradio's, whose words tell of objects of the server and not of what is wanted.

        Raises:
            CupscaleError: There are too few; raised as gradio's error.
        """
        wanted = [str(getattr(block, "label", None) or block.get_block_name()) for block in block_fn.inputs]
        if len(inputs) < len(wanted):
            raise refusal(
                CupscaleError(
                    f"{block_fn.api_name or 'this'} takes {len(wanted)} values and {len(inputs)} came: "
                    f"{', '.join(wanted)}, in this order"
                )
            )

    @staticmethod
    def _check(block_fn: Any, inputs: list[Any]) -> None:
        try:
            for k, value in enumerate(inputs):
                block = block_fn.inputs[k] if k < len(block_fn.inputs) else None
                references.checked(value, gone=isinstance(block, SourceImage))
        except CupscaleError as error:
            raise refusal(error) from None

    async def call_function(self, *given: Any, **named: Any) -> Any:
        """As gradio's, of which an error keeps nothing but its words."""
        try:
            return await super().call_function(*given, **named)
        except Exception as error:
            _let_go(error)
            raise

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """As gradio's, which keeps nothing of it."""
        try:
            made: list[Any] = await super().postprocess_data(block_fn, predictions, state)
        finally:
            _forget(state)
        return made


def _let_go(error: BaseException | None) -> None:
    """Empty the calls that an error went through: a refusal that gradio keeps for a while would keep the picture as well."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _forget(state: Any) -> None:
    """gradio keeps what each of 10,000 sessions sent and saw, for links of its own that this page does not have."""
    if state is not None:
        state.config_values.clear()
