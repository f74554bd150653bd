"""An exported student in MLflow's model registry: as ONNX, which serves without this harness and reads no pickle."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from harness.export import read_architecture
from harness.tracking import bring_along, reachable
from harness.urls import redact, sqlite_file

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of files that take no time
MOST_DESCRIPTION = 5000
"""What a registry in a database takes."""
WEIGHTS = "harness.weights"
"""The tag of a version that stands for the weights in it: the same student is registered once."""
SERVING = ("numpy", "onnx", "onnxruntime")
"""What the registered model needs beside MLflow."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model; `uri` is what `mlflow.pyfunc.load_model` takes."""

    name: str
    version: int

    @property
    def uri(self) -> str:
        """The version, as MLflow calls it."""
        return f"models:/{self.name}/{self.version}"


def check(uri: str, name: str) -> None:
    """Raise `ValueError` in one line for a store that is not there or does not answer, and for what is no model's name.

    Makes nothing, where MLflow would make a store.
    """
    if not name.strip() or set(name) & set("/:'\"") or name in (".", ".."):
        raise ValueError(f"{name!r} is no model's name: it must not be empty, nor have any of / : ' \" in it")
    file = sqlite_file(uri)
    if file is None and ("://" not in uri or uri.startswith("file:")):
        file = Path(uri.removeprefix("file:").removeprefix("//"))
    if file is not None and not file.exists():
        raise ValueError(f"there is no tracking store {redact(uri)}")
    reachable(uri)


def register(folder: Path, uri: str, run: str, name: str, tags: Mapping[str, str]) -> Registered:
    """Put an exported folder into the registry at `uri` as the model `name`, logged under a run, with the tags.

    Its description is the model card, its signature and input example are those of the sample. Weights that the model
    has a version of already are not registered again; that version is given, its tags brought up to date. Raises
    `ValueError` in one line for a folder without ONNX, a name that MLflow does not take, and a store that does not
    answer or has no such run.
    """
    said = read_architecture(folder)
    weights = said["sha256"]["model.safetensors"]
    if not (folder / "model.onnx").is_file():
        raise ValueError(f"{folder} has no model.onnx; pip install -e '.[export]' and export again")
    check(uri, name)
    import mlflow

    with _in_one_line(uri):
        if (file := sqlite_file(uri)) is not None:
            bring_along(file)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = client.get_run(run).info.experiment_id
        every = {**tags, WEIGHTS: weights}
        known = _known(client, name, weights)
        if known is not None:
            for key, value in every.items():
                client.set_model_version_tag(name, known.version, key, str(value))
            return Registered(name, int(known.version))
        _make_name(client, name)
        model = client.create_logged_model(experiment, name, run, every, model_type=said["family"])
        try:
            _upload(client, model, folder, run)
        except BaseException:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run, [mlflow.entities.LoggedModelOutput(model.model_id, step=0)])
        made = client.create_model_version(
            name,
            model.artifact_location,  # "models:/m-..." would be looked up in MLflow's global store, not in this one
            run,
            every,
            description=_description(folder),
            await_creation_for=0,
            model_id=model.model_id,
        )
        link = json.dumps([{"name": name, "version": made.version}])
        client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})  # the UI looks there
    return Registered(name, int(made.version))


def _known(client: Any, name: str, weights: str) -> Any:
    """The first version of the model that has these weights, or None."""
    quoted = name.replace("'", "\\'")
    found = [each for each in client.search_model_versions(f"name='{quoted}'") if each.tags.get(WEIGHTS) == weights]
    return min(found, key=lambda each: int(each.version), default=None)


def _make_name(client: Any, name: str) -> None:
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)


def _upload(client: Any, model: Any, folder: Path, run: str) -> None:
    """Make MLflow's own folder of the ONNX file, with the model card, and log it as the model's artifacts."""
    import mlflow.onnx
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    sample = load_file(folder / "sample.safetensors")
    inputs, logits = sample["inputs"], sample["logits"]
    signature = ModelSignature(
        Schema([TensorSpec(inputs.dtype, (-1, *inputs.shape[1:]))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, *logits.shape[1:]), "logits")]),
    )
    with tempfile.TemporaryDirectory() as temporary, _noise_off():
        place = Path(temporary) / "model"
        mlflow.onnx.save_model(
            onnx.load(str(folder / "model.onnx")),
            str(place),
            mlflow_model=Model(model.artifact_location, run, model_uuid=model.model_id, model_id=model.model_id),
            signature=signature,
            input_example=inputs,
            pip_requirements=[f"{package}=={version(package)}" for package in SERVING],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            extra_files=[str(folder / "README.md"), str(folder / "architecture.json")],
        )
        client.log_model_artifacts(model.model_id, str(place))


@contextmanager
def _noise_off() -> Iterator[None]:
    """Without what MLflow says of type hints of its own when its serving code is first imported."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*type hint is inferred as AnyType", UserWarning)
        yield


def _description(folder: Path) -> str:
    """The model card, as much as fits."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    if len(text) <= MOST_DESCRIPTION:
        return text
    kept = text[: MOST_DESCRIPTION - 60].rpartition("\n\n")[0]
    return f"{kept}\n\nThe rest is in the model's `extra_files/README.md`.\n"


@contextmanager
def _in_one_line(uri: str) -> Iterator[None]:
    """Whatever the store may raise becomes a `ValueError` of one line without a password."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot register in {redact(uri)}: {redact(first)}") from None
