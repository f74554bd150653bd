"""Which loss form? All of them on equal budgets, each with a sampler of its own, on 40-sample signals."""

from harness.space import Choice, Float, Study, form_space

STUDY = Study(
    task="mnist1d",
    family="cnn1d",
    space={
        **form_space(),
        "width": Choice(4, 8),
        "alpha": Float(0.0, 0.9),
        "lr": Float(3e-3, 1e-1, log=True),
    },
    fixed={"epochs": 30, "batch_size": 64, "weight_decay": 1e-2},
    trials=16 * 19,
    seeds=5,
    objectives=("val_accuracy",),
    equal="form",
    batch=38,
)
