"""The page: Gradio blocks, one file per concern. No method code."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from cupscale.page import (
    api,
    captions,
    engine,
    examples,
    limits as limits_module,
    previews,
    queue,
    scratch,
    style,
)
from cupscale.page.api import Endpoints
from cupscale.page.batch import BatchTab
from cupscale.page.blocks import Guarded
from cupscale.page.compare import CompareTab
from cupscale.page.desk import Desk
from cupscale.page.history import History
from cupscale.page.kept_links import KeptLinks
from cupscale.page.limits import Limits, on_space
from cupscale.page.region_tab import RegionsTab
from cupscale.page.session import SILENT, Session
from cupscale.page.upscale import UpscaleTab

__all__ = ["Limits", "build", "launch"]

HEAD = (
    "# cupscale\n"
    "A small picture in, a large one out that stays the picture it is. "
    "A public implementation of [C-Upscale](https://arxiv.org/abs/2505.16976)."
)


def build(limits: Limits | None = None) -> gr.Blocks:
    """The whole page, not yet launched."""
    gr.set_static_paths([examples.FOLDER])
    limits = limits or limits_module.current()
    own = scratch.take_uploads()
    scratch.keep_clean(limits.kept_seconds, limits.link_seconds)
    engine.preload()
    captions.preload()
    with Guarded(
        title="cupscale",
        analytics_enabled=False,
        delete_cache=None if own else (min(600, limits.kept_seconds), limits.kept_seconds),
    ) as demo:
        gr.Markdown(HEAD, elem_id="head")
        demo.desk = Desk(limits)
        demo.links = KeptLinks(limits)
        session = Session(limits)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Upscale", id="upscale"):
                upscale = UpscaleTab(session)
            with gr.Tab("Regions", id="regions"):
                regions = RegionsTab(session)
            with gr.Tab("Batch", id="batch") as batch_tab:
                batch = BatchTab(session)
            with gr.Tab("Compare", id="compare"):
                compare = CompareTab(session)
            with gr.Tab("History", id="history"):
                past = History(elem_id="history")
        _keep_in_address(demo, tabs)
        opening = upscale.wire(demo, regions.drawing(), past, tabs)
        regions.wire()
        batch.wire(demo, batch_tab, opening)
        compare.wire(opening)
        Endpoints(limits).build()
    demo.queue(default_concurrency_limit=8, api_open=False)
    scratch.keep_present()
    return demo


def _keep_in_address(demo: gr.Blocks, tabs: gr.Tabs) -> None:
    """The open tab stands in the address, and an address opens its tab."""
    for tab in tabs.children:
        assert isinstance(tab, gr.Tab)
        tab.select(None, None, None, js=f"() => cupscaleTab('{tab.id}')")
    known = [tab.id for tab in tabs.children if isinstance(tab, gr.Tab)]

    def opened(request: gr.Request) -> Any:
        name = dict(request.query_params).get("tab")
        return gr.Tabs(selected=name) if name in known else gr.skip()

    demo.load(opened, None, tabs, **SILENT)


def launch(demo: gr.Blocks, **options: Any) -> Any:
    """Serve the page. GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where."""
    limits = limits_module.current()
    scratch.leave_on_terminate()
    with_mcp = os.environ.get("GRADIO_MCP_SERVER", "").lower() not in ("0", "false") and api.mcp_installed()
    usual: dict[str, Any] = {
        "theme": style.theme(),
        "css": style.css(),
        "head": style.head(),
        "footer_links": ["api", "settings"],
        "run_history": False,
        "max_file_size": limits.file_bytes,
        "mcp_server": with_mcp,
        "share": False,
        "show_error": True,
        "ssr_mode": False,
        "max_threads": 40 + limits.queue,  # whoever waits holds one
        "quiet": on_space(),
        "app_kwargs": {
            "middleware": [
                Middleware(queue.Watch, demo=demo),
                Middleware(previews.Previews, demo=demo),
            ]
        },
    }
    return demo.launch(**(usual | options))
