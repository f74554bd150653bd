"""A research harness for knowledge distillation: sweep, track and report students of many sizes."""

import os
from importlib.util import find_spec

_BACKEND = os.environ.get("MPLBACKEND", "").partition("module://")[2].partition(".")[0]
if _BACKEND and find_spec(_BACKEND) is None:  # a notebook's, whose environment is another one
    del os.environ["MPLBACKEND"]

__version__ = "0.1.0"
