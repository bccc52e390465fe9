"""Regional Semantic Prior (RSP): every region attends to a prompt of its own.

In the paper a multimodal LLM (LLaVA) looks at each region and writes its prompt. Its equation is not public; ours is one more
attention with the same queries, and no further network pass:

    O_r = softmax(Q K_r^T / sqrt d) V_r
    O   = (1 - lambda) O_g + lambda O_r

Q are the region's image queries, K_r and V_r the keys and values of its own prompt, O_g the attention to the global prompt
after the Regional Attention Prior. lambda is the setting `detail`. Tiled Prompts (arXiv 2602.03342) reports, independently,
what one prompt per tile is good for.
"""

from __future__ import annotations

from torch import Tensor


def add_semantics(attended: Tensor, regional: Tensor, detail: float) -> Tensor:
    """Mix a region's attention to its own prompt into its attention to the global one.

    Args:
        attended: O_g, of any shape.
        regional: O_r, of the same shape.
        detail: lambda, 0 to 1. 0 returns `attended` itself.
    """
    return attended if detail == 0 else attended.lerp(regional, detail)
