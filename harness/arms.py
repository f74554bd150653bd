"""The arms of a study: which kinds of trials there are, how their names are spelled, and what their students are.

    search, search-<option>                      the study's question
    control-<width>                              plain training
    smoothing-<width>, self-<width>, ...         the other controls (see `KINDS`)
    confirm-<kind>-<source>-<seeds>              the configuration of trial <source> again, under so many fresh seeds

Every control is tuned with as many trials as plain training of its width. A new kind of control is an entry of `KINDS`,
a line in `space_of` and, where its students differ, in `students`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.dimensions import Dimension, Float, Value
from harness.space import CONTROLS, Study
from harness.spec import StudentSpec

SEARCH, CONTROL, CONFIRM = "search", "control", "confirm"
KINDS: Mapping[str, str] = {
    SEARCH: "distilled",
    CONTROL: "plain training",
    "smoothing": "label smoothing",
    "self": "self-teacher",
    "shuffled": "shuffled teacher",
}
"""What a trial is, in words: `self` learns from a plainly trained twin, `shuffled` from what the teacher says of any
other example. Both tune all that the search does, but for the teacher."""
OTHER_TEACHERS = ("self", "shuffled")
SMOOTHING = Float(0.02, 0.4, log=True)
"""What the control of that name searches."""
EVERY = 4
"""How many trials of a control with a teacher there are for one that listens to it as little as the space allows."""
TEACHERS_OWN = ("teacher", "teacher_width", "teacher_epochs", "assistants")
FRESH_SEED = 10**9
"""How far the seeds of the confirm stage are from those of the search."""


@dataclass(frozen=True)
class Arm:
    """What an arm's name says: the kind of its trials, and for the confirm stage the trial whose configuration it is,
    and how many fresh seeds it has."""

    kind: str
    stage: str = SEARCH
    source: int = -1
    seeds: int = 0


def read_arm(name: str) -> Arm:
    """The arm of a name."""
    kind, _, rest = name.partition("-")
    if kind != CONFIRM:
        return Arm(kind)
    kind, source, seeds = rest.split("-")
    return Arm(kind, CONFIRM, int(source), int(seeds))


def confirming(kind: str, source: int, seeds: int) -> str:
    """The name of the arm that trains a trial's configuration on fresh seeds."""
    return f"{CONFIRM}-{kind}-{source}-{seeds}"


def search_arms(study: Study) -> dict[str, Value | None]:
    """The arms of the study's question: `search`, or one for each option of the choice that shares trials equally."""
    if not study.equal:
        return {SEARCH: None}
    return {f"{SEARCH}-{option}": option for option in study.options(study.equal)}


def control(width: int, kind: str = CONTROL) -> str:
    """The name of a kind of control's arm at a width."""
    return f"{kind}-{width}"


def control_arms(study: Study) -> dict[str, int]:
    """The arms of all controls, those too of which the study wants no trials, and their widths."""
    kinds = [CONTROL, *CONTROLS]
    if "label_smoothing" in study.space:  # then plain training tunes it itself
        kinds = [kind for kind in kinds if kind != "smoothing"]
    return {control(width, kind): width for kind in kinds for width in study.widths}


def space_of(study: Study, arm: str) -> Mapping[str, Dimension]:
    """What is sampled in an arm of the search stage."""
    kind = read_arm(arm).kind
    if kind == SEARCH:
        return {name: dimension for name, dimension in study.space.items() if name != study.equal}
    if kind == CONTROL:
        return study.plain_space()
    if kind == "smoothing":
        return {**study.plain_space(), "label_smoothing": SMOOTHING}
    return {name: dim for name, dim in study.space.items() if name not in (*TEACHERS_OWN, "width")}


def given_in(study: Study, arm: str) -> dict[str, Value]:
    """The parameters that all trials of an arm of the search stage have in common."""
    arms = control_arms(study)
    if arm in arms:
        return {"width": arms[arm]} if "width" in study.space else {}
    option = search_arms(study)[arm]
    return {} if option is None else {study.equal: option}


def set_in(study: Study, arm: str, place: int) -> dict[str, Value]:
    """What the trial at a place of its arm, from 0, has set before the rest of it is sampled.

    A control with a useless teacher does best by ignoring it, and a dozen trials over five knobs may never try that:
    the control would be a straw man. So its first trial and every fourth after it weigh the teacher least.
    """
    if read_arm(arm).kind not in OTHER_TEACHERS or place % EVERY or "alpha" not in study.space:
        return {}
    weights = [float(weight) for weight in study.options("alpha")]
    if "convex" not in study.options("mixing"):  # additive: alpha weighs the teacher, not the labels
        return {"alpha": min(weights)}
    return {"alpha": max(weights)} | ({"mixing": "convex"} if "mixing" in study.space else {})


def context_of(arm: str) -> dict[str, Value]:
    """What is true in an arm and no parameter of its trials: conditions of the space may ask for it."""
    kind = read_arm(arm).kind
    return {"teacher": kind} if kind in OTHER_TEACHERS else {}


def targets(study: Study, trials: int) -> dict[str, int]:
    """How many trials each arm is to reach; search arms that share them equally are rounded up."""
    arms = search_arms(study)
    controls = [arm for arm in control_arms(study) if read_arm(arm).kind in (CONTROL, *study.other_controls)]
    searched = {arm: math.ceil(trials / len(arms)) for arm in arms}
    return searched | dict.fromkeys(controls, study.num_controls(trials))


def quota(study: Study, wanted: Mapping[str, int], arm: str) -> int:
    """How many of the trials that are `wanted` of an arm a round asks for: the arms reach their targets together."""
    if arm.startswith(CONFIRM):
        return wanted[arm]
    searched = sum(wanted[one] for one in search_arms(study))
    return math.ceil(wanted[arm] * study.batch / searched)


def students(study: Study, arm: str, params: Mapping[str, Value], task: str) -> list[StudentSpec]:
    """The students of a trial: one a seed, the same seeds for every trial of a stage."""
    own = read_arm(arm)
    plain = own.kind in (CONTROL, "smoothing")
    found = study.specs({**params, **context_of(arm)}, plain=plain, task=task)
    return found if own.stage == SEARCH else [replace(found[0], seed=seed) for seed in fresh_seeds(study, own.seeds)]


def fresh_seeds(study: Study, count: int) -> Sequence[int]:
    """Seeds of the confirm stage, the same for every configuration, so that differences are paired."""
    return range(FRESH_SEED + 1000 * study.seed + 1, FRESH_SEED + 1000 * study.seed + count + 1)
