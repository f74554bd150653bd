"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747): 28x28 pictures of ten kinds of clothes.

The 60,000 official training images become 50,000 train and 10,000 val, the 10,000 test images are the test split.
`fashion_mnist10k` has 8,000 and 2,000 of the same train and val, and the same test split: for studies of minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.models import CNN, CONV, MLP, RESIDUAL
from harness.tasks import idx, places
from harness.tasks.images import Labelled, labelled, official_task
from harness.tasks.task import Task, TeacherRecipe
from harness.tasks.transforms import noisy, shifted

NAME = "fashion_mnist"
SIDE, NUM_CLASSES = 28, 10
COUNTS = {"train": 60_000, "t10k": 10_000}
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of the decompressed files: Debian and torchvision pack them differently."""
FOLDERS = ("fashion-mnist", "FashionMNIST/raw", "fashion_mnist")
SYSTEM = (Path("/usr/share/datasets"),)
GET = "get it by 'apt-get install dataset-fashion-mnist', or by torchvision's FashionMNIST(root, download=True)"
LARGE = TeacherRecipe(CONV, width=24, epochs=8, shift=1)
SMALL = TeacherRecipe(CONV, width=16, epochs=8, shift=1)


def load() -> Task:
    """The task. Raises `ValueError` in one line when the data is not there or is not what it should be."""
    return _task(NAME, each=(5000, 1000), teacher=LARGE)


def load_10k() -> Task:
    """The smaller task of the same files. Raises `ValueError` as `load` does."""
    return _task(f"{NAME}10k", each=(800, 200), teacher=SMALL)


def _task(name: str, each: tuple[int, int], teacher: TeacherRecipe) -> Task:
    return official_task(
        name=name,
        source="Fashion-MNIST by Zalando (MIT), its official test part as the test split",
        own=read("train"),
        test=read("t10k"),
        each=each,
        families={"cnn": CNN, "mlp": MLP, **RESIDUAL},
        teacher=teacher,
        transforms={"shift": lambda images, noise: shifted(images, 2, noise), "noise": noisy},
    )


def read(part: str, counts: Mapping[str, int] = COUNTS, sha256: Mapping[str, str] = SHA256) -> Labelled:
    """The official part `train` or `t10k`. Raises `ValueError` in one line for missing or wrong files."""
    count = counts[part]
    images, path = _file(f"{part}-images-idx3-ubyte", (count, SIDE, SIDE), sha256)
    labels, path = _file(f"{part}-labels-idx1-ubyte", (count,), sha256)
    return labelled(images[:, None], labels, NUM_CLASSES, path)


def _file(name: str, shape: tuple[int, ...], sha256: Mapping[str, str]) -> tuple[np.ndarray, Path]:
    """What is in one of the four files, packed or not, and where it was found."""
    names = [f"{folder}/{name}{packed}" for folder in FOLDERS for packed in (".gz", "")]
    path = places.find(names, system=SYSTEM, get=GET, task=NAME)
    return idx.read(path, shape, sha256[name]), path
