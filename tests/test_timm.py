"""timm's models as students and teachers, as they are; left out where timm, or a torchvision for it, is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import cohort, targets, tasks
from harness.models import module_family
from harness.spec import StudentSpec
from harness.tasks import TeacherRecipe, own_task

timm: Any = pytest.importorskip("timm", exc_type=ImportError)


def transformer(width: int) -> nn.Module:
    size = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 3}
    found: nn.Module = timm.create_model("vit_tiny_patch16_224", embed_dim=width, depth=1, num_heads=2, **size)
    return found


def residual(_: int) -> nn.Module:
    found: nn.Module = timm.create_model("resnet10t", in_chans=1, num_classes=3)
    return found


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("make", "together"), [(transformer, 2), (residual, 1)])
def test_a_model_of_timm_teaches_and_is_taught_as_it_is(
    make: Any, together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vision transformer is fused; a residual network is trained alone, for its batch norm."""
    images = torch.randn(120, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = (images.mean((1, 2, 3)) > 0).long() + (images[:, 0, 0, 0] > 1).long()
    recipe = TeacherRecipe(module_family("large", make), width=16, epochs=1, batch_size=16)
    train, test = (images[:80], labels[:80]), (images[80:], labels[80:])
    task = own_task("timm", train=train, test=test, students=make, teacher=recipe, num_classes=3)
    monkeypatch.setattr(tasks, "TASKS", {"timm": lambda: task})
    tasks.load.cache_clear()
    own = [
        StudentSpec("timm", "own", 8, seed, "kl", alpha=0.5, temperature=2.0, epochs=1, batch_size=16)
        for seed in (1, 2)
    ]
    targets.prepare(own, tmp_path / "cache", "cpu", lambda *_: None)
    records = cohort.train(own, cache=tmp_path / "cache")
    tasks.load.cache_clear()
    assert [(record.status, record.cost.cohort_size) for record in records] == [("ok", together)] * 2
    assert records[0].num_params == sum(values.numel() for values in make(8).parameters())
