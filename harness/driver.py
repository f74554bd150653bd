"""The sweep's loop: ask trials, form cohorts, hand them out, commit what comes back.

A trial is committed in a fixed order: its result on disk (by a worker), its MLflow run, and Optuna's `tell` last.
A kill anywhere leaves it asked but not told; the next sweep finds its result or trains it again under the same number.
In a study that prunes, trials are trained from rung to rung, and those that are not among the best of their bracket are
told as pruned (see `harness.brackets`). A trial that was told and has lost its result is trained again: its record
depends on its spec alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import files, ledger, tries
from harness.arms import CONFIRM, SEARCH
from harness.attempts import ATTEMPTS, Attempts, numbers_of
from harness.brackets import Brackets
from harness.commits import Runs, Stores, commit, values_of
from harness.executors import Event, Executor
from harness.goals import Goals, Plan
from harness.kept import Asked
from harness.ledger import TrialSpec
from harness.outages import StoreError
from harness.restoring import restore
from harness.rungs import Train
from harness.sampler import Sampler
from harness.setbacks import Setbacks
from harness.space import Value
from harness.stopping import Halt

COMMITS = 3.0
"""Seconds in which a sweep that must stop commits what is ready, the commit at hand aside."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: trials told and to be told, failed ones, and the best val accuracy of a trial so far.

    `done` counts the `pruned` ones too.
    """

    done: int
    total: int
    failed: int
    best: float
    pruned: int = 0


@dataclass
class Driver:
    """One sweep in progress. The only writer to Optuna and MLflow."""

    plan: Plan
    sampler: Sampler
    tracker: Runs
    executor: Executor
    watch: Callable[[Progress], None] = lambda _: None
    asked_to_stop: Callable[[], bool] = lambda: False
    _open: dict[int, tuple[Asked, TrialSpec]] = field(default_factory=dict)  # asked, not yet told
    _logged: frozenset[str] = frozenset()  # the keys of trials that tracking had when the sweep began
    _recovered: set[int] = field(default_factory=set)
    _ready: list[int] = field(default_factory=list)  # trained or given up, to be told
    _best: float = 0.0
    _setbacks: Setbacks = field(default_factory=Setbacks)  # of this session
    _goals: Goals = field(init=False)  # of the search, and of the confirm stage as soon as that begins
    _attempts: Attempts = field(init=False)
    _brackets: Brackets | None = field(init=False, default=None)  # None in a study that does not prune
    _last_round: int = 0  # kept with a trial
    _lost: set[int] = field(default_factory=set)  # told, but their results are gone: trained again, not told again
    _leave_at: float = math.inf  # once it must stop: when it stops committing

    def __post_init__(self) -> None:
        self._goals = Goals(self.plan.study, self.plan.targets, self.sampler)
        self._attempts = Attempts(self.plan, self.executor)
        if self.plan.study.pruning is not None:
            self._brackets = Brackets(self.plan.study, self.plan.study.pruning, self.plan.study_dir)

    def run(self, logged: set[str]) -> str:
        """Reach the plan's targets; `logged` are the keys of trials that tracking has. Gives why it stopped:
        `"complete"`, `"timeout"`, `"stopped"` or `"failures"`. For a timeout or a wish to stop nothing is waited for:
        what is published is committed, and what is being trained is the next sweep's."""
        self._logged = frozenset(logged)
        with self._stopping_in_order():
            self._go_on_where_it_was()
        return self._reach()

    def _go_on_where_it_was(self) -> None:
        """Hand out what earlier sweeps have begun, and ask for what they left of a round."""
        running = self.sampler.trials("running")
        self._best, lost = restore(self.plan, self.sampler, self.tracker, self._logged, self._must_stop)
        self._lost = {asked.number for asked in lost}
        for until in sorted({asked.pruned_at for asked in lost}):
            self._submit([self._reopen(asked) for asked in lost if asked.pruned_at == until], until or None)
        if held := [asked.number for asked in running if files.is_locked(self._folder(asked.number) / "lock")]:
            said = ", ".join(map(str, sorted(held)))
            log.warning("workers that outlived their sweep are still training trials %s; they are waited for", said)
        self._hand_out([self._reopen(asked) for asked in running])
        self._ask_rounds(self._goals.round(), self._round_cut_short(running))
        self._restore_brackets()

    def _reach(self) -> str:
        """Reach the plan's targets; gives why it stopped."""
        with self._stopping_in_order():
            why = self._until_it_stops()
            if why != "complete":
                self._leave()
        return why

    @contextmanager
    def _stopping_in_order(self) -> Iterator[None]:
        """However it ends in here but by a death, no trial is the worse for it."""
        try:
            yield
        except (Halt, StoreError, OSError, ValueError, KeyboardInterrupt, SystemExit):
            self._leave()
            raise

    def _leave(self) -> None:
        """Stop the workers. That their trainings get nowhere then is not to be held against the trials."""
        self.executor.close()
        self._attempts.forgive(self._open)

    def _until_it_stops(self) -> str:
        """Ask, train and commit until the plan's targets are reached, or something else stops it."""
        while True:
            self._go_on()
            if self._wants_more():
                self._ask_rounds(self._goals.round() + 1)
                self._go_on()
            self._commit_ready()
            self._tell_progress()
            if self._must_stop():
                self._leave_at = min(self._leave_at, time.monotonic() + COMMITS)
                if self.plan.deterministic or not self._ready or time.monotonic() > self._leave_at:
                    break  # the rest is on disk, and the next sweep's
            elif self.executor.num_pending == 0 and not self._ready and not self._wants_more():
                break
            for event in self.executor.poll(0.0 if self._ready else 0.5):
                if event.kind != "failed" or not self._must_stop():  # what ends the sweep may end its workers too
                    self._handle(event)
        cut_off = "stopped" if self.asked_to_stop() else "timeout"
        if self._open:
            assert self._must_stop(), f"trials {sorted(self._open)} were asked for and not told"
            return cut_off
        if self._goals.missing() == 0:
            return "complete"
        if self._all_fail_alike():
            alike = self._setbacks
            raise Halt(
                f"{alike.in_a_row} trials failed one after the other, none is complete, and the reason is the same: "
                f"{alike.reason}; mend it, and give the same command, with --new if it was in the study's own file"
            )
        if self._too_many_failures():
            return "failures"
        return cut_off

    def confirm(self, configurations: Mapping[str, Mapping[str, Value]]) -> str:
        """Once the search is complete, train configurations on fresh seeds: arm of the confirm stage -> parameters.
        Gives why it stopped, as `run`."""
        self.sampler.open_arms(configurations)
        # For one that is given up now there is no other; one that was given up in an earlier sweep is tried again.
        wanted = {arm: 1 + self.sampler.count(arm, "failed") for arm in configurations}
        self._goals = replace(self._goals, targets={**self.plan.targets, **wanted})
        return self._reach()

    def num_told(self, arms: Iterable[str]) -> int:
        """How many of these arms have no trial left to be trained."""
        return sum(self._goals.is_told(arm) for arm in arms)

    def _must_stop(self) -> bool:
        return self.asked_to_stop() or time.monotonic() > self.plan.deadline

    def _wants_more(self) -> bool:
        """Whether it is time to ask: trials are missing, time is left, and a worker would soon be idle.

        Where students train faster than trials are committed a worker is idle, for the sampler to learn from what was
        trained: at most a round of it is not told yet.
        """
        if not self._goals.missing() or self._must_stop() or self._too_many_failures() or self._all_fail_alike():
            return False
        if self.plan.deterministic:
            return self.executor.num_pending == 0 and not self._ready
        return self.executor.num_waiting == 0 and len(self._ready) < self._goals.size()

    def _too_many_failures(self) -> bool:
        return self._setbacks.are_too_many(sum(self._goals.targets.values()))

    def _all_fail_alike(self) -> bool:
        """Whether no trial would do any better. While some are being trained nothing is asked for; where one of them is
        complete after all, for example of another option of a knob, the sweep goes on."""
        return self._setbacks.are_alike and self._goals.told("complete", "pruned") == 0

    def _ask_rounds(self, number: int, cut_short: int | None = None) -> None:
        """Ask for what round `number` is short of, as trials of a round of their own or of one that was `cut_short`."""
        asked, own = [], cut_short or self._last_round + 1
        for arm in self._goals.targets:
            for _ in range(self._goals.short_of(arm, number)):
                asked.append(self._reopen(self.sampler.ask(arm, self._bracket_round(arm, own)), new=True))
                for twin in self.sampler.take_twins():
                    self._give_up(self._reopen(twin, new=True), f"asked for twice, and trained as {asked[-1].number}")
        self._hand_out(asked)

    def _bracket_round(self, arm: str, own: int) -> int:
        """The round that is kept with a trial: 0 without pruning. One that is asked for a failed one stands alone."""
        if self._brackets is None or arm.startswith(CONFIRM):
            return 0
        if (asked := self._goals.asked(arm)) >= self._goals.targets[arm]:
            return -asked
        self._last_round = own
        return own

    def _round_cut_short(self, running: Sequence[Asked]) -> int | None:
        """The last round, where a kill cut its asking short: then nothing of it was told or has reached a rung.

        To any other round nobody may be added, for example by a greater budget: who is pruned in it was decided among
        those that it had.
        """
        if self._brackets is None:
            return None
        told = [asked.round for state in ("complete", "pruned", "failed") for asked in self.sampler.trials(state)]
        self._last_round = max([0, *told, *(asked.round for asked in running)])
        latest = [asked.number for asked in running if asked.round == self._last_round]
        begun = self._last_round in told or any(self._brackets.has_begun(number) for number in latest)
        return None if begun or not latest else self._last_round

    def _reopen(self, asked: Asked, *, new: bool = False) -> TrialSpec:
        """The trial that was asked for, with its directory on disk."""
        seen = self._folder(asked.number).exists()  # also of a new one, where its storage has lost its latest writes
        known = self.plan.write_spec(asked)
        self._open[asked.number] = (asked, known)  # with the clock of its first attempt
        if seen or not new:
            self._recovered.add(asked.number)
        return known

    def _hand_out(self, trials: Sequence[TrialSpec]) -> None:
        """Begin trials; in a study that prunes they are taken into their brackets, and begun by `_go_on`."""
        self._submit([trial for trial in trials if not self._in_bracket(trial)])
        for trial in trials:
            if self._brackets is None or not self._in_bracket(trial):
                continue
            self._brackets.enter(self._open[trial.number][0], trial)
            reason = ledger.read_failure(self._folder(trial.number), trial)
            if reason is not None:  # given up, then the driver died
                self._give_up(trial, reason)

    def _in_bracket(self, trial: TrialSpec) -> bool:
        return self._brackets is not None and trial.stage == SEARCH

    def _restore_brackets(self) -> None:
        if self._brackets is not None:
            for state in ("complete", "pruned", "failed"):
                self._brackets.restore(self.sampler.trials(state), state)

    def _go_on(self) -> None:
        """Hand out what is due of the trials at their rungs, all widths and rounds together, and prune the others.

        Asynchronously as soon as nothing waits for a worker; deterministically when nothing is being trained.
        """
        if self._brackets is None:
            return
        if self.executor.num_pending if self.plan.deterministic else self.executor.num_waiting:
            return
        for verdict, trials in self._brackets.due().items():
            if isinstance(verdict, Train):
                self._submit(trials, verdict.until)
                continue
            for trial in trials:
                self._prune(trial, verdict.epoch)

    def _prune(self, trial: TrialSpec, epoch: int) -> None:
        """Publish what a trial was at a rung as its result; trained up to it again where that was damaged just now."""
        assert self._brackets is not None
        known = ledger.read_result(self._folder(trial.number), trial) is not None
        if known or self._brackets.publish(trial, epoch):
            self._ready.append(trial.number)
        else:
            self._submit([trial], epoch)

    def _submit(self, trials: Iterable[TrialSpec], until: int | None = None) -> None:
        """Hand out trials as cohorts; those that killed every sweep so far are given up."""
        trials = list(trials)
        recovered = self._recovered.intersection(trial.number for trial in trials)
        for trial, reason in self._attempts.begin(trials, recovered, until):
            self._give_up(trial, reason)

    def _folder(self, number: int) -> Path:
        return self.plan.folder(number)

    def _handle(self, event: Event) -> None:
        """Take news of a cohort: its published trials are ready; the rest is tried again."""
        if event.job.kind != "cohort" or event.kind == "progress":
            return
        if not self.plan.study_dir.exists():
            raise Halt(f"{self.plan.study_dir} was moved or deleted while the sweep ran; put it back")
        if event.data.get("full"):
            reason = event.data["reason"]
            raise Halt(
                f"a worker cannot write, {reason}; make room, or let it be written to, and give the same command"
            )
        if event.data.get("unbegun"):
            self._attempts.after_none(event.job, event.data["reason"])
            return
        waiting, until = [], event.job.body.get("until")
        for number in numbers_of(event.job):
            if self._brackets is not None and until is not None and number not in self._lost:
                if not self._brackets.arrive(number, until):
                    waiting.append(number)
            elif self._is_trained(self._open[number][1], until):
                self._ready.append(number)
            else:
                waiting.append(number)
        if waiting:
            self._try_again(event, waiting)

    def _is_trained(self, trial: TrialSpec, until: int | None) -> bool:
        """Whether a trial has its result; one that was pruned long ago, at the rung `until`, is given it."""
        if self._brackets is not None and until is not None:
            return self._brackets.publish(trial, until)
        return ledger.read_result(self._folder(trial.number), trial) is not None

    def _try_again(self, event: Event, waiting: Sequence[int]) -> None:
        """Hand out what a failed cohort left, in halves until the guilty trial is alone; that one is given up when it
        has failed a few times."""
        reason = str(event.data.get("reason", "no result was published"))
        if len(event.job.body["folders"]) > 1:
            log.warning("a cohort of %d trials failed (%s); what it left is tried in halves", len(waiting), reason)
            self._attempts.in_halves(event.job, waiting)
            return
        [number] = waiting
        asked, _ = self._open[number]
        was_damaged = ledger.find_spec(self._folder(number)) is None
        self.plan.write_spec(asked)  # a worker refuses a trial whose spec was damaged while it waited
        if (was_damaged or event.kind != "refused") and tries.count_attempt(self._folder(number)) < ATTEMPTS:
            self._attempts.again(event.job, [number])
            return
        self._give_up(self._open[number][1], reason)

    def _give_up(self, trial: TrialSpec, reason: str) -> None:
        """A trial will have no result: it is to be told as failed, for a reason."""
        log.warning("trial %d is given up: %s", trial.number, reason)
        ledger.publish_failure(self._folder(trial.number), trial, reason)
        self._ready.append(trial.number)
        if self._brackets is not None and trial.number in self._brackets:
            self._brackets.fail(trial.number)

    def _commit_ready(self) -> None:
        """Log and tell the first trial that is ready, or a whole round in order of number when deterministic.

        Between two commits the loop polls, so that a worker waits for one of them and not for a cohort's.
        """
        if self.plan.deterministic and self.executor.num_pending:
            return
        self._ready.sort()
        for _ in range(len(self._ready) if self.plan.deterministic else min(1, len(self._ready))):
            if self.plan.deterministic and self.asked_to_stop():
                return
            self._commit(*self._open.pop(self._ready.pop(0)))

    def _commit(self, asked: Asked, trial: TrialSpec) -> None:
        if asked.number in self._lost:
            self._commit_lost(trial)
            return
        if self._brackets is not None and trial.number in self._brackets:
            self._brackets.leave(asked.number)
        folder = self._folder(asked.number)
        maybe_there = asked.number in self._recovered or trial.key in self._logged
        records = ledger.read_result(folder, trial)
        result = records or ledger.read_failure(folder, trial) or "no result was published"
        if records and records[0].status == "pruned":
            asked = replace(asked, pruned_at=ledger.pruned_at(folder, trial))
        stores = Stores(self.tracker, self.sampler)
        commit(stores, asked, trial, result, self.plan.study.objectives, maybe_there=maybe_there)
        if records is None:
            ledger.drop_checkpoints(folder)
            self._setbacks.note(str(result))
            return
        if records[0].status != "pruned":
            self._best = max(self._best, values_of(records, "val_accuracy"))
        if self._brackets is not None:
            ledger.drop_checkpoints(folder)

    def _commit_lost(self, trial: TrialSpec) -> None:
        """A trial that was told long ago has its result again, or cannot have it."""
        self._lost.discard(trial.number)
        records = ledger.read_result(self._folder(trial.number), trial)
        if records is None:
            log.warning("trial %d was told, but its result is lost and could not be had again", trial.number)
            return
        if records[0].status != "pruned":
            self._best = max(self._best, values_of(records, "val_accuracy"))
        self.tracker.log(trial, records, maybe_there=True)
        ledger.drop_checkpoints(self._folder(trial.number))

    def _tell_progress(self) -> None:
        done, total = self._goals.told("complete", "pruned"), sum(self._goals.targets.values())
        failed, pruned = self._goals.told("failed"), self._goals.told("pruned")
        self.watch(Progress(done, max(done, total), failed, self._best, pruned))
