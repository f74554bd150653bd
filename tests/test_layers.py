"""The design's table of rooms, held against the code's imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import keyed
from harness.cohort import checkpoint

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "optuna", "mlflow", "ray", "submitit", "matplotlib", "pandas", "onnx", "onnxruntime"}
MAY_IMPORT = {
    "harness/__init__.py": set(),
    "harness/values.py": set(),
    "harness/spec.py": set(),
    "harness/records.py": set(),
    "harness/forms.py": set(),
    "harness/presets.py": set(),
    "harness/dimensions.py": set(),
    "harness/space.py": set(),
    "harness/study_files.py": set(),
    "harness/problems.py": set(),
    "harness/files.py": set(),
    "harness/ledger.py": set(),
    "harness/tries.py": set(),
    "harness/rungs.py": set(),
    "harness/brackets.py": set(),
    "harness/costs.py": set(),
    "harness/packing.py": set(),
    "harness/machine.py": set(),
    "harness/planning.py": set(),
    "harness/cli.py": set(),
    "harness/urls.py": set(),
    "harness/arms.py": set(),
    "harness/confirm.py": set(),
    "harness/commits.py": set(),
    "harness/aside.py": set(),
    "harness/attempts.py": set(),
    "harness/driver.py": set(),
    "harness/goals.py": set(),
    "harness/stopping.py": set(),
    "harness/locks.py": set(),
    "harness/outages.py": set(),
    "harness/options.py": set(),
    "harness/manifest.py": set(),
    "harness/screen.py": set(),
    "harness/executors/choice.py": set(),
    "harness/sweep.py": set(),
    "harness/errands.py": set(),
    "harness/restoring.py": set(),
    "harness/setbacks.py": set(),
    "harness/course.py": set(),
    "harness/session.py": set(),
    "harness/anew.py": set(),
    "harness/recommend/__init__.py": set(),
    "harness/recommend/__main__.py": set(),
    "harness/recommend/apart.py": set(),
    "harness/recommend/choose.py": {"pandas"},
    "harness/recommend/evidence.py": {"pandas"},
    "harness/recommend/words.py": {"pandas"},
    "harness/recommend/hand_out.py": {"torch"},
    "harness/seeds.py": {"torch"},
    "harness/losses": {"torch"},
    "harness/optimisers.py": {"torch"},
    "harness/models": {"torch"},
    "harness/tasks": {"torch"},
    "harness/batches.py": {"torch"},
    "harness/keyed.py": {"torch"},
    "harness/teaching.py": {"torch"},
    "harness/teacher.py": {"torch"},
    "harness/targets.py": {"torch"},
    "harness/cohort": {"torch"},
    "harness/importances.py": {"optuna"},
    "harness/connection.py": {"optuna"},
    "harness/sampler.py": {"optuna"},
    "harness/kept.py": {"optuna"},
    "harness/storage.py": {"optuna"},
    "harness/runs.py": set(),
    "harness/tracking": {"mlflow"},
    "harness/registry.py": {"mlflow", "onnx"},
    "harness/export": {"torch", "onnx", "onnxruntime"},
    "harness/latency.py": {"torch"},
    "harness/energy.py": set(),
    "harness/executors/__init__.py": set(),
    "harness/executors/trials.py": set(),
    "harness/executors/inline.py": set(),
    "harness/executors/local.py": set(),
    "harness/executors/worker.py": {"torch"},
    "harness/executors/options.py": set(),
    "harness/executors/signals.py": set(),
    "harness/executors/remote.py": set(),
    "harness/executors/ray.py": {"ray"},
    "harness/executors/ray_cluster.py": {"ray"},
    "harness/executors/slurm.py": {"submitit"},
    "harness/analysis": {"pandas"},
    "harness/figures": {"matplotlib", "pandas"},
    "harness/report": {"matplotlib", "pandas"},
    "harness/verify": set(),
    "harness/bench": HEAVY,
    "studies": set(),
    "studies/template.py": {"torch"},
    "studies/literature": {"torch", "pandas", "matplotlib"},
}
"""What each room may import of the heavy packages; the rest of the code is free to all."""

READ_ARRAY = "np.lib.format.read_array"
FILES = sorted(path for folder in ("harness", "studies") for path in (ROOT / folder).rglob("*.py"))


def room(path: Path) -> str:
    """The row of the table that a file belongs to."""
    name = path.relative_to(ROOT).as_posix()
    found = [row for row in MAY_IMPORT if name == row or name.startswith((row + "/", row + "."))]
    assert found, f"{name} has no row in the table of rooms"
    return max(found, key=len)


def imported(path: Path) -> set[str]:
    """The packages that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_no_more_than_it_may(path: Path) -> None:
    packages = {name.partition(".")[0] for name in imported(path)}
    assert packages & HEAVY <= MAY_IMPORT[room(path)]


def test_optuna_and_mlflow_are_known_to_their_own_rooms() -> None:
    for package, owners in (
        ("optuna", {f"harness/{name}.py" for name in ("connection", "importances", "kept", "sampler", "storage")}),
        ("mlflow", {"harness/tracking", "harness/registry.py"}),
    ):
        users = {room(path) for path in FILES if package in {name.split(".")[0] for name in imported(path)}}
        assert {name for name in users if "bench" not in name} == owners


@pytest.mark.parametrize("module", ["harness.sweep", "harness.report.build", "harness.verify.check"])
def test_the_programs_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    "module", ["harness.sweep", *(f"harness.{program}.__main__" for program in ("report", "recommend", "verify"))]
)
def test_a_program_is_there_before_what_takes_a_second_to_import(module: str) -> None:
    """From then on a Ctrl-C is an orderly end and no traceback."""
    code = f"import sys, {module}; sys.exit(bool(sys.modules.keys() & {{'optuna', 'pandas', 'scipy', 'sqlalchemy'}}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_code_raises_no_bare_exceptions_away() -> None:
    for path in FILES:
        handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
        assert all(handler.type is not None for handler in handlers), path


def test_nothing_reads_a_pickle() -> None:
    """Results, checkpoints and teachers are JSON and safetensors: opening another's results runs no code.

    PyTorch's archive is read in one place, for exports of one's own: reading one may run what is in it. Pickles of mere
    arrays are read in one too, by a closed list: CIFAR is handed out so. A report's two processes speak in pickles,
    through pipes. A user's teacher is read in two, by what of torch and numpy unpickles no objects.
    """
    safe = {"weights_only": True, "allow_pickle": False}
    own = {ROOT / "harness/tasks/given.py": {"torch.load"}, ROOT / "harness/tasks/answers.py": {"np.lib"}}
    modules = {"pickle", "_pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "yaml"}
    loaders = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "pd.read_hdf", "pandas.read_pickle",
               "mlflow.pytorch", "mlflow.pyfunc", "torch.hub", "torch.jit", "np.lib", "ctypes.CDLL"}  # fmt: skip
    pickled = {ROOT / "harness/tasks/unpickled.py", ROOT / "harness/report/beside.py"}
    for path in FILES:
        tree = ast.parse(path.read_text())
        found = {name.partition(".")[0] for name in imported(path)} & modules
        assert found == ({"pickle"} if path in pickled else set()), path
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert not {f"{node.module}.{alias.name}" for alias in node.names} & loaders, path
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in loaders - own.get(path, set()), path
                assert ast.unparse(node) != "torch.export.load" or path.name == "formats.py", path
            if isinstance(node, ast.keyword):
                known = path in own and node.arg in safe and ast.unparse(node.value) == str(safe[node.arg])
                assert known or node.arg not in ("allow_pickle", "pickle_module", "weights_only"), path
            if path in own and isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", READ_ARRAY):
                assert {keyword.arg for keyword in node.keywords} & set(safe), path


def test_what_is_unpickled_is_read_by_the_closed_list_alone() -> None:
    """`harness.tasks.unpickled` takes nothing of `pickle` but the class that it narrows, and what that raises."""
    tree = ast.parse((ROOT / "harness/tasks/unpickled.py").read_text())
    taken = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in taken if name.startswith("pickle.")} == {"pickle.Unpickler", "pickle.UnpicklingError"}
    users = [path.name for path in FILES if "harness.tasks.unpickled" in from_harness(path)]
    assert users == ["cifar_files.py"]


def from_harness(path: Path) -> set[str]:
    """The modules of the harness that a file imports anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} | {str(n.module) for n in nodes}


def test_only_a_studys_own_file_is_run() -> None:
    for path in FILES:
        called = [node.func.id for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]  # fmt: skip
        wanted = {"harness/study_files.py": ["compile", "exec"]}.get(path.relative_to(ROOT).as_posix(), [])
        assert sorted(set(called) & {"eval", "exec", "compile", "__import__"}) == wanted, path


def test_a_safetensors_file_that_is_no_data_runs_nothing(tmp_path: Path) -> None:
    """What torch would unpickle is refused by what reads the cache and the checkpoints."""
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    torch.save({"network": Trap()}, tmp_path / "a.safetensors")
    assert checkpoint.load(tmp_path / "a.safetensors", "key") is None
    torch.save({"logits": Trap()}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="cannot read the teacher's logits"):
        keyed.read(tmp_path / "a.safetensors", str)
    assert not ran.exists()


def test_the_ui_is_for_this_machine_alone() -> None:
    for path in (ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for line in path.read_text().splitlines():
            if "mlflow ui" in line or "mlflow server" in line:
                assert "--host" not in line or "--host 127.0.0.1" in line, (path, line)  # loopback is its default
