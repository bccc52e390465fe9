"""Measure the bundled model on any folder of photographs that it was not trained on.

    python -m training.evaluate denoise --pictures data/test      # noise of sigma 15, 25, 50, beside BM3D
    python -m training.evaluate text --pictures data/test --index data/index.json
    python -m training.evaluate regions --pictures data/test --limit 3 --input 128
    python -m training.evaluate upscale --pictures data/test --out out/evaluation
    python -m training.evaluate sweep --pictures data/test --limit 6 --out out/sweep

Each prints a table and writes it as JSON beside its pictures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cupscale.captioners.appearance import words_of
from cupscale.metrics import border_energy, flat_grain, patch_distance, psnr, spectrum_slope
from training import metrics, model
from training.dataset import describe

SIGMAS = (15, 25, 50)
SCALE = 4


def read(file: Path) -> np.ndarray:
    """Read a picture as (H, W, 3) in 0..1."""
    return np.asarray(Image.open(file).convert("RGB")).astype(np.float32) / 255


def as_image(picture: np.ndarray) -> Image.Image:
    """Return a picture in 0..1 as an image of 8 bits."""
    return Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))


def resized(picture: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) to (width, height) with Pillow's Lanczos filter, which averages when it reduces."""
    image = as_image(picture).resize(size_px, Image.Resampling.LANCZOS)
    return np.asarray(image).astype(np.float32) / 255


def centre(picture: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Cut out the middle."""
    height_px, width_px = min(height_px, picture.shape[0]), min(width_px, picture.shape[1])
    top, left = (picture.shape[0] - height_px) // 2, (picture.shape[1] - width_px) // 2
    return picture[top : top + height_px, left : left + width_px]


def files_of(folder: Path, limit: int | None) -> list[Path]:
    """List the pictures of a folder by name."""
    kinds = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in kinds)[:limit]


def load_parts(folder: Path) -> tuple[dict, object]:
    """Load the model's network and text encoders, in single precision, and its tokenizer."""
    from diffusers import StableDiffusionXLPipeline

    import cupscale.codec  # noqa: F401  diffusers only takes a class whose module is imported already

    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    return {name: getattr(pipe, name) for name in ("unet", "text_encoder", "text_encoder_2")}, pipe.tokenizer


def evaluate_denoiser(arguments: argparse.Namespace) -> dict:
    """Mean PSNR in dB over the middle 256 x 256 px of each photograph, for one network call and for BM3D."""
    from training.denoiser import denoise

    parts, tokenizer = load_parts(arguments.model)
    rows = []
    for file in files_of(arguments.pictures, arguments.limit):
        picture = centre(read(file), arguments.side, arguments.side)
        row: dict = {"picture": file.stem}
        for sigma in SIGMAS:
            noisy = metrics.add_noise(picture, sigma)
            row[f"ours_{sigma}"] = psnr(picture, denoise(parts, tokenizer, noisy, sigma))
            if not arguments.no_bm3d:
                import bm3d

                cleaned = bm3d.bm3d_rgb(noisy.astype(np.float64), sigma / 255)
                row[f"bm3d_{sigma}"] = psnr(picture, np.asarray(cleaned))
        rows.append(row)
        print(file.stem, {key: round(value, 2) for key, value in row.items() if key != "picture"}, flush=True)
    names = [name for name in rows[0] if name != "picture"]
    return {"mean": {name: float(np.mean([row[name] for row in rows])) for name in names}, "pictures": rows}


def caption_of(row: dict, crop: tuple[float, float, float, float], pixels: np.ndarray) -> dict[str, str]:
    """Return the right captions of a crop: of its photograph, of what is where, and with the words of its appearance."""
    where = describe(row["caption"], row["boxes"], crop)
    return {
        "photograph": row["caption"],
        "boxes": where,
        "boxes and appearance": ", ".join([where, *words_of(pixels)]),
        "appearance": ", ".join(words_of(pixels)),
    }


@torch.no_grad()
def _text_crops(file: Path, row: dict, draws: int, random: np.random.Generator) -> list[tuple]:
    """`draws` crops of 128 x 128 px of a photograph: (pixels, size conditioning, captions)."""
    picture = read(file)
    height, width = picture.shape[:2]
    crops = []
    for _ in range(draws):
        top, left = int(random.integers(height - 127)), int(random.integers(width - 127))
        pixels = picture[top : top + 128, left : left + 128]
        place = (left / width, top / height, (left + 128) / width, (top + 128) / height)
        captions = caption_of(row, place, (pixels * 255).round().astype(np.uint8))
        crops.append((pixels, (2.0 * height, 2.0 * width, top, left, height, width), captions))
    return crops


def evaluate_text(arguments: argparse.Namespace) -> dict:
    """Velocity loss with the right caption against that with a crop's of another photograph, on the same noise.

    Timesteps are even in 200..600, crops 128 x 128 px of each photograph. Captions are those of the index: of the whole
    photograph; of what lies where the crop is; the same with the words of
    `cupscale.captioners.appearance`; and those words alone. Rows hold
    the mean of (shuffled - right) / right and of (empty - right) / right with their 95% intervals; photographs are the
    units, so the intervals are of the photographs' means.
    """
    parts, tokenizer = load_parts(arguments.model)
    rows = {row["id"]: row for row in json.loads(arguments.index.read_text())}
    files = [file for file in files_of(arguments.pictures, arguments.limit) if file.stem in rows]
    alphas = model.make_scheduler().alphas_cumprod
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    crops = [_text_crops(file, rows[file.stem], arguments.draws, random) for file in files]
    kinds = list(crops[0][0][2])
    losses: dict[str, list] = {kind: [] for kind in ("empty", *kinds, *(f"other {kind}" for kind in kinds))}
    for number, own in enumerate(crops):
        for draw, (pixels, sizes, captions) in enumerate(own):
            clean = torch.from_numpy(pixels).permute(2, 0, 1)[None] * 2 - 1
            clean = torch.nn.functional.pixel_unshuffle(clean, 2)
            t = int(200 + 400 * (draw + 0.5) / arguments.draws)
            alpha = alphas[t]
            noise = torch.randn(clean.shape, generator=generator)
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
            other = crops[(number + 1 + int(random.integers(len(crops) - 1))) % len(crops)]
            others = other[int(random.integers(arguments.draws))][2]
            texts = ["", *captions.values(), *others.values()]
            tokens, pooled = model.encode_text(
                texts, tokenizer, parts["text_encoder"], parts["text_encoder_2"]
            )
            condition = {"text_embeds": pooled, "time_ids": torch.tensor([sizes] * len(texts))}
            v = parts["unet"](
                noisy.expand(len(texts), -1, -1, -1), t, tokens, added_cond_kwargs=condition
            ).sample
            found = (v - target).square().mean(dim=(1, 2, 3)).tolist()
            for name, loss in zip(losses, found, strict=True):
                losses[name].append(loss)
    by_photograph = {
        name: np.asarray(found).reshape(len(crops), arguments.draws) for name, found in losses.items()
    }
    result: dict = {"photographs": len(files), "draws": arguments.draws}
    for kind in kinds:
        right = by_photograph[kind]
        row = {"loss": float(right.mean())}
        for name, against in (("shuffled", f"other {kind}"), ("empty", "empty")):
            worse = ((by_photograph[against] - right) / right).mean(axis=1)
            mean, half = metrics.mean_and_interval(list(worse))
            row |= {f"{name}_worse_percent": 100 * mean, f"{name}_interval_percent": 100 * half}
        result[kind] = row
    return result


def evaluate_regions(arguments: argparse.Namespace) -> dict:
    """What another caption for the upper left quarter changes, there and far from it.

    Each photograph is enlarged twice with the same seed, once with its own caption everywhere and once with `--caption` for
    the quarter. The table holds the mean change in grey levels of 255 in the quarter, and in the lower right one.
    """
    captions = {row["id"]: row["caption"] for row in json.loads(arguments.index.read_text())}
    files, _, inputs = cases(arguments)
    pipe = load_pipe(arguments)
    settings = json.loads(arguments.settings) if arguments.settings else {}
    near, far = [], []
    for file, small in zip(files, inputs, strict=True):
        height, width = SCALE * small.shape[0], SCALE * small.shape[1]
        own = captions.get(file.stem, "")
        both = []
        for quarter in (own, arguments.caption):
            boxes = [{"box": (0, 0, width // 2, height // 2), "caption": quarter}]
            settings |= {"prompt": own, "captions": boxes, "detail": 1.0}
            both.append(run_ours(pipe, **settings)(small))
        change = 255 * np.abs(both[1] - both[0]).mean(axis=2)
        near.append(float(change[: height // 4, : width // 4].mean()))
        far.append(float(change[-height // 4 :, -width // 4 :].mean()))
    return {"photographs": len(files), "change_near": float(np.mean(near)), "change_far": float(np.mean(far))}


def measure(
    originals: list[np.ndarray],
    inputs: list[np.ndarray],
    outputs: list[np.ndarray],
    borders: tuple[list, list] | None,
) -> dict:
    """The figures of one method over all photographs."""
    grains = [flat_grain(one, two) for one, two in zip(originals, outputs, strict=True)]
    row = {
        "swd": patch_distance(originals, outputs),
        "slope": float(np.mean([spectrum_slope(one) for one in outputs])),
        "down_psnr": float(
            np.mean(
                [
                    psnr(small, resized(large, (small.shape[1], small.shape[0])))
                    for small, large in zip(inputs, outputs, strict=True)
                ]
            )
        ),
        "psnr": float(np.mean([psnr(one, two) for one, two in zip(originals, outputs, strict=True)])),
        "grain": float(np.mean([grain[1] for grain in grains])),
        "grain_original": float(np.mean([grain[0] for grain in grains])),
        "grain_worse": sum(ours > real for real, ours in grains),
    }
    if borders:
        row["border"] = float(np.mean([border_energy(one, *borders) for one in outputs]))
    return row


def cases(arguments: argparse.Namespace) -> tuple[list[Path], list[np.ndarray], list[np.ndarray]]:
    """Files, originals cut to at most 4 x `--input` px a side, and inputs reduced by 4."""
    files = files_of(arguments.pictures, arguments.limit)
    side = SCALE * arguments.input
    originals = []
    for file in files:
        picture = centre(read(file), side, side)
        height, width = (length // (2 * SCALE) * 2 * SCALE for length in picture.shape[:2])
        originals.append(centre(picture, height, width))
    return (
        files,
        originals,
        [resized(one, (one.shape[1] // SCALE, one.shape[0] // SCALE)) for one in originals],
    )


def load_pipe(arguments: argparse.Namespace):
    """Load the model by its name if it is the bundled one, so that its own defaults hold."""
    import cupscale

    return cupscale.load("tiny" if arguments.model == Path("cupscale/assets/tiny") else str(arguments.model))


def run_ours(pipe, **settings) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that enlarges a picture by 4 with the public interface."""
    import cupscale

    def enlarge(small: np.ndarray) -> np.ndarray:
        result = cupscale.upscale(pipe, as_image(small), scale=SCALE, seed=7, **settings)
        return np.asarray(result.image.convert("RGB")).astype(np.float32) / 255

    return enlarge


def run_realesrgan(small: np.ndarray) -> np.ndarray:
    """Enlarge by 4 with Real-ESRGAN x4plus (Wang et al. 2021, arXiv 2107.10833)."""
    from cupscale.upscalers import base_upscale

    large = base_upscale(as_image(small), (small.shape[1] * SCALE, small.shape[0] * SCALE), "realesrgan")
    return np.asarray(large).astype(np.float32) / 255


def evaluate_upscaler(arguments: argparse.Namespace) -> dict:
    """Ours at the defaults beside Lanczos, Real-ESRGAN and the originals; pictures of all, side by side."""
    files, originals, inputs = cases(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipe = load_pipe(arguments)
    settings = json.loads(arguments.settings) if arguments.settings else {}
    ways = {
        "lanczos": lambda small: resized(small, (small.shape[1] * SCALE, small.shape[0] * SCALE)),
        "realesrgan": run_realesrgan,
        "ours": run_ours(pipe, **settings),
    }
    table: dict = {}
    made: dict[str, list[np.ndarray]] = {"original": originals}
    for name, way in ways.items():
        began = time.perf_counter()
        made[name] = [way(small) for small in inputs]
        table[name] = measure(originals, inputs, made[name], window_borders(arguments, made[name]))
        table[name]["seconds"] = (time.perf_counter() - began) / len(inputs)
        print(name, {key: round(value, 3) for key, value in table[name].items()}, flush=True)
    table["original"] = measure(originals, inputs, originals, None)
    for number, file in enumerate(files):
        row = [made[name][number] for name in ("lanczos", "realesrgan", "ours", "original")]
        as_image(np.concatenate(row, axis=1)).save(arguments.out / f"{file.stem}.png")
    return {"settings": settings, "photographs": len(files), "methods": table}


def window_borders(arguments: argparse.Namespace, pictures: list[np.ndarray]) -> tuple[list[int], list[int]]:
    """Where windows of 256 px with the given overlap begin and end, in pixels. Jitter moves them a little each step."""
    stride = round(256 * (1 - arguments.overlap))
    height, width = pictures[0].shape[:2]
    found = []
    for length in (width, height):
        starts = range(stride, length - 255, stride)
        found.append(
            sorted({edge for start in starts for edge in (start, start - stride + 256) if edge < length})
        )
    return found[0], found[1]


def sweep(arguments: argparse.Namespace) -> dict:
    """The figures for each combination of the lists in `--grid`, a JSON object from settings to lists of values."""
    _, originals, inputs = cases(arguments)
    pipe = load_pipe(arguments)
    grid = json.loads(arguments.grid)
    rows = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        began = time.perf_counter()
        outputs = [run_ours(pipe, **settings)(small) for small in inputs]
        seconds = (time.perf_counter() - began) / len(inputs)
        row = settings | measure(originals, inputs, outputs, None) | {"seconds": seconds}
        rows.append(row)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    return {"photographs": len(inputs), "rows": rows}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measure the bundled model on a folder of photographs.")
    parser.add_argument("what", choices=("denoise", "text", "regions", "upscale", "sweep"))
    parser.add_argument("--pictures", type=Path, default=Path("data/test"), help="folder of photographs")
    parser.add_argument("--model", type=Path, default=Path("cupscale/assets/tiny"), help="the model's folder")
    parser.add_argument(
        "--out", type=Path, default=Path("out/evaluation"), help="folder for pictures and figures"
    )
    parser.add_argument(
        "--index", type=Path, default=Path("data/index.json"), help="captions, for `text` and `regions`"
    )
    parser.add_argument("--caption", default="red bricks", help="of the quarter, for `regions`")
    parser.add_argument("--limit", type=int, help="take the first so many pictures only")
    parser.add_argument("--side", type=int, default=256, help="side of the middle part for `denoise`, in px")
    parser.add_argument("--no-bm3d", action="store_true", help="leave BM3D out")
    parser.add_argument("--draws", type=int, default=16, help="crops of each photograph for `text`")
    parser.add_argument("--input", type=int, default=192, help="largest side of the small picture, in px")
    parser.add_argument("--overlap", type=float, default=0.5, help="of windows, for the border measure")
    parser.add_argument("--settings", help="settings for `upscale`, as JSON; the defaults without it")
    parser.add_argument(
        "--grid", default='{"strength": [0.05, 0.1, 0.15], "steps": [50]}', help="for `sweep`, as JSON"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ways = {
        "denoise": evaluate_denoiser,
        "text": evaluate_text,
        "regions": evaluate_regions,
        "upscale": evaluate_upscaler,
        "sweep": sweep,
    }
    result = ways[arguments.what](arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{arguments.what}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps({key: value for key, value in result.items() if key not in ("pictures", "rows")}, indent=1)
    )


if __name__ == "__main__":
    main()
