"""What a careless one types: one line that names the value and the choices, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.typed import STUDY, refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonesuch"], "unknown study 'nonesuch'; studies are digits, "),
        (["digits", "--trials", "0"], "--trials 0 is out of range"),
        (["digits", "--trials", "-3"], "--trials -3 is out of range"),
        (["digits", "--trials", "many"], "many"),
        (["digits", "--jobs", "0"], "--jobs 0 is out of range"),
        (["digits", "--jobs", "100000000000"], "--jobs 100000000000 is out of range; it must be from 1 to"),
        (["digits", "--trials", f"1{30 * '0'}"], "is out of range; it must be from 1 to 1,000,000"),
        (["digits", "--timeout", "0"], "--timeout 0 is out of range"),
        (["digits", "--plan", "--deterministic"], "--plan has nothing to show with --deterministic"),
        (["digits", "--seed", "-1"], "seed -1 is out of range"),
        (["digits", "--device", "tpu"], "unknown device 'tpu'; devices are auto, cpu, cuda"),
        (["digits", "--nonsense"], "--nonsense"),
        (["digits", "--storage", "sqlite://"], "--storage 'sqlite://' is a database in memory"),
        (["digits", "--storage", "sqlite:///:memory:"], "is a database in memory, which nothing outlives"),
        (["digits", "--tracking-uri", "sqlite:///file:x?mode=memory&uri=true"], "--tracking-uri 'sqlite:///file:x?"),
        (
            ["digits", "--storage", "postgresql://u:secret@h:port/d"],
            "--storage has a port that is no number",
        ),
        (["digits", "--storage", "postgres://u:secret@h/d"], "--storage 'postgres://u:***@h/d' names no store; stores"),
        (["digits", "--storage", ""], "--storage '' names no store; stores are sqlite:///FILE, postgresql://USER@HOST"),
        (["digits", "--storage", "study.db"], "--storage 'study.db' names no store"),
        (["digits", "--storage", "postgresql://u:secret@127.0.0.1:9/d"], "cannot open the storage postgresql://u:***@"),
        (["digits", "--tracking-uri", "foo://u:secret@h"], "DATABASE, http://HOST:PORT, https://HOST:PORT"),
        (["digits", "--tracking-uri", "postgresql://u@127.0.0.1:9/d"], "cannot open the tracking store postgresql://"),
        (["digits", "--storage", "sqlite:////no/such/folder/x.db"], "cannot be: there is no folder /no/such/folder"),
        (["digits", "--tracking-uri", "http://127.0.0.1:9"], "cannot reach the tracking server"),
        (["digits", "--out", "/proc/nowhere"], "--out"),
        (["digits", "--confirm", "5", "--no-confirm"], "--confirm 5 and --no-confirm contradict each other"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "results")]
    assert words in refused([*arguments, *out], capsys, monkeypatch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("Float(0.0, 1.0)", "Float(0.9, 0.1)"), "alpha: low 0.9 is above high 0.1"),
        (("Float(0.0, 1.0)", "Float(0.0, 1.5)"), "alpha 1.5 is out of range"),
        (("Float(1.0, 10.0", "Float(0.0, 10.0"), "temperature 0.0 is out of range"),
        (("Choice(4, 8)", "Choice(0, 8)"), "width 0 is out of range"),
        (('"kl", "mse"', '"kl", "magic"'), "unknown form 'magic'; forms are kl, soft_ce, mse, squared_norm"),
        (('task="digits"', 'task="cats"'), "unknown task 'cats'; tasks are mnist5k, digits"),
        (('family="mlp"', 'family="rnn"'), "unknown family 'rnn'"),
        (("trials=10", 'sampler="dice"'), "unknown sampler 'dice'; samplers are tpe"),
        (("trials=10", 'objectives=("test_accuracy",)'), "objective 'test_accuracy' is not allowed"),
        ((', when={"form": ("kl",)}', ', when={"form": ("kl", "mse")}'), "form 'mse' takes no temperature"),
        (("STUDY = Study(", "STUDY = Study(("), "mine.py, line"),
        (("STUDY = Study(", "OTHER = Study("), "defines no STUDY"),
        (("STUDY = Study(", "1 / 0\nSTUDY = Study("), "ZeroDivisionError"),
    ],
)
def test_bad_studies_are_one_line_and_nothing_is_written(
    change: tuple[str, str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine.py").write_text(STUDY.replace(*change))
    assert words in refused([tmp_path / "mine.py", "--out", tmp_path / "results"], capsys, monkeypatch)
    assert not (tmp_path / "results").exists()
