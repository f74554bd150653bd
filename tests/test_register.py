"""An exported student in MLflow's registry: once, with its card, and loaded where this harness and torch are not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from safetensors.numpy import load_file

from harness import export
from harness.files import write_sealed
from harness.models import MLP
from harness.registry import MOST_DESCRIPTION, Registered, register
from harness.tracking import Tracker
from tests.handed import made_task, trained

TAGS = {"study": "small", "trial": "12", "width": "3", "test_accuracy": "0.9412"}


@dataclass(frozen=True)
class Place:
    """A store with a run in it, and an exported student that is registered there."""

    uri: str
    run: str
    student: Path
    first: Registered

    @property
    def client(self) -> Any:
        return mlflow.MlflowClient(self.uri)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    Tracker(uri, "small", folder / "mlartifacts")
    client: Any = mlflow.MlflowClient(uri)
    run = client.create_run(client.get_experiment_by_name("small").experiment_id).info.run_id
    export.write(trained(made_task(MLP, (4,)), MLP), folder / "student")
    return Place(uri, run, folder / "student", register(folder / "student", uri, run, "clouds", TAGS))


ELSEWHERE = """
import sys
import mlflow, numpy
from safetensors.numpy import load_file
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/clouds/1")
sample = load_file(sys.argv[2])
numpy.save(sys.argv[3], model.predict(sample["inputs"])["logits"])
assert not {"harness", "torch"} & set(sys.modules)
"""


def test_a_registered_student_is_loaded_without_harness_and_torch_and_says_the_same(
    place: Place, tmp_path: Path
) -> None:
    sample = place.student / "sample.safetensors"
    command = [sys.executable, "-c", ELSEWHERE, place.uri, str(sample), str(tmp_path / "logits.npy")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert np.abs(np.load(tmp_path / "logits.npy") - load_file(sample)["logits"]).max() < 1e-5


def test_a_version_has_the_card_the_tags_the_run_and_its_model(place: Place) -> None:
    assert (place.first.version, place.first.uri) == (1, "models:/clouds/1")
    version = place.client.get_model_version("clouds", "1")
    assert version.description.startswith("# mlp of width 3 for clouds") and len(version.description) < MOST_DESCRIPTION
    assert TAGS.items() <= version.tags.items() and version.run_id == place.run
    [output] = place.client.get_run(place.run).outputs.model_outputs
    model = place.client.get_logged_model(output.model_id)
    assert (str(model.status), model.source_run_id, model.name) == ("READY", place.run, "clouds")
    said: Any = mlflow.models.Model.load(version.source.removeprefix("file://"))
    assert said.signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "float32", "shape": (-1, 4)}
    assert said.signature.outputs.to_dict()[0]["tensor-spec"] == {"dtype": "float32", "shape": (-1, 3)}
    assert said.saved_input_example_info["type"] == "ndarray"


def test_the_same_weights_are_registered_once_and_others_are_the_next_version(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert register(place.student, place.uri, place.run, "clouds", {**TAGS, "trial": "13"}) == place.first
    assert place.client.get_model_version("clouds", "1").tags["trial"] == "13"
    export.write(trained(made_task(MLP, (4,)), MLP, seed=5), tmp_path / "other")
    assert register(tmp_path / "other", place.uri, place.run, "clouds", TAGS).version == 2
    assert len(place.client.search_model_versions("name='clouds'")) == 2
    assert list((tmp_path / "here").iterdir()) == []  # MLflow's global store, which nobody named, was not opened


def test_a_card_that_is_too_long_is_cut_and_says_where_the_rest_is(place: Place, tmp_path: Path) -> None:
    student = trained(made_task(MLP, (4,)), MLP, width=4)
    long = {f"number {i}": "word " * 30 for i in range(60)}
    export.write(export.Student(student.task, MLP, 4, student.params, long), tmp_path / "long")
    made = register(tmp_path / "long", place.uri, place.run, "long", {})
    description = place.client.get_model_version("long", str(made.version)).description
    assert len(description) <= MOST_DESCRIPTION
    assert description.endswith("The rest is in the model's `extra_files/README.md`.\n")


def test_what_cannot_be_registered_is_said_in_one_line(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not an exported student"):
        register(tmp_path, place.uri, place.run, "x", {})
    with pytest.raises(ValueError, match="'a/b' is no model's name"):
        register(place.student, place.uri, place.run, "a/b", {})
    with pytest.raises(ValueError, match=r"Run with id=f+ not found"):
        register(place.student, place.uri, "f" * 32, "x", {})
    with pytest.raises(ValueError, match="there is no tracking store sqlite"):
        register(place.student, f"sqlite:///{tmp_path / 'no.db'}", place.run, "x", {})
    with pytest.raises(ValueError, match="cannot reach the tracking server"):
        register(place.student, "http://127.0.0.1:9", place.run, "x", {})
    for uri in (f"file:{tmp_path / 'no'}", str(tmp_path / "no")):
        with pytest.raises(ValueError, match="there is no tracking store"):
            register(place.student, uri, place.run, "x", {})
    assert place.client.search_registered_models("name='x'") == [] and not (tmp_path / "no.db").exists()
    write_sealed(tmp_path / "architecture.json", export.read_architecture(place.student))
    with pytest.raises(ValueError, match=r"has no model\.onnx; pip install"):
        register(tmp_path, place.uri, place.run, "x", {})
