"""MNIST-1D (Greydanus and Kobak 2020, arXiv:2011.14439): 5,000 noisy 40-sample signals of ten classes, by `mnist1d`.

Cheap, and far from solved by small students. The package's 4,000 training signals become 3,001 train and 999 val
(three to one in every class), its 1,000 test signals the test split. They are made anew in each process, in some 5 s.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from harness.models import CNN1D, CONV1D, MLP
from harness.models.residual import RESIDUAL_1D
from harness.tasks.task import LockedSplit, Split, Task, TeacherRecipe, scale_of, standardised, stratified
from harness.tasks.transforms import noisy, shifted_along

SHA256 = "d2a0683df6244627b8959cb4380549692286997e7aec37dc334b1c2dec737861"
SEED = 42


def load() -> Task:
    """The task. Raises `ValueError` in one line when the package is not there or makes other data than it should."""
    signals, labels = _made()
    own = int(0.8 * len(signals))
    train, val, _ = stratified(signals[:own], labels[:own], (75, 25, 0))
    scale, targets = scale_of(signals, train), torch.from_numpy(labels)
    inputs = standardised(signals[:, None], scale)
    parts = [Split(inputs[index], targets[index]) for index in (train, val, np.arange(own, len(signals)))]
    return Task(
        name="mnist1d",
        source=f"5,000 signals made by mnist1d 0.0.2.post1 (Apache-2.0) with its seed {SEED}",
        num_classes=10,
        train=parts[0],
        val=parts[1],
        test=LockedSplit(parts[2]),
        families={"cnn1d": CNN1D, "mlp": MLP, **RESIDUAL_1D},
        teacher=TeacherRecipe(CONV1D, width=24, epochs=60, lr=1e-2),
        transforms={"shift": lambda signals, noise: shifted_along(signals, 2, noise), "noise": noisy},
        scale=scale,
    )


def _made() -> tuple[np.ndarray, np.ndarray]:
    """All signals `[examples, 40]` float64 and labels `[examples]` int64, the package's training signals first.

    Rounded to 6 decimals, so that they do not depend on a library's last bit. That no signal is in them twice is part
    of what the hash pins.
    """
    try:
        from mnist1d import data  # here, not above: it imports matplotlib and requests
    except ImportError:
        raise ValueError("this task's data is made by the package mnist1d, which is not installed") from None
    settings = data.get_dataset_args()
    settings.seed = SEED
    with _global_randomness_kept():
        made = data.make_dataset(settings)
    signals = np.concatenate([made["x"], made["x_test"]]).round(6) + 0.0  # and no negative zeros
    labels = np.concatenate([made["y"], made["y_test"]]).astype(np.int64)
    if hashlib.sha256(signals.tobytes() + labels.tobytes()).hexdigest() != SHA256:
        raise ValueError(
            "mnist1d made other data than this task was made with; install mnist1d==0.0.2.post1 and numpy 2"
        )
    return signals, labels


@contextmanager
def _global_randomness_kept() -> Iterator[None]:
    """Put the global random states back: the package seeds them and draws from them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
