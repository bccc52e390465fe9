"""The page: Gradio blocks, one file per concern. No method code."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from cupscale.page import (
    api,
    captions,
    compare,
    engine,
    examples,
    limits as limits_module,
    queue,
    region_tab,
    scratch,
    style,
    upscale,
)
from cupscale.page.blocks import Guarded
from cupscale.page.desk import Desk
from cupscale.page.limits import Limits, on_space
from cupscale.page.session import Page

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
    scratch.keep_clean(limits.kept_seconds)
    engine.preload()
    captions.preload()
    with Guarded(
        title="cupscale",
        analytics_enabled=False,
        delete_cache=None if own else (min(600, limits.kept_seconds), limits.kept_seconds),
    ) as demo:
        gr.Markdown(HEAD, elem_id="head")
        demo.desk = Desk(limits)
        page = Page(limits)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Upscale", id="upscale"):
                upscale.build(page)
            with gr.Tab("Regions", id="regions"):
                region_tab.build(page)
            with gr.Tab("Compare", id="compare"):
                compare.build(page)
            with gr.Tab("History", id="history"):
                upscale.build_history(page)
        upscale.wire(page, demo)
        region_tab.wire(page)
        compare.wire(page)
        api.build(limits)
    demo.queue(default_concurrency_limit=8, api_open=False)
    scratch.keep_present()
    return demo


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
        "max_file_size": limits.upload_bytes,
        "mcp_server": with_mcp,
        "share": False,
        "show_error": True,
        "ssr_mode": False,
        "quiet": on_space(),
        "app_kwargs": {"middleware": [Middleware(queue.Watch, demo=demo)]},
    }
    return demo.launch(**(usual | options))
