"""What each loss form is called and takes, without torch: the study's side of a form.

`harness.losses` computes the forms; this table names their knobs, so that a study can be read, checked and sampled
without torch. Add a form by its line here and its function and line there. A study's own form is a `Form` in
`Study(forms=...)` and needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.values import Range

TAKES = ("labels", "progress")
"""What a form may be given beside logits and knobs: `labels` `[..., batch]`, and the share of training done, 0 to 1."""


NOT_NEGATIVE = Range(0)


@dataclass(frozen=True)
class Knob:
    """A number that a form takes: its default, the range that is sensible to search, and what it may be at all."""

    default: float
    low: float
    high: float
    log: bool = False
    allowed: Range = NOT_NEGATIVE


@dataclass(frozen=True)
class Form:
    """A loss form: `function(student_logits, teacher_logits, **knobs, **takes, **learned) -> [...]`.

    Logits are `[..., batch, classes]`; every knob is a tensor `[...]`, one number a student. `takes` names what else
    the function is given (see `TAKES`). `learned` names numbers that are learned with the student, and where they
    start; each reaches the function as a tensor `[...]` and is in the optimiser, a student's own. Tasks of fewer than
    `min_classes` classes are refused.
    """

    function: Callable[..., Any]
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    learned: Mapping[str, float] = field(default_factory=dict)
    min_classes: int = 2


def _temperature(default: float) -> Knob:
    return Knob(default, 1.0, 20.0, log=True, allowed=Range(0, open_low=True))


KNOBS: Mapping[str, Mapping[str, Knob]] = {
    "kl": {"temperature": _temperature(4)},
    "soft_ce": {"temperature": _temperature(4)},
    "mse": {},
    "squared_norm": {},
    "mse_probs": {"temperature": _temperature(4)},
    "smooth_l1": {"beta": Knob(1.0, 0.1, 10.0, log=True, allowed=Range(0, open_low=True))},
    "centred_mse": {},
    "reverse_kl": {"temperature": _temperature(1)},
    "js": {"temperature": _temperature(1)},
    "gjsd": {"temperature": _temperature(1), "beta": Knob(0.5, 0.1, 0.9, allowed=Range(0.1, 0.9))},
    "tvd": {"temperature": _temperature(1)},
    "cosine": {},
    "dkd": {
        "temperature": _temperature(4),
        "target": Knob(1.0, 0.1, 4.0, log=True),
        "rest": Knob(8.0, 0.5, 16.0, log=True),
        "warmup": Knob(20 / 240, 0.0, 0.3, allowed=Range(0, 1)),
    },
    "nkd": {"temperature": _temperature(1), "gamma": Knob(1.5, 0.1, 4.0, log=True)},
    "dist": {
        "temperature": _temperature(1),
        "inter": Knob(1.0, 0.1, 4.0, log=True),
        "intra": Knob(1.0, 0.1, 4.0, log=True),
    },
    "logit_standard": {"temperature": _temperature(2)},
    "wsld": {"temperature": _temperature(4)},
    "ctkd": {"ramp": Knob(10 / 240, 0.01, 0.3, log=True, allowed=Range(0, 1, open_low=True))},
    "mlld": {},
}
"""The logit forms and their knobs. A share (`warmup`, `ramp`) is of the whole training: the papers' epochs of 240."""

FEATURE_KNOBS: Mapping[str, Mapping[str, Knob]] = {
    "hint": {},
    "attention": {"power": Knob(2.0, 1.0, 4.0, allowed=Range(1, 8))},
    "similarity": {},
    "rkd": {"distance": Knob(25.0, 1.0, 100.0, log=True), "angle": Knob(50.0, 1.0, 100.0, log=True)},
    "pkt": {},
}
"""The feature forms and their knobs."""
FEATURE_WEIGHTS: Mapping[str, tuple[float, float]] = {
    "hint": (0.1, 100.0),
    "attention": (1.0, 1000.0),
    "similarity": (1.0, 3000.0),
    "rkd": (0.01, 1.0),
    "pkt": (1.0, 30000.0),
}
"""The range of each feature form's weight that is sensible to search; the upper ends are RepDistiller's."""
