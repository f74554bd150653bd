"""Mirzadeh 2020: does a teacher assistant of a middle size help a student that is far smaller than its teacher?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness import cli
from studies.literature.claim import Arm, Claim, Results, View
from studies.literature.program import program
from studies.literature.teachers import mnist1d
from studies.literature.verdict import Part

STUDENT, ASSISTANTS, REPEATS = 3, (5, 8), 4
PLAIN, DIRECT, SMALLER = "plain", "teacher", "smaller teacher"
DELTA = 1.0
WHY = "a point is a sixth of what kl gains over plain training on this task in studies/LOG.md (6.0 at width 8)"


def arm(width: int) -> str:
    """The name of an arm with an assistant."""
    return f"assistant {width}"


def effects(results: Results) -> Mapping[str, Sequence[float]]:
    """Which assistant is chosen on val."""
    return {
        "assistant over teacher": results.points(results.best([arm(width) for width in ASSISTANTS]), DIRECT),
        "smaller over larger": results.points(SMALLER, DIRECT),
        "teacher over plain": results.points(DIRECT, PLAIN),
    }


CLAIM = Claim(
    name="mirzadeh_assistant",
    module="studies.literature.mirzadeh_assistant",
    paper="Mirzadeh, Farajtabar, Li, Levine, Matsukawa and Ghasemzadeh 2020, Improved Knowledge Distillation via "
    "Teacher Assistant (arXiv:1902.03393)",
    says="Where the student is far smaller than its teacher, a network of middle size that is taught by the teacher "
    "and teaches the student makes it better than the teacher does.",
    setup=f"MNIST-1D; the teacher is a convolutional network of width 16 (10,602 parameters), the smaller one of width "
    f"4; students are cnn1d of width {STUDENT}, assistants cnn1d of width {' and '.join(map(str, ASSISTANTS))}; 20 "
    f"epochs, kl at alpha 0.1 and T 4, {REPEATS} of each in a pipeline; lr is tuned for each arm, an assistant has its "
    "student's.",
    varies="The seed makes the teacher's, the assistants' and the students' first weights and batches. The data and "
    "its splits do not vary.",
    doubts=(
        "The assistant shares the lr of its student, and all have one temperature; the paper tunes each step.",
        "Assistants are of the student's family, the teacher is another: size is not all that the assistant bridges.",
        "An assistant costs training that the direct student does not get; the paper compares in the same way.",
    ),
    parts=(
        Part(
            "assistant over teacher", "accuracy with the better assistant less that with the teacher alone", DELTA, WHY
        ),
        Part(
            "smaller over larger", "accuracy with the teacher of width 4 less that with the one of width 16", DELTA, WHY
        ),
        Part("teacher over plain", "accuracy with the teacher alone less that of plain training", DELTA, WHY),
    ),
    tasks={"task": mnist1d},
    arms=(
        Arm(PLAIN, {"form": "ce", "alpha": 1.0, "temperature": None}),
        Arm(SMALLER, {"teacher_width": 4}),
        Arm(DIRECT, {}),
        *(Arm(arm(width), {"teacher": "assistant", "assistants": str(width)}) for width in ASSISTANTS),
    ),
    common={"family": "cnn1d", "width": STUDENT, "epochs": 20, "form": "kl", "alpha": 0.1, "temperature": 4.0},
    tuned={"lr": (1e-2, 3e-2, 1e-1)},
    effects=effects,
    view=View(
        "taught by",
        {
            "distilled": {
                "smaller\nteacher": SMALLER,
                **{f"assistant\nof width {width}": arm(width) for width in ASSISTANTS},
                "teacher\nalone": DIRECT,
            }
        },
        {"plain training": PLAIN},
    ),
    repeats=REPEATS,
    first_seed=101,  # seeds 1 to 10 were those of a first design, with one student each: see studies/LOG.md
)

if __name__ == "__main__":
    cli.run(program(CLAIM))
