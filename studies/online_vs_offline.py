"""A teacher trained first, or one that learns beside the student, as the source article's code has it? And controls."""

from harness.space import Choice, Float, Study

STUDY = Study(
    task="mnist1d",
    family="cnn1d",
    space={
        "teacher": Choice("offline", "online", "self", "uniform", "shuffled_in_class"),
        "form": Choice("kl", "mse"),
        "mixing": Choice("convex", "additive"),
        "width": Choice(4, 8),
        "alpha": Float(0.0, 0.9),
        "temperature": Float(1.0, 20.0, log=True),
        "lr": Float(3e-3, 1e-1, log=True),
    },
    fixed={"epochs": 30, "batch_size": 64, "weight_decay": 1e-2},
    trials=5 * 24,
    seeds=5,
    objectives=("val_accuracy",),
    equal="teacher",
    batch=20,
)
