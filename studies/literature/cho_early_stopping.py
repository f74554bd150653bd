"""Cho & Hariharan 2019: does a teacher that was stopped early teach better, and a larger one not?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from harness import cli
from studies.literature.claim import Arm, Claim, Results, View
from studies.literature.program import program
from studies.literature.teachers import mnist1d
from studies.literature.verdict import Part

EPOCHS, STOPPED, SMALL, REPEATS = 20, (3, 8), 5, 4
PLAIN, FULL, SMALLER = "plain", "full", "smaller"
DELTA = 1.0
WHY = "a point is a sixth of what kl gains over plain training on this task in studies/LOG.md (6.0 at width 8)"


def arm(epochs: int) -> str:
    """The name of an arm whose teacher was stopped."""
    return f"stopped at {epochs}"


def effects(results: Results) -> Mapping[str, Sequence[float]]:
    """Where the teacher stops is chosen on val."""
    return {
        "stopped over full": results.points(results.best([arm(epochs) for epochs in STOPPED]), FULL),
        "smaller over larger": results.points(SMALLER, FULL),
    }


CLAIM = Claim(
    name="cho_early_stopping",
    module="studies.literature.cho_early_stopping",
    paper="Cho and Hariharan 2019, On the Efficacy of Knowledge Distillation (arXiv:1910.01348)",
    says="Larger, more accurate teachers often do not teach a small student better, and stopping the teacher's "
    "training early makes it a better one.",
    setup=f"MNIST-1D; the teacher is a convolutional network of width 12, stopped after {STOPPED[0]} or {STOPPED[1]} "
    f"of its {EPOCHS} epochs or not at all, the smaller one of width {SMALL} trained to the end; students are cnn1d of "
    f"width 3, 20 epochs, kl at alpha 0.1 and T 4, {REPEATS} of each in a pipeline; lr is tuned for each arm.",
    varies="The seed makes the teachers' and the students' first weights and batches; a stopped teacher is on the way "
    "to the full one of its seed. The data and its splits do not vary.",
    doubts=(
        "The teacher stops in the middle of its cosine, at a high lr; a short schedule of its own would be a better "
        "network.",
        "The capacity gap is small: a teacher of 6,690 parameters for a student of 502.",
        "Two stopping points are few; the best one may lie between them.",
    ),
    parts=(
        Part("stopped over full", "accuracy under the better stopped teacher less that under the full one", DELTA, WHY),
        Part("smaller over larger", "accuracy under the smaller full teacher less that under the larger", DELTA, WHY),
    ),
    tasks={"task": partial(mnist1d, width=12, epochs=EPOCHS)},
    arms=(
        Arm(PLAIN, {"form": "ce", "alpha": 1.0, "temperature": None}),
        *(Arm(arm(epochs), {"teacher_epochs": epochs}) for epochs in STOPPED),
        Arm(FULL, {}),
        Arm(SMALLER, {"teacher_width": SMALL}),
    ),
    common={"family": "cnn1d", "width": 3, "epochs": 20, "form": "kl", "alpha": 0.1, "temperature": 4.0},
    tuned={"lr": (1e-2, 3e-2, 1e-1)},
    effects=effects,
    view=View(
        "epochs of the teacher's training",
        {
            "teacher of width 12": {**{str(e): arm(e) for e in STOPPED}, str(EPOCHS): FULL},
            f"of width {SMALL}": {str(EPOCHS): SMALLER},
        },
        {"plain training": PLAIN},
    ),
    repeats=REPEATS,
    first_seed=101,  # seeds 1 to 10 were those of a first design, with one student each: see studies/LOG.md
)

if __name__ == "__main__":
    cli.run(program(CLAIM))
