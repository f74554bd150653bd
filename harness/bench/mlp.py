"""A study for `python -m harness.bench --study harness/bench/mlp.py`: perceptrons of mixed widths on 64 pixels."""

from harness.space import TEMPERATURE_FORMS, Choice, Float, Study

STUDY = Study(
    task="digits",
    family="mlp",
    space={
        "width": Choice(8, 12, 16, 24, 32, 48, 64),
        "form": Choice("kl", "soft_ce", "mse", "squared_norm"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 20.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(1e-3, 1e-1, log=True),
        "weight_decay": Float(1e-4, 1e-1, log=True),
    },
    fixed={"epochs": 40, "batch_size": 64},
    trials=64,
    seeds=3,
    batch=32,
)
