"""Train the bundled model. Stop it at any time; the same command goes on where it stopped.

    python -m training.train --data data --run runs/tiny --steps 40000

Velocity prediction with mean squared error, on the part of SDXL's noise schedule where an upscaler works (mostly
t < 300). Convolutions are trained by Muon (Jordan et al. 2024), all else by AdamW. The learning rate rises, stays, and
falls to zero over the last part of `--steps`, so a longer run can go on from the middle of a shorter one.

    python -m training.train --data data --run runs/text --text-of runs/tiny --steps 1600 --size 64 --batch 32 --lr 1e-3

then trains the text encoders and the attention over text alone, begun anew, all else held: they learn slowest.
Crops are smaller there, since from few pixels the noisy picture tells less and its caption more, and some are blurred, sharpened
or grained and say so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from cupscale.codec import PixelCodec
from cupscale.metrics import psnr
from training import model
from training.dataset import Photographs
from training.denoiser import denoise
from training.metrics import add_noise

VALIDATION_SIGMAS = (15, 25, 50)


def orthogonal(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """Move the singular values of each matrix near 1, by five Newton-Schulz steps.

    The quintic a x + (b x x' + c (x x')^2) x with 3.4445, -4.7750, 2.0315 is that of Muon (Jordan et al. 2024). All the
    steps' polynomials of x x' commute, so they are multiplied up as small square matrices, in one batch for all
    matrices of a width, and meet x at the end.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    wide = [matrix / (matrix.norm() + 1e-7) for matrix in wide]
    products: list[torch.Tensor] = [None] * len(matrices)  # type: ignore[list-item]
    for width in {len(matrix) for matrix in wide}:
        members = [number for number, matrix in enumerate(wide) if len(matrix) == width]
        gram = torch.stack([wide[number] @ wide[number].T for number in members])
        eye = torch.eye(width).expand_as(gram)
        product = eye
        for _ in range(5):
            step = a * eye + b * gram + c * gram @ gram
            product = step @ product
            gram = step @ gram @ step
        for number, one in zip(members, product, strict=True):
            products[number] = one @ wide[number]
    return [
        product.T if matrix.shape[0] > matrix.shape[1] else product
        for product, matrix in zip(products, matrices, strict=True)
    ]


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal, for matrices and convolutions (as matrices of out x in h w).

    A step has the size of one of Adam's with the same learning rate: root mean square 0.2 (Liu et al. 2025,
    arXiv 2502.16982).
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Take one step."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            ahead = []
            for parameter in parameters:
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                ahead.append(parameter.grad.lerp(buffer, group["momentum"]).reshape(len(parameter), -1))
            for parameter, update in zip(parameters, orthogonal(ahead), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(update.shape) ** 0.5
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * size)


def keep_single(unet: nn.Module) -> None:
    """Keep some convolutions out of bfloat16: those of 12 channels and those of the lowest level.

    Their backward pass in bfloat16 takes oneDNN (torch 2.13) 65 ms whatever their size, up to twenty times what it takes
    in single precision; together that is half of a training step.
    """

    def wrap(convolution: nn.Conv2d) -> None:
        forward = convolution.forward

        def single(x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return forward(x.float())

        convolution.forward = single  # type: ignore[method-assign]

    lowest = (unet.down_blocks[-1], unet.mid_block, unet.up_blocks[0].resnets)
    slow = [unet.conv_in, unet.conv_out]
    slow += [
        part
        for block in lowest
        for part in block.modules()
        if isinstance(part, nn.Conv2d) and part.kernel_size[0] == 3
    ]
    for convolution in slow:
        wrap(convolution)


def warm_start(unet: nn.Module, folder: Path) -> None:
    """Take over the weights of an earlier network with the same blocks that had no text and no size conditioning.

    What it lacks begins as nothing: the size conditioning and the values of the text add zero at first.
    """
    earlier = type(unet).from_pretrained(folder, torch_dtype=torch.float32).state_dict()
    own = unet.state_dict()
    for name in own:
        if name in earlier and earlier[name].shape == own[name].shape:
            own[name] = earlier[name]
        elif ".attn2.to_v" in name or "add_embedding.linear_2" in name:
            own[name] = torch.zeros_like(own[name])
    unet.load_state_dict(own)


def learning_rate(step: int, steps: int, warm: int = 200, fall: float = 0.25) -> float:
    """Return the factor on the learning rate: up over `warm` steps, flat, then straight down over the last `fall`."""
    return min(1.0, (step + 1) / warm, max(0.0, (steps - step) / (fall * steps)))


def draw_timesteps(count: int, random: np.random.Generator, text: bool = False) -> np.ndarray:
    """Draw timesteps in 0..999.

    75% are t = 300 u^2, the noise an upscaler meets, the rest even up to 800. For the text alone, half are even in 10..200,
    where it is to steer an upscaler, and half in 200..700.
    """
    if text:
        low, high = random.integers(10, 200, count), random.integers(200, 700, count)
        return np.where(random.random(count) < 0.5, low, high)
    low, high = 300 * random.random(count) ** 2, 800 * random.random(count)
    return np.where(random.random(count) < 0.75, low, high).astype(np.int64)


def reads(name: str) -> bool:
    """Whether the parameter of this name is part of the text encoders or of the attention over text."""
    return name.startswith("text_encoder") or ".attn2." in name


@torch.no_grad()
def fresh_text(parts: nn.ModuleDict, tokenizer, crops: list, random: np.random.Generator) -> None:
    """Begin the text anew without a change of what the network does for the empty prompt.

    After a training from nothing with everything at once, all captions had much the same embeddings. Here each token
    begins with a direction of its own, and all but the padding share one that keys can find, since most of the 77 tokens are
    padding. The attention over text begins as a constant: the mean of what it gave for no prompt on `crops`.
    """
    generator = torch.Generator().manual_seed(1)
    attentions = [module for name, module in parts["unet"].named_modules() if name.endswith("attn2")]
    means: dict[nn.Module, list[torch.Tensor]] = {attention: [] for attention in attentions}
    hooks = [
        attention.register_forward_hook(lambda own, _, output: means[own].append(output.mean(dim=(0, 1))))
        for attention in attentions
    ]
    tokens, pooled = model.encode_text([""], tokenizer, parts["text_encoder"], parts["text_encoder_2"])
    alphas = model.make_scheduler().alphas_cumprod
    for crop in crops:
        t = int(draw_timesteps(1, random)[0])
        pixels = torch.from_numpy(crop.pixels).permute(2, 0, 1)[None] / 127.5 - 1
        clean = PixelCodec().encode(pixels).latent_dist.mode()
        noise = torch.randn(clean.shape, generator=generator)
        noisy = alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * noise
        condition = {"text_embeds": pooled, "time_ids": torch.tensor([crop.time_ids])}
        parts["unet"](noisy, t, tokens, added_cond_kwargs=condition)
    for hook in hooks:
        hook.remove()
    for attention, found in means.items():
        attention.to_k.reset_parameters()
        attention.to_v.reset_parameters()
        attention.to_out[0].weight.zero_()
        attention.to_out[0].bias.copy_(torch.stack(found).mean(dim=0))
    for name, new in zip(
        ("text_encoder", "text_encoder_2"), model.make_text_encoders(tokenizer), strict=True
    ):
        words = new.get_input_embeddings().weight
        words.copy_(torch.randn(words.shape, generator=generator))
        words.add_(4 * torch.randn(words.shape[1], generator=generator))
        words[tokenizer.eos_token_id] = 0.1 * torch.randn(words.shape[1], generator=generator)
        places = next(value for key, value in new.named_parameters() if "position_embedding" in key)
        places.normal_(0, 0.1, generator=generator)
        if hasattr(new, "text_projection"):  # the pooled embedding keeps its size
            new.text_projection.weight.copy_(parts[name].text_projection.weight)
        parts[name].load_state_dict(new.state_dict())


class Trainee:
    """The model in training: its parts, their averages over time, optimisers, and counters.

    With `text` only what `reads` names is trained.
    """

    def __init__(self, captions: list[str], lr: float, text: bool = False) -> None:
        self.tokenizer = model.make_tokenizer(captions)
        first, second = model.make_text_encoders(self.tokenizer)
        self.parts = nn.ModuleDict(
            {"unet": model.make_unet(), "text_encoder": first, "text_encoder_2": second}
        )
        self.parts["unet"].to(memory_format=torch.channels_last)
        keep_single(self.parts["unet"])
        self.average = {name: value.clone() for name, value in self.parts.state_dict().items()}
        matrices, rest = [], []
        for name, parameter in self.parts.named_parameters():
            parameter.requires_grad_(not text or reads(name))
            if not parameter.requires_grad:
                continue
            inside = name.startswith("unet") and not name.startswith(("unet.conv_in", "unet.conv_out"))
            (matrices if inside and parameter.ndim == 4 else rest).append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
        ]
        if matrices:
            self.optimizers.insert(0, Muon(matrices, lr=lr))
        self.text = text
        self.lr = lr
        self.step = 0
        self.hours = 0.0
        self.seen = 0

    def state(self) -> dict:
        """Return all that is needed to go on."""
        return {
            "parts": self.parts.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "hours": self.hours,
            "seen": self.seen,
        }

    def load(self, state: dict) -> None:
        """Go on from `state`."""
        self.parts.load_state_dict(state["parts"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.hours, self.seen = state["step"], state["hours"], state["seen"]

    def follow(self) -> None:
        """Move the averages towards the weights, slower as the training goes on."""
        keep = min(0.999, (1 + self.step) / (10 + self.step))
        for name, value in self.parts.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)


def loss_of(trainee: Trainee, crops: list, random: np.random.Generator, alphas: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of the predicted velocity over a batch of crops."""
    pixels = torch.from_numpy(np.stack([crop.pixels for crop in crops])).permute(0, 3, 1, 2) / 127.5 - 1
    clean = PixelCodec().encode(pixels).latent_dist.mode().contiguous(memory_format=torch.channels_last)
    t = torch.from_numpy(draw_timesteps(len(crops), random, trainee.text))
    noise = torch.randn_like(clean)
    a, s = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
    captions = ["" if random.random() < 0.1 and not crop.altered else crop.caption for crop in crops]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, pooled = model.encode_text(
            captions, trainee.tokenizer, trainee.parts["text_encoder"], trainee.parts["text_encoder_2"]
        )
        sizes = torch.tensor([crop.time_ids for crop in crops])
        predicted = trainee.parts["unet"](
            a * clean + s * noise, t, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        ).sample
    return (predicted.float() - (a * noise - s * clean)).square().mean()


@torch.no_grad()
def validate(trainee: Trainee, pictures: list[tuple[str, np.ndarray, str]], folder: Path) -> list[float]:
    """Return the mean PSNR in dB of one network call at each noise level, with the averaged weights; save a picture."""
    weights = {name: value.clone() for name, value in trainee.parts.state_dict().items()}
    trainee.parts.load_state_dict(trainee.average)
    trainee.parts.eval()
    scores, shown = [], []
    for sigma in VALIDATION_SIGMAS:
        found = []
        for _, picture, caption in pictures:
            noisy = add_noise(picture, sigma)
            clean = denoise(trainee.parts, trainee.tokenizer, noisy, sigma, caption)
            found.append(psnr(picture, clean))
            if sigma == 50 and len(shown) < 4:
                shown.append(np.concatenate([picture, noisy, clean], axis=1))
        scores.append(float(np.mean(found)))
    Image.fromarray((np.concatenate(shown).clip(0, 1) * 255).round().astype(np.uint8)).save(
        folder / f"validate-{trainee.step:06d}.png"
    )
    trainee.parts.load_state_dict(weights)
    trainee.parts.train()
    return scores


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that training.prepare wrote")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/tiny"), help="folder for checkpoint, log and pictures"
    )
    parser.add_argument(
        "--steps", type=int, default=40000, help="step at which the learning rate reaches zero"
    )
    parser.add_argument(
        "--stop", type=int, default=None, help="stop here, before the learning rate reaches zero"
    )
    parser.add_argument("--batch", type=int, default=8, help="crops a step")
    parser.add_argument("--size", type=int, default=128, help="side of a crop in pixels, a multiple of 16")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="learning rate")
    parser.add_argument(
        "--warm", type=Path, help="folder of an earlier network whose weights a new run starts from"
    )
    parser.add_argument(
        "--text-of",
        type=Path,
        help="train the text alone, from the averaged weights of the run in this folder",
    )
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--validate-every", type=int, default=500, help="steps between validations")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _trainee(arguments: argparse.Namespace, photographs: Photographs) -> Trainee:
    """The run in `arguments.run` as it was left, or a new one."""
    trainee = Trainee(photographs.captions, arguments.lr, text=arguments.text_of is not None)
    checkpoint, tokenizer_folder = arguments.run / "checkpoint.pt", arguments.run / "tokenizer"
    if checkpoint.exists():
        trainee.load(torch.load(checkpoint, map_location="cpu", weights_only=True))
        trainee.tokenizer = model.CLIPTokenizer.from_pretrained(tokenizer_folder)
        return trainee
    if arguments.text_of:
        trainee.tokenizer = model.CLIPTokenizer.from_pretrained(arguments.text_of / "tokenizer")
    # Saved before its first use: what a call asks for, padding and truncation, would be saved as well.
    trainee.tokenizer.save_pretrained(tokenizer_folder)
    if arguments.text_of:
        earlier = torch.load(arguments.text_of / "checkpoint.pt", map_location="cpu", weights_only=True)
        trainee.parts.load_state_dict(earlier["average"])
        some = np.random.default_rng(0)
        crops = [photographs.draw(128, some) for _ in range(64)]
        fresh_text(trainee.parts, trainee.tokenizer, crops, some)
    elif arguments.warm:
        warm_start(trainee.parts["unet"], arguments.warm)
    trainee.average = {name: value.clone() for name, value in trainee.parts.state_dict().items()}
    return trainee


def _validation(data: Path) -> list[tuple[str, np.ndarray, str]]:
    """Name, the middle 256 x 256 pixels (floats in 0..1) and caption of every photograph of the validation split."""
    pictures = []
    for row in json.loads((data / "index.json").read_text()):
        if row["split"] == "validate":
            pixels = np.asarray(Image.open(data / row["file"]).convert("RGB")).astype(np.float32) / 255
            y, x = (pixels.shape[0] - 256) // 2, (pixels.shape[1] - 256) // 2
            pictures.append((row["id"], pixels[y : y + 256, x : x + 256], row["caption"]))
    return pictures


def descend(
    loss: torch.Tensor, parts: nn.Module, optimizers: list[torch.optim.Optimizer], rate: float
) -> None:
    """One step of the optimizers of `parts` down the loss, at learning rate `rate`; gradients are cut at a norm of 1."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def _step(trainee: Trainee, loss: torch.Tensor, rate: float) -> None:
    """One step of the optimizers at learning rate `rate`."""
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()} at step {trainee.step}")
    descend(loss, trainee.parts, trainee.optimizers, rate)
    trainee.step += 1


def _save(trainee: Trainee, folder: Path) -> None:
    part = folder / "checkpoint.part"
    torch.save(trainee.state(), part)
    os.replace(part, folder / "checkpoint.pt")


def _note(folder: Path, row: dict) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    arguments.run.mkdir(parents=True, exist_ok=True)
    photographs = Photographs(arguments.data)
    trainee = _trainee(arguments, photographs)
    random, places = np.random.default_rng(trainee.step), np.random.default_rng(trainee.step + 10**6)
    torch.manual_seed(trainee.step)
    pictures = _validation(arguments.data)
    alphas = model.make_scheduler().alphas_cumprod
    trainee.parts.train()
    stop = min(arguments.stop or arguments.steps, arguments.steps)
    losses, began = [], time.monotonic()
    alter = 0.4 if trainee.text else 0.0

    def draw() -> list:
        return [photographs.draw(arguments.size, places, alter) for _ in range(arguments.batch)]

    ahead = ThreadPoolExecutor(1)
    batch = ahead.submit(draw)
    while trainee.step < stop:
        rate = arguments.lr * learning_rate(trainee.step, arguments.steps)
        crops, batch = batch.result(), ahead.submit(draw)
        loss = loss_of(trainee, crops, random, alphas)
        _step(trainee, loss, rate)
        trainee.seen += arguments.batch
        trainee.follow()
        losses.append(loss.item())
        now = time.monotonic()
        trainee.hours += (now - began) / 3600
        began = now
        at = {"step": trainee.step, "hours": round(trainee.hours, 4)}
        if trainee.step % 50 == 0:
            row = at | {"loss": round(float(np.mean(losses)), 5), "lr": round(rate, 6), "crops": trainee.seen}
            losses.clear()
            _note(arguments.run, row)
        if trainee.step % arguments.validate_every == 0 or trainee.step == stop:
            scores = zip(VALIDATION_SIGMAS, validate(trainee, pictures, arguments.run), strict=True)
            _note(arguments.run, at | {f"psnr_{sigma}": round(score, 3) for sigma, score in scores})
        if trainee.step % arguments.save_every == 0 or trainee.step == stop:
            _save(trainee, arguments.run)
    ahead.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
