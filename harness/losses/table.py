"""The loss forms by name, and the feature forms. The line of a new form goes here."""

from __future__ import annotations

from collections.abc import Mapping

from harness.forms import KNOBS, Form
from harness.losses.decoupled import dkd, nkd, wsld
from harness.losses.divergences import gjsd, js, kl, mse_probs, reverse_kl, soft_ce, tvd
from harness.losses.features import FEATURES
from harness.losses.logits import centred_mse, cosine, dist, logit_standard, mse, smooth_l1, squared_norm
from harness.losses.multi import ctkd, mlld

__all__ = ["FEATURES", "LOSSES"]

LOSSES: Mapping[str, Form] = {
    "kl": Form(kl, KNOBS["kl"]),
    "soft_ce": Form(soft_ce, KNOBS["soft_ce"]),
    "mse": Form(mse, KNOBS["mse"]),
    "squared_norm": Form(squared_norm, KNOBS["squared_norm"]),
    "mse_probs": Form(mse_probs, KNOBS["mse_probs"]),
    "smooth_l1": Form(smooth_l1, KNOBS["smooth_l1"]),
    "centred_mse": Form(centred_mse, KNOBS["centred_mse"]),
    "reverse_kl": Form(reverse_kl, KNOBS["reverse_kl"]),
    "js": Form(js, KNOBS["js"]),
    "gjsd": Form(gjsd, KNOBS["gjsd"]),
    "tvd": Form(tvd, KNOBS["tvd"]),
    "cosine": Form(cosine, KNOBS["cosine"]),
    "dkd": Form(dkd, KNOBS["dkd"], takes=("labels", "progress"), min_classes=3),
    "nkd": Form(nkd, KNOBS["nkd"], takes=("labels",), min_classes=3),
    "dist": Form(dist, KNOBS["dist"]),
    "logit_standard": Form(logit_standard, KNOBS["logit_standard"]),
    "wsld": Form(wsld, KNOBS["wsld"], takes=("labels",)),
    "ctkd": Form(ctkd, KNOBS["ctkd"], takes=("progress",), learned={"theta": 1.0}),
    "mlld": Form(mlld, KNOBS["mlld"]),
}
