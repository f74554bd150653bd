"""The default: which loss form, alpha, temperature and width give the best small network on 5,000 real digits?"""

from harness.space import TEMPERATURE_FORMS, Choice, Float, Study

STUDY = Study(
    task="mnist5k",
    family="cnn",
    space={
        "width": Choice(2, 3, 4, 6, 8),
        "form": Choice("kl", "soft_ce", "mse", "squared_norm"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 20.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(3e-3, 1e-1, log=True),
        "weight_decay": Float(1e-4, 1e-1, log=True),
    },
    fixed={"epochs": 12, "batch_size": 64},
    trials=64,
    seeds=3,
    batch=16,
    size_budgets=(1_000, 2_000, 4_000),
)
