"""Optuna, MLflow and the ledger held against each other, and mended where that takes no training.

`check.py` goes through a study's trials, `trials.py` holds one against its directory, `compare.py` against its run,
`runs.py` reads runs in bulk, `repair.py` mends. A new fault is a new line of one of the first three; where it can be
mended it names one of `fault.MENDS`.
"""
