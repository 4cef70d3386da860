"""Modules and types of attributes as PS3.3 has them, from the tables that highdicom carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

# Not public; highdicom is held below its next breaking version, and a test reads modules by it.
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map

_USES: Final = ("M", "C", "U")
_SPELLINGS: Final = {"Sc ": "SC ", "Sr ": "SR ", "Sop ": "SOP ", "Lut": "LUT", "Voi ": "VOI "}

Path = tuple[str, ...]
"""Keywords from the dataset down to an attribute, itself included."""


@dataclass(frozen=True, slots=True)
class Module:
    """One module of an IOD.

    Attributes:
        usage: M, C or U (PS3.3 A.1.3).
        entity: information entity that it is of.
        types: of its attributes, by path.
    """

    name: str
    usage: str
    entity: str
    types: Mapping[Path, str]

    @property
    def attributes(self) -> set[str]:
        """Those of the dataset itself."""
        return {path[0] for path in self.types if len(path) == 1}

    def is_in(self, present: Set[str]) -> bool:
        """Tell whether an object with these attributes has the module: what it must have, and anything of it."""
        needed = {path[0] for path, kind in self.types.items() if len(path) == 1 and kind in ("1", "2")}
        return (self.usage == "M" or needed <= present) and bool(self.attributes & present)


def modules_in(sop_class_uid: str, present: Set[str]) -> list[Module]:
    """Give the modules of an IOD that an object with these attributes has, in the order of the IOD's table."""
    return [module for module in _modules_of(sop_class_uid) if module.is_in(present)]


def module_of(keyword: str, modules: Sequence[Module]) -> Module | None:
    """Give the module that an attribute of the dataset is of: of several the mandatory one, else the first."""
    of = [module for module in modules if keyword in module.attributes]
    return min(of, key=lambda module: _USES.index(module.usage), default=None)


@cache
def _modules_of(sop_class_uid: str) -> tuple[Module, ...]:
    attributes = _attributes()
    return tuple(
        Module(
            _name(each["key"]),
            each["usage"],
            each["ie"],
            {(*item["path"], item["keyword"]): item["type"] for item in attributes.get(each["key"], ())},
        )
        for each in get_iod_module_map()[get_sop_class_iod_map()[sop_class_uid]]
    )


@cache
def _attributes() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    return get_module_attribute_map()


def _name(key: str) -> str:
    name = f"{key.replace('-', ' ').title()} "
    for wrong, right in _SPELLINGS.items():
        name = name.replace(wrong, right)
    return name.strip()
