"""Muller 2019: does a teacher trained with label smoothing teach worse, though it is as good itself?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from harness import cli
from studies.literature.claim import Arm, Claim, Results, View
from studies.literature.program import program
from studies.literature.teachers import mnist5k
from studies.literature.verdict import Part

SHARES = {"hard": 0.0, "little": 0.1, "much": 0.3}
PLAIN = "plain"
DELTA = 0.5
WHY = "half a point is a twentieth of the errors here, one in ten"


def arm(word: str) -> str:
    """The name of an arm."""
    return f"smoothing {SHARES[word]:g}"


def effects(results: Results) -> Mapping[str, Sequence[float]]:
    """The first part is at the usual share of 0.1."""
    return {
        "hard over smoothed": results.points(arm("hard"), arm("little")),
        "hard over much": results.points(arm("hard"), arm("much")),
        "smoothed teacher is better": results.points(arm("little"), arm("hard"), "teacher_accuracy"),
    }


CLAIM = Claim(
    name="muller_smoothing",
    module="studies.literature.muller_smoothing",
    paper="Muller, Kornblith and Hinton 2019, When Does Label Smoothing Help? (arXiv:1906.02629), section 4",
    says="A teacher trained with label smoothing is more accurate, and yet its student is worse than that of a teacher "
    "trained on hard labels.",
    setup="5,000 MNIST digits; teachers are perceptrons of two hidden layers of 128, 10 epochs on images shifted by up "
    "to a pixel, with label smoothing of 0, 0.1 and 0.3; students are perceptrons of two hidden layers of 12, 12 "
    "epochs, kl at alpha 0.1, 3 of each in a pipeline; lr and temperature are tuned for each arm.",
    varies="The seed makes the teachers' and the students' first weights and batches, those of the three teachers "
    "alike. The splits do not vary.",
    doubts=(
        "The students have 9,706 parameters, their teachers 118,282.",
        "With the labels in the loss at alpha 0.1 a poor teacher is partly made up for; alpha 0 would be the sharper "
        "test.",
        "Teachers of 10 epochs on 3,000 digits are not at the end of what they can learn; the paper's are.",
    ),
    parts=(
        Part("hard over smoothed", "student accuracy, teacher's smoothing 0 less 0.1", DELTA, WHY),
        Part("hard over much", "student accuracy, teacher's smoothing 0 less 0.3", DELTA, WHY),
        Part("smoothed teacher is better", "the teacher's own accuracy, smoothing 0.1 less 0", DELTA, WHY),
    ),
    tasks={word: partial(mnist5k, width=128, label_smoothing=share) for word, share in SHARES.items()},
    arms=(
        Arm(PLAIN, {"form": "ce", "alpha": 1.0, "temperature": None}, "hard"),
        *(Arm(arm(word), {}, word) for word in SHARES),
    ),
    common={"family": "mlp", "width": 12, "epochs": 12, "form": "kl", "alpha": 0.1},
    tuned={"lr": (3e-3, 1e-2, 3e-2), "temperature": (1.0, 4.0)},
    effects=effects,
    view=View(
        "label smoothing of the teacher",
        {"distilled": {f"{share:g}": arm(word) for word, share in SHARES.items()}},
        {"plain training": PLAIN},
    ),
    repeats=3,
)

if __name__ == "__main__":
    cli.run(program(CLAIM))
