"""Where a student's teacher comes from: what each source says, that it is made once, and that it fits the student."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness import cohort, ledger, targets, tasks, teacher, teaching
from harness.batches import epochs, view_inputs
from harness.cohort.data import load_data
from harness.cohort.evaluate import answers
from harness.cohort.run import _train_cohort
from harness.executors import worker
from harness.models import MLP, init
from harness.records import Curve, Record
from harness.seeds import derive, generator
from harness.spec import PLAIN, StudentSpec
from harness.tasks import TeacherRecipe
from harness.teacher import OWN, Source
from tests.students import assert_alone_as_together, but_for_cost, student, train

DIGITS = tasks.load("digits")
COUNT = len(DIGITS.train)
VIEWS: dict[str, Any] = {"transform": "shift", "views": 3}
Says = Callable[[int, Tensor, Tensor], Tensor]
"""`says(epoch, rows, inputs)`: what a teacher says of a batch, before the student's step."""


def quiet(*_: object) -> None:
    """No progress."""


def load(spec: StudentSpec, cache: Path) -> targets.Targets:
    """What the student's teacher says, made where the cache lacks it."""
    targets.prepare([spec], cache, "cpu", quiet)
    return targets.load(spec, DIGITS, cache)


def by_hand(spec: StudentSpec, says: Says) -> Curve:
    """One student of the mlp family taught by `kl` under the convex mixing, in a plain loop of the library's parts."""
    params = {
        name: param.requires_grad_()
        for name, param in init(MLP, spec.width, (1, 8, 8), 10, generator(spec.seed, "init")).items()
    }
    optimiser = torch.optim.AdamW(params.values(), lr=spec.lr, weight_decay=spec.weight_decay)
    num_steps = spec.epochs * (COUNT // spec.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: (1 + math.cos(math.pi * s / num_steps)) / 2)
    every_input, temperature = view_inputs(DIGITS, spec.transform, spec.views), spec.temperature
    assert temperature is not None
    columns: list[tuple[float, ...]] = []
    for epoch, order in enumerate(epochs(spec.seed, COUNT, spec.views, spec.batch_size, spec.epochs)):
        seen = []
        for rows in torch.split(order, spec.batch_size):
            inputs, labels = every_input[rows], DIGITS.train.labels[rows % COUNT]
            logits, said = MLP.apply(params, MLP.prepare(inputs.double())), says(epoch, rows, inputs).double()
            ce = F.cross_entropy(logits, labels)
            log_q, log_p = F.log_softmax(logits / temperature, 1), F.log_softmax(said / temperature, 1)
            kd = temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            loss = spec.alpha * ce + (1 - spec.alpha) * kd
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            seen.append(torch.stack([loss, ce, kd]).detach())
        with torch.no_grad():
            val = MLP.apply(params, MLP.prepare(DIGITS.val.inputs.double()))
        right = (val.argmax(1) == DIGITS.val.labels).double().mean().item()
        columns.append((*torch.stack(seen).mean(0).tolist(), F.cross_entropy(val, DIGITS.val.labels).item(), right))
    return Curve(*zip(*columns, strict=True))


def assert_curve(record: Record, wanted: Curve, tolerance: float) -> None:
    for field in dataclasses.fields(Curve):
        found = getattr(record.curve, field.name)
        assert found == pytest.approx(getattr(wanted, field.name), rel=tolerance), field.name


def flops(width: int, num_epochs: int = 2, batch_size: int = 128) -> float:
    """What training an mlp of a width costs."""
    return 6.0 * MLP.macs(width, (1, 8, 8), 10) * (COUNT // batch_size * batch_size) * num_epochs


SOURCES: dict[str, dict[str, Any]] = {
    "offline": {},
    "width": {"teacher_width": 4, "teacher_epochs": 1},
    "epochs": {"teacher_epochs": 2},
    "online": {"teacher": "online", "teacher_width": 4},
    "assistant": {"teacher": "assistant", "assistants": "8"},
    "chain": {"teacher": "assistant", "assistants": "8>6"},
    "self": {"teacher": "self"},
    "uniform": {"teacher": "uniform"},
    "shuffled": {"teacher": "shuffled"},
    "shuffled_in_class": {"teacher": "shuffled_in_class"},
    "views": VIEWS,
    "views_self": {"teacher": "self", **VIEWS},
    "views_online": {"teacher": "online", "teacher_width": 4, **VIEWS},
    "views_shuffled": {"teacher": "shuffled", **VIEWS},
    "views_uniform": {"teacher": "uniform", **VIEWS},
}


@pytest.mark.parametrize("source", SOURCES)
def test_students_of_every_source_train_fused_as_alone(source: str, full_cache: Path) -> None:
    """Beside others of the source, of other seeds and forms, and beside the offline teacher's and a plain student."""
    spec = student(**SOURCES[source])
    views = VIEWS if spec.views > 1 else {}
    others = [student("mse", seed=1, **SOURCES[source]), student(seed=2, **SOURCES[source])]
    assert_alone_as_together([spec, *others, student(alpha=0.4, **views), student(PLAIN, **views)], full_cache)


def test_one_cohort_of_all_sources_gives_each_student_its_own_teacher(full_cache: Path) -> None:
    specs = [student(**changed) for changed in SOURCES.values() if "transform" not in changed]
    found = assert_alone_as_together(specs, full_cache)
    assert len({record.metrics["val_loss"] for record in found}) == len(specs)
    assert len({record.balance.kd_ratio[0] for record in found}) == len(specs)


def test_a_student_is_taught_by_the_tasks_own_teacher_unless_it_says_otherwise(full_cache: Path) -> None:
    assert student().teacher == "offline"
    own = teacher.load_logits(DIGITS, full_cache).train
    assert torch.equal(load(student(), full_cache).logits, own)
    (record,) = train([student()], full_cache)
    assert_curve(record, by_hand(student(), lambda _, rows, __: own[rows]), 1e-10)


@pytest.mark.parametrize("changed", [{"teacher_width": 4, "teacher_epochs": 1}, {"teacher_epochs": 2}], ids=str)
def test_another_width_or_an_early_stop_is_another_teacher(changed: dict[str, Any], full_cache: Path) -> None:
    spec = student(**changed)
    assert not torch.allclose(load(spec, full_cache).logits, load(student(), full_cache).logits, atol=0.1)
    source = targets.source_of(spec)
    assert source != OWN
    assert teacher.folder(DIGITS, full_cache, source) != teacher.folder(DIGITS, full_cache)
    weights = teacher.load_weights(DIGITS, full_cache, source)
    assert len(weights["conv_1.weight"]) == (spec.teacher_width or DIGITS.recipe.width)


def test_an_early_stopped_teacher_is_the_same_training_stopped_there(tmp_path: Path) -> None:
    task = dataclasses.replace(DIGITS, teacher=TeacherRecipe(MLP, 8, 3))
    heard: dict[int, list[float]] = {}
    for stop in (0, 2, 3):
        said: list[float] = []
        teacher.ensure(task, tmp_path, progress=lambda *a, said=said: said.append(a[2]), source=Source(epochs=stop))
        heard[stop] = said
    assert heard[3] == heard[0]
    assert heard[2] == heard[0][:2]
    whole, stopped, full = (teacher.load_logits(task, tmp_path, Source(epochs=stop)) for stop in (0, 2, 3))
    assert torch.equal(whole.train, full.train)
    assert torch.equal(whole.val, full.val)
    assert not torch.equal(whole.train, stopped.train)
    assert len({teacher.key(task, Source(epochs=stop)) for stop in (0, 2, 3)}) == 3


def taught_beside(spec: StudentSpec, said: dict[tuple[int, int], Tensor]) -> Says:
    """An online teacher as the source article trains one, a step a batch; what it says of each example is noted."""
    recipe = DIGITS.recipe
    width = spec.teacher_width or recipe.width
    start = init(recipe.family, width, (1, 8, 8), 10, generator(spec.seed, "online teacher"))
    params = {name: param.float().requires_grad_() for name, param in start.items()}
    optimiser = torch.optim.AdamW(params.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    num_steps = spec.epochs * (COUNT // spec.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: (1 + math.cos(math.pi * s / num_steps)) / 2)

    def says(epoch: int, rows: Tensor, inputs: Tensor) -> Tensor:
        logits = recipe.family.apply(params, inputs)
        optimiser.zero_grad()
        F.cross_entropy(logits, DIGITS.train.labels[rows % COUNT]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        for row, one in zip(rows.tolist(), logits.detach(), strict=True):
            said[epoch, row % COUNT] = one
        return logits.detach()

    return says


@pytest.mark.parametrize("views", [{}, VIEWS], ids=["", "views"])
def test_an_online_teacher_is_trained_beside_the_student(views: dict[str, Any], full_cache: Path) -> None:
    spec = student(teacher="online", teacher_width=4, seed=3, **views)
    said: dict[tuple[int, int], Tensor] = {}
    wanted = by_hand(spec, taught_beside(spec, said))
    kept = load(spec, full_cache)
    assert kept.online
    assert kept.logits.shape == (2, COUNT, 10)
    assert len(said) == 2 * (COUNT // 128 * 128)
    for (epoch, example), logits in said.items():
        assert torch.equal(kept.logits[epoch, example], logits)
    assert_curve(train([spec], full_cache)[0], wanted, 1e-8)


def test_students_of_one_seed_share_an_online_teacher_whoever_they_are(tmp_path: Path, full_cache: Path) -> None:
    specs = [
        student(teacher="online", teacher_width=4, seed=5),
        student("mse", teacher="online", teacher_width=4, seed=5),
    ]
    other = student("mse", width=5, alpha=0.9, lr=1e-3, teacher="online", teacher_width=4, seed=5)
    assert targets.target_key(specs[0]) == targets.target_key(specs[1]) == targets.target_key(other)
    here, there = full_cache, tmp_path / "cache"
    shutil.copytree(teacher.folder(DIGITS, full_cache), teacher.folder(DIGITS, there))
    targets.prepare(specs, here, "cpu", quiet)
    targets.prepare([other, student(teacher="online", teacher_width=4, seed=6)], there, "cpu", quiet)
    place = teacher.folder(DIGITS, there, Source(4))
    assert {path.name for path in place.glob("*.safetensors")} == {
        f"online-{seed}-2-128-none-1.safetensors" for seed in (5, 6)
    }
    said = [
        targets.load(spec, DIGITS, cache).logits for spec, cache in ((specs[0], here), (specs[1], here), (other, there))
    ]
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


def test_a_shuffled_teacher_is_a_fixed_derangement_of_the_tasks_own(full_cache: Path) -> None:
    own = teacher.load_logits(DIGITS, full_cache).train
    place = {tuple(row): index for index, row in enumerate(own.tolist())}
    assert len(place) == COUNT
    for kind, within_class in (("shuffled", False), ("shuffled_in_class", True)):
        spec = student(teacher=kind)
        said = load(spec, full_cache).logits
        assert torch.equal(said, load(dataclasses.replace(spec, seed=9), full_cache).logits)
        moved = torch.tensor([place[tuple(row)] for row in said.tolist()])
        assert torch.equal(moved.sort().values, torch.arange(COUNT))
        assert not (moved == torch.arange(COUNT)).any()
        same_class = DIGITS.train.labels[moved] == DIGITS.train.labels
        assert bool(same_class.all()) is within_class
        assert within_class or same_class.double().mean() < 0.2


def test_a_uniform_teacher_knows_nothing(full_cache: Path) -> None:
    said = load(student(teacher="uniform"), full_cache)
    assert said.logits.shape == (COUNT, 10)
    assert not said.logits.any()
    assert load(student(teacher="uniform", **VIEWS), full_cache).logits.shape == (3 * COUNT, 10)


def test_a_student_that_teaches_itself_learns_from_a_plain_twin_of_another_seed(full_cache: Path) -> None:
    spec = student(teacher="self", seed=4)
    twin = student(PLAIN, seed=derive(4, "twin"))
    result = _train_cohort([twin], full_cache, "cpu")
    (said,) = answers(result.cohort, result.data, points=False)
    (record,) = train([spec], full_cache)
    assert_curve(record, by_hand(spec, lambda _, rows, __: said.logits[rows]), 1e-10)
    assert record.cost.train_flops == 2 * flops(4)
    assert train([student(seed=4)], full_cache)[0].cost.train_flops == flops(4)


def test_a_chain_of_assistants_is_taught_from_the_top_down_and_costs_what_it_costs(full_cache: Path) -> None:
    chain = student(teacher="assistant", assistants="8>6", seed=4)
    middle = derive(4, "assistant 6")
    first = student(width=8, seed=derive(middle, "assistant 8"))
    one = student(width=6, seed=middle, teacher="assistant", assistants="8")
    result = _train_cohort([one], full_cache, "cpu")
    (said,) = answers(result.cohort, result.data, points=False)
    found, of_one, of_first = train([chain, one, first], full_cache)
    assert_curve(found, by_hand(chain, lambda _, rows, __: said.logits[rows]), 1e-10)
    assert of_first.cost.train_flops == flops(8)
    assert of_one.cost.train_flops == flops(8) + flops(6)
    assert found.cost.train_flops == flops(8) + flops(6) + flops(4)


def test_teacher_and_student_see_the_same_view(full_cache: Path) -> None:
    spec = student(**VIEWS)
    said, seen = load(spec, full_cache).logits, load_data(spec, full_cache, "cpu").views
    inputs = view_inputs(DIGITS, "shift", 3)
    assert torch.equal(inputs[:COUNT], DIGITS.train.inputs)
    assert torch.equal(seen, MLP.prepare(inputs).double())
    weights, recipe = teacher.load_weights(DIGITS, full_cache), DIGITS.recipe
    for row in (0, 7, COUNT - 1, COUNT, COUNT + 7, 2 * COUNT + 7, 3 * COUNT - 1):
        view = teaching.forward(recipe, weights, inputs[row : row + 1])[0]
        assert torch.allclose(view, said[row], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(said[:COUNT], said[COUNT : 2 * COUNT], atol=1.0)
    (record,) = train([spec], full_cache)
    assert_curve(record, by_hand(spec, lambda _, __, batch: teaching.forward(recipe, weights, batch)), 1e-4)


def test_every_example_comes_once_an_epoch_as_one_of_its_views() -> None:
    seen = list(epochs(1, 100, 3, 20, 4))
    for rows in seen:
        assert torch.equal((rows % 100).sort().values, torch.arange(100))
        assert set((rows // 100).tolist()) == {0, 1, 2}
    assert len({tuple(rows.tolist()) for rows in seen}) == 4
    for rows, plain in zip(seen, epochs(1, 100, 1, 20, 4), strict=True):
        assert torch.equal(rows % 100, plain)  # views do not change the order


KEPT: dict[str, dict[str, Any]] = {
    "views-shift-3": VIEWS,
    "features-none-1": {"feature": "similarity"},
    "features-shift-3": {"feature": "similarity", **VIEWS},
    "online-1-2-128-none-1": {"teacher": "online"},
}


@pytest.fixture(scope="module")
def kept(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds a file of every kind in the folder of the task's own teacher."""
    cache = tmp_path_factory.mktemp("kept") / "cache"
    shutil.copytree(digits_cache, cache)
    targets.prepare([student(**changed) for changed in KEPT.values()], cache, "cpu", quiet)
    return cache


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("harm", ["missing", "cut", "forged"])
def test_what_is_kept_and_does_not_fit_is_refused_in_one_line_and_made_anew(
    name: str, harm: str, kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(kept, cache)
    path = teacher.folder(DIGITS, cache) / f"{name}.safetensors"
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save_file(load_file(path), path, metadata={"key": "0" * 16})
    spec = student(**KEPT[name])
    with pytest.raises(ValueError, match=f"teacher's logits in {path}") as caught:
        cohort.train([spec], cache=cache)
    assert "\n" not in str(caught.value)
    targets.prepare([spec], cache, "cpu", quiet)
    if harm != "missing":
        [line], [aside] = caplog.messages, list(path.parent.glob("*.aside-*"))
        assert str(path) in line and line.endswith(f"it is kept as {aside.name}")
    assert but_for_cost(cohort.train([spec], cache=cache)[0]) == but_for_cost(cohort.train([spec], cache=kept)[0])


def test_what_students_need_is_made_once(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(kept, cache)
    specs = [student(**changed) for changed in KEPT.values()]
    specs += [student(teacher_width=4, teacher_epochs=1), student("mse", teacher_width=4, teacher_epochs=1)]
    heard: list[int] = []
    facts = targets.prepare(specs, cache, "cpu", lambda epoch, *_: heard.append(epoch))
    assert heard == [1]

    def trained(*_: object, **__: object) -> None:
        pytest.fail("a network was trained again")

    monkeypatch.setattr(teaching, "Training", trained)
    monkeypatch.setattr(teaching, "forward", trained)
    assert targets.prepare(specs, cache, "cpu", trained) == facts


def test_a_plain_student_needs_only_the_tasks_own_teacher(digits_cache: Path, tmp_path: Path) -> None:
    """Agreement is measured with it; nothing else is made for plain training."""
    cache = tmp_path / "cache"
    shutil.copytree(digits_cache, cache)
    before = {path.name for path in cache.rglob("*.safetensors")}
    (record,) = train([student(PLAIN, **VIEWS)], cache)
    assert {path.name for path in cache.rglob("*.safetensors")} == before
    assert but_for_cost(record) == but_for_cost(cohort.train([student(PLAIN, **VIEWS)], cache=digits_cache)[0])


def test_views_of_an_edited_transform_are_refused(full_cache: Path) -> None:
    spec = student(**VIEWS)
    load(spec, full_cache)
    edited = dataclasses.replace(DIGITS, transforms={"shift": lambda inputs, _: inputs.flip(-1)})
    with pytest.raises(ValueError, match="belong to other weights or data"):
        targets.load(spec, edited, full_cache)


def test_a_worker_makes_what_a_cohort_lacks_of_its_teachers(full_cache: Path, tmp_path: Path) -> None:
    """The probes of a study with very many combinations of choices do not meet every one of them."""
    specs = [student(teacher="online", teacher_width=4, seed=11), student(teacher_width=3, seed=11)]
    trial = ledger.TrialSpec("study", 0, "search", {}, tuple(specs), "c0ffee", 1)
    folder = ledger.write_spec(tmp_path, trial)
    worker.work("cohort", {"folders": [str(folder)], "how": {}}, full_cache, "cpu", lambda *_: None)
    records = ledger.read_result(folder, trial)
    assert records is not None and [record.status for record in records] == ["ok", "ok"]
