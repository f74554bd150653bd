"""A user's own modules: trained alone as a loop by hand trains them, kept and restored with their buffers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import cohort, targets, tasks
from harness.batches import epochs
from harness.cohort.batch import Batch
from harness.cohort.objective import pull
from harness.cohort.training import fit, lr_scale
from harness.models import init, num_params
from harness.seeds import generator
from harness.spec import StudentSpec
from tests.owned import known, network_of, sizes, spec_of, stacked, task_of, trained
from tests.students import but_for_cost

EXACT = 1e-10
"""Float64 sums in another order differ by some 1e-15 of a number; over a dozen steps of Adam, whose first ones divide
by gradients that may be near 0, by some 1e-12. A wrong formula differs by far more."""


def normed(width: int, *, bias: bool = False) -> nn.Module:
    """Without a bias before batch norm, which would take it away again: its gradient is rounding and nothing else."""
    return nn.Sequential(nn.Linear(5, width, bias=bias), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def dropping(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 3))


def counted(width: int) -> nn.Module:
    """Batch norm whose averages are means over all batches, so that they depend on how many there were."""
    layers = nn.Linear(5, width, bias=False), nn.BatchNorm1d(width, momentum=None), nn.Linear(width, 3)
    return nn.Sequential(*layers)


def half_frozen(width: int) -> nn.Module:
    made = normed(width, bias=True)
    made[0].requires_grad_(False)  # type: ignore[index]
    return made


def by_hand(spec: StudentSpec, cache: Path, epochs_kept: int | None = None) -> tuple[nn.Module, dict[str, float]]:
    """The student by torch alone: modules, `torch.optim`, autograd; with its val metrics."""
    task = tasks.load(spec.task)
    make = {"normed": normed, "frozen": half_frozen, "counted": counted}[spec.task.partition("-")[0]]
    module = make(spec.width).double()
    start = init(task.families["own"], spec.width, task.input_shape, task.num_classes, generator(spec.seed, "init"))
    module.load_state_dict(start, strict=False)
    learned = [values for values in module.parameters() if values.requires_grad]
    common: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    optimiser: torch.optim.Optimizer = (
        torch.optim.SGD(learned, momentum=spec.momentum, **common)
        if spec.optimiser == "sgd"
        else torch.optim.AdamW(learned, **common)
    )
    inputs, labels = task.train.inputs.double(), task.train.labels
    said = targets.load(spec, task, cache).logits.double()
    num_steps, step = spec.epochs * (len(task.train) // spec.batch_size), 0
    for number, order in enumerate(epochs(spec.seed, len(labels), 1, spec.batch_size, spec.epochs)):
        if number == epochs_kept:
            break
        for rows in torch.split(order, spec.batch_size):
            module.train()
            logits, t = module(inputs[rows]), spec.temperature or 1.0
            kd = t * t * F.kl_div((logits / t).log_softmax(1), (said[rows] / t).softmax(1), reduction="batchmean")
            loss = spec.alpha * F.cross_entropy(logits, labels[rows]) + (1 - spec.alpha) * kd
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if spec.clip_norm:
                nn.utils.clip_grad_norm_(learned, spec.clip_norm)
            for group in optimiser.param_groups:
                group["lr"] = spec.lr * lr_scale(spec.schedule, spec.warmup, step, num_steps)
            optimiser.step()
            step += 1
    with torch.no_grad():
        found: Tensor = module.eval()(task.val.inputs.double())
    right = (found.argmax(1) == task.val.labels).double().mean().item()
    return module, {"val_loss": F.cross_entropy(found, task.val.labels).item(), "val_accuracy": right}


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from a student function to a task that is known, called by its first argument."""

    def make(name: str, students: Any) -> Any:
        made = task_of(students)
        return known(replace(made, name=f"{name}-{made.name}"), monkeypatch)

    return make


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize(("name", "make"), [("normed", normed), ("frozen", half_frozen), ("counted", counted)])
def test_a_student_with_batch_norm_is_what_a_loop_by_hand_gives(
    name: str, make: Any, optimiser: str, clip: float, mine: Any, tmp_path: Path
) -> None:
    """Parameters, running statistics, and metrics, which are measured in eval mode. Weight decay is large."""
    spec = spec_of(mine(name, make), optimiser=optimiser, weight_decay=0.3, clip_norm=clip, warmup=0.2)
    (record,) = trained([spec], tmp_path)
    ready, found = network_of(spec, tmp_path)
    module, metrics = by_hand(spec, tmp_path)
    wanted = module.state_dict()
    assert ready.alone and set(found) == set(wanted)
    for key, values in found.items():
        assert torch.allclose(values, wanted[key].double(), rtol=EXACT, atol=EXACT), key
    assert {key: record.metrics[key] for key in metrics} == pytest.approx(metrics, rel=EXACT)
    if name == "frozen":
        start = init(tasks.load(spec.task).families["own"], 4, (5,), 3, generator(spec.seed, "init"))
        assert torch.equal(found["0.weight"], start["0.weight"]) and torch.equal(found["0.bias"], start["0.bias"])
    assert found["1.num_batches_tracked"] == spec.epochs * 6  # 96 examples in batches of 16


@pytest.mark.parametrize("make", [dropping, counted], ids=["dropout", "counted"])
def test_trained_in_parts_a_student_is_to_the_bit_what_it_is_at_once(make: Any, mine: Any, tmp_path: Path) -> None:
    task = mine("parts", make)
    specs = [spec_of(task, epochs=4, seed=seed, patience=2) for seed in (1, 2)]
    (whole, other) = trained(specs, tmp_path)
    assert whole.metrics != other.metrics

    def part(until: int | None, states: Any) -> Any:
        return cohort.train_part(specs, cache=tmp_path, device="cpu", until=until, states=states)

    states: dict[StudentSpec, Any] = {}
    for until in (1, 3):
        _, kept = part(until, states)
        states = dict(zip(specs, kept, strict=True))
    records, _ = part(None, states)
    assert [but_for_cost(record) for record in records] == [but_for_cost(record) for record in (whole, other)]


def test_a_student_does_not_depend_on_who_was_trained_before_it(mine: Any, tmp_path: Path) -> None:
    """A counter that stayed in the module would change the averages of the next student."""
    task = mine("counted", counted)
    first, second = (spec_of(task, seed=seed) for seed in (1, 2))
    together = trained([first, second], tmp_path)
    assert but_for_cost(trained([second], tmp_path)[0]) == but_for_cost(together[1])


@pytest.mark.parametrize("micro_batch", [0, 8])
def test_a_look_at_the_gradients_leaves_no_trace(micro_batch: int, mine: Any, tmp_path: Path) -> None:
    spec = spec_of(mine("look", dropping), micro_batch=micro_batch)
    trained([spec], tmp_path)
    ready, data = stacked([spec], tmp_path)
    before = ready.network.values.clone()
    found = pull(ready, data, Batch(torch.arange(16)[None], 0, 0.0), None)
    assert found[:2].isfinite().all() and torch.equal(ready.network.values, before) and not ready.moved


def test_early_stopping_gives_back_the_buffers_of_the_best_epoch(mine: Any, tmp_path: Path) -> None:
    """With a learning rate that is far too high the first epochs are the best."""
    spec = spec_of(mine("normed", normed), epochs=30, patience=2, lr=3.0, schedule="constant")
    targets.prepare([spec], tmp_path, "cpu", lambda *_: None)
    ready, data = stacked([spec], tmp_path)
    done = fit(ready, data, "cpu")
    best = int(done.rows[0, :, 3].argmin()) + 1
    assert best < done.num_epochs[0] < spec.epochs
    wanted = by_hand(spec, tmp_path, best)[0].state_dict()
    for key, view in ready.network.views.items():
        assert torch.allclose(view[0], wanted[key].double(), rtol=1e-6, atol=1e-8), key  # steps this long amplify


def test_a_pure_module_is_fused_and_is_what_it_is_alone(mine: Any, tmp_path: Path) -> None:
    task = mine("pure", lambda width: nn.Sequential(nn.Linear(5, width), nn.LayerNorm(width), nn.Linear(width, 3)))
    specs = [spec_of(task, form, seed=seed) for form in ("kl", "mse", "ce") for seed in (1, 2)]
    other = mine("normed", normed)
    assert sizes(specs) == [6] and sizes([spec_of(other, seed=seed) for seed in (1, 2)]) == [1, 1]
    together = trained(specs, tmp_path)
    for spec, record in zip(specs, together, strict=True):
        (single,) = trained([spec], tmp_path)
        assert single.metrics == pytest.approx(dict(record.metrics), rel=EXACT), spec
        assert single.curve.train_loss == pytest.approx(record.curve.train_loss, rel=EXACT)


@pytest.mark.parametrize("make", [dropping, normed], ids=["dropout", "norm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_student_trains_in_every_kind_of_number(dtype: str, make: Any, mine: Any, tmp_path: Path) -> None:
    (rough,) = trained([spec_of(mine("dtype", make), "ce", dtype=dtype, epochs=8)], tmp_path)
    assert rough.metrics["val_accuracy"] > 0.5  # a third by guessing


def test_students_start_by_their_seed_and_leave_the_global_random_numbers_alone(mine: Any, tmp_path: Path) -> None:
    task = mine("seeds", dropping)
    state = torch.get_rng_state()
    one, same, other = (
        init(task.families["own"], 4, (5,), 3, generator(seed, "init"))["0.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    trained([spec_of(task)], tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_leave_buffers_out_and_count_what_is_multiplied(mine: Any, tmp_path: Path) -> None:
    task = mine("sizes", normed)
    (record,) = trained([spec_of(task)], tmp_path)
    assert record.num_params == num_params(task.families["own"], 4, (5,), 3) == 5 * 4 + 2 * 4 + (4 * 3 + 3)
    assert record.macs == 5 * 4 + 4 * 3
