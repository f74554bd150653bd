"""Does distillation help bags of embeddings for 20 Newsgroups, at which width, with which loss?"""

from harness.space import TEMPERATURE_FORMS, Choice, Float, Study

STUDY = Study(
    task="newsgroups",
    family="bag",
    space={
        "width": Choice(4, 16),
        "form": Choice("kl", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 10.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(1e-2, 3e-1, log=True),
    },
    fixed={"epochs": 5, "batch_size": 64, "weight_decay": 0.1},
    trials=32,
    seeds=2,
    batch=16,
)
