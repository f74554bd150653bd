"""What a sweep finds of the trials that earlier ones told: results and runs that were lost since are had again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from harness import ledger
from harness.analysis.answers import has_answers
from harness.commits import Runs, values_of
from harness.goals import Plan
from harness.kept import Asked
from harness.sampler import Sampler

log = logging.getLogger(__name__)


def restore(
    plan: Plan, sampler: Sampler, tracker: Runs, logged: Collection[str], must_stop: Callable[[], bool]
) -> tuple[float, list[Asked]]:
    """Log every told trial again whose key is not among `logged`: tracking's store was lost, or changed. Gives the best
    val accuracy, and the trials of which the result is lost or damaged and is to be trained again."""
    best, lost, pruned = 0.0, list[Asked](), sampler.trials("pruned")
    for asked in (*sampler.trials("complete"), *pruned):
        folder = plan.folder(asked.number)
        trial = plan.write_spec(asked)  # it puts aside what is damaged, and what is another's
        records = ledger.read_result(folder, trial)
        if plan.study.pruning is not None:
            ledger.drop_checkpoints(folder)
        if records is None or not has_answers(folder, trial, records):
            lost.append(asked)
            continue
        if records[0].status != "pruned":
            best = max(best, values_of(records, "val_accuracy"))
        if trial.key not in logged:
            tracker.log(trial, records, maybe_there=True)
        if must_stop():
            return best, []
    for asked in sampler.trials("failed"):
        trial = plan.write_spec(asked)
        reason = ledger.read_failure(plan.folder(asked.number), trial)
        if reason is not None and trial.key not in logged:
            tracker.log_failure(trial, reason, maybe_there=True)
    return best, [asked for asked in lost if _can_be_trained(asked, pruned)]


def _can_be_trained(lost: Asked, pruned: Collection[Asked]) -> bool:
    """Whether it is known how long a trial was trained; it is said what becomes of it."""
    if lost in pruned and not lost.pruned_at:
        log.warning("trial %d was pruned, its result is lost, and nobody knows at which rung; it stays so", lost.number)
        return False
    log.warning("trial %d was told, but its result is lost or damaged: it is trained again", lost.number)
    return True
