"""`python -m deploy.constraints`: the exact versions of what the container images install.

Written from the environment that it runs in, which is the one that the tests passed in; checked against the ranges of
`pyproject.toml`. The image installs the lists alone (``pip install --no-deps``), so they must be complete.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
SERVING: Final = ROOT / "deploy" / "containers" / "constraints.txt"
GPU: Final = ROOT / "deploy" / "containers" / "constraints-gpu.txt"
SERVING_EXTRAS: Final = ("postgres", "s3")
"""Extras of every serving image."""
GPU_REQUIREMENT: Final = "cuda-python"
"""What the GPU image has beside them; TensorRT itself is a build argument, its libraries being fetched from NVIDIA."""
HEADER: Final = "# Written by `python -m deploy.constraints` from the environment that the tests passed in; {what}.\n"

Pins = dict[str, str]


def requirements(extras: Sequence[str] = ()) -> list[Requirement]:
    """Give what `pyproject.toml` asks for, with these extras."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def closure(wanted: Iterable[Requirement]) -> Pins:
    """Give the installed version of everything that these need, by canonical name.

    Raises:
        PackageNotFoundError: one of it is not installed here.
    """
    pins: Pins = {}
    waiting = list(wanted)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = metadata.distribution(requirement.name)
        pins[key[0]] = distribution.version
        waiting += _needed_by(distribution, requirement.extras)
    return pins


def _needed_by(distribution: metadata.Distribution, extras: set[str]) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def documents() -> dict[Path, str]:
    """Give both lists as they are in this environment."""
    serving = closure(requirements(SERVING_EXTRAS))
    gpu = closure(requirement for requirement in requirements(("tensorrt",)) if requirement.name == GPU_REQUIREMENT)
    alone = {name: version for name, version in gpu.items() if name not in serving}
    return {
        SERVING: _text(serving, f"radstream[{','.join(SERVING_EXTRAS)}]"),
        GPU: _text(alone, "what the GPU image has beside constraints.txt"),
    }


def _text(pins: Pins, what: str) -> str:
    return HEADER.format(what=what) + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


def read(path: Path) -> Pins:
    """Read a list."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def stale(serving: Pins, gpu: Pins) -> list[str]:
    """Say what of the lists `pyproject.toml` no longer allows, and what they lack."""
    wanted = [(requirement, serving) for requirement in requirements(SERVING_EXTRAS)]
    wanted += [
        (requirement, {**serving, **gpu})
        for requirement in requirements(("tensorrt",))
        if requirement.name == GPU_REQUIREMENT
    ]
    found = []
    for requirement, pins in wanted:
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{requirement.name} is not in the list")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name}=={version} is outside of {requirement.specifier}")
    missing = set(closure(requirements(SERVING_EXTRAS))) - set(serving)
    return found + [f"{name} is needed and not in the list" for name in sorted(missing)]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the lists, or with ``--check`` say whether `pyproject.toml` still allows them."""
    parser = argparse.ArgumentParser(prog="python -m deploy.constraints", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the lists still fit pyproject.toml")
    check = parser.parse_args(argv).check
    try:
        if not check:
            for path, text in documents().items():
                path.write_text(text, encoding="utf-8")
                print(f"wrote {path.name}")
            return 0
        problems = stale(read(SERVING), read(GPU))
    except (metadata.PackageNotFoundError, InvalidRequirement, OSError) as error:
        print(f"constraints: {error}; install '.[dev]' first", file=sys.stderr)
        return 1
    for problem in problems:
        print(f"{problem}: run python -m deploy.constraints")
    if not problems:
        print("the constraints fit pyproject.toml")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
