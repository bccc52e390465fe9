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
        button_primary_background_fill_dark="#c2410c",
        button_primary_background_fill_hover_dark="#9a3412",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        slider_color="#c2410c",
        slider_color_dark="#c2410c",
        color_accent="#c2410c",
        # At least 4.5 to 1 on every background of the page (WCAG 2.2, 1.4.3).
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
    )


def css() -> str:
    return (STATIC / "page.css").read_text("utf-8")


# Rules for the frame of the page: gradio puts its own prefix before those of `css`.
_FRAME = """
.gradio-container { max-width: 1280px !important; min-width: 0 !important; width: 100% !important; margin: 0 auto; }
.cu-lost { position: fixed; inset: auto 12px 12px; z-index: 1000; margin: 0 auto; max-width: 640px; padding: 10px 16px;
  border-radius: 8px; background: #7c2d12; color: #fff; font-size: 0.92rem; text-align: center; }
.cu-running .cu-tell { display: flex !important; }
.label-wrap > .icon { align-self: center; }
body:not(.cu-running) .block:has(.cu-tell) { display: none; }
@media (max-width: 640px) {
  .gradio-container > .main { padding: 8px !important; width: 100% !important; box-sizing: border-box; min-width: 0; }
  .gradio-container .row:has(> .column) { flex-direction: column; flex-wrap: nowrap; }
  .gradio-container .column { min-width: 0 !important; width: 100%; }
  #first { gap: 10px; }
  #first > .column { display: contents; }
  #shown > * { order: -1; }
  #shown > #share { order: 1; }
  .label-wrap { text-align: left; }
  footer > .divider { display: none; }
}
"""


def head() -> str:
    """The scripts that belong to no component, and the frame's rules."""
    scripts = "".join(
        f"<script>{(STATIC / f'{name}.js').read_text('utf-8')}</script>"
        for name in ("stream", "store", "connection", "access", "refused", "copy", "telling", "wipe")
    )
    return f"<style>{_FRAME}</style>{scripts}"
