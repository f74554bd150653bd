"""Hugging Face's models as students and teachers, as they are: tiny ones, made from configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness import cohort, targets, tasks
from harness.spec import StudentSpec
from harness.tasks import Task, module_teacher, own_task

WORDS, LENGTH, CLASSES = 30, 8, 3


def bert(width: int, dropout: float = 0.0) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )
    found: nn.Module = BertForSequenceClassification(config)
    return found


def task_of(folder: Path, dropout: float) -> Task:
    noise = torch.Generator().manual_seed(0)
    texts = torch.randint(1, WORDS, (160, LENGTH), generator=noise)
    labels = texts[:, 0] % CLASSES
    torch.manual_seed(0)
    teacher = bert(16)
    save_file({name: values.contiguous() for name, values in teacher.state_dict().items()}, folder / "bert.safetensors")
    return own_task(
        "tiny_bert",
        train=(texts[:100], labels[:100]),
        test=(texts[100:], labels[100:]),
        students=lambda width: bert(width, dropout),
        teacher=module_teacher(lambda: bert(16), folder / "bert.safetensors"),
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_model_of_transformers_teaches_and_is_taught_as_it_is(
    dropout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout fused, with it one at a time."""
    task = task_of(tmp_path, dropout)
    monkeypatch.setattr(tasks, "TASKS", {"tiny_bert": lambda: task})
    tasks.load.cache_clear()
    own = [
        StudentSpec("tiny_bert", "own", width, seed, "kl", alpha=0.5, temperature=2.0, epochs=2, batch_size=16)
        for width in (4, 8)
        for seed in (1, 2)
    ]
    targets.prepare(own, tmp_path / "cache", "cpu", lambda *_: None)
    records = cohort.train(own, cache=tmp_path / "cache")
    tasks.load.cache_clear()
    assert [record.status for record in records] == ["ok"] * 4
    assert [record.cost.cohort_size for record in records] == ([2] * 4 if dropout == 0 else [1] * 4)
    assert records[0].num_params == sum(values.numel() for values in bert(4).parameters())
    assert records[0].macs > 0 and records[0].metrics["val_loss"] != records[1].metrics["val_loss"]
