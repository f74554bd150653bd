"""What published code trains with, in this harness's terms: weights, temperature and knobs for `Study(fixed={...})`.

    STUDY = Study(..., space={"width": Choice(4, 8), "lr": Float(1e-3, 1e-1, log=True)}, fixed=preset("dkd", 10))

A codebase says how much cross-entropy and how much of a distillation loss it adds; a study says `loss_scale * (alpha *
CE + (1 - alpha) * KD)`. Every pair of weights is one such pair: `alpha = ce / (ce + kd)`, `loss_scale = ce + kd`. Add a
preset by its line in `PRESETS`, with the repository and the file that its numbers were read in.

Left out, because it would not be what was published: multi-level logit distillation (Jin 2023; two augmentations of
every image, masks by confidence), DeiT (a token of its own, mixed-up labels), CRD, VID, FSP, NST, AB and FT (no such
form here), GKD and MiniLLM (on text that the student writes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.spec import NONE


@dataclass(frozen=True)
class Preset:
    """A published objective: `ce_weight * CE + kd_weight * KD + feature_weight * FEATURE`.

    `source` names the repository and the files read. `form` and its `knobs` are KD, `feature` and its `feature_knobs`
    are FEATURE. `per_class`: the code also divides KD by the number of classes, as `nn.MSELoss()` and `nn.KLDivLoss()`
    do. `differs` says what of the published training these numbers do not bring along.
    """

    source: str
    form: str
    ce_weight: float
    kd_weight: float
    knobs: Mapping[str, float] = field(default_factory=dict)
    per_class: bool = False
    mixing: str = "convex"
    feature: str = NONE
    feature_weight: float = 0.0
    feature_knobs: Mapping[str, float] = field(default_factory=dict)
    differs: str = ""

    def fixed(self, num_classes: int) -> dict[str, str | float]:
        """What a study of that many classes writes into `fixed`; `ValueError` for fewer than 2."""
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(f"num_classes {num_classes!r} is out of range; it must be a whole number of at least 2")
        kd = self.kd_weight / num_classes if self.per_class else self.kd_weight
        additive = self.mixing == "additive"
        found: dict[str, str | float] = {
            "form": self.form,
            "alpha": kd / self.ce_weight if additive else self.ce_weight / (self.ce_weight + kd),
            "loss_scale": self.ce_weight if additive else self.ce_weight + kd,
            "mixing": self.mixing,
        }
        for knob, value in self.knobs.items():
            found[knob if knob == "temperature" else f"{self.form}.{knob}"] = float(value)
        if self.feature != NONE:
            found |= {"feature": self.feature, "feature_weight": self.feature_weight}
            found |= {f"{self.feature}.{knob}": float(value) for knob, value in self.feature_knobs.items()}
        return found


_FLAGS = "HobbitLong/RepDistiller: scripts/run_cifar_distill.sh, helper/loops.py, distiller_zoo"
_ONE_LAYER = "one layer's features; there"
_CLS_KD = (
    "yzd-v/cls_KD: mmcls/distillation/losses/nkd.py, mmcls/distillation/distillers/classification_distiller.py, "
    "configs/distillers"
)


def _feature(name: str, weight: float, file: str, differs: str, knobs: Mapping[str, float] | None = None) -> Preset:
    """RepDistiller's feature methods: -r 1 (the default) -a 0 -b weight, so no logit loss (KL at T 4 weighs 0)."""
    return Preset(
        source=f"{_FLAGS}/{file} (-r 1 -a 0 -b {weight:g})",
        form="kl",
        ce_weight=1.0,
        kd_weight=0.0,
        knobs={"temperature": 4},
        feature=name,
        feature_weight=weight,
        feature_knobs=knobs or {},
        differs=differs,
    )


PRESETS: Mapping[str, Preset] = {
    "article": Preset(
        source="the source article's code: CE + alpha * nn.MSELoss()(logits); it leaves alpha open, 0.5 is ours",
        form="mse",
        ce_weight=1.0,
        kd_weight=0.5,
        mixing="additive",
        differs="the teacher is trained beforehand; the article's takes a step before every one of the student's, "
        "which is teacher='online'",
    ),
    "repdistiller_kd": Preset(
        source=f"{_FLAGS}/KD.py (-r 0.1 -a 0.9), train_student.py (kd_T 4)",
        form="kl",
        ce_weight=0.1,
        kd_weight=0.9,
        knobs={"temperature": 4},
    ),
    "repdistiller_hint": _feature(
        "hint", 100.0, "FitNet.py", f"{_ONE_LAYER} a convolution with batch norm regresses the second block"
    ),
    "repdistiller_attention": _feature(
        "attention", 1000.0, "AT.py", f"{_ONE_LAYER} the sum over all blocks", {"power": 2}
    ),
    "repdistiller_similarity": _feature("similarity", 3000.0, "SP.py", f"{_ONE_LAYER} the last block's maps"),
    "repdistiller_rkd": _feature(
        "rkd", 1.0, "RKD.py", f"{_ONE_LAYER} the pooled features", {"distance": 25, "angle": 50}
    ),
    "repdistiller_pkt": _feature("pkt", 30000.0, "PKT.py", f"{_ONE_LAYER} the pooled features"),
    "mdistiller_kd": Preset(
        source="megvii-research/mdistiller: mdistiller/engine/cfg.py, mdistiller/distillers/KD.py",
        form="kl",
        ce_weight=0.1,
        kd_weight=0.9,
        knobs={"temperature": 4},
    ),
    "dkd": Preset(
        source="megvii-research/mdistiller: mdistiller/engine/cfg.py, mdistiller/distillers/DKD.py (alpha 1, beta 8, "
        "T 4, WARMUP 20 of 240 epochs)",
        form="dkd",
        ce_weight=1.0,
        kd_weight=1.0,
        knobs={"temperature": 4, "target": 1, "rest": 8, "warmup": 20 / 240},
        differs="the warm-up rises with every step; there once an epoch, from 1/20",
    ),
    "kd_lib": Preset(
        source="SforAiDl/KD_Lib: KD_Lib/KD/vision/vanilla/vanilla_kd.py (distil_weight 0.5, temp 20, nn.MSELoss() of "
        "the probabilities)",
        form="mse_probs",
        ce_weight=0.5,
        kd_weight=0.5,
        knobs={"temperature": 20},
        per_class=True,
    ),
    "torchdistill_kd": Preset(
        source="yoshitomo-matsubara/torchdistill: torchdistill/losses/mid_level.py (KDLoss), "
        "configs/sample/ilsvrc2012/kd/resnet18_from_resnet34.yaml (alpha 0.5, temperature 1)",
        form="kl",
        ce_weight=0.5,
        kd_weight=0.5,
        knobs={"temperature": 1},
    ),
    "haitongli_kd": Preset(
        source="haitongli/knowledge-distillation-pytorch: model/net.py (nn.KLDivLoss() with its default mean), "
        "experiments/cnn_distill/params.json (alpha 0.9, temperature 20)",
        form="kl",
        ce_weight=0.1,
        kd_weight=0.9,
        knobs={"temperature": 20},
        per_class=True,
    ),
    "pytorch_tutorial": Preset(
        source="pytorch/tutorials: beginner_source/knowledge_distillation_tutorial.py (T 2, weights 0.75 and 0.25)",
        form="soft_ce",
        ce_weight=0.75,
        kd_weight=0.25,
        knobs={"temperature": 2},
    ),
    "keras_example": Preset(
        source="keras-team/keras-io: examples/vision/md/knowledge_distillation.md (alpha 0.1, temperature 10)",
        form="kl",
        ce_weight=0.1,
        kd_weight=0.9,
        knobs={"temperature": 10},
    ),
    "logit_standard": Preset(
        source="sunshangquan/logit-standardization-KD: mdistiller/distillers/KD.py, tools/train.py and README.md "
        "(--base-temp 2 --kd-weight 9); CE weight 0.1 from its issues 8 and 25, where the author confirms it",
        form="logit_standard",
        ce_weight=0.1,
        kd_weight=9.0,
        knobs={"temperature": 2},
    ),
    "dist": Preset(
        source="hunto/image_classification_sota: lib/models/losses/dist_kd.py, kd_loss.py (their defaults: weights 1 "
        "and 1, beta 1, gamma 1, no temperature); its training configs could not be read and may weigh otherwise",
        form="dist",
        ce_weight=1.0,
        kd_weight=1.0,
        knobs={"temperature": 1, "inter": 1, "intra": 1},
    ),
    "nkd": Preset(
        source=f"{_CLS_KD}/imagenet/res34_distill_res18_img.py (temp 1, gamma 1.5)",
        form="nkd",
        ce_weight=1.0,
        kd_weight=1.0,
        knobs={"temperature": 1, "gamma": 1.5},
    ),
    "nkd_cifar": Preset(
        source=f"{_CLS_KD}/cifar100/res34_distill_res18_cifar.py (temp 3, gamma 3.5)",
        form="nkd",
        ce_weight=1.0,
        kd_weight=1.0,
        knobs={"temperature": 3, "gamma": 3.5},
    ),
    "wsld": Preset(
        source="bellymonster/Weighted-Soft-Label-Distillation: knowledge_distiller.py (T 2, alpha 2.5)",
        form="wsld",
        ce_weight=1.0,
        kd_weight=2.5,
        knobs={"temperature": 2},
    ),
    "ctkd": Preset(
        source="zhengli97/CTKD: scripts/run_cifar_distill.sh (-r 0.1 -a 0.9, t 1 + 20 sigmoid, decay 0 to -1 over 10 "
        "loops), train_student.py (a loop is one of 240 epochs), distiller_zoo/KD.py",
        form="ctkd",
        ce_weight=0.1,
        kd_weight=0.9,
        knobs={"ramp": 10 / 240},
        differs="the reversal grows with every step; there once an epoch",
    ),
    "kim_mse": Preset(
        source="jhoon-oh/kd_data: code/image_classfication/tools/traineval.py (--logit l2_logit: no cross-entropy), "
        "tools/losses.py (nn.MSELoss() of the logits)",
        form="mse",
        ce_weight=0.0,
        kd_weight=1.0,
    ),
    "kim_smooth_l1": Preset(
        source="jhoon-oh/kd_data: code/image_classfication/tools/traineval.py (--logit smooth_logit: no "
        "cross-entropy), tools/losses.py (nn.SmoothL1Loss() of the logits)",
        form="smooth_l1",
        ce_weight=0.0,
        kd_weight=1.0,
        knobs={"beta": 1},
    ),
}
"""The presets, by name."""


def preset(name: str, num_classes: int) -> dict[str, str | float]:
    """What a study of that many classes writes into `fixed` to train as published; `ValueError` for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; presets are {', '.join(PRESETS)}")
    return PRESETS[name].fixed(num_classes)
