"""PCP: purification with votes, and the loss over a memory of all images against a softmax head of as many products."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from benchmarks.data import Scale
from benchmarks.table import Row, race
from ucl.artifacts import Labels
from ucl.context import Context
from ucl.purify import purify
from ucl.settings import PurifySettings, TrainSettings

VOTING = PurifySettings(keep_nearest=0.5, min_size=2, votes=True)
WITHIN = 0.3
"""Seconds in which 50,000 images, 15 past epochs and 1,000 clusters are to be purified."""
CLOSE = 1e-4
"""Largest difference of the two sides' mean losses."""


@functools.cache
def voted(images: int, clusters: int) -> Labels:
    """Labels of one epoch and 15 past ones: each image changes its cluster in a tenth of them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, clusters, images).astype(np.int32)
    moved = rng.random((15, images)) < 0.1
    past = np.where(moved, rng.integers(0, clusters, (15, images)), labels).astype(np.int32)
    return Labels(labels, distance=rng.random(images).astype(np.float32), mean=np.zeros((clusters, 1), np.float32),
                  centroid=np.zeros((clusters, 1), np.float32), history=np.concatenate([past, labels[None]]),
                  history_epoch=np.arange(16, dtype=np.int32))


def loop(labels: Labels) -> int:
    """The same purification cluster by cluster, as the paper tells it; returns how many images keep a label."""
    assert labels.distance is not None
    assert labels.history is not None
    kept = 0
    weight = VOTING.vote_decay ** np.arange(16)
    newest_first = labels.history[::-1]
    for c in range(labels.k):
        member = np.flatnonzero(labels.labels == c)
        member = member[np.argsort(labels.distance[member], kind="stable")]
        if not len(member):
            continue
        agree = newest_first[:, member] == newest_first[:, member[:1]]
        score = (np.where(agree, 1.0, -1.0) * weight[:, None]).sum(0)
        near = np.arange(len(member)) < int(len(member) * VOTING.keep_nearest + 1e-9)
        stays = np.where(near, score >= VOTING.drop_below, score >= VOTING.pull_back_from)
        stays[0] = stays[0] or near[0]
        kept += int(stays.sum()) if stays.sum() >= VOTING.min_size else 0
    return kept


def votes(scale: Scale) -> Row:
    """Against a loop over the clusters; the goal is on our time alone."""
    n, k = scale.of(50_000, 2_000), scale.of(1_000, 40)
    labels = voted(n, k)
    kept = int((purify(labels, VOTING, Context()).labels >= 0).sum())
    faults = () if kept == loop(labels) else (f"{kept} images keep their label, by the loop {loop(labels)}",)
    pairs = race(lambda: void(purify(labels, VOTING, Context())), lambda: void(loop(labels)), scale.repeat)
    return Row("purify-votes", "purify with votes", "a loop over clusters", pairs, most=WITHIN, faults=faults,
               note=f"{n} images, {k} clusters, 15 past epochs; {kept} keep their label")


def linear(scale: Scale) -> Row:
    """Four times the images in one go against four goes."""
    n, k = scale.of(50_000, 2_000), scale.of(1_000, 40)
    small, large = voted(n, k), voted(4 * n, 4 * k)

    def four() -> None:
        for _ in range(4):
            purify(small, VOTING, Context())

    pairs = race(lambda: void(purify(large, VOTING, Context())), four, scale.repeat)
    return Row("purify-linear", f"purify {4 * n} images", f"four times {n} images", pairs, goal=1.5)


def void(made: object) -> None:
    """Drop what was made."""


def loss(scale: Scale) -> Row:
    """A batch's loss and gradient over the memory, half of the images in clusters, against the cross-entropy of a fixed head."""
    import torch
    from torch.nn import functional

    from ucl.keys import Key
    from ucl.objectives.bank import Bank
    from ucl.objectives.mixed import Sets, exact

    torch.set_num_threads(scale.threads)
    n, k, batch, dim, tau = scale.of(50_000, 2_000), scale.of(1_000, 40), 128, 128, TrainSettings.tau
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(n) < 0.5, rng.integers(0, k, n), -1).astype(np.int32)
    bank, sets = Bank.fresh(np.ones(n, bool), dim, Key()), Sets.of(labels)
    rows = rng.permutation(n)[:batch].astype(np.int64)
    start = functional.normalize(torch.from_numpy(rng.standard_normal((batch, dim)).astype(np.float32)))
    at = torch.from_numpy(rows)

    def step(make: Callable[[torch.Tensor], torch.Tensor]) -> float:
        v = start.clone().requires_grad_()
        found = make(v)
        found.backward()  # type: ignore[no-untyped-call]
        return float(found)

    def mixed(v: torch.Tensor, which: Sets) -> torch.Tensor:
        return exact(v, bank, which.columns(rows), tau=tau).mean()

    def head(v: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(v @ bank.rows.T / tau, at)

    alone = Sets.of(np.full(n, -1, np.int32))
    apart = abs(step(lambda v: mixed(v, alone)) - step(head))
    steps = scale.of(20, 3)
    pairs = race(lambda: void([step(lambda v: mixed(v, sets)) for _ in range(steps)]), lambda: void([step(head) for _ in range(steps)]), scale.repeat)
    return Row("loss-memory", "mixed.exact", "a fixed softmax head", pairs, goal=1.3,
               faults=(f"losses without clusters differ by {apart:.1e}",) if apart > CLOSE else (),
               note=f"batch {batch}, {n} images x {dim}, half of them in {k} clusters; {steps} steps")


ROWS: dict[str, Callable[[Scale], Row]] = {"purify-votes": votes, "purify-linear": linear, "loss-memory": loss}
