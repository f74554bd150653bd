"""Does distillation help small convolutional networks on 8,000 pictures of clothes, at which width, with which loss?"""

from harness.space import TEMPERATURE_FORMS, Choice, Float, Study

STUDY = Study(
    task="fashion_mnist10k",
    family="cnn",
    space={
        "width": Choice(2, 4, 8),
        "form": Choice("kl", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 20.0, log=True, when={"form": TEMPERATURE_FORMS}),
        "lr": Float(3e-3, 1e-1, log=True),
        "weight_decay": Float(1e-4, 1e-1, log=True),
    },
    fixed={"epochs": 8, "batch_size": 64},
    trials=24,
    seeds=2,
    batch=12,
)
