"""A research harness for knowledge distillation: sweep, track and report students of many sizes."""

import os
from importlib.util import find_spec

BACKEND = os.environ.get("MPLBACKEND", "")
if BACKEND.startswith("module://") and find_spec(BACKEND.removeprefix("module://").partition(".")[0]) is None:
    del os.environ["MPLBACKEND"]  # a notebook's, whose environment is another one: matplotlib would not be imported

__version__ = "0.1.0"
