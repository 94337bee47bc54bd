"""Keyed randomness: every draw is a pure function of its key, never of a stream that something else may have moved.

A draw is named by (seed, round, stage, epoch, operation) and, inside it, by draw position and view.  The names are
hashed to one 64-bit word, the position is a counter on top of it, and SplitMix64's finaliser (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014) turns each into 64 uniform bits.  Whole arrays are
drawn at once, so that order of computation, worker count, resume and world size cannot change a single number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_VIEW = 0xD1B54A32D192ED03


@dataclass(frozen=True)
class Key:
    """What a draw belongs to.

    Attributes:
        seed: the run's seed.
        round: a paper's restart (PCP's rounds, ProFeat's iterations), 0 otherwise.
        stage: name of the step in its turn.
        epoch: the epoch, counted from 0.
    """

    seed: int = 0
    round: int = 0
    stage: str = ""
    epoch: int = 0

    def at(self, **changes: int | str) -> Key:
        """The same key with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def word(self, operation: str) -> int:
        """64 bits that name (this key, operation)."""
        name = f"{self.seed}\0{self.round}\0{self.stage}\0{self.epoch}\0{operation}"
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")

    def small(self, operation: str) -> int:
        """A non-negative 31-bit integer, for libraries that take a C int as their seed."""
        return self.word(operation) & 0x7FFFFFFF

    def bits(self, operation: str, positions: NDArray[np.int64], view: int = 0) -> NDArray[np.uint64]:
        """64 uniform bits for each draw position.

        Args:
            operation: what is drawn ("crop-x", "flip", ...).
            positions: draw positions (B,) int64, non-negative.
            view: which view of the image.

        Returns:
            (B,) uint64.
        """
        import numpy as np

        base = (self.word(operation) + view * _VIEW) & 0xFFFFFFFFFFFFFFFF
        with np.errstate(over="ignore"):
            z = np.uint64(base) + (np.asarray(positions).astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return z ^ (z >> np.uint64(31))

    def uniform(self, operation: str, positions: NDArray[np.int64], view: int = 0,
                low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Uniform numbers in [low, high), one for each draw position; (B,) float64."""
        import numpy as np

        unit = (self.bits(operation, positions, view) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def permutation(self, operation: str, n: int) -> NDArray[np.int64]:
        """A permutation of 0..n-1; (n,) int64."""
        import numpy as np

        return np.argsort(self.bits(operation, np.arange(n)), kind="stable").astype(np.int64)
