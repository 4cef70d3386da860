"""How many images per second engines answer, measured in turns so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from models.engines.built import Speed
from models.engines.engine import Engine
from training.progress import track
from training.subjects import Images

ROUNDS: Final = 5
LEAST_S: Final = 0.15
"""A round lasts at least so long, or one run."""

Clock = Callable[[], float]


def measure_speeds(
    engine: Engine,
    reference: Engine | None,
    images: Images,
    batches: Sequence[int],
    threads: int | None,
    *,
    rounds: int = ROUNDS,
    clock: Clock = time.perf_counter,
) -> list[Speed]:
    """Time an engine and the reference; of each, the best of several rounds counts.

    Args:
        engine: to time.
        reference: takes turns with it; None where there is nothing to compare with.
        images: ``(N, 1, H, W)``, repeated where a batch is larger.
        batches: sizes to time.
        threads: of both, for the record.
        rounds: how often each is timed.
        clock: seconds.

    Raises:
        Transient: an engine failed.
    """
    speeds = []
    for batch in track(list(batches), len(batches), "timing engines"):
        images_of_batch = images[np.arange(batch) % len(images)]
        best = [0.0, 0.0]
        for _ in range(rounds):
            for which, timed in enumerate((engine, reference)):
                if timed is not None:
                    best[which] = max(best[which], _images_per_s(timed, images_of_batch, clock))
        speeds.append(Speed(batch=batch, threads=threads, images_per_s=best[0], reference_images_per_s=best[1] or None))
    return speeds


def _images_per_s(engine: Engine, images: Images, clock: Clock) -> float:
    count, began = 0, clock()
    while True:
        engine.run(images)
        count += len(images)
        elapsed = clock() - began
        if elapsed >= LEAST_S:
            return count / elapsed
