"""Who goes on at a rung: the decision alone, without training."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.rungs import Halving, Member, Prune, Train, Wait, best, verdicts

HALVING = Halving(rungs=(2, 6), reduction_factor=2)
scores = st.one_of(st.floats(0, 1), st.sampled_from([-math.inf, 0.5]))


def test_a_bracket_by_hand() -> None:
    """Five trials: three go on at epoch 2, two of them at epoch 6, and these are trained to their end."""
    first = {1: Member((0.5,)), 2: Member((0.9,)), 3: Member((0.7,)), 4: Member((0.7,)), 5: Member((-math.inf,))}
    assert verdicts(first, HALVING) == {1: Prune(2), 2: Train(6), 3: Train(6), 4: Train(6), 5: Prune(2)}
    second = first | {2: Member((0.9, 0.8)), 3: Member((0.7, 0.8)), 4: Member((0.7, 0.9))}
    assert verdicts(second, HALVING) == {1: Prune(2), 2: Train(None), 3: Prune(6), 4: Train(None), 5: Prune(2)}


def test_nothing_is_decided_before_all_have_arrived() -> None:
    members = {1: Member((0.1,)), 2: Member(), 3: Member((0.9,))}
    assert verdicts(members, HALVING) == {1: Wait(), 2: Train(2), 3: Wait()}


def test_a_failed_trial_is_not_waited_for_and_what_it_reached_counts() -> None:
    early = {1: Member((0.1,)), 2: Member(over=True), 3: Member((0.9,))}
    assert verdicts(early, HALVING) == {1: Prune(2), 3: Train(6)}
    late = {1: Member((0.1,)), 2: Member((0.5,)), 3: Member((0.7,)), 4: Member((0.9,), over=True)}
    assert verdicts(late, HALVING) == {1: Prune(2), 2: Prune(2), 3: Train(6)}


def test_one_trial_alone_is_never_pruned() -> None:
    assert verdicts({7: Member((-math.inf, -math.inf))}, HALVING) == {7: Train(None)}


@given(st.dictionaries(st.integers(0, 99), scores, max_size=20), st.floats(1.01, 9))
def test_the_best_share_is_kept_and_at_least_one(found: dict[int, float], factor: float) -> None:
    kept = best(found, factor)
    assert len(kept) == math.ceil(len(found) / factor)
    for one in kept:
        for other in set(found) - kept:
            assert (found[one], -one) > (found[other], -other)


@given(st.dictionaries(st.integers(0, 99), scores, min_size=1, max_size=12), st.integers(0, 2**32), st.floats(1.1, 5))
def test_the_order_of_arrival_does_not_matter(found: dict[int, float], seed: int, factor: float) -> None:
    """Whoever comes first, and whatever is asked in between, the bracket ends the same; no verdict is taken back."""
    halving = Halving((1, 2, 3), factor)

    def run(order: random.Random) -> dict[int, object]:
        members = {number: Member() for number in found}
        final: dict[int, object] = {}
        while True:
            said = verdicts(members, halving)
            for number, verdict in final.items():
                assert said[number] == verdict
            final |= {number: v for number, v in said.items() if v == Train(None) or isinstance(v, Prune)}
            due = [number for number, v in said.items() if isinstance(v, Train) and v.until is not None]
            if not due:
                assert set(final) == set(found)
                return final
            number = order.choice(sorted(due))
            rung = len(members[number].scores)
            shift = (number * 37 + rung * 11) % 7 / 10  # the ranking changes from rung to rung
            members[number] = Member((*members[number].scores, found[number] + shift))

    assert run(random.Random(seed)) == run(random.Random(seed + 1))


@given(st.lists(scores, min_size=1, max_size=9), st.sets(st.integers(0, 8)))
def test_every_trial_that_has_not_failed_has_a_verdict(found: list[float], failed: set[int]) -> None:
    members = {number: Member((score,), number in failed) for number, score in enumerate(found)}
    assert set(verdicts(members, HALVING)) == set(members) - failed


@pytest.mark.parametrize("rungs", [(), (4, 4), (6, 2), (0,), (-1, 3), (1.5,), (True,), [2, 4], 4, "4"])
def test_rungs_that_cannot_be_are_refused(rungs: object) -> None:
    with pytest.raises(ValueError, match="must be a tuple of increasing whole numbers"):
        Halving(rungs)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1, 0, -2, math.inf, math.nan, True, "2"])
def test_a_factor_that_prunes_nothing_is_refused(factor: object) -> None:
    with pytest.raises(ValueError, match="must be a number above 1"):
        Halving((4,), factor)  # type: ignore[arg-type]
