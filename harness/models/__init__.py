"""Families of networks by width. A family is written for one network; the cohort maps it over many.

Add one by writing a file with a `Family`, and naming it where a task lists its families.
"""

from harness.models.cnn import CNN
from harness.models.conv import CONV
from harness.models.family import Family, init, num_params
from harness.models.mlp import MLP

__all__ = ["CNN", "CONV", "MLP", "Family", "init", "num_params"]
