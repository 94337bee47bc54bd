"""ucl.objectives.online and what it stands on, against plain loops over the rules of Online Deep Clustering, and its worked cases."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch.nn import functional

from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.objectives import online
from ucl.objectives.halving import halves, two_means
from ucl.objectives.online import CENTROID, CHANGED, COUNTS, LABELS, Online, Rules, check_least, draw_epoch, size_weights, weighted_loss
from ucl.objectives.partition import Partition

NEVER = 1 << 40
KEY = Key(7, stage="train-epoch", epoch=2)


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def made(n: int = 60, k: int = 4, d: int = 5, seed: int = 0, bad: tuple[int, ...] = (), labels: Any = None, **rules: Any) -> Online:
    rng = np.random.default_rng(seed)
    ok = np.ones(n, bool)
    ok[list(bad)] = False
    y = np.arange(n) % k if labels is None else np.array(labels)
    chosen = Rules(**{"least": 2} | rules)
    return Online.start(unit(rng, n, d).astype(np.float32) * 3, y.astype(np.int32), ok, k, chosen, KEY)


def batch(rng: np.random.Generator, n: int, b: int, d: int) -> tuple[np.ndarray, torch.Tensor]:
    return rng.integers(0, n, b), torch.from_numpy(rng.standard_normal((b, d)).astype(np.float32))


def means(o: Online) -> np.ndarray:
    rows, y = o.bank.array().astype(np.float64), o.parts.labels
    return np.stack([rows[y == c].mean(axis=0) if (y == c).any() else np.full(rows.shape[1], np.nan) for c in range(len(o.parts.size))])


def state(o: Online) -> dict[str, np.ndarray]:
    return o.arrays() | {"size": o.parts.size.copy(), "sums": o._sums.numpy().copy()}


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


class Slow:
    """One iteration as the text has it, image by image, in float64."""

    def __init__(self, o: Online) -> None:
        self.f = o.bank.array().astype(np.float64)
        self.y = o.parts.labels.astype(int).tolist()
        self.c = o.centroid.numpy().astype(np.float64)
        self.rules, self.t = o.rules, o.counts["iterations"]
        self.moved: set[int] = set()

    def members(self, c: int) -> list[int]:
        return [i for i, label in enumerate(self.y) if label == c]

    def nearest(self, x: np.ndarray, among: list[int]) -> int:
        def score(c: int) -> float:
            return float(self.c[c] @ x) if self.rules.similarity == "dot" else -float(((self.c[c] - x) ** 2).sum())
        return max(among, key=lambda c: (score(c), -c))

    def put(self, i: int, c: int) -> None:
        if self.y[i] != c:
            self.moved |= {self.y[i], c}
        self.y[i] = c

    def step(self, rows: np.ndarray, u: np.ndarray, key: Key) -> None:
        m, k = 1 - self.rules.momentum, len(self.c)
        old_f = self.f.copy()
        for i, x in zip(rows.tolist(), u, strict=True):
            new = m * x / (np.linalg.norm(x) + 1e-10) + (1 - m) * old_f[i]
            self.f[i] = new / max(np.linalg.norm(new), 1e-12)
        for i in rows.tolist():
            self.put(i, self.nearest(self.f[i], list(range(k))))
        self.t += 1
        if self.t % self.rules.refresh_every == 0:
            for c in range(k):
                if self.members(c) and (self.rules.refresh == "all" or c in self.moved):
                    self.c[c] = self.f[self.members(c)].mean(axis=0)
            self.moved = set()
        if self.t % self.rules.repair_every == 0:
            self.repair(key)

    def repair(self, key: Key) -> None:
        k = len(self.c)
        for number in range(11 if self.rules.repair == "loop" else 1):
            small = [c for c in range(k) if len(self.members(c)) < self.rules.least]
            if not small:
                return
            rest = [c for c in range(k) if c not in small]
            for s in small:
                for i in self.members(s):
                    self.put(i, self.nearest(self.f[i], rest))
            for s in small:
                largest = max(range(k), key=lambda c: (len(self.members(c)), -c))
                rows = self.members(largest)
                side = halves(torch.from_numpy(self.f[rows].astype(np.float32)), key, f"online/{self.t}/{number}/{s}", balanced=number == 10)
                for i, goes in zip(rows, side.tolist(), strict=True):
                    if goes:
                        self.put(i, s)
                for c in (largest, s):
                    self.c[c] = self.f[self.members(c)].mean(axis=0)


# ---- labels that move


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 7), st.sampled_from(("any", "one", "two")))
def test_a_partition_is_its_labels(seed: int, n: int, k: int, target: str) -> None:
    """Sizes and members after any moves are those of the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, k, n).astype(np.int32)
    parts, wanted = Partition(labels, k), labels.copy()
    inside = np.flatnonzero(labels >= 0)
    for _ in range(12):
        rows = rng.permutation(inside)[:rng.integers(0, len(inside) + 1)]
        to = rng.integers(0, k if target == "any" else min(k, 1 + (target == "two")), len(rows)) * (1 if rng.random() < 0.7 else 0)
        moved = parts.move(rows, to)
        assert moved == int((wanted[rows] != to).sum())
        wanted[rows] = to
        assert np.array_equal(parts.labels, wanted)
        assert parts.size.tolist() == [int((wanted == c).sum()) for c in range(k)]
        for c in range(k):
            assert parts.members(c).tolist() == np.flatnonzero(wanted == c).tolist()
    assert labels is not parts.labels


def test_moving_is_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """All N images are laid out once in so many moves, not once an iteration: clusters that swell take room of their own."""
    n, k, laid, moved = 20_000, 50, 0, 0
    whole = Partition._lay_out

    def counted(self: Partition) -> None:
        nonlocal laid
        laid += 1
        whole(self)

    monkeypatch.setattr(Partition, "_lay_out", counted)
    rng = np.random.default_rng(0)
    parts = Partition(rng.integers(0, k, n).astype(np.int32), k)
    for step in range(600):
        rows = rng.choice(n, 256, replace=False)
        moved += parts.move(rows, np.minimum(rng.integers(0, k, 256), (step // 40) % k))   # swells, and moves on
    assert moved > 5 * n
    assert laid < 1 + 8 * moved / n
    assert parts.size.tolist() == np.bincount(parts.labels, minlength=k).tolist()


# ---- a cluster in two


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 4))
def test_two_means_finds_the_best_split_of_few_rows(seed: int, n: int, d: int) -> None:
    """No split of all 2**n has a lower sum of squares by more than Lloyd's local optimum of ten starts; two far groups are told apart."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * 0.1 + np.where(np.arange(n) % 2, 4.0, -4.0)[:, None]
    side, along = two_means(torch.from_numpy(x.astype(np.float32)), Key(seed), "a")
    assert len({bool(s) for s in side[::2]}) == 1
    assert len({bool(s) for s in side}) == 2
    assert (side == (along > 0)).all()

    def objective(mask: np.ndarray) -> float:
        return sum(float(((x[m] - x[m].mean(axis=0)) ** 2).sum()) for m in (mask, ~mask) if m.any())

    best = min(objective(np.array(mask)) for mask in itertools.product((False, True), repeat=n))
    assert objective(side) == pytest.approx(best, rel=1e-4, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.integers(1, 4))
def test_everybody_is_nearest_to_the_mean_of_the_own_side(seed: int, n: int, d: int) -> None:
    """Few rows settle within the iterations, whatever the sides' sizes."""
    x = np.random.default_rng(seed).standard_normal((n, d)) ** 3
    side, _ = two_means(torch.from_numpy(x.astype(np.float32)), Key(seed), "a")
    assert not side[0]
    assert side.any()
    to = [((x - x[m].mean(axis=0)) ** 2).sum(axis=1) for m in (~side, side)]
    assert (np.where(side, to[1] - to[0], to[0] - to[1]) < 1e-3).all()


@pytest.mark.parametrize("seed", range(6))
def test_two_means_is_as_good_as_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = unit(rng, 150, 6).astype(np.float32)
    side, _ = two_means(torch.from_numpy(x), Key(seed), "a")
    theirs = KMeans(2, n_init=10, max_iter=20, random_state=0).fit(x)
    ours = sum(float(((x[m] - x[m].mean(axis=0)) ** 2).sum()) for m in (side, ~side))
    assert ours <= theirs.inertia_ * 1.02
    for m in (side, ~side):                                                   # nobody is nearer to the other side's mean, or nearly so
        far = ((x[m] - x[~m].mean(axis=0)) ** 2).sum(1) - ((x[m] - x[m].mean(axis=0)) ** 2).sum(1)
        assert (far < -0.05).mean() < 0.05


def test_halves_of_equal_rows_and_balanced_ones() -> None:
    """Equal rows part at random, by the key; balanced halves are the lower and the upper ones along 2-means' axis."""
    same = torch.ones(9, 3)
    side = halves(same, KEY, "a")
    assert side.sum() in (4, 5)
    assert np.array_equal(side, halves(same, KEY, "a"))
    assert any(not np.array_equal(side, halves(same, KEY, str(i))) for i in range(5))
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [100.0]])
    uneven, even = halves(x, KEY, "b"), halves(x, KEY, "b", balanced=True)
    assert sorted((int(uneven.sum()), int((~uneven).sum()))) == [1, 5]
    assert even.tolist() in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)
    for n in (2, 3, 7):
        for name in "abcdef":
            assert n // 2 <= halves(torch.arange(n).float()[:, None] ** 3, KEY, name, balanced=True).sum() <= n - n // 2


def test_the_side_that_leaves_is_drawn() -> None:
    x = torch.tensor([[0.0], [0.1], [9.0]])
    left = [int(halves(x, KEY, str(i)).sum()) for i in range(200)]
    assert set(left) == {1, 2}
    assert 60 < left.count(1) < 140


# ---- O1, O2, O3: the memories


def test_at_the_start() -> None:
    """O1: unit rows or zeros, no empty cluster, centroids are means; bad images are nowhere."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((40, 6))).astype(np.float32) * 5
    x[7] = 0
    x[3] = np.nan
    ok = np.arange(40) != 3
    y = rng.integers(0, 3, 40).astype(np.int32)                               # clusters 3 and 4 are empty
    y[3] = -1
    o = Online.start(x, y, ok, 5, Rules(least=2), KEY)
    norms = np.linalg.norm(o.bank.array(), axis=1)
    assert norms[[3, 7]].tolist() == [0, 0]
    assert np.delete(norms, [3, 7]) == pytest.approx(np.ones(38), abs=1e-6)
    assert o.parts.labels[3] == -1
    assert o.parts.size.sum() == 39
    assert (o.parts.size >= 1).all()
    assert o.centroid.numpy() == pytest.approx(means(o), abs=1e-6)
    assert o.counts == dict.fromkeys(online.COUNTED, 0)
    x[5] = np.inf
    with pytest.raises(DataError, match="row 5 is not finite"):
        Online.start(x, y, ok, 5, Rules(least=2), KEY)


def test_a_start_without_empty_clusters_keeps_its_labels() -> None:
    o = made()
    assert np.array_equal(o.parts.labels, np.arange(60) % 4)


def test_a_refresh_makes_means_and_leaves_empty_clusters() -> None:
    """O2."""
    o = made(k=4, refresh_every=3, repair_every=NEVER, momentum=0.0, similarity="l2")
    empty = np.flatnonzero(o.parts.labels == 2)
    o._put(empty, o.bank.rows[torch.from_numpy(empty)], np.zeros(len(empty), np.int64))
    o.centroid[2] = -9                                                         # far from all rows
    before, rng = o.centroid.clone(), np.random.default_rng(1)
    for step in range(3):
        o.see(*batch(rng, 60, 8, 5))
        o.after_step(KEY)
        assert (step < 2) == torch.equal(o.centroid, before)                   # stale until the refresh
    assert o.parts.size[2] == 0
    assert torch.equal(o.centroid[2], before[2])
    filled = [0, 1, 3]
    assert o.centroid.numpy()[filled] == pytest.approx(means(o)[filled], abs=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_memory_rows_move_towards_embeddings(momentum: float) -> None:
    """O3."""
    o = made(momentum=momentum)
    before, rng = o.bank.array().astype(np.float64), np.random.default_rng(3)
    rows, u = np.array([4, 9, 30]), torch.from_numpy(rng.standard_normal((3, 5)).astype(np.float32) * 7)
    o.see(rows, u.requires_grad_())
    others = np.setdiff1d(np.arange(60), rows)
    assert np.array_equal(o.bank.array()[others], before[others].astype(np.float32))
    hat = functional.normalize(u.detach().double(), dim=1).numpy()
    wanted = (1 - momentum) * hat + momentum * before[rows]
    assert np.linalg.norm(o.bank.array()[rows], axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert o.bank.array()[rows] == pytest.approx(wanted / np.linalg.norm(wanted, axis=1, keepdims=True), abs=1e-6)


# ---- the iteration


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(("dot", "l2")), st.sampled_from(("all", "changed")), st.sampled_from(("loop", "once")),
       st.integers(1, 4), st.integers(1, 3), st.sampled_from((0.0, 0.5, 0.8)), st.integers(2, 6))
def test_iterations_against_plain_loops(seed: int, similarity: str, refresh: str, repair: str, every: int, least: int, momentum: float,
                                        k: int) -> None:
    """Memory, labels, centroids after each of several iterations, whatever has a name; images stand twice in a batch."""
    rng = np.random.default_rng(seed)
    n, d = 30, 4
    o = made(n, k, d, seed, labels=rng.integers(0, k, n), similarity=similarity, refresh=refresh, repair=repair, refresh_every=every,
             least=least, momentum=momentum)
    slow = Slow(o)
    slow.moved = set(np.flatnonzero(o._changed).tolist())
    for _ in range(5):
        rows, u = batch(rng, n, 12, d)
        before = o.parts.labels[rows].copy()
        changed = o.see(rows, u)
        assert changed == (before != o.parts.labels[rows]).mean()
        o.after_step(KEY)
        slow.step(rows, u.numpy().astype(np.float64), KEY)
        assert o.parts.labels.tolist() == slow.y
        assert o.bank.array() == pytest.approx(slow.f, abs=2e-6)
        assert o.centroid.numpy() == pytest.approx(slow.c, abs=2e-6)
    assert o.counts["iterations"] == 5
    assert o.counts["seen"] == 60
    assert np.array_equal(o._sums.numpy(), Online(o.bank, o.parts, o.rules)._sums.numpy())       # exact, however they were made


def test_dot_and_distance_choose_differently() -> None:
    """A long centroid far away has the larger product, a short one nearby the smaller distance."""
    for similarity, wanted in (("dot", 1), ("l2", 0)):
        o = made(n=4, k=2, d=2, labels=[0, 0, 1, 1], similarity=similarity, momentum=0.0, least=1)
        o.centroid[:] = torch.tensor([[0.9, 0.0], [1.5, 1.2]])
        o.see(np.array([0]), torch.tensor([[5.0, 0.0]]))
        assert o.parts.labels[0] == wanted


def test_the_loss_is_of_the_labels_before() -> None:
    """O4: labels that the same batch changes are for the next one."""
    a, b = made(), made()
    b.centroid = b.centroid.flip(0)
    rng = np.random.default_rng(0)
    rows, u = batch(rng, 60, 16, 5)
    head = torch.from_numpy(rng.standard_normal((4, 5)).astype(np.float32))
    before = [weighted_loss(u @ head.T, o.targets(rows), o.weights()) for o in (a, b)]
    stored = a.parts.labels[rows].copy()
    shares = [o.see(rows, u) for o in (a, b)]
    assert torch.equal(before[0], before[1])
    assert not np.array_equal(a.parts.labels, b.parts.labels)
    assert max(shares) > 0
    assert not np.array_equal(a.targets(rows).numpy(), stored)


# ---- O5, O6, O12: small clusters


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 6), st.sampled_from(("random", "one", "line")), st.integers(0, 9))
def test_a_repair_keeps_its_promise(seed: int, k: int, least: int, shape: str, more: int) -> None:
    """O5: the loop leaves no cluster below the least, up to half the mean size, for any rows and sizes; a single pass leaves none empty."""
    rng = np.random.default_rng(seed)
    n = 2 * least * k + more
    y = np.minimum(rng.geometric(0.5, n) - 1, k - 1) if shape != "one" else np.full(n, rng.integers(0, k))
    x = unit(rng, n, 3) if shape != "line" else np.stack([np.ones(n), 2.0 ** -np.arange(n), np.zeros(n)], 1)   # splits 1 : n - 1
    assert check_least(n, k, least)
    for repair in ("once", "loop"):
        o = Online.start(x.astype(np.float32), np.arange(n, dtype=np.int32) % k, np.ones(n, bool), k, Rules(least=least, repair=repair), KEY)
        o._put(np.arange(n), o.bank.rows, y.astype(np.int64))
        o.after_step(KEY)
        assert o.parts.size.sum() == n
        assert np.array_equal(o.parts.size, np.bincount(o.parts.labels, minlength=k))
        assert o.parts.labels.min() == 0
        assert o.parts.labels.max() == k - 1
        assert o.parts.size.min() >= (least if repair == "loop" else 1)


def test_without_small_clusters_nothing_changes() -> None:
    """O5."""
    o = made(least=7, refresh_every=NEVER)
    before = state(o)
    o.after_step(KEY)
    after = state(o)
    assert after.pop(COUNTS)[0] == before.pop(COUNTS)[0] + 1
    assert equal(before, after)


def test_the_loop_ends_in_equal_halves_where_2_means_splits_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An uneven split over and over: ten passes, then halves; a single pass leaves the cluster small."""
    whole = halves

    def uneven(x: torch.Tensor, key: Key, operation: str, *, balanced: bool = False) -> np.ndarray:
        return whole(x, key, operation, balanced=True) if balanced else np.arange(len(x)) == 0

    monkeypatch.setattr(online, "halves", uneven)
    for repair in ("once", "loop"):
        o = made(n=40, k=4, least=5, repair=repair)
        o._put(np.arange(40), o.bank.rows, np.minimum(np.arange(40) % 4, 2))
        o.after_step(KEY)
        assert o.parts.size.min() == (1 if repair == "once" else o.parts.size.min())
        assert o.counts["passes"] == (1 if repair == "once" else 11)
        assert o.counts["balanced"] == (0 if repair == "once" else 1)
        assert o.parts.size.min() >= (5 if repair == "loop" else 1)


def test_the_order_of_a_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """O6, by numbers: sizes 10, 6, 1, 0 and least 2.  The image of cluster 2 joins 0 or 1 though 3's centroid lies on it; then clusters 2
    and 3 take half of what is largest then."""
    x = np.zeros((17, 3), np.float32)
    x[:10, 0], x[10:16, 1], x[16] = 1, 1, (0.8, 0.6, 0.0)
    seen: list[int] = []

    def first_half(rows: torch.Tensor, key: Key, operation: str, *, balanced: bool = False) -> np.ndarray:
        seen.append(len(rows))
        return np.arange(len(rows)) < len(rows) // 2

    monkeypatch.setattr(online, "halves", first_half)
    o = Online.start(x, np.arange(17, dtype=np.int32) % 4, np.ones(17, bool), 4, Rules(least=2), KEY)
    o._put(np.arange(17), o.bank.rows, np.array([0] * 10 + [1] * 6 + [2], np.int64))
    o._to_means(np.array([0, 1, 2]))
    o.centroid[3] = o.bank.rows[16]
    o.after_step(KEY)
    assert seen == [11, 6]                          # 0 with its guest; then 0 and 1 are 6 each, and the lower id is split
    assert o.parts.labels.tolist() == [2] * 5 + [3] * 3 + [0] * 2 + [1] * 6 + [0]
    assert o.parts.size.tolist() == [3, 6, 5, 3]
    assert o.centroid.numpy() == pytest.approx(means(o), abs=1e-6)
    assert {name: o.counts[name] for name in ("small", "joined", "splits", "passes")} == {"small": 2, "joined": 1, "splits": 2, "passes": 1}


def test_what_cannot_be_is_refused() -> None:
    """O12."""
    for n, k, least in ((5, 6, 1), (20, 4, 6), (20, 1, 2), (20, 4, 0)):
        with pytest.raises(UsageError):
            check_least(n, k, least)
        with pytest.raises(UsageError):
            made(n=n, k=k, least=least)
    assert check_least(20, 4, 2)
    assert not check_least(20, 4, 3)                                           # possible, and not certain
    assert check_least(5, 5, 1) is False


@pytest.mark.parametrize("equal_rows", [True, False])
def test_a_collapse_is_repaired_at_once(equal_rows: bool) -> None:
    """O12: all images in one cluster, even of equal rows: one repair makes K clusters."""
    n, k = 400, 20
    x = np.ones((n, 4)) if equal_rows else unit(np.random.default_rng(0), n, 4)
    for repair in ("loop", "once"):
        o = Online.start(x.astype(np.float32), np.arange(n, dtype=np.int32) % k, np.ones(n, bool), k, Rules(least=10, repair=repair), KEY)
        o._put(np.arange(n), o.bank.rows, np.full(n, 3, np.int64))
        o.after_step(KEY)
        assert (o.parts.size >= (10 if repair == "loop" else 1)).all()
        assert o.parts.size.sum() == n


def test_more_than_is_certain_ends_too() -> None:
    """Least members between half the mean size and all of it: the repair ends, whatever it reaches."""
    o = made(n=40, k=4, least=10)
    for seed in range(20):
        o.see(*batch(np.random.default_rng(seed), 40, 8, 5))
        o.after_step(KEY)
    assert o.parts.size.sum() == 40
    assert o.parts.size.min() >= 1


# ---- O7: weights


def test_weights_of_the_loss() -> None:
    """O7: positive, of sum 1, in the ratio of the roots; their scale means nothing, and equal ones are plain cross-entropy."""
    size = np.array([100, 25, 4, 400, 0])
    w = size_weights(size)
    assert (w > 0).all()
    assert w.sum() == pytest.approx(1)
    for a, b in itertools.combinations(range(4), 2):
        assert w[a] / w[b] == pytest.approx(math.sqrt(size[b] / size[a]), rel=1e-4)
    assert size_weights(size[:4], 1.0)[:2] == pytest.approx(np.array([1 / 100, 1 / 25]) / (1 / 100 + 1 / 25 + 1 / 4 + 1 / 400), rel=1e-4)
    rng = np.random.default_rng(0)
    logits, y = torch.from_numpy(rng.standard_normal((6, 5))), torch.tensor([0, 1, 2, 3, 1, 0])
    weight = torch.from_numpy(w)
    each = [w[c] * (math.log(sum(math.exp(v) for v in row)) - row[c]) for row, c in zip(logits.tolist(), y.tolist(), strict=True)]
    wanted = sum(each) / sum(w[c] for c in y.tolist())
    for scale in (1, 1e4):
        assert float(weighted_loss(logits, y, weight * scale)) == pytest.approx(wanted, rel=1e-12)
    assert float(weighted_loss(logits, y, torch.from_numpy(size_weights(np.full(5, 9))))) == pytest.approx(float(functional.cross_entropy(logits, y)))
    o = made(k=3, labels=[0] * 40 + [1] * 15 + [2] * 5)
    assert o.weights().numpy() == pytest.approx(size_weights(np.array([40, 15, 5])), rel=1e-6)


# ---- O8, O10, O11


def test_nothing_changes_once_the_network_stands_still() -> None:
    """O8: momentum 0, frozen centroids, the same embeddings again: the share of changed labels is exactly 0, after one that was not."""
    o = made(n=80, momentum=0.0, refresh_every=NEVER, repair_every=NEVER)
    rng = np.random.default_rng(0)
    u = torch.from_numpy(rng.standard_normal((80, 5)).astype(np.float32))
    shares = []
    for _ in range(2):
        shares.append([o.see(rows, u[rows]) for rows in np.split(np.arange(80), 10)])
        for _ in range(10):
            o.after_step(KEY)
    assert 0.5 < np.mean(shares[0]) <= 1
    assert shares[1] == [0.0] * 10
    assert o.counts["changed"] == round(8 * sum(shares[0]))


@pytest.mark.parametrize("rules", [{}, {"refresh": "changed"}, {"repair": "once", "similarity": "l2"}])
def test_a_run_goes_on_from_its_arrays(rules: dict[str, Any]) -> None:
    """O10, with a network: a linear neck and head, trained; stopped and taken up inside, every bit is that of the straight run."""
    rng = np.random.default_rng(0)
    n, k = 90, 5
    images = torch.from_numpy(rng.standard_normal((n, 8)).astype(np.float32))
    ok = np.arange(n) != 11
    chosen = Rules(least=8, refresh_every=4, **rules)

    def walk(stop: int) -> tuple[list[float], dict[str, np.ndarray]]:
        neck, head = (torch.from_numpy(np.random.default_rng(s).standard_normal(shape).astype(np.float32) * 0.3).requires_grad_()
                      for s, shape in ((1, (6, 8)), (2, (k, 6))))
        first = np.random.default_rng(3).integers(0, k - 1, n).astype(np.int32)
        o = Online.start((images @ neck.T).detach().numpy(), first, ok, k, chosen, KEY)
        optimizer, losses = torch.optim.SGD([neck, head], 0.1), []
        rows = draw_epoch(ok, 3.0, KEY)
        for start in range(0, 20 * 12, 12):
            if start == stop * 12:
                kept = {name: np.array(v) for name, v in o.arrays().items()}
                o = Online.of(kept, ok, k, chosen)
            at = rows[start:start + 12]
            u = images[at] @ neck.T
            loss = weighted_loss(u @ head.T, o.targets(at), o.weights())
            o.see(at, u)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            o.after_step(KEY)
            losses.append(float(loss.detach()))
        return losses, state(o)

    straight = walk(-1)
    assert straight[1][COUNTS][online.COUNTED.index("splits")] > 0
    for stop in (1, 7, 10):
        losses, found = walk(stop)
        assert losses == straight[0]
        assert equal(found, straight[1])


def test_which_clusters_changed_is_kept() -> None:
    """A refresh of changed clusters alone, after a restart between the change and the refresh."""
    o = made(refresh="changed", refresh_every=2, repair_every=NEVER, momentum=0.0)
    o._changed[:] = False
    o.centroid[:] = torch.eye(4, 5) * 0.5
    first = o.parts.members(0)[:1]
    o.see(first, torch.eye(5)[1:2])                                            # from cluster 0 to 1
    o.after_step(KEY)
    again = Online.of(o.arrays(), np.ones(60, bool), 4, o.rules)
    for run in (o, again):
        run.see(o.parts.members(2)[:1], torch.eye(5)[2:3])                     # moves, and stays in 2
        run.after_step(KEY)
        assert torch.equal(run.centroid[2:], torch.eye(4, 5)[2:] * 0.5)
        assert run.centroid.numpy()[:2] == pytest.approx(means(run)[:2], abs=1e-6)
    assert equal(state(o), state(again))


def test_zero_embeddings_and_nan() -> None:
    """O11: a zero embedding is a zero row, whose equal scores are cluster 0's; what is not finite changes nothing."""
    o = made(momentum=0.0, least=1)
    o.see(np.array([5, 6]), torch.zeros(2, 5))
    assert not o.bank.array()[[5, 6]].any()
    assert o.parts.labels[[5, 6]].tolist() == [0, 0]
    o.see(np.array([5]), torch.zeros(1, 5))
    assert np.isfinite(o.bank.array()).all()
    before = state(o)
    with pytest.raises(DataError, match="row 8 is not finite"):
        o.see(np.array([7, 8]), torch.tensor([[1.0] * 5, [math.nan] * 5]))
    assert equal(state(o), before)


# ---- bad images, the checkpoint, the draws


def test_bad_images_are_in_no_cluster() -> None:
    o = made(n=30, k=3, bad=(4, 20), labels=[-1 if i in (4, 20) else i % 3 for i in range(30)])
    assert o.parts.labels[[4, 20]].tolist() == [-1, -1]
    assert o.parts.size.sum() == 28
    before = state(o)
    with pytest.raises(ValueError, match="bad image"):
        o.see(np.array([3, 4]), torch.ones(2, 5))
    assert equal(state(o), before)
    drawn = draw_epoch(o.parts.labels >= 0, 2.0, KEY)
    assert len(drawn) == 56
    assert not np.isin(drawn, [4, 20]).any()
    with pytest.raises(DataError, match="row 7: found -1"):
        made(n=30, k=3, labels=[-1 if i == 7 else i % 3 for i in range(30)])


def test_arrays_of_another_run_are_refused() -> None:
    o, ok = made(), np.ones(60, bool)
    kept = o.arrays()
    assert set(kept) == {"bank", LABELS, CENTROID, COUNTS}
    assert set(made(refresh="changed").arrays()) == {"bank", LABELS, CENTROID, COUNTS, CHANGED}
    assert equal(Online.of(kept, ok, 4, o.rules).arrays(), kept)
    for change, match in (({CENTROID: kept[CENTROID][:3]}, "clusters"), ({LABELS: kept[LABELS][:50]}, "one for each image"),
                          ({LABELS: np.full(60, 4, np.int32)}, "0 to 3"), ({COUNTS: kept[COUNTS][:5]}, "numbers from 0"),
                          ({CENTROID: np.full((4, 5), np.nan, np.float32)}, "finite"), ({"bank": kept["bank"][:9]}, "bank")):
        with pytest.raises(DataError, match=match):
            Online.of(kept | change, ok, 4, o.rules)
    with pytest.raises(DataError, match="clusters"):
        Online.of(kept, ok, 5, o.rules)
    kept["bank"][:] = 0                                                        # a copy
    assert o.bank.array().any()


def test_draws_are_even_keyed_and_with_replacement() -> None:
    ok = np.ones(5000, bool)
    drawn = draw_epoch(ok, 1.0, KEY)
    assert len(drawn) == 5000
    assert len(np.unique(drawn)) / 5000 == pytest.approx(1 - 1 / math.e, abs=0.02)
    assert np.array_equal(drawn, draw_epoch(ok, 1.0, KEY))
    assert not np.array_equal(drawn, draw_epoch(ok, 1.0, dataclasses.replace(KEY, epoch=3)))
    assert np.bincount(draw_epoch(np.ones(10, bool), 1000.0, KEY), minlength=10) == pytest.approx(np.full(10, 1000), abs=120)


def test_sums_of_many_images_do_not_overflow() -> None:
    for n in (10, 1_281_167, 3 * 10**9):
        bits = min(40, 62 - n.bit_length())
        assert n * 2**bits < 2**62
    value = torch.tensor([[0.3, -1.0, 1e-9]])
    assert (online._whole(value, 40).double() / 2.0**40).numpy() == pytest.approx(value.double().numpy(), abs=2.0**-41)
