"""Make the training and evaluation pictures from the packages that `data.json` lists.

    python -m training.prepare --packages packages --data data

`packages` is a folder with one folder for each package, named as in `data.json`, that holds the package's unpacked
files (README.md says how to fetch them). Every file is checked against its hash. Written are

    data/train/<id>-<long side>.npy    (H, W, 3) bytes: each photograph at up to three sizes
    data/cutouts/<id>.npy              (H, W, 4) bytes: photographs of single things, cut out, with their alpha
    data/validate/<id>.png             for steering the training
    data/test/<id>.png                 for the published figures; nothing is tuned for single pictures of it
    data/index.json                    sizes, native sizes and captions of all of them
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

LONG_SIDES_PX = (2560, 1440, 800)
"""A photograph of n pixels is kept at those of these long sides that are smaller, and at n itself if n is smaller than
the first. Large photographs are soft at their full size and sharp at the smaller ones."""
EVALUATION_LONG_SIDE_PX = 1024
"""Evaluation pictures are reduced to this long side, so that most of them are sharp."""
HERE = Path(__file__).parent


def read_member(resources: bytes, sha256: str) -> bytes:
    """Find one file in a Qt resource file by its hash.

    Format: a header of five big-endian words (magic, version, offsets of tree, data, names); in the data every file is
    a word that gives its length, then its bytes. Pictures are stored as they are, so it is enough to look for the
    beginnings of WebP and JPEG files.
    """
    for magic in (b"RIFF", b"\xff\xd8\xff"):
        at = resources.find(magic)
        while at >= 0:
            (length,) = struct.unpack(">I", resources[at - 4 : at])
            content = resources[at : at + length]
            if len(content) == length and hashlib.sha256(content).hexdigest() == sha256:
                return content
            at = resources.find(magic, at + 1)
    raise FileNotFoundError(f"no file with hash {sha256}")


def read(entry: dict, packages: Path) -> Image.Image:
    """Read the picture of one entry of `data.json`, after a check of its hash."""
    content = (packages / entry["package"] / entry["file"]).read_bytes()
    if "member" in entry:
        content = read_member(content, entry["sha256"])
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']} of {entry['package']} is not the file that data.json names")
    if entry["file"].endswith(".dat"):  # SciPy keeps its raccoon as bz2-packed bytes
        return Image.fromarray(np.frombuffer(bz2.decompress(content), np.uint8).reshape(768, 1024, 3))
    return Image.open(io.BytesIO(content))


def reduced(image: Image.Image, long_side_px: int) -> Image.Image:
    """Resize to the given long side with Lanczos; a picture that is smaller already comes back as it is."""
    scale = long_side_px / max(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Make the training and evaluation pictures.")
    parser.add_argument("--packages", type=Path, default=Path("packages"), help="folder of unpacked packages")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder to write to")
    parser.add_argument("--split", help="only this one, such as test")
    arguments = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    entries = json.loads((HERE / "data.json").read_text())["photographs"]
    index = []
    for folder in ("train", "cutouts", "validate", "test"):
        (arguments.data / folder).mkdir(parents=True, exist_ok=True)
    for entry in entries:
        if arguments.split not in (None, entry["split"]):
            continue
        image = read(entry, arguments.packages)
        native = [image.height, image.width]
        row = {key: entry[key] for key in ("id", "split", "caption", "boxes")} | {"native": native}
        if entry["split"] == "cutout":
            row["file"] = f"cutouts/{entry['id']}.npy"
            np.save(arguments.data / row["file"], np.asarray(reduced(image.convert("RGBA"), 480)))
        elif entry["split"] == "train":
            image = image.convert("RGB")
            long_side = max(image.size)
            sides = [side for side in LONG_SIDES_PX if side * 1.15 < long_side]
            if long_side <= LONG_SIDES_PX[0]:
                sides = [long_side, *sides]
            row["levels"] = []
            for side in sides:
                pixels = np.asarray(reduced(image, side))
                file = f"train/{entry['id']}-{side}.npy"
                np.save(arguments.data / file, pixels)
                row["levels"].append({"file": file, "size": list(pixels.shape[:2])})
        else:
            small = reduced(image.convert("RGB"), EVALUATION_LONG_SIDE_PX)
            small = small.crop((0, 0, small.width // 4 * 4, small.height // 4 * 4))
            row["file"] = f"{entry['split']}/{entry['id']}.png"
            small.save(arguments.data / row["file"])
        index.append(row)
    (arguments.data / "index.json").write_text(json.dumps(index))
    print(f"{len(index)} pictures in {arguments.data}")


if __name__ == "__main__":
    main()
