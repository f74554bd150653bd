"""The model card: what a student is, what is known of it and what is not, and how each file is loaded.

Its headings and their order are those of Mitchell et al. 2019 (arXiv:1810.03993), with how to load last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.export.compare import TOLERANCE, Difference
from harness.export.student import Student, weights_size
from harness.models import CNN, CNN1D, CONV, CONV1D, MLP, RESIDUAL, num_params
from harness.spec import PLAIN
from harness.tasks import LockedSplit, Split

EVIDENCE = {
    "study": "study",
    "question": "question",
    "trial": "trial",
    "knobs": "configuration",
    "teacher": "teacher",
    "trained_as": "trained as",
    "test_accuracy": "test accuracy, mean over seeds",
    "seeds": "seeds",
    "gain_over_control": "gain over plain training",
    "p_best": "P(best)",
    "expected_regret": "expected regret",
    "runner_up": "runner-up",
    "split_hashes": "SHA-256 of the splits",
    "cost": "cost",
}
"""The evidence that has a place in the card, and its words. An estimate is `{"value", "low", "high", "level"}`."""
BUILT_IN = (MLP, CNN, CONV, CNN1D, CONV1D, *RESIDUAL.values())
MOST_NAMES = 100
"""Classes that the card names."""
RESULTS = ("test_accuracy", "gain_over_control", "p_best", "expected_regret", "runner_up", "cost")


def card(student: Student, differences: Mapping[str, Difference], notes: Sequence[str]) -> str:
    """The card as Markdown. `differences` are those of the files that are there, `notes` say why one is not."""
    parts = [
        f"# {student.family.name} of width {student.width} for {student.task.name}",
        *_about(student),
        *_data(student),
        "## Quantitative analyses",
        _table("result", {EVIDENCE[name]: student.evidence.get(name) for name in RESULTS}),
        _check(differences, notes),
        *_limits(student),
        "## How to load",
        "In this folder. Each snippet holds its logits of the inputs in `sample.safetensors` against those kept there.",
        *(_snippet(name, student) for name in differences),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def said(value: Any) -> str:
    """A piece of evidence in words, on one line, with nothing in it that Markdown would take for a table's edge."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not given"
    if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
        level = value.get("level", 0.95)
        return f"{said(value['value'])} ({level:.0%} interval {said(value['low'])} to {said(value['high'])})"
    if isinstance(value, Mapping):
        return "; ".join(f"{said(name)} {said(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(said(part) for part in value) or "none"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _about(student: Student) -> list[str]:
    task, evidence = student.task, student.evidence
    shape = (student.width, task.input_shape, task.num_classes)
    facts = {
        "family": student.family.name,
        "width": student.width,
        "parameters": num_params(student.family, *shape),
        "multiply-accumulates an example": student.family.macs(*shape),
        "size of the weights": f"{weights_size(student)} bytes",
        "one input": f"{list(task.input_shape)} {_dtype(student)}",
        "classes": task.num_classes,
        **({"their names, from 0": _names(task.train.classes)} if task.train.classes else {}),
        **{EVIDENCE[name]: evidence.get(name) for name in ("study", "trial", "teacher", "seeds")},
    }
    others = {name: value for name, value in evidence.items() if name not in EVIDENCE}
    knobs = evidence.get("knobs")
    return [
        "## Model details",
        f"A student network, trained {_how(evidence)} and chosen by a study.",
        _table("fact", facts),
        _table("knob", knobs) if isinstance(knobs, Mapping) else f"Configuration: {said(knobs)}.",
        _table("also", others) if others else "",
        "## Intended use",
        f"The study asked: {said(evidence.get('question'))}. This student is its answer for inputs like those of the "
        f"task `{task.name}` ({said(task.source)}). It is not meant for other data, nor for decisions about people.",
        "## Factors",
        "Accuracy was measured on the whole test split. The study's report has gains by class; no other groups were "
        "looked at apart.",
        "## Metrics",
        "Accuracy: the share of examples whose largest logit is that of their label. Logits are not calibrated "
        "probabilities.",
    ]


def _names(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - MOST_NAMES} more; architecture.json has all" * (len(classes) > MOST_NAMES)
    return ", ".join(classes[:MOST_NAMES]) + more


def _how(evidence: Mapping[str, Any]) -> str:
    """By what it was trained, as far as the evidence says it."""
    knobs = evidence.get("knobs")
    knobs = knobs if isinstance(knobs, Mapping) else {}
    if evidence.get("trained_as") == "self":
        return "by knowledge distillation from a student of its own width"
    if knobs.get("form") != PLAIN:
        return "by knowledge distillation"
    smoothed = "cross-entropy with label smoothing" if knobs.get("label_smoothing") else "plain cross-entropy"
    return f"by {smoothed}, without a teacher,"


def _data(student: Student) -> list[str]:
    hashes = student.evidence.get("split_hashes")
    hashes = hashes if isinstance(hashes, Mapping) else {}
    task = student.task
    splits: dict[str, Split | LockedSplit] = {"train": task.train, "val": task.val, "test": task.test}

    def of(name: str) -> str:
        return f"{len(splits[name])} examples, SHA-256 {said(hashes.get(name) or splits[name].hash)}"

    return [
        "## Evaluation data",
        f"The test split of `{task.name}`: {of('test')}. The study chose nothing by it; whether other studies were "
        "judged on it is not known here.",
        "## Training data",
        f"The train split of `{task.name}`: {of('train')}. Choices were made on val: {of('val')}.",
    ]


def _check(differences: Mapping[str, Difference], notes: Sequence[str]) -> str:
    lines = [
        "Each file was run on real inputs and held against the trained student; more than a difference of "
        f"{TOLERANCE:g} of an example's largest logit (or of 1) would be an error. An answer differs only in a tie.",
        "",
        "| file | examples | largest difference | as a share | answers that differ |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in differences.items():
        lines.append(
            f"| `{name}` | {found.num_examples} | {found.absolute:.2g} | {found.relative:.2g} | {found.ties} |"
        )
    return "\n".join([*lines, *(f"\n{note}." for note in notes)])


def _limits(student: Student) -> list[str]:
    scale, knobs = student.task.scale, student.evidence.get("knobs")
    raw = f"subtract {scale.mean!r} from raw ones and divide by {scale.sd!r}" if scale else "prepare them as it does"
    limits = [
        "The intervals cover the seeds and test examples that were drawn, not a shift of the data.",
        f"The network takes the inputs of the task, not raw ones: {raw}.",
        "`sample.safetensors` holds a few examples of the val split; leave it out where the data is not yours to give.",
    ]
    if isinstance(knobs, Mapping) and knobs.get("dtype") == "bfloat16":
        limits.append("It was trained and measured with bfloat16 products; these files compute in float32.")
    return [
        "## Ethical considerations",
        "None were examined beyond what the data's source says of it.",
        "## Caveats and recommendations",
        "\n".join(f"* {limit}" for limit in limits),
    ]


def _snippet(name: str, student: Student) -> str:
    family = student.family.name
    own = next((each for each in BUILT_IN if each is student.family), None)
    head = "from safetensors.torch import load_file\n"
    sample = 'sample = load_file("sample.safetensors")\n'
    code = {
        "model.safetensors": head
        + f"from harness.models import {family.upper()}\n\n"
        + 'params = load_file("model.safetensors")\n'
        + sample
        + f'logits = {family.upper()}.apply(params, {family.upper()}.prepare(sample["inputs"]))',
        "model.pt2": "import torch\n"
        + head
        + '\nprogram = torch.export.load("model.pt2").module()  # only from whom you trust\n'
        + sample
        + 'logits = program(sample["inputs"])',
        "model.onnx": "import onnxruntime\nimport torch\n"
        + head
        + '\nsession = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])\n'
        + sample
        + '(found,) = session.run(["logits"], {"inputs": sample["inputs"].numpy()})\n'
        + "logits = torch.from_numpy(found)",
    }[name]
    if name == "model.safetensors" and own is None:
        return f"### `{name}`\n\nThe family `{family}` is the study's own; its functions take these weights."
    check = 'assert (logits - sample["logits"]).abs().max() < 1e-4 * max(1, sample["logits"].abs().max())'
    return f"### `{name}`\n\n```python\n{code}\n{check}\n```"


def _dtype(student: Student) -> str:
    inputs = student.task.val.inputs
    return "float32" if inputs.is_floating_point() else str(inputs.dtype).removeprefix("torch.")


def _table(head: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {said(name)} | {said(value)} |" for name, value in rows.items()]
    return "\n".join([f"| {head} | value |", "| --- | --- |", *lines])
