"""The ledger: files are whole or not there, results are a trial's own, and a lock dies with its holder."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import files, ledger, tries
from harness.ledger import TrialSpec
from harness.records import VAL_METRICS, Curve, Record
from harness.spec import StudentSpec


def trial(number: int = 3, **changed: Any) -> TrialSpec:
    specs = tuple(StudentSpec("digits", "mlp", 4, seed, "kl", temperature=4.0) for seed in (1, 2))
    made = TrialSpec("study", number, "search", {"width": 4, "form": "kl"}, specs, "c" * 16, 1_700_000_000_000)
    return dataclasses.replace(made, **changed)


def records(of: TrialSpec) -> tuple[Record, ...]:
    metrics = dict.fromkeys(VAL_METRICS, 0.5)
    return tuple(Record(spec, "ok", Curve((1.5,)), metrics, 10, 20) for spec in of.specs)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def aside(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"{name}.aside-*")
    return found


plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=plain_json)
def test_json_is_read_as_it_was_written(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip" / "data.json"
    files.write_json(path, data)
    assert files.read_json(path) == data


def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    files.write_json(path, {"a": math.nan, "b": (math.inf, [-math.inf, 1.5]), "c": {"d": math.nan}})
    assert path.read_text() == '{"a":null,"b":[null,[null,1.5]],"c":{"d":null}}'


def test_a_file_that_is_not_there_is_none_and_one_that_is_not_json_is_refused(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "data.json") is None
    for content in (b'{"a": 1', b"", b"\xff\xfe"):
        (tmp_path / "data.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.json is not JSON") as caught:
            files.read_json(tmp_path / "data.json")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["fsync", "dump", "replace"])
def test_a_crash_while_writing_leaves_the_old_file_whole(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.json"
    files.write_json(path, {"old": 1})

    def crash(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    def half(_: Any, file: Any, **__: Any) -> None:
        file.write('{"new":')
        crash()

    owner, name, harm = {
        "fsync": (os, "fsync", crash), "dump": (json, "dump", half), "replace": (Path, "replace", crash),
    }[where]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, harm)
        with pytest.raises(OSError, match="no space left"):
            files.write_json(path, {"new": 2})
    assert path.read_text() == '{"old":1}'
    files.write_json(path, {"new": 2})
    assert names(tmp_path) == {"data.json"}
    assert path.read_text() == '{"new":2}'


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    program = (
        "import sys; from pathlib import Path; from harness import files\n"
        "for number in range(10**9): files.write_json(Path(sys.argv[1]), [number] * 20000)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)]) as writer:
        while not path.exists():
            assert writer.poll() is None
        for _ in range(50):
            data = files.read_json(path)
            assert data == data[:1] * 20000
        writer.kill()
    data = files.read_json(path)
    assert data == data[:1] * 20000


def test_a_trial_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    assert folder == tmp_path / "trials" / "3"
    assert ledger.read_spec(folder) == trial()
    assert ledger.read_spec(tmp_path / "trials" / "4") is None


def test_writing_a_trial_again_keeps_its_directory_and_its_first_moment(tmp_path: Path) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    ledger.publish(folder, trial(), records(trial()))
    again = trial(started_ms=trial().started_ms + 1)
    assert ledger.write_spec(tmp_path, again) == folder
    assert ledger.read_spec(folder) == trial()
    assert ledger.read_result(folder, again) == records(trial())


def other_students() -> TrialSpec:
    return trial(specs=tuple(dataclasses.replace(spec, alpha=0.7) for spec in trial().specs))


@pytest.mark.parametrize("other", [other_students(), trial(study="another")], ids=["students", "study"])
def test_the_directory_of_another_trial_is_put_aside(other: TrialSpec, tmp_path: Path) -> None:
    folder = ledger.write_spec(tmp_path, other)
    ledger.publish(folder, other, records(other))
    assert ledger.write_spec(tmp_path, trial()) == folder
    assert names(folder) == {"spec.json"}
    assert ledger.read_spec(folder) == trial()
    old = aside(tmp_path / "trials", "3")
    assert ledger.read_spec(old) == other
    assert ledger.read_result(old, other) == records(other)
    assert ledger.numbers(tmp_path) == [3]


@pytest.mark.parametrize("content", ['{"study":', "[]", "null", '{"study": "study"}', '{"specs": [{"width": 0}]}'])
def test_a_damaged_spec_is_put_aside_and_written_again_beside_its_result(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    ledger.publish(folder, trial(), records(trial()))
    (folder / "spec.json").write_text(content)
    ledger.write_spec(tmp_path, trial())
    assert ledger.read_spec(folder) == trial()
    assert ledger.read_result(folder, trial()) == records(trial())
    kept = aside(folder, "spec.json")
    assert kept.read_text() == content
    [line] = caplog.messages
    assert str(folder / "spec.json") in line and line.endswith(f"it is kept as {kept.name}")


def test_trials_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert ledger.numbers(tmp_path) == []
    for number in (10, 2, 1):
        ledger.write_spec(tmp_path, trial(number))
    assert ledger.numbers(tmp_path) == [1, 2, 10]


def test_a_published_result_is_read_back_with_its_facts(tmp_path: Path) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    assert ledger.read_result(folder, trial()) is None
    ledger.publish(folder, trial(), records(trial()), started=1.5, host="here")
    assert ledger.read_result(folder, trial()) == records(trial())
    assert files.read_json(folder / "result.json")["host"] == "here"
    assert names(folder) == {"spec.json", "result.json"}


def result_json(of: TrialSpec, **changed: Any) -> str:
    data = {"hash": of.hash, "records": [dataclasses.asdict(record) for record in records(of)], **changed}
    return json.dumps(data)


@pytest.mark.parametrize(
    "content",
    [
        result_json(trial())[:-40],
        "",
        "[]",
        "3",
        result_json(trial(), records=[]),
        result_json(trial(), records=None),
        result_json(trial(), records=[{"spec": {}}, {}]),
        result_json(trial(), hash="0" * 16),
        result_json(other_students()),
        result_json(other_students(), hash=trial().hash),
    ],
    ids=["cut", "empty", "list", "number", "none", "null", "parts", "hash", "foreign", "forged"],
)
def test_a_result_that_is_damaged_or_not_its_own_is_put_aside(content: str, tmp_path: Path) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    (folder / "result.json").write_text(content)
    assert ledger.read_result(folder, trial()) is None
    assert aside(folder, "result.json").read_text() == content
    ledger.publish(folder, trial(), records(trial()))
    assert ledger.read_result(folder, trial()) == records(trial())


def test_a_trials_hash_stands_for_its_students_alone() -> None:
    assert trial().hash == trial(4, study="other", arm="control", params={}, started_ms=1).hash
    assert trial().hash != other_students().hash
    assert trial().hash != trial(specs=trial().specs[::-1]).hash
    assert trial().key == "study/3"


def test_a_failure_is_read_back_by_its_own_trial_only(tmp_path: Path) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    assert ledger.read_failure(folder, trial()) is None
    ledger.publish_failure(folder, trial(), "killed three times")
    assert ledger.read_failure(folder, trial()) == "killed three times"
    assert ledger.read_failure(folder, other_students()) is None


def test_attempts_are_counted_and_a_damaged_count_starts_anew(tmp_path: Path) -> None:
    assert tries.attempts(tmp_path) == 0
    assert [tries.count_attempt(tmp_path) for _ in range(3)] == [1, 2, 3]
    assert tries.attempts(tmp_path) == 3
    (tmp_path / "attempts.json").write_text("[")
    assert tries.count_attempt(tmp_path) == 1


def holder_of(path: Path) -> subprocess.Popen[str]:
    """A process that takes the lock, says so, and holds it until its input ends."""
    command = [sys.executable, "-c", HOLD, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


HOLD = """
import sys
from pathlib import Path
from harness import files, ledger
held = files.lock(Path(sys.argv[1]))
print("no" if held is None else "held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_a_lock_of_another_process_is_seen_and_goes_when_its_holder_ends(end: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with holder_of(path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert files.lock(path) is None
        if end == "kill":
            holder.kill()
        else:
            holder.communicate()
        holder.wait()
        mine = files.lock(path)
        assert mine is not None
    with holder_of(path) as other:
        assert other.communicate()[0] == "no\n"
    mine.release()


def test_a_failure_that_is_not_whole_is_none(tmp_path: Path) -> None:
    for text in ("[", "{}", '{"hash": "x"}'):
        (tmp_path / "failed.json").write_text(text)
        assert ledger.read_failure(tmp_path, trial()) is None


def test_a_number_changed_by_hand_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    ledger.publish(folder, trial(), records(trial()))
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace('"val_accuracy":0.5', '"val_accuracy":0.9'))
    assert ledger.read_result(folder, trial()) is None
    [line] = caplog.messages
    assert (
        line == f"{folder / 'result.json'} is not as it was written; it is kept as {aside(folder, 'result.json').name}"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5", True, 10**400])
def test_what_would_not_be_believed_is_not_published(value: Any, tmp_path: Path) -> None:
    folder = ledger.write_spec(tmp_path, trial())
    [first, *rest] = records(trial())
    odd = dataclasses.replace(first, metrics={**first.metrics, "val_loss": value})
    with pytest.raises(ValueError, match="not a record: metric 'val_loss'"):
        ledger.publish(folder, trial(), [odd, *rest])
    assert names(folder) == {"spec.json"}


def test_what_a_killed_process_was_writing_goes_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    host = socket.gethostname()
    stale, elsewhere = tmp_path / f".data.json.{host}-{dead.pid}.tmp", tmp_path / f".data.json.other-{dead.pid}.tmp"
    alive, another = tmp_path / f".data.json.{host}-1.tmp", tmp_path / f".more.json.{host}-{dead.pid}.tmp"
    for place in (stale, elsewhere, alive, another):
        place.write_text("{")
    files.write_json(path, {})
    assert names(tmp_path) == {"data.json", elsewhere.name, alive.name, another.name}


def test_two_things_put_aside_in_one_moment_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 7)
    for content in ("one", "two"):
        (tmp_path / "a").write_text(content)
        files.put_aside(tmp_path / "a", "it is in the way")
    assert names(tmp_path) == {"a.aside-7", "a.aside-8"}


def test_a_disk_that_is_full_is_told_with_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.write_json(tmp_path / "a.json", 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'") as caught:
            files.write_json(tmp_path / "a.json", 2)
    assert files.cannot_be_written(caught.value)
    assert names(tmp_path) == {"a.json"} and files.read_json(tmp_path / "a.json") == 1


@pytest.mark.parametrize(("variable", "mode"), [("", 0o600), ("077", 0o600), ("027", 0o640), ("007", 0o660)])
def test_what_is_written_is_the_users_own_unless_the_user_says_more(
    variable: str, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_UMASK", variable)
    before = os.umask(0o022)
    try:
        files.keep_private()
        files.write_json(tmp_path / "folder" / "a.json", 1)
        held = files.lock(tmp_path / "folder" / "lock")
    finally:
        os.umask(before)
    assert held is not None
    held.release()
    for name in ("a.json", "lock"):
        assert (tmp_path / "folder" / name).stat().st_mode & 0o777 == mode
    for odd in ("777", "0o77", "x", "-1", "700"):
        monkeypatch.setenv("HARNESS_UMASK", odd)
        with pytest.raises(ValueError, match=f"HARNESS_UMASK '{odd}' must be octal digits"):
            files.keep_private()


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", '{"seconds": "1"}', '{"started_ms": -1}', '{"seconds": 1.0, "digest": "0"}', '{"searches": "a"}',
        '{"ended": 3}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_damaged_is_put_aside_and_the_sweep_begins_a_new_one(content: str, tmp_path: Path) -> None:
    assert ledger.read_manifest(tmp_path) == {}
    files.write_sealed(tmp_path / "study.json", {"seconds": 1.5, "started_ms": 3})
    assert ledger.read_manifest(tmp_path) == {"seconds": 1.5, "started_ms": 3}
    (tmp_path / "study.json").write_text(content)
    assert ledger.read_manifest(tmp_path) == {}
    assert aside(tmp_path, "study.json").read_text() == content
