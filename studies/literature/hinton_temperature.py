"""Hinton 2015: is an intermediate temperature best for a small student?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness import cli
from studies.literature.claim import Arm, Claim, Results, View
from studies.literature.program import program
from studies.literature.teachers import mnist5k
from studies.literature.verdict import Part

NARROW, WIDE, REPEATS = 8, 32, 3
LOW, MIDDLE, HIGH = (1.0,), (2.5, 4.0), (8.0, 20.0)
DELTA = 0.5
WHY = "half a point is half of what distillation itself gains at such widths in studies/LOG.md (0.7 to 2.0 points)"


def arm(width: int, temperature: float) -> str:
    """The name of an arm."""
    return f"width {width}, T {temperature:g}"


def effects(results: Results) -> Mapping[str, Sequence[float]]:
    """Which of several temperatures stands for its range is chosen on val."""
    best = {
        (width, name): results.best([arm(width, t) for t in those])
        for width in (NARROW, WIDE)
        for name, those in (("low", LOW), ("middle", MIDDLE), ("high", HIGH))
    }
    over_high = {width: results.points(best[width, "middle"], best[width, "high"]) for width in (NARROW, WIDE)}
    return {
        "middle over high": over_high[NARROW],
        "middle over low": results.points(best[NARROW, "middle"], best[NARROW, "low"]),
        "more so when narrow": [a - b for a, b in zip(over_high[NARROW], over_high[WIDE], strict=True)],
    }


CLAIM = Claim(
    name="hinton_temperature",
    module="studies.literature.hinton_temperature",
    paper="Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network (arXiv:1503.02531), section 3",
    says="With 300 or more units a layer all temperatures above 8 are about as good; with 30, temperatures of 2.5 to 4 "
    "beat higher and lower ones.",
    setup=f"5,000 MNIST digits; the teacher is a perceptron of two hidden layers of 256, taught on images shifted by "
    f"up to a pixel; students are perceptrons of two hidden layers of {NARROW} and {WIDE}, 12 epochs, kl at alpha 0.1, "
    f"{REPEATS} of each in a pipeline.",
    varies="The seed makes the teacher's and the students' first weights and batches. The splits do not vary.",
    doubts=(
        "3,000 training digits are a twentieth of the paper's, and 8 units may be fewer than its 30.",
        "The paper gives no alpha; 0.1 is ours. At alpha 0 the temperature may matter more.",
        "The high range has two temperatures and the low one has one; each best is chosen on val from three seeds.",
        "That wide students do not care is a claim of equality, which the third part only touches.",
    ),
    parts=(
        Part(
            "middle over high", f"width {NARROW}: accuracy at the better of T 2.5, 4 less that of T 8, 20", DELTA, WHY
        ),
        Part("middle over low", f"width {NARROW}: accuracy at the better of T 2.5, 4 less that at T 1", DELTA, WHY),
        Part("more so when narrow", f"'middle over high' at width {NARROW} less that at width {WIDE}", DELTA, WHY),
    ),
    tasks={"task": mnist5k},
    arms=tuple(
        Arm(arm(width, t), {"width": width, "temperature": t})
        for width in (NARROW, WIDE)
        for t in (*LOW, *MIDDLE, *HIGH)
    ),
    common={"family": "mlp", "form": "kl", "alpha": 0.1, "epochs": 12},
    tuned={"lr": (1e-3, 3e-3, 1e-2)},
    effects=effects,
    view=View(
        "temperature",
        {f"width {w}": {f"{t:g}": arm(w, t) for t in (*LOW, *MIDDLE, *HIGH)} for w in (NARROW, WIDE)},
        {},
    ),
    repeats=REPEATS,
    first_seed=101,  # seeds 1 to 10 were those of a first design, with one student each: see studies/LOG.md
)

if __name__ == "__main__":
    cli.run(program(CLAIM))
