"""Progressive upscaling: sizes from the input's to the output's, each the network's native size larger than the last."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from cupscale.images.tensors import carried_on
from cupscale.method.regions import Size

SPARE = 0.125  # of a native size, that a canvas may be larger than whole ones


class Phase(NamedTuple):
    """A size on the way. k: its longer side in native sizes. size: (width, height) in pixels."""

    k: int
    size: tuple[int, int]


def phases(size: tuple[int, int], output: tuple[int, int], native: int) -> tuple[Phase, list[Phase]]:
    """The size that takes the place of the picture that a text-to-image method would draw first, and those after it.

    An input of native size is enlarged from k = 1 to 2, 3 .. K, where K is the output's longer side in native sizes. Ours, for
    all other sizes: a smaller input is brought to native size first, as DemoFusion's own program does; a larger one begins at
    the next k, so that nothing of it is lost; up to `SPARE` of a native size above a k counts as that k; and where no k lies
    between input and output, there is one phase, from the input itself.

    Args:
        size: (width, height) of the input in pixels.
        output: Likewise.
        native: Of the network, in pixels.
    """
    longer = max(output)
    first, last = (max(1, math.ceil(side / native - SPARE)) for side in (max(size), longer))
    if first >= last:
        return Phase(last, size), [Phase(last, output)]

    def scaled(k: int) -> Phase:
        width, height = (max(1, round(side * k * native / longer)) for side in output)
        return Phase(k, (width, height))

    return scaled(first), [*(scaled(k) for k in range(first + 1, last)), Phase(last, output)]


def stages(
    size: tuple[int, int], output: tuple[int, int], native: int
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The size to begin with, as in `phases`, and those to go through: the output, by way of its half where that is far.

    So FreCaS and HiFlow go from 1024 px to 2048, and to 4096 by way of 2048.
    """
    start = phases(size, output, native)[0].size
    if max(output) <= (2 + SPARE) * max(start):
        return start, [output]
    return start, [(-(-output[0] // 2), -(-output[1] // 2)), output]


def enlarged(z: Tensor, size: tuple[int, int], target: tuple[int, int], cells: Size) -> Tensor:
    """A bicubic enlargement of latents, which stay in step with the pixels where canvases are padded.

    Args:
        z: (1, C, H, W), the canvas of a picture of `size`.
        size: (width, height) in pixels.
        target: Likewise, of the enlarged picture.
        cells: Of its canvas.

    Returns:
        (1, C, *cells).
    """
    factors = (target[1] / size[1], target[0] / size[0])
    wide = F.interpolate(z, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
    return carried_on(wide[..., : cells.h, : cells.w], *cells)
