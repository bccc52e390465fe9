"""Write the averaged weights of a training run as a diffusers SDXL folder.

    python -m training.export --run runs/tiny --out cupscale/assets/tiny

Half precision, safetensors, every file below 10 MB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import CLIPTokenizer

from cupscale.codec import PixelCodec
from training import model

SHARD = "9MB"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description="Write the averaged weights of a training run as an SDXL folder."
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/tiny"), help="folder that training.train wrote"
    )
    parser.add_argument("--out", type=Path, default=Path("cupscale/assets/tiny"), help="folder to write")
    arguments = parser.parse_args()
    state = torch.load(arguments.run / "checkpoint.pt", map_location="cpu", weights_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(arguments.run / "tokenizer")
    first, second = model.make_text_encoders(tokenizer)
    parts = torch.nn.ModuleDict({"unet": model.make_unet(), "text_encoder": first, "text_encoder_2": second})
    parts.load_state_dict(state["average"])
    parts["unet"].set_attn_processor(AttnProcessor2_0())
    for name, part in parts.items():
        for old in (arguments.out / name).glob("*"):
            old.unlink()
        part.half().save_pretrained(arguments.out / name, max_shard_size=SHARD, safe_serialization=True)
    PixelCodec().half().save_pretrained(arguments.out / "vae", safe_serialization=True)
    tokenizer.save_pretrained(arguments.out / "tokenizer")
    tokenizer.save_pretrained(arguments.out / "tokenizer_2")
    model.make_scheduler().save_pretrained(arguments.out / "scheduler")
    # The text encoders are never given zeros in training: no prompt is the empty prompt.
    layout = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": False,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["cupscale.codec", "PixelCodec"],
    }
    (arguments.out / "model_index.json").write_text(json.dumps(layout, indent=2) + "\n")
    files = [file for file in arguments.out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"step {state['step']}, {len(files)} files, {size / 1e6:.1f} MB in {arguments.out}")


if __name__ == "__main__":
    main()
