"""Does distillation help a small recurrent language model of characters, at which width, with which divergence?"""

from harness.space import Choice, Float, Study

STUDY = Study(
    task="pydoc_chars",
    family="gru",
    space={
        "width": Choice(8, 32),
        "form": Choice("kl", "reverse_kl", "gjsd"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 4.0, log=True),
        "lr": Float(3e-3, 5e-2, log=True),
    },
    fixed={"epochs": 3, "batch_size": 32, "clip_norm": 1.0},
    trials=12,
    seeds=1,
    confirm=5,
    objectives=("val_loss", "num_params"),
    batch=12,
)
