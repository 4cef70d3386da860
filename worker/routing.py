"""Routing: which tasks an instance gets, by rules over its attributes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from models.errors import ConfigurationError, Reason, Skipped
from models.tasks import Task

DEFAULT_RULES = Path(__file__).parent / "routing.toml"


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200)
    tasks: tuple[Task, ...]
    match: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unless: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("match", "unless")
    @classmethod
    def _check(cls, conditions: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for keyword, values in conditions.items():
            if tag_for_keyword(keyword) is None:
                raise ValueError(f"{keyword} is not a DICOM keyword")
            for value in values:
                if value.startswith("~"):
                    try:
                        re.compile(value[1:])
                    except re.error as error:
                        raise ValueError(f"{value} is not a regular expression") from error
        return conditions


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: tuple[_Rule, ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """The rules, in order. Picklable: decoding processes get a copy."""

    rules: tuple[_Rule, ...]

    @classmethod
    def read(cls, path: Path | None) -> Routing:
        """Read rules from a TOML file, None for the shipped ones.

        Raises:
            ConfigurationError: one line that names the rule and what is wrong.
        """
        path = path or DEFAULT_RULES
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls(_Document.model_validate(document).rule)
        except OSError as error:
            raise ConfigurationError(f"routing rules: cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"routing rules: {path} is not TOML: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(f"routing rules: {path}: {where}: {first['msg']}") from None

    @property
    def keywords(self) -> frozenset[str]:
        """Every attribute that a rule looks at."""
        return frozenset(keyword for rule in self.rules for keyword in (*rule.match, *rule.unless))

    def tasks_for(self, header: Dataset) -> tuple[Task, ...]:
        """Choose the tasks of an instance.

        Args:
            header: its dataset; pixel data is not needed.

        Raises:
            Skipped: no rule applies, or the one that does excludes it.
        """
        attributes = {keyword: _text_values(header.get(keyword)) for keyword in self.keywords}
        for rule in self.rules:
            if _applies(rule, attributes):
                if not rule.tasks:
                    raise Skipped(Reason.EXCLUDED_BY_RULE, rule.name)
                return rule.tasks
        raise Skipped(Reason.NO_RULE_MATCHED)


def _applies(rule: _Rule, attributes: Mapping[str, tuple[str, ...]]) -> bool:
    return all(_any_equal(attributes[keyword], allowed) for keyword, allowed in rule.match.items()) and not any(
        _any_equal(attributes[keyword], refused) for keyword, refused in rule.unless.items()
    )


def _any_equal(values: Iterable[str], patterns: Iterable[str]) -> bool:
    patterns = tuple(patterns)
    return any(_equal(value, pattern) for value in values for pattern in patterns)


def _equal(value: str, pattern: str) -> bool:
    if pattern.startswith("~"):
        return re.search(pattern[1:], value, re.IGNORECASE) is not None
    return value.casefold() == pattern.casefold()


def _text_values(value: Any) -> tuple[str, ...]:
    if value is None:
        return ("",)
    values = value if isinstance(value, MultiValue | list | tuple) else (value,)
    return tuple(str(item).strip() for item in values) or ("",)
