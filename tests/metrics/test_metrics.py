"""Figures of pictures, each with an answer that is known beforehand."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import pink

from cupscale.metrics import (
    METRICS,
    Case,
    Cost,
    border_energy,
    flat_grain,
    patch_distance,
    psnr,
    spectrum_slope,
    window_borders,
)
from cupscale.metrics.base import Metric
from cupscale.metrics.fidelity import block_means, colour_shift, ssim
from cupscale.metrics.intervals import estimate
from cupscale.metrics.patches import halved, laplacian, patches, sliced_wasserstein
from cupscale.metrics.repetition import described, far_likeness, places
from cupscale.metrics.texture import compression_ratio, glcm_score


def picture(height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)


def as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 9 + k) * np.cos(y / (7 + k)) * 90 + 128 for k in range(3)]
    return Image.fromarray(np.stack(planes, -1).round().astype(np.uint8))


class TestFidelity:
    def test_psnr(self) -> None:
        grey = np.full((8, 12, 3), 0.5, np.float32)
        assert psnr(grey, grey) == math.inf
        assert psnr(grey, grey + 0.1) == pytest.approx(20, abs=1e-4)
        assert psnr(grey, grey + 3) == pytest.approx(20 * math.log10(2), abs=1e-4)  # clipped to 1

    def test_ssim_of_two_greys(self) -> None:
        # Without structure only the term of brightness is left: (2 ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2.
        one, two = np.full((20, 31, 3), 0.2), np.full((20, 31, 3), 0.7)
        assert ssim(one, two) == pytest.approx(0.2801 / 0.5301, abs=1e-6)
        assert ssim(one, one) == pytest.approx(1)

    def test_ssim_of_two_pictures(self) -> None:
        """Against loops: Wang's formula in a Gaussian window of sigma 1.5, 11 px wide, wherever it lies inside."""
        one, two = picture(17, 14, 1).astype(np.float64), picture(17, 14, 2).astype(np.float64)
        two = 0.6 * one + 0.4 * two
        line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
        weight = np.outer(line, line) / line.sum() ** 2
        found = []
        for channel in range(3):
            for top in range(17 - 10):
                for left in range(14 - 10):
                    a, b = (x[top : top + 11, left : left + 11, channel] for x in (one, two))
                    mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
                    spread_a, spread_b = (
                        (weight * (a - mean_a) ** 2).sum(),
                        (weight * (b - mean_b) ** 2).sum(),
                    )
                    both = (weight * (a - mean_a) * (b - mean_b)).sum()
                    light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                    found.append(light * (2 * both + 9e-4) / (spread_a + spread_b + 9e-4))
        assert ssim(one, two) == pytest.approx(np.mean(found), abs=1e-6)

    def test_the_result_is_made_small_again(self) -> None:
        small = smooth(48, 32)
        large = small.resize((144, 96), Image.Resampling.LANCZOS)
        brighter = Image.fromarray(np.asarray(large) + np.uint8(10))
        case = Case(small, brighter)
        assert METRICS["psnr"].value(case) == pytest.approx(20 * math.log10(255 / 10), abs=0.3)
        assert METRICS["psnr"].value(Case(small, small)) == 100
        assert METRICS["ssim"].value(Case(small, small)) == pytest.approx(1)
        assert METRICS["ssim"].value(case) == pytest.approx(ssim(case_floats(small), case_floats(case.again)))

    def test_colour_shift(self) -> None:
        # Black to white is 100 in CIEDE2000; one block of six is white.
        black = Image.new("RGB", (24, 16))
        white = black.copy()
        white.paste((255, 255, 255), (16, 8, 24, 16))
        assert colour_shift(Case(black, white)) == pytest.approx(100 / 6, rel=1e-3)
        assert colour_shift(Case(white, white)) == 0

    def test_blocks_are_means(self) -> None:
        image = Image.new("RGB", (19, 9))
        image.paste((255, 0, 0), (8, 0, 12, 8))
        means = block_means(image)
        assert means.shape == (1, 2, 3)
        assert means[0, :, 0].tolist() == [0, 0.5]

    def test_detail_that_moved_within_a_block_is_no_shift_of_colour(self) -> None:
        one, two = np.zeros((2, 16, 24, 3), np.uint8)
        one[3, 2] = two[6, 5] = 200
        assert colour_shift(Case(Image.fromarray(one), Image.fromarray(two))) == 0


def case_floats(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float32) / 255


class TestPatches:
    def test_laplacian_of_a_constant_is_nothing(self) -> None:
        for level in range(3):
            assert laplacian(torch.full((1, 3, 32, 48), 0.7), level).abs().max() < 1e-6

    def test_laplacian_of_a_point(self) -> None:
        # In one dimension halving keeps 6/16 in place and puts 1/16 on both sides; doubling takes 2 (6/16 6/16 + 2 (1/16)^2).
        point = torch.zeros(1, 3, 24, 40)
        point[:, :, 10, 16] = 1
        assert halved(point)[0, 1, 5, 8] == pytest.approx((6 / 16) ** 2)
        assert halved(point)[0, 1, 5, 9] == pytest.approx(6 / 16 / 16)
        again = (2 * (6 * 6 + 2) / 256) ** 2
        assert laplacian(point)[0, 2, 10, 16] == pytest.approx(1 - again)

    def test_the_next_level_is_that_of_the_half(self) -> None:
        x = torch.rand(1, 3, 21, 34, generator=torch.Generator().manual_seed(1))
        assert laplacian(x, 1).shape == (1, 3, 11, 17)
        assert torch.equal(laplacian(x, 2), laplacian(halved(halved(x))))

    def test_patches_are_cut_from_the_level(self) -> None:
        one = picture(25, 40)
        level = laplacian(torch.from_numpy(one.transpose(2, 0, 1).copy())[None], 1)[0]
        rows = patches(one, 5, torch.Generator().manual_seed(3), level=1)
        assert rows.shape == (5, 147)
        windows = level.unfold(1, 7, 1).unfold(2, 7, 1).permute(1, 2, 0, 3, 4).reshape(-1, 147)
        for row in rows:
            assert (windows - row).abs().sum(1).min() == 0

    def test_patches_are_taken_everywhere(self) -> None:
        """A level of 9 x 10 px has 3 x 4 of them."""
        rows = patches(picture(9, 10), 600, torch.Generator().manual_seed(0))
        assert len(torch.unique(rows, dim=0)) == 12

    def test_patch_distance_from_nothing(self) -> None:
        """From black: the mean size of the projections of the finest level's patches, pixels spanning 0..2, times 1000."""
        one = picture(30, 41)
        rows = 2 * patches(one, 1024, torch.Generator().manual_seed(0), level=0).double()
        along = torch.randn(147, 512, generator=torch.Generator().manual_seed(0)).double()
        expected = 1000 * float((rows @ (along / along.norm(dim=0))).sort(dim=0).values.abs().mean())
        assert patch_distance([one], [np.zeros_like(one)]) == pytest.approx(expected, rel=1e-5)

    def test_wasserstein_of_a_shift(self) -> None:
        # In one dimension a shift by d is d; along a random direction in D dimensions, d times its cosine.
        rows = torch.randn(500, 1)
        assert sliced_wasserstein(rows, rows + 0.3) == pytest.approx(0.3, abs=1e-5)
        assert sliced_wasserstein(rows, rows) == 0

    def test_patch_distance_sees_lost_energy(self) -> None:
        same = patch_distance([picture(seed=1)], [picture(seed=2)])
        faded = patch_distance([picture(seed=1)], [picture(seed=2) * 0.5])
        assert faded > 3 * same

    def test_a_level_sees_what_is_of_its_size(self) -> None:
        """A change of a period of 24 px shows at the third level, and hardly at the first."""
        small = smooth(160, 96)
        x = np.arange(160)
        stripes = (20 * np.sin(2 * np.pi * x / 24))[None, :, None]
        large = Image.fromarray((np.asarray(small) + stripes).clip(0, 255).astype(np.uint8))
        gains = [
            METRICS[f"patch{level}"].value(Case(small, large))
            - METRICS[f"patch{level}"].value(Case(small, small))
            for level in (1, 2, 3)
        ]
        assert gains[2] > 5 * gains[0]

    def test_against_the_original_where_there_is_one(self) -> None:
        noise, flat = as_image(picture(64, 96)), Image.new("RGB", (96, 64), (128, 128, 128))
        metric = METRICS["patch1"]
        assert metric.value(Case(flat, noise, original=noise)) < metric.value(Case(flat, noise)) / 5

    def test_a_picture_without_the_level_has_no_distance(self) -> None:
        assert METRICS["patch4"].value(Case(smooth(127, 200), smooth(254, 400))) is None
        assert METRICS["patch3"].value(Case(smooth(127, 200), smooth(254, 400))) is not None
        assert METRICS["patch4"].value(Case(smooth(200, 128), smooth(400, 256))) is not None


class TestTexture:
    @pytest.mark.parametrize("slope", [-1.0, -2.0, -3.0])
    def test_slope(self, slope: float) -> None:
        assert spectrum_slope(pink(slope)) == pytest.approx(slope, abs=0.1)

    @pytest.mark.parametrize("band", [(0.05, 0.45), (0.11, 0.37)])
    def test_slope_against_loops(self, band: tuple[float, float]) -> None:
        """A line through the mean powers of rings, on a picture that is neither square nor even, bin by bin."""
        low, high = band
        pixels = picture(23, 34, 4).astype(np.float64)
        grey = 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]
        rows, columns = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / (n - 1)) for n in (23, 34))
        spectrum = np.fft.fft2((grey - grey.mean()) * rows[:, None] * columns)
        rings: dict[int, list[float]] = {}
        for i in range(23):
            for j in range(34):
                f = math.sqrt((min(i, 23 - i) / 23) ** 2 + (min(j, 34 - j) / 34) ** 2)
                if low <= f < high:
                    ring = math.floor(64 * math.log(f / low) / math.log(high / low))
                    rings.setdefault(ring, []).append(abs(spectrum[i, j]) ** 2)
        x = np.array([math.log(low) + (k + 0.5) / 64 * math.log(high / low) for k in rings])
        y = np.array([math.log(np.mean(powers)) for powers in rings.values()])
        expected = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        assert spectrum_slope(pixels, low, high) == pytest.approx(expected, rel=1e-6)
        if band == (0.05, 0.45):
            assert spectrum_slope(pixels) == pytest.approx(expected, rel=1e-6)

    def test_slope_is_the_results(self) -> None:
        case = Case(smooth(40, 30), as_image(picture(60, 80)))
        assert METRICS["slope"].value(case) == pytest.approx(spectrum_slope(case_floats(case.large)))

    def test_grain_against_loops(self) -> None:
        """The 2 flattest of 20 blocks of 16 px; what is left over at the far sides is left out."""
        random = np.random.default_rng(3)
        reference, result = random.random((2, 70, 91, 3))
        reference *= np.kron(random.permutation(24).reshape(4, 6), np.ones((20, 20)))[:70, :91, None] / 30
        grey = [one @ np.array([0.299, 0.587, 0.114]) for one in (reference, result)]
        corners = [(16 * i, 16 * j) for i in range(4) for j in range(5)]
        spread = {at: grey[0][at[0] : at[0] + 16, at[1] : at[1] + 16].std(ddof=1) for at in corners}
        chosen = sorted(corners, key=lambda at: spread[at])[:2]
        expected = []
        for one in grey:
            wide = np.pad(one, 1, mode="reflect")
            mean = sum(wide[i : i + 70, j : j + 91] for i in range(3) for j in range(3)) / 9
            parts = [(one - mean)[y : y + 16, x : x + 16] for y, x in chosen]
            expected.append(255 * math.sqrt(np.mean(np.square(parts))))
        assert flat_grain(reference, result) == pytest.approx(tuple(expected), rel=1e-6)

    def test_grain_is_measured_where_the_original_is_flat(self) -> None:
        flat = np.full((160, 160, 3), 0.5)
        flat[80:] = picture(80, 160)  # busy half
        noise = np.random.default_rng(1).standard_normal((160, 160, 1)) * (4 / 255)
        real, ours = flat_grain(flat, flat + noise)
        assert real == pytest.approx(0, abs=1e-6)
        assert ours == pytest.approx(4 * (8 / 9) ** 0.5, rel=0.05)  # what a 3 x 3 mean leaves of white noise

    @pytest.mark.parametrize(("channel", "share"), [(0, 0.299), (1, 0.587), (2, 0.114)])
    def test_a_colour_counts_by_its_luma(self, channel: int, share: float) -> None:
        one, two = np.full((80, 64, 3), 0.5), np.full((80, 64, 3), 0.5)
        two[..., channel] += np.random.default_rng(1).standard_normal((80, 64)) * (4 / 255)
        assert flat_grain(one, two)[1] == pytest.approx(share * 4 * (8 / 9) ** 0.5, rel=0.1)

    def test_grain_is_the_results(self) -> None:
        small = Image.new("RGB", (80, 48), (100, 100, 100))
        random = np.random.default_rng(0).normal(0, 5, (96, 160, 1)).repeat(3, axis=2)
        large = Image.fromarray((100 + random).round().clip(0, 255).astype(np.uint8))
        assert METRICS["grain"].value(Case(small, large)) == pytest.approx(5 * (8 / 9) ** 0.5, rel=0.1)
        assert METRICS["grain"].value(Case(small, small, original=large.resize((80, 48)))) == 0

    def test_glcm_of_one_grey(self) -> None:
        # 16 of the 64 x 64 x 16 values are 1, the others 0: the entropy of a share of 2^-12.
        share = 2**-12
        entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
        assert glcm_score(np.full((64, 128), 77, np.uint8)) == pytest.approx(entropy)

    def test_glcm_of_stripes(self) -> None:
        """Columns of 0 and 252 in turn, by hand: pairs a whole period apart, or down a column, are equal, each level with
        a share of 1/2, in 8 of the 16 matrices; 5 are a column apart, 32/63 and 31/63; 3 are three apart, 31/61 and 30/61."""
        stripes = np.zeros((64, 64), np.uint8)
        stripes[:, 1::2] = 252
        counts = np.array([16, 5, 5, 3, 3, 64 * 64 * 16 - 32]) / (64 * 64 * 16)
        assert glcm_score(stripes) == pytest.approx(-(counts * np.log2(counts)).sum())

    def test_glcm_takes_whole_patches_only(self) -> None:
        wide = np.zeros((64, 100), np.uint8)
        wide[:, 64:] = np.random.default_rng(0).integers(0, 255, (64, 36))
        assert glcm_score(wide) == glcm_score(wide[:, :64])
        assert METRICS["glcm"].value(Case(smooth(63, 40), smooth(63, 40))) is None

    def test_compression_is_of_a_jpeg(self) -> None:
        noise, flat = as_image(picture(48, 80)), Image.new("RGB", (80, 48), (9, 99, 200))
        file = io.BytesIO()
        noise.save(file, "JPEG", quality=95)
        assert compression_ratio(noise) == pytest.approx(80 * 48 * 3 / len(file.getvalue()))
        assert compression_ratio(flat) > 5 * compression_ratio(noise)


class TestSeams:
    def test_border_energy(self) -> None:
        ramp = np.repeat(np.tile(np.linspace(0, 1, 128), (128, 1))[..., None], 3, axis=2)
        assert border_energy(ramp, [64], []) == pytest.approx(1)
        ramp[:, 64:] += 1 / 127  # one more step at the border
        assert border_energy(ramp, [64], []) == pytest.approx(2, rel=1e-3)
        assert border_energy(ramp, [40], []) == pytest.approx(1)

    def test_border_energy_against_loops(self) -> None:
        """Each border's step over the mean of the eight before and behind it, or of those that there are."""
        pixels = picture(23, 31, 6).astype(np.float64)
        grey = 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]
        columns, rows = [1, 2, 9, 14, 30], [1, 8, 12, 22]
        ratios = []
        for borders, plane in ((columns, grey), (rows, grey.T)):
            length = plane.shape[1]
            step = {c: np.mean([abs(row[c] - row[c - 1]) for row in plane]) for c in range(1, length)}
            for c in borders:
                near = [step[k] for k in range(max(1, c - 8), min(length, c + 9)) if k != c]
                ratios.append(step[c] / np.mean(near))
        assert border_energy(pixels, columns, rows) == pytest.approx(np.mean(ratios))
        assert border_energy(pixels, columns, []) == pytest.approx(np.mean(ratios[:5]))
        assert border_energy(pixels, [0, 31], [23]) == 1  # none of them lies inside
        assert border_energy(np.full((20, 30, 3), 0.4), [10], [10]) == 1
        case = Case(smooth(10, 8), as_image(pixels), borders_px=([], [12]))
        assert METRICS["seams"].value(case) == pytest.approx(border_energy(case_floats(case.large), [], [12]))

    def test_borders_of_rows(self) -> None:
        boxes = [(0, 0, 50, 30), (0, 20, 50, 60), (0, 45, 50, 75)]
        assert window_borders(boxes, (50, 75)) == ([], [20, 30, 45, 60])

    def test_borders_are_those_inside(self) -> None:
        boxes = [(0, 0, 64, 40), (32, 0, 96, 40), (64, 0, 100, 40)]
        assert window_borders(boxes, (100, 40)) == ([32, 64, 96], [])

    def test_one_window_has_no_seams(self) -> None:
        assert METRICS["seams"].value(Case(smooth(40, 30), smooth(80, 60))) is None


class TestRepetition:
    def test_the_nearest_of_those_far_away(self) -> None:
        # By hand: the first sees only the third, 0.6; the second sees it too, 0.8; the third takes the better of the two.
        vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]])
        spots = [(0, 0), (10, 0), (40, 0)]
        assert far_likeness(vectors, spots, 20) == pytest.approx((0.6 + 0.8 + 0.8) / 3)
        assert math.isnan(far_likeness(vectors, spots, 50))
        # down as well as across
        assert far_likeness(vectors[:2], [(0, 0), (0, 30)], 20) == pytest.approx(0)

    def test_squares_lie_half_of_one_apart(self) -> None:
        assert places((20, 12), 8) == [(0, 0), (4, 0), (8, 0), (12, 0), (0, 4), (4, 4), (8, 4), (12, 4)]

    def test_descriptions_have_length_one_or_none(self) -> None:
        image = smooth(64, 32)
        image.paste((7, 7, 7), (0, 0, 32, 32))
        norms = np.linalg.norm(described(image, [(0, 0), (32, 0)], 32), axis=1)
        assert norms[0] == 0
        assert norms[1] == pytest.approx(1)

    def test_a_thing_shown_again_counts_and_a_pattern_of_the_input_does_not(self) -> None:
        random = np.random.default_rng(5)
        blobs = Image.fromarray(random.integers(0, 255, (24, 48, 3), np.uint8))
        small = blobs.resize((96, 48), Image.Resampling.BICUBIC)
        plain = small.resize((384, 192), Image.Resampling.LANCZOS)
        again = plain.copy()
        again.paste(plain.crop((0, 0, 128, 192)), (256, 0))
        score = METRICS["repetition"].value
        assert score(Case(small, plain, window_px=256)) == pytest.approx(0)
        assert score(Case(small, again, window_px=256)) > 0.1
        pattern = again.resize((96, 48), Image.Resampling.LANCZOS)
        larger = pattern.resize((384, 192), Image.Resampling.LANCZOS)
        assert score(Case(pattern, larger, window_px=256)) == pytest.approx(0)


class TestIntervals:
    def test_mean_and_interval(self) -> None:
        values = np.random.default_rng(2).normal(5, 2, 60)
        found = estimate(values)
        assert found.mean == pytest.approx(values.mean())
        half = 1.96 * values.std(ddof=1) / 60**0.5
        assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
        assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
        assert found.pictures == 60
        assert estimate(values) == found

    def test_it_follows_a_skew(self) -> None:
        found = estimate(np.exp(np.random.default_rng(0).normal(0, 1.2, 40)))
        assert found.high - found.mean > 1.2 * (found.mean - found.low)

    def test_one_picture_has_no_interval(self) -> None:
        assert estimate([3.0]) == (3.0, None, None, 1)
        assert estimate([3.0, 3.0]) == (3.0, 3.0, 3.0, 2)


class TestEach:
    def test_says_what_it_is(self) -> None:
        for name, metric in METRICS.items():
            assert metric.name == name and metric.title and metric.source
            assert metric.low < metric.high
            assert (metric.target is not None) == (metric.better == "near")

    def test_says_which_way_is_better(self) -> None:
        said = {name: METRICS[name].direction for name in ("psnr", "grain", "seams", "slope")}
        assert said == {"psnr": "↑", "grain": "↓", "seams": "→ 1", "slope": ""}

    def test_its_values_lie_within_its_range(self) -> None:
        small, large = smooth(160, 136), as_image(picture(272, 320))
        case = Case(
            small, large, borders_px=([160], [100]), window_px=128, cost=Cost(18, 2.5, peak_bytes=3 * 2**29)
        )
        found = {name: metric.value(case) for name, metric in METRICS.items()}
        for name, value in found.items():
            assert value is not None and METRICS[name].low <= value <= METRICS[name].high, name
        assert (found["evaluations"], found["seconds"], found["memory"]) == (18, 2.5, 1.5)

    def test_what_is_not_known_is_none_and_not_zero(self) -> None:
        plain = Case(smooth(40, 30), smooth(80, 60))
        for name in ("seams", "repetition", "evaluations", "seconds", "memory"):
            assert METRICS[name].value(plain) is None
        assert METRICS["memory"].value(Case(smooth(40, 30), smooth(80, 60), cost=Cost(1, 1.0))) is None
        broken = Metric("x", "X", "ours", 0, 1, "higher", lambda case: math.inf)
        assert broken.value(Case(smooth(40, 30), smooth(80, 60))) is None
