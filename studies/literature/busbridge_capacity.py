"""Busbridge 2025: on a mapping that never repeats a sample, is the best teacher of a middle width?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness import cli
from studies.literature.claim import Arm, Claim, Results, View
from studies.literature.program import program
from studies.literature.verdict import Part

if TYPE_CHECKING:
    from harness.tasks import Task

INPUTS, CLASSES, TRUE_WIDTH, SHARPNESS = 16, 8, 32, 3.0
SIZES = {"train": 48_000, "val": 2_000, "test": 8_000}
STUDENT, WIDTHS, REPEATS = 6, (1, 2, 4, 8, 16, 32, 128), 4
DELTA = 0.005
WHY = "half a hundredth of a nat, of a loss near one: less would not change which teacher one trains"


def task(seed: int) -> Task:
    """Gaussian inputs `[examples, 16]`, labels drawn from what a fixed random network says of them.

    The network, two hidden ReLU layers, is the same for every seed; the inputs and draws are not. The teacher sees
    every example of the train split once, as the students do.
    """
    import torch

    from harness.models import MLP, init
    from harness.seeds import generator
    from harness.tasks import LockedSplit, Split, Task, TeacherRecipe

    truth = init(MLP, TRUE_WIDTH, (INPUTS,), CLASSES, generator(0, "truth"))
    noise = generator(seed, "examples")

    def split(examples: int) -> Split:
        inputs = torch.randn(examples, INPUTS, generator=noise, dtype=torch.float64)
        chances = (SHARPNESS * MLP.apply(truth, inputs)).softmax(-1)
        return Split(inputs.float(), torch.multinomial(chances, 1, generator=noise)[:, 0])

    train, val, test = (split(examples) for examples in SIZES.values())
    teacher = TeacherRecipe(MLP, WIDTHS[-1], epochs=1, seed=seed, lr=1e-2, weight_decay=0.0)
    source = f"labels drawn from a random network of width {TRUE_WIDTH}, inputs of seed {seed}"
    return Task("mapping", source, CLASSES, train, val, LockedSplit(test), {"mlp": MLP}, teacher)


def arm(width: int) -> str:
    """The name of an arm."""
    return f"teacher {width}"


def effects(results: Results) -> Mapping[str, Sequence[float]]:
    """The middle teacher is chosen on val; the middle is all widths but the least and the most."""
    table, middle = results.wide(), results.best([arm(width) for width in WIDTHS[1:-1]])
    ends = {"wide end rises": arm(WIDTHS[-1]), "narrow end rises": arm(WIDTHS[0])}
    return {part: [float(d) for d in table[end] - table[middle]] for part, end in ends.items()}


CLAIM = Claim(
    name="busbridge_capacity",
    module="studies.literature.busbridge_capacity",
    paper="Busbridge, Shidani, Weers, Ramapuram, Littwin and Webb 2025, Distillation Scaling Laws (arXiv:2502.08606), "
    "appendix C.2",
    says="Among perceptrons of two hidden layers that learn a random mapping from samples that are never repeated, the "
    "loss of the student falls and then rises again as its teacher gets wider.",
    setup=f"{INPUTS} Gaussian inputs, {CLASSES} classes drawn from a fixed random perceptron of two hidden layers of "
    f"{TRUE_WIDTH}; {SIZES['train']:,} examples, each seen once; teachers of width {WIDTHS[0]} to {WIDTHS[-1]}, "
    f"students of width {STUDENT} that learn from the teacher alone (kl, alpha 0, T 1), {REPEATS} of each in a "
    "pipeline; lr is tuned for each arm.",
    varies="The seed makes the examples and their labels, the teachers' and the students' first weights and batches. "
    "The mapping does not vary.",
    doubts=(
        "Teachers of all widths have one lr: at the ends of the range it may not be the best, and a wide teacher that "
        "is trained badly would make the curve rise for another reason than the gap.",
        "The students see the very examples that the teacher saw, once each; the paper's see new ones.",
        "One random mapping stands for all.",
        "A drawn label is noise that a wide teacher fits first; with the most likely class as the label it may not.",
    ),
    parts=(
        Part(
            "wide end rises",
            f"loss under the teacher of width {WIDTHS[-1]} less that under the best middle one",
            DELTA,
            WHY,
            "nats",
        ),
        Part(
            "narrow end rises",
            f"loss under the teacher of width {WIDTHS[0]} less that under the best middle one",
            DELTA,
            WHY,
            "nats",
        ),
    ),
    tasks={"task": task},
    arms=tuple(Arm(arm(width), {"teacher_width": width}) for width in WIDTHS),
    common={"family": "mlp", "width": STUDENT, "epochs": 1, "form": "kl", "alpha": 0.0, "temperature": 1.0},
    tuned={"lr": tuple(round(1e-2 * math.sqrt(10) ** step, 4) for step in (0, 1, 2))},
    effects=effects,
    view=View("width of the teacher", {f"student of width {STUDENT}": {str(w): arm(w) for w in WIDTHS}}, {}),
    metric="loss",
    repeats=REPEATS,
)

if __name__ == "__main__":
    cli.run(program(CLAIM))
