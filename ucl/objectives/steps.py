"""Steps of an epoch where not every batch has something to learn from: whole batches alone, and those left out, counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import UsageError

log = logging.getLogger(__name__)

STEPS = "steps"
"""Name in a checkpoint's memory, inside an epoch."""


def whole_batches(images: int, batch: int) -> int:
    """How many whole batches there are; the rest of the images waits for another epoch's order, as in the released codes.

    Raises:
        UsageError: not a single one.
    """
    if images < batch:
        raise UsageError(f"batch: found {batch} for {images} images to draw, wanted at most {images}: only whole batches are trained on",
                         f"at most --batch {images}")
    return images // batch


@dataclass
class Steps:
    """What became of the batches of an epoch.

    Attributes:
        taken: steps.
        skipped: batches without enough images to learn from; no weight was changed.
        images: those learnt from, summed over steps.
        drawn: images in all batches.
        one_group: steps in which all images were alike, so that nothing repelled.
    """

    taken: int = 0
    skipped: int = 0
    images: int = 0
    drawn: int = 0
    one_group: int = 0

    def record(self, drawn: int, used: int, *, least: int = 1, one_group: bool = False) -> bool:
        """Count a batch; returns whether a step is to be taken.

        Args:
            drawn: images in the batch.
            used: those to learn from.
            least: fewest for a step; a contrastive one needs 2, and its batch normalisation more.
            one_group: they are all alike.
        """
        self.drawn += drawn
        if used < least:
            self.skipped += 1
            return False
        self.taken += 1
        self.images += used
        self.one_group += one_group
        return True

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """What the rest of the epoch needs."""
        return {STEPS: np.array([self.taken, self.skipped, self.images, self.drawn, self.one_group], np.int64)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Steps:
        """From what `arrays` gave; all zeros where there is none."""
        found = arrays.get(STEPS)
        return cls() if found is None else cls(*(int(v) for v in found))

    def summary(self) -> dict[str, float]:
        """Metrics of the epoch; a warning where nothing was learnt, or without anything that repels."""
        if not self.taken:
            log.warning("no step was taken: none of %d batches has enough confident images; the network stays as it is", self.skipped)
        elif self.one_group:
            log.warning("in %d of %d steps all images were of one cluster: they attracted each other, and nothing repelled",
                        self.one_group, self.taken)
        return {"steps": self.taken, "skipped": self.skipped, "one_group": self.one_group, "confident_share": self.images / max(self.drawn, 1)}
