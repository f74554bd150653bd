"""The loss forms: how far a student's logits, or its features, are from its teacher's.

A form is a plain function of student and teacher logits `[..., batch, classes]` that returns `[...]`, one number a
student, and broadcasts over leading axes. Add one by writing the function in a file of this package, its line in
`table.LOSSES`, and its knobs in `harness.forms`; a feature form, in `features.py`. Forms compute in float32 or
better, never look at a tensor's value to choose a path, and average over the batch (never over classes, unless the
formula says so). A gradient in closed form goes into `gradients.py`. The convention of alpha is the source article's:
alpha weighs the hard labels.
"""

from harness.forms import Form
from harness.losses.chosen import check, find_form, unlabelled_weight, weights
from harness.losses.divergences import kl
from harness.losses.features import FeatureForm
from harness.losses.labels import cross_entropy
from harness.losses.table import FEATURES, LOSSES

__all__ = [
    "FEATURES",
    "LOSSES",
    "FeatureForm",
    "Form",
    "check",
    "cross_entropy",
    "find_form",
    "kl",
    "unlabelled_weight",
    "weights",
]
