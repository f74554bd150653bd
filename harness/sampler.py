"""Ask and tell.

A trial belongs to an arm (see `harness.arms`): the study's question, a kind of control at one width, or a configuration
that is confirmed. Each arm has a study of its own in memory, from which its sampler proposes, so that a control never
sways the search: samplers that need every trial to have the same parameters would fall back to random with controls
among them. The one study on disk holds every trial, in the order of asking, and is the record that a restart is built
from. A trial enters it whole, with all its parameters, in one transaction.

TPE's cost a proposal grows with the trials it is shown: 14 ms at 100, 410 ms at 5,000 of the default study. So it is
shown some of them: `HISTORY` of those that were told up to the last full `STEP`, the best and the latest, and all told
since. Which these are depends on nothing but what was told and in which order, so a restart proposes the same. A new
trial keeps what was told since the one before (`since`), so that the order is known whatever the clock says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.arms import CONFIRM, Arm, context_of, control_arms, given_in, read_arm, search_arms, set_in, space_of
from harness.connection import Connection
from harness.kept import STATES, Asked, arm_of, asked_of
from harness.outages import Patience
from harness.space import Dimension, Float, Study, Value, active, direction
from harness.storage import ANEW
from harness.urls import redact

optuna.logging.set_verbosity(optuna.logging.ERROR)
HISTORY, BEST, STEP = 240, 60, 60
"""How many finished trials of an arm TPE is shown, how many of these are the best, and after how many they are chosen
anew."""


@dataclass
class _Arm:
    """An arm's trials, and the study in memory that its sampler proposes from."""

    space: Mapping[str, Dimension]
    given: Mapping[str, Value]  # what makes it the arm it is: not sampled in it, but a parameter on disk
    study: optuna.Study
    places: dict[int, int] = field(default_factory=dict)  # number on disk -> number in `study`, where it is shown
    trials: dict[int, FrozenTrial] = field(default_factory=dict)  # all, by number on disk, in that order
    counts: Counter[TrialState] = field(default_factory=Counter)
    told: list[int] = field(default_factory=list)  # numbers of the complete and pruned ones, in the order of telling
    chosen: int = 0  # how many were told when `study` was last made anew
    noted: int = 0  # how many of the told ones a later trial keeps in its `since`

    def put(self, number: int, trial: FrozenTrial) -> None:
        """Take in a trial, or what it has become."""
        if number in self.trials:
            self.counts[self.trials[number].state] -= 1
        self.counts[trial.state] += 1
        self.trials[number] = trial
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self.told.append(number)

    def show(self, number: int) -> None:
        """Let the sampler see a trial that was taken in."""
        self.places[number] = len(self.places)
        self.study.add_trial(self.trials[number])


class Sampler:
    """A study's trials on disk and its arms in memory. Use from one process only, which the driver's lock ensures."""

    def __init__(
        self,
        storage_url: str,
        name: str,
        study: Study,
        config_hash: str,
        *,
        shared: bool = True,
        patience: Patience | None = None,
    ) -> None:
        """Open or create the study. `shared` says that the storage may hold other studies too; `patience` says how long
        it is waited for later, when it was lost.

        Raises `ValueError` in one line when the storage cannot be reached, is no Optuna database, or holds a study of
        this name that is not this one.
        """
        patience = patience or Patience(f"the storage {redact(storage_url)}")
        self._disk = Connection(storage_url, name, study, config_hash, shared=shared, patience=patience)
        self.study_id = self._disk.study_id
        self._study, self._num_asked = study, 0
        self._twins: list[FrozenTrial] = []
        self._arms = {
            arm: _Arm(space_of(study, arm), given_in(study, arm), self._make_study())
            for arm in (*search_arms(study), *control_arms(study))
        }
        trials = self._disk.every_trial()
        for trial in trials:
            self._enter(trial)
        for own in self._arms.values():
            _restore_order(own, trials)

    def open_arms(self, confirmed: Mapping[str, Mapping[str, Value]]) -> None:
        """Let trials of these arms of the confirm stage be asked for; each has one configuration."""
        for arm, params in confirmed.items():
            self._arms.setdefault(arm, _Arm({}, dict(params), self._make_study()))

    def ask(self, arm: str, round: int = 0) -> Asked:
        """A new trial of an arm, kept on disk, with its round where that is not 0.

        The same study, seed and told trials propose the same parameters.
        """
        own = self._arms[arm]
        if self._study.sampler == "tpe" and len(own.told) // STEP * STEP > max(HISTORY, own.chosen):
            self._choose(own)
        own.study.sampler = self._make_sampler(arm, len(own.trials))
        if preset := set_in(self._study, arm, len(own.trials)):
            own.study.enqueue_trial(preset)
        trial = own.study.ask()
        sampled = _suggest(trial, own.space, {**self._study.fixed, **own.given, **context_of(arm)})
        params = {**own.given, **sampled}
        template = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: distribution_of(self._dimension(arm, name)) for name in params},
            user_attrs={"arm": arm, "since": own.told[own.noted :]} | ({"round": round} if round else {}),
            system_attrs=own.study.get_trials(deepcopy=False)[-1].system_attrs,  # where NSGA-II keeps its generations
        )
        number = self._num_asked
        self._twins += self._disk.put(number, template)
        own.noted = len(own.told)
        own.put(number, _in_arm(template, own, TrialState.RUNNING))
        own.places[number] = trial.number
        self._num_asked += 1
        return Asked(number, arm, params, round)

    def take_twins(self) -> list[Asked]:
        """The trials that the last `ask` put on disk a second time, its connection lost in between: to be failed."""
        twins, self._twins = self._twins, []
        for trial in twins:
            self._enter(trial)
        return [asked_of(trial) for trial in twins]

    def tell(self, asked: Asked, values: Sequence[float]) -> None:
        """The trial's values, in the order of the study's objectives. On disk this is the trial's commit point."""
        self._finish(asked, TrialState.COMPLETE, list(values))

    def prune(self, asked: Asked) -> None:
        """The trial was stopped at a rung, after `asked.pruned_at` epochs, which is kept with it. It is told without
        values: those at a rung are not those at the end. TPE counts it among the bad ones while a tenth of all is
        complete; GP and NSGA-II leave it out."""
        self._finish(asked, TrialState.PRUNED, None)

    def fail(self, asked: Asked) -> None:
        """The trial was given up."""
        self._finish(asked, TrialState.FAIL, None)

    def trials(self, state: str) -> list[Asked]:
        """The trials that are `"complete"`, `"pruned"`, `"failed"` or `"running"`, in order of number."""
        return [asked_of(trial) for trial in self._disk.trials(STATES[state])]

    @property
    def has_trials(self) -> bool:
        """Whether any trial was ever asked for."""
        return self._num_asked > 0

    def count(self, arm: str, *states: str) -> int:
        """How many trials of an arm are in one of the states."""
        return sum(self._arms[arm].counts[STATES[state]] for state in states)

    def _finish(self, asked: Asked, state: TrialState, values: list[float] | None) -> None:
        own, number = self._arms[asked.arm], asked.number
        self._disk.end(asked, state, values)
        own.put(number, _in_arm(own.trials[number], own, state, values))
        own.study.tell(own.places[number], values, state)

    def _enter(self, trial: FrozenTrial) -> None:
        """Take a trial from disk into its arm."""
        arm = arm_of(trial)
        if arm.startswith(CONFIRM) and self._asked(read_arm(arm)) == trial.params:
            self.open_arms({arm: trial.params})
        own = self._arms.get(arm)
        if own is None:
            raise ValueError(f"trial {trial.number} of the storage was not asked for by this harness; {ANEW}")
        try:
            rungs = self._study.pruning.rungs if self._study.pruning else ()
            _check_rows(trial, {**self._study.fixed, **own.given, **context_of(arm)}, own, rungs)
            own.put(trial.number, _in_arm(trial, own, trial.state, trial.values))
            own.show(trial.number)
        except ValueError as error:
            raise ValueError(f"Optuna refuses trial {trial.number} of the storage ({error}); {ANEW}") from None
        self._num_asked = trial.number + 1

    def _asked(self, confirming: Arm) -> dict[str, Value] | None:
        """The parameters of the trial whose configuration an arm of the confirm stage has; None where it is of no such
        kind, or there is none."""
        for arm, own in self._arms.items():
            if confirming.source in own.trials and read_arm(arm) == Arm(confirming.kind):
                return {**own.given, **own.trials[confirming.source].params}
        return None

    def _choose(self, own: _Arm) -> None:
        """Make the study that is sampled from anew, of the trials that are still to be seen."""
        own.chosen = len(own.told) // STEP * STEP
        earlier, since = sorted(own.told[: own.chosen]), own.told[own.chosen :]
        signs = [-1 if direction(objective) == "maximize" else 1 for objective in self._study.objectives]
        values = [own.trials[number].values for number in earlier]
        worst = [np.inf] * len(signs)
        losses = np.array([worst if row is None else np.multiply(row, signs) for row in values])
        kept = {earlier[index] for index in best(losses, BEST)}
        latest = [number for number in earlier if number not in kept][-(HISTORY - BEST) :]
        running = [number for number, trial in own.trials.items() if trial.state == TrialState.RUNNING]
        own.study, own.places = self._make_study(), {}
        for number in sorted({*kept, *latest, *since, *running}):
            own.show(number)

    def _make_study(self) -> optuna.Study:
        return optuna.create_study(directions=[direction(objective) for objective in self._study.objectives])

    def _dimension(self, arm: str, name: str) -> Dimension:
        """The dimension of a parameter: one that is given is sampled in another arm."""
        own = self._study.space.get(name) or self._arms[arm].space.get(name)
        return own or space_of(self._study, read_arm(arm).kind)[name]

    def _make_sampler(self, arm: str, number: int) -> optuna.samplers.BaseSampler:
        """A sampler seeded for one trial, so that a restart does not repeat the proposals of the start."""
        place = list(self._arms).index(arm)
        seed = int(np.random.SeedSequence([self._study.seed, place, number]).generate_state(1)[0])
        if self._study.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self._study.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        if self._study.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)


def _check_rows(trial: FrozenTrial, fixed: Mapping[str, Value], own: _Arm, rungs: Sequence[int]) -> None:
    """Raise `ValueError` where a trial on disk is not as its arm asks for one: its rows were changed by hand."""
    known = {**fixed, **trial.params}
    wanted = {*own.given, *(name for name, dimension in own.space.items() if active(dimension, known))}
    if set(trial.params) != wanted:
        raise ValueError(f"it has {', '.join(sorted(trial.params))}, and its arm {', '.join(sorted(wanted))}")
    if odd := [name for name, value in own.given.items() if trial.params[name] != value]:
        raise ValueError(f"its {odd[0]} is {trial.params[odd[0]]!r}, and its arm's {own.given[odd[0]]!r}")
    since, round = trial.user_attrs.get("since", []), trial.user_attrs.get("round", 0)
    if not isinstance(since, list) or not all(type(number) is int for number in (*since, round)):
        raise ValueError(f"it was asked for in round {round!r}, since {since!r}")
    if "pruned_at" in trial.user_attrs and (at := trial.user_attrs["pruned_at"]) not in rungs:
        raise ValueError(f"it was pruned at {at!r}, and rungs are {', '.join(map(str, rungs)) or 'none'}")


def _restore_order(own: _Arm, trials: Sequence[FrozenTrial]) -> None:
    """Sort an arm's told trials as they were told; those that no later trial knows of, as the clock says."""
    ends = {trial.number: trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete}
    known = [number for trial in trials if trial.number in own.trials for number in trial.user_attrs.get("since", ())]
    place = {number: at for at, number in enumerate(known)}
    own.told.sort(key=lambda number: (place.get(number, len(known)), ends.get(number, np.inf), number))
    own.noted = len(known)


def best(losses: np.ndarray, count: int) -> list[int]:
    """The rows of `losses`, [trials, objectives], that are best: by front (rank of domination), the latest first.

    A row is on the first front when no other is at least as good everywhere and better somewhere; on the second when
    only rows of the first are; and so on. Fewer than `count` only where there are fewer.
    """
    found: list[int] = []
    left = np.arange(len(losses))
    while left.size and len(found) < count:
        front = _front(losses[left])
        found += left[front][::-1].tolist()
        left = left[~front]
    return found[:count]


def _front(losses: np.ndarray) -> np.ndarray:
    """Which rows no other dominates, [trials]."""
    front = np.zeros(len(losses), dtype=bool)
    left = np.lexsort(losses.T[::-1])  # no row is dominated by one after it
    while left.size:
        first = losses[left[0]]
        same = (losses[left] == first).all(axis=1)
        front[left[same]] = True
        left = left[~same & (losses[left] < first).any(axis=1)]
    return front


def _in_arm(trial: FrozenTrial, own: _Arm, state: TrialState, values: Sequence[float] | None = None) -> FrozenTrial:
    """The trial in a state, with the parameters that its arm samples."""
    sampled = [name for name in trial.params if name not in own.given]
    return create_trial(
        state=state,
        values=values,
        params={name: trial.params[name] for name in sampled},
        distributions={name: trial.distributions[name] for name in sampled},
        system_attrs=trial.system_attrs,
    )


def _suggest(trial: optuna.Trial, space: Mapping[str, Dimension], fixed: Mapping[str, Value]) -> dict[str, Value]:
    params: dict[str, Value] = {}
    for name, dimension in space.items():
        if not active(dimension, {**fixed, **params}):
            continue
        if isinstance(dimension, Float):
            params[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
        else:
            params[name] = cast(Value, trial.suggest_categorical(name, list(dimension.options)))
    return params


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """The dimension as Optuna has it."""
    if isinstance(dimension, Float):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return CategoricalDistribution(dimension.options)
