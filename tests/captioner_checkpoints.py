"""Small random checkpoints of real vision-language classes, laid out as on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(folder: Path, special: list[str], **named: Any) -> PreTrainedTokenizerFast:
    """Bytes, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({char: k for k, char in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made = PreTrainedTokenizerFast(tokenizer_object=core, **named)
    made.save_pretrained(folder)
    return made


def write(folder: Path, **files: Any) -> None:
    for name, data in files.items():
        (folder / f"{name}.json").write_text(json.dumps(data))


def qwen(folder: Path) -> Path:
    """Qwen3-VL, the default captioner's class."""
    torch.manual_seed(0)
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(
        folder,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    ids = dict(zip(marks, words.convert_tokens_to_ids(marks), strict=True))
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "rope_scaling": rope,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    image = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 1024, "longest_edge": 16384},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    write(
        folder,
        preprocessor_config=image
        | {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"},
        video_preprocessor_config=image | {"video_processor_type": "Qwen3VLVideoProcessor"},
        chat_template={"chat_template": template},
    )
    return folder


def smolvlm(folder: Path) -> Path:
    """SmolVLM2."""
    torch.manual_seed(0)
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<row_1_col_1>"]
    words = tokenizer(
        folder,
        ["<|im_start|>", "<|im_end|>", *marks],
        pad_token="<|im_end|>",
        eos_token="<end_of_utterance>",
        bos_token="<|im_start|>",
    )
    image_id = words.convert_tokens_to_ids("<image>")
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(words),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        image_token_id=image_id,
        scale_factor=2,
    )
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    write(
        folder,
        preprocessor_config={
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "do_image_splitting": True,
            "size": {"longest_edge": 64},
            "max_image_size": {"longest_edge": 32},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "do_resize": True,
            "do_pad": True,
            "do_convert_rgb": True,
        },
        processor_config={"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
        chat_template={"chat_template": CHATML.replace("IMAGE", "<image>")},
    )
    return folder


def llava(folder: Path) -> Path:
    """LLaVA 1.5, the paper's."""
    torch.manual_seed(0)
    words = tokenizer(
        folder, ["<pad>", "<s>", "</s>", "<image>"], pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
            bos_token_id=words.bos_token_id,
        ),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
        "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    write(
        folder,
        preprocessor_config={
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
            "do_convert_rgb": True,
        },
        processor_config={
            "processor_class": "LlavaProcessor",
            "patch_size": 8,
            "vision_feature_select_strategy": "default",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
        },
        chat_template={"chat_template": template},
    )
    return folder


def florence(folder: Path) -> Path:
    """Florence-2, which has task tokens and no chat template."""
    torch.manual_seed(0)
    words = tokenizer(
        folder,
        ["<s>", "<pad>", "</s>", "<image>"],
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    config = Florence2Config(
        text_config=BartConfig(
            vocab_size=len(words),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            decoder_start_token_id=words.eos_token_id,
            forced_eos_token_id=words.eos_token_id,
            max_position_embeddings=256,
        ),
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [8, 16],
            "num_heads": [1, 2],
            "num_groups": [1, 2],
            "window_size": 4,
            "projection_dim": 16,
            "max_position_embeddings": 16,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    write(
        folder,
        preprocessor_config={
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "Florence2Processor",
            "image_seq_length": 17,
            "size": {"height": 32, "width": 32},
            "do_center_crop": False,
            "crop_size": {"height": 32, "width": 32},
        },
        processor_config={"processor_class": "Florence2Processor"},
    )
    return folder
