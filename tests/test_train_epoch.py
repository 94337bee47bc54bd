"""ucl.train_epoch: fact D4 of DeepCluster, the optimizers by hand, resuming, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import MEAN, RUNTIME, STD, image_list, new_model, noise, write_pngs
from torch.nn import functional

from ucl import models, stop, store, train_epoch
from ucl.artifacts import UNREADABLE, Checkpoint, ImageList, Labels, Samples
from ucl.batches import Batches
from ucl.context import Context
from ucl.errors import DataError, Stopped
from ucl.keys import Key
from ucl.samplers import cluster_weights, draw_epoch
from ucl.settings import TrainSettings
from ucl.train_epoch import Trained

torch.set_num_threads(1)
PLAIN = {"crop_scale": (1.0, 1.0), "flip": 0.0, "jitter_p": 0.0, "grey_p": 0.0}
CONTEXT = Context("deepcluster", stage="train-epoch", epoch=2, seed=5)
N = 24


def labels(values: Any, k: int | None = None, **more: Any) -> Labels:
    y = np.array(values, np.int32)
    size = np.bincount(y[y >= 0], minlength=k or int(y.max()) + 1).astype(np.int64)
    return Labels(y, size=size, **more)


def train(images: ImageList, model: Checkpoint, y: Labels, context: Context = CONTEXT, report: Any = lambda *a: None,
          previous: Labels | None = None, **settings: Any) -> Trained:
    return train_epoch.train_epoch(images, model, y, TrainSettings(**({"batch": 10} | settings)), context, RUNTIME, report, previous)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def equal(a: Checkpoint, b: Checkpoint) -> bool:
    return same(a.model, b.model) and same(a.optimizer, b.optimizer) and a.progress == b.progress and a.config == b.config


def through_file(artifact: Any, path: Path) -> Any:
    with path.open("wb") as out:
        store.save(artifact, out)
    return store.load(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    """24 pictures; picture i has the red value 10 i everywhere, for `seen`."""
    pixels = noise(N)
    pixels[..., 0] = (10 * np.arange(N))[:, None, None]
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), pixels))


@pytest.fixture(scope="module")
def y() -> Labels:
    return labels(np.arange(N) % 4)


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return new_model()


@pytest.fixture(scope="module")
def first(images: ImageList, model: Checkpoint, y: Labels) -> Trained:
    """One epoch with the defaults of the paper."""
    return train(images, model, y)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int], list[float]]]:
    """(rows, labels, weights) of every step that is really taken, where PLAIN views are drawn; rows by their red value."""
    found: list[tuple[list[int], list[int], list[float]]] = []
    step = train_epoch._State.step

    def watched(self: Any, passes: list[Any], views: list[torch.Tensor], rows: np.ndarray, start: int) -> torch.Tensor | None:
        (x,) = views
        red = (x[:, 0, 3, 3] * STD[0] + MEAN[0]) * 25.5
        found.append((red.round().int().tolist(), self.objective.usable[rows].tolist(), self.objective.weight[rows].tolist()))
        return step(self, passes, views, rows, start)

    monkeypatch.setattr(train_epoch._State, "step", watched)
    return found


# D4: the head and the optimizers

def test_a_fresh_head(images: ImageList, model: Checkpoint) -> None:
    """Seen through a learning rate of 0, which leaves the weights as they were drawn."""
    many = labels(np.arange(N) % 4, k=400)
    heads = []
    for epoch in (0, 1):
        trained = train(images, model, many, dataclasses.replace(CONTEXT, epoch=epoch), lr=0.0).model
        weight, bias = trained.model["head.weight"], trained.model["head.bias"]
        assert weight.shape == (400, 256)                                # K rows, empty clusters included; 102,400 weights
        assert 0.0095 <= weight.std() <= 0.0105
        assert abs(weight.mean()) < 2e-4
        assert not bias.any()
        wanted = models.new_head(256, 400, Key(5, 0, "train-epoch", epoch)).weight
        assert (weight == wanted.detach().numpy()).all()
        heads.append(weight)
    assert abs(np.corrcoef(heads[0].ravel(), heads[1].ravel())[0, 1]) < 0.02
    assert trained.config["k"] == 400


def test_a_fresh_head_does_not_go_on_from_the_last(images: ImageList, first: Trained, y: Labels) -> None:
    later = dataclasses.replace(CONTEXT, epoch=3)
    blank = dataclasses.replace(first.model, model={k: v for k, v in first.model.model.items() if not k.startswith("head.")})
    assert equal(train(images, first.model, y, later).model, train(images, blank, y, later).model)


def test_the_body_has_momentum_and_the_head_has_none(first: Trained, model: Checkpoint) -> None:
    net = models.restore(model)
    assert set(first.model.optimizer) == {f"body/{name}/momentum_buffer" for name, _ in net.named_parameters()}
    for name, parameter in net.named_parameters():
        assert first.model.optimizer[f"body/{name}/momentum_buffer"].shape == tuple(parameter.shape)
        assert first.model.optimizer[f"body/{name}/momentum_buffer"].any()


def test_the_swap_of_the_head_leaves_the_buffers(images: ImageList, first: Trained, y: Labels) -> None:
    """Before the first step they are the checkpoint's; the new head's optimizer has none."""
    state = train_epoch._State(first.model, images, labels(np.arange(N) % 7, k=7), None, TrainSettings(), Key(), RUNTIME)
    found = models.momentum_arrays(state.optimizer, state.backbone, "body/")
    assert same(found, first.model.optimizer)
    head = state.objective
    assert head.head.weight.shape == (7, 256)
    assert not head.optimizer.state
    assert [g["momentum"] for g in head.optimizer.param_groups] == [0.0]
    body = {id(p) for g in state.optimizer.param_groups for p in g["params"]}
    assert not body & {id(p) for p in head.head.parameters()}
    assert body == {id(p) for p in state.backbone.parameters()}


def by_hand(images: ImageList, model: Checkpoint, y: Labels, settings: TrainSettings, context: Context) -> tuple[
        dict[str, np.ndarray], dict[str, np.ndarray], list[float]]:
    """The epoch in plain arithmetic: tensors, momentum buffers and losses."""
    key = Key(context.seed, 0, context.stage, context.epoch)
    net, head = models.restore(model).train(), models.new_head(256, y.k, key)
    body, top = dict(net.named_parameters()), dict(head.named_parameters())
    buffer = {name: torch.zeros_like(p) for name, p in body.items()}
    for name in body:
        if f"body/{name}/momentum_buffer" in model.optimizer:
            buffer[name] = torch.from_numpy(model.optimizer[f"body/{name}/momentum_buffer"].copy())
    rows = draw_epoch(y.labels, settings.sampler, settings.epoch_length, key)
    batches = Batches(images, RUNTIME, 16, MEAN, STD)
    losses = []
    for start in range(0, len(rows), settings.batch):
        at = rows[start:start + settings.batch]
        logits = head(net(batches.train(at, np.arange(start, start + len(at)), key, settings)))
        log_p = logits - logits.logsumexp(1, keepdim=True)
        loss = -log_p[torch.arange(len(at)), torch.from_numpy(y.labels[at]).long()].mean()
        grads = torch.autograd.grad(loss, [*body.values(), *top.values()])
        losses.append(loss.item())
        with torch.no_grad():
            for (name, p), g in zip(body.items(), grads, strict=False):
                buffer[name] = settings.momentum * buffer[name] + g + settings.weight_decay * p
                p -= settings.lr * buffer[name]
            for p, g in zip(top.values(), grads[len(body):], strict=True):
                p -= settings.lr * (g + settings.weight_decay * p)
    tensors = {f"backbone.{k}": v for k, v in models.to_arrays(net).items()} | {f"head.{k}": v for k, v in models.to_arrays(head).items()}
    return tensors, {f"body/{k}/momentum_buffer": v.numpy() for k, v in buffer.items()}, losses


@pytest.mark.parametrize("epoch", ["first", "second"])
def test_an_epoch_by_hand(images: ImageList, model: Checkpoint, first: Trained, y: Labels, epoch: str) -> None:
    """Cross-entropy, momentum 0.9 over the body from epoch to epoch, none over the head, weight decay on both."""
    start, context = (model, CONTEXT) if epoch == "first" else (first.model, dataclasses.replace(CONTEXT, epoch=3))
    settings = {"weight_decay": 0.01, "lr": 0.02}
    found = train(images, start, y, context, **settings)
    tensors, buffers, losses = by_hand(images, start, y, TrainSettings(batch=10, **settings), context)
    assert set(found.model.model) == set(tensors)
    for name, value in tensors.items():
        np.testing.assert_allclose(found.model.model[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    for name, value in buffers.items():
        np.testing.assert_allclose(found.model.optimizer[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    assert found.metrics["loss"] == pytest.approx((10 * losses[0] + 10 * losses[1] + 4 * losses[2]) / 24, rel=1e-5)
    moved = [k for k in tensors if k in start.model and not (found.model.model[k] == start.model[k]).all()]
    assert len(moved) == len([k for k in tensors if k in start.model])   # parameters and running statistics alike


def test_head_momentum_is_a_setting(images: ImageList, model: Checkpoint, first: Trained, y: Labels) -> None:
    other = train(images, model, y, head_momentum=0.9).model
    assert not (other.model["head.weight"] == first.model.model["head.weight"]).all()
    assert set(other.optimizer) == set(first.model.optimizer)            # a fresh head's buffers die with it


# repeating and resuming

def test_two_runs_are_bit_equal_and_change_no_input(images: ImageList, model: Checkpoint, first: Trained, y: Labels) -> None:
    before = {k: v.copy() for k, v in model.model.items()}
    torch.manual_seed(123)                                               # the global stream plays no part
    again = train(images, model, y)
    assert equal(again.model, first.model)
    assert again.metrics["loss"] == first.metrics["loss"]
    assert same(model.model, before)
    assert not model.optimizer


@pytest.mark.parametrize("change", [{"epoch": 3}, {"seed": 6}, {"round": 1}, {"stage": "other"}])
def test_another_key_is_another_epoch(images: ImageList, model: Checkpoint, first: Trained, y: Labels, change: dict[str, Any]) -> None:
    other = train(images, model, y, dataclasses.replace(CONTEXT, **change))
    assert not (other.model.model["backbone.fc.weight"] == first.model.model["backbone.fc.weight"]).all()


@pytest.mark.parametrize("settings", [{}, {"head": "kept", "head_momentum": 0.9}], ids=["fresh", "kept"])
def test_going_on_from_a_file_is_going_on_in_memory(images: ImageList, model: Checkpoint, y: Labels, tmp_path: Path,
                                                    settings: dict[str, Any]) -> None:
    memory, disk = model, through_file(model, tmp_path / "0.h5")
    for epoch in range(3):
        context = dataclasses.replace(CONTEXT, epoch=epoch)
        memory = train(images, memory, y, context, **settings).model
        made = train(images, disk, through_file(y, tmp_path / "y.h5"), context, **settings).model
        disk = through_file(made, tmp_path / f"{epoch + 1}.h5")
        assert equal(disk, memory)
    assert memory.progress == {"epoch": 3, "step": 9, "seed": 5, "samples_seen": 72, "world_size": 1}
    assert ("head/weight/momentum_buffer" in disk.optimizer) == ("head" in settings)


def test_what_the_checkpoint_carries_on(images: ImageList, model: Checkpoint, first: Trained, y: Labels) -> None:
    bank = {"bank": np.arange(6.0).reshape(2, 3)}
    found = train(images, dataclasses.replace(model, memory=bank), y).model
    assert same(found.memory, bank)
    assert found.config == {"backbone": "convnet", "size": 16, "mean": list(MEAN), "std": list(STD), "k": 4}
    assert found.context == CONTEXT
    assert first.model.progress == {"epoch": 3, "step": 3, "seed": 5, "samples_seen": 24, "world_size": 1}
    assert first.labels.context == CONTEXT
    assert first.labels.samples is images.samples                        # complete, whatever was given
    assert (first.labels.labels == y.labels).all()


def test_progress_is_reported_by_draws(images: ImageList, model: Checkpoint, y: Labels) -> None:
    told: list[tuple[str, int, int]] = []
    train(images, model, y, report=lambda *a: told.append(a))
    assert told == [("train-epoch", 10, 24), ("train-epoch", 20, 24), ("train-epoch", 24, 24)]


# what is drawn

def test_each_draw_is_an_image_with_its_own_label(images: ImageList, model: Checkpoint, seen: Any) -> None:
    """Fact D5, through the whole path: picture i comes with y_i."""
    values = np.random.default_rng(0).integers(-1, 5, N)
    y = labels(values, k=6, weight=np.linspace(0.5, 2, N).astype(np.float32))
    train(images, model, y, weights="inverse", epoch_length=3.0, **PLAIN)
    rows, drawn, weight = ([v for s in seen for v in s[i]] for i in range(3))
    key = Key(5, 0, "train-epoch", 2)
    assert rows == draw_epoch(y.labels, "uniform", 3.0, key).tolist()
    assert drawn == values[rows].tolist()
    assert -1 not in drawn
    wanted = cluster_weights(y.labels, 6, "inverse")[values[rows]] * y.weight[rows]
    assert weight == pytest.approx(wanted.tolist(), rel=1e-6)


def test_images_without_a_label_play_no_part(images: ImageList, model: Checkpoint) -> None:
    y = labels([i % 3 if i % 4 else -1 for i in range(N)])
    a = train(images, model, y)
    pixels = np.array(images.pixels)
    pixels[::4] = 255
    b = train(dataclasses.replace(images, pixels=pixels), model, y)
    assert equal(a.model, b.model)
    assert (a.metrics["kept"], a.metrics["images"]) == (18, 24)
    pixels[1] = 255
    assert not equal(a.model, train(dataclasses.replace(images, pixels=pixels), model, y).model)


def test_a_bad_image_is_not_drawn_even_with_a_label(images: ImageList, model: Checkpoint, y: Labels, seen: Any) -> None:
    status = images.samples.status.copy()
    status[[3, 7]] = UNREADABLE
    listed = dataclasses.replace(images, samples=Samples(images.samples.path, status))
    found = train(listed, model, y, sampler="shuffle", **PLAIN)
    assert sorted(v for s in seen for v in s[0]) == [i for i in range(N) if i not in (3, 7)]
    assert (found.metrics["kept"], found.metrics["bad"]) == (22, 2)


@pytest.mark.parametrize(("draws", "batch", "spans"), [
    (24, 10, [(0, 10), (10, 20), (20, 24)]), (21, 10, [(0, 10), (10, 21)]), (20, 10, [(0, 10), (10, 20)]), (11, 10, [(0, 11)]),
    (1, 10, [(0, 1)]), (22, 10, [(0, 10), (10, 20), (20, 22)]), (5, 2, [(0, 2), (2, 5)])])
def test_spans(draws: int, batch: int, spans: list[tuple[int, int]]) -> None:
    assert train_epoch._spans(draws, batch) == spans


def test_a_last_batch_of_one_joins_its_neighbour(images: ImageList, model: Checkpoint, seen: Any) -> None:
    y = labels([i % 4 if i < 21 else -1 for i in range(N)])
    found = train(images, model, y, sampler="shuffle", **PLAIN)
    assert [len(s[0]) for s in seen] == [10, 11]
    assert sorted(v for s in seen for v in s[0]) == list(range(21))
    assert (found.metrics["steps"], found.model.progress["samples_seen"]) == (2, 21)


def test_an_epoch_of_one_image_is_refused(images: ImageList, model: Checkpoint, y: Labels) -> None:
    with pytest.raises(DataError, match="labels: found 1 image to draw, batch normalisation needs 2"):
        train(images, model, labels([0] + [-1] * 23))
    with pytest.raises(DataError, match="labels: found 1 image to draw"):
        train(images, model, y, epoch_length=0.0)


def test_an_unpacked_list_trains_to_the_same_bits(tmp_path: Path, model: Checkpoint) -> None:
    write_pngs(tmp_path, noise(6))
    y = labels([0, 1, 0, 1, 0, 1])
    packed, unpacked = (train(image_list(tmp_path, pack=p), model, y, **PLAIN | {"jitter_p": 0.8}) for p in ("auto", "none"))
    assert equal(packed.model, unpacked.model)


# a kept head

def test_a_kept_head_keeps_its_rows(images: ImageList, first: Trained, y: Labels) -> None:
    kept = train(images, first.model, y, head="kept", lr=0.0).model.model
    assert (kept["head.weight"] == first.model.model["head.weight"]).all()
    assert (kept["head.bias"] == first.model.model["head.bias"]).all()
    fresh = train(images, first.model, y, lr=0.0).model.model
    assert not (fresh["head.weight"] == first.model.model["head.weight"]).any()


def test_a_kept_head_starts_fresh_where_there_is_none(images: ImageList, model: Checkpoint, first: Trained, y: Labels,
                                                      caplog: pytest.LogCaptureFixture) -> None:
    found = train(images, model, y, head="kept").model
    assert same(found.model, first.model.model)
    assert not caplog.records


def test_another_number_of_clusters_draws_the_head_anew(images: ImageList, first: Trained, caplog: pytest.LogCaptureFixture) -> None:
    five = labels(np.arange(N) % 5)
    with caplog.at_level(logging.WARNING):
        found = train(images, first.model, five, head="kept", head_momentum=0.9).model
    assert "the head has 4 clusters, the labels 5: it is drawn anew" in caplog.text
    fresh = train(images, first.model, five, head_momentum=0.9).model
    assert same(found.model, fresh.model)
    assert found.config["k"] == 5


def test_a_kept_heads_momentum_goes_on(images: ImageList, first: Trained, y: Labels) -> None:
    """One step: the new buffer is 0.9 of the old one and the gradient."""
    once = train(images, first.model, y, head="kept", head_momentum=0.9).model
    blank = dataclasses.replace(once, optimizer={k: v for k, v in once.optimizer.items() if not k.startswith("head/")})
    options = {"head": "kept", "head_momentum": 0.9, "batch": 24}
    a, b = (train(images, m, y, **options).model.optimizer["head/weight/momentum_buffer"] for m in (once, blank))
    np.testing.assert_allclose(a - b, 0.9 * once.optimizer["head/weight/momentum_buffer"], rtol=1e-3, atol=1e-6)


# the loss

@pytest.mark.parametrize("rule", ["none", "inverse", "inverse-sqrt"])
@pytest.mark.parametrize("own", [False, True], ids=["", "weight"])
def test_the_weighted_loss_by_hand(images: ImageList, model: Checkpoint, rule: str, own: bool) -> None:
    values = np.array([0] * 16 + [1] * 6 + [2] * 2)
    weight = np.linspace(0.1, 3, N).astype(np.float32) if own else None
    y = labels(values, weight=weight)
    found = train(images, model, y, batch=24, lr=0.0, sampler="shuffle", weights=rule)
    key = Key(5, 0, "train-epoch", 2)
    rows = draw_epoch(y.labels, "shuffle", 1.0, key)
    net, head = models.restore(model).train(), models.new_head(256, 3, key)
    with torch.no_grad():
        logits = head(net(Batches(images, RUNTIME, 16, MEAN, STD).train(rows, np.arange(N), key, TrainSettings())))
        each = functional.cross_entropy(logits, torch.from_numpy(values[rows]), reduction="none").numpy()
    power = {"none": 0.0, "inverse": -1.0, "inverse-sqrt": -0.5}[rule]
    w = np.array([16.0, 6.0, 2.0])[values[rows]] ** power * (weight[rows] if weight is not None else 1)
    assert found.metrics["loss"] == pytest.approx((each * w).sum() / w.sum(), rel=1e-5)


def test_weights_change_what_is_learnt(images: ImageList, model: Checkpoint) -> None:
    y = labels([0] * 16 + [1] * 6 + [2] * 2)
    rules = [train(images, model, y, sampler="shuffle", weights=r).model.model["head.weight"] for r in ("none", "inverse", "inverse-sqrt")]
    assert not (rules[0] == rules[1]).all()
    assert not (rules[1] == rules[2]).all()
    equal_sizes = labels(np.arange(N) % 4)
    assert equal(train(images, model, equal_sizes, weights="inverse").model, train(images, model, equal_sizes).model)


@pytest.mark.parametrize("head", ["fresh", "kept"])
def test_the_loss_of_three_colours_falls(tmp_path: Path, model: Checkpoint, head: str) -> None:
    pixels = noise(48) // 3
    for i in range(48):
        pixels[i, :, :, i % 3] += 150
    listed = image_list(write_pngs(tmp_path, pixels))
    y, at, losses = labels(np.arange(48) % 3), model, []
    for epoch in range(4):
        found = train(listed, at, y, dataclasses.replace(CONTEXT, epoch=epoch), batch=8, head=head, jitter_p=0.0, grey_p=0.0)
        at = found.model
        losses.append(found.metrics["loss"])
    assert losses[0] > 0.3
    assert losses[-1] < losses[0] * (0.2 if head == "kept" else 0.8)
    assert found.metrics["log_k"] == pytest.approx(math.log(3))


def test_a_loss_that_is_not_finite_names_the_batch(images: ImageList, model: Checkpoint, y: Labels) -> None:
    before = {k: v.copy() for k, v in model.model.items()}
    rows = draw_epoch(y.labels, "uniform", 1.0, Key(5, 0, "train-epoch", 2))
    with pytest.raises(DataError, match=r"^loss: found (nan|inf) in batch 1 of 3 \(rows (.*), \.\.\.\), wanted a finite number") as e:
        train(images, model, y, lr=1e30)
    assert f"(rows {rows[10]}, {rows[11]}, {rows[12]}, ...)" in e.value.message
    assert same(model.model, before)


def test_a_signal_stops_between_batches(images: ImageList, model: Checkpoint, y: Labels, seen: Any) -> None:
    def report(what: str, done: int, total: int) -> None:
        stop._pending.append(15)

    try:
        with pytest.raises(Stopped):
            train(images, model, y, report=report)
    finally:
        stop._pending.clear()
    assert len(seen) == 1


# labels that do not belong

def test_labels_of_another_length(images: ImageList, model: Checkpoint) -> None:
    with pytest.raises(DataError, match="labels: /labels: 5 rows, expected 24 as in the image list"):
        train(images, model, labels([0, 1, 0, 1, 0]))


def test_labels_of_other_images(images: ImageList, model: Checkpoint, y: Labels) -> None:
    path = images.samples.path.copy()
    path[[7, 9]] = [b"a\nb", b"c"]
    with pytest.raises(DataError) as e:
        train(images, model, dataclasses.replace(y, samples=Samples(path, images.samples.status)))
    assert e.value.message == r"labels: row 7 is a\nb, expected 0007.png as in the image list (other images)"


def test_labels_in_another_order(images: ImageList, model: Checkpoint, y: Labels) -> None:
    path = images.samples.path.copy()
    path[[4, 20]] = path[[20, 4]]
    with pytest.raises(DataError) as e:
        train(images, model, dataclasses.replace(y, samples=Samples(path, images.samples.status)))
    assert e.value.message == "labels: row 4 is 0020.png, expected 0004.png as in the image list (the same images in another order)"


def test_labels_of_the_same_images_in_wider_cells_belong(images: ImageList, model: Checkpoint, first: Trained, y: Labels) -> None:
    theirs = Samples(images.samples.path.astype("S64"), images.samples.status)
    assert equal(train(images, model, dataclasses.replace(y, samples=theirs)).model, first.model)


def test_no_label_at_all(images: ImageList, model: Checkpoint) -> None:
    with pytest.raises(DataError, match="found no image in a cluster"):
        train(images, model, Labels(np.full(N, -1, np.int32)))


def test_a_momentum_of_another_shape(images: ImageList, first: Trained, y: Labels) -> None:
    wrong = first.model.optimizer | {"body/fc.weight/momentum_buffer": np.zeros((2, 2), np.float32)}
    with pytest.raises(DataError, match=r"/optimizer/body/fc\.weight: shape \(2, 2\), expected \(256, 256\)"):
        train(images, dataclasses.replace(first.model, optimizer=wrong), y)


# metrics

def test_metrics(images: ImageList, model: Checkpoint) -> None:
    y = labels([0] * 9 + [1] * 9 + [3] * 4 + [-1] * 2, k=5, info={"objective": 12.5, "iterations": 20, "more": 1})
    found = train(images, model, y).metrics
    assert found.pop("seconds_train") >= 0
    assert found.pop("images_per_second_train") > 0
    loss = found.pop("loss")
    assert 0 < loss < 10
    assert found == {"epoch": 2, "log_k": math.log(5), "k": 5, "clusters": 3, "empty": 2, "largest": 9, "largest_share": 9 / 22,
                     "kept": 22, "images": 24, "bad": 0, "objective": 12.5, "cluster_iterations": 20, "steps": 3, "lr": 0.05}


def test_agreement_with_the_last_labels(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """Fact D11: absent in the first epoch, 1 for equal labels and for renamed ones."""
    assert not {"nmi_arithmetic", "nmi_geometric", "churn"} & set(train(images, model, y).metrics)
    equal_, renamed = (train(images, model, y, previous=p).metrics for p in (y, labels((y.labels + 1) % 4)))
    assert [equal_[n] for n in ("nmi_arithmetic", "nmi_geometric", "churn")] == pytest.approx([1, 1, 0])
    assert [renamed[n] for n in ("nmi_arithmetic", "nmi_geometric", "churn")] == pytest.approx([1, 1, 1])
    moved = y.labels.copy()
    moved[:6] = (moved[:6] + 1) % 4
    some = train(images, model, y, previous=labels(moved)).metrics
    assert some["churn"] == 0.25
    assert 0 < some["nmi_arithmetic"] < 1
    assert "churn" not in train(images, model, y, previous=labels([0, 1])).metrics


@pytest.mark.parametrize(("values", "k", "collapsed"), [
    ([0] * 13 + [1] * 11, 10, True), ([0] * 13 + [1] * 11, 9, False), ([0] * 12 + [1] * 12, 10, False), ([0] * 24, 2, True),
    ([0] * 8 + [1] * 8 + [2] * 8, 31, True),
    ([0] * 8 + [1] * 8 + [2] * 8, 30, False)])
def test_collapse(images: ImageList, model: Checkpoint, caplog: pytest.LogCaptureFixture, values: list[int], k: int, collapsed: bool) -> None:
    """One of ten or more clusters has over half of the images, fewer than a tenth are filled, or one is left."""
    with caplog.at_level(logging.WARNING):
        found = train(images, model, labels(values, k=k)).metrics
    assert found.get("collapse", False) is collapsed
    assert ("the clusters collapse" in caplog.text) is collapsed
    if k == 10 and collapsed:
        assert "2 of 10 are filled, the largest has 54 % of the images" in caplog.text


# features of the training pass

def test_what_training_remembers(images: ImageList, model: Checkpoint, y: Labels) -> None:
    """Of an image drawn twice the last step's; of one never drawn the last epoch's, or nothing.  With a learning rate of 0 the network's own."""
    some = labels([0, 1, 2, 3] * 4 + [-1] * 8)
    options: dict[str, Any] = {"lr": 0.0, "batch": 8, "keep_features": True, "sampler": "shuffle"}
    made = train(images, model, some, epoch_length=1.5, **options).model
    kept = made.memory["features"]
    assert kept.shape == (N, 256)
    assert kept.dtype == np.float32
    assert np.isnan(kept[16:]).all()
    assert np.isfinite(kept[:16]).all()
    key = Key(5, 0, "train-epoch", 2)
    rows = draw_epoch(some.labels, "shuffle", 1.5, key)
    net = models.restore(model).train()
    for start in range(0, 24, 8):
        x = Batches(images, RUNTIME, 16, MEAN, STD).train(rows[start:start + 8], np.arange(start, start + 8), key, TrainSettings())
        with torch.no_grad():
            wanted = net(x).numpy()
        last = [i for i, row in enumerate(rows[start:start + 8]) if row not in rows[start + 8:]]
        np.testing.assert_allclose(kept[rows[start:start + 8][last]], wanted[last], atol=1e-5)
    again = train(images, made, y, **options).model.memory["features"]
    assert np.isfinite(again).all()
    half = train(images, dataclasses.replace(made, memory={"features": again}), some, **options).model.memory["features"]
    assert (half[16:] == again[16:]).all()
    assert "features" not in train(images, made, y).model.memory                    # nothing stale is handed on


def test_extraction_hands_on_what_training_remembers(images: ImageList, model: Checkpoint, y: Labels) -> None:
    from ucl.errors import UsageError
    from ucl.extract import extract
    from ucl.settings import ExtractSettings

    def features(checkpoint: Checkpoint, **options: Any) -> Any:
        settings = ExtractSettings(**({"final_relu": True, "batch": 10} | options))
        return extract(images, checkpoint, settings, CONTEXT, RUNTIME, lambda *a: None).collect()

    some = train(images, model, labels([0, 1, 2, 3] * 4 + [-1] * 8), keep_features=True, batch=8, sampler="shuffle").model
    handed, plain = features(some, source="training"), features(some)
    assert (handed.features[:16] == some.memory["features"][:16]).all()
    np.testing.assert_allclose(handed.features[16:], plain.features[16:], atol=1e-5)
    assert not np.allclose(handed.features[:16], plain.features[:16], atol=1e-2)
    assert (features(model, source="training").features == features(model).features).all()      # nothing to hand on yet
    with pytest.raises(UsageError, match="after its final ReLU"):
        features(some, source="training", final_relu=False)
    with pytest.raises(DataError, match="/memory/features: 3 rows, expected 24"):
        features(dataclasses.replace(some, memory={"features": np.zeros((3, 256), np.float32)}), source="training")
