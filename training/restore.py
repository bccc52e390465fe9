"""Teach the bundled network to take damage out of small pictures: `python -m training.restore --data data --run runs/restore`.

It begins from the bundled denoiser and learns, at one timestep and without words, to give the photograph back from a JPEG of
it, from noise, from film grain, or from several of them. The run can be stopped at any time; the same command goes on from
the last checkpoint. `cupscale.upscalers.restore` runs what comes out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import cupscale
from cupscale.metrics import psnr
from cupscale.upscalers.restore import Network, called, packed
from training.dataset import Photographs
from training.metrics import timestep_of
from training.train import Muon, descend, keep_single, learning_rate

SIGMA = 6.0  # of 255: the noise whose timestep stands for any damage
DIRECTIONS = 32  # of the texture loss, drawn anew at every step


def jpeg(pixels: np.ndarray, quality: int, subsampling: int = 2) -> np.ndarray:
    """(H, W, 3) of bytes, saved as a JPEG and read again. Subsampling 0 is 4:4:4, 2 is 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


def noisy(pixels: np.ndarray, sigma: float, random: np.random.Generator, grey: bool) -> np.ndarray:
    """Gaussian noise on (H, W, 3) of bytes, the same for all channels where `grey` (film grain)."""
    shape = (*pixels.shape[:2], 1 if grey else 3)
    return (pixels + sigma * random.standard_normal(shape)).round().clip(0, 255).astype(np.uint8)


def damaged(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A crop (H, W, 3) of bytes as a random past left it: in 1 of 20 untouched."""
    way = random.random()
    if way < 0.05:
        return pixels
    if way > 0.65:
        pixels = noisy(pixels, random.uniform(1, 12), random, grey=random.random() < 0.35)
    if way < 0.8:
        quality = int(100 - 60 * random.random() ** 1.5)
        shift = random.integers(8, size=2)  # the grid may lie anywhere: the picture may have been cut since
        framed = np.pad(pixels, ((shift[0], 0), (shift[1], 0), (0, 0)), "symmetric")
        pixels = jpeg(framed, quality, int(random.choice((0, 2, 2))))[shift[0] :, shift[1] :]
    return pixels


def validation(data: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Pairs of a damaged and a clean picture for each kind of damage: the validation photographs at a quarter."""
    clean = []
    for file in sorted((data / "validate").glob("*.png")):
        image = Image.open(file).convert("RGB")
        width, height = image.width // 64 * 16, image.height // 64 * 16
        clean.append(np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)))
    random = np.random.default_rng(0)
    return {
        "jpeg50": [(jpeg(one, 50), one) for one in clean],
        "jpeg75": [(jpeg(one, 75), one) for one in clean],
        "jpeg92": [(jpeg(one, 92), one) for one in clean],
        "noise5": [(noisy(one, 5, random, False), one) for one in clean],
        "grain": [(noisy(one, 5, random, True), one) for one in clean],
    }


class Restorer(nn.Module):
    """The network with the timestep, the empty prompt and the sizes that stand for damage."""

    def __init__(self) -> None:
        super().__init__()
        pipeline = cupscale.load("tiny")
        self.unet = pipeline.unet.float().requires_grad_(True).to(memory_format=torch.channels_last)
        tokens, _, pooled, _ = pipeline.encode_prompt("", do_classifier_free_guidance=False)
        t, ratio = timestep_of(SIGMA, pipeline.scheduler.alphas_cumprod), 2 * SIGMA / 255
        texts = tokens.float().detach(), pooled.float().detach()
        self.network = Network(self.unet, t, ratio, *texts)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in -1..1, sides multiples of 16, to the same without its damage."""
        return called(self.network, pixels)


def texture_loss(pictures: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """How unlike the textures of two batches are, place by place, in grey levels.

    The sliced Wasserstein distance (Heitz et al. 2021, arXiv 2006.07229) of 5 x 5 patches within each 32 x 32 px. A network that
    learns from the mean error alone gives the mean of all that could have been there, which has no texture.

    Args:
        pictures: (B, 3, H, W) in grey levels, sides multiples of 32.
        truth: The same.
        generator: Of the directions.
    """
    filters = torch.randn(DIRECTIONS, 3, 5, 5, generator=generator)
    filters -= filters.mean(dim=(2, 3), keepdim=True)  # light and colour are the mean error's
    filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    sides = [
        F.conv2d(one, filters, padding=2).unfold(2, 32, 32).unfold(3, 32, 32) for one in (pictures, truth)
    ]
    first, second = (one.flatten(-2).sort(dim=-1).values for one in sides)
    return (first - second).abs().mean()


@torch.no_grad()
def scores(model: Restorer, pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
    """Mean PSNR in dB of each kind of damage."""
    found = {}
    for kind, pictures in pairs.items():
        values = []
        for before, clean in pictures:
            x = torch.from_numpy(before).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = model(x)[0].permute(1, 2, 0).numpy() / 2 + 0.5
            values.append(psnr(clean.astype(np.float32) / 255, y.clip(0, 1).astype(np.float32)))
        found[kind] = round(float(np.mean(values)), 3)
    return found


class Trainee:
    """The network in training, its average over time, and the optimizers."""

    def __init__(self, lr: float) -> None:
        self.model = Restorer()
        keep_single(self.model.unet)
        self.average = {name: value.clone() for name, value in self.model.unet.state_dict().items()}
        named = [(name, one) for name, one in self.model.unet.named_parameters() if ".attn2." not in name]
        inside = [
            one for name, one in named if one.ndim == 4 and not name.startswith(("conv_in", "conv_out"))
        ]
        rest = [one for _, one in named if not any(one is other for other in inside)]
        self.optimizers = [Muon(inside, lr=lr), torch.optim.AdamW(rest, lr=lr, weight_decay=0.0)]
        self.step = 0

    def load(self, file: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(file)
        self.model.unet.load_state_dict(state["unet"])
        self.average, self.step = state["average"], state["step"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def save(self, file: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        weights = self.model.unet.state_dict()
        part = file.with_suffix(".part")
        torch.save(
            {"unet": weights, "average": self.average, "optimizers": optimizers, "step": self.step}, part
        )
        os.replace(part, file)

    def learn(self, loss: torch.Tensor, rate: float) -> None:
        """One step of the optimizers at learning rate `rate`."""
        descend(loss, self.model, self.optimizers, rate)
        self.step += 1
        keep = min(0.998, (1 + self.step) / (10 + self.step))
        for name, value in self.model.unet.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)

    def validate(self, pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
        """`scores` of the averaged weights."""
        weights = {name: value.clone() for name, value in self.model.unet.state_dict().items()}
        self.model.unet.load_state_dict(self.average)
        found = scores(self.model, pairs)
        self.model.unet.load_state_dict(weights)
        return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--run", type=Path, required=True, help="folder of the log and the checkpoint")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument(
        "--stop", type=int, help="stop before, at this step; the rate falls as for all --steps"
    )
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument(
        "--texture", type=float, default=1.0, help="weight of `texture_loss` beside the mean error"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=96, help="of the crops, pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--validate-every", type=int, default=200)
    parser.add_argument("--export", type=Path, help="write the run's weights to this file, and train nothing")
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    if arguments.export:
        export(arguments.run, arguments.export)
        return
    torch.set_num_threads(arguments.threads)
    arguments.run.mkdir(parents=True, exist_ok=True)
    photographs, pairs = Photographs(arguments.data), validation(arguments.data)
    trainee, file = Trainee(arguments.lr), arguments.run / "checkpoint.pt"
    if file.exists():
        trainee.load(file)
    else:
        note(arguments.run, {"step": 0, **trainee.validate(pairs)})
    random = np.random.default_rng(trainee.step)
    generator = torch.Generator().manual_seed(trainee.step)

    def draw() -> list[torch.Tensor]:
        clean = [photographs.draw(arguments.size, random).pixels for _ in range(arguments.batch)]
        before = [damaged(one, random) for one in clean]
        return [torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2) / 127.5 - 1 for x in (before, clean)]

    ahead = ThreadPoolExecutor(1)
    batch, losses, began = ahead.submit(draw), [], time.monotonic()
    stop = min(arguments.stop or arguments.steps, arguments.steps)
    while trainee.step < stop:
        (before, clean), batch = batch.result(), ahead.submit(draw)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            after = trainee.model(before)
        off = (after - clean) * 127.5
        loss = (off.square() + 1).sqrt().mean()  # Charbonnier's, in grey levels
        loss = loss + arguments.texture * texture_loss(after * 127.5, clean * 127.5, generator)
        trainee.learn(loss, arguments.lr * learning_rate(trainee.step, arguments.steps))
        losses.append(loss.item())
        if trainee.step % 50 == 0:
            seconds, began = (time.monotonic() - began) / 50, time.monotonic()
            mean = round(float(np.mean(losses)), 4)
            note(arguments.run, {"step": trainee.step, "loss": mean, "s": round(seconds, 3)})
            losses.clear()
        if trainee.step % arguments.validate_every == 0 or trainee.step == stop:
            note(arguments.run, {"step": trainee.step, **trainee.validate(pairs)})
            trainee.save(file)
    ahead.shutdown(cancel_futures=True)


def export(run: Path, out: Path) -> None:
    """Write the averaged weights of a run, less the bundled ones, as `cupscale.upscalers.restore` reads them."""
    model = Restorer()
    average = torch.load(run / "checkpoint.pt")["average"]
    kept: dict[str, torch.Tensor] = {}
    for name, own in model.unet.state_dict().items():
        if not torch.equal(average[name], own):
            kept[name], kept[f"{name}.factor"] = packed(average[name] - own)
    _, t, ratio, tokens, pooled = model.network
    kept |= {"tokens": tokens.half(), "pooled": pooled.half(), "noise": torch.tensor([t, ratio])}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in kept.items()}, out)


def note(folder: Path, row: dict) -> None:
    """Add a line to the run's log."""
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
