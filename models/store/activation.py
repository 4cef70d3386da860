"""``active.json``: which versions of a task serve, in which roles, and which served before.

The file is replaced by a rename, under a lock that every writer takes, so that two operators at the same moment lose
nothing of each other's change, and a reader needs no lock at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.store.durable import write_whole

ACTIVE_NAME: Final = "active.json"
LOCK_NAME: Final = ".lock"
LONGEST_HISTORY: Final = 50
"""Versions that `previous` names at most."""

VERSION_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

VersionName = Annotated[str, Field(pattern=rf"^{VERSION_NAME.pattern}$")]


class Activation(BaseModel):
    """What ``active.json`` says of one task.

    Attributes:
        active: the version that serves; None takes the task out of service.
        shadow: the version that sees the same instances without being believed.
        canary: the version that answers for some studies in place of the active one.
        canary_percent: how many of a hundred studies; 0 exactly where there is no canary.
        previous: versions that were active before, the last one first, each once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    active: VersionName | None = None
    shadow: VersionName | None = None
    canary: VersionName | None = None
    canary_percent: float = Field(0, ge=0, le=100)
    previous: tuple[VersionName, ...] = ()

    @property
    def named(self) -> frozenset[str]:
        """Every version that runs in some role."""
        return frozenset(name for name in (self.active, self.shadow, self.canary) if name is not None)

    def roles_of(self, version: str) -> tuple[str, ...]:
        """Give the roles in which a version runs."""
        roles = {"active": self.active, "canary": self.canary, "shadow": self.shadow}
        return tuple(role for role, name in roles.items() if name == version)

    def with_active(self, version: str | None) -> Activation:
        """Let another version serve: the present one becomes the last of the previous, a canary ends.

        A shadow goes on, unless it is the version that serves now or nothing serves.
        """
        before = self.previous if self.active in (None, version) else (self.active, *self.previous)
        history = tuple(dict.fromkeys(name for name in before if name is not None and name != version))
        shadow = None if version is None or self.shadow == version else self.shadow
        return Activation(active=version, shadow=shadow, previous=history[:LONGEST_HISTORY])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.canary is None) != (self.canary_percent == 0):
            raise ValueError("canary and canary_percent go together")
        if self.active is None and self.canary is not None:
            raise ValueError("a canary needs an active version beside it")
        if self.active is not None and self.active in (self.canary, self.shadow):
            raise ValueError("the active version can be neither canary nor shadow")
        return self


def in_canary(study_instance_uid: str | None, percent: float) -> bool:
    """Say whether a study is one of the so many in a hundred that a canary answers for.

    The answer is the same in every process and on every day, and a larger percentage only adds studies.
    """
    if study_instance_uid is None or percent <= 0:
        return False
    share = int.from_bytes(hashlib.sha256(study_instance_uid.encode()).digest()[:8]) / 2**64
    return share * 100 < percent


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other writers of a task out, in every process that sees the directory.

    Raises:
        OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it the lock; the file stays, for a removed one could be locked twice


def replace_activation(directory: Path, activation: Activation) -> None:
    """Write ``active.json`` in one step, durably.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    document = json.dumps(activation.model_dump(mode="json")) + "\n"
    write_whole(directory / ACTIVE_NAME, document.encode())
