"""What `train` needs to know of a kind of task: two classes, or zones. The order of the work is the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

from training.run import RunDirectory
from training.settings import RunSettings

S = TypeVar("S", bound=RunSettings)
Data = TypeVar("Data")
Sides = TypeVar("Sides")


class Procedure(ABC, Generic[S, Data, Sides]):
    """One kind of task.

    Attributes:
        settings_class: of its runs.
    """

    settings_class: type[S]

    @abstractmethod
    def decide(self, settings: S) -> S:
        """Give the settings with every choice made.

        Raises:
            ConfigurationError: task or network do not fit.
        """

    @abstractmethod
    def try_network(self, settings: S) -> None:
        """Build the network that a new run starts with, to throw it away.

        That weights cannot be had is to be known before a thousand images were read.

        Raises:
            ConfigurationError: it cannot be built.
        """

    @abstractmethod
    def read(self, settings: S) -> Data:
        """Read the images.

        Raises:
            ConfigurationError: the set cannot be used.
        """

    @abstractmethod
    def split(self, settings: S, data: Data) -> list[Sides]:
        """Give the sides of the run, or of each fold.

        Raises:
            ConfigurationError: there are too few persons.
        """

    @abstractmethod
    def held_out(self, sides: Sides) -> Collection[str]:
        """Give the pixel hashes of the images that are held out."""

    @abstractmethod
    def record(self, run: RunDirectory, data: Data, sides: Sides, how: dict[str, Any]) -> None:
        """Write which images stand on which side, and say it."""

    @abstractmethod
    def find(self, run: RunDirectory, settings: S) -> Sides:
        """Find the images of a run again.

        Raises:
            ConfigurationError: one is missing or was changed.
        """

    @abstractmethod
    def fit_and_measure(self, settings: S, sides: Sides, run: RunDirectory) -> None:
        """Fit the network, or go on fitting it, and write what it comes to.

        Raises:
            FitError: fitting came to nothing.
        """

    @abstractmethod
    def summarise(self, run: RunDirectory, folds: Sequence[RunDirectory], settings: S) -> None:
        """Write what the finished folds come to together."""
