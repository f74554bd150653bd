"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"): 32x32 in colour.

The user downloads them. The 50,000 official training images become 40,000 train and 10,000 val less exact duplicates,
the 10,000 test images are the test split.
"""

from __future__ import annotations

from harness.models import CNN, MLP, RESIDUAL, RESNET14
from harness.tasks.cifar_files import Cifar, Version, read
from harness.tasks.images import official_task
from harness.tasks.task import Task, TeacherRecipe
from harness.tasks.transforms import flipped, noisy, shifted

SHIFT = 4
PARQUET = {"train": {"train-00000-of-00001.parquet": ""}, "test": {"test-00000-of-00001.parquet": ""}}
GET = (
    "unpack the binary or the python version of its authors' page there (torchvision's {name}(root, download=True) gets"
    " the latter), or 'hf download uoft-cs/{folder} --repo-type dataset --local-dir data/{folder}'"
)
CIFAR10 = Cifar(
    name="cifar10",
    num_classes=10,
    label_at=0,
    label="labels",
    versions=(
        Version(
            "cifar-10-batches-bin",
            train={  # SHA-1, as in Apache MXNet's gluon.data.vision
                "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
                "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
                "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
                "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
                "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
            },
            test={"test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c"},
        ),
        Version(
            "cifar-10-batches-py",
            train={  # MD5, as in torchvision.datasets
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        ),
        Version("cifar10/plain_text", **PARQUET),
        Version("cifar10", **PARQUET),
    ),
    get=GET.format(name="CIFAR10", folder="cifar10"),
)
CIFAR100 = Cifar(
    name="cifar100",
    num_classes=100,
    label_at=1,
    label="fine_labels",
    versions=(
        Version(
            "cifar-100-binary",
            train={"train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"},
            test={"test.bin": "8fb6623e830365ff53cf14adec797474f5478006"},
        ),
        Version(
            "cifar-100-python",
            train={"train": "16019d7e3df5f24257cddd939b257f8d"},
            test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        ),
        Version("cifar100/cifar100", **PARQUET),
        Version("cifar100", **PARQUET),
    ),
    get=GET.format(name="CIFAR100", folder="cifar100"),
)


def load_10() -> Task:
    """The task of ten classes. Raises `ValueError` in one line when the data is not there or not what it should be."""
    return task_of(CIFAR10)


def load_100() -> Task:
    """The task of a hundred classes, the fine labels. Raises `ValueError` as `load_10` does."""
    return task_of(CIFAR100)


def task_of(cifar: Cifar) -> Task:
    """The task on a set's files: a fifth of every class of the official train part is val."""
    own, test = read(cifar)
    most = cifar.counts[0] // cifar.num_classes
    return official_task(
        name=cifar.name,
        source=f"{cifar.name.upper()} by Krizhevsky, its official test part as the test split",
        own=own,
        test=test,
        each=(most - most // 5, most // 5),
        families={"cnn": CNN, "mlp": MLP, **RESIDUAL},
        teacher=TeacherRecipe(RESNET14, width=32, epochs=30, batch_size=128, lr=3e-3, shift=SHIFT),
        transforms={
            "shift": lambda images, noise: shifted(images, SHIFT, noise),
            "flip": flipped,
            "noise": noisy,
        },
    )
