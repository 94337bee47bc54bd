"""train-epoch --objective scan: an epoch by plain loops, the head alone, images held out, the epoch of the lowest score, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import MEAN, RUNTIME, STD, image_list, new_model, noise, write_pngs
from test_instance import close, whole, with_bad
from test_train_epoch import through_file

from ucl import models, store, train_epoch
from ucl.artifacts import Checkpoint, ImageList, Neighbors, Samples
from ucl.batches import Batches
from ucl.context import Context
from ucl.errors import DataError, Stopped, UsageError
from ucl.keys import Key
from ucl.networks.projector import new_projector
from ucl.objectives import predictions
from ucl.run import silent
from ucl.safepoints import SafePoint
from ucl.settings import TrainSettings
from ucl.train_epoch import Trained

torch.set_num_threads(1)
CONTEXT = Context("scan", stage="scan", epoch=2, seed=5)
N, K, B, M = 26, 3, 8, 4
STRONG: dict[str, Any] = {"crop_scale": (1.0, 1.0), "jitter_p": 0.0, "grey_p": 0.0, "strong_ops": 4, "cutout": 8}
BASE: dict[str, Any] = {"objective": "scan", "optimizer": "adam", "batch": B, "lr": 3e-3, "weight_decay": 1e-2, "k": K, **STRONG}
TIMES = ("seconds_train", "images_per_second_train")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(N)))


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """With a projection, and what an epoch of SGD leaves behind."""
    made = new_model(projection=8)
    made.model |= {f"projection.{k}": v for k, v in models.to_arrays(new_projector(256, 8, Key(1, stage="init"))).items()}
    return made


def near(*, own: bool = True, n: int = N, columns: int = M) -> Neighbors:
    """Arbitrary neighbours; with the image itself first, and one missing here and there."""
    rng = np.random.default_rng(3)
    found = np.array([rng.choice(np.delete(np.arange(n), i), columns, replace=False) for i in range(n)])
    found[::5, -1] = -1
    if own:
        found = np.column_stack([np.arange(n), found])
    return Neighbors(found.astype(np.int32), self_included=own)


def beside(alone: Neighbors) -> Neighbors:
    """The same neighbours with the image itself before them: it counts in the score, whether it is drawn as its own neighbour or not."""
    return Neighbors(np.column_stack([np.arange(len(alone.neighbors)), alone.neighbors]).astype(np.int32), self_included=True)


NEAR = near()


def at(epoch: int) -> Context:
    return dataclasses.replace(CONTEXT, epoch=epoch)


def scan(images: ImageList, model: Checkpoint, neighbors: Neighbors | None = NEAR, context: Context = CONTEXT, **settings: Any) -> Trained:
    options = {name: settings.pop(name) for name in ("safe", "resume", "previous") if name in settings}
    return train_epoch.train_epoch(images, model, None, TrainSettings(**(BASE | settings)), context, RUNTIME, silent, neighbors=neighbors, **options)


def settings_of(**settings: Any) -> TrainSettings:
    return TrainSettings(**(BASE | settings))


# the epoch by hand

class Adam:
    """Kingma and Ba's algorithm 1, with weight decay added to the gradient."""

    def __init__(self, parameters: dict[str, torch.Tensor], lr: float, decay: float, state: dict[str, np.ndarray] | None = None) -> None:
        self.p, self.lr, self.decay = parameters, lr, decay
        self.m = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.v = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.t = 0
        for k in parameters if state else ():
            assert state is not None
            self.m[k] = torch.from_numpy(state[f"{slash(k)}/exp_avg"].copy())
            self.v[k] = torch.from_numpy(state[f"{slash(k)}/exp_avg_sq"].copy())
            self.t = int(state[f"{slash(k)}/step"])

    def step(self, loss: torch.Tensor) -> None:
        gradients = torch.autograd.grad(loss, list(self.p.values()))
        self.t += 1
        with torch.no_grad():
            for (k, p), g in zip(self.p.items(), gradients, strict=True):
                g = g + self.decay * p
                self.m[k] = 0.9 * self.m[k] + 0.1 * g
                self.v[k] = 0.999 * self.v[k] + 0.001 * g * g
                p -= self.lr * (self.m[k] / (1 - 0.9 ** self.t)) / ((self.v[k] / (1 - 0.999 ** self.t)).sqrt() + 1e-8)


def slash(name: str) -> str:
    return name.replace(".", "/", 1) if name.startswith("head.") else name


class ByHand:
    """An epoch with loops over images where draws and losses are concerned."""

    def __init__(self, images: ImageList, start: Checkpoint, neighbors: Neighbors, s: TrainSettings, epoch: int = 2, *,
                 hidden: tuple[int, ...] = ()) -> None:
        key, ok = Key(5, 0, "scan", epoch), images.samples.ok
        batches = Batches(images, RUNTIME, 16, MEAN, STD)
        self.net = models.restore(start)
        fresh = s.restart or "head.weight" not in start.model
        drawn = models.new_projection(256, K, key, init="torch")
        self.w = (drawn.weight.detach().clone() if fresh else torch.from_numpy(start.model["head.weight"].copy())).requires_grad_()
        self.b = (drawn.bias.detach().clone() if fresh else torch.from_numpy(start.model["head.bias"].copy())).requires_grad_()
        learnt = {"head.weight": self.w, "head.bias": self.b}
        if s.trains == "all":
            learnt = {f"body/{k}": p for k, p in self.net.named_parameters() if p.requires_grad} | learnt
        kept = dict(start.optimizer) if not s.restart and "head/weight/exp_avg" in start.optimizer else None
        self.adam = Adam(learnt, s.lr, s.weight_decay, kept)
        self.net.train(s.trains == "all")
        usable = np.array([i for i in range(N) if ok[i] and i not in hidden])
        order = usable[key.permutation("shuffle-0", len(usable))]
        self.losses, self.anchors, self.partners = [], [], []
        for start_ in range(0, len(order) - s.batch + 1, s.batch):
            rows, places = order[start_:start_ + s.batch], np.arange(start_, start_ + s.batch)
            partner = []
            for i, u in zip(rows, key.uniform("neighbor", places), strict=True):
                listed = [j for j in neighbors.neighbors[i].tolist() if j >= 0 and j not in hidden]
                partner.append(listed[int(u * len(listed))])
            self.anchors += rows.tolist()
            self.partners += partner
            self.step(batches.train(rows, places, key, s, 0), batches.train(np.array(partner), places, key, s, 1), s.entropy_weight)

    def step(self, a: torch.Tensor, n: torch.Tensor, weight: float) -> None:
        p, q = (torch.softmax(self.net(x) @ self.w.T + self.b, 1) for x in (a, n))
        consistency = -sum((p[i] @ q[i]).log() for i in range(len(p))) / len(p)
        share = p.mean(0)
        entropy = -sum(x * x.log() for x in share)
        self.losses.append(((consistency - weight * entropy).item(), consistency.item(), entropy.item()))
        self.adam.step(consistency - weight * entropy)

    def probabilities(self, images: ImageList) -> np.ndarray:
        x = Batches(images, RUNTIME, 16, MEAN, STD).evaluate(np.flatnonzero(images.samples.ok))
        found = np.full((N, K), np.nan, np.float32)
        with torch.no_grad():
            found[images.samples.ok] = torch.softmax(self.net.eval()(x) @ self.w.T + self.b, 1).numpy()
        return found

    def alike(self, found: Trained) -> None:
        tensors = {f"backbone.{k}": v for k, v in models.to_arrays(self.net).items()}
        tensors |= {"head.weight": self.w.detach().numpy(), "head.bias": self.b.detach().numpy()}
        for name, value in tensors.items():
            close(found.model.model[name], value, name)
        assert {k for k in found.model.model if not k.startswith("projection.")} == set(tensors)
        assert set(found.model.optimizer) == {f"{slash(k)}/{kind}" for k in self.adam.p for kind in ("exp_avg", "exp_avg_sq", "step")}
        for k in self.adam.p:
            close(found.model.optimizer[f"{slash(k)}/exp_avg"], self.adam.m[k].numpy(), k)
            assert found.model.optimizer[f"{slash(k)}/step"] == self.adam.t
        means = np.mean(self.losses, axis=0)
        assert [found.metrics[k] for k in ("loss", "consistency", "entropy")] == pytest.approx(means.tolist(), abs=2e-4)


def score_by_loop(p: np.ndarray, neighbors: Neighbors, rows: Any, columns: int, weight: float) -> float:
    """SCAN's selection: over pairs, minus the weighted entropy of the mean."""
    cost = [-max(math.log(float(np.dot(p[i].astype(np.float64), p[j]))), -100) for i in rows for j in neighbors.neighbors[i, :columns] if j >= 0]
    share = p[list(rows)].astype(np.float64).mean(0)
    return float(np.mean(cost) + weight * (share * np.log(share)).sum())


@pytest.mark.parametrize("settings", [{}, {"entropy_weight": 2.0, "flip": 0.0, "lr": 1e-3}, {"trains": "head"}])
def test_an_epoch_by_hand(images: ImageList, model: Checkpoint, settings: dict[str, Any]) -> None:
    """Two epochs, the second with the classifier and the moments of the first: draws, losses, Adam's arithmetic, score and labels."""
    s, start = settings_of(**settings), model
    for epoch in (2, 3):
        found = scan(images, start, context=at(epoch), **settings)
        hand = ByHand(images, start, NEAR, s, epoch)
        hand.alike(found)
        assert len(hand.losses) == found.metrics["steps"] == 3
        p = hand.probabilities(images)
        np.testing.assert_allclose(found.made.probs, p, atol=2e-3)
        ours = np.array(found.made.probs)
        assert found.made.labels.tolist() == ours.argmax(1).tolist()
        assert np.array_equal(found.made.score, ours.max(1))
        assert found.metrics["score"] == pytest.approx(score_by_loop(ours, NEAR, range(N), 6, 1.0), abs=1e-6)
        assert found.metrics["sure_share"] == np.mean(ours.max(1) > 0.99)
        assert (found.made.k, found.made.context, found.model.config["k"]) == (K, at(epoch), K)
        start = found.model
    assert start.progress == {"epoch": 4, "step": 6, "seed": 5, "samples_seen": 48, "world_size": 1}
    assert all(start.model[name].tobytes() == model.model[name].tobytes() for name in model.model if name.startswith("projection."))


def test_the_score_is_over_so_many_neighbours(images: ImageList, model: Checkpoint) -> None:
    """``score_neighbors`` beside the image itself; the weight of the entropy is its own."""
    for own in (True, False):
        y = near(own=own)
        found = scan(images, model, y, score_neighbors=2, score_entropy=3.0)
        p = np.array(found.made.probs)
        assert found.metrics["score"] == pytest.approx(score_by_loop(p, y if own else beside(y), range(N), 3, 3.0), abs=1e-6)
        assert found.metrics["score"] == pytest.approx(found.metrics["score_consistency"] - 3 * found.metrics["score_entropy"])


def test_the_head_alone(images: ImageList, model: Checkpoint) -> None:
    """The network is in evaluation mode: no weight and no statistic of its batch normalisations moves, by a bit; the head does."""
    first = scan(images, model, trains="head", best="note")
    second = scan(images, first.model, context=at(3), trains="head", best="take")
    for found in (first, second):
        assert all(v.tobytes() == model.model[k].tobytes() for k, v in found.model.model.items() if not k.startswith("head."))
        assert {k.split("/")[0] for k in found.model.optimizer} == {"head"}
    assert first.model.model["head.weight"].tobytes() != second.model.model["head.weight"].tobytes() or second.metrics["best_epoch"] == 3
    assert {k for k in first.model.memory if "backbone" in k} == set()


def test_from_every_safe_point_it_is_the_same_epoch(images: ImageList, model: Checkpoint, tmp_path: Path) -> None:
    """In a stage's first epoch, in one that goes on, and in its last, which takes the best."""
    start = model
    for epoch, settings in ((2, {"restart": True, "best": "note"}), (3, {"best": "note"}), (4, {"best": "take", "lr": 0.5})):
        kept: list[Checkpoint] = []
        watched = scan(images, start, context=at(epoch), safe=SafePoint(lambda: True, kept.append), **settings)
        straight = scan(images, start, context=at(epoch), **settings)
        assert [c.config["midway"]["batches"] for c in kept] == [0, 1, 2, 3]  # the last before all images are labelled
        again = [scan(images, start, context=at(epoch), resume=through_file(c, tmp_path / "c.h5"), **settings) for c in kept]
        for found in (watched, *again):
            assert whole(found.model, straight.model)
            assert store.digest_of(found.model) == store.digest_of(straight.model)
            assert found.made.probs.tobytes() == straight.made.probs.tobytes()
            assert {k: v for k, v in found.metrics.items() if k not in TIMES} == {k: v for k, v in straight.metrics.items() if k not in TIMES}
        start = straight.model


@pytest.mark.parametrize("passes", [0, 1])
def test_a_signal_while_the_images_are_labelled_keeps_the_epoch(images: ImageList, model: Checkpoint, tmp_path: Path, passes: int,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first pass, of the last weights, and in the second, of the best ones, which are taken then."""
    start = scan(images, model, context=at(2), restart=True, best="note").model
    settings = {"best": "take", "lr": 0.5}  # so large that the epoch before is the best
    straight = scan(images, start, context=at(3), **settings)
    assert straight.metrics["best_epoch"] == 3
    views, kept = predictions.fixed_views, []
    begun = iter(range(3))

    def stopped(*args: Any, **options: Any) -> Any:
        if next(begun) == passes:
            raise Stopped(10)
        return views(*args, **options)

    monkeypatch.setattr(predictions, "fixed_views", stopped)
    with pytest.raises(Stopped):
        scan(images, start, context=at(3), safe=SafePoint(lambda: False, kept.append), **settings)
    monkeypatch.undo()
    assert [c.config["midway"]["batches"] for c in kept] == [3]
    again = scan(images, start, context=at(3), resume=through_file(kept[0], tmp_path / "c.h5"), **settings)
    assert whole(again.model, straight.model)
    assert again.made.probs.tobytes() == straight.made.probs.tobytes()
    assert {k: v for k, v in again.metrics.items() if k not in TIMES} == {k: v for k, v in straight.metrics.items() if k not in TIMES}


def test_neighbours_of_ones_own_that_have_the_image_itself(images: ImageList, model: Checkpoint) -> None:
    """A file that does not say so counts it once in the score."""
    own = dataclasses.replace(NEAR, self_included=False)
    found = scan(images, model, own, score_neighbors=M + 1, best="note")
    p = np.array(found.made.probs)
    assert found.metrics["score"] == pytest.approx(score_by_loop(p, NEAR, range(N), M + 1, 1.0), abs=1e-6)


# what is held out

def held(share: float = 0.3) -> list[int]:
    """Each image's own draw, of the run's key."""
    return np.flatnonzero(Key(5, stage="init").uniform("held-out", np.arange(N)) < share).tolist()


def test_images_held_out_are_scored_alone_and_never_trained_on(images: ImageList, model: Checkpoint) -> None:
    hidden = held()
    assert 3 < len(hidden) < 13
    found = scan(images, model, held_out=0.3)
    hand = ByHand(images, model, NEAR, settings_of(held_out=0.3), hidden=tuple(hidden))
    hand.alike(found)
    assert not set(hidden) & (set(hand.anchors) | set(hand.partners))
    p = np.array(found.made.probs)
    assert found.metrics["score"] == pytest.approx(score_by_loop(p, NEAR, hidden, 6, 1.0), abs=1e-6)
    assert np.isfinite(p).all()                            # labelled they are
    pixels = np.array(images.pixels)
    pixels[hidden] = 255 - pixels[hidden]
    other = scan(dataclasses.replace(images, pixels=pixels), model, held_out=0.3)
    assert {k: v.tobytes() for k, v in other.model.model.items()} == {k: v.tobytes() for k, v in found.model.model.items()}
    assert other.metrics["score"] != found.metrics["score"]
    again = scan(images, found.model, context=at(3), held_out=0.3)
    rows = ByHand(images, found.model, NEAR, settings_of(held_out=0.3), 3, hidden=tuple(hidden))
    rows.alike(again)                                      # the same ones in every epoch


# the epoch of the lowest score

RUINED = {"lr": 3.0}


def best_parts(memory: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {k.removeprefix("best/"): v.tobytes() for k, v in memory.items() if k.startswith("best/") and k not in ("best/score", "best/epoch")}


def parts(model: Checkpoint) -> dict[str, bytes]:
    return {k: v.tobytes() for k, v in model.model.items() if k.startswith(("backbone.", "head."))}


@pytest.mark.parametrize(("trains", "lr"), [("all", 3e-3), ("head", 0.02)])
def test_the_best_epoch_is_noted_and_taken(images: ImageList, model: Checkpoint, trains: str, lr: float) -> None:
    """Epochs of which the middle one is the best, as the third has a learning rate that ruins the network: its weights, statistics, labels and
    probabilities are what goes on."""
    one = scan(images, model, restart=True, best="note", lr=1e-5, trains=trains)
    assert best_parts(one.model.memory) == {k: v for k, v in parts(one.model).items() if trains == "all" or k.startswith("head.")}
    two = scan(images, one.model, context=at(3), best="note", lr=lr, trains=trains)
    assert two.metrics["score"] < one.metrics["score"]
    assert (two.metrics["best_epoch"], two.metrics["best_score"]) == (4, two.metrics["score"])
    noted = scan(images, two.model, context=at(4), best="note", trains=trains, **RUINED)
    assert noted.metrics["score"] > two.metrics["score"]
    assert best_parts(noted.model.memory) == best_parts(two.model.memory)
    assert parts(noted.model) != parts(two.model)
    taken = scan(images, two.model, context=at(4), best="take", trains=trains, **RUINED)
    assert parts(taken.model) == parts(two.model)
    assert taken.metrics["score"] == pytest.approx(two.metrics["score"], abs=1e-6)  # of the weights that go on
    assert (taken.metrics["best_epoch"], taken.metrics["best_score"]) == (4, two.metrics["score"])
    assert taken.made.labels.tobytes() == two.made.labels.tobytes()
    assert taken.made.probs.tobytes() == two.made.probs.tobytes()
    assert not [k for k in taken.model.memory if k.startswith("best/")]
    p = np.array(taken.made.probs)
    assert taken.metrics["mean_confidence"] == pytest.approx(p.max(1).mean(), abs=1e-6)
    own = scan(images, one.model, context=at(3), best="take", lr=lr, trains=trains)   # the last is the best: it is itself
    assert parts(own.model) == parts(two.model)


def test_off_keeps_no_best_and_leaves_an_older_one(images: ImageList, model: Checkpoint) -> None:
    assert not [k for k in scan(images, model).model.memory if k.startswith("best/")]


def test_a_stage_begins_anew(images: ImageList, model: Checkpoint) -> None:
    """restart: a head drawn from the epoch's key, no moments, and no older best: bit for bit the epoch of the bare network."""
    before = scan(images, model, best="note")
    headless = {k: v for k, v in before.model.model.items() if not k.startswith("head.")}
    bare = dataclasses.replace(before.model, optimizer={}, memory={}, model=headless)
    again, wanted = (scan(images, m, context=at(3), restart=True, best="note", lr=1e-6) for m in (before.model, bare))
    assert whole(again.model, wanted.model)
    assert again.metrics["best_epoch"] == 4
    assert again.metrics["score"] > before.metrics["score"]               # an older best would have been the better
    other = scan(images, before.model, context=at(4), restart=True, lr=0.0, weight_decay=0.0)
    assert other.model.model["head.weight"].tobytes() != again.model.model["head.weight"].tobytes()
    limit = 1 / math.sqrt(256)
    assert np.abs(other.model.model["head.weight"]).max() <= limit
    assert np.abs(other.model.model["head.weight"]).max() > 0.9 * limit
    kept = scan(images, before.model, context=at(3), lr=0.0, weight_decay=0.0)
    assert kept.model.model["head.weight"].tobytes() == before.model.model["head.weight"].tobytes()
    more = scan(images, before.model, context=at(3), restart=True, k=5)
    assert more.model.model["head.weight"].shape == (5, 256)


# bad images

def test_a_bad_image_is_nowhere(images: ImageList, model: Checkpoint) -> None:
    """Never an anchor, never a partner, also where a file of somebody's own lists it; -1 and NaN in what is handed on."""
    bad = (3, 7)
    listed = with_bad(images, *bad)
    clean = near().neighbors.copy()
    clean[np.isin(clean, bad)] = -1
    clean[list(bad)] = -1
    found = scan(listed, model, Neighbors(clean, self_included=True))
    hand = ByHand(listed, model, Neighbors(clean, self_included=True), settings_of())
    hand.alike(found)
    assert not set(bad) & (set(hand.anchors) | set(hand.partners))
    assert found.made.labels[list(bad)].tolist() == [-1, -1]
    assert np.isnan(found.made.probs[list(bad)]).all()
    assert np.isnan(found.made.score[list(bad)]).all()
    assert np.isfinite(np.delete(found.made.probs, bad, 0)).all()
    good = [i for i in range(N) if i not in bad]
    assert found.metrics["score"] == pytest.approx(score_by_loop(np.array(found.made.probs), Neighbors(clean), good, 6, 1.0), abs=1e-6)
    assert found.metrics["bad"] == 2
    pixels = np.array(images.pixels)
    pixels[list(bad)] = 255
    assert whole(scan(dataclasses.replace(listed, pixels=pixels), model, Neighbors(clean, self_included=True)).model, found.model)


def test_a_bad_image_that_a_foreign_file_names_as_a_neighbour(images: ImageList, model: Checkpoint) -> None:
    """As a label of a bad image, which is left out, so is a neighbour that cannot be read."""
    bad = (3, 7)
    listed = with_bad(images, *bad)
    full = near(columns=25).neighbors
    for y, held_out in ((near().neighbors, 0.0), (near().neighbors, 0.3), (np.maximum(full, 0).astype(np.uint16), 0.3)):
        masked = np.where(np.isin(y, bad) | np.isin(np.arange(N), bad)[:, None], -1, y.astype(np.int32))
        wanted, found = (scan(listed, model, Neighbors(x, self_included=True), held_out=held_out) for x in (masked, y))
        assert whole(found.model, wanted.model)
        assert found.metrics["score"] == wanted.metrics["score"]


# what is refused

def test_what_does_not_belong_is_refused(images: ImageList, model: Checkpoint) -> None:
    order = np.arange(N)[::-1]
    turned = Samples(images.samples.path[order].copy(), images.samples.status)
    for neighbors, said, cure in (
            (None, "neighbors: found none", "ucl neighbors --include-self"),
            (near(n=20), "/neighbors: 20 rows, expected 26", "ucl neighbors of this image list"),
            (dataclasses.replace(NEAR, samples=turned), "neighbors: ", "ucl neighbors of this image list"),
            (dataclasses.replace(NEAR, among=images.samples.path[:9].copy()), "rows of 9 other images", "one file of features")):
        with pytest.raises(DataError, match=said) as told:
            scan(images, model, neighbors)
        assert cure in told.value.hint


def test_an_image_without_a_neighbour_is_told_before_training(images: ImageList, model: Checkpoint) -> None:
    lonely = NEAR.neighbors.copy()
    lonely[11] = -1
    steps: list[int] = []
    with pytest.raises(DataError, match="row 11 has no neighbour"):
        train_epoch.train_epoch(images, model, None, settings_of(), CONTEXT, RUNTIME, lambda what, done, total: steps.append(done),
                                neighbors=Neighbors(lonely))
    assert not steps
    hidden = held()
    only = near(own=False, columns=6).neighbors
    only[0] = hidden[0] if hidden[0] else hidden[1]
    with pytest.raises(DataError, match=rf"has no neighbour, expected at least one, {len(hidden)} images held out") as told:
        scan(images, model, Neighbors(only), held_out=0.3)
    assert "--include-self" in told.value.hint


@pytest.mark.parametrize("restart", [True, False])
def test_number_of_classes(images: ImageList, model: Checkpoint, restart: bool) -> None:
    with pytest.raises(UsageError, match="k: found 0, wanted the number of classes") as told:
        scan(images, model, k=0, restart=restart)
    assert told.value.hint == "-k K"
    before = scan(images, model).model
    assert scan(images, before, context=at(3), k=0).model.config["k"] == K
    with pytest.raises(DataError, match="a classifier of 3 classes, asked for 4") as other:
        scan(images, before, k=4)
    assert "--restart" in other.value.hint
    assert scan(images, before, k=4, restart=True).model.config["k"] == 4


def test_only_whole_batches(images: ImageList, model: Checkpoint) -> None:
    """L10: no step at all is refused, never silence; also where too many are held out or bad."""
    with pytest.raises(UsageError, match="batch: found 27 for 26 images to draw") as told:
        scan(images, model, batch=27)
    assert told.value.hint == "at most --batch 26"
    assert scan(images, model, batch=26).metrics["steps"] == 1
    left = N - len(held())
    with pytest.raises(UsageError, match=f"batch: found {left + 1} for {left} images"):
        scan(images, model, batch=left + 1, held_out=0.3)
    with pytest.raises(UsageError, match="batch: found 26 for 25 images"):
        scan(with_bad(images, 4), model, batch=26)


@pytest.mark.parametrize("share", [1e-6, 1.0])
def test_holding_out_nothing_or_everything(images: ImageList, model: Checkpoint, share: float) -> None:
    with pytest.raises(UsageError, match="held-out: found a share of"):
        scan(images, model, held_out=share)


def test_a_head_on_hidden_layers_is_not_gone_on_with(images: ImageList, model: Checkpoint) -> None:
    chosen = TrainSettings(objective="relabel", batch=B, k=K, mlp=12)
    hidden = train_epoch.train_epoch(images, model, None, chosen, dataclasses.replace(CONTEXT, stage="train-epoch"), RUNTIME, silent).model
    with pytest.raises(DataError, match="its classifier stands on a hidden layer"):
        scan(images, hidden)
    found = scan(images, hidden, restart=True).model
    assert found.model["head.weight"].shape == (K, 256)
    assert not [k for k in found.model if k.startswith("mlp")]
    assert "head_on" not in found.config


def test_a_ruined_network_is_told(images: ImageList, model: Checkpoint) -> None:
    with pytest.raises(DataError, match="finite"):
        scan(images, model, lr=1e30)
