"""Ask and tell: the only file that imports optuna.

A trial belongs to an arm: `search`, the study's question, or `control-<width>`, plain training at one width. A study
that shares its trials equally among the options of a choice has an arm for each, `search-<option>`. Each arm
has a study of its own in memory, from which its sampler proposes, so that a control never sways the search: samplers
that need every trial to have the same parameters would fall back to random with controls among them. The one study on
disk holds every trial, in the order of asking, and is the record that a restart is built from. A trial enters it whole,
with all its parameters, in one transaction.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from harness.space import Dimension, Float, Study, Value, active, direction
from harness.urls import redact, sqlite_file

optuna.logging.set_verbosity(optuna.logging.ERROR)
SEARCH, CONTROL = "search", "control-"
MOST_COLUMNS = 8
STATES = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL, "running": TrialState.RUNNING}


@dataclass(frozen=True)
class Asked:
    """A trial that was asked for: its number in the study on disk, its arm, its parameters."""

    number: int
    arm: str
    params: Mapping[str, Value]

    @property
    def is_control(self) -> bool:
        return self.arm.startswith(CONTROL)


def search_arms(study: Study) -> dict[str, Value | None]:
    """The arms of the study's question: `search`, or one for each option of the choice that shares trials equally."""
    if not study.equal:
        return {SEARCH: None}
    return {f"{SEARCH}-{option}": option for option in study.options(study.equal)}


def control(width: int) -> str:
    """The name of the control arm at a width."""
    return f"{CONTROL}{width}"


class Sampler:
    """A study's trials on disk and its arms in memory. Use from one process only, which the driver's lock ensures."""

    def __init__(self, storage_url: str, name: str, study: Study, config_hash: str, *, shared: bool = True) -> None:
        """Open or create the study. `shared` says that the storage may hold other studies too.

        Raises `ValueError` in one line when the storage cannot be reached, is no Optuna database, or holds a study of
        this name that is not this one.
        """
        self._study, self._num_asked = study, 0
        searched = {name: dimension for name, dimension in study.space.items() if name != study.equal}
        self._spaces: dict[str, Mapping[str, Dimension]] = dict.fromkeys(search_arms(study), searched)
        self._spaces |= {control(width): study.plain_space() for width in study.widths}
        # What makes an arm the arm it is is not sampled in it, but is a parameter on disk like that of any other trial.
        sampled = study.widths if "width" in study.space else ()
        self._given: dict[str, dict[str, Value]] = {control(width): {"width": width} for width in sampled}
        self._given |= {arm: {study.equal: option} for arm, option in search_arms(study).items() if option is not None}
        self._disk = _open(storage_url, name, study, config_hash, shared)
        self.study_id = str(self._disk.user_attrs["harness.id"])
        directions = [direction(objective) for objective in study.objectives]
        self._arms = {arm: optuna.create_study(directions=directions) for arm in self._spaces}
        self._in_arm: dict[int, int] = {}  # number on disk -> number in its arm
        for trial in self._disk.get_trials(deepcopy=False):
            self._enter(trial)

    def ask(self, arm: str) -> Asked:
        """A new trial of an arm, kept on disk. The same study, seed and told trials propose the same parameters."""
        memory = self._arms[arm]
        memory.sampler = self._make_sampler(arm, len(memory.get_trials(deepcopy=False)))
        trial = memory.ask()
        given = self._given.get(arm, {})
        params = {**given, **_suggest(trial, self._spaces[arm], {**self._study.fixed, **given})}
        frozen = memory.get_trials(deepcopy=False)[-1]
        self._disk.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions={name: _distribution(self._study.space[name]) for name in params},
                user_attrs={"arm": arm},
                system_attrs=frozen.system_attrs,  # where NSGA-II keeps its generations
            )
        )
        number = self._disk.get_trials(deepcopy=False)[-1].number
        if number != self._num_asked:
            raise ValueError("another sweep writes to this study's storage; stop one of the two")
        self._in_arm[number] = frozen.number
        self._num_asked += 1
        return Asked(number, arm, params)

    def tell(self, asked: Asked, values: Sequence[float]) -> None:
        """The trial's values, in the order of the study's objectives. On disk this is the trial's commit point."""
        self._disk.tell(asked.number, list(values))
        self._arms[asked.arm].tell(self._in_arm[asked.number], list(values))

    def fail(self, asked: Asked) -> None:
        """The trial was given up."""
        self._disk.tell(asked.number, state=TrialState.FAIL)
        self._arms[asked.arm].tell(self._in_arm[asked.number], state=TrialState.FAIL)

    def trials(self, state: str) -> list[Asked]:
        """The trials that are `"complete"`, `"failed"` or `"running"`, in order of number."""
        found = self._disk.get_trials(deepcopy=False, states=(STATES[state],))
        return [Asked(trial.number, trial.user_attrs["arm"], dict(trial.params)) for trial in found]

    @property
    def has_trials(self) -> bool:
        """Whether any trial was ever asked for."""
        return self._num_asked > 0

    def count(self, arm: str, *states: str) -> int:
        """How many trials of an arm are in one of the states."""
        return len(self._arms[arm].get_trials(deepcopy=False, states=[STATES[state] for state in states]))

    def _enter(self, trial: FrozenTrial) -> None:
        """Take a trial from disk into its arm, where it has the parameters that the arm samples."""
        arm = trial.user_attrs["arm"]
        sampled = [name for name in trial.params if name not in self._given.get(arm, {})]
        self._in_arm[trial.number] = len(self._arms[arm].get_trials(deepcopy=False))
        self._arms[arm].add_trial(
            create_trial(
                state=trial.state,
                values=trial.values,
                params={name: trial.params[name] for name in sampled},
                distributions={name: trial.distributions[name] for name in sampled},
                system_attrs=trial.system_attrs,
            )
        )
        self._num_asked = trial.number + 1

    def _make_sampler(self, arm: str, number: int) -> optuna.samplers.BaseSampler:
        """A sampler seeded for one trial, so that a restart does not repeat the proposals of the start."""
        place = list(self._spaces).index(arm)
        seed = int(np.random.SeedSequence([self._study.seed, place, number]).generate_state(1)[0])
        if self._study.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self._study.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        if self._study.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)


def importances(
    space: Mapping[str, Dimension], rows: Sequence[tuple[Mapping[str, Value], float]], seed: int = 0
) -> dict[str, dict[str, float]]:
    """What share of the value's variation each dimension explains: evaluator -> dimension -> importance.

    `rows` are parameters and value (higher is better) of each trial. fANOVA (Hutter 2014) and PED-ANOVA
    (arXiv:2304.10255) can rank oppositely, so both are given. A conditional dimension is judged among the trials that
    have it, beside the dimensions that all have. A choice of more than eight options is taken as a number, its
    options in their order. Raises `ValueError` for fewer than eight trials.
    """
    if len(rows) < 8:
        raise ValueError(f"importance needs at least 8 trials, not {len(rows)}")
    varied = [n for n, d in space.items() if len({params[n] for params, _ in rows if n in params}) > 1]
    common = [name for name in varied if all(name in params for params, _ in rows)]
    evaluators = {"fANOVA": FanovaImportanceEvaluator(seed=seed), "PED-ANOVA": PedAnovaImportanceEvaluator()}
    found: dict[str, dict[str, float]] = {}
    for title, evaluator in evaluators.items():
        found[title] = _evaluate(evaluator, space, rows, common)
        for name in varied:
            having = [row for row in rows if name in row[0]]
            if name not in common and len(having) >= 8:
                found[title][name] = _evaluate(evaluator, space, having, [*common, name])[name]
    return found


def _evaluate(
    evaluator: Any, space: Mapping[str, Dimension], rows: Sequence[tuple[Mapping[str, Value], float]], names: list[str]
) -> dict[str, float]:
    study = optuna.create_study(direction="maximize")
    long = [name for name in names if len(_options(space[name])) > MOST_COLUMNS]
    distributions = {name: _distribution(space[name]) for name in names}
    # fANOVA gives every option a column and visits 2^options cells; a long choice stands as its options' numbers.
    distributions |= {name: IntDistribution(0, len(_options(space[name])) - 1) for name in long}
    for params, value in rows:
        kept = {name: params[name] for name in names}
        kept |= {name: _options(space[name]).index(params[name]) for name in long}
        study.add_trial(create_trial(value=value, params=kept, distributions=distributions))
    return {name: float(share) for name, share in evaluator.evaluate(study, params=names).items()}


def _options(dimension: Dimension) -> tuple[Value, ...]:
    return () if isinstance(dimension, Float) else dimension.options


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


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Float):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return CategoricalDistribution(dimension.options)


def _open(url: str, name: str, study: Study, config_hash: str, shared: bool) -> optuna.Study:
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
        if (file := sqlite_file(url)) is not None:
            with closing(sqlite3.connect(file)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        names = optuna.get_all_study_names(storage)
        if names and name not in names and not shared:
            raise ValueError(f"{redact(url)} is the database of study {names[0]!r}, not {name!r}; choose another --out")
        directions = [direction(objective) for objective in study.objectives]
        disk = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        if "harness.config" not in disk.user_attrs and not disk.get_trials(deepcopy=False):
            disk.set_user_attr("harness.objectives", list(study.objectives))
            disk.set_user_attr("harness.id", f"{config_hash}-{secrets.token_hex(6)}")
            disk.set_user_attr("harness.config", config_hash)  # last: without it the study was never begun
    except (SQLAlchemyError, ImportError, OSError, sqlite3.Error) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot open the storage {redact(url)}: {redact(reason)}") from None
    if disk.user_attrs.get("harness.config") != config_hash:
        raise ValueError(
            f"{redact(url)} holds another study called {name!r} (another file, space, seed or objective); "
            f"choose another --out, or restore that study's file"
        )
    return disk
