"""What a student's spec says of its losses: which form, with which knobs and weights, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.forms import FEATURE_KNOBS, KNOBS, Form, Knob
from harness.losses.table import FEATURES, LOSSES
from harness.spec import NONE, PLAIN, StudentSpec
from harness.study_files import load_module

SIGNS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0))
"""Of two students' logits: where they differ, a branch on a sum over both goes another way than one's own."""
PROGRESS = (0.5, 0.0, 1.0)
"""The shares of training at which a form is tried: one may well be silent at some."""


def weights(spec: StudentSpec) -> tuple[float, float]:
    """The weights of a student's cross-entropy and of its distillation loss.

    `convex`, the article's formula: `alpha, 1 - alpha`. `additive`, the article's code: `1, alpha`. Plain: `1, 0`. All
    times the spec's `loss_scale`.
    """
    if spec.form == PLAIN:
        return 1.0, 0.0
    ce, kd = (spec.alpha, 1 - spec.alpha) if spec.mixing == "convex" else (1.0, spec.alpha)
    return spec.loss_scale * ce, spec.loss_scale * kd


def unlabelled_weight(spec: StudentSpec) -> float:
    """The weight of the distillation loss on examples without a label: that of `weights` at alpha 0 under `convex`,
    where alpha weighs the labels, and the same as elsewhere under `additive`, where it weighs the teacher."""
    if spec.form == PLAIN:
        return 0.0
    return spec.loss_scale * (1.0 if spec.mixing == "convex" else spec.alpha)


def find_form(spec: StudentSpec) -> Form:
    """The student's loss form, built in or of its study's file. Raises `ValueError` for neither."""
    known = {**LOSSES, **(_own_forms(spec.form_file) if spec.form_file else {})}
    if spec.form not in known:
        raise ValueError(f"unknown form {spec.form!r}; forms are {', '.join(known)}, or {PLAIN} for plain training")
    return known[spec.form]


def check(spec: StudentSpec, num_classes: int = 10) -> None:
    """Raise `ValueError` in one line unless the student's forms exist and have just the knobs they take, in range.

    A form of the study's own is tried out on logits of so many classes.
    """
    if spec.form == PLAIN:
        return
    form = find_form(spec)
    if spec.form not in LOSSES:
        try_out(spec.form_file, spec.form, num_classes)
    for problem in _problems(spec, form):
        raise ValueError(problem)


def _problems(spec: StudentSpec, form: Form) -> Iterator[str]:
    takes_one = "temperature" in form.knobs
    if takes_one and spec.temperature is None:
        yield f"form {spec.form!r} needs a temperature; add one to the study's space or fixed knobs"
    if not takes_one and spec.temperature is not None:
        takers = ", ".join(name for name, knobs in KNOBS.items() if "temperature" in knobs)
        yield f"form {spec.form!r} takes no temperature; only {takers} do (use when={{'form': (...)}})"
    if spec.feature not in (NONE, *FEATURES):
        yield f"unknown feature {spec.feature!r}; features are {NONE}, {', '.join(FEATURES)}"
    wanted = _named(spec.form, form.knobs) | _named(spec.feature, FEATURE_KNOBS.get(spec.feature, {}))
    given = dict(spec.knobs)
    for name in sorted(set(given) ^ set(wanted)):
        has = f"takes {', '.join(wanted)}" if wanted else "takes no knobs of its own"
        what = "is missing" if name in wanted else "is not its own"
        yield f"knob {name!r} {what}; {'/'.join(n for n in (spec.form, spec.feature) if n != NONE)} {has}"
    for name, knob in wanted.items():
        if not knob.allowed.admits(given[name]):
            yield f"{name} {given[name]!r} is out of range; it must be {knob.allowed}"


def _named(form: str, knobs: Mapping[str, Knob]) -> dict[str, Knob]:
    return {f"{form}.{name}": knob for name, knob in knobs.items() if name != "temperature"}


class _Unread(TorchFunctionMode):
    """Within, no number of a tensor is read, as `if` does: what follows would hold for all students of a cohort."""

    READS = (Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.item, Tensor.tolist)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self.READS:
            raise ValueError("it reads a number of a tensor, as if, float() and item() do; write torch.where")
        return func(*args, **(kwargs or {}))


@cache
def try_out(spec_file: str, name: str, num_classes: int) -> None:
    """Compute a study's own form on made-up logits of two students, of each sign, at three shares of the training.

    Raises `ValueError` in one line unless it gives each student one finite number with a gradient, which depends on no
    other, and there is something to learn by it.
    """
    form = _own_forms(spec_file)[name]
    noise = torch.Generator().manual_seed(0)
    apart = torch.tensor([1.0, 3.0])[:, None, None]  # so that it shows where one student's value sways another's
    student, teacher = (torch.randn(2, 5, num_classes, generator=noise) * apart + apart for _ in range(2))
    labels = torch.randint(num_classes, (2, 5), generator=noise)
    learns = False
    for signs, progress in product(SIGNS, PROGRESS if "progress" in form.takes else (0.5,)):
        own = student * torch.tensor(signs)[:, None, None]
        try:
            with _Unread():
                together, slope = _computed(form, own, teacher, labels, progress)
            alone = [_computed(form, own[k : k + 1], teacher[k : k + 1], labels[k : k + 1], progress) for k in (0, 1)]
        except (Exception, SystemExit) as error:  # whatever the user's own code raises is the user's, in one line
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(f"form {name!r} of {spec_file} cannot be computed: {reason}") from None
        if not all(part.isfinite().all() for part in (together, slope)):
            raise ValueError(f"form {name!r} of {spec_file} gives a value or a gradient that is not finite")
        if not torch.allclose(together, torch.cat([value for value, _ in alone]), rtol=1e-4):
            raise ValueError(f"form {name!r} of {spec_file} mixes students: one's value depends on its neighbours'")
        learns = learns or bool(slope.any())
    if not learns:
        raise ValueError(f"form {name!r} of {spec_file} teaches nothing: its gradient is 0 at every logit")


def _computed(form: Form, student: Tensor, teacher: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """A form's values `[students]` at its knobs' defaults, and their gradient by the students' logits."""
    given: dict[str, Tensor | float] = {"labels": labels, "progress": progress}
    given = {taken: given[taken] for taken in form.takes}
    ones = torch.ones(len(student))
    given |= {knob: what.default * ones for knob, what in form.knobs.items()}
    given |= {learned: value * ones for learned, value in form.learned.items()}
    logits = student.clone().requires_grad_()
    found = form.function(logits, teacher.clone(), **given)
    if not isinstance(found, Tensor) or found.shape != ones.shape or not found.requires_grad:
        what = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"it gives {what} for {len(ones)} students, not one number each with a gradient")
    (slope,) = torch.autograd.grad(found.sum(), [logits], materialize_grads=True)
    return found.detach(), slope


@cache
def _own_forms(file: str) -> Mapping[str, Form]:
    """The forms that a study's file brings."""
    forms = getattr(getattr(load_module(Path(file)), "STUDY", None), "forms", {})
    return forms if isinstance(forms, Mapping) else {}
