"""Which trials are trained together: every trial once, never dearer than one student at a time, within the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import packing
from harness.costs import Costs, How, Timing, costs_from_json
from harness.packing import COHORT_STUDENTS, Job, Work, pack

WIDTHS = (4, 8, 16)


@st.composite
def any_costs(draw: st.DrawFn) -> Costs:
    """Timings of any shape, such as a busy machine may give; every size, or only the first of a long step."""
    timings = []
    for width in WIDTHS:
        for looped in (False, True):
            sizes = (1, 8, 64)[: draw(st.integers(1, 3))]
            timings += [Timing(width, size, draw(st.floats(1e-6, 10)), looped) for size in sizes]
    bytes_each = {width: 100 * width for width in WIDTHS}
    return Costs(tuple(timings), bytes_each, draw(st.booleans()), draw(st.sampled_from([0, 1, 5_000, 10**6])))


any_trials = st.lists(
    st.tuples(st.integers(1, 16), st.integers(1, 5), st.sampled_from("ab"), st.floats(1, 50)), max_size=40
).map(lambda rows: [Work(number, *row) for number, row in enumerate(rows)])


def seconds(trials: Sequence[Work], job: Job, costs: Costs) -> float:
    """What a step of the whole job costs, trained as it says."""
    members = [trials[number] for number in job.numbers]
    widest, students = max(trial.width for trial in members), sum(trial.students for trial in members)
    way = [t for t in costs.timings if (t.looped, t.threads) == (job.how.looped, job.how.threads)]
    own = replace(costs, timings=tuple(way))
    whole, rest = divmod(students, job.how.students)
    return whole * own.seconds(widest, job.how.students) + (own.seconds(widest, rest) if rest else 0.0)


@given(any_trials, any_costs(), st.integers(1, 5))
def test_every_trial_is_in_one_job_beside_its_own_kind(trials: list[Work], costs: Costs, workers: int) -> None:
    jobs = pack(trials, costs, workers)
    assert sorted(number for job in jobs for number in job.numbers) == [trial.number for trial in trials]
    for job in jobs:
        assert len({trials[number].kind for number in job.numbers}) == 1
        widths = {trials[number].width for number in job.numbers}
        assert costs.pads or len(widths) == 1


@given(any_trials, any_costs(), st.integers(1, 5))
def test_no_job_is_dearer_than_its_students_one_at_a_time(trials: list[Work], costs: Costs, workers: int) -> None:
    for job in pack(trials, costs, workers):
        members = [trials[number] for number in job.numbers]
        widest = max(member.width for member in members)
        alone = sum(member.students for member in members) * costs.seconds(widest, 1)
        assert seconds(trials, job, costs) <= alone * (1 + 1e-9)


@given(any_trials, any_costs())
def test_widths_go_together_only_where_the_whole_is_no_dearer(trials: list[Work], costs: Costs) -> None:
    """As planned; whole trials stand in a job, so the last cohorts of what is cut from a bucket may be others."""
    alike = [Work(trial.number, trial.width, trial.students, "a") for trial in trials]

    def price(bucket: list[Work]) -> float:
        return costs.plan(max(trial.width for trial in bucket), sum(trial.students for trial in bucket))[0]

    buckets = packing._buckets(alike, costs)
    assert sorted(trial.number for bucket in buckets for trial in bucket) == [trial.number for trial in alike]
    apart = [[trial for trial in alike if trial.width == width] for width in {trial.width for trial in alike}]
    for other in (apart, [alike]) if alike and costs.pads else (apart,):
        assert sum(map(price, buckets)) <= sum(map(price, other)) * (1 + 1e-9)


@given(any_trials, any_costs())
def test_cohorts_fit_into_the_memory(trials: list[Work], costs: Costs) -> None:
    for job in pack(trials, costs, 2):
        widest = max(trials[number].width for number in job.numbers)
        assert 1 <= job.how.students <= costs.most(widest)


def linear(fixed: float, each: float, *, pads: bool = True, memory: int = 0) -> Costs:
    """A step costs `fixed`, and `each` for every unit of width of a student."""
    timings = tuple(Timing(w, size, fixed + each * w * size) for w in WIDTHS for size in (1, 8, 64))
    return Costs(timings, dict.fromkeys(WIDTHS, 100), pads, memory)


def test_where_a_step_is_all_overhead_one_cohort_takes_all_widths() -> None:
    trials = [Work(number, width, 3, "") for number, width in enumerate((2, 4, 6, 8, 12, 16))]
    (job,) = pack(trials, linear(fixed=1.0, each=1e-9), workers=1)
    assert job == Job((5, 4, 3, 2, 1, 0), How(18))


def test_where_a_step_is_all_products_widths_stand_apart() -> None:
    trials = [Work(number, width, 3, "") for number, width in enumerate((2, 4, 6, 8, 12, 16))]
    jobs = pack(trials, linear(fixed=1e-9, each=1.0), workers=1)
    assert [set(job.numbers) for job in jobs] == [{4, 5}, {2, 3}, {0, 1}]


def test_workers_are_given_even_jobs() -> None:
    trials = [Work(number, 16, 1, "") for number in range(64)]
    jobs = pack(trials, linear(fixed=0.01, each=0.1), workers=4)
    assert [len(job.numbers) for job in jobs] == [16] * 4
    assert len(pack(trials, linear(fixed=1e6, each=0.1), workers=4)) == 1  # not where it would cost more


def test_what_takes_longest_comes_first() -> None:
    trials = [Work(0, 4, 2, "short", steps=1), Work(1, 4, 2, "long", steps=9)]
    assert [job.numbers for job in pack(trials, linear(fixed=1.0, each=0.1), workers=2)] == [(1,), (0,)]


def test_a_family_that_is_slower_together_is_trained_one_at_a_time() -> None:
    timings = tuple(Timing(4, size, 1.0 * size**1.5) for size in (1, 8, 64))
    jobs = pack([Work(n, 4, 3, "") for n in range(4)], Costs(timings, {4: 100}, pads=False), workers=2)
    assert all(job.how.students == 1 for job in jobs)


def test_the_way_that_is_fastest_for_many_is_taken() -> None:
    timings = [Timing(4, size, 1.0 * size) for size in (1, 8, 64)]
    timings += [Timing(4, size, 0.5 * size + 1, looped=True, threads=2) for size in (1, 8, 64)]
    (job,) = pack([Work(n, 4, 3, "") for n in range(9)], Costs(tuple(timings), {4: 100}, pads=False), workers=1)
    assert job.how == How(27, looped=True, threads=2)


def test_the_way_is_that_for_as_many_as_there_are() -> None:
    """One by one a student costs 2, whatever their number; together a step costs 10 and little more for each."""
    timings = [Timing(4, size, 2.0 * size, looped=True) for size in (1, 8, 64)]
    timings += [Timing(4, size, 10 + 0.1 * size) for size in (1, 8, 64)]
    costs = Costs(tuple(timings), {4: 100}, pads=False)
    assert [costs.plan(4, count)[1] for count in (3, 30)] == [How(1, looped=True), How(30)]
    assert [costs.plan(4, count)[0] for count in (3, 30)] == pytest.approx([6.0, 13.0])
    assert [costs.seconds(4, few) for few in (1, 5, 6, 64)] == pytest.approx([2.0, 10.0, 10.6, 16.4])


def test_without_costs_widths_of_a_power_of_two_stand_together_in_cohorts_of_a_fixed_size() -> None:
    trials = [Work(number, width, 3, "") for number, width in enumerate([2, 4, 5, 8, 9] * 10)]
    jobs = pack(trials, None, workers=2)
    widths = [[trials[number].width for number in job.numbers] for job in jobs]
    assert [set(own) for own in widths] == [{9}, {8, 5}, {5}, {4, 2}, {2}]
    assert all(3 * len(own) <= COHORT_STUDENTS for own in widths)
    assert all(job.how == How() for job in jobs)


@given(any_costs(), st.integers(1, 400), st.integers(1, 400))
def test_more_students_never_cost_less_whatever_was_measured(costs: Costs, one: int, other: int) -> None:
    for width in costs.bytes_each:
        few, many = sorted((one, other))
        assert 0 < costs.seconds(width, few) <= costs.seconds(width, many)


@pytest.mark.parametrize("seconds", [None, 0.0, -1.0, math.inf])
def test_timings_that_cannot_be_are_refused(seconds: float | None) -> None:
    data = linear(1, 1).to_json()
    data["timings"][0]["seconds"] = seconds
    with pytest.raises((ValueError, TypeError)):
        costs_from_json(data)


@given(any_costs())
def test_costs_survive_json(costs: Costs) -> None:
    assert costs_from_json(costs.to_json()) == costs


@pytest.mark.parametrize("change", [{"timings": []}, {"bytes_each": {"4": 1}}, {"bytes_each": {}}])
def test_costs_that_do_not_fit_together_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not what a step costs: (there are no timings|timings and widths)"):
        costs_from_json({**linear(1, 1).to_json(), **change})
