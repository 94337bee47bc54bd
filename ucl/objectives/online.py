"""Clusters that move with the network: memories of samples and centroids, labels re-assigned batch by batch, small clusters repaired.

Zhan, Xie, Liu, Ong, Loy: "Online Deep Clustering for Unsupervised Representation Learning", CVPR 2020 (ODC), and its released code;
`Rules` has by name what the two do differently.  One iteration on a batch, whose labels and weights were read before it:

    see             memory rows of the batch's images move towards their embeddings; each image joins the nearest centroid
    after_step      every so many iterations centroids become their members' means; clusters that have become small are repaired

What an iteration costs, for a batch of B, D dimensions, K clusters of N images: the products with the centroids, B K D multiplications
on the network's device; beside them O(B D) for memory, labels and sums, O(K) for sizes and weights, and O(K D) at a refresh.  Nothing
is O(N): sums of the members are kept, in whole numbers (see `_whole`), so that they are exact, the same in whatever order they are
made, and need no place in a checkpoint.  A repair reads the members of the clusters that it joins and splits, no other images.
On one thread of a busy CPU, at N = 1,281,167, K = 10,000, B = 512, D = 256 and 39 % changed labels, all but the products took 6.3 ms an
iteration (median 3.6, mean with the refreshes), the products 46 ms; means of all N rows take 2.3 s.

Memory: 4 N D + 12 K D + 28 N bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.objectives.bank import Bank, last_places
from ucl.objectives.halving import halves
from ucl.objectives.partition import Partition

if TYPE_CHECKING:
    import torch

BANK, LABELS, CENTROID, COUNTS, CHANGED = "bank", "cluster", "centroid", "online", "changed"
"""Names in a checkpoint's memory: (N, D) float32, (N,) int32, (K, D) float32, counters (8,) int64; with ``refresh`` changed also (K,)
uint8, clusters that gained or lost an image since the last refresh."""

KEPT = frozenset({BANK, LABELS, CENTROID, COUNTS, CHANGED})
"""All of these names."""

COUNTED = ("iterations", "seen", "changed", "small", "joined", "splits", "passes", "balanced")
"""The counters.  ``iterations`` is of the whole run, the rest of this epoch: images seen; those whose label changed as they were;
clusters found small; images of theirs that joined another; clusters split; repairs' passes; splits into equal halves."""

PASSES = 10
"""Passes of a repair before clusters are split into equal halves."""

LEAST, LEAST_SHARE = 20, 0.15
"""The paper's 20 members of 128 in the mean are 0.156 of it."""

SMALL_SIDE = 64
"""Side of a view in pixels up to which data sets are small."""

EPS = 1e-5
"""Members that every cluster is taken to have beside its own; the released code's."""

_UNIT_EPS = 1e-10
_BLOCK = 1 << 15
_SCORES = 1 << 24
"""Most scores at once."""


@dataclass(frozen=True)
class Rules:
    """What is done in which way.

    Attributes:
        similarity: which centroid is nearest; dot: of the largest inner product with the memory's row (released code), which favours
            clusters of like members, whose means are long; l2: of the least distance (the paper).
        momentum: share of the old row in the memory's new one; the paper's m is the other share.  Both are 0.5.
        refresh_every: iterations between two refreshes of the centroids.
        refresh: all: of all clusters that have members (released code); changed: of those alone that gained or lost one since the
            last (the paper), which misses members that moved and stayed.
        least: members below which a cluster is small.
        repair: loop: until no cluster is small, which is certain up to half the mean size (`check_least`); once: a single pass
            (released code), which leaves small clusters where a split is uneven.
        repair_every: iterations between two repairs.
        power: a cluster of N_c members weighs N_c ** -power in the loss; 0.5 in ODC.
    """

    similarity: str = "dot"
    momentum: float = 0.5
    refresh_every: int = 10
    refresh: str = "all"
    least: int = 20
    repair: str = "loop"
    repair_every: int = 1
    power: float = 0.5


def check_least(images: int, k: int, least: int) -> bool:
    """Whether repairs are certain to leave no cluster of fewer than ``least`` members: up to half the mean size.

    Raises:
        UsageError: fewer than two clusters, more clusters than images, or ``least`` above the mean size, which not all can have.
    """
    if k < 2 or k > images:
        raise UsageError(f"k: found {k}, wanted 2 to {images}, the number of usable images")
    if not 1 <= least <= images // k:
        raise UsageError(f"least members: found {least}, wanted 1 to {images // k}, the mean size of {k} clusters of {images} images",
                         "a smaller number, or fewer clusters")
    return least <= images // k // 2


def least_members(images: int, k: int, size: int) -> int:
    """Members below which a cluster is small: 20, or 15 % of the mean size for views up to 64 px; never above half the mean size
    where that is 1 or more."""
    asked = LEAST if size > SMALL_SIDE else max(2, int(LEAST_SHARE * images / k + 0.5))
    return max(1, min(asked, images // k // 2))


def draw_epoch(ok: NDArray[np.bool_], epoch_length: float, key: Key) -> NDArray[np.int64]:
    """Usable images with replacement, one for each draw position; (M,) int64, M = int(epoch_length * usable), at least 1.

    ODC, released code: ``sampling_replace``; an epoch sees about 63 % of the images.
    """
    usable = np.flatnonzero(ok)
    places = np.arange(max(1, int(epoch_length * len(usable))))
    at = (key.uniform("with-replacement", places) * len(usable)).astype(np.int64)
    return usable[np.minimum(at, len(usable) - 1)]


def size_weights(size: NDArray[np.int64], power: float = 0.5) -> NDArray[np.float64]:
    """Weight of each cluster in the loss, of sum 1; ODC section 3.2.  (K,) int64 -> (K,) float64."""
    weight = (size + EPS) ** -power
    return np.asarray(weight / weight.sum(), np.float64)


def weighted_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, each image by the weight of its cluster and divided by the batch's weights, so that their scale means nothing.

    Args:
        logits: (B, K); target: (B,) int64; weight: (K,).
    """
    from torch.nn import functional

    w = weight[target]
    return (functional.cross_entropy(logits, target, reduction="none") * w).sum() / w.sum()


class Online:
    """The memories of one run, which `start` makes and `of` takes from a checkpoint.

    Attributes:
        bank: embeddings (N, D), rows of unit length.
        parts: labels, sizes, members.
        centroid: (K, D) float32 on the bank's device; means of unit rows, not normalised.
        counts: by the names of `COUNTED`.
    """

    def __init__(self, bank: Bank, parts: Partition, rules: Rules, *, centroid: torch.Tensor | None = None,
                 counts: dict[str, int] | None = None) -> None:
        import torch

        self.bank, self.parts, self.rules = bank, parts, rules
        self._bits = min(40, 62 - len(parts.labels).bit_length())
        shape = (len(parts.size), bank.rows.shape[1])
        self._sums = torch.zeros(shape, dtype=torch.int64, device=bank.rows.device)
        inside = np.flatnonzero(parts.labels >= 0)
        for start in range(0, len(inside), _BLOCK):
            rows = inside[start:start + _BLOCK]
            self._add(parts.labels[rows], self.bank.rows[self._index(rows)])
        self.centroid = torch.zeros(shape, device=bank.rows.device) if centroid is None else centroid
        self._changed = np.zeros(shape[0], bool)
        self.counts = dict.fromkeys(COUNTED, 0) | (counts or {})
        if centroid is None:
            self._to_means(np.flatnonzero(parts.size))

    @classmethod
    def start(cls, features: NDArray[np.float32], labels: NDArray[np.int32], ok: NDArray[np.bool_], k: int, rules: Rules, key: Key,
              device: torch.device | str = "cpu") -> Online:
        """Memories of embeddings that were clustered; empty clusters take half of the largest one, by 2-means.

        Args:
            features: (N, D) of the fixed views, not necessarily of unit length; rows of bad images may hold anything.
            labels: (N,) clusters, 0..K-1 for every usable image.
            ok: (N,) which images can be used.
            k: number of clusters.
            rules: see `Rules`.
            key: names the draws.
            device: where the products are computed.

        Raises:
            UsageError: see `check_least`.
            DataError: a usable image without a cluster, or with features that are not finite.
        """
        check_least(int(ok.sum()), k, rules.least)
        unit = np.zeros(features.shape, np.float32)
        for start in range(0, len(features), _BLOCK):
            part = slice(start, start + _BLOCK)
            x = np.where(ok[part, None], features[part], np.float32(0))
            if not np.isfinite(x).all():
                raise DataError(f"features: row {start + int(np.argmin(np.isfinite(x).all(axis=1)))} is not finite", "a model of finite weights")
            unit[part] = x / (np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None] + _UNIT_EPS)
        made = cls(Bank.of(unit, ok, device), Partition(_checked(labels, ok, k, "labels"), k), rules)
        made._repair(1, key.at(stage="init"))
        made.begin_epoch()
        return made

    @classmethod
    def of(cls, memory: dict[str, NDArray[Any]], ok: NDArray[np.bool_], k: int, rules: Rules, device: torch.device | str = "cpu") -> Online:
        """Memories as `arrays` gave them; members' sums are made anew, from all N rows.

        Raises:
            UsageError: see `check_least`.
            DataError: of other images, of another number of clusters, or not finite.
        """
        import torch

        check_least(int(ok.sum()), k, rules.least)
        bank = Bank.of(memory[BANK], ok, device)
        centroid, counts = memory[CENTROID], memory[COUNTS]
        if centroid.shape != (k, bank.rows.shape[1]) or not np.isfinite(centroid).all():
            raise DataError(f"checkpoint: /memory/{CENTROID}: shape {centroid.shape}, expected {(k, bank.rows.shape[1])} finite numbers: "
                            "clusters x dimensions", "the number of clusters is what the run began with")
        if counts.shape != (len(COUNTED),) or (counts < 0).any():
            raise DataError(f"checkpoint: /memory/{COUNTS}: shape {counts.shape}, expected {(len(COUNTED),)} numbers from 0",
                            "go on from an earlier checkpoint")
        changed = memory.get(CHANGED, np.ones(k, np.uint8))
        labels = _checked(memory[LABELS], ok, k, f"checkpoint: /memory/{LABELS}")
        made = cls(bank, Partition(labels, k), rules, centroid=torch.from_numpy(np.array(centroid, np.float32)).to(device),
                   counts=dict(zip(COUNTED, counts.tolist(), strict=True)))
        made._changed = changed > 0
        return made

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that the next iteration needs, for a checkpoint's memory; copies."""
        found: dict[str, NDArray[Any]] = {
            BANK: self.bank.array(), LABELS: self.parts.labels.copy(), CENTROID: self.centroid.cpu().numpy().copy(),
            COUNTS: np.array([self.counts[name] for name in COUNTED], np.int64)}
        return found | ({CHANGED: self._changed.astype(np.uint8)} if self.rules.refresh == "changed" else {})

    # -- an iteration

    def begin_epoch(self) -> None:
        """Count from 0 again; the iterations go on."""
        self.counts = dict.fromkeys(COUNTED, 0) | {"iterations": self.counts["iterations"]}

    def targets(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Labels of images as they stand; (B,) int64 on the device."""
        return self._index(self.parts.labels[rows].astype(np.int64))

    def weights(self) -> torch.Tensor:
        """Weight of each cluster in the loss as sizes stand; (K,) float32 on the device."""
        import torch

        return torch.from_numpy(size_weights(self.parts.size, self.rules.power).astype(np.float32)).to(self.centroid.device)

    def see(self, rows: NDArray[np.int64], embedding: torch.Tensor) -> float:
        """Move the memory's rows of a batch, and give its images the labels of the nearest centroids, the first of equal ones.

        An image that stands twice counts once, by its last place.  Of several processes each does this with the joined batches.

        Args:
            rows: (B,) images.
            embedding: (B, D) of any length; no gradient is kept.

        Returns:
            Share of the batch's places whose image has another label than before.

        Raises:
            DataError: an embedding that is not finite; nothing has changed then.
            ValueError: a bad image.
        """
        import torch

        with torch.no_grad():
            u = embedding.detach().to(self.bank.rows)
            if not bool(torch.isfinite(u).all()):
                row = int(rows[int(torch.isfinite(u).all(dim=1).int().argmin())])
                raise DataError(f"embeddings: row {row} is not finite", "a smaller --lr; the last committed epoch stands")
            last = last_places(rows)
            images, before = rows[last], self.parts.labels[rows]
            at = self._index(images)
            old = self.bank.rows[at]
            self.bank.update(rows, u / (u.norm(dim=1, keepdim=True) + _UNIT_EPS), self.rules.momentum)
            new = self.bank.rows[at]
            self._add(before[last], old, -1)
            to = self._nearest(new)
            self._add(to, new)
            self._mark(before[last], to)
            self.parts.move(images, to)
        changed = int((self.parts.labels[rows] != before).sum())
        self.counts["seen"] += len(rows)
        self.counts["changed"] += changed
        return changed / len(rows)

    def after_step(self, key: Key) -> None:
        """Refresh centroids and repair small clusters, where it is time to.

        Args:
            key: of the epoch; draws are named by it and by the number of the iteration.
        """
        self.counts["iterations"] += 1
        if self.counts["iterations"] % self.rules.refresh_every == 0:
            filled = self.parts.size > 0
            self._to_means(np.flatnonzero(filled & self._changed if self.rules.refresh == "changed" else filled))
            self._changed[:] = False
        if self.counts["iterations"] % self.rules.repair_every == 0:
            self._repair(self.rules.least, key)

    # -- the repair of small clusters

    def _repair(self, least: int, key: Key) -> None:
        """Members of small clusters join others, and half of the largest cluster takes their place; pass by pass."""
        loop = self.rules.repair == "loop"
        for number in range(PASSES + 1 if loop else 1):
            small = np.flatnonzero(self.parts.size < least)
            if not len(small):
                return
            self.counts["passes"] += 1
            self.counts["small"] += len(small)
            self._join(small)
            for cluster in small.tolist():
                self._split(cluster, key, f"online/{self.counts['iterations']}/{number}/{cluster}", balanced=number == PASSES)

    def _join(self, small: NDArray[np.int64]) -> None:
        """Members of small clusters go to the nearest centroid of all others, which stay where they are."""
        rows = np.concatenate([self.parts.members(c) for c in small.tolist()])
        if not len(rows):
            return
        self.counts["joined"] += len(rows)
        values = self.bank.rows[self._index(rows)]
        self._put(rows, values, self._nearest(values, without=small))

    def _split(self, cluster: int, key: Key, operation: str, *, balanced: bool) -> None:
        """Half of the cluster that is now the largest, the first of equal ones, becomes ``cluster``; both centroids become means."""
        largest = int(self.parts.size.argmax())
        rows = self.parts.members(largest)
        values = self.bank.rows[self._index(rows)]
        side = halves(values, key, operation, balanced=balanced)
        self._put(rows[side], values[self._index(np.flatnonzero(side))], np.full(int(side.sum()), cluster, np.int64))
        self._to_means(np.array([largest, cluster]))
        self.counts["splits"] += 1
        self.counts["balanced"] += int(balanced)

    # -- sums, means and scores

    def _index(self, rows: NDArray[np.int64]) -> torch.Tensor:
        import torch

        return torch.from_numpy(rows).to(self.bank.rows.device)

    def _put(self, rows: NDArray[np.int64], values: torch.Tensor, to: NDArray[np.int64]) -> None:
        """Move images whose memory stays as it is."""
        before = self.parts.labels[rows]
        self._add(before, values, -1)
        self._add(to, values)
        self._mark(before, to)
        self.parts.move(rows, to)

    def _mark(self, before: NDArray[np.int32], to: NDArray[np.int64]) -> None:
        moved = before != to
        self._changed[before[moved]] = True
        self._changed[to[moved]] = True

    def _add(self, cluster: NDArray[np.integer], values: torch.Tensor, sign: int = 1) -> None:
        """Add rows to the sums of their clusters, or take them off."""
        self._sums.index_add_(0, self._index(cluster.astype(np.int64)), _whole(values, self._bits), alpha=sign)

    def _to_means(self, clusters: NDArray[np.int64]) -> None:
        """Centroids of these clusters, none of them empty, become the means of their members."""
        at, size = self._index(clusters), self._index(self.parts.size[clusters])
        self.centroid[at] = self._sums[at].double().div_((size.double() * 2.0**self._bits)[:, None]).float()

    def _nearest(self, values: torch.Tensor, without: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Nearest centroid of each row, the first of equal ones, (M, D) -> (M,) int64; none of ``without``."""
        import torch

        away = (self.centroid * self.centroid).sum(dim=1) / 2 if self.rules.similarity == "l2" else None
        found, block = [], max(1, _SCORES // len(self.centroid))
        for start in range(0, len(values), block):
            score = values[start:start + block] @ self.centroid.T
            if away is not None:
                score -= away
            if without is not None:
                score[:, self._index(without)] = -torch.inf
            found.append(score.argmax(dim=1))
        nearest: NDArray[np.int64] = torch.cat(found).cpu().numpy()
        return nearest


def _whole(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Numbers of at most 1 as multiples of 2 ** -bits, int64: at most 2 ** -41 away, for up to 4 million images, and their sums exact."""
    import torch

    return (values.double() * 2.0**bits).round().to(torch.int64)


def _checked(labels: NDArray[np.int32], ok: NDArray[np.bool_], k: int, where: str) -> NDArray[np.int32]:
    """Labels of these images, -1 for bad ones."""
    if labels.shape != ok.shape:
        raise DataError(f"{where}: shape {labels.shape}, expected {ok.shape}, one for each image", "labels of these images")
    wrong = ok & ((labels < 0) | (labels >= k))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{where}: row {row}: found {int(labels[row])}, expected 0 to {k - 1}: every usable image is in a cluster",
                        "labels that were not purified")
    return np.where(ok, labels, np.int32(-1)).astype(np.int32)
