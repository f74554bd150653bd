"""Trains many students as one fused job: `train(specs, ...) -> records`.

Students of one optimiser are stacked on a leading axis, the narrower ones padded with zeros, and every step trains them
all, each with its own loss form, alpha, temperature, lr, weight decay, clipping, dropout and seed. Only this package
knows of that axis: families, losses and optimisers are written for one student or broadcast over many. Losses are
summed over students, never averaged, so no student's gradient depends on its neighbours, and a record is the same
whoever shared the cohort.

    run.py          students in, records out, cohort by cohort
    company.py      which students share a cohort, and how many
    data.py         what the students see and are taught, on the device
    stack.py        students side by side: parameters, knobs, learned parts of losses
    forward.py      the networks on what they see
    batch.py        what every student sees in a step
    at_logits.py    what the logits say: losses and their gradients
    objective.py    the gradient of a step, and how its parts pull
    training.py     the loop
    patience.py     early stopping
    checkpoint.py   a student between two parts of its training
    evaluate.py     what a record measures
    calibration.py  what a step costs here: measured, so that the driver can plan
"""

from harness.cohort.calibration import calibrate
from harness.cohort.check import check
from harness.cohort.checkpoint import State
from harness.cohort.run import Keep, train, train_each, train_part
from harness.cohort.stack import alone

__all__ = ["Keep", "State", "alone", "calibrate", "check", "train", "train_each", "train_part"]
