"""Every loss form once more, in plain float64 numpy and from the papers' formulas: what the tests hold the forms to.

One student at a time, row by row: logits are `[batch, classes]`, features `[batch, features]`, maps `[batch, channels,
places]`, and the value is a float. Written to be read beside the paper and to stay right at logits of 1e4; never
taken from the implementation. A correlation or a cosine with a constant or a zero vector is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray


def log_softmax(logits: Array, temperature: float = 1.0) -> Array:
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True)))


def divergence(log_p: Array, log_q: Array) -> float:
    """KL(p || q) of one distribution from another."""
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def pairs(student: Array, teacher: Array, temperature: float) -> list[tuple[Array, Array]]:
    """Each example's log p and log q."""
    return list(zip(log_softmax(teacher, temperature), log_softmax(student, temperature), strict=True))


def kl(student: Array, teacher: Array, *, temperature: float) -> float:
    return temperature**2 * float(np.mean([divergence(p, q) for p, q in pairs(student, teacher, temperature)]))


def reverse_kl(student: Array, teacher: Array, *, temperature: float) -> float:
    return kl(teacher, student, temperature=temperature)


def soft_ce(student: Array, teacher: Array, *, temperature: float) -> float:
    each = [-(np.exp(p) * q).sum() for p, q in pairs(student, teacher, temperature)]
    return temperature**2 * float(np.mean(each))


def mse(student: Array, teacher: Array) -> float:
    return float(((student - teacher) ** 2).sum() / student.size)


def squared_norm(student: Array, teacher: Array) -> float:
    return float(((student - teacher) ** 2).sum() / len(student))


def mse_probs(student: Array, teacher: Array, *, temperature: float) -> float:
    each = [((np.exp(p) - np.exp(q)) ** 2).sum() for p, q in pairs(student, teacher, temperature)]
    return temperature**2 * float(np.mean(each))


def huber(apart: Array, beta: float = 1.0) -> Array:
    """Quadratic within beta of 0, of slope 1 beyond: torch's `smooth_l1_loss`."""
    return np.where(abs(apart) < beta, apart**2 / (2 * beta), abs(apart) - beta / 2)


def smooth_l1(student: Array, teacher: Array, *, beta: float) -> float:
    return float(huber(student - teacher, beta).mean())


def centred_mse(student: Array, teacher: Array) -> float:
    apart = (student.T - student.mean(axis=1)).T - (teacher.T - teacher.mean(axis=1)).T
    return float(np.mean([row @ row / (2 * len(row)) for row in apart]))


def gjsd(student: Array, teacher: Array, *, temperature: float, beta: float) -> float:
    each = []
    for log_p, log_q in pairs(student, teacher, temperature):
        log_m = np.logaddexp(math.log(beta) + log_p, math.log(1 - beta) + log_q)
        each.append(beta * divergence(log_p, log_m) + (1 - beta) * divergence(log_q, log_m))
    return temperature**2 * float(np.mean(each))


def js(student: Array, teacher: Array, *, temperature: float) -> float:
    return gjsd(student, teacher, temperature=temperature, beta=0.5)


def tvd(student: Array, teacher: Array, *, temperature: float) -> float:
    each = [abs(np.exp(p) - np.exp(q)).sum() / 2 for p, q in pairs(student, teacher, temperature)]
    return temperature**2 * float(np.mean(each))


def angle(a: Array, b: Array) -> float:
    """The cosine of the angle between two vectors."""
    size = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(a @ b / size) if size else 0.0


def cosine(student: Array, teacher: Array) -> float:
    return float(np.mean([1 - angle(s, t) for s, t in zip(student, teacher, strict=True)]))


def log_binary(log_probs: Array, label: int) -> Array:
    """The log-probabilities of the label and of all that is not the label."""
    return np.array([log_probs[label], np.logaddexp.reduce(np.delete(log_probs, label))])


def log_rest(logits: Array, label: int, temperature: float) -> Array:
    """The log-probabilities of the other classes among themselves."""
    return log_softmax(np.delete(logits, label), temperature)


def tckd(student: Array, teacher: Array, labels: Array, temperature: float) -> Array:
    """The target part of KL, an example each: the label against the rest."""
    found = pairs(student, teacher, temperature)
    return np.array(
        [divergence(log_binary(p, y), log_binary(q, y)) for (p, q), y in zip(found, labels.tolist(), strict=True)]
    )


def nckd(student: Array, teacher: Array, labels: Array, temperature: float) -> Array:
    """The other part of KL, an example each: the classes that are not the label, among themselves."""
    rows = zip(student, teacher, labels.tolist(), strict=True)
    return np.array([divergence(log_rest(t, y, temperature), log_rest(s, y, temperature)) for s, t, y in rows])


def dkd(
    student: Array,
    teacher: Array,
    *,
    labels: Array,
    progress: float,
    temperature: float,
    target: float,
    rest: float,
    warmup: float,
) -> float:
    parts = target * tckd(student, teacher, labels, temperature) + rest * nckd(student, teacher, labels, temperature)
    risen = min(progress / warmup, 1.0) if warmup else 1.0
    return risen * temperature**2 * float(parts.mean())


def nkd(student: Array, teacher: Array, *, labels: Array, temperature: float, gamma: float) -> float:
    each = []
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        target = -math.exp(log_softmax(t)[y]) * log_softmax(s)[y]
        others = -(np.exp(log_rest(t, y, temperature)) * log_rest(s, y, temperature)).sum()
        each.append(target + gamma * temperature**2 * others)
    return float(np.mean(each))


def pearson(a: Array, b: Array) -> float:
    return angle(a - a.mean(), b - b.mean())


def dist(student: Array, teacher: Array, *, temperature: float, inter: float, intra: float) -> float:
    p, q = np.exp(log_softmax(teacher, temperature)), np.exp(log_softmax(student, temperature))
    between = np.mean([1 - pearson(a, b) for a, b in zip(p, q, strict=True)])
    within = np.mean([1 - pearson(a, b) for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * float(inter * between + intra * within)


def logit_standard(student: Array, teacher: Array, *, temperature: float) -> float:
    def standard(logits: Array) -> Array:
        return np.stack([(row - row.mean()) / (row.std(ddof=1) + 1e-7) for row in logits])

    return kl(standard(student), standard(teacher), temperature=temperature)


def cross_entropies(logits: Array, labels: Array) -> Array:
    """Each example's cross-entropy with its label; exact where it is tiny, as a sure teacher's is."""
    gaps = [np.delete(row, y) - row[y] for row, y in zip(logits, labels.tolist(), strict=True)]
    return np.array([np.logaddexp(0, np.logaddexp.reduce(gap)) for gap in gaps])


def softness(student: Array, teacher: Array, labels: Array) -> Array:
    """The weights of `wsld`: `1 - exp(-CE_s / CE_t)`, and 0 where neither has any cross-entropy."""
    rows = zip(cross_entropies(student, labels), cross_entropies(teacher, labels), strict=True)
    return np.array([-math.expm1(-s / t) if t else float(s > 0) for s, t in rows])


def wsld(student: Array, teacher: Array, *, labels: Array, temperature: float) -> float:
    each = [-(np.exp(p) * q).sum() for p, q in pairs(student, teacher, temperature)]
    return temperature**2 * float(np.mean(softness(student, teacher, labels) * each))


def ctkd(student: Array, teacher: Array, *, theta: float, progress: float, ramp: float) -> float:
    del progress, ramp  # they scale theta's gradient, not the value
    return kl(student, teacher, temperature=1 + 20 / (1 + math.exp(-theta)))


def mlld(student: Array, teacher: Array) -> float:
    """Jin 2023 without its masks and second view: the sum over T in 2 to 6 of `kl` and two Gram matrices' distances."""
    found = 0.0
    for temperature in (2.0, 3.0, 4.0, 5.0, 6.0):
        p, q = np.exp(log_softmax(teacher, temperature)), np.exp(log_softmax(student, temperature))
        classes, batch = p.T @ p - q.T @ q, p @ p.T - q @ q.T
        found += kl(student, teacher, temperature=temperature)
        found += (classes**2).sum() / len(classes) + (batch**2).sum() / len(batch)
    return float(found)


LOGIT_FORMS: Mapping[str, Callable[..., float]] = {
    "kl": kl,
    "soft_ce": soft_ce,
    "mse": mse,
    "squared_norm": squared_norm,
    "mse_probs": mse_probs,
    "smooth_l1": smooth_l1,
    "centred_mse": centred_mse,
    "reverse_kl": reverse_kl,
    "js": js,
    "gjsd": gjsd,
    "tvd": tvd,
    "cosine": cosine,
    "dkd": dkd,
    "nkd": nkd,
    "dist": dist,
    "logit_standard": logit_standard,
    "wsld": wsld,
    "ctkd": ctkd,
    "mlld": mlld,
}


def hint(student: Array, teacher: Array, *, weight: Array, bias: Array) -> float:
    regressed = np.stack([weight @ row + bias for row in student])
    return mse(regressed, teacher)


def attention(student: Array, teacher: Array, *, power: float) -> float:
    def shown(maps: Array) -> Array:
        found = (abs(maps) ** power).mean(axis=1)
        return np.stack([row / math.sqrt(row @ row) if row.any() else row for row in found])

    return float(((shown(student) - shown(teacher)) ** 2).mean())


def similarity(student: Array, teacher: Array) -> float:
    def alike(features: Array) -> Array:
        rows = features.reshape(len(features), -1)
        gram = rows @ rows.T
        return np.stack([row / math.sqrt(row @ row) if row.any() else row for row in gram])

    return float(((alike(student) - alike(teacher)) ** 2).sum() / len(student) ** 2)


def distances(features: Array) -> Array:
    """Distances of every two examples, in units of the mean of those that are not 0."""
    found = np.array([[math.sqrt((a - b) @ (a - b)) for b in features] for a in features])
    return found / found[found > 0].mean() if found.any() else found


def angles(features: Array) -> Array:
    """The cosine of the angle at j between i and k, for every three examples j, i, k; 0 where two are the same."""
    return np.array([[[angle(i - j, k - j) for k in features] for i in features] for j in features])


def rkd(student: Array, teacher: Array, *, distance: float, angle: float) -> float:
    apart = huber(distances(student) - distances(teacher)).mean()
    turned = huber(angles(student) - angles(teacher)).mean()
    return float(distance * apart + angle * turned)


def conditional(features: Array) -> Array:
    """How probably each example picks each other as its like: (1 + cosine) / 2, at least 1e-7, over the row's sum."""
    found = np.array([[max((1 + angle(a, b)) / 2, 1e-7) for b in features] for a in features])
    return np.stack([row / row.sum() for row in found])


def pkt(student: Array, teacher: Array) -> float:
    p, q = conditional(teacher), conditional(student)
    return float((p * np.log(p / q)).mean())


FEATURE_FORMS: Mapping[str, Callable[..., float]] = {
    "hint": hint,
    "attention": attention,
    "similarity": similarity,
    "rkd": rkd,
    "pkt": pkt,
}
