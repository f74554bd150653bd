"""Runs in MLflow: every trial is one, a sweep is one, and a reader for who compares them with the ledger.

With `registry.py` the only room that knows mlflow, which is imported when a tracker or a reader is opened.
"""

from harness.tracking.reader import Body, Head, Reader
from harness.tracking.store import bring_along, reachable
from harness.tracking.tracker import Tracker
from harness.tracking.views import VIEWS

__all__ = ["VIEWS", "Body", "Head", "Reader", "Tracker", "bring_along", "reachable"]
