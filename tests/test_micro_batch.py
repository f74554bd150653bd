"""A batch taken in parts gives the numbers of the whole batch, where no part of it looks at another."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from harness.models import MLP
from harness.spec import StudentSpec
from tests.owned import known, spec_of, stacked, task_of, trained
from tests.students import but_for_cost

EXACT = 1e-9
"""A mean over 16 examples is summed in another order, some 1e-16 apart; a dozen steps of Adam, which divides by small
gradients, make some 1e-12 of that. A part that was weighed wrongly would be off by half and more."""


def pure(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 3))


def alone(width: int) -> nn.Module:
    """A module that is trained by itself for a counter that it keeps; it does not look at the batch."""

    class Counting(nn.Linear):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__(width, 3)
            self.register_buffer("seen", nn.functional.one_hot(self.bias.argmax(), 3).float())

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                self.seen += 1
            return super().forward(inputs)

    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), Counting())


FAMILIES = {"plain": {"own": MLP}, "module": pure, "alone": alone}


@pytest.mark.parametrize("form", ["ce", "kl", "mse"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_that_are_added_up_are_those_of_the_whole_batch(
    family: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = known(task_of(FAMILIES[family]), monkeypatch)  # type: ignore[arg-type]
    changed = {"clip_norm": 0.5, "label_smoothing": 0.1, "patience": 2, "epochs": 3}
    whole, *parts = trained(
        [spec_of(task, form, micro_batch=size, seed=7, **changed) for size in (0, 16, 8, 1)], tmp_path
    )
    for found in parts:
        for name in ("train_loss", "train_ce", "train_kd", "val_loss", "val_accuracy"):
            curves = getattr(found.curve, name), getattr(whole.curve, name)
            assert curves[0] == pytest.approx(curves[1], rel=EXACT, abs=1e-12), name
        assert found.metrics == pytest.approx(dict(whole.metrics), rel=EXACT)
        for name in ("kd_ratio", "kd_cosine"):
            assert getattr(found.balance, name) == pytest.approx(getattr(whole.balance, name), rel=EXACT), name
    one, *_ = trained([spec_of(task, form, micro_batch=16, seed=7, **changed)], tmp_path)
    assert one.curve == but_for_cost(whole).curve  # one part is the batch itself, to the bit


def test_no_step_and_no_look_at_the_gradients_sees_more_than_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a part is for: the memory of a whole batch may not be there."""
    seen: list[int] = []

    class Watched(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.extend([len(inputs)] * self.training)
            return super().forward(inputs)

    task = known(task_of(lambda width: nn.Sequential(Watched(5, width), nn.BatchNorm1d(width))), monkeypatch)
    trained([spec_of(task, width=3, micro_batch=8)], tmp_path)
    assert set(seen) == {4, 8}  # four examples are tried before


def test_dropped_units_are_those_of_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = known(task_of({"own": MLP}), monkeypatch)
    whole, parts = trained([spec_of(task, dropout=0.4, micro_batch=size) for size in (0, 4)], tmp_path)
    assert parts.metrics == pytest.approx(dict(whole.metrics), rel=EXACT)


def test_students_of_other_parts_do_not_share_a_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = known(task_of({"own": MLP}), monkeypatch)
    specs = [spec_of(task, "ce", micro_batch=size) for size in (0, 8)]
    assert specs[0].cohort_key != specs[1].cohort_key
    trained(specs[:1], tmp_path)
    assert stacked(specs[:1], tmp_path)[0].specs == specs[:1]


def test_parts_that_do_not_divide_the_batch_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^micro_batch 5 must divide the batch_size 16, or be 0$"):
        StudentSpec("digits", "mlp", 4, 1, "ce", alpha=1.0, batch_size=16, micro_batch=5)
