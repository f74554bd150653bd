"""Every logit form worked by hand on two or three classes.

Logits (log 3, 0) say 3/4, 1/4 at temperature 1, and (2 log 3, 0) do at temperature 2.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.loss_cases import distance, pair, rows

LOG3 = math.log(3)


def test_kl_worked_by_hand() -> None:
    """At temperature 2 the teacher says 3/4, 1/4 and the student 1/2, 1/2; 2^2 scales it."""
    value = distance("kl", rows([0, 0]), rows([2 * LOG3, 0]), temperature=2.0).item()
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert value == pytest.approx(by_hand, rel=1e-6)
    assert by_hand == pytest.approx(0.523248, abs=1e-6)


def test_reverse_kl_worked_by_hand() -> None:
    """The student's 1/2, 1/2 against the teacher's 3/4, 1/4: the student's probabilities weigh."""
    value = distance("reverse_kl", rows([0, 0]), rows([2 * LOG3, 0]), temperature=2.0).item()
    assert value == pytest.approx(4 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)), rel=1e-6)


def test_soft_ce_worked_by_hand() -> None:
    """A student that says 1/4, 3/4 under a teacher that says 3/4, 1/4, at temperature 2."""
    value = distance("soft_ce", rows([0, 2 * LOG3]), rows([2 * LOG3, 0]), temperature=2.0).item()
    assert value == pytest.approx(4 * (0.75 * math.log(4) + 0.25 * math.log(4 / 3)), rel=1e-6)


def test_mse_and_squared_norm_worked_by_hand() -> None:
    """Two examples: differences (-2, -3) and (1, 0); squares sum to 13 and 1."""
    student, teacher = rows([1, 2], [1, 0]), rows([3, 5], [0, 0])
    assert distance("mse", student, teacher).item() == 14 / 4
    assert distance("squared_norm", student, teacher).item() == 14 / 2


def test_centred_mse_worked_by_hand() -> None:
    """The same: centred they are (1/2, -1/2) and (1/2, -1/2), squares sum to 1/2 each, over 2C = 4."""
    assert distance("centred_mse", rows([1, 2], [1, 0]), rows([3, 5], [0, 0])).item() == pytest.approx(1 / 8, rel=1e-6)


def test_smooth_l1_worked_by_hand() -> None:
    """Differences 1 and 4 at beta 2: 1 / (2 * 2) within, 4 - 2 / 2 beyond; the mean of the two."""
    assert distance("smooth_l1", rows([1, 0]), rows([0, 4]), beta=2.0).item() == pytest.approx((0.25 + 3) / 2, rel=1e-6)


def test_mse_probs_and_tvd_worked_by_hand() -> None:
    """Probabilities (1/4, 3/4) and (3/4, 1/4) at temperature 2: both differ by a half."""
    student, teacher = rows([0, 2 * LOG3]), rows([2 * LOG3, 0])
    assert distance("mse_probs", student, teacher, temperature=2.0).item() == pytest.approx(4 * 0.5, rel=1e-6)
    assert distance("tvd", student, teacher, temperature=2.0).item() == pytest.approx(4 * 0.5, rel=1e-6)


def test_js_and_gjsd_worked_by_hand() -> None:
    """The mixture of 3/4, 1/4 and 1/4, 3/4 in halves is 1/2, 1/2; with a quarter of the teacher it is 3/8, 5/8."""
    student, teacher = rows([0, LOG3]), rows([LOG3, 0])
    js = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distance("js", student, teacher, temperature=1.0).item() == pytest.approx(js, rel=1e-6)
    teachers = 0.75 * math.log(0.75 / 0.375) + 0.25 * math.log(0.25 / 0.625)
    students = 0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)
    found = distance("gjsd", student, teacher, temperature=1.0, beta=0.25).item()
    assert found == pytest.approx(0.25 * teachers + 0.75 * students, rel=1e-6)


def test_cosine_worked_by_hand() -> None:
    """(3, 4) and (4, 3): 24 / 25; a right angle: 0; opposite: -1."""
    student, teacher = rows([3, 4], [1, 0], [1, 1]), rows([4, 3], [0, 2], [-2, -2])
    assert distance("cosine", student, teacher).item() == pytest.approx((1 / 25 + 1 + 2) / 3, rel=1e-6)


def test_dkd_worked_by_hand() -> None:
    """Label 0: 1/2 against 1/2, then 3/4, 1/4 of the rest; the student: 1/4 against 3/4, then 1/2, 1/2 of the rest."""
    teacher, student = rows([math.log(4), LOG3, 0]), rows([math.log(2 / 3), 0, 0])
    target = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    rest = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    found = distance(
        "dkd", student, teacher, labels=torch.tensor([0]), progress=1.0, temperature=1.0, target=2.0, rest=3.0
    )
    assert found.item() == pytest.approx(2 * target + 3 * rest, rel=1e-6)


def test_nkd_worked_by_hand() -> None:
    """The same logits: half of -log(1/4), and gamma times the cross-entropy of 3/4, 1/4 with 1/2, 1/2: log 2."""
    teacher, student = rows([math.log(4), LOG3, 0]), rows([math.log(2 / 3), 0, 0])
    found = distance("nkd", student, teacher, labels=torch.tensor([0]), temperature=1.0, gamma=1.5).item()
    assert found == pytest.approx(0.5 * math.log(4) + 1.5 * math.log(2), rel=1e-6)


def test_dist_worked_by_hand() -> None:
    """Two examples of two classes the other way round: within an example and within a class the correlation is -1."""
    student, teacher = rows([0, 1], [3, 0]), rows([1, 0], [0, 3])
    found = distance("dist", student, teacher, temperature=2.0, inter=1.0, intra=0.5).item()
    assert found == pytest.approx(2**2 * (1 * 2 + 0.5 * 2), rel=1e-5)


def test_logit_standard_worked_by_hand() -> None:
    """(0, 1, 2) has mean 1 and the unbiased standard deviation 1; the student's ties are 0 whatever they are."""
    shares = np.exp([-1, 0, 1]) / np.exp([-1, 0, 1]).sum()
    found = distance("logit_standard", rows([5, 5, 5]), rows([0, 1, 2]), temperature=1.0).item()
    assert found == pytest.approx(float((shares * np.log(3 * shares)).sum()), rel=1e-5)


def test_wsld_worked_by_hand() -> None:
    """The student's cross-entropy is log 4, the teacher's log 2: weight 1 - exp(-2), soft part log(4/sqrt 3)."""
    student, teacher = rows([0, LOG3]), rows([0, 0])
    found = distance("wsld", student, teacher, labels=torch.tensor([0]), temperature=1.0).item()
    soft = 0.5 * math.log(4) + 0.5 * math.log(4 / 3)
    assert found == pytest.approx((1 - math.exp(-2)) * soft, rel=1e-6)


def test_ctkd_worked_by_hand() -> None:
    """At theta 0 the temperature is 1 + 20 / 2 = 11."""
    student, teacher = pair(6, 10)
    found = distance("ctkd", student, teacher, theta=0.0).item()
    assert found == pytest.approx(distance("kl", student, teacher, temperature=11.0).item(), rel=1e-12)


def test_mlld_worked_by_hand() -> None:
    """One example that says p, 1 - p: its Gram over the batch is p^2 + (1 - p)^2, over the classes four products."""
    student, teacher = rows([0, 0]), rows([2, 0])
    by_hand = 0.0
    for temperature in (2, 3, 4, 5, 6):
        p = 1 / (1 + math.exp(-2 / temperature))
        by_hand += temperature**2 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
        by_hand += ((p**2 - 1 / 4) ** 2 + ((1 - p) ** 2 - 1 / 4) ** 2 + 2 * (p * (1 - p) - 1 / 4) ** 2) / 2
        by_hand += (p**2 + (1 - p) ** 2 - 1 / 2) ** 2
    assert distance("mlld", student, teacher).item() == pytest.approx(by_hand, rel=1e-5)
