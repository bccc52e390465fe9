"""How the page looks. No font or script of another site: it works offline."""

from __future__ import annotations

import gradio as gr

from cupscale.page.viewer import STATIC


def theme() -> gr.themes.Base:
    fonts = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace"]
    return gr.themes.Base(
        primary_hue="orange",
        neutral_hue="stone",
        radius_size="md",
        spacing_size="md",
        font=fonts,
        font_mono=mono,
    ).set(
        block_label_background_fill="*background_fill_primary",
        block_shadow="none",
        button_primary_background_fill="#c2410c",
        button_primary_background_fill_hover="#9a3412",
        button_primary_text_color="white",
        slider_color="#c2410c",
    )


def css() -> str:
    return (STATIC / "page.css").read_text("utf-8")


def head() -> str:
    """The script that several components share."""
    return f"<script>{(STATIC / 'store.js').read_text('utf-8')}</script>"
