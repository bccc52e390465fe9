"""The page: Gradio blocks, one file per concern. No method code."""

from __future__ import annotations

import json
import os
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from cupscale.page import (
    api,
    captions,
    engine,
    examples,
    heading,
    heap,
    large,
    light,
    limits as limits_module,
    mended,
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
from cupscale.page.session import Session
from cupscale.page.upscale import UpscaleTab

__all__ = ["Limits", "build", "launch"]


_OPEN_TAB = """() => {
  const name = new URLSearchParams(location.search).get('tab')
  return %s.includes(name) ? {__type__: 'update', selected: name} : {__type__: 'update'}
}"""


def build(limits: Limits | None = None) -> gr.Blocks:
    """The whole page, not yet launched."""
    heap.share()
    gr.set_static_paths([examples.FOLDER, large.FOLDER, heading.CARD])
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
        gr.HTML(heading.html(), elem_id="head")
        demo.desk = Desk(limits)
        demo.links = KeptLinks(limits)
        demo.links.adopt(scratch.adopted())
        session = Session(limits)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Upscale", id="upscale"):
                upscale = UpscaleTab(session)
            with gr.Tab("Regions", id="regions") as regions_part:
                regions = RegionsTab(session)
            with gr.Tab("Batch", id="batch") as batch_part:
                batch = BatchTab(session)
            with gr.Tab("Compare", id="compare") as compare_part:
                compare = CompareTab(session)
            with gr.Tab("History", id="history"):
                past = History(elem_id="history")
        large.part()
        heading.method()
        _keep_in_address(demo, tabs)
        opening = upscale.wire(demo, (regions.laying(), regions.drawing()), past, tabs)
        regions.wire()
        batch.wire(demo, batch_part, opening)
        compare.wire(demo, opening)
        for part in (regions_part, batch_part, compare_part):
            light.later(part, part.select)
        Endpoints(limits).build()
    demo.queue(default_concurrency_limit=None, api_open=False)
    scratch.keep_present()
    return demo


def _keep_in_address(demo: gr.Blocks, tabs: gr.Tabs) -> None:
    """The open tab stands in the address, and an address opens its tab."""
    for tab in tabs.children:
        assert isinstance(tab, gr.Tab)
        tab.select(None, None, None, js=f"() => cupscaleTab('{tab.id}')")
    known = [tab.id for tab in tabs.children if isinstance(tab, gr.Tab)]
    demo.load(None, None, tabs, js=_OPEN_TAB % json.dumps(known))


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
        "enable_monitoring": False,  # of gradio's own: who asked for what and when
        "show_error": True,
        "ssr_mode": False,
        "max_threads": 40 + limits.queue,  # whoever waits holds one
        "quiet": on_space(),
        "_frontend": False,  # its second look at the own address, for 3 s, which a very busy machine fails with a traceback
        "app_kwargs": {
            "middleware": [
                Middleware(mended.Assets),
                Middleware(queue.Watch, demo=demo),
                Middleware(previews.Previews, demo=demo),
            ]
        },
    }
    return demo.launch(**(usual | options))
