"""Ways to damage a file, as hypothesis strategies: what a disk, a hand or another program may leave of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Harm = Callable[[Path], None]

odd_numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 2**64, -1, 0, 1e308, -0.0])
)
odd_values = st.recursive(
    st.none() | st.booleans() | odd_numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
odd_texts = st.sampled_from(
    [
        "NaN", "-Infinity", "1e999", "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 5000, '"\\ud800"', "null",
        "\ufeff{}", "{'a': 1}", "nul", '{"records": [{"spec": {}}]}', "[NaN]", "\0" * 64,
    ]
)  # fmt: skip


def _write(content: bytes) -> Harm:
    def harm(path: Path) -> None:
        path.write_bytes(content)

    return harm


def _cut(share: float) -> Harm:
    def harm(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return harm


def _flip(share: float, bit: int) -> Harm:
    def harm(path: Path) -> None:
        whole = bytearray(path.read_bytes())
        whole[int(share * (len(whole) - 1))] ^= 1 << bit
        path.write_bytes(bytes(whole))

    return harm


def _change(places: list[int], value: Any, *, seal: bool) -> Harm:
    """Follow `places` into the JSON data and put `value` there; without its seal the change cannot be seen by it."""

    def harm(path: Path) -> None:
        data = json.loads(path.read_text())
        if not seal and isinstance(data, dict):
            data.pop("digest", None)
        inner, last = data, None
        for place in places:
            keys = (
                list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
            )
            if not keys:
                break
            last = inner, keys[place % len(keys)]
            inner = last[0][last[1]]
        if last is None:
            data = value
        else:
            last[0][last[1]] = value
        path.write_text(json.dumps(data))

    return harm


def _drop(places: list[int]) -> Harm:
    """Take a field out of the JSON data, and the seal with it."""

    def harm(path: Path) -> None:
        data = inner = json.loads(path.read_text())
        if isinstance(data, dict):
            data.pop("digest", None)
        for place in places:
            if isinstance(inner, dict) and inner:
                key = list(inner)[place % len(inner)]
                if not isinstance(inner[key], dict):
                    del inner[key]
                    break
                inner = inner[key]
        path.write_text(json.dumps(data))

    return harm


def folder_instead(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def loop_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def file_for_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"a file")


def no_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


shares = st.floats(0, 1, exclude_max=True)
steps = st.lists(st.integers(0, 40), max_size=6)
replaced = st.one_of(
    st.binary(max_size=40).map(_write), odd_texts.map(str.encode).map(_write),
    odd_values.map(json.dumps).map(str.encode).map(_write), shares.map(_cut),
    st.sampled_from([folder_instead, loop_instead, link_to_nothing]),
)  # fmt: skip
sealed = st.one_of(
    replaced, st.builds(_flip, shares, st.integers(0, 7)), st.builds(_change, steps, odd_values, seal=st.just(True))
)
"""Damage that a sealed file shows."""
any_harm = sealed | st.builds(_change, steps, odd_values, seal=st.just(False)) | st.builds(_drop, steps)
"""Also such as nothing but the values themselves can show."""
