"""The parts of the bundled model, new and untrained: tokenizer, text encoders, network, schedule, codec.

Everything has SDXL's layout (Podell et al. 2023, "SDXL", arXiv 2307.01952), so that the code which loads SDXL loads it.
"""

from __future__ import annotations

import json

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

CHANNELS = (48, 96, 128, 160)
TEXT_WIDTH = 128
TEXT_LAYERS = 3
VOCABULARY = 2048
NATIVE_CELLS = 128
"""Native window in latent cells of 2 x 2 pixels."""
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""SDXL's schedule, with velocity as the network's output (Salimans and Ho 2022, arXiv 2202.00512)."""

COMMON_WORDS = """
photograph photo picture close view detail sharp blurred bright dark light shadow sun sunlight sunset sunrise night day
evening morning fog mist rain snow ice storm cloud clouds sky sea ocean lake river stream waterfall water wave waves
beach sand shore desert dune mountain mountains hill hills valley rock rocks stone stones pebbles cliff cave forest wood
woods tree trees trunk bark branch branches leaf leaves grass meadow field moss flower flowers petal petals garden plant
bush fruit apple orange lemon berry berries vegetable food bread cake cup plate bowl bottle glass table chair room
window door wall floor roof tile tiles brick bricks house houses building buildings tower castle church bridge street
road path city town village fence gate statue boat boats ship car cars bus train bicycle wheel animal animals dog dogs
cat cats horse cow sheep bird birds feather feathers fur hair eye eyes face head hand hands man woman child people person
skin smile cloth clothes fabric wool leather metal steel iron gold silver plastic paper book letters sign text colour
black white grey red green blue yellow brown pink purple violet golden pale deep soft rough smooth wet dry old new
small large tall round square long short many two three one with without before behind above below under over among
near beside against between through front left right top bottom middle background texture pattern grain
"""


def make_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Learn a byte-pair vocabulary from the captions and common words. Any other text still has tokens: its bytes."""
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Both forms of each byte, inside a word and at its end, come first. The two special tokens come last.
    size = VOCABULARY - 2 - len(alphabet)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(
        [*captions, *(" ".join([word] * 3) for word in COMMON_WORDS.split())], trainer
    )
    learned = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learned["merges"]]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    pieces += ["".join(pair) for pair in merges]
    pieces = list(dict.fromkeys(pieces))[: VOCABULARY - 2]
    kept = set(pieces)
    merges = [pair for pair in merges if "".join(pair) in kept and set(pair) <= kept]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges, model_max_length=77
    )


def make_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Return two small CLIP text encoders. As in SDXL their last but one layers, side by side, steer the network."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def make_unet() -> UNet2DConditionModel:
    """Return the network: SDXL's blocks, thin, for latents of 12 channels (2 x 2 pixels).

    Cross-attention sits in the two lower levels. Plain matrix products are faster than fused attention for training on
    a CPU in bfloat16.
    """
    unet = UNet2DConditionModel(
        sample_size=NATIVE_CELLS,
        in_channels=12,
        out_channels=12,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        cross_attention_dim=2 * TEXT_WIDTH,
        attention_head_dim=[
            channels // 32 for channels in CHANNELS
        ],  # diffusers' name for the number of heads
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 32,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def make_scheduler() -> DDIMScheduler:
    """Return SDXL's noise schedule for a network that predicts velocity."""
    return DDIMScheduler(**SCHEDULE)


def encode_text(
    captions: list[str],
    tokenizer: CLIPTokenizer,
    first: CLIPTextModel,
    second: CLIPTextModelWithProjection,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token embeddings (B, 77, 2 width) and pooled embeddings (B, width), as SDXL's pipeline makes them."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    one = first(tokens, output_hidden_states=True)
    two = second(tokens, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds
