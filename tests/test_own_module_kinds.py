"""Which of a user's modules are fused and why others are not; modules of unusual make; and their export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from harness import export
from harness.export import Student, formats
from harness.export.write import FORMATS
from harness.models import Family, module_family
from tests.owned import clouds, known, network_of, noise, sizes, spec_of, task_of, trained, why_alone

Made = Any


class Branching(nn.Module):
    """Control flow on a value: of a parameter, or of the inputs alone."""

    def __init__(self, width: int, on: str) -> None:
        super().__init__()
        self.first, self.last, self.on = nn.Linear(5, width), nn.Linear(width, 3), on

    def forward(self, inputs: Tensor) -> Any:
        looked_at = self.first.weight if self.on == "parameter" else inputs
        return self.last(self.first(inputs).relu() if looked_at.sum() > 0 else self.first(inputs))


class Tempered(nn.Module):
    """Another function in training, which draws nothing; with a parameter that is one number."""

    def __init__(self, width: int, *, differs: bool) -> None:
        super().__init__()
        self.inner, self.scale, self.differs = nn.Linear(5, width), nn.Parameter(torch.tensor(2.0)), differs
        self.last = nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Any:
        return self.last(self.inner(inputs).relu()) * (0.5 if self.training and self.differs else self.scale)


class Skipping(nn.Module):
    """A layer that is skipped now and then, so rarely that a few tries do not show it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Any:
        skipped = self.training and torch.rand(()) < 1e-6
        return self.last(self.first(inputs) * (0.0 if skipped else 1.0))


class Averaging(nn.Module):
    """A buffer that is put anew at every step, not changed in place, and a counter."""

    mean: Tensor
    seen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, inputs: Tensor) -> Any:
        found = self.first(inputs)
        if self.training:
            self.seen = self.seen + 1
            self.mean = self.mean + (found.mean(0) - self.mean) / self.seen
        return self.last(found - self.mean)


class Tied(nn.Module):
    """One matrix under two names, and an answer that is an object."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.inner, self.out = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out.weight, self.head = self.inner.weight, nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.out(self.inner(self.into(inputs)).relu())), loss=None)


def normed(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (normed, "its 1.running_mean changes as it is trained"),
        (lambda w: nn.Sequential(nn.Linear(5, w), nn.Dropout(0.2), nn.Linear(w, 3)), "it draws random numbers"),
        (Skipping, "it draws random numbers as it is trained"),
        (Averaging, "its mean changes as it is trained"),
        (lambda w: Branching(w, "parameter"), "it does not map over students"),
        (lambda w: Branching(w, "inputs"), "it does not map over students"),
        (lambda w: Tempered(w, differs=True), "it is another function as it is trained"),
        (lambda w: Tempered(w, differs=False), ""),
        (Tied, ""),
    ],
    ids=["norm", "dropout", "skips", "averages", "branch", "branch_on_inputs", "differs", "one_number", "tied"],
)
def test_why_a_module_is_trained_alone_is_found_out_and_every_one_is_trained(
    make: Made, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under two seeds, for students of several seeds see other inputs each."""
    task = known(task_of(make), monkeypatch)
    found = why_alone(task)
    assert found.startswith(reason) and bool(found) == bool(reason) and "\n" not in found
    specs = [spec_of(task, seed=seed) for seed in (1, 2)]
    assert sizes(specs) == ([1, 1] if reason else [2])
    one, two = trained(specs, tmp_path)
    assert one.metrics != two.metrics


def test_buffers_that_are_put_anew_are_kept_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = known(task_of(Averaging), monkeypatch)
    _, found = network_of(spec_of(task), tmp_path)
    assert found["seen"] == 12 and found["mean"].abs().sum() > 0


def test_a_tied_matrix_is_counted_and_learned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = known(task_of(Tied), monkeypatch)
    (record,) = trained([spec_of(task)], tmp_path)
    assert record.num_params == 5 * 4 + 4 + 4 * 4 + 4 + 4 + 4 * 3 + 3
    assert record.macs == 5 * 4 + 2 * 4 * 4 + 4 * 3


def test_a_module_that_draws_when_it_is_measured_is_measured_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Always(nn.Linear):
        def forward(self, inputs: Tensor) -> Any:
            return super().forward(F.dropout(inputs, 0.4, training=True))

    task = known(task_of(lambda width: nn.Sequential(nn.Linear(5, width), Always(width, 3))), monkeypatch)
    one, again = (trained([spec_of(task)], tmp_path)[0] for _ in range(2))
    assert one.metrics == again.metrics


def test_widths_whose_networks_look_alike_are_refused_in_one_line() -> None:
    """Their parameters do not say which is which, and one would be trained as the other."""
    family = module_family("alike", lambda width: nn.Sequential(nn.Linear(5, 3), nn.Threshold(width, 0.0)))
    family.layers(2, (5,), 3)
    with pytest.raises(ValueError, match="students 'alike' of widths 2 and 3 have the same shapes; leave one width"):
        family.layers(3, (5,), 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: nn.Linear(4, w), r"the student does not take inputs \[4, 5\] torch.float32 \(RuntimeError: .*\)$"),
        (nn.LazyLinear, "the student of width 4 has lazy layers"),
        (lambda w: w, "the student function gives int for width 4, not an nn.Module"),
        (lambda w: nn.LSTM(5, w), "the student's module gives tuple, not logits"),
    ],
    ids=["other_inputs", "lazy", "no_module", "no_logits"],
)
def test_a_student_that_does_not_fit_is_refused_in_one_line(make: Made, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        why_alone(task_of(make))
    assert "\n" not in str(caught.value)


def test_what_is_prepared_is_what_is_counted() -> None:
    """Inputs that only `prepare` gives the shape that the module takes."""
    family = module_family("flat", lambda width: nn.Linear(6, width), prepare=lambda inputs: inputs.flatten(1))
    assert family.macs(3, (2, 3), 3) == 6 * 3
    tokens = module_family("tokens", lambda w: nn.Sequential(nn.Embedding(9, w), nn.Flatten(), nn.Linear(4 * w, 3)))
    assert tokens.macs(3, (4,), 3) == 4 * 3 * 3


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("make", [normed, Tied, Averaging], ids=["norm", "tied", "averages"])
def test_an_exported_module_gives_the_same_logits_in_every_format(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = known(task_of(make), monkeypatch)
    _, trained_to = network_of(spec_of(task, epochs=3), tmp_path / "cache")
    family, params = task.families["own"], {name: values.float() for name, values in trained_to.items()}
    found = export.write(Student(task, family, 4, params), tmp_path / "out")
    assert found.notes == () and list(found.differences) == list(FORMATS)
    # The user's own module takes the weights, and says the same; elsewhere, where nobody asked for this width before.
    own = make(4)
    own.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=not isinstance(own, Tied))
    inputs = clouds(7, seed=5)[0]
    logits = own.eval()(inputs)
    wanted = logits if isinstance(logits, Tensor) else logits.logits
    elsewhere = module_family(family.name, make)
    assert set(export.verify(tmp_path / "out", elsewhere)) == {"model.safetensors", "model.onnx"}
    runs = [formats.run_weights(tmp_path / "out" / "model.safetensors", elsewhere),
            formats.run_program(tmp_path / "out" / "model.pt2"),
            formats.run_onnx(tmp_path / "out" / "model.onnx")]  # fmt: skip
    for run in runs:
        # Float32 sums of a dozen numbers in another order.
        assert (run(inputs) - wanted).abs().max() < 1e-5


def test_parameters_whose_names_differ_by_a_dot_are_both_exported() -> None:
    class Named(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.last = nn.Linear(5, width), nn.Linear(width, 3)
            self.a_weight = nn.Parameter(torch.ones(width, 5))

        def forward(self, inputs: Tensor) -> Any:
            return self.last(self.a(inputs) + F.linear(inputs, self.a_weight))

    family: Family = module_family("named", Named)
    task = dataclasses.replace(task_of({"own": family}))
    layers = family.layers(4, (5,), 3)
    params = {name: noise(*layer.shape, seed=place) for place, (name, layer) in enumerate(layers.items())}
    module = export.network(Student(task, family, 4, params))
    own = Named(4)
    own.load_state_dict(params)
    inputs = clouds(7, seed=5)[0]
    assert torch.allclose(module(inputs), own(inputs), rtol=1e-5, atol=1e-5)  # float32
