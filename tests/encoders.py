"""A small sentence encoder of random weights, beside the library's own layers, and the wheel that carries it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from harness.models.minilm import Encoder
from harness.tasks import probe
from tests.text_files import sha256, write_zip

WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(16)))
NAMES = {
    "self_attn.out_proj": "attention.output.dense", "linear1": "intermediate.dense", "linear2": "output.dense",
    "norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm",
}  # fmt: skip
"""A layer's parts as the library calls them, and as published weights do."""


def bert(width: int, heads: int, layers: int) -> tuple[Encoder, list[torch.nn.TransformerEncoderLayer]]:
    """A small random encoder of published names, and its layers as the library's."""
    noise = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise, dtype=torch.float64) / math.sqrt(shape[-1])

    weights = {f"embeddings.{kind}_embeddings.weight": drawn(size, width)
               for kind, size in (("word", 20), ("position", 9), ("token_type", 2))}  # fmt: skip
    weights |= {"embeddings.LayerNorm.weight": 1 + drawn(width), "embeddings.LayerNorm.bias": drawn(width)}
    library = []
    for number in range(layers):
        layer = torch.nn.TransformerEncoderLayer(width, heads, 3 * width, 0.0, "gelu", 1e-7, True, dtype=torch.float64)
        own: Mapping[str, Tensor] = {name: p + drawn(*p.shape) for name, p in layer.state_dict().items()}
        layer.load_state_dict(dict(own))
        library.append(layer)
        for kind in ("weight", "bias"):
            parts = own[f"self_attn.in_proj_{kind}"].chunk(3)
            found = {f"attention.self.{part}": p for part, p in zip(("query", "key", "value"), parts, strict=True)}
            found |= {theirs: own[f"{ours}.{kind}"] for ours, theirs in NAMES.items()}
            weights |= {f"encoder.layer.{number}.{name}.{kind}": p.contiguous() for name, p in found.items()}
    return Encoder(weights, heads, layers, 1e-7), library


def tokenizer() -> str:
    """As published ones are: it cuts long texts, and would fill up short ones."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    made.enable_truncation(8)
    made.enable_padding(length=9)
    return str(made.to_str())


def write_encoder(path: Path, encoder: Encoder) -> dict[str, str]:
    """The wheel of an encoder, and its files' SHA-256."""
    config = {
        "num_attention_heads": encoder.heads,
        "num_hidden_layers": encoder.layers,
        "layer_norm_eps": encoder.epsilon,
    }
    files = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save({name: tensor.float() for name, tensor in encoder.weights.items()}),
        "tokenizer.json": tokenizer().encode(),
    }
    write_zip(path, {f"{probe.INSIDE}/{name}": raw for name, raw in files.items()})
    return {name: sha256(raw) for name, raw in files.items()}
