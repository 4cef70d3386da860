"""What an operator does to the versions of a task: promote, try as canary, roll back, run in the shadow.

Each is one locked change of ``active.json``, and refuses what would leave the task in a state that nobody asked for.
Every version that a change lets run is opened, and thereby checked, before anything is written.
"""

from __future__ import annotations

from models.store.activation import Activation
from models.store.store import ModelStore, StoreError
from models.tasks import Task


def promote(store: ModelStore, task: Task, version: str) -> Activation:
    """Let a version serve; the present one becomes the one to roll back to. A canary ends.

    Raises:
        StoreError: the version cannot be opened, or the store cannot be written.
    """
    return store.change(task, lambda now: now.with_active(version))


def start_canary(store: ModelStore, task: Task, version: str, percent: float) -> Activation:
    """Let a version answer for a part of the studies, `percent` of a hundred, in place of the active one.

    Raises:
        StoreError: nothing is active, the version is the active one, the percentage is none, it cannot be opened, or
            the store cannot be written.
    """
    if not 0 < percent < 100:
        raise StoreError(f"{percent:g} percent: a canary takes more than 0 and less than 100 percent of the studies")

    def change(now: Activation) -> Activation:
        if now.active is None:
            raise StoreError(f"{store.root / task}: no active version for a canary to stand beside; promote one first")
        if now.active == version:
            raise StoreError(f"{store.root / task}: {version} is the active version, so it cannot be the canary")
        shadow = None if now.shadow == version else now.shadow
        return now.model_copy(update={"canary": version, "canary_percent": percent, "shadow": shadow})

    return store.change(task, change)


def roll_back(store: ModelStore, task: Task, version: str | None = None) -> Activation:
    """Undo the last change: end the canary where there is one, else let the previous version serve again.

    The version that is rolled back leaves the history, so that a second rollback goes one further.

    Args:
        store: the store.
        task: whose version.
        version: one of the history to go back to, None for the last; given, a canary ends as well.

    Raises:
        StoreError: there is nothing to go back to, the version cannot be opened, or the store cannot be written.
    """

    def change(now: Activation) -> Activation:
        if now.canary is not None and version is None:
            return now.model_copy(update={"canary": None, "canary_percent": 0.0})
        if not now.previous:
            raise StoreError(f"{store.root / task}: no version served before {now.active or 'now'}; promote one")
        if version is not None and version not in now.previous:
            known = ", ".join(now.previous)
            raise StoreError(f"{store.root / task}: {version} did not serve before; promote it, or choose of: {known}")
        place = 0 if version is None else now.previous.index(version)
        target = now.previous[place]
        shadow = None if now.shadow == target else now.shadow
        return Activation(active=target, shadow=shadow, previous=now.previous[place + 1 :])

    return store.change(task, change)


def set_shadow(store: ModelStore, task: Task, version: str | None) -> Activation:
    """Let a version see the same instances as the active one, unbelieved; None ends it.

    Raises:
        StoreError: nothing is active, the version is the active one or cannot be opened, or the store cannot be
            written.
    """

    def change(now: Activation) -> Activation:
        if version is not None and now.active is None:
            raise StoreError(f"{store.root / task}: no active version to compare a shadow with; promote one first")
        if version is not None and now.active == version:
            raise StoreError(f"{store.root / task}: {version} is the active version, so it cannot be its own shadow")
        return now.model_copy(update={"shadow": version})

    return store.change(task, change)
