"""The two classes of each classification task: their names, which are also those of class folders, and their order."""

from __future__ import annotations

from typing import Final

from models.errors import ConfigurationError
from models.tasks import Task

POSITIVE: Final = 1
"""Index of the positive class, in `CLASSES` and in a network's logits."""

CLASSES: Final[dict[Task, tuple[str, str]]] = {
    Task.PNEUMONIA: ("NORMAL", "PNEUMONIA"),
    Task.NORMALITY: ("Normal", "Abnormal"),
}
"""Class names by task, in the order of the network's outputs; the second is the positive class."""


def classes_of(task: Task) -> tuple[str, str]:
    """Give the class names of a task.

    Raises:
        ConfigurationError: it is not a classification task.
    """
    try:
        return CLASSES[task]
    except KeyError:
        raise ConfigurationError(f"task {task}: not a classification; known are {', '.join(CLASSES)}") from None
