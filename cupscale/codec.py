"""An exact image codec with the interface of diffusers' `AutoencoderKL`.

The bundled model is small, and a small learned autoencoder loses more detail than upscaling adds. So its latents are
the pixels themselves: every `block_size` x `block_size` square of pixels becomes one latent cell
(`pixel_unshuffle`, Shi et al. 2016), and decoding puts them back. Nothing is lost and nothing is learned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin


class PointDistribution:
    """What `encode` returns where `AutoencoderKL` has a Gaussian: one latent, known for certain.

    `mean`, `mode()` and every `sample()` are the same tensor of shape (B, 3 b^2, H / b, W / b).
    """

    def __init__(self, latents: torch.Tensor) -> None:
        self.mean = latents

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the latents. The generator is not used, since there is nothing random."""
        return self.mean

    def mode(self) -> torch.Tensor:
        """Return the latents."""
        return self.mean


class PixelCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Pixels (B, 3, H, W) in -1..1 to latents (B, 3 b^2, H / b, W / b) and back, without loss.

    `H` and `W` must be multiples of the block size `b`, which is 2 to the power of `len(block_out_channels) - 1`: this
    is how diffusers works out `vae_scale_factor`. The numbers in `block_out_channels` mean nothing here.
    `source_scale`: original size over canvas size in the size conditioning, which asks the network that comes with this
    codec for the sharp look of a photograph that was reduced by this factor.

    Tiling and slicing save an autoencoder's memory. This codec needs none, so the switches can be set and change
    nothing.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 12,
        block_out_channels: tuple[int, ...] = (12, 12),
        sample_size: int = 256,
        scaling_factor: float = 1.0,
        force_upcast: bool = False,
        source_scale: float = 2.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.block_size = 2 ** (len(block_out_channels) - 1)
        if latent_channels != in_channels * self.block_size**2 or in_channels != out_channels:
            raise ValueError(
                f"{self.block_size} x {self.block_size} pixels of {in_channels} channels make "
                f"{in_channels * self.block_size**2} latent channels, not {latent_channels}"
            )
        # Read by callers who ask a model for its dtype and device. It holds no knowledge.
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.use_tiling = False
        self.use_slicing = False
        self.tile_sample_min_size = sample_size
        self.tile_latent_min_size = sample_size // self.block_size
        self.tile_overlap_factor = 0.25

    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[PointDistribution]:
        """Pack pixels (B, 3, H, W) into cells (B, 3 b^2, H / b, W / b)."""
        point = PointDistribution(F.pixel_unshuffle(x, self.block_size))
        return AutoencoderKLOutput(latent_dist=point) if return_dict else (point,)

    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Unpack cells (B, 3 b^2, h, w) into pixels (B, 3, b h, b w)."""
        sample = F.pixel_shuffle(z, self.block_size)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """Encode and decode: the identity."""
        (point,) = self.encode(sample, return_dict=False)
        return self.decode(point.mode(), return_dict=return_dict)

    def enable_tiling(self, use_tiling: bool = True) -> None:
        """Set the switch that `AutoencoderKL` has."""
        self.use_tiling = use_tiling

    def disable_tiling(self) -> None:
        """Clear the switch that `AutoencoderKL` has."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """Set the switch that `AutoencoderKL` has."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Clear the switch that `AutoencoderKL` has."""
        self.use_slicing = False
