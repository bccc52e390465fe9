"""Other people's upscaling methods behind one interface, written from their papers.

    peer = cupscale.peers.get("demofusion")
    image = peer.upscale(Task(adapt(pipe), image, Settings(prompt="a fox", scale=4)))

Each peer's docstring says what its paper gives and what had to be guessed. They run on any backbone, in its own native size.
"""

from __future__ import annotations

from cupscale.errors import CupscaleError
from cupscale.peers.accdiffusion import AccDiffusion
from cupscale.peers.base import Peer, Run, Task
from cupscale.peers.demofusion import DemoFusion
from cupscale.peers.diffusehigh import DiffuseHigh
from cupscale.peers.frecas import FreCaS
from cupscale.peers.hiflow import HiFlow
from cupscale.peers.img2img import Img2Img
from cupscale.peers.multidiffusion import MultiDiffusion
from cupscale.peers.pixelrush import PixelRush
from cupscale.peers.plain import Lanczos, RealESRGAN, RealSR
from cupscale.peers.scalediff import ScaleDiff
from cupscale.peers.spotdiffusion import SpotDiffusion
from cupscale.peers.ultimate import UltimateUpscale

__all__ = ["PEERS", "Peer", "Run", "Task", "get"]

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Lanczos(),
        RealESRGAN(),
        RealSR(),
        Img2Img(),
        UltimateUpscale(),
        MultiDiffusion(),
        SpotDiffusion(),
        DemoFusion(),
        AccDiffusion(),
        DiffuseHigh(),
        FreCaS(),
        HiFlow(),
        PixelRush(),
        ScaleDiff(),
    )
}


def get(name: str) -> Peer:
    """The peer of that name, with its authors' defaults; `dataclasses.replace` changes its options.

    Raises:
        CupscaleError: There is none of that name.
    """
    if name not in PEERS:
        raise CupscaleError(f"unknown peer {name!r}; choose one of {', '.join(PEERS)}")
    return PEERS[name]
