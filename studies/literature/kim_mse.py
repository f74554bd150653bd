"""Kim 2021: does the mean squared error of logits beat the Kullback-Leibler divergence at its best temperature?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness import cli
from studies.literature.claim import Arm, Claim, Results, View
from studies.literature.program import program
from studies.literature.teachers import mnist1d
from studies.literature.verdict import Part

ALPHAS, TEMPERATURES = (0.0, 0.5, 0.9), (1.0, 4.0, 20.0)
MSE = "mse"
DELTA = 1.0
WHY = "a point is a sixth of what kl gains over plain training on this task in studies/LOG.md (6.0 at width 8)"


def arm(alpha: float, temperature: float) -> str:
    """The name of an arm."""
    return f"kl, alpha {alpha:g}, T {temperature:g}"


def effects(results: Results) -> Mapping[str, Sequence[float]]:
    """The temperature of kl in the first part is chosen on val."""
    return {
        "mse over kl": results.points(MSE, results.best([arm(0.0, t) for t in TEMPERATURES])),
        "hotter is better": results.points(arm(0.0, 20.0), arm(0.0, 1.0)),
        "teacher alone": results.points(arm(0.0, 20.0), arm(0.9, 20.0)),
    }


CLAIM = Claim(
    name="kim_mse",
    module="studies.literature.kim_mse",
    paper="Kim, Oh, Kim, Cho and Yun 2021, Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in "
    "Knowledge Distillation (arXiv:2105.08919)",
    says="The student gets better as the temperature grows and the labels weigh less, and the mean squared error of "
    "logits, the limit's better form, beats kl at any temperature.",
    setup="MNIST-1D; the teacher is a convolutional network of width 16, students are cnn1d of width 6, 20 epochs, 2 "
    "of each in a pipeline. Alpha is the weight of the labels here; in the paper it is that of the teacher.",
    varies="The seed makes the teacher's and the students' first weights and batches. The data and its splits do not "
    "vary.",
    doubts=(
        "The paper's students are residual networks on CIFAR-100: a hundred classes have more dark knowledge than ten.",
        "20 epochs may favour the form that learns fastest; lr is tuned for each arm, the number of epochs is not.",
        "Nine arms are a coarse surface: a best temperature between 4 and 20 would make kl look worse than it is.",
    ),
    parts=(
        Part("mse over kl", "accuracy of mse less that of kl at its best T of 1, 4, 20, both at alpha 0", DELTA, WHY),
        Part("hotter is better", "kl at alpha 0: accuracy at T 20 less that at T 1", DELTA, WHY),
        Part("teacher alone", "kl at T 20: accuracy at alpha 0 less that at alpha 0.9", DELTA, WHY),
    ),
    tasks={"task": mnist1d},
    arms=(
        Arm(MSE, {"form": "mse", "alpha": 0.0}),
        *(Arm(arm(a, t), {"form": "kl", "alpha": a, "temperature": t}) for a in ALPHAS for t in TEMPERATURES),
    ),
    common={"family": "cnn1d", "width": 6, "epochs": 20},
    tuned={"lr": (3e-3, 1e-2, 3e-2)},
    effects=effects,
    view=View(
        "temperature",
        {f"kl, alpha {a:g}": {f"{t:g}": arm(a, t) for t in TEMPERATURES} for a in ALPHAS},
        {"mse, alpha 0": MSE},
    ),
    seeds=8,
    repeats=2,
)

if __name__ == "__main__":
    cli.run(program(CLAIM))
