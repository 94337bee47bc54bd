"""ucl.objectives.instance inside an epoch: against the steps by hand, the memory row by row, and resuming.

The numbers of the loss, the memory and the neighbourhoods themselves are worked in test_objectives.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import MEAN, RUNTIME, STD, image_list, new_model, noise, write_pngs
from test_train_epoch import equal, through_file

from ucl import models, store, train_epoch
from ucl.artifacts import UNREADABLE, Checkpoint, Features, ImageList, Labels, Samples
from ucl.batches import Batches
from ucl.cluster import cluster
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.objectives import instance
from ucl.objectives.mixed import draw
from ucl.purify import purify
from ucl.run import silent
from ucl.safepoints import SafePoint
from ucl.settings import ClusterSettings, PurifySettings, TrainSettings
from ucl.train_epoch import Trained

torch.set_num_threads(1)
CONTEXT = Context("pcp", stage="train-epoch", epoch=2, seed=5)
N, P = 24, 8
CLUSTERS = np.array([0, 0, 0, 1, 1, -1, 2, 2, 2, 2, -1, -1] + [-1] * 10 + [1, 0], np.int32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(N)))


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """With a projection to 8 dimensions."""
    made = new_model(projection=P)
    linear = models.new_projection(256, P, Key(1, stage="init"))
    made.model |= {f"projection.{k}": v for k, v in models.to_arrays(linear).items()}
    return made


@pytest.fixture(scope="module")
def y() -> Labels:
    return Labels(CLUSTERS)


def with_bad(images: ImageList, *rows: int) -> ImageList:
    status = images.samples.status.copy()
    status[list(rows)] = UNREADABLE
    return dataclasses.replace(images, samples=Samples(images.samples.path, status))


def train(images: ImageList, model: Checkpoint, y: Labels | None = None, context: Context = CONTEXT, **settings: Any) -> Trained:
    options = {name: settings.pop(name) for name in ("safe", "resume", "previous") if name in settings}
    chosen = TrainSettings(**({"objective": "instance", "batch": 10} | settings))
    return train_epoch.train_epoch(images, model, y, chosen, context, RUNTIME, silent, **options)


def whole(a: Checkpoint, b: Checkpoint) -> bool:
    """Equal bit for bit, memory included."""
    return equal(a, b) and set(a.memory) == set(b.memory) and all(a.memory[k].tobytes() == b.memory[k].tobytes() for k in a.memory)


def safe_points(*args: Any, **settings: Any) -> tuple[Trained, list[Checkpoint]]:
    """An epoch, and its state before every batch."""
    kept: list[Checkpoint] = []
    return train(*args, safe=SafePoint(lambda: True, kept.append), **settings), kept


# the epoch by hand

def close(found: np.ndarray, wanted: np.ndarray, name: str, times: float = 1.0) -> None:
    """Equal but for rounding; a few numbers may differ more, where rounding moved an activation over the kink of its ReLU."""
    np.testing.assert_allclose(found, wanted, rtol=0.02, atol=1e-3 * times, err_msg=name)
    assert np.isclose(found, wanted, rtol=2e-4 * times, atol=2e-5 * times).mean() > 0.95, name


def fresh_bank(dim: int) -> torch.Tensor:
    side = math.sqrt(3 / dim)
    return torch.from_numpy(Key(5, stage="init").uniform("init/bank", np.arange(N * dim), low=-side, high=side).reshape(N, dim)).float()


def neighbours(m: torch.Tensor, share: float, size: int, tau: float) -> dict[int, list[int]]:
    """Of the images whose own row's softmax is surest, the nearest others."""
    p = torch.softmax(m.double() @ m.double().T / tau, 1)
    surest = (-(p * p.log()).sum(1)).argsort()[:int(share * len(m))].tolist()
    found = {}
    for i in surest:
        order = (m @ m[i]).argsort(descending=True).tolist()
        found[i] = [j for j in order if j != i][:size]
    return found


def views_apart(x: torch.Tensor, b: int, tau: float) -> torch.Tensor:
    """The loss of two views, row by row: the gradient flows through the row itself."""
    terms = []
    for r in range(2 * b):
        others = [s for s in range(2 * b) if s != r]
        q = dict(zip(others, torch.softmax(x[others].detach() @ x[r] / tau, 0), strict=True))
        other = (r + b) % (2 * b)
        terms.append(-q[other].log() - sum((1 - q[s]).log() for s in others if s != other))
    return torch.stack(terms).mean()


class ByHand:
    """An epoch in plain arithmetic: a softmax over the whole memory, sums over members, SGD written out, the memory moved last."""

    def __init__(self, images: ImageList, start: Checkpoint, y: Labels | None, s: TrainSettings, ok: np.ndarray) -> None:
        self.s, self.ok, self.key = s, ok, Key(5, 0, "train-epoch", 2)
        self.batches = Batches(images, RUNTIME, 16, MEAN, STD)
        self.net = models.restore(start).train()
        self.linear = models.projection(start, 256)
        self.parameters = {f"body/{k}": p for k, p in self.net.named_parameters()}
        if self.linear is not None:
            self.parameters |= {f"projection/{k}": p for k, p in self.linear.named_parameters()}
        self.buffer = {k: torch.zeros_like(p) for k, p in self.parameters.items()}
        for k in self.buffer:
            if f"{k}/momentum_buffer" in start.optimizer:
                self.buffer[k] = torch.from_numpy(start.optimizer[f"{k}/momentum_buffer"].copy())
        self.bank = fresh_bank(256 if self.linear is None else P)
        if "bank" in start.memory:
            self.bank = torch.from_numpy(start.memory["bank"].copy())
        self.bank[torch.from_numpy(~ok)] = 0
        self.losses: list[list[float]] = []
        near = neighbours(self.bank, s.anchors, s.neighbors, s.tau) if s.anchors else {}
        self.meant = {i: [i, *near.get(i, [])] for i in range(N)}
        if y is not None:
            self.meant = {i: [i] if c < 0 else [j for j in range(N) if y.labels[j] == c and ok[j]] for i, c in enumerate(y.labels)}
        usable = np.flatnonzero(ok)
        self.rows = usable[self.key.permutation("shuffle-0", len(usable))]
        for a in range(0, len(self.rows), s.batch):
            self.step(self.rows[a:a + s.batch], a)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        features = self.net(x) if self.linear is None else self.net(x) @ self.linear.weight.T + self.linear.bias
        return features / features.norm(dim=1, keepdim=True)

    def told_apart(self, v: torch.Tensor, rows: np.ndarray, start: int) -> torch.Tensor:
        s, seen = self.s, torch.from_numpy(self.ok)
        terms = []
        for x, i in zip(v, rows.tolist(), strict=True):
            e = (self.bank @ x / s.tau).exp()
            inside = torch.zeros(N, dtype=torch.bool)
            inside[self.meant[i]] = True
            everything = e[seen].sum()
            if s.sampled:
                drawn = torch.zeros(N, dtype=torch.bool)
                drawn[torch.from_numpy(draw(self.ok, s.sampled, self.key, start))] = True
                outside, there = seen & ~inside, drawn & ~inside
                everything = e[inside].sum() + e[there].sum() * outside.sum() / there.sum()
            p = e[inside] / everything
            terms.append(-p.sum().log() if s.cluster_loss == "mass" else -p.log().mean())
        return torch.stack(terms).mean()

    def step(self, rows: np.ndarray, start: int) -> None:
        s, at = self.s, np.arange(start, start + len(rows))
        seen = [self.batches.train(rows, at, self.key, s, view) for view in range(2)]
        if s.spread == 1:
            own, loss = None, views_apart(self.embed(torch.cat(seen)), len(rows), s.tau)
            self.losses.append([loss.item()])
        else:
            v = self.embed(seen[0])
            own = loss = self.told_apart(v, rows, start)
            self.losses.append([loss.item()])
            if s.spread:
                apart = views_apart(self.embed(torch.cat(seen)), len(rows), s.tau)
                loss = (1 - s.spread) * own + s.spread * apart
                self.losses[-1] = [loss.item(), own.item(), apart.item()]
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        with torch.no_grad():
            for (k, p), g in zip(self.parameters.items(), gradients, strict=True):
                g = g + s.weight_decay * p
                self.buffer[k] = s.momentum * self.buffer[k] + g
                p -= s.lr * (g + s.momentum * self.buffer[k] if s.nesterov else self.buffer[k])
            if own is not None:
                new = s.memory_momentum * self.bank[rows] + (1 - s.memory_momentum) * v
                self.bank[rows] = new / new.norm(dim=1, keepdim=True)


CASES: dict[str, dict[str, Any]] = {
    "images": {}, "clusters": {"y": True}, "pairs": {"y": True, "cluster_loss": "pairs"}, "warm-up": {"y": True, "spread": 0.65},
    "views": {"spread": 1.0}, "anchors": {"anchors": 0.5, "neighbors": 2, "nesterov": True, "discover": True},
    "sampled": {"y": True, "sampled": 15}, "bad": {"y": True, "bad": (3, 7, 9, 13, 20), "spread": 0.3},
    "slow memory": {"memory_momentum": 0.9, "tau": 0.5}}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("projected", [True, False], ids=["projection", "features"])
def test_an_epoch_by_hand(images: ImageList, model: Checkpoint, y: Labels, case: str, projected: bool) -> None:
    """Three steps, the last of four images: projection, unit length, the softmax over the memory as it was before the step, the weight
    of the two views, SGD with momentum, then the memory.  Without a projection the features themselves are told apart."""
    options = dict(CASES[case])
    given = y if options.pop("y", False) else None
    listed = with_bad(images, *options.pop("bad", ()))
    start = model if projected else new_model()
    s = TrainSettings(**{"objective": "instance", "batch": 10, "lr": 0.02, "weight_decay": 0.01} | options)
    hand = ByHand(images, start, given, s, listed.samples.ok)
    found = train_epoch.train_epoch(listed, start, given, s, CONTEXT, RUNTIME, silent)
    tensors = {f"backbone.{k}": v for k, v in models.to_arrays(hand.net).items()}
    if hand.linear is not None:
        tensors |= {f"projection.{k}": v for k, v in models.to_arrays(hand.linear).items()}
    assert set(found.model.model) == set(tensors)
    for name, value in tensors.items():
        close(found.model.model[name], value, name)
    assert set(found.model.optimizer) == {f"{k}/momentum_buffer" for k in hand.buffer}
    for name, buffer in hand.buffer.items():
        close(found.model.optimizer[f"{name}/momentum_buffer"], buffer.numpy(), name, 10)
    sizes = [min(10, len(hand.rows) - a) for a in range(0, len(hand.rows), 10)]
    losses = (np.array(hand.losses) * np.array(sizes)[:, None]).sum(0) / sum(sizes)
    names = ["loss", "loss_memory", "loss_views"] if 0 < s.spread < 1 else ["loss"]
    assert [found.metrics[n] for n in names] == pytest.approx(losses.tolist(), rel=1e-4)
    assert {"loss_memory", "loss_views"} & set(found.metrics) == set(names[1:])
    if s.spread < 1:
        np.testing.assert_allclose(found.model.memory["bank"], hand.bank, atol=2e-5)
    assert set(found.model.memory) == ({"bank"} if s.spread < 1 else set()) | ({"neighbor"} if s.anchors else set())


def test_the_second_epoch_goes_on_with_memory_and_momentum(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """By hand from a checkpoint that has both; without either the end is another one."""
    first = train(images, model, y, lr=0.02).model
    s = TrainSettings(objective="instance", batch=10, lr=0.02)
    found, hand = train(images, first, y, lr=0.02).model, ByHand(images, first, y, s, images.samples.ok)
    np.testing.assert_allclose(found.memory["bank"], hand.bank, atol=2e-5)
    np.testing.assert_allclose(found.model["projection.weight"], hand.linear.weight.detach(), rtol=2e-4, atol=2e-5)
    for blank in (dataclasses.replace(first, memory={}), dataclasses.replace(first, optimizer={})):
        other = train(images, blank, y, lr=0.02).model
        assert not np.allclose(other.model["projection.weight"], found.model["projection.weight"], rtol=1e-3, atol=1e-4)


# the memory

def test_a_step_moves_its_own_rows_and_no_other_bit(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """After every step the rows of its batch are of unit length, and all others have the bits they had."""
    end, kept = safe_points(images, model, y, spread=0.4)
    rows = ByHand(images, model, y, TrainSettings(objective="instance", batch=10), images.samples.ok).rows
    states = [c.memory["bank"] for c in [*kept, end.model]]
    assert states[0].tobytes() == fresh_bank(P).numpy().tobytes()
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        moved = np.flatnonzero((before != after).any(1))
        assert moved.tolist() == sorted(rows[10 * step:10 * step + 10].tolist())
        np.testing.assert_allclose(np.linalg.norm(after[moved], axis=1), 1, atol=1e-6)
    assert sorted(rows.tolist()) == list(range(N))


def test_momentum_0_keeps_the_last_embedding_and_1_the_old_direction(images: ImageList, model: Checkpoint) -> None:
    """The ends of the memory's momentum, with a learning rate of 0, so that the embeddings can be made again."""
    replaced, kept = (train(images, model, batch=24, lr=0.0, memory_momentum=m).model.memory["bank"] for m in (0.0, 1.0))
    hand = ByHand(images, model, None, TrainSettings(objective="instance", batch=24, lr=0.0, memory_momentum=0.0), images.samples.ok)
    np.testing.assert_allclose(replaced, hand.bank, atol=1e-5)
    old = fresh_bank(P).numpy()
    np.testing.assert_allclose(kept, old / np.linalg.norm(old, axis=1, keepdims=True), atol=1e-6)


def test_a_bad_image_is_never_drawn_and_never_in_the_memory(images: ImageList, model: Checkpoint) -> None:
    """Neither its pixels, nor a label of somebody's own, nor what a file holds in its row of the memory can change a bit."""
    listed = with_bad(images, 3, 7)
    labels = Labels(np.where(np.isin(np.arange(N), (3, 7)), -1, CLUSTERS).astype(np.int32))
    first = train(listed, model, labels, spread=0.4)
    assert not first.model.memory["bank"][[3, 7]].any()
    assert (np.linalg.norm(first.model.memory["bank"], axis=1) > 0.9).sum() == N - 2
    assert first.model.progress["samples_seen"] == N - 2
    assert (first.metrics["bad"], first.metrics["log_n"]) == (2, math.log(N - 2))
    pixels = np.array(images.pixels)
    pixels[[3, 7]] = 255
    assert whole(train(dataclasses.replace(listed, pixels=pixels), model, labels, spread=0.4).model, first.model)
    assert whole(train(listed, model, Labels(CLUSTERS), spread=0.4).model, first.model)
    bank = first.model.memory["bank"].copy()
    bank[[3, 7]] = 100
    poisoned = dataclasses.replace(first.model, memory={"bank": bank})
    for more in ({}, {"sampled": 12}, {"anchors": 0.5}):
        given = None if "anchors" in more else labels
        a, b = (train(listed, m, given, **more).model for m in (first.model, poisoned))
        assert whole(a, b)
        assert "neighbor" not in a.memory or not np.isin(a.memory["neighbor"], (3, 7)).any()
    pixels[4] = 255                                                      # an image that can be used counts
    assert not whole(train(dataclasses.replace(listed, pixels=pixels), model, labels, spread=0.4).model, first.model)


def test_a_last_batch_of_one_joins_its_neighbour(images: ImageList, model: Checkpoint) -> None:
    """21 usable images in batches of 10: steps of 10 and 11, whatever the views."""
    for spread in (0.0, 0.5, 1.0):
        found = train(with_bad(images, 0, 1, 2), model, spread=spread)
        assert (found.metrics["steps"], found.model.progress["samples_seen"]) == (2, 21)
        assert math.isfinite(found.metrics["loss"])
    with pytest.raises(DataError, match="found 1 image to draw"):
        train(with_bad(images, *range(23)), model)


def test_a_memory_of_other_images_is_refused(images: ImageList, model: Checkpoint) -> None:
    first = train(images, model).model
    for bank, text in ((first.memory["bank"][:9], r"/memory/bank: shape \(9, 8\), expected \(24, 8\)"),
                       (first.memory["bank"][:, :4], r"/memory/bank: shape \(24, 4\), expected \(24, 8\)"),
                       (np.full((N, P), np.nan, np.float32), "/memory/bank: row 0 is not finite")):
        with pytest.raises(DataError, match=text):
            train(images, dataclasses.replace(first, memory={"bank": bank}))


def test_two_views_alone_have_no_memory(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """No labels, no memory and no row number enter: with any of them it is the same epoch; a memory of earlier epochs is handed on."""
    plain = train(images, model, spread=1.0)
    assert not plain.model.memory
    assert whole(train(images, model, y, spread=1.0).model, plain.model)
    bank = {"bank": fresh_bank(P).numpy()}
    beside = train(images, dataclasses.replace(model, memory=bank), spread=1.0).model
    assert equal(beside, plain.model)
    assert beside.memory["bank"].tobytes() == bank["bank"].tobytes()


# what is meant by an image

def test_labels_of_minus_1_are_an_image_of_its_own(images: ImageList, model: Checkpoint) -> None:
    """All -1 is training without labels, bit for bit, and so is a cluster for each image."""
    for more in ({}, {"spread": 0.5}, {"sampled": 12}):
        without = train(images, model, **more).model
        assert whole(train(images, model, Labels(np.full(N, -1, np.int32)), **more).model, without)
        alone = train(images, model, Labels(np.arange(N, dtype=np.int32)), **more).model
        assert whole(alone, without)
    assert not equal(train(images, model, Labels(CLUSTERS)).model, train(images, model).model)


def test_as_many_clusters_as_images_are_purified_to_none(images: ImageList, model: Checkpoint) -> None:
    """The first epoch of PCP: k = N gives each image its own cluster, purification leaves none, and the epoch is IR's; so it is
    where nothing is kept and nobody votes."""
    rng = np.random.default_rng(0)
    features = Features(rng.standard_normal((N, 5)).astype(np.float32), images.samples)
    raw = cluster(features, ClusterSettings(k=N, pca=0), Context(), threads=1)
    assert raw.labels.tolist() == list(range(N))
    few = cluster(features, ClusterSettings(k=3, pca=0), Context(), threads=1)
    without = train(images, model).model
    for labels, settings in ((raw, PurifySettings(min_size=2)), (raw, PurifySettings(keep_nearest=0.5, min_size=2, whole_up_to=5)),
                             (raw, PurifySettings(keep_nearest=0.5, min_size=2, early_return=True)),
                             (few, PurifySettings(keep_nearest=0.0, min_size=2)),
                             (few, PurifySettings(keep_nearest=0.0, min_size=2, votes=True))):
        purified = purify(labels, settings, Context())
        assert (purified.labels == -1).all()
        assert whole(train(images, model, purified).model, without)


def test_ids_of_clusters_mean_nothing(images: ImageList, model: Checkpoint, y: Labels) -> None:
    renamed = np.array([7, 0, 3], np.int32)[CLUSTERS]
    renamed[CLUSTERS < 0] = -1
    assert np.allclose(train(images, model, Labels(renamed)).model.memory["bank"], train(images, model, y).model.memory["bank"], atol=1e-6)


def test_all_images_drawn_for_the_sum_is_the_exact_loss(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """The sampled form: with N images drawn it is the exact one; with fewer another, but the same again."""
    exact, everyone = (train(images, model, y, sampled=m) for m in (0, N))
    assert everyone.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=1e-5)
    np.testing.assert_allclose(everyone.model.memory["bank"], exact.model.memory["bank"], atol=1e-5)
    some, again = (train(images, model, y, sampled=6) for _ in range(2))
    assert whole(some.model, again.model)
    assert some.metrics["loss"] != pytest.approx(exact.metrics["loss"], rel=1e-3)


# anchors

def test_anchors_come_from_the_memory_before_the_epoch(images: ImageList, model: Checkpoint) -> None:
    """Found when there are none, kept from epoch to epoch, and found anew where that is asked for."""
    first = train(images, model, anchors=0.5, neighbors=2).model
    wanted = neighbours(fresh_bank(P), 0.5, 2, 0.1)
    assert first.memory["neighbor"].shape == (N, 2)
    assert {i: v.tolist() for i, v in enumerate(first.memory["neighbor"]) if v[0] >= 0} == wanted
    assert all(i not in v for i, v in wanted.items())
    later = dataclasses.replace(CONTEXT, epoch=3)
    kept, anew = (train(images, first, context=later, anchors=0.5, neighbors=2, discover=d).model for d in (False, True))
    assert kept.memory["neighbor"].tobytes() == first.memory["neighbor"].tobytes()
    assert {i: v.tolist() for i, v in enumerate(anew.memory["neighbor"]) if v[0] >= 0} == neighbours(
        torch.from_numpy(first.memory["bank"]), 0.5, 2, 0.1)
    assert anew.memory["neighbor"].tobytes() != first.memory["neighbor"].tobytes()
    for other in ({"anchors": 0.5}, {"anchors": 0.25, "neighbors": 2}):
        with pytest.raises(DataError, match=r"/memory/neighbor: shape \(24, 2\) of a share of 0.5 anchors, expected \(24, .\) of 0.") as e:
            train(images, first, **other)
        assert "--discover" in e.value.hint
    with pytest.raises(DataError, match="clusters, and anchors are asked for"):
        train(images, first, Labels(CLUSTERS), anchors=0.5, neighbors=2)


def test_a_memory_of_as_many_other_images_is_refused(images: ImageList, model: Checkpoint) -> None:
    first = train(images, model).model
    assert first.config["memory"] == {"images": images.samples.digest}
    path = images.samples.path.copy()
    path[[0, 1]] = path[[1, 0]]
    others = dataclasses.replace(images, samples=Samples(path, images.samples.status))
    with pytest.raises(DataError, match="/memory/bank: of another image list"):
        train(others, first)
    assert train(others, dataclasses.replace(first, memory={})).model.config["memory"]["images"] == others.samples.digest


def test_a_memory_of_other_images_is_not_carried_on(images: ImageList, model: Checkpoint, tmp_path: Path) -> None:
    """By an objective that makes a memory of these; one that makes none leaves it, and the same images keep both."""
    first = train(images, model).model
    fewer = dataclasses.replace(images, samples=Samples(images.samples.path[:20], images.samples.status[:20]), pixels=images.pixels[:20])
    relabelled = train(fewer, first, objective="relabel", k=3).model
    assert set(relabelled.memory) == {"next_labels", "label_counts"}
    assert set(through_file(relabelled, tmp_path / "a.h5").memory) == set(relabelled.memory)
    assert set(train(images, first, objective="relabel", k=3).model.memory) == {"bank", "next_labels", "label_counts"}
    assert "bank" in train(fewer, first, Labels(CLUSTERS[:20]), objective="classify").model.memory


def test_classification_leaves_the_projection_as_it_was(images: ImageList, model: Checkpoint, y: Labels) -> None:
    made = train(images, model, y, objective="classify").model
    assert made.model["projection.weight"].tobytes() == model.model["projection.weight"].tobytes()
    assert made.model["head.weight"].any()


def test_projections_are_drawn_as_the_names_say() -> None:
    he, default = (models.to_arrays(models.new_projection(512, 128, Key(3), init)) for init in ("he", "torch"))
    assert he["weight"].std() == pytest.approx((2 / 512) ** 0.5, rel=0.01)
    assert not he["bias"].any()
    for part in default.values():
        assert abs(part).max() <= 512 ** -0.5
        assert part.std() == pytest.approx((3 * 512) ** -0.5, rel=0.1)
    other = models.to_arrays(models.new_projection(512, 128, Key(4), "torch"))
    assert (other["weight"] != default["weight"]).mean() > 0.99


def test_no_anchors_is_instance_recognition(images: ImageList, model: Checkpoint) -> None:
    """AND's first round but for the momentum, bit for bit; and an anchor's loss is never more than its own."""
    assert whole(train(images, model, anchors=0.0, nesterov=True).model, train(images, model, nesterov=True).model)
    alone, merged = (train(images, model, batch=24, lr=0.0, anchors=a).metrics["loss"] for a in (0.0, 1.0))
    assert merged < alone


def test_neighbours_are_dropped_with_the_anchors(images: ImageList, model: Checkpoint) -> None:
    """They belong to the memory they were found in, which has moved; what is of no objective here is carried on."""
    first = train(images, model, anchors=0.5).model
    first.memory["mine"] = np.arange(3.0)
    without = train(images, first, context=dataclasses.replace(CONTEXT, epoch=3)).model
    assert set(first.memory) - set(without.memory) == {"neighbor"}
    assert without.memory["mine"].tolist() == [0, 1, 2]


def test_more_neighbours_than_images_are_refused(images: ImageList, model: Checkpoint) -> None:
    for listed, n in ((images, N), (with_bad(images, 3), N - 1)):
        with pytest.raises(UsageError, match=f"neighbors: found {n}, wanted fewer than the {n} images that can be used"):
            train(listed, model, anchors=0.5, neighbors=n)
        assert train(listed, model, anchors=0.5, neighbors=n - 1).metrics["loss"] > 0


# resuming

@pytest.mark.parametrize("settings", [
    {"y": True, "spread": 0.5}, {"anchors": 0.5, "discover": True, "nesterov": True},
    *(pytest.param(s, marks=pytest.mark.slow) for s in ({"spread": 0.0}, {"spread": 0.5}, {"spread": 1.0}, {"sampled": 7}))])
def test_from_every_safe_point_it_is_the_same_epoch(images: ImageList, model: Checkpoint, y: Labels, tmp_path: Path, settings: dict[str, Any],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, momentum, memory, neighbours and the parts of the loss; neighbours are not looked for anew in the middle."""
    options = dict(settings)
    given = y if options.pop("y", False) else None
    first = train(images, model, given, dataclasses.replace(CONTEXT, epoch=1), batch=7, **options).model
    straight = train(images, first, given, batch=5, **options)
    watched, kept = safe_points(images, first, given, batch=5, **options)
    assert [c.config["midway"]["batches"] for c in kept] == [0, 1, 2, 3, 4]
    assert [c.memory["midway/losses"].shape for c in kept] == [(n, 3 if options.get("spread") == 0.5 else 1) for n in range(5)]
    monkeypatch.setattr(instance, "discover", lambda *a, **more: pytest.fail("neighbours are looked for in the middle of an epoch"))
    for trained in (watched, *(train(images, first, given, batch=5, resume=through_file(c, tmp_path / "c.h5"), **options) for c in kept)):
        assert store.digest_of(trained.model) == store.digest_of(straight.model)
        assert whole(trained.model, straight.model)
        a, b = ({k: v for k, v in t.metrics.items() if "second" not in k} for t in (trained, straight))
        assert a == b


@pytest.mark.parametrize("settings", [{}, {"spread": 0.5}, {"spread": 1.0}, {"anchors": 0.5}], ids=["memory", "warm-up", "views", "anchors"])
def test_going_on_from_a_file_is_going_on_in_memory(images: ImageList, model: Checkpoint, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Epochs one by one through files are the epochs in one process: memory and momentum are in the checkpoint."""
    memory, disk = model, through_file(model, tmp_path / "0.h5")
    for epoch in range(3):
        context = dataclasses.replace(CONTEXT, epoch=epoch)
        memory = train(images, memory, context=context, **settings).model
        disk = through_file(train(images, disk, context=context, **settings).model, tmp_path / f"{epoch + 1}.h5")
        assert whole(disk, memory)
    assert disk.progress == {"epoch": 3, "step": 9, "seed": 5, "samples_seen": 72, "world_size": 1}


# metrics

def test_metrics(images: ImageList, model: Checkpoint, y: Labels) -> None:
    found = train(images, model, y, spread=0.4, lr=0.01).metrics
    assert found.pop("seconds_train") >= 0
    assert found.pop("images_per_second_train") > 0
    assert found.pop("loss") == pytest.approx(0.6 * found.pop("loss_memory") + 0.4 * found.pop("loss_views"), rel=1e-5)
    assert found == {"epoch": 2, "log_n": math.log(N), "k": 3, "clusters": 3, "empty": 0, "largest": 4, "largest_share": 4 / 11, "kept": 11,
                     "images": N, "bad": 0, "objective": None, "cluster_iterations": None, "steps": 3, "lr": 0.01}
    found = train(images, model).metrics
    assert {k for k in found if "second" not in k} == {"epoch", "loss", "images", "bad", "log_n", "steps", "lr"}


def test_agreement_is_that_of_the_labels_before_purification(images: ImageList, model: Checkpoint) -> None:
    """What was cut says nothing about how stable the clusters are."""
    rng = np.random.default_rng(1)
    features = Features(rng.standard_normal((N, 5)).astype(np.float32), images.samples)
    raw = cluster(features, ClusterSettings(k=4, pca=0), Context(), threads=1)
    mild, strict = (purify(raw, PurifySettings(keep_nearest=share, min_size=2), Context()) for share in (0.9, 0.5))
    assert not np.array_equal(mild.labels, strict.labels)
    found = train(images, model, strict, previous=mild).metrics
    assert [found[n] for n in ("nmi_arithmetic", "nmi_geometric", "churn")] == pytest.approx([1, 1, 0])
    assert found["kept"] == (strict.labels >= 0).sum() < N
