"""Families of networks by width. A family is written for one network; the cohort maps it over many.

Add one by writing a file with a `Family`, and naming it where a task lists its families.
"""

from harness.models.bag import bag
from harness.models.cnn import CNN
from harness.models.cnn1d import CNN1D
from harness.models.conv import CONV
from harness.models.conv1d import CONV1D
from harness.models.family import Family, Parts, init, num_params
from harness.models.gru import gru
from harness.models.mlp import MLP
from harness.models.modules import module_family
from harness.models.residual import RESIDUAL, RESNET8, RESNET14, RESNET20, residual
from harness.models.transformer import transformer

__all__ = [
    "CNN",
    "CNN1D",
    "CONV",
    "CONV1D",
    "MLP",
    "RESIDUAL",
    "RESNET8",
    "RESNET14",
    "RESNET20",
    "Family",
    "Parts",
    "bag",
    "gru",
    "init",
    "module_family",
    "num_params",
    "residual",
    "transformer",
]
