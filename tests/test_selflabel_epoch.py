"""train-epoch --objective selflabel: an epoch by plain loops, batches without a sure image, the score, bad images, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import MEAN, RUNTIME, STD, image_list, noise, write_pngs
from test_instance import close, whole, with_bad
from test_scan_epoch import CONTEXT, NEAR, STRONG, TIMES, Adam, K, N, beside, near, scan, score_by_loop, slash
from test_scan_epoch import model as _model
from test_train_epoch import through_file

from ucl import models, store, train_epoch
from ucl.artifacts import Checkpoint, ImageList, Neighbors, Samples
from ucl.batches import Batches
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.run import silent
from ucl.safepoints import SafePoint
from ucl.settings import TrainSettings
from ucl.train_epoch import Trained

torch.set_num_threads(1)
model = _model
HERE = dataclasses.replace(CONTEXT, stage="selflabel", epoch=4)
SELF: dict[str, Any] = {"objective": "selflabel", "optimizer": "adam", "batch": 8, "lr": 3e-3, "weight_decay": 1e-2, "sure": 0.45, **STRONG}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(N)))


@pytest.fixture(scope="module")
def scanned(images: ImageList, model: Checkpoint) -> Checkpoint:
    """With a classifier, and Adam's moments of it."""
    return scan(images, model, entropy_weight=20.0).model


def at(epoch: int) -> Context:
    return dataclasses.replace(HERE, epoch=epoch)


def learn(images: ImageList, start: Checkpoint, neighbors: Neighbors | None = None, context: Context = HERE, **settings: Any) -> Trained:
    options = {name: settings.pop(name) for name in ("safe", "resume", "previous") if name in settings}
    return train_epoch.train_epoch(images, start, None, TrainSettings(**(SELF | settings)), context, RUNTIME, silent, neighbors=neighbors, **options)


class ByHand:
    """Fixed views in training mode without gradient, strong views, and a loop over clusters for the loss."""

    def __init__(self, images: ImageList, start: Checkpoint, s: TrainSettings, epoch: int = 4) -> None:
        key = Key(5, 0, "selflabel", epoch)
        batches = Batches(images, RUNTIME, 16, MEAN, STD)
        self.net = models.restore(start).train()
        self.w, self.b = (torch.from_numpy(start.model[f"head.{k}"].copy()).requires_grad_() for k in ("weight", "bias"))
        learnt = {f"body/{k}": p for k, p in self.net.named_parameters() if p.requires_grad} | {"head.weight": self.w, "head.bias": self.b}
        self.adam = Adam(learnt, s.lr, s.weight_decay, None if s.restart else dict(start.optimizer))
        usable = np.flatnonzero(images.samples.ok)
        self.order = usable[key.permutation("shuffle-0", len(usable))]
        self.losses: list[float] = []
        self.sizes: list[int] = []
        self.sure: list[int] = []
        for a in range(0, len(self.order) - s.batch + 1, s.batch):
            rows, places = self.order[a:a + s.batch], np.arange(a, a + s.batch)
            with torch.no_grad():
                p = torch.softmax(self.net(batches.evaluate(rows)) @ self.w.T + self.b, 1)
            q = torch.softmax(self.net(batches.train(rows, places, key, s, 0)) @ self.w.T + self.b, 1)
            members: dict[int, list[torch.Tensor]] = {}
            for i in range(s.batch):
                if p[i].max() > s.sure:
                    c = int(p[i].argmax())
                    members.setdefault(c, []).append(-q[i, c].log())
            n = sum(len(v) for v in members.values())
            self.sure.append(n)
            if not n:
                continue
            every = [sum(v) / len(v) for v in members.values()] if s.balanced else [x for v in members.values() for x in v]
            loss = sum(every) / len(every)
            self.losses.append(loss.item())
            self.sizes.append(len(members))
            self.adam.step(loss)

    def alike(self, found: Trained) -> None:
        tensors = {f"backbone.{k}": v for k, v in models.to_arrays(self.net).items()}
        tensors |= {"head.weight": self.w.detach().numpy(), "head.bias": self.b.detach().numpy()}
        for name, value in tensors.items():
            close(found.model.model[name], value, name)
        for k in self.adam.p:
            close(found.model.optimizer[f"{slash(k)}/exp_avg"], self.adam.m[k].numpy(), k)
            assert found.model.optimizer[f"{slash(k)}/step"] == self.adam.t
        assert found.metrics["loss"] == pytest.approx(np.mean(self.losses), abs=2e-4)
        assert (found.metrics["steps"], found.metrics["skipped"]) == (len(self.losses), len(self.sure) - len(self.losses))
        assert found.metrics["confident_share"] == pytest.approx(sum(self.sure) / (8 * len(self.sure)))


@pytest.mark.parametrize("settings", [{}, {"balanced": False, "restart": True}, {"sure": 0.0}, {"sure": 0.62, "restart": True}])
def test_an_epoch_by_hand(images: ImageList, scanned: Checkpoint, settings: dict[str, Any]) -> None:
    """F1, F5, F7 in place: targets of the same step, moments of the epoch before or none, and statistics that move twice in a step."""
    found = learn(images, scanned, **settings)
    hand = ByHand(images, scanned, TrainSettings(**(SELF | settings)))
    hand.alike(found)
    if settings.get("sure") == 0.0:
        assert hand.sure == [8, 8, 8]
    elif "sure" in settings:
        assert 0 in hand.sure
        assert any(hand.sure)
    else:
        assert max(hand.sizes) > 1                         # balance says something
    twice = [v for k, v in found.model.model.items() if k.endswith("num_batches_tracked")]
    before = [v for k, v in scanned.model.items() if k.endswith("num_batches_tracked")]
    assert [int(a - b) for a, b in zip(twice, before, strict=True)] == [6] * len(before)
    p = np.array(found.made.probs)
    assert found.made.labels.tolist() == p.argmax(1).tolist()
    assert (found.made.k, found.model.config["k"], found.made.info["method"]) == (K, K, "selflabel")


def test_balance_says_something(images: ImageList, scanned: Checkpoint) -> None:
    one, other = (learn(images, scanned, balanced=b).model for b in (True, False))
    assert one.model["head.weight"].tobytes() != other.model["head.weight"].tobytes()


def test_nothing_is_sure(images: ImageList, scanned: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    """F6, F8: weights, moments and statistics stay, bit for bit; batches are counted, a line says it."""
    with caplog.at_level(logging.WARNING):
        found = learn(images, scanned, sure=1.0)
    assert {k: v.tobytes() for k, v in found.model.model.items()} == {k: v.tobytes() for k, v in scanned.model.items()}
    assert {k: v.tobytes() for k, v in found.model.optimizer.items()} == {k: v.tobytes() for k, v in scanned.optimizer.items()}
    assert [found.metrics[k] for k in ("steps", "skipped", "confident_share", "loss")] == [0, 3, 0, 0]
    assert "no step was taken: none of 3 batches" in caplog.text
    assert found.made.probs.shape == (N, K)


def test_the_score_is_that_of_the_neighbours_that_are_given(images: ImageList, scanned: Checkpoint) -> None:
    without = learn(images, scanned)
    assert not {"score", "score_consistency", "score_entropy"} & set(without.metrics)
    alone = near(own=False)
    for y, same in ((NEAR, NEAR), (alone, beside(alone))):
        found = learn(images, scanned, y, score_neighbors=3, score_entropy=2.0)
        p = np.array(found.made.probs)
        assert found.metrics["score"] == pytest.approx(score_by_loop(p, same, range(N), 4, 2.0), abs=1e-6)
        assert whole(found.model, without.model)


def test_from_every_safe_point_it_is_the_same_epoch(images: ImageList, scanned: Checkpoint, tmp_path: Path) -> None:
    """Steps left out before the safe point are counted after it."""
    for settings in ({"restart": True}, {"sure": 0.62}):
        kept: list[Checkpoint] = []
        watched = learn(images, scanned, NEAR, safe=SafePoint(lambda: True, kept.append), **settings)
        straight = learn(images, scanned, NEAR, **settings)
        assert [c.config["midway"]["batches"] for c in kept] == [0, 1, 2, 3]
        again = [learn(images, scanned, NEAR, resume=through_file(c, tmp_path / "c.h5"), **settings) for c in kept]
        for found in (watched, *again):
            assert whole(found.model, straight.model)
            assert store.digest_of(found.model) == store.digest_of(straight.model)
            assert found.made.probs.tobytes() == straight.made.probs.tobytes()
            assert {k: v for k, v in found.metrics.items() if k not in TIMES} == {k: v for k, v in straight.metrics.items() if k not in TIMES}
        assert not found.model.memory


def test_a_bad_image_is_nowhere(images: ImageList, scanned: Checkpoint) -> None:
    bad = (3, 7)
    listed = with_bad(images, *bad)
    found = learn(listed, scanned, NEAR)
    hand = ByHand(listed, scanned, TrainSettings(**SELF))
    hand.alike(found)
    assert not set(bad) & set(hand.order.tolist())
    assert found.made.labels[list(bad)].tolist() == [-1, -1]
    assert np.isnan(found.made.probs[list(bad)]).all()
    clean = NEAR.neighbors.copy()
    clean[np.isin(clean, bad)] = -1
    good = [i for i in range(N) if i not in bad]
    assert found.metrics["score"] == pytest.approx(score_by_loop(np.array(found.made.probs), Neighbors(clean), good, 6, 1.0), abs=1e-6)
    pixels = np.array(images.pixels)
    pixels[list(bad)] = 255
    assert whole(learn(dataclasses.replace(listed, pixels=pixels), scanned, NEAR).model, found.model)


def test_what_is_refused(images: ImageList, model: Checkpoint, scanned: Checkpoint) -> None:
    with pytest.raises(DataError, match="checkpoint: no classifier, expected one on the features") as told:
        learn(images, model)
    assert "--objective scan makes one" in told.value.hint
    chosen = TrainSettings(objective="relabel", batch=8, k=K, mlp=12)
    hidden = train_epoch.train_epoch(images, model, None, chosen, dataclasses.replace(HERE, stage="train-epoch"), RUNTIME, silent).model
    with pytest.raises(DataError, match="its classifier stands on a hidden layer"):
        learn(images, hidden)
    with pytest.raises(UsageError, match="batch: found 27 for 26 images to draw"):
        learn(images, scanned, batch=27)
    turned = Samples(images.samples.path[::-1].copy(), images.samples.status)
    for neighbors, said in ((near(n=20), "/neighbors: 20 rows"), (dataclasses.replace(NEAR, samples=turned), "neighbors: "),
                            (dataclasses.replace(NEAR, among=images.samples.path[:9].copy()), "rows of 9 other images")):
        with pytest.raises(DataError, match=said):
            learn(images, scanned, neighbors)


def test_a_later_stage_of_scan_begins_without_an_older_best(images: ImageList, model: Checkpoint) -> None:
    """A stage that was left before its end has noted a best; self-labels have no use for it."""
    noted = scan(images, model, best="note").model
    assert [k for k in noted.memory if k.startswith("best/")]
    after = learn(images, noted).model
    anew = scan(images, after, context=dataclasses.replace(CONTEXT, epoch=6), restart=True, best="take")
    assert anew.metrics["best_epoch"] == 7
