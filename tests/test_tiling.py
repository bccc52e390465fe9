"""A VAE in bands is diffusers' own tiling to the byte, holds one row of tiles, and an exact codec's bands are its whole."""

import pytest
import torch
from diffusers import AutoencoderKL

from cupscale.backbones import Tiles
from cupscale.backbones.base import tiled
from cupscale.backbones.tiling import decoded, encoded, in_bands
from cupscale.codec import PixelCodec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    blocks = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    return AutoencoderKL(
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [(23, 41), (16, 30), (9, 12), (31, 7)])
@pytest.mark.parametrize("tiles", [Tiles(32, 0.25), Tiles(64, 0.25), Tiles(32, 0.5)])
def test_bands_are_diffusers_tiles(vae, size, tiles):
    """Cells of 4 px. Tiles of 8 and 16 cells; pictures that end within a tile, within an overlap, and inside one tile."""
    z, pixels = noise(1, 4, *size), noise(1, 3, *(side * 4 for side in size))
    with torch.no_grad(), tiled(vae, tiles, 4):
        theirs = vae.decode(z, return_dict=False)[0], vae.encode(pixels).latent_dist.mode()
        ours = decoded(vae, z, tiles, 4, CPU), encoded(vae, pixels, tiles, 4, CPU)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape and torch.equal(one, other)


def test_a_row_of_tiles_is_all_that_is_held(vae, monkeypatch):
    """Of 6 rows of tiles at most one and the rims of the one before live at once."""
    alive, most = 0, 0
    decode = vae.decode

    class Held:
        def __del__(self):
            nonlocal alive
            alive -= 1

    def counted(z, **rest):
        nonlocal alive, most
        found = decode(z, **rest)[0]
        found.held = Held()
        alive += 1
        most = max(most, alive)
        return (found,)

    monkeypatch.setattr(vae, "decode", counted)
    with torch.no_grad(), tiled(vae, Tiles(32), 4):
        decoded(vae, noise(1, 4, 36, 18), Tiles(32), 4, CPU)
    assert most <= 4  # 3 tiles a row, and one that is being replaced


@pytest.mark.parametrize("size", [(23, 41), (1, 5), (64, 1500)])
def test_an_exact_codecs_bands_are_its_whole(size, monkeypatch):
    monkeypatch.setattr("cupscale.backbones.tiling.BAND_PX", 600)
    codec = PixelCodec()
    z = noise(1, 12, *size)
    pixels = decoded(codec, z, Tiles(32), 2, CPU)
    assert torch.equal(pixels, codec.decode(z, return_dict=False)[0])
    assert torch.equal(encoded(codec, pixels, Tiles(32), 2, CPU), z)


def test_what_tiles_by_itself_is_left_alone(vae):
    from diffusers import AutoencoderTiny

    assert in_bands(vae) and in_bands(PixelCodec())
    assert not in_bands(
        AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    )
