"""The bundled model's measures, training parts and files, each with an answer that is known beforehand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cupscale.captioners.appearance import words_of
from cupscale.codec import PixelCodec
from training import metrics, model, restore
from training.dataset import Crop, altered, describe, size_condition
from training.evaluate import caption_of
from training.train import Trainee, fresh_text, learning_rate, orthogonal, reads

ROOT = Path(__file__).parent.parent
TINY = ROOT / "cupscale" / "assets" / "tiny"


def pink(slope: float, side: int = 256, seed: int = 0) -> np.ndarray:
    """A grey picture whose power falls as frequency to the power of `slope`."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(random.standard_normal((side, side))) * frequency ** (slope / 2)
    return np.repeat(np.fft.ifft2(spectrum).real[..., None], 3, axis=2)


class TestMetrics:
    def test_noise_has_the_named_strength(self) -> None:
        grey = np.full((256, 256, 3), 0.5, np.float32)
        assert (metrics.add_noise(grey, 25) - grey).std() * 255 == pytest.approx(25, rel=0.01)

    def test_timestep_matches_the_noise(self) -> None:
        alphas = model.make_scheduler().alphas_cumprod
        for t in (20, 100, 400):
            sigma = 255 / 2 * float(((1 - alphas[t]) / alphas[t]).sqrt())
            assert metrics.timestep_of(sigma, alphas) == pytest.approx(t, abs=0.01)

    def test_interval(self) -> None:
        mean, half = metrics.mean_and_interval([1.0, 2.0, 3.0])
        assert mean == 2
        assert half == pytest.approx(1.96 / 3**0.5)


class TestTraining:
    def test_orthogonal_keeps_directions_and_levels_sizes(self) -> None:
        matrices = [torch.randn(16, 40), torch.randn(40, 16), torch.randn(24, 24)]
        for before, after in zip(matrices, orthogonal(matrices), strict=True):
            assert after.shape == before.shape
            sizes = torch.linalg.svdvals(after)
            assert sizes.max() < 1.3
            assert sizes.median() > 0.6
            assert (before * after).sum() > 0

    def test_learning_rate_rises_stays_and_falls(self) -> None:
        assert learning_rate(0, 1000) == pytest.approx(1 / 200)
        assert learning_rate(500, 1000) == 1
        assert learning_rate(1000, 1000) == 0

    def test_captions_tell_of_the_crop(self) -> None:
        boxes = [[0.0, 0.0, 1.0, 0.5, "sky"], [0.0, 0.5, 1.0, 1.0, "grass"]]
        random = np.random.default_rng(3)
        said = {describe("a field", boxes, (0.1, 0.1, 0.3, 0.3), random) for _ in range(50)}
        assert said == {"a field", "sky"}

    def test_evaluation_takes_every_box_that_a_crop_shows(self) -> None:
        row = {"caption": "a field", "boxes": [[0, 0, 1, 0.5, "sky"], [0, 0.5, 1, 1, "grass"]]}
        grey = np.full((32, 32, 3), 120, np.uint8)
        said = caption_of(row, (0.2, 0.3, 0.6, 0.7), grey)
        assert said == {
            "photograph": "a field",
            "boxes": "sky, grass",
            "boxes and appearance": "sky, grass, smooth, grey",
            "appearance": "smooth, grey",
        }

    def test_words_of_appearance_say_what_was_put_there(self) -> None:
        random = np.random.default_rng(0)
        flat = np.full((128, 128, 3), (40, 90, 200), np.uint8)
        assert words_of(flat) == ["smooth", "blue"]
        assert words_of(np.full_like(flat, 20))[:2] == ["smooth", "dark"]
        assert words_of(np.full_like(flat, 230))[:2] == ["smooth", "bright"]
        rough = (120 + 30 * random.standard_normal((128, 128, 1)).repeat(3, axis=2)).clip(0, 255)
        assert words_of(rough.astype(np.uint8))[:2] == ["rough texture", "sharp"]
        stripes = np.zeros((128, 128, 3), np.uint8)
        stripes[:, ::4] = stripes[:, 1::4] = 200
        assert "vertical lines" in words_of(stripes)
        assert "horizontal lines" in words_of(stripes.swapaxes(0, 1))

    def test_words_of_appearance_are_those_that_the_bundled_model_was_trained_with(self) -> None:
        """Of 300 crops with 22 different words in them, made with the function that the training called."""
        random = np.random.default_rng(0)
        said = []
        for k in range(300):
            height, width = (int(n) for n in random.integers(8, 100, 2))
            light, spread, slope = random.uniform(0, 255, 3), random.uniform(0, 30), random.uniform(0, 150)
            grain = random.normal(0, spread, (height, width, 1))
            crop = light + np.linspace(0, slope, width)[:, None] + grain
            if k % 3 == 0:  # vertical stripes
                crop = np.repeat(crop[:, ::8], 8, axis=1)[:, :width]
            said.append(" ".join(words_of(np.clip(crop, 0, 255).astype(np.uint8))))
        digest = hashlib.sha256("\n".join(said).encode()).hexdigest()
        assert digest == "1b4d16bf426f743c8787b304bce55ec48cd156ee00c9d04e2ec7ea028ef356dc"

    def test_altered_crops_say_how(self) -> None:
        random = np.random.default_rng(1)
        crop = (255 * np.clip(pink(-2.0, 128) * 0.002 + 0.5, 0, 1)).astype(np.uint8)
        steps = {"": np.abs(np.diff(crop.astype(float), axis=1)).mean()}
        for _ in range(40):
            changed, (word,) = altered(crop, random)
            assert changed.shape == crop.shape
            assert changed.dtype == np.uint8
            steps[word] = np.abs(np.diff(changed.astype(float), axis=1)).mean()
        assert set(steps) == {"", "blurred", "sharp", "grainy"}
        assert steps["blurred"] < steps[""] < min(steps["sharp"], steps["grainy"])

    def test_text_alone_is_trained_and_the_rest_held(self) -> None:
        trainee = Trainee(["a red fox"], 1e-3, text=True)
        moving = {name for name, one in trainee.parts.named_parameters() if one.requires_grad}
        assert moving == {name for name, _ in trainee.parts.named_parameters() if reads(name)}
        assert any(name.startswith("text_encoder_2") for name in moving)
        assert any(name.startswith("unet.mid_block") for name in moving)
        assert not any("attn1" in name or "conv" in name or "add_embedding" in name for name in moving)
        held = sum(len(group["params"]) for one in trainee.optimizers for group in one.param_groups)
        assert held == len(moving)

    def test_fresh_text_tells_captions_apart_and_begins_as_a_constant(self) -> None:
        trainee = Trainee(["a red fox", "green leaves"], 1e-3, text=True)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        crop = Crop(pixels, "a red fox", (64.0, 64.0, 0.0, 0.0, 32.0, 32.0))
        fresh_text(trainee.parts, trainee.tokenizer, [crop], np.random.default_rng(0))
        parts = trainee.parts.eval()
        with torch.no_grad():
            tokens, pooled = model.encode_text(
                ["red fox", "green leaves"],
                trainee.tokenizer,
                parts["text_encoder"],
                parts["text_encoder_2"],
            )
            assert torch.cosine_similarity(tokens[0, 1:3], tokens[1, 1:3]).max() < 0.99
            latents = torch.randn(1, 12, 16, 16).expand(2, -1, -1, -1)
            condition = {
                "text_embeds": pooled[:1].expand(2, -1),
                "time_ids": torch.tensor([crop.time_ids] * 2),
            }
            one, two = parts["unet"](latents, 300, tokens, added_cond_kwargs=condition).sample
            assert torch.allclose(one, two, atol=1e-5)  # no caption says anything yet
            attention = parts["unet"].mid_block.attentions[0].transformer_blocks[0].attn2
            assert attention.to_out[0].weight.abs().max() == 0
            assert attention.to_out[0].bias.abs().max() > 0

    def test_size_condition_has_sdxl_order(self) -> None:
        assert size_condition((400, 600), (10, 20), (200, 300)) == (400, 600, 10, 20, 200, 300)

    def test_tokenizer_spells_what_it_does_not_know(self) -> None:
        tokenizer = model.make_tokenizer(["a red fox in the snow"] * 3)
        assert len(tokenizer("a red fox").input_ids) == 5
        unknown = tokenizer("žluťoučký 🦊").input_ids
        assert len(unknown) > 4
        assert unknown.count(tokenizer.eos_token_id) == 1

    def test_every_photograph_is_listed_with_its_source(self) -> None:
        entries = json.loads((ROOT / "training" / "data.json").read_text())["photographs"]
        assert len({entry["id"] for entry in entries}) == len(entries)
        for entry in entries:
            assert entry["split"] in {"train", "cutout", "validate", "test"}
            assert all(entry[key] for key in ("package", "version", "file", "author", "license", "caption"))
            assert len(entry["sha256"]) == 64
            assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1, _ in entry["boxes"])
        by_split = {
            split: [e["sha256"] for e in entries if e["split"] == split] for split in ("train", "test")
        }
        assert len(by_split["test"]) >= 20
        assert not set(by_split["train"]) & set(by_split["test"])


class TestCodec:
    def test_it_is_exact(self) -> None:
        pixels = torch.rand(2, 3, 32, 48) * 2 - 1
        codec = PixelCodec()
        latents = codec.encode(pixels).latent_dist.sample()
        assert latents.shape == (2, 12, 16, 24)
        assert torch.equal(codec.decode(latents).sample, pixels)
        assert torch.equal(codec.decode(latents, return_dict=False)[0], pixels)

    def test_channels_must_fit_the_block(self) -> None:
        with pytest.raises(ValueError, match="12 latent channels, not 4"):
            PixelCodec(latent_channels=4)

    def test_switches_change_nothing(self) -> None:
        codec = PixelCodec()
        codec.enable_tiling()
        codec.enable_slicing()
        codec.tile_sample_min_size = 64
        pixels = torch.rand(1, 3, 64, 64)
        assert torch.equal(codec(pixels).sample, pixels)


class TestBundledModel:
    def test_it_loads_as_sdxl(self) -> None:
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(TINY)
        assert pipe.vae_scale_factor == 2
        assert pipe.unet.config.sample_size * pipe.vae_scale_factor == 256
        assert pipe.scheduler.config.prediction_type == "v_prediction"
        embeddings = pipe.encode_prompt("a fox in the snow", device="cpu", do_classifier_free_guidance=True)
        assert embeddings[0].shape == (1, 77, pipe.unet.config.cross_attention_dim)
        assert isinstance(pipe.vae, PixelCodec)

    def test_files_are_small(self) -> None:
        sizes = [file.stat().st_size for file in TINY.rglob("*") if file.is_file()]
        assert max(sizes) < 10_000_000
        assert sum(sizes) < 40_000_000


class TestRestore:
    """What teaches the network to take damage away."""

    def noise(self, sigma: float, seed: int, side: int = 128) -> torch.Tensor:
        return sigma * torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) + 120

    def loss(self, first: torch.Tensor, second: torch.Tensor) -> float:
        return float(restore.texture_loss(first, second, torch.Generator().manual_seed(0)))

    def test_texture_is_told_by_its_strength(self) -> None:
        """White noise of 10 and of 4 levels, seen along directions of length 1: 6 E|N(0, 1)| = 4.79."""
        found = self.loss(self.noise(10, 1), self.noise(4, 2))
        assert found == pytest.approx(6 * (2 / np.pi) ** 0.5, rel=0.06)
        assert (
            self.loss(self.noise(10, 1), self.noise(10, 2)) < 0.12 * found
        )  # another noise, the same texture

    def test_texture_is_no_light_nor_colour(self) -> None:
        picture = self.noise(5, 1)
        other = picture + torch.tensor([30.0, -20.0, 5.0]).view(1, 3, 1, 1)
        inside = self.loss(picture, other)
        border = 4 / 128 * 2 * 30  # where the patches see past the picture
        assert inside < border and self.loss(picture, picture) == 0

    def test_texture_has_its_place(self) -> None:
        """Halves that change places have the same patches all in all."""
        picture = torch.cat((self.noise(10, 1)[..., :64], self.noise(2, 2)[..., 64:]), dim=-1)
        swapped = picture.roll(64, dims=-1)
        assert self.loss(picture, swapped) == pytest.approx(8 * (2 / np.pi) ** 0.5, rel=0.08)

    def test_damage_is_what_it_is_called(self) -> None:
        random = np.random.default_rng(0)
        grey = np.full((256, 256, 3), 120, np.uint8)
        coloured = restore.noisy(grey, 6, random, grey=False).astype(float)
        film = restore.noisy(grey, 6, random, grey=True).astype(float)
        assert coloured.std() == pytest.approx(6, rel=0.03) == film.std()
        assert np.ptp(film, axis=2).max() == 0 and (coloured[..., 0] - coloured[..., 1]).std() > 8
        texture = restore.noisy(grey, 20, random, grey=False)
        errors = [
            abs(restore.jpeg(texture, quality).astype(float) - texture).mean() for quality in (95, 75, 40)
        ]
        assert errors[0] < errors[1] < errors[2]

    def test_damage_keeps_the_size_and_leaves_some_alone(self) -> None:
        picture = self.noise(20, 3, 64)[0].permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
        random = np.random.default_rng(1)
        found = [restore.damaged(picture, random) for _ in range(120)]
        assert {one.shape for one in found} == {picture.shape}
        assert 1 <= sum(np.array_equal(one, picture) for one in found) <= 15

    def test_the_texture_of_noise_and_jpeg_together_is_learnt_too(self) -> None:
        """A third of the crops has noise, and nearly half of those are JPEGs besides."""
        grey = np.full((64, 64, 3), 120, np.uint8)
        random = np.random.default_rng(2)
        rough = [restore.damaged(grey, random).astype(float).std() > 0.5 for _ in range(300)]
        assert 0.25 < np.mean(rough) < 0.45

    def test_a_restorer_begins_as_the_denoiser(self) -> None:
        """The bundled network's one call at sigma 6, as `training.denoiser` makes it."""
        import cupscale
        from training.denoiser import denoise

        pipe = cupscale.load("tiny")
        parts = {name: getattr(pipe, name) for name in ("unet", "text_encoder", "text_encoder_2")}
        picture = metrics.add_noise(np.full((32, 48, 3), 0.5, np.float32), 6)
        wanted = denoise(parts, pipe.tokenizer, picture, restore.SIGMA)
        given = torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1
        with torch.no_grad():
            found = restore.Restorer()(given)[0].permute(1, 2, 0).numpy() / 2 + 0.5
        assert np.abs(found - wanted).max() < 0.002 < np.abs(wanted - picture).max()

    def test_what_is_exported_is_what_runs(self, tmp_path, monkeypatch) -> None:
        """Weights with a change of one part, through the file, in `cupscale.upscalers.restore`."""
        from cupscale.upscalers import restore as runs

        trainee = restore.Trainee(1e-4)
        with torch.no_grad():
            trainee.average["conv_out.weight"] += 0.01
        trainee.step = 1
        trainee.save(tmp_path / "checkpoint.pt")
        restore.export(tmp_path, tmp_path / "out" / "change.safetensors")
        monkeypatch.setattr(runs, "WEIGHTS", tmp_path / "out" / "change.safetensors")
        runs._load.cache_clear()
        try:
            network = runs._load()
            pixels = self.noise(20, 5, 32)[:1] / 127.5 - 1
            trainee.model.unet.load_state_dict(trainee.average)
            with torch.no_grad():
                wanted, found = trainee.model(pixels), runs.called(network, pixels)
            assert (found - wanted).abs().max() < 0.002
        finally:
            runs._load.cache_clear()
