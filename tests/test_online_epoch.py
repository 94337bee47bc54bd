"""ucl.objectives.online_epoch inside an epoch: against the steps by hand, facts O1 to O12 of ODC, resuming, and what is refused.

The numbers of memory, labels, centroids and repairs themselves are worked in test_online.py, whose plain loops are used here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import MEAN, RUNTIME, STD, image_list, new_model, noise, write_pngs
from test_instance import close, safe_points, train, whole, with_bad
from test_online import Slow
from test_train_epoch import PLAIN, through_file

from ucl import models, stop, store, train_epoch
from ucl.artifacts import Checkpoint, ImageList, Labels, Samples
from ucl.batches import Batches
from ucl.context import Context
from ucl.errors import DataError, Stopped, UsageError
from ucl.keys import Key
from ucl.networks.neck import new_neck
from ucl.objectives import online_epoch
from ucl.objectives.online import COUNTED, Rules
from ucl.objectives.online_epoch import POWER
from ucl.objectives.self_labelled import fixed_view_labels
from ucl.run import silent
from ucl.safepoints import SafePoint
from ucl.settings import TrainSettings
from ucl.train_epoch import Trained

torch.set_num_threads(1)
CONTEXT = Context("odc", stage="train-epoch", epoch=2, seed=5)
N, K, HIDDEN, OUT, DROPOUT = 24, 3, 12, 6, 0.25
CLUSTERS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 1, 1, 1, 2, 2, 0, 0], np.int32)
BASE: dict[str, Any] = {"objective": "online", "batch": 10, "lr": 0.02, "weight_decay": 0.01, "weights": "inverse-sqrt", "least": 4,
                        "refresh_every": 2}
FROZEN: dict[str, Any] = {**PLAIN, "lr": 0.0, "batch": N, "replacement": False, "memory_momentum": 0.0, "refresh_every": 1000, "least": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(N)))


def necked(dropout: float = DROPOUT) -> Checkpoint:
    made = new_model(neck_dropout=dropout)
    neck = new_neck(256, HIDDEN, OUT, dropout, Key(1, stage="init"))
    made.model |= {f"neck.{k}": v for k, v in models.to_arrays(neck).items()}
    return made


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """With a neck to 6 dimensions."""
    return necked()


@pytest.fixture(scope="module")
def y() -> Labels:
    return given(CLUSTERS)


@pytest.fixture(scope="module")
def first(images: ImageList, model: Checkpoint, y: Labels) -> Trained:
    """The epoch that begins with labels; not to be changed."""
    return online(images, model, y)


def given(values: Any, k: int = K) -> Labels:
    y = np.array(values, np.int32)
    return Labels(y, size=np.bincount(y[y >= 0], minlength=k).astype(np.int64))


def online(images: ImageList, model: Checkpoint, y: Labels | None = None, context: Context = CONTEXT, **settings: Any) -> Trained:
    return train(images, model, y, context, **(BASE | settings))


def at(epoch: int) -> Context:
    return dataclasses.replace(CONTEXT, epoch=epoch)


def without_memory(model: Checkpoint) -> Checkpoint:
    """As before its first epoch of moving clusters, but for the network and the neck."""
    kept = {name: v for name, v in model.model.items() if not name.startswith("head.")}
    return dataclasses.replace(model, model=kept, memory={})


# the epoch by hand

class Loops(Slow):
    """The plain loops, noting what was seen and repaired."""

    def __init__(self, unit: np.ndarray, labels: list[int], centroid: np.ndarray, iterations: int, rules: Rules) -> None:
        super().__init__(SimpleNamespace(bank=SimpleNamespace(array=lambda: unit), parts=SimpleNamespace(labels=np.array(labels)),  # type: ignore[arg-type]
                                         centroid=torch.from_numpy(centroid), rules=rules, counts={"iterations": iterations}))
        self.seen: list[int] = []
        self.said = Counter(dict.fromkeys(COUNTED, 0))

    def step(self, rows: np.ndarray, u: np.ndarray, key: Key) -> None:
        before, self.seen = list(self.y), []
        super().step(rows, u, key)
        after = self.seen or self.y
        self.said["changed"] += sum(before[i] != after[i] for i in rows.tolist())
        self.said["seen"] += len(rows)

    def repair(self, key: Key) -> None:
        self.seen = list(self.y)
        super().repair(key)


class ByHand:
    """An epoch in plain arithmetic: neck, softmax, weights and SGD written out; memory, labels and centroids by loops over images."""

    def __init__(self, images: ImageList, start: Checkpoint, y: Labels | None, s: TrainSettings, epoch: int = 2) -> None:
        self.s, self.ok, self.key = s, images.samples.ok, Key(5, 0, "train-epoch", epoch)
        self.batches = Batches(images, RUNTIME, 16, MEAN, STD)
        self.net = models.restore(start)
        self.dropout = float(start.config.get("neck_dropout", 0))
        self.neck = {k: torch.from_numpy(np.array(v)) for k, v in start.model.items() if k.startswith("neck.")}
        rules = Rules(s.similarity, s.memory_momentum, s.refresh_every, s.refresh, s.least, s.repair, s.repair_every, POWER[s.weights])
        self.loops = self.begun(y, rules) if y is not None else self.kept(start, rules)
        self.parameters = {f"body/{k}": p for k, p in self.net.named_parameters()}
        self.parameters |= {k: v.requires_grad_() for k, v in self.neck.items() if k.endswith(("weight", "bias"))}
        fresh = dict(models.new_head(self.loops.f.shape[1], K, Key(5, stage="init")).named_parameters())
        for k, drawn in fresh.items():
            self.parameters[f"head.{k}"] = drawn if y is not None else torch.from_numpy(start.model[f"head.{k}"].copy()).requires_grad_()
        self.buffer = {k: torch.zeros_like(p) for k, p in self.parameters.items()}
        for k in self.buffer:
            kept = f"{self.slash(k)}/momentum_buffer"
            if kept in start.optimizer and not (k.startswith("head.") and y is not None):
                self.buffer[k] = torch.from_numpy(start.optimizer[kept].copy())
        self.losses: list[float] = []
        usable = np.flatnonzero(self.ok)
        m = int(s.epoch_length * len(usable))
        drawn_at = np.floor(self.key.uniform("with-replacement", np.arange(m)) * len(usable)).astype(int)
        self.rows = usable[drawn_at] if s.replacement else usable[self.key.permutation("shuffle-0", len(usable))]
        self.net.train()
        starts = [a for a in range(0, m, s.batch) if not a or m - a > 1]     # one image alone joins the batch before
        self.spans = list(itertools.pairwise([*starts, m]))
        for a, b in self.spans:
            self.step(self.rows[a:b], a)

    @staticmethod
    def slash(name: str) -> str:
        return name.replace(".", "/", 1) if name.startswith(("neck.", "head.")) else name

    def begun(self, y: Labels, rules: Rules) -> Loops:
        """Fixed views in evaluation mode, unit rows, means of the members; empty clusters are filled."""
        good = np.flatnonzero(self.ok)
        with torch.no_grad():
            x = self.embed(self.net.eval()(self.batches.evaluate(good)), 0, training=False)
        unit = np.zeros((N, x.shape[1]), np.float32)
        unit[good] = x / (x.norm(dim=1, keepdim=True) + 1e-10)
        labels = [int(c) if ok else -1 for c, ok in zip(y.labels, self.ok, strict=True)]
        means = np.zeros((K, x.shape[1]), np.float32)
        for c in set(labels) - {-1}:
            means[c] = unit[[i for i in range(N) if labels[i] == c]].mean(0)
        made = Loops(unit, labels, means, 0, dataclasses.replace(rules, least=1))
        made.repair(Key(5, stage="init"))
        made.rules, made.moved = rules, made.moved if rules.refresh == "changed" else set()
        return made

    @staticmethod
    def kept(start: Checkpoint, rules: Rules) -> Loops:
        memory = start.memory
        made = Loops(memory["bank"], memory["cluster"].tolist(), memory["centroid"].copy(), int(memory["online"][0]), rules)
        made.moved = set(np.flatnonzero(memory["changed"]).tolist()) if "changed" in memory else set()
        return made

    def embed(self, x: torch.Tensor, start: int, *, training: bool = True) -> torch.Tensor:
        """FC, batch normalisation without scale and shift, ReLU, dropout, FC, ReLU."""
        if not self.neck:
            return x
        n, h = self.neck, x @ self.neck["neck.0.weight"].T + self.neck["neck.0.bias"]
        mean, var = n["neck.1.running_mean"], n["neck.1.running_var"]
        if training:
            now = h.mean(0), h.var(0, unbiased=False)
            n["neck.1.running_mean"] = (0.999 * mean + 0.001 * now[0]).detach()
            n["neck.1.running_var"] = (0.999 * var + 0.001 * h.var(0)).detach()
            n["neck.1.num_batches_tracked"] = n["neck.1.num_batches_tracked"] + 1
            mean, var = now
        h = ((h - mean) / (var + 1e-5).sqrt()).relu()
        if training and self.dropout:
            masks = torch.Generator().manual_seed(self.key.small(f"dropout/{start}"))
            h = h * torch.empty(h.shape).bernoulli_(1 - self.dropout, generator=masks) / (1 - self.dropout)
        return (h @ n["neck.4.weight"].T + n["neck.4.bias"]).relu()

    def step(self, rows: np.ndarray, start: int) -> None:
        """The loss has labels and weights as they stand before the step; then memory, labels and centroids; then the gradient is taken."""
        s, sizes = self.s, Counter(c for c in self.loops.y if c >= 0)
        e = self.embed(self.net(self.batches.train(rows, np.arange(start, start + len(rows)), self.key, s)), start)
        p = torch.softmax(e @ self.parameters["head.weight"].T + self.parameters["head.bias"], 1)
        target = [self.loops.y[i] for i in rows.tolist()]
        power = {"none": 0.0, "inverse-sqrt": 0.5, "inverse": 1.0}[s.weights]
        w = [sizes[c] ** -power for c in target]
        loss = sum(-each[c].log() * x for each, c, x in zip(p, target, w, strict=True)) / sum(w)
        self.losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        self.loops.step(rows, e.detach().double().numpy(), self.key)
        with torch.no_grad():
            for (k, parameter), g in zip(self.parameters.items(), gradients, strict=True):
                momentum = s.head_momentum if k.startswith("head.") else s.momentum
                g = g + s.weight_decay * parameter
                self.buffer[k] = momentum * self.buffer[k] + g
                parameter -= s.lr * (g + momentum * self.buffer[k] if s.nesterov else self.buffer[k])

    def tensors(self) -> dict[str, np.ndarray]:
        made = {f"backbone.{k}": v for k, v in models.to_arrays(self.net).items()} | {k: v.detach().numpy() for k, v in self.neck.items()}
        return made | {k: v.detach().numpy() for k, v in self.parameters.items() if k.startswith("head.")}

    def alike(self, found: Trained) -> None:
        """Model, momentum, memories, metrics."""
        s, tensors, memory = self.s, self.tensors(), found.model.memory
        assert set(found.model.model) == set(tensors)
        for name, value in tensors.items():
            close(found.model.model[name], value, name)
        assert set(found.model.optimizer) == {f"{self.slash(k)}/momentum_buffer" for k in self.buffer if s.head_momentum or not k.startswith("head.")}
        for name, buffer in found.model.optimizer.items():
            close(buffer, self.buffer[name.removesuffix("/momentum_buffer").replace("neck/", "neck.").replace("head/", "head.")].numpy(), name, 10)
        assert memory["cluster"].tolist() == self.loops.y
        assert memory["cluster"].dtype == np.int32
        np.testing.assert_allclose(memory["bank"], self.loops.f, atol=2e-5)
        np.testing.assert_allclose(memory["centroid"], self.loops.c, atol=2e-5)
        assert set(memory) == {"bank", "cluster", "centroid", "online"} | ({"changed"} if s.refresh == "changed" else set())
        mean = sum(loss * (b - a) for loss, (a, b) in zip(self.losses, self.spans, strict=True)) / len(self.rows)
        assert found.metrics["loss"] == pytest.approx(mean, rel=1e-4)
        assert found.metrics["relabelled"] == pytest.approx(self.loops.said["changed"] / len(self.rows))
        assert found.metrics["iterations"] == memory["online"][0] == self.loops.t
        assert found.metrics["smallest"] == min(Counter([c for c in self.loops.y if c >= 0] + list(range(K))).values()) - 1


CASES: dict[str, dict[str, Any]] = {
    "as released": {}, "l2": {"similarity": "l2"}, "one pass": {"repair": "once", "least": 8}, "changed": {"refresh": "changed"},
    "inverse": {"weights": "inverse", "refresh_every": 1}, "even": {"weights": "none"}, "each once": {"replacement": False},
    "bad": {"bad": (3, 9, 13)}, "head's momentum": {"head_momentum": 0.5, "nesterov": True}, "slow": {"memory_momentum": 0.9, "repair_every": 2},
    "empty": {"labels": np.where(CLUSTERS == 1, 2, CLUSTERS)},
    "long": {"epoch_length": 2.0, "batch": 7, "refresh_every": 3, "similarity": "l2"}}


@pytest.mark.parametrize(("case", "on"), [*((case, "neck") for case in CASES),
                                          *((case, "features") for case in ("as released", "l2", "bad", "long"))])
def test_two_epochs_by_hand(images: ImageList, model: Checkpoint, case: str, on: str) -> None:
    """The first begins with clusters of the fixed views, and draws the head; the second goes on with what the first left: network, neck,
    head, momentum, memory, labels, centroids and the number of the step, on which the next refresh depends."""
    options = dict(CASES[case])
    listed, y = with_bad(images, *options.pop("bad", ())), given(options.pop("labels", CLUSTERS))
    start = model if on == "neck" else new_model()
    s = TrainSettings(**(BASE | options))
    one = train_epoch.train_epoch(listed, start, y, s, CONTEXT, RUNTIME, silent)
    ByHand(listed, start, y, s).alike(one)
    two = train_epoch.train_epoch(listed, one.model, None, s, at(3), RUNTIME, silent, one.made)
    hand = ByHand(listed, one.model, None, s, 3)
    hand.alike(two)
    twice = any(len(set(hand.rows[a:b].tolist())) < b - a for a, b in hand.spans)
    assert twice is s.replacement                                                        # of an image in one batch the last place counts
    assert one.metrics["splits"] + two.metrics["splits"] or case not in ("l2", "one pass", "long")


# what a step sees

def test_the_loss_has_the_labels_and_weights_of_before(images: ImageList, model: Checkpoint, y: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """O4: the labels of the state before the batch, though the batch changes some of them; the epoch's first are those given."""
    seen: list[tuple[list[int], np.ndarray]] = []
    loss = online_epoch.weighted_loss

    def watched(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.append((target.tolist(), weight.numpy().copy()))
        return loss(logits, target, weight)

    monkeypatch.setattr(online_epoch, "weighted_loss", watched)
    end, kept = safe_points(images, model, y, CONTEXT, **BASE)
    rows = ByHand(images, model, y, TrainSettings(**BASE)).rows
    states = [c.memory["cluster"] for c in [*kept, end.model]]
    assert states[0].tolist() == CLUSTERS.tolist()
    changed = 0
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        mine = rows[10 * step:10 * step + 10]
        target, weight = seen[step]
        assert target == before[mine].tolist()
        root = np.bincount(before, minlength=K) ** -0.5
        np.testing.assert_allclose(weight, root / root.sum(), rtol=1e-4)                 # O7
        changed += int((before[mine] != after[mine]).sum())
    assert changed > 5


def test_a_step_moves_its_own_rows_and_no_other_bit(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """O1, O2, O3: unit rows, no empty cluster, centroids are the members' means at the start and after a refresh, and else stand still."""
    end, kept = safe_points(images, model, y, CONTEXT, **(BASE | {"least": 1, "batch": 6, "replacement": False, "refresh_every": 3}))
    rows = ByHand(images, model, y, TrainSettings(**(BASE | {"batch": 6, "replacement": False}))).rows
    memories = [c.memory for c in [*kept, end.model]]
    assert [int(m["online"][0]) for m in memories] == [0, 1, 2, 3, 4]
    for step, memory in enumerate(memories):
        size, means = np.bincount(memory["cluster"], minlength=K), np.zeros((K, OUT))
        np.add.at(means, memory["cluster"], memory["bank"].astype(np.float64))
        assert (size > 0).all()
        np.testing.assert_allclose(np.linalg.norm(memory["bank"], axis=1), 1, atol=1e-6)
        if step in (0, 3):
            np.testing.assert_allclose(memory["centroid"], means / size[:, None], atol=1e-6)
        elif step:
            assert memory["centroid"].tobytes() == memories[step - 1]["centroid"].tobytes()
        if step:
            mine = rows[6 * step - 6:6 * step]
            moved = (memory["bank"] != memories[step - 1]["bank"]).any(1)
            assert np.flatnonzero(moved).tolist() == sorted(mine.tolist())
            assert not (memory["cluster"] != memories[step - 1]["cluster"])[~moved].any()


@pytest.mark.parametrize("repair", ["loop", "once"])
def test_no_cluster_is_small_after_any_step(images: ImageList, model: Checkpoint, repair: str) -> None:
    """O5, also from labels that are all but one cluster; O12: from one cluster."""
    for values in (np.where(np.arange(N) < 2, np.arange(N) % 2 + 1, 0), np.zeros(N)):
        end, kept = safe_points(images, model, given(values), CONTEXT, **(BASE | {"repair": repair}))
        for step, state in enumerate([*kept, end.model]):
            size = np.bincount(state.memory["cluster"], minlength=K)
            assert size.sum() == N
            assert size.min() >= (4 if step and repair == "loop" else 1)
        assert math.isfinite(end.metrics["loss"])


def test_no_label_changes_in_a_second_pass_of_what_stands_still(images: ImageList) -> None:
    """O8: a network that does not learn, fixed views, a memory without momentum and no refresh; whatever the order of the images."""
    for similarity in ("dot", "l2"):
        one = online(images, necked(0.0), given(CLUSTERS), **FROZEN, similarity=similarity)
        two = online(images, one.model, None, at(3), **FROZEN, similarity=similarity)
        assert one.metrics["relabelled"] > 0.2
        assert two.metrics["relabelled"] == two.metrics["splits"] == 0
        assert two.made.labels.tobytes() == one.made.labels.tobytes()
        np.testing.assert_allclose(two.model.memory["bank"], one.model.memory["bank"], atol=1e-5)


def test_fewer_and_fewer_labels_change(tmp_path: Path) -> None:
    """O8, in a real run: pictures of six colours, from random clusters on; the share is in [0, 1], and falls to a plateau."""
    colours, rng, pixels = np.arange(60) % 6 + 1, np.random.default_rng(0), noise(60) // 4
    pixels += (180 * (colours[:, None] >> np.arange(3) & 1)).astype(np.uint8)[:, None, None]
    images, y = image_list(write_pngs(tmp_path / "photos", pixels)), given(rng.integers(0, 6, 60), 6)
    state, shares = necked(), []
    for epoch in range(14):
        found = online(images, state, y if not epoch else None, at(epoch), batch=20, least=3, **PLAIN)
        state = found.model
        shares.append(found.metrics["relabelled"])
    assert all(0 <= share <= 1 for share in shares)
    assert shares[0] > 0.5
    assert np.mean(shares[-4:]) < 0.5 * shares[0]


def test_head_and_neck_are_drawn_once(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """O9: by the run's seed alone, whatever the first epoch's number; then never again, whatever seed is asked for; and the head has no
    momentum."""
    head = {f"head.{k}": v for k, v in models.to_arrays(models.new_head(OUT, K, Key(5, stage="init"))).items()}
    drawn = [online(images, model, y, at(epoch), lr=0.0, weight_decay=0.0).model for epoch in (0, 7)]
    later = online(images, drawn[0], None, dataclasses.replace(at(1), seed=99), lr=0.0, weight_decay=0.0).model
    for found in (*drawn, later):
        assert all(found.model[name].tobytes() == value.tobytes() for name, value in head.items())
        for name in ("neck.0.weight", "neck.0.bias", "neck.4.weight", "neck.4.bias"):
            assert found.model[name].tobytes() == model.model[name].tobytes()
        assert not [name for name in found.optimizer if name.startswith("head/")]
        assert "neck/0.weight/momentum_buffer" in found.optimizer
    state, before = model, {**model.model, **head}
    for epoch in range(3):                                                                # what an epoch begins with is what the last one left
        end, kept = safe_points(images, state, None if epoch else y, at(epoch), **BASE)
        for name in ("head.weight", "head.bias", "neck.0.weight", "neck.4.bias"):
            assert kept[0].model[name].tobytes() == before[name].tobytes()
        state, before = end.model, end.model.model
        assert state.model["head.weight"].tobytes() != kept[0].model["head.weight"].tobytes()


def test_a_neck_of_zeros(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """O11: every image is at 0, nearest to cluster 0, and repairs part what is equal; nothing divides by 0."""
    dead = {**model.model, "neck.4.bias": np.full(OUT, -1e3, np.float32)}
    one = online(images, dataclasses.replace(model, model=dead), y)
    assert not one.model.memory["bank"].any()
    assert not one.model.memory["centroid"].any()
    assert np.bincount(one.made.labels, minlength=K).min() >= 4
    assert one.metrics["loss"] == pytest.approx(math.log(K), abs=1e-3)
    two = online(images, one.model, None, at(3), least=1, repair_every=1000)
    assert not two.made.labels[ByHand(images, one.model, None, TrainSettings(**BASE), 3).rows].any()


def test_what_is_not_finite_is_told_and_nothing_is_returned(images: ImageList, model: Checkpoint, y: Labels, first: Trained) -> None:
    """O11: at the start a row of the fixed views, later the memory is left as it was; and a loss."""
    broken = {**first.model.model, "backbone.norm.bias": np.full(256, np.nan, np.float32)}
    with pytest.raises(DataError, match="features: row 0 is not finite"):
        online(images, dataclasses.replace(model, model={k: v for k, v in broken.items() if not k.startswith("head.")}), y)
    before = {k: v.copy() for k, v in first.model.memory.items()}
    with pytest.raises(DataError, match=r"embeddings: row \d+ is not finite"):
        online(images, dataclasses.replace(first.model, model=broken), None, at(3))
    assert all(first.model.memory[k].tobytes() == v.tobytes() for k, v in before.items())
    with pytest.raises(DataError, match="not finite"):                                    # its first gradient makes the network so
        online(images, dataclasses.replace(first.model, model={**first.model.model, "head.bias": np.full(K, np.nan, np.float32)}), None, at(3))


# resuming

@pytest.mark.parametrize("settings", [
    {"refresh": "changed", "refresh_every": 4}, {"replacement": False, "head_momentum": 0.5},
    *(pytest.param(s, marks=pytest.mark.slow) for s in ({}, {"similarity": "l2", "repair": "once", "least": 8}))])
def test_from_every_safe_point_it_is_the_same_epoch(images: ImageList, model: Checkpoint, y: Labels, tmp_path: Path, settings: dict[str, Any],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """O10, in the epoch that begins with labels and in a later one: model, momentum, memories, counters, labels and metrics; the fixed views
    are not looked at again."""
    start, labels = model, y
    for epoch in (2, 3):
        watched, kept = safe_points(images, start, labels, at(epoch), **(BASE | settings | {"batch": 8}))
        straight = online(images, start, labels, at(epoch), **(settings | {"batch": 8}))
        assert [c.config["midway"]["batches"] for c in kept] == [0, 1, 2]
        with monkeypatch.context() as patch:
            patch.setattr(online_epoch, "embeddings", lambda *a, **more: pytest.fail("the images are clustered in the middle of an epoch"))
            again = [online(images, start, labels, at(epoch), resume=through_file(c, tmp_path / "c.h5"), **(settings | {"batch": 8})) for c in kept]
        for trained in (watched, *again):
            assert store.digest_of(trained.model) == store.digest_of(straight.model)
            assert whole(trained.model, straight.model)
            assert trained.made.labels.tobytes() == straight.made.labels.tobytes()
            a, b = ({k: v for k, v in t.metrics.items() if "second" not in k} for t in (trained, straight))
            assert a == b
        start, labels = straight.model, None


@pytest.mark.parametrize("necked_too", [True, False])
def test_going_on_from_a_file_is_going_on_in_memory(images: ImageList, model: Checkpoint, y: Labels, tmp_path: Path, necked_too: bool) -> None:
    """O10: epochs one by one through files are the epochs in one process, where the released code clusters again and draws a new head."""
    memory = disk = model if necked_too else new_model()
    previous: list[Labels | None] = [None, None]
    for epoch in range(3):
        there = online(images, memory, None if epoch else y, at(epoch), previous=previous[0], refresh="changed")
        here = online(images, disk, None if epoch else y, at(epoch), previous=previous[1], refresh="changed")
        memory, disk = there.model, through_file(here.model, tmp_path / f"{epoch}.h5")
        previous = [there.made, through_file(here.made, tmp_path / f"y{epoch}.h5")]
        assert whole(disk, memory)
        assert previous[1].labels.tobytes() == there.made.labels.tobytes() == memory.memory["cluster"].tobytes()
    assert disk.progress == {"epoch": 3, "step": 9, "seed": 5, "samples_seen": 72, "world_size": 1}
    assert disk.memory["online"][0] == 9
    assert previous[1].history_epoch.tolist() == [1, 2]


def test_a_signal_while_the_first_clusters_are_looked_at(images: ImageList, model: Checkpoint, y: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass over the fixed views stops too; nothing is kept of it."""
    def stopped() -> None:
        raise Stopped(15)

    monkeypatch.setattr(stop, "check", stopped)
    with pytest.raises(Stopped):
        online(images, model, y, safe=SafePoint(lambda: True, lambda state: pytest.fail("there is nothing to keep yet")))


# what is handed on

def test_labels_that_the_epoch_made(images: ImageList, model: Checkpoint, y: Labels, first: Trained) -> None:
    """The memory's, with the images' names and the history; those it was given are beside them."""
    assert first.labels.labels.tolist() == CLUSTERS.tolist()
    made = first.made
    assert made.labels.tobytes() == first.model.memory["cluster"].tobytes()
    assert made.labels is not first.model.memory["cluster"]
    assert (made.k, made.samples.digest, made.context, made.info["method"]) == (K, images.samples.digest, CONTEXT, "online")
    assert made.size.tolist() == np.bincount(made.labels, minlength=K).tolist()
    assert (made.history_epoch.tolist(), made.history[0].tolist()) == ([2], made.labels.tolist())
    two = online(images, first.model, None, at(3), previous=made)
    assert two.labels is None
    assert two.made.history_epoch.tolist() == [2, 3]
    assert np.array_equal(two.made.history, [made.labels, two.made.labels])
    assert two.metrics["churn"] == pytest.approx((made.labels != two.made.labels).mean())


def test_a_bad_image_is_nowhere(images: ImageList, model: Checkpoint) -> None:
    """Neither its pixels, nor a label of somebody's own, nor what a file holds in its row of the memory can change a bit."""
    listed, clean = with_bad(images, 3, 7), given(np.where(np.isin(np.arange(N), (3, 7)), -1, CLUSTERS))
    one = online(listed, model, clean)
    assert one.made.labels[[3, 7]].tolist() == [-1, -1]
    assert not one.model.memory["bank"][[3, 7]].any()
    assert (one.metrics["kept"], one.metrics["bad"], one.model.progress["samples_seen"]) == (N - 2, 2, N - 2)
    pixels = np.array(images.pixels)
    pixels[[3, 7]] = 255
    assert whole(online(dataclasses.replace(listed, pixels=pixels), model, clean).model, one.model)
    assert whole(online(listed, model, given(CLUSTERS)).model, one.model)
    bank, labels = one.model.memory["bank"].copy(), one.model.memory["cluster"].copy()
    bank[[3, 7]], labels[[3, 7]] = 100, 2
    poisoned = dataclasses.replace(one.model, memory=one.model.memory | {"bank": bank, "cluster": labels})
    assert whole(online(listed, poisoned, None, at(3)).model, online(listed, one.model, None, at(3)).model)


def test_metrics(images: ImageList, model: Checkpoint, y: Labels) -> None:
    found = online(images, model, y, lr=0.01).metrics
    made = {k: v for k, v in found.items() if "second" not in k}
    assert set(COUNTED) - set(made) == {"seen", "changed"}
    assert set(made) - set(COUNTED) == {"epoch", "loss", "k", "log_k", "images", "bad", "clusters", "empty", "largest", "largest_share", "kept",
                                        "objective", "cluster_iterations", "relabelled", "smallest", "steps", "lr"}
    assert [made[name] for name in ("epoch", "k", "log_k", "steps", "iterations", "lr", "kept")] == [2, K, math.log(K), 3, 3, 0.01, N]


# beside other objectives

def test_labels_given_begin_anew(images: ImageList, model: Checkpoint, y: Labels, first: Trained) -> None:
    """A model that has memories is given labels: it is, bit for bit, the epoch of that network without any; also of other images, and of
    another number of clusters."""
    other = given(np.arange(N) % 4, 4)
    for labels in (y, other):
        anew = online(images, first.model, labels, at(3), least=3)
        assert whole(anew.model, online(images, without_memory(first.model), labels, at(3), least=3).model)
        assert anew.model.memory["online"][0] == 3
        assert len(anew.model.model["head.weight"]) == labels.k
    path = images.samples.path.copy()
    path[[0, 1]] = path[[1, 0]]
    others = dataclasses.replace(images, samples=Samples(path, images.samples.status))
    assert online(others, first.model, y, at(3)).model.config["memory"] == {"images": others.samples.digest}
    assert not whole(online(images, first.model, y, at(3)).model, online(images, first.model, None, at(3)).model)


def test_other_objectives_leave_neck_and_memory_as_they_were(images: ImageList, model: Checkpoint, y: Labels, first: Trained) -> None:
    """Classification drops the head on the neck, and says so; neck and memory are carried, and going on with them is going on."""
    assert first.model.config["head_on"] == "neck"
    assert "head_on" not in online(images, new_model(), y).model.config
    classified = train(images, first.model, y, at(3), objective="classify").model
    assert "head_on" not in classified.config
    assert classified.model["head.weight"].shape == (K, 256)
    apart = train(images, first.model, None, at(3), objective="instance", spread=1.0).model
    assert "head.weight" not in apart.model
    for other in (classified, apart):
        for name in (n for n in first.model.model if n.startswith("neck.")):
            assert other.model[name].tobytes() == first.model.model[name].tobytes()
        assert all(other.memory[name].tobytes() == first.model.memory[name].tobytes() for name in first.model.memory)
    projected = new_model(projection=8, neck_dropout=DROPOUT)
    projected.model |= {k: v for k, v in model.model.items() if k.startswith("neck.")}
    projected.model |= {f"projection.{k}": v for k, v in models.to_arrays(models.new_projection(256, 8, Key(1, stage="init"))).items()}
    found = online(images, projected, y).model
    assert all(found.model[f"projection.{k}"].tobytes() == projected.model[f"projection.{k}"].tobytes() for k in ("weight", "bias"))


def wide() -> Checkpoint:
    """With a neck as wide as the features, so that no shape tells them apart."""
    made = new_model(neck_dropout=0.0)
    made.model |= {f"neck.{k}": v for k, v in models.to_arrays(new_neck(256, HIDDEN, 256, 0.0, Key(1, stage="init"))).items()}
    return made


def test_a_head_is_not_moved_to_other_features(images: ImageList, y: Labels, caplog: pytest.LogCaptureFixture) -> None:
    """One on the neck, or on hidden layers, is drawn anew where those are not trained, also of a fitting shape; a warning says so."""
    still = {"lr": 0.0, "weight_decay": 0.0}
    head = models.to_arrays(models.new_head(256, K, Key(5, stage="init")))["weight"]
    on_neck = online(images, wide(), y).model
    on_hidden = train(images, new_model(), None, CONTEXT, objective="relabel", k=K, mlp=256).model
    for before, said in ((on_neck, "neck"), (on_hidden, "hidden layers")):
        found = train(images, before, y, at(3), objective="classify", head="kept", **still).model
        assert found.model["head.weight"].tobytes() != before.model["head.weight"].tobytes()
        assert f"the head stands on the {said}, which classification does not train: it is drawn anew" in caplog.text
        caplog.clear()
        kept: list[Checkpoint] = []
        end = train(images, before, y, at(3), objective="classify", head="kept", safe=SafePoint(lambda: True, kept.append)).model
        assert whole(train(images, before, y, at(3), objective="classify", head="kept", resume=kept[1]).model, end)
        caplog.clear()
        after = train(images, end, y, at(4), objective="classify", head="kept", **still).model
        assert after.model["head.weight"].tobytes() == end.model["head.weight"].tobytes()
        assert not caplog.text
    found, kept = safe_points(images, on_neck, None, at(3), objective="relabel", batch=10, fill_empty=False, **still)
    assert found.model.model["head.weight"].tobytes() == head.tobytes() != on_neck.model["head.weight"].tobytes()
    assert kept[0].memory["targets"].tolist() == fixed_view_labels(images, on_neck, RUNTIME, batch=10).tolist()
    assert "head_on" not in found.model.config


def test_the_memories_of_two_objectives_are_not_mixed_up(images: ImageList, y: Labels) -> None:
    """Both have rows of embeddings, of other layers, though of one shape: the one begins anew, and the other's is over."""
    first = online(images, wide(), y).model
    apart, bank = train(images, first, None, at(3)).model, dataclasses.replace(first, memory={})
    assert set(apart.memory) == {"bank"}
    assert whole(apart, train(images, bank, None, at(3)).model)
    with pytest.raises(DataError, match="the model has no clusters yet"):
        online(images, apart, None, at(4))


# what is refused

def test_what_does_not_belong_is_refused(images: ImageList, model: Checkpoint, y: Labels, first: Trained) -> None:
    memory = first.model.memory
    path = images.samples.path.copy()
    path[[0, 1]] = path[[1, 0]]
    others = dataclasses.replace(images, samples=Samples(path, images.samples.status))
    with pytest.raises(DataError, match="/memory/cluster: of another image list"):
        online(others, first.model, None, at(3))
    with pytest.raises(DataError, match="labels: found none, and the model has no clusters yet") as told:
        online(images, model)
    assert "ucl extract | ucl cluster" in told.value.hint
    for values, said in ((np.where(np.arange(N) == 5, -1, CLUSTERS), "labels: row 5: found -1, expected 0 to 2: every usable image"),
                         (CLUSTERS[:9], "/labels: 9 rows, expected 24")):
        with pytest.raises(DataError, match=said):
            online(images, model, given(values))
    for least in (9, 100):
        for labels, start in ((y, model), (None, first.model)):
            with pytest.raises(UsageError, match=f"least members: found {least}, wanted 1 to 8"):
                online(images, start, labels, at(3), least=least)
    with pytest.raises(UsageError, match="k: found 25, wanted 2 to 24"):
        online(images, model, given(np.arange(N), 25))
    with pytest.raises(UsageError, match="k: found 1, wanted 2 to 24"):
        online(images, model, given(np.zeros(N), 1))
    for name in ("bank", "centroid", "online"):
        with pytest.raises(DataError, match=r"/memory: found .*, expected bank, centroid and online too"):
            online(images, dataclasses.replace(first.model, memory={k: v for k, v in memory.items() if k != name}), None, at(3))
    with pytest.raises(DataError, match="the model has no clusters yet"):
        online(images, dataclasses.replace(first.model, memory={k: v for k, v in memory.items() if k != "cluster"}), None, at(3))
    for changed, said in (({"bank": memory["bank"][:9]}, r"/memory/bank: shape \(9, 6\)"),
                          ({"bank": memory["bank"][:, :4]}, "/memory/centroid: shape"),
                          ({"cluster": memory["cluster"][:9]}, r"/memory/cluster: shape \(9,\), expected \(24,\)"),
                          ({"centroid": memory["centroid"][:2]}, r"/memory/cluster: row \d+: found 2, expected 0 to 1"),
                          ({"online": memory["online"][:3]}, "/memory/online: shape")):
        with pytest.raises(DataError, match=said):
            online(images, dataclasses.replace(first.model, memory=memory | changed), None, at(3))
    halved = {k: v for k, v in first.model.model.items() if k != "neck.4.weight"}
    with pytest.raises(DataError, match=r"neck: found .*, expected 0.weight and 4.weight"):
        online(images, dataclasses.replace(first.model, model=halved), None, at(3))


def test_a_memory_of_another_number_of_images(images: ImageList, first: Trained, tmp_path: Path) -> None:
    fewer = image_list(write_pngs(tmp_path / "photos", noise(N)[:20]))
    unnamed = {k: v for k, v in first.model.config.items() if k != "memory"}
    with pytest.raises(DataError, match="of another image list"):
        online(fewer, first.model, None, at(3))
    with pytest.raises(DataError, match=r"/memory/bank: shape \(24, 6\), expected \(20, P\)"):
        online(fewer, dataclasses.replace(first.model, config=unnamed), None, at(3))
