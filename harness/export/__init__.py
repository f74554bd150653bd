"""A trained student as files that serve without this harness, checked against the student before they are put in place.

`write(student, folder)` writes them, `verify(folder, family)` checks a folder again later. Add a format by a function
that writes it and one that opens it in `formats.py`, and its line in `write.FORMATS`.
"""

from harness.export.compare import Difference
from harness.export.formats import missing
from harness.export.student import Student, network, weights_size
from harness.export.write import Exported, check_folder, read_architecture, verify, write

__all__ = [
    "Difference",
    "Exported",
    "Student",
    "check_folder",
    "missing",
    "network",
    "read_architecture",
    "verify",
    "weights_size",
    "write",
]
