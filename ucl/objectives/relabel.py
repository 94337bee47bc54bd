"""UIC: a network's own class of a view is the image's pseudo-label in the next epoch; no clustering, no memory of features.

Chen, Pu, Xie, Zhou: "Unsupervised Image Classification for Deep Representation Learning", ECCV Workshops 2020, and its released
code.  Two copies of the labels are kept, of N integers each: the targets, which stand still for an epoch, and those of the next one,
which every step writes to.  Balance comes from splitting classes that are empty and from drawing equally of each class
(`ucl.samplers`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, UsageError
from ucl.keys import Key

if TYPE_CHECKING:
    import torch

TARGETS, WRITTEN, COUNTS = "targets", "next_labels", "label_counts"
"""Names in a checkpoint's memory; the counts are of consecutive collapsed epochs, and of classes split before this one."""

PATIENCE = 5
"""Consecutive epochs of one predicted class that are mended without a warning."""


def random_labels(ok: NDArray[np.bool_], k: int, key: Key, *, balanced: bool = False) -> NDArray[np.int32]:
    """Labels to begin with.

    Uniform for each image on its own, as the released code: sizes are binomial, and some classes may be empty.  A label then depends
    on the key and on the image's number alone.  Or ``balanced``: sizes differ by at most 1.

    Args:
        ok: (N,) bool, which images can be used.
        k: number of classes.
        key: what the draw belongs to.
        balanced: as many images in each class.

    Returns:
        (N,) int32; -1 for a bad image.

    Raises:
        UsageError: fewer than 2 classes, or more than usable images.
    """
    usable = int(ok.sum())
    if not 2 <= k <= usable:
        raise UsageError(f"k: found {k} classes for {usable} usable images, wanted 2 to {usable}", "fewer classes")
    labels = np.full(len(ok), -1, np.int32)
    if balanced:
        rows = np.flatnonzero(ok)
        labels[rows[key.permutation("init/labels", usable)]] = np.arange(usable) % k
        return labels
    drawn = (key.uniform("init/labels", np.arange(len(ok), dtype=np.int64)) * k).astype(np.int32)
    labels[ok] = drawn[ok]
    return labels


def split_empty(labels: NDArray[np.int32], k: int, key: Key) -> tuple[NDArray[np.int32], int]:
    """Give every empty class half of the largest one, in ascending order of the empty ones; ties among the largest by lower id.

    The released code's step before each epoch: the members are shuffled, the first half (rounded down) stays.  Time N log N + K log K;
    whether a class has been halved before does not matter, since halves of a random order are in random order.

    Args:
        labels: (N,) int32 below k; -1 takes no part.
        k: number of classes.
        key: of the epoch.

    Returns:
        The labels (N,), a copy, and how many classes were empty.

    Raises:
        DataError: a label of k or more, or fewer labelled images than classes.
    """
    found = labels.astype(np.int32)
    rows = np.flatnonzero(found >= 0)
    if len(rows) and found.max() >= k:
        raise DataError(f"labels: found class {found.max()}, expected 0 to {k - 1}", "labels and model must have one number of classes")
    if len(rows) < k:
        raise DataError(f"labels: found {len(rows)} labelled images for {k} classes, expected at least one for each", "fewer classes, or more images")
    size = np.bincount(found[rows], minlength=k)
    empty = np.flatnonzero(size == 0)
    if not len(empty):
        return found, 0
    mixed = rows[key.permutation("split-empty", len(rows))]
    order = mixed[np.argsort(found[mixed], kind="stable")]  # by class, in random order inside each
    start = np.cumsum(size) - size
    largest = [(-int(size[c]), int(c)) for c in np.flatnonzero(size)]
    heapq.heapify(largest)
    for c in empty.tolist():
        members, donor = heapq.heappop(largest)
        stay = -members // 2
        start[c], size[c], size[donor] = start[donor] + stay, -members - stay, stay
        heapq.heappush(largest, (-stay, donor))
        heapq.heappush(largest, (-int(size[c]), c))
    for c in empty.tolist():
        found[order[start[c]:start[c] + size[c]]] = c
    return found, len(empty)


@dataclass
class Relabelling:
    """An epoch's labels: those it trains on, and those it writes.

    Attributes:
        k: number of classes.
        targets: (N,) int32, frozen; -1 is never drawn.
        written: (N,) int32, the next epoch's: the class of an image's last view, its target where it was not seen.
        collapsed: epochs before this one, without a break, in which one class alone was predicted.
        split: classes that were empty before this epoch.
    """

    k: int
    targets: NDArray[np.int32]
    written: NDArray[np.int32]
    collapsed: int = 0
    split: int = 0
    _seen: list[tuple[NDArray[np.int64], torch.Tensor]] = field(default_factory=list, repr=False)

    @classmethod
    def begin(cls, labels: NDArray[np.int32], k: int, key: Key, *, split: bool = True, collapsed: int = 0) -> Relabelling:
        """At the start of an epoch.

        Args:
            labels: (N,) int32, what the last epoch wrote.
            k: number of classes.
            key: of the epoch.
            split: fill empty classes; the stage of fixed labels does not.
            collapsed: what the last epoch's `summary` said.

        Raises:
            DataError: see `split_empty`.
        """
        empty = 0
        if split:
            labels, empty = split_empty(labels, k, key)
        targets = labels.astype(np.int32)
        targets.flags.writeable = False
        return cls(k, targets, targets.copy(), collapsed, empty)

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], n: int, k: int) -> Relabelling:
        """Inside an epoch, from what `arrays` gave.

        Raises:
            DataError: arrays are missing, of another number of images or of more classes.
        """
        targets, written = stored(arrays, TARGETS, n, k), stored(arrays, WRITTEN, n, k)
        targets.flags.writeable = False
        counts = arrays.get(COUNTS, np.zeros(2, np.int64))
        return cls(k, targets, written, int(counts[0]), int(counts[1]))

    def arrays(self, *, midway: bool = True) -> dict[str, NDArray[Any]]:
        """What the next epoch needs, or with ``midway`` the rest of this one: one or two arrays of N integers, and counts; settled."""
        self.settle()
        found: dict[str, NDArray[Any]] = {WRITTEN: self.written.copy(), COUNTS: np.array([self.collapsed, self.split], np.int64)}
        return found | ({TARGETS: self.targets.copy()} if midway else {})

    def target(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the loss compares a batch with: (B,) int64."""
        return self.targets[rows].astype(np.int64)

    def record(self, rows: NDArray[np.int64], logits: torch.Tensor) -> None:
        """Note the classes of a batch, by the very logits of its loss; they stay on the device until `settle`.

        Args:
            rows: (B,) images.
            logits: (B, k); ties go to the lower class.
        """
        self._seen.append((rows, classes(logits)))

    def settle(self) -> None:
        """Write what was recorded; of an image seen twice the last time counts.

        Raises:
            DataError: logits that were not finite; the first such image is named.
        """
        if not self._seen:
            return
        import torch

        rows = np.concatenate([at for at, _ in self._seen])
        found = torch.cat([c for _, c in self._seen]).cpu().numpy().astype(np.int32)
        self._seen.clear()
        if (found < 0).any():
            raise DataError(f"logits: not finite for row {rows[np.argmax(found < 0)]}, wanted finite numbers",
                            "a smaller --lr; the last committed epoch stands")
        self.written[rows] = found

    def summary(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """What an epoch did, once it is over.

        Args:
            rows: (M,) images that it drew.

        Returns:
            ``visited`` and ``changed``, shares of the labelled images; ``predicted``, classes among those visited; ``split``, classes
            that were empty before the epoch; ``collapsed_epochs``, with this one, for the next `begin`.
        """
        self.settle()
        labelled = int((self.targets >= 0).sum())
        seen = np.unique(rows)
        predicted = len(np.unique(self.written[seen]))
        return {"visited": len(seen) / max(labelled, 1), "changed": float((self.written != self.targets).sum() / max(labelled, 1)),
                "predicted": predicted, "split": self.split, "collapsed_epochs": self.collapsed + 1 if predicted == 1 else 0}


def classes(logits: torch.Tensor) -> torch.Tensor:
    """The class of each row: (B,) int32, the lowest of equals; -1 where a logit is not finite."""
    import torch

    logits = logits.detach()
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1).to(torch.int32)


def stored(arrays: dict[str, NDArray[Any]], name: str, n: int, k: int) -> NDArray[np.int32]:
    """One of the arrays of `Relabelling.arrays`, a copy.

    Raises:
        DataError: it is missing, of another number of images, or of more classes.
    """
    found = arrays.get(name)
    if found is None or found.shape != (n,) or found.dtype != np.int32 or (n and not -1 <= found.min() <= found.max() < k):
        said = "missing" if found is None else f"{found.dtype} {found.shape}"
        raise DataError(f"checkpoint: /memory/{name}: {said}, expected int32 ({n},) of -1 to {k - 1}", "use the checkpoint of these images")
    return np.array(found)
