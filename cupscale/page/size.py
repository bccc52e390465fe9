"""The size of the result: buttons and a number on the first screen. Its value is the setting `scale`."""

from __future__ import annotations

from typing import Any

from cupscale.errors import CupscaleError
from cupscale.page import source
from cupscale.page.limits import Limits
from cupscale.page.viewer import Scripted
from cupscale.planning import Target

_WRONG = "a size is a number above 0: of pixels, or of megapixels"


class Size(Scripted):
    """Two buttons for scales, one to 4K, and a number. Triggers `target` with `kind` and `value` where a person names the
    size of the result instead of a scale."""

    def __init__(self, scale: float, **options: Any) -> None:
        super().__init__("size", scale, **options)

    def api_info(self) -> dict[str, Any]:
        return {"type": "number", "description": "output size over input size, each side"}


def scale_to(kind: str, value: Any, image: str | None, limits: Limits) -> float:
    """The scale that takes an image to a size.

    Args:
        kind: "width", "height", "long_side" (in pixels) or "megapixels", as of `Target`.
        value: How much of it.
        image: The upload's path.
        limits: Of the page.

    Raises:
        CupscaleError: There is no image, or it does not reach that size.
    """
    picture = source.opened(image, limits)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        raise CupscaleError(_WRONG)
    pixels = round(value)
    targets = {
        "width": Target(width=pixels),
        "height": Target(height=pixels),
        "long_side": Target(long_side=pixels),
        "megapixels": Target(megapixels=float(value)),
    }
    if kind not in targets:
        raise CupscaleError(_WRONG)
    return targets[kind].scale(picture.size)
