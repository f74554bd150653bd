"""A research harness for knowledge distillation: sweep, track and report students of many sizes."""

__version__ = "0.1.0"
