"""250 labels, 7,000 snippets without one, and a pre-trained sentence encoder: what does it teach a bag of words?"""

from harness.space import TEMPERATURE_FORMS, Choice, Float, Study

STUDY = Study(
    task="snippets",
    family="bag",
    space={
        "width": Choice(1, 4, 8),
        "form": Choice("kl", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 10.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(3e-3, 1e-1, log=True),
        "weight_decay": Float(1e-3, 1.0, log=True),
    },
    fixed={"epochs": 8, "batch_size": 64},
    trials=24,
    seeds=2,
    batch=12,
)
