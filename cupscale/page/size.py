"""The size of the result: buttons and a number on the first screen. Its value is the setting `scale`."""

from __future__ import annotations

from typing import Any

from cupscale.errors import CupscaleError
from cupscale.page import source
from cupscale.page.limits import Limits
from cupscale.page.viewer import Scripted
from cupscale.planning import SIZES, Target


class Size(Scripted):
    """Two buttons for scales, one to 4K, and a number.

    Triggers `target` with `kind` and `value` where a person names the size of the result instead of a scale.
    """

    def __init__(self, scale: float, **options: Any) -> None:
        super().__init__("size", scale, **options)

    def api_info(self) -> dict[str, Any]:
        return {"type": "number", "description": "output size over input size, each side"}


def scale_to(kind: str, value: Any, image: str | None, limits: Limits) -> float:
    """The scale that takes an image to a size.

    Args:
        kind: "width", "height", "megapixels", "fit" or "to", as of `Target.named`.
        value: How much of it.
        image: The upload's path.
        limits: Of the page.

    Raises:
        CupscaleError: There is no image, it does not reach that size, or that is no size.
    """
    picture = source.opened(image, limits)
    target = Target.named(**{kind: value}) if kind in SIZES else None
    if target is None:
        raise CupscaleError("that is no size: give a number of pixels or of megapixels, or WIDTHxHEIGHT")
    return target.scale(picture.size)
