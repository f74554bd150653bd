"""A smoke test: which loss form and temperature help a tiny perceptron on 8x8 digits?"""

from harness.space import TEMPERATURE_FORMS, Choice, Float, Study

STUDY = Study(
    task="digits",
    family="mlp",
    space={
        "width": Choice(8, 16, 32),
        "form": Choice("kl", "soft_ce", "mse", "squared_norm"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 20.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(3e-3, 1e-1, log=True),
    },
    fixed={"epochs": 20, "batch_size": 64, "weight_decay": 1e-2},
    trials=16,
    seeds=2,
    batch=8,
)
