"""Which student to take within a budget, how sure that is, and the student itself as files.

`choose.py` answers from what was confirmed, `hand_out.py` exports and registers. `python -m harness.recommend --help`.
"""
