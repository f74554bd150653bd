"""What a worker process is given."""

from __future__ import annotations

import platform

import pytest

from harness.executors.local import keep_memory


@pytest.mark.parametrize(
    ("library", "threshold"),
    [(("glibc", "2.36"), 2**32), (("glibc", "2.31"), 2**25), (("glibc", "2"), 2**25), (("", ""), None)],
)
def test_an_allocator_is_told_only_what_it_takes(
    library: tuple[str, str], threshold: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    said = keep_memory()
    assert said.get("MALLOC_MMAP_THRESHOLD_") == (None if threshold is None else str(threshold))
