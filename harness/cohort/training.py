"""The loop: every student of a cohort, epoch by epoch, each until it stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from harness import optimisers
from harness.batches import epochs_of
from harness.cohort import checkpoint
from harness.cohort.batch import Batch, draw_noise, noise_shape
from harness.cohort.checkpoint import State
from harness.cohort.data import Data, in_order
from harness.cohort.evaluate import evaluate
from harness.cohort.forward import settle
from harness.cohort.objective import descend, pull
from harness.cohort.stack import Cohort
from harness.seeds import generator
from harness.spec import PLAIN

KEEP_EVERY = 30.0
"""Seconds of training after which students are kept: what a kill costs at most, to an epoch."""


@dataclass(frozen=True)
class Trained:
    """What the loop gives. `rows` `[students, epochs, 5 or 6]` are the curves, `num_epochs` how many each student
    trained;
    `pulls` `[3, 3, students]` are `objective.pull` at the first, a middle and the last step, or None. `states` are
    what the students go on from; empty when they are done."""

    rows: Tensor
    num_epochs: Sequence[int]
    pulls: Tensor | None
    states: Sequence[State]


def fit(
    cohort: Cohort,
    data: Data,
    device: str,
    until: int | None = None,
    states: Sequence[State] | None = None,
    keep: Callable[[list[State]], None] | None = None,
) -> Trained:
    """Train the cohort in place: when it returns, its networks hold what each student is measured with.

    It starts where `states`, all of one epoch, left the students, and stops after epoch `until`, which is later. Where
    it takes long, `keep` is given the students' states now and then.
    """
    lead, count = cohort.specs[0], len(data.task.train)
    per_epoch = count // lead.batch_size
    num_steps = lead.epochs * per_epoch
    scales = _lr_scales(cohort, num_steps)
    sources = {spec.seed: generator(spec.seed, "dropout") for spec in cohort.specs}
    shape = noise_shape(cohort, data, lead.batch_size)
    looked_at = (0, num_steps // 2, num_steps - 1) if any(spec.form != PLAIN for spec in cohort.specs) else ()
    live = checkpoint.start(cohort, looked_at)
    curves, pulls, patience = live.curves, live.pulls, live.patience
    begin = checkpoint.resume(cohort, data, live, states, per_epoch) if states else 0
    end = lead.epochs if until is None else min(until, lead.epochs)
    step = begin * per_epoch
    if cohort.dropout is not None:
        _skip_noise(sources.values(), shape, step)
    todo, kept = 0 if patience.all_stopped else end - begin, time.monotonic()
    for epoch, order in islice(enumerate(orders(cohort, data, device)), begin, begin + todo):
        sums = torch.zeros(3, len(cohort.specs), dtype=cohort.network.values.dtype, device=device)
        read = in_order(data.views, order, lead.batch_size)
        for rows, inputs in zip(torch.split(order, lead.batch_size, dim=1), read, strict=False):
            batch = Batch(rows, epoch, step / num_steps, inputs)
            noise = draw_noise(cohort, sources, shape)
            if step in looked_at:
                pulls[step] = pull(cohort, data, batch, noise)
            sums += take_step(cohort, data, batch, noise, (live.optimiser, live.learned), scales[step])
            step += 1
        val_loss, val_accuracy = evaluate(cohort, data, "val")
        test = [evaluate(cohort, data, "test")[1:2]] if data.confirms else []
        curves.append(torch.cat([sums / per_epoch, val_loss[None], val_accuracy[None], *test]))
        if patience.over(epoch + 1, val_loss):
            break
        if keep is not None and epoch + 1 < end and time.monotonic() - kept >= KEEP_EVERY:
            keep(checkpoint.keep(cohort, data, live, epoch + 1))
            kept = time.monotonic()
    left = checkpoint.keep(cohort, data, live, end) if end < lead.epochs else ()
    patience.restore()
    num_epochs = patience.num_epochs(len(curves))
    last = torch.tensor([num * per_epoch for num in num_epochs], device=device)  # a stopped student has no later pull
    found = [torch.where(at < last, pulls[at], math.nan) if at in pulls else pulls[0] * math.nan for at in looked_at]
    return Trained(
        torch.stack(curves).double().cpu().permute(2, 0, 1), num_epochs, torch.stack(found) if found else None, left
    )


def _skip_noise(sources: Iterable[torch.Generator], shape: Sequence[int], num_steps: int) -> None:
    """Draw what the steps before have drawn (see `batch.draw_noise`)."""
    for source in sources:
        for _ in range(num_steps):
            torch.rand(tuple(shape), generator=source)


def orders(cohort: Cohort, data: Data, device: str) -> Iterator[Tensor]:
    """For each epoch, the order of rows that each group sees: `[groups, rows]`."""
    lead = cohort.specs[0]
    sources = {
        seed: epochs_of(data.task.train, seed, lead.views, lead.batch_size, lead.epochs) for seed in cohort.group_seeds
    }
    for _ in range(lead.epochs):
        by_seed = {seed: next(source) for seed, source in sources.items()}
        yield torch.stack([by_seed[seed] for seed in cohort.group_seeds]).to(device)


def take_step(
    cohort: Cohort,
    data: Data,
    batch: Batch,
    noise: Tensor | None,
    states: tuple[optimisers.State, Sequence[optimisers.State]],
    lr_scale: Tensor,
) -> Tensor:
    """One step of every student; objective, CE and KD before it, `[3, students]`."""
    said, grads = descend(cohort, data, batch, noise)
    _move(cohort, grads, states, lr_scale)
    return said


@torch.inference_mode()
def _move(
    cohort: Cohort,
    found: Sequence[Tensor],
    states: tuple[optimisers.State, Sequence[optimisers.State]],
    lr_scale: Tensor,
) -> None:
    """Take the optimiser's step along the gradients of `descend`."""
    flats = [cohort.network, *(run.learned for run in cohort.learned if run.learned is not None)]
    grads = iter(found)
    own, *others = (torch.cat([next(grads).reshape(len(flat.values), -1) for _ in flat.views], dim=1) for flat in flats)
    kept = None if cohort.still is None else cohort.network.values[:, cohort.still]
    if cohort.still is not None:  # what is not learned has no part in the gradient's norm
        own = own.masked_fill(cohort.still, 0)
    if cohort.clip_norm is not None:  # the network's own gradient; a loss's learned parts have none to fear
        norm = torch.linalg.vector_norm(own, dim=1, keepdim=True)
        own = own * (cohort.clip_norm / (norm + 1e-6)).clamp(max=1.0)
    update = optimisers.STEPS[cohort.specs[0].optimiser]
    update(cohort.network.values, own, states[0], cohort.hyper, lr_scale)
    if cohort.still is not None and kept is not None:  # weight decay moved them
        cohort.network.values[:, cohort.still] = kept
    settle(cohort)
    for run, grad, state in zip(cohort.learned, others, states[1], strict=True):
        assert run.learned is not None
        update(run.learned.values, grad, state, cohort.hyper.of(run.places), lr_scale[run.places])


def _lr_scales(cohort: Cohort, num_steps: int) -> Tensor:
    """The learning rate's factor at every step, `[steps, students, 1]`."""
    kinds = {(spec.schedule, spec.warmup) for spec in cohort.specs}
    curves = {kind: [lr_scale(*kind, step, num_steps) for step in range(num_steps)] for kind in kinds}
    columns = [curves[spec.schedule, spec.warmup] for spec in cohort.specs]
    return torch.tensor(columns, dtype=torch.float64).T[..., None].to(cohort.network.values).contiguous()


def lr_scale(schedule: str, warmup: float, step: int, num_steps: int) -> float:
    """The learning rate's factor at a step: linear up to 1 over the share `warmup`, then 1, or half a cosine to 0."""
    rising = warmup * num_steps
    if step < rising:
        return min(1.0, (step + 1) / rising)
    if schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / (num_steps - rising))
