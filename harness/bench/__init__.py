"""Trials an hour, side by side in one run: the harness, and the loop that a careful user would write by hand.

`plain.py` is that loop, with the libraries' own parts and nothing of the core but the data and the teacher's weights;
`measure.py` runs both sides in turn; `python -m harness.bench` prints them. A new column is a field of `measure.Side`.
"""
