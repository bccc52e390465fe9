"""A VAE in bands is diffusers' own tiling to the byte, holds one row of tiles, and an exact codec's bands are its whole."""

import pytest
import torch
from diffusers import AutoencoderKL

from cupscale.backbones import Tiles
from cupscale.backbones.base import tiled
from cupscale.backbones.statistics import shared, small
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


@pytest.mark.parametrize("size", [(23, 41), (16, 30), (9, 12), (31, 7), (16, 11)])
@pytest.mark.parametrize("tiles", [Tiles(32, 0.25), Tiles(64, 0.25), Tiles(32, 0.5)])
def test_bands_are_diffusers_tiles(vae, size, tiles):
    """Cells of 4 px. Tiles of 8 and 16 cells; pictures that end within a tile, within an overlap, and inside one tile."""
    z, pixels = noise(1, 4, *size), noise(1, 3, *(side * 4 for side in size))
    with torch.no_grad(), tiled(vae, tiles, 4):
        theirs = vae.decode(z, return_dict=False)[0], vae.encode(pixels).latent_dist.mode()
        ours = decoded(vae, z, tiles, 4, CPU), encoded(vae, pixels, tiles, 4, CPU)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("kind", ["tile", "picture"])
def test_pixels_of_8_bits_are_encoded_as_their_floats(vae, kind):
    samples = (noise(1, 3, 92, 164) * 60 + 128).clamp(0, 255).byte()
    tiles = Tiles(32, 0.25, kind)
    with torch.no_grad(), tiled(vae, tiles, 4):
        ours = encoded(vae, samples, tiles, 4, CPU)
        theirs = encoded(vae, samples.float() / 127.5 - 1, tiles, 4, CPU)
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.std() > 0.01


def test_each_band_is_kept_as_it_is_asked(vae):
    """So that no more than a row of tiles is in floats."""
    z, tiles, seen = noise(1, 4, 36, 18), Tiles(32, 0.25), []

    def keep(band):
        seen.append(band.shape[-2])
        return (band * 100).short()

    with torch.no_grad(), tiled(vae, tiles, 4):
        found = decoded(vae, z, tiles, 4, CPU, keep)
        assert torch.equal(found, (decoded(vae, z, tiles, 4, CPU) * 100).short())
    assert seen == [24] * 6 and found.dtype == torch.int16


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


# Statistics of the whole picture


def test_a_tile_that_is_the_whole_picture_is_as_without(vae):
    """What the small picture tells is then what the tile would have measured itself."""
    z = noise(1, 4, 14, 10)
    with torch.no_grad():
        whole = vae.decode(z, return_dict=False)[0]
        with shared(vae.decoder, lambda: vae.decode(z, return_dict=False)):
            again = vae.decode(z, return_dict=False)[0]
    assert torch.allclose(whole, again, atol=1e-4) and not torch.equal(whole, torch.zeros_like(whole))
    assert all("forward" not in vars(module) for module in vae.modules())


def test_a_normalization_by_hand():
    """Two groups of two channels; the statistics are those of the picture looked at, not of what comes through."""
    norm = torch.nn.GroupNorm(2, 4, eps=0.5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, -1.0, 2.0]))
    part = torch.nn.Sequential(norm)
    seen = torch.tensor([[1.0, 3.0], [5.0, 7.0], [0.0, 0.0], [2.0, 2.0]]).view(
        1, 4, 1, 2
    )  # means 4 and 1, variances 5 and 1
    x = torch.tensor([4.0, 6.0, 1.0, 3.0]).view(1, 4, 1, 1)
    with torch.no_grad(), shared(part, lambda: part(seen)):
        found = part(x).flatten().tolist()
    roots = [5.5**0.5, 1.5**0.5]
    assert found == pytest.approx([0.5, 2 * 2 / roots[0], -1.0, 4 * 2 / roots[1] + 2.0])


def test_attention_looks_at_the_small_picture():
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(1)
    attention = Attention(6, heads=1, dim_head=6, bias=True).eval()
    part, seen, x = torch.nn.Sequential(attention), noise(1, 5, 6), noise(1, 3, 6) * 2
    with torch.no_grad():
        with shared(part, lambda: part(seen)):
            found = part(x)
        query, key, value = attention.to_q(x), attention.to_k(seen), attention.to_v(seen)
        weights = (query @ key.transpose(1, 2) / 6**0.5).softmax(-1)
        expected = attention.to_out[0](weights @ value)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_small_picture_is_picked_and_not_averaged():
    x = torch.arange(6 * 12, dtype=torch.float32).view(1, 1, 6, 12).repeat(1, 20, 1, 1)
    assert small(x, 4)[0, 0].tolist() == [[x[0, 0, row, col] for col in (1, 4, 7, 10)] for row in (1, 4)]
    assert small(x[..., :1, :], 4).shape == (1, 20, 1, 4)  # a line stays one


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_tiles_come_nearer_to_the_whole(vae, way):
    """A picture whose halves differ in brightness and contrast, in tiles of a third."""
    with torch.no_grad():
        if way == "decode":
            x = noise(1, 4, 48, 48)
            x[..., 24:] = x[..., 24:] * 0.2 + 1.5
            whole = vae.decode(x, return_dict=False)[0]
            parts = [decoded(vae, x, Tiles(64, 0.25, kind), 4, CPU) for kind in ("tile", "picture")]
        else:
            x = noise(1, 3, 192, 192)
            x[..., 96:] = x[..., 96:] * 0.2 + 1.5
            whole = vae.encode(x).latent_dist.mode()
            parts = [encoded(vae, x, Tiles(64, 0.25, kind), 4, CPU) for kind in ("tile", "picture")]
    own, shared_ones = ((part - whole).abs().mean() for part in parts)
    assert shared_ones < 0.6 * own
    assert all("forward" not in vars(module) for module in vae.modules())
