"""train-epoch --objective contrast: an epoch by hand, with labels and without; batches without a step; Adam; the plan of simclr."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import RUNTIME, image_list, new_model, noise, write_pngs
from test_train_epoch import equal, through_file

from ucl import models, train_epoch
from ucl.artifacts import UNREADABLE, Checkpoint, ImageList, Labels, Samples, replace
from ucl.batches import Batches
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.methods import simclr
from ucl.methods.method import plan, plan_length
from ucl.networks.projector import new_projector
from ucl.objectives.contrast import multi_positive, nt_xent
from ucl.purify import joined
from ucl.run import silent
from ucl.safepoints import SafePoint
from ucl.samplers import draw_epoch
from ucl.settings import PurifySettings, TrainSettings
from ucl.train_epoch import Trained

torch.set_num_threads(1)
CONTEXT = Context("simclr", stage="train-epoch", epoch=2, seed=5)
N, P, B = 26, 8, 8
CLUSTERS = np.array([0, 0, 0, 1, 1, -1, 2, 2, 2, 2, -1, -1] + [-1] * 8 + [1, 0, 1, 0, 2, 1], np.int32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(N)))


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """With a projection of two layers to 8 dimensions."""
    made = new_model(projection=P)
    made.model |= {f"projection.{k}": v for k, v in models.to_arrays(new_projector(256, P, Key(1, stage="init"))).items()}
    return made


def train(images: ImageList, model: Checkpoint, y: np.ndarray | None = None, context: Context = CONTEXT, *, resume: Checkpoint | None = None,
          safe: SafePoint | None = None, **settings: Any) -> Trained:
    chosen = TrainSettings(objective="contrast", **({"batch": B, "lr": 0.02} | settings))
    return train_epoch.train_epoch(images, model, None if y is None else Labels(y), chosen, context, RUNTIME, silent, resume=resume, safe=safe)


def by_hand(images: ImageList, model: Checkpoint, y: np.ndarray | None, settings: TrainSettings, adam: bool) -> tuple[Any, Any, list[float], int]:
    """The epoch as torch's own optimizers and the losses of `objectives.contrast` make it; network, projection, losses, skipped."""
    key = Key(CONTEXT.seed, 0, "train-epoch", CONTEXT.epoch)
    net, top = models.restore(model).train(), models.projection(model, 256)
    assert top is not None
    weights = [p for p in net.parameters() if p.requires_grad] + list(top.parameters())
    optimizer: Any = (torch.optim.Adam(weights, settings.lr, weight_decay=settings.weight_decay) if adam
                      else torch.optim.SGD(weights, settings.lr, settings.momentum, weight_decay=settings.weight_decay))
    batches = Batches(images, RUNTIME, int(model.config["size"]), tuple(model.config["mean"]), tuple(model.config["std"]))
    rows = draw_epoch(np.zeros(N, np.int32), "shuffle", 1.0, key)
    losses, skipped = [], 0
    for start in range(0, N - B + 1, B):
        at, places = rows[start:start + B], np.arange(start, start + B)
        if y is not None:
            sure = y[at] >= 0
            if sure.sum() < settings.least_batch:
                skipped += 1
                continue
            at, places = at[sure], places[sure]
        z = top(net(torch.cat([batches.train(at, places, key, settings, view) for view in (0, 1)])))
        first, second = z[:len(at)], z[len(at):]
        anchors = "first" if settings.first_only else "all"
        loss = (nt_xent(first, second, tau=settings.tau, anchors=anchors) if y is None else
                multi_positive(first, second, torch.from_numpy(y[at].astype(np.int64)), tau=settings.tau, form=settings.positives, anchors=anchors))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return net, top, losses, skipped


@pytest.mark.parametrize(("labelled", "settings"), [
    (False, {}), (False, {"optimizer": "adam", "lr": 1e-3, "momentum": 0.9}), (False, {"first_only": True, "tau": 0.5}),
    (True, {"least_batch": 2}), (True, {"least_batch": 5, "positives": "pair-mean"}), (True, {"least_batch": 4, "optimizer": "adam", "lr": 1e-3})])
def test_an_epoch_by_hand(images: ImageList, model: Checkpoint, labelled: bool, settings: dict[str, Any]) -> None:
    y = CLUSTERS if labelled else None
    found = train(images, model, y, **settings)
    chosen = TrainSettings(objective="contrast", **({"batch": B, "lr": 0.02} | settings))
    net, top, losses, skipped = by_hand(images, model, y, chosen, chosen.optimizer == "adam")
    for name, wanted in {**models.to_arrays(net), **{f"projection.{k}": v for k, v in models.to_arrays(top).items()}}.items():
        ours = found.model.model[name if name.startswith("projection.") else f"backbone.{name}"]
        np.testing.assert_allclose(ours, wanted, rtol=2e-4, atol=2e-5, err_msg=name)
    assert found.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found.metrics["steps"] == len(losses) == N // B - skipped
    assert found.metrics["log_batch"] == pytest.approx(math.log(2 * B - 1))
    assert found.metrics.get("skipped", 0) == skipped
    assert set(found.model.memory) == set()
    assert "log_n" not in found.metrics
    assert any(name.endswith("exp_avg_sq") for name in found.model.optimizer) is (chosen.optimizer == "adam")


def test_equal_views_cost_log_of_all_others(images: ImageList, model: Checkpoint) -> None:
    flat = dataclasses.replace(model, model={k: np.zeros_like(v) if k.startswith("projection.2.w") else v for k, v in model.model.items()})
    metrics = train(images, flat, lr=0.0).metrics
    assert metrics["loss"] == pytest.approx(metrics["log_batch"], rel=1e-5)


def test_an_image_without_a_label_changes_nothing(images: ImageList, model: Checkpoint, tmp_path: Path) -> None:
    """Its pixels have no part in the epoch; those of one with a label have."""
    pixels = noise(N)
    for row, same in ((5, True), (3, False)):
        other = [p if i != row else 255 - p for i, p in enumerate(pixels)]
        (tmp_path / str(row)).mkdir()
        listed = dataclasses.replace(image_list(write_pngs(tmp_path / str(row), other)), samples=images.samples)
        a, b = (train(i, model, CLUSTERS, least_batch=2).model.model for i in (images, listed))
        assert all(a[k].tobytes() == b[k].tobytes() for k in a) is same


def test_names_of_clusters_mean_nothing(images: ImageList, model: Checkpoint) -> None:
    renamed = np.where(CLUSTERS < 0, -1, (CLUSTERS + 1) % 3).astype(np.int32)
    a, b = (train(images, model, y, least_batch=2).model.model for y in (CLUSTERS, renamed))
    assert all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_without_enough_labels_the_network_stays_as_it_is(images: ImageList, model: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    few = np.full(N, -1, np.int32)
    few[:2] = 0
    with caplog.at_level(logging.WARNING):
        found = train(images, model, few)
    assert "no step was taken" in caplog.text
    assert all(found.model.model[k].tobytes() == model.model[k].tobytes() for k in model.model)
    assert not found.model.optimizer
    assert (found.metrics["steps"], found.metrics["loss"], found.metrics["skipped"]) == (0, 0.0, 3)


def test_a_bad_image_is_never_seen(images: ImageList, model: Checkpoint) -> None:
    status = np.array(images.samples.status)
    status[[3, 8]] = UNREADABLE
    bad = dataclasses.replace(images, samples=Samples(images.samples.path, status))
    assert train(bad, model).metrics["steps"] == 3
    with pytest.raises(UsageError, match="found 25 for 24 images to draw"):
        train(bad, model, batch=25)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "lr": 1e-3}])
@pytest.mark.parametrize("labelled", [False, True])
def test_from_every_safe_point_it_is_the_same_epoch(images: ImageList, model: Checkpoint, tmp_path: Path, labelled: bool,
                                                    settings: dict[str, Any]) -> None:
    """After an epoch of the same, so that there are buffers; with batches that have no step."""
    y = CLUSTERS if labelled else None
    first = train(images, model, y, **({"least_batch": 2} | settings)).model
    later = dataclasses.replace(CONTEXT, epoch=3)
    kept: list[Checkpoint] = []
    more = settings | ({"least_batch": 5} if labelled else {})
    whole = train(images, first, y, later, safe=SafePoint(lambda: True, kept.append), **more)
    assert len(kept) == N // B
    for state in kept:
        again = train(images, first, y, later, resume=through_file(state, tmp_path / "state.h5"), **more)
        equal(again.model, whole.model)
        assert {k: v for k, v in again.metrics.items() if "second" not in k} == {k: v for k, v in whole.metrics.items() if "second" not in k}
    equal(train(images, through_file(first, tmp_path / "first.h5"), y, later, **more).model, whole.model)


# an image's connections, and labels of an ensemble

PRED = np.stack([np.where(CLUSTERS < 0, 3, CLUSTERS), np.arange(N) % 2, np.arange(N) // 9 % 2]).astype(np.int32)
"""Three models; the third connects what the first two do not."""


def of_models(pred: np.ndarray, agree: int = 0) -> Labels:
    names = [f"{i}.h5" for i in range(len(pred))]
    return joined([Labels(y) for y in pred], names, PurifySettings(rule="agree", agree=agree), CONTEXT)


def pairs_by_hand(pred: np.ndarray, rows: np.ndarray, at_least: int, least: int) -> tuple[list[int], np.ndarray]:
    """Places of a batch that stay, and which pairs of them are alike; one pair at a time."""
    alike = np.array([[i != j and sum(int(y[i] == y[j] >= 0) for y in pred) >= at_least for j in rows] for i in rows])
    keep = [i for i in range(len(rows)) if alike[i].sum() >= max(1, least)]
    return keep, alike[np.ix_(keep, keep)]


@pytest.mark.parametrize(("at_least", "least"), [(3, 0), (3, 2), (2, 0), (2, 3), (1, 5)])
def test_an_epoch_of_an_ensemble_by_hand(images: ImageList, model: Checkpoint, at_least: int, least: int) -> None:
    """The pairs of each batch, its images with enough of them, and the loss of both."""
    labels = of_models(PRED, at_least)
    seen: list[list[int]] = []
    chosen = TrainSettings(objective="contrast", batch=B, lr=0.02, connections=least, least_batch=2)
    found = train_epoch.train_epoch(images, model, labels, chosen, CONTEXT, RUNTIME, silent)
    key = Key(CONTEXT.seed, 0, "train-epoch", CONTEXT.epoch)
    net, top = models.restore(model).train(), models.projection(model, 256)
    assert top is not None
    optimizer = torch.optim.SGD([*(p for p in net.parameters() if p.requires_grad), *top.parameters()], 0.02, chosen.momentum,
                                weight_decay=chosen.weight_decay)
    batches = Batches(images, RUNTIME, int(model.config["size"]), tuple(model.config["mean"]), tuple(model.config["std"]))
    rows, pairs = draw_epoch(np.zeros(N, np.int32), "shuffle", 1.0, key), 0
    for start in range(0, N - B + 1, B):
        at, places = rows[start:start + B], np.arange(start, start + B)
        keep, alike = pairs_by_hand(PRED, at, at_least, least)
        if len(keep) < 2:
            continue
        seen.append(keep)
        pairs += int(alike.sum())
        z = top(net(torch.cat([batches.train(at[keep], places[keep], key, chosen, view) for view in (0, 1)])))
        loss = multi_positive(z[:len(keep)], z[len(keep):], torch.from_numpy(alike), tau=chosen.tau)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, wanted in {**models.to_arrays(net), **{f"projection.{k}": v for k, v in models.to_arrays(top).items()}}.items():
        ours = found.model.model[name if name.startswith("projection.") else f"backbone.{name}"]
        np.testing.assert_allclose(ours, wanted, rtol=2e-4, atol=2e-5, err_msg=name)
    trained = sum(len(keep) for keep in seen)
    assert (found.metrics["steps"], found.metrics["skipped"]) == (len(seen), N // B - len(seen))
    assert found.metrics["confident_share"] == trained / (N // B * B)
    assert found.metrics["connections"] == pytest.approx(pairs / max(trained, 1))
    assert not found.model.memory


def model_of(images: ImageList, model: Checkpoint, labels: Labels | None, context: Context = CONTEXT, **settings: Any) -> dict[str, bytes]:
    chosen = TrainSettings(objective="contrast", **({"batch": B, "lr": 0.02, "least_batch": 2} | settings))
    made = train_epoch.train_epoch(images, model, labels, chosen, context, RUNTIME, silent)
    return {name: value.tobytes() for name, value in made.model.model.items()}


def test_where_all_must_agree_group_ids_say_all(images: ImageList, model: Checkpoint) -> None:
    """A-PFe-5, 6 and 8: ids and pairs give one loss; one model is the single rule without images that have no partner in their batch."""
    joint = of_models(PRED)
    assert joint.pred is not None
    assert model_of(images, model, joint) == model_of(images, model, Labels(joint.labels), connections=1)
    alone = of_models(CLUSTERS[None])
    assert model_of(images, model, alone) == model_of(images, model, Labels(CLUSTERS), connections=1)
    assert model_of(images, model, alone) != model_of(images, model, Labels(CLUSTERS))
    pairs = dataclasses.replace(joint, info={"purify": {"agree": 2}}, pred=np.stack([*PRED[:2], np.arange(100, 100 + N)]).astype(np.int32))
    by_id = of_models(PRED[:2])
    assert np.array_equal(agree_pairs(pairs.pred, 2), agree_pairs(by_id.pred, 2))
    one, two = (train_epoch.train_epoch(images, model, replace(y, labels=np.zeros(N, np.int32)) if y is pairs else y, TrainSettings(
        objective="contrast", batch=B, lr=0.02, least_batch=2), CONTEXT, RUNTIME, silent) for y in (pairs, by_id))
    assert one.metrics["loss"] == pytest.approx(two.metrics["loss"], rel=1e-5)
    assert one.metrics["connections"] == two.metrics["connections"]


def agree_pairs(pred: np.ndarray | None, at_least: int) -> np.ndarray:
    assert pred is not None
    return ((pred[:, :, None] == pred[:, None]) & (pred[:, :, None] >= 0)).sum(axis=0) >= at_least


def test_every_image_has_enough_partners_and_an_epoch_without_any_changes_nothing(images: ImageList, model: Checkpoint,
                                                                                 caplog: pytest.LogCaptureFixture) -> None:
    """A-PFe-7 and 10; connections 0 leave everything as it was."""
    before = {name: value.tobytes() for name, value in model.model.items()}
    with caplog.at_level(logging.WARNING):
        assert model_of(images, model, of_models(PRED), connections=B) == before
    assert "no step was taken" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model_of(images, model, of_models(np.zeros((3, N), np.int32), 2))
    assert "in 3 of 3 steps all images were of one cluster" in caplog.text
    assert model_of(images, model, Labels(CLUSTERS), connections=0) == model_of(images, model, Labels(CLUSTERS))
    metrics = train(images, model, CLUSTERS, least_batch=2).metrics
    assert "connections" not in metrics
    shares = [train(images, model, CLUSTERS, least_batch=2, connections=t).metrics["confident_share"] for t in range(4)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[1] > shares[3]


def test_a_bad_image_of_an_ensemble_is_never_seen(images: ImageList, model: Checkpoint, tmp_path: Path) -> None:
    """Nor one that a model gave no label: its pixels have no part in the epoch, whoever it would be connected to."""
    pred = PRED.copy()
    pred[1, 5] = -1
    for labels, row, same in ((of_models(pred, 2), 5, True), (of_models(PRED, 2), 5, False)):
        pixels = [p if i != row else 255 - p for i, p in enumerate(noise(N))]
        folder = tmp_path / f"{row}{same}"
        folder.mkdir()
        other = dataclasses.replace(image_list(write_pngs(folder, pixels)), samples=images.samples)
        assert (model_of(images, model, labels) == model_of(other, model, labels)) is same


@pytest.mark.parametrize("info", [{}, {"purify": {}}, {"purify": {"agree": 4}}, {"purify": {"agree": "2"}}])
def test_predictions_without_how_many_agreed_are_refused(images: ImageList, model: Checkpoint, info: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="/pred is of 3 models"):
        model_of(images, model, replace(of_models(PRED), info=info))


@pytest.mark.parametrize("agree", [3, 2])
def test_an_ensembles_epoch_goes_on_from_every_safe_point(images: ImageList, model: Checkpoint, tmp_path: Path, agree: int) -> None:
    labels = of_models(PRED, agree)
    chosen = TrainSettings(objective="contrast", batch=B, lr=0.02, least_batch=3, connections=2)
    kept: list[Checkpoint] = []
    whole = train_epoch.train_epoch(images, model, labels, chosen, CONTEXT, RUNTIME, silent, safe=SafePoint(lambda: True, kept.append))
    assert len(kept) == N // B
    for state in kept:
        again = train_epoch.train_epoch(images, model, labels, chosen, CONTEXT, RUNTIME, silent, resume=through_file(state, tmp_path / "state.h5"))
        equal(again.model, whole.model)
        assert {k: v for k, v in again.metrics.items() if "second" not in k} == {k: v for k, v in whole.metrics.items() if "second" not in k}


def test_buffers_of_another_optimizer_are_left_behind(images: ImageList, model: Checkpoint) -> None:
    after_sgd = train(images, model).model
    found = train(images, after_sgd, optimizer="adam", lr=1e-3).model.optimizer
    assert {name.rpartition("/")[2] for name in found} == {"exp_avg", "exp_avg_sq", "step"}
    bare = dataclasses.replace(after_sgd, optimizer={})
    anew = train(images, bare, optimizer="adam", lr=1e-3).model.optimizer
    assert all(found[k].tobytes() == anew[k].tobytes() for k in anew)
    broken = dataclasses.replace(after_sgd, optimizer={k: v[:1] for k, v in after_sgd.optimizer.items()})
    with pytest.raises(DataError, match="/optimizer/body/"):
        train(images, broken)


def test_what_others_read_is_refused() -> None:
    with pytest.raises(UsageError, match="every image in turn"):
        TrainSettings(objective="contrast").refuse_unread(["sampler"])
    with pytest.raises(UsageError, match="momentum: is of sgd"):
        TrainSettings(optimizer="adam").refuse_unread(["momentum"])
    with pytest.raises(UsageError, match="is of the contrast objective"):
        TrainSettings().refuse_unread(["first-only"])


# the plan

LARGE = Context("simclr", images=50_000, size=32)


def at(context: Context, epoch: int = 0) -> TrainSettings:
    (step,) = plan(dataclasses.replace(context, epoch=epoch))
    assert (step.verb, step.reads, step.writes) == ("train-epoch", ("images", "model"), ("model",))
    assert isinstance(step.settings, TrainSettings)
    return step.settings


def test_the_plan() -> None:
    """C6, C7: the learning rates; batches and rates of small data sets."""
    assert plan_length(LARGE) == 500
    assert [at(LARGE, e).lr for e in (0, 125, 250, 375, 499)] == pytest.approx([0.4, 0.34148, 0.2002, 0.05892, 0.000404], abs=5e-6)
    short = dataclasses.replace(LARGE, overrides={"plan.epochs": "50"})
    assert [at(short, e).lr for e in (0, 25, 49)] == pytest.approx([0.4, 0.2002, 0.000794], abs=5e-7)
    first = at(LARGE)
    assert (first.batch, first.momentum, first.weight_decay, first.tau, first.first_only) == (512, 0.9, 1e-4, 0.1, False)
    assert (first.crop_scale, first.hue, first.jitter_p, first.blur_p) == ((0.2, 1.0), 0.1, 0.8, 0.0)
    few = dataclasses.replace(LARGE, images=800)
    assert (at(few).batch, at(few).lr) == (200, pytest.approx(0.4 * 200 / 512))
    by_hand_ = dataclasses.replace(few, overrides={"simclr.contrast_batch": "100", "simclr.anchors": "first"})
    assert (at(by_hand_).batch, at(by_hand_).lr, at(by_hand_).first_only) == (100, 0.4, True)
    with pytest.raises(UsageError, match="contrast_batch: found 801 for 800 images"):
        at(dataclasses.replace(few, overrides={"simclr.contrast_batch": "801"}))
    assert simclr.METHOD.init(LARGE) == {"projection": 128, "projection_layers": 2, "projection_init": "torch"}
    assert not list(simclr.advice(LARGE))
    longer = dataclasses.replace(LARGE, overrides={"simclr.contrast_epochs": "20", "plan.epochs": "30"})
    assert "10 epochs follow" in next(simclr.advice(longer))
