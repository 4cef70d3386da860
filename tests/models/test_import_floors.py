"""Who may import whom: the floors of the design, and what a process must be able to do without."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

FORBID = """
import importlib, pkgutil, sys
FORBIDDEN = set(sys.argv[2].split(","))

class Forbid:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Forbid)
package = importlib.import_module(sys.argv[1])
names = [found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
loaded = {name.partition(".")[0] for name in sys.modules} & FORBIDDEN
print(len(names), *sorted(loaded))
"""


def _imports_without(run_python: RunPython, package: str, *forbidden: str) -> None:
    done = run_python("-c", FORBID, package, ",".join(forbidden))
    assert done.returncode == 0, done.stderr
    count, *loaded = done.stdout.split()
    assert int(count) > 5
    assert loaded == []


def test_the_worker_runs_without_torch(run_python: RunPython) -> None:
    _imports_without(run_python, "worker", "torch", "torchvision", "onnx", "onnxscript", "tensorrt", "training", "scp")


def test_the_scp_loads_no_pixels_and_no_engine(run_python: RunPython) -> None:
    _imports_without(run_python, "scp", "torch", "cv2", "onnxruntime", "tensorrt", "worker", "training")


def test_the_records_need_neither_redis_nor_the_network(run_python: RunPython) -> None:
    _imports_without(run_python, "models.records", "torch", "cv2", "onnxruntime", "redis", "rq", "pynetdicom")


@pytest.mark.parametrize("package", ["worker", "scp"])
def test_help_is_shown_without_torch(run_python: RunPython, package: str) -> None:
    code = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['x', '--help'];"
        f" runpy.run_module('{package}', run_name='__main__')"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {package}")


def test_the_import_floors_hold(run_python: RunPython) -> None:
    done = run_python("-c", "from importlinter.cli import lint_imports_command as main; main(['--no-cache'])")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
