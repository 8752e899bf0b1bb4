"""The torch models of the export set: small, of random weights, each with inputs and dynamic dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from export_vision import Mixer, MobileNetV3, ResNet
from torch import nn

Inputs = dict[str, torch.Tensor]
VOCABULARY = 1000
_TEXT = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}


@dataclass(frozen=True)
class Model:
    """One model of the set.

    Attributes:
        build: makes the module, given transformers' name of an attention implementation.
        draw: makes inputs of a batch size and a sequence length.
        dynamic: which axes of which input may change, and what they are called.
        attentions: the implementations to try, in this order.
    """

    build: Callable[[str], nn.Module]
    draw: Callable[[int, int], Inputs]
    dynamic: Mapping[str, Mapping[int, str]]
    attentions: tuple[str, ...] = ("sdpa", "eager")


class TextModel(nn.Module):
    """ids and mask to one field of a transformers model's result."""

    def __init__(self, model: nn.Module, wanted: str, **fixed: Any) -> None:
        super().__init__()
        self.model, self.wanted, self.fixed = model, wanted, fixed

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The field called ``wanted``."""
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, **self.fixed)
        return getattr(result, self.wanted)


class TextToText(nn.Module):
    """An encoder-decoder's logits for the decoder's ids, one pass over both, no cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, decoder_input_ids: torch.Tensor
    ) -> torch.Tensor:
        """[batch, decoder's length, vocabulary]."""
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits


class PixelModel(nn.Module):
    """Pixels (or a spectrogram) to one field of a transformers model's result."""

    def __init__(self, model: nn.Module, wanted: str) -> None:
        super().__init__()
        self.model, self.wanted = model, wanted

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The field called ``wanted``."""
        return getattr(self.model(pixels), self.wanted)


class Clip(nn.Module):
    """Text and pixels to both embeddings' similarity."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """[images, texts]."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixels).logits_per_image


def _text(batch: int, length: int) -> Inputs:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - length // 4 :] = 0
    return {"input_ids": torch.randint(3, VOCABULARY, (batch, length)), "attention_mask": mask}


def _text_to_text(batch: int, length: int) -> Inputs:
    return {**_text(batch, length), "decoder_input_ids": torch.randint(3, VOCABULARY, (batch, 8))}


def _pixels(size: int) -> Callable[[int, int], Inputs]:
    return lambda batch, length: {"pixels": torch.randn(batch, 3, size, size)}


def _clip(batch: int, length: int) -> Inputs:
    text = _text(batch, length)
    text["input_ids"][:, -1] = VOCABULARY - 1
    return {**text, **_pixels(64)(batch, length)}


def _bert(attention: str) -> nn.Module:
    config = hf.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=128,
        attn_implementation=attention,
    )
    return TextModel(hf.BertModel(config, add_pooling_layer=False), "last_hidden_state")


def _gpt2(attention: str) -> nn.Module:
    config = hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=128,
        n_layer=4,
        n_head=4,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation=attention,
    )
    return TextModel(hf.GPT2LMHeadModel(config), "logits", use_cache=False)


def _llama(attention: str) -> nn.Module:
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=384,
        max_position_embeddings=128,
        attn_implementation=attention,
    )
    return TextModel(hf.LlamaForCausalLM(config), "logits", use_cache=False)


def _qwen2(attention: str) -> nn.Module:
    config = hf.Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=384,
        max_position_embeddings=128,
        attn_implementation=attention,
    )
    return TextModel(hf.Qwen2ForCausalLM(config), "logits", use_cache=False)


def _vit(attention: str) -> nn.Module:
    config = hf.ViTConfig(
        image_size=64,
        patch_size=8,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        num_labels=100,
        attn_implementation=attention,
    )
    return PixelModel(hf.ViTForImageClassification(config), "logits")


def _whisper(attention: str) -> nn.Module:
    config = hf.WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=80,
        d_model=128,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=128,
        max_source_positions=200,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation=attention,
    )
    return PixelModel(hf.WhisperModel(config).encoder, "last_hidden_state")


def _t5(attention: str) -> nn.Module:
    config = hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    return TextToText(hf.T5ForConditionalGeneration(config))


def _clip_model(attention: str) -> nn.Module:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 64,
        "eos_token_id": VOCABULARY - 1,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    vision = {
        "image_size": 64,
        "patch_size": 16,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
    }
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=64, attn_implementation=attention)
    return Clip(hf.CLIPModel(config))


_BATCH = {"pixels": {0: "batch"}}
_PLAIN = ("none",)

MODELS: Mapping[str, Model] = {
    "bert": Model(_bert, _text, _TEXT),
    "gpt2": Model(_gpt2, _text, _TEXT),
    "llama": Model(_llama, _text, _TEXT),
    "qwen2": Model(_qwen2, _text, _TEXT),
    "vit": Model(_vit, _pixels(64), _BATCH),
    "whisper_encoder": Model(_whisper, lambda batch, length: {"pixels": torch.randn(batch, 80, 400)}, _BATCH),
    "t5": Model(_t5, _text_to_text, {**_TEXT, "decoder_input_ids": {0: "batch"}}),
    "clip": Model(_clip_model, _clip, {**_TEXT, "pixels": {0: "images"}}),
    "mixer": Model(lambda _: Mixer(), _pixels(64), _BATCH, _PLAIN),
    "mobilenetv3": Model(lambda _: MobileNetV3(), _pixels(96), _BATCH, _PLAIN),
    "resnet": Model(lambda _: ResNet(), _pixels(64), _BATCH, _PLAIN),
}
