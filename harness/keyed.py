"""Files of tensors in the teachers' cache: whole, under a key, with a checksum and what was spent on them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from harness.files import write_bytes


@dataclass(frozen=True)
class Spent:
    """What was spent on something of a teacher when it was made; None is not known."""

    seconds: float | None = None
    flops: float | None = None


UNKNOWN = Spent()


def read(path: Path, expected: Callable[[], str]) -> dict[str, Tensor]:
    """The tensors of a file in the cache. Raises `ValueError` for one that is missing, damaged or of another key."""
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        wanted = expected()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read the teacher's logits in {path} ({error})") from None
    if said.get("key") != wanted:
        raise ValueError(f"the teacher's logits in {path} belong to other weights or data")
    if said.get("sum", check := checksum(found)) != check:
        raise ValueError(f"the teacher's logits in {path} are not as they were written")
    return found


def save(tensors: dict[str, Tensor], path: Path, own_key: str, spent: Spent = UNKNOWN) -> None:
    """Write tensors to the cache, whole or not at all, and beside them what was spent on them."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    known = {name: repr(value) for name, value in dataclasses.asdict(spent).items() if value is not None}
    write_bytes(path, to_bytes(plain, {"key": own_key, "sum": checksum(plain), **known}))


def spent_on(path: Path) -> Spent:
    """What was spent on a file of the cache, as it says; one of an earlier version does not."""
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
    try:
        seconds, flops = (float(said[name]) if name in said else None for name in ("seconds", "flops"))
    except ValueError:
        return UNKNOWN
    return Spent(seconds, flops)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Changes with every bit of the tensors, their names, shapes and dtypes."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        own = tensor.detach().contiguous()
        found = zlib.crc32(f"{name} {own.dtype} {list(own.shape)}".encode(), found)
        found = zlib.crc32(own.flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
