"""UIC's labels: the empty split, the two copies, its layers and labelling by a classifier, against plain loops and torch itself."""

from __future__ import annotations

import copy
import dataclasses
import logging
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_extract import RUNTIME, image_list, new_model, noise, write_pngs
from torch import nn
from torch.nn import functional

from ucl import models, train_epoch
from ucl.agreement import compare_labelings
from ucl.argmax import Head, argmax, as_labels, label_by_head
from ucl.artifacts import BAD_IMAGE, DISSOLVED, KEPT, OK, UNREADABLE, Checkpoint, Features, ImageList, Labels, Samples
from ucl.batches import Batches
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.networks.mlp import mlp, new_mlp
from ucl.objectives.relabel import COUNTS, PATIENCE, TARGETS, WRITTEN, Relabelling, classes, random_labels, split_empty
from ucl.objectives.self_labelled import SelfLabelled, fixed_view_labels
from ucl.run import silent
from ucl.safepoints import SafePoint
from ucl.samplers import draw_epoch
from ucl.settings import TrainSettings

torch.set_num_threads(1)
N, K = 40, 5
CONTEXT = Context("uic", stage="train-epoch", seed=5)


def all_ok(n: int) -> np.ndarray:
    return np.ones(n, bool)


# ---- labels to begin with


def test_random_labels_are_binomial_keyed_and_do_not_depend_on_n() -> None:
    """U5: every image its own uniform draw."""
    n, k = 60_000, 50
    ok = all_ok(n)
    ok[[0, 7]] = False
    y = random_labels(ok, k, Key(3))
    assert y.dtype == np.int32
    assert y[[0, 7]].tolist() == [-1, -1]
    size = np.bincount(y[ok], minlength=k)
    spread = (size - n / k) / np.sqrt(n / k * (1 - 1 / k))
    assert np.abs(spread).max() < 4
    assert 0.6 < spread.std() < 1.4                                           # binomial; equal sizes would give 0
    assert np.array_equal(random_labels(ok[:100], k, Key(3)), y[:100])
    assert np.mean(random_labels(ok, k, Key(4)) == y) == pytest.approx(1 / k, abs=0.005)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.data())
def test_balanced_labels_differ_by_one(seed: int, n: int, data: Any) -> None:
    ok = np.random.default_rng(seed).random(n) > 0.2
    ok[:2] = True
    k = data.draw(st.integers(2, int(ok.sum())))
    y = random_labels(ok, k, Key(seed), balanced=True)
    size = np.bincount(y[ok], minlength=k)
    assert size.max() - size.min() <= 1
    assert len(size) == k
    assert (y[~ok] == -1).all()


def test_balanced_labels_are_in_no_order() -> None:
    y = random_labels(all_ok(1000), 4, Key(1), balanced=True)
    assert abs(np.corrcoef(np.arange(1000), y)[0, 1]) < 0.1
    assert np.mean(y[1:] == (y[:-1] + 1) % 4) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("k", [1, 0, 10])
def test_more_classes_than_images_are_refused(k: int) -> None:
    """U2: bad images do not count."""
    with pytest.raises(UsageError, match="9 usable images"):
        random_labels(np.arange(10) > 0, k, Key())


# ---- the split of empty classes


def slow_sizes(labels: np.ndarray, k: int) -> list[int]:
    """Sizes as the released loop leaves them."""
    size = [int((labels == c).sum()) for c in range(k)]
    for c in [c for c in range(k) if size[c] == 0]:
        largest = max(range(k), key=lambda j: (size[j], -j))
        size[c], size[largest] = size[largest] - size[largest] // 2, size[largest] // 2
    return size


def test_all_images_in_one_class_become_equal_classes() -> None:
    """U1, worked: 16 images, 4 classes."""
    for one in range(4):
        y, empty = split_empty(np.full(16, one, np.int32), 4, Key(1))
        assert np.bincount(y, minlength=4).tolist() == [4, 4, 4, 4]
        assert empty == 3


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 70), st.integers(1, 70), st.floats(0, 0.5))
def test_no_class_stays_empty(seed: int, n: int, k: int, unlabelled: float) -> None:
    """U1: sizes by the loop; only members of halved classes move, and only into empty ones; -1 stays."""
    rng = np.random.default_rng(seed)
    used = rng.choice(k, max(1, min(k, rng.integers(1, k + 1))), replace=False)
    y = rng.choice(used, n).astype(np.int32)
    y[rng.random(n) < unlabelled] = -1
    given_ = y.copy()
    if (y >= 0).sum() < k:
        with pytest.raises(DataError, match="at least one for each"):
            split_empty(y, k, Key(seed))
        return
    found, empty = split_empty(y, k, Key(seed))
    assert np.array_equal(y, given_)                                          # the input stays
    before = np.bincount(y[y >= 0], minlength=k)
    assert empty == (before == 0).sum()
    assert np.bincount(found[found >= 0], minlength=k).tolist() == slow_sizes(y, k)
    assert np.bincount(found[found >= 0], minlength=k).min() >= 1
    moved = found != y
    assert (before[found[moved]] == 0).all()
    assert np.array_equal(found < 0, y < 0)
    if not empty:
        assert not moved.any()
    assert np.array_equal(split_empty(y, k, Key(seed))[0], found)


def test_two_images_for_four_classes_are_refused() -> None:
    """U2: the released code leaves 0, 0, 1, 1 and then fails."""
    with pytest.raises(DataError, match="2 labelled images for 4 classes"):
        split_empty(np.zeros(2, np.int32), 4, Key())
    with pytest.raises(DataError, match="class 4, expected 0 to 3"):
        split_empty(np.arange(5, dtype=np.int32), 4, Key())


def test_halves_are_random_halves() -> None:
    """Every member moves equally often, whatever its row; also through a second halving of the same class."""
    moved = np.zeros((4, 24))
    for seed in range(2000):
        y, _ = split_empty(np.zeros(24, np.int32), 4, Key(seed))
        for c in range(4):
            moved[c] += y == c
    assert np.abs(moved / 2000 - 0.25).max() < 0.05
    pairs = Counter(bool(np.ptp(split_empty(np.zeros(24, np.int32), 4, Key(seed))[0][:2])) for seed in range(1000))
    assert pairs[False] / 1000 == pytest.approx(5 / 23, abs=0.05)             # two given images together in one of four classes of six


# ---- two copies


def logits_for(wanted: np.ndarray, k: int, rng: np.random.Generator) -> torch.Tensor:
    x = rng.standard_normal((len(wanted), k))
    x[np.arange(len(wanted)), wanted] = 9
    return torch.from_numpy(x)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 50), st.integers(2, 4), st.integers(1, 9))
def test_written_labels_are_those_of_the_last_view(seed: int, n: int, k: int, batch: int) -> None:
    """U3, U4: against a dictionary; targets stand still, unseen images keep their label, duplicates have the last word."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n).astype(np.int32)
    epoch = Relabelling.begin(y, k, Key(seed))
    y, _ = split_empty(y, k, Key(seed))
    rows = rng.choice(n, rng.integers(1, 2 * n))
    said = rng.integers(0, k, len(rows))
    last: dict[int, int] = {}
    for a in range(0, len(rows), batch):
        at = rows[a:a + batch]
        assert epoch.target(at).tolist() == y[at].tolist()
        epoch.record(at, logits_for(said[a:a + batch], k, rng))
        last |= dict(zip(at.tolist(), said[a:a + batch].tolist(), strict=True))
        if rng.random() < 0.3:
            epoch.settle()
    summary = epoch.summary(rows)
    assert epoch.written.tolist() == [last.get(i, int(y[i])) for i in range(n)]
    assert np.array_equal(epoch.targets, y)
    assert summary["visited"] == len(last) / n
    assert summary["changed"] == np.mean(epoch.written != y) <= summary["visited"]
    assert summary["predicted"] == len(set(last.values()))


def test_targets_cannot_be_written() -> None:
    epoch = Relabelling.begin(np.arange(4, dtype=np.int32), 4, Key())
    with pytest.raises(ValueError, match="read-only"):
        epoch.targets[0] = 1


def test_the_released_sampler_carries_a_third_of_the_labels_over() -> None:
    """Equal classes: drawn with replacement by the released rule, so that 1 / e of the images are not seen; without by ours, which sees all."""
    y = np.repeat(np.arange(100), 100).astype(np.int32)
    visited = {sampler: len(np.unique(draw_epoch(y, sampler, 1.0, Key(1)))) / len(y) for sampler in ("uniform", "truncated")}
    assert visited["uniform"] == 1
    assert visited["truncated"] == pytest.approx(1 - np.exp(-1), abs=0.01)


@pytest.mark.parametrize("sampler", ["uniform", "truncated"])
def test_draws_are_equal_by_class_after_the_split(sampler: str) -> None:
    """U7: M draws; the spread of sizes has no say."""
    y, _ = split_empty((np.random.default_rng(0).random(3000) ** 3 * 20).astype(np.int32), 30, Key(0))
    rows = draw_epoch(y, sampler, 1.0, Key(2))
    drawn = np.bincount(y[rows], minlength=30)
    assert len(rows) == 3000
    assert drawn.sum() == 3000
    assert np.abs(drawn - 100).max() <= (0 if sampler == "uniform" else 12)
    assert len(train_epoch._spans(len(rows), 256)) == -(-3000 // 256)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_no_class(bad: float) -> None:
    """U10: a plain argmax would name one."""
    logits = torch.tensor([[0.0, 1.0, 1.0], [3.0, 3.0, 0.0], [0.0, 2.0, bad], [-5.0, -5.0, -5.0]])
    assert classes(logits).tolist() == [1, 0, -1, 0]                          # ties by lower id
    epoch = Relabelling.begin(np.arange(6, dtype=np.int32) % 3, 3, Key())
    epoch.record(np.array([4, 1, 5, 0]), logits)
    with pytest.raises(DataError, match="logits: not finite for row 5"):
        epoch.settle()
    assert np.array_equal(epoch.written, epoch.targets)


def test_an_epoch_comes_back_from_its_arrays_or_is_refused() -> None:
    rng = np.random.default_rng(0)
    epoch = Relabelling.begin(rng.integers(0, 3, 20).astype(np.int32), 4, Key(1), collapsed=3)
    epoch.record(np.array([3, 9]), logits_for(np.array([2, 2]), 4, rng))
    arrays = epoch.arrays()
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == {
        TARGETS: ("int32", (20,)), WRITTEN: ("int32", (20,)), COUNTS: ("int64", (2,))}
    again = Relabelling.of(arrays, 20, 4)
    assert np.array_equal(again.targets, epoch.targets)
    assert np.array_equal(again.written, epoch.written)
    assert (again.collapsed, again.split) == (3, 1)
    again.written[0] = 3 - again.written[0]
    assert np.array_equal(arrays[WRITTEN], epoch.written)                     # copies
    assert set(epoch.arrays(midway=False)) == {WRITTEN, COUNTS}
    wrong_ones = ({WRITTEN: arrays[WRITTEN][:9]}, {TARGETS: arrays[TARGETS] + 4}, {TARGETS: arrays[TARGETS].astype("i8")})
    for wrong in ({}, *(arrays | one for one in wrong_ones)):
        with pytest.raises(DataError, match="/memory/"):
            Relabelling.of(wrong, 20, 4)


def test_a_collapse_is_counted_and_mended_by_the_split() -> None:
    """U10: every view in one class, epoch after epoch."""
    y, collapsed = random_labels(all_ok(40), 8, Key(0)), 0
    for number in range(3):
        epoch = Relabelling.begin(y, 8, Key(0, epoch=number), collapsed=collapsed)
        assert np.bincount(epoch.targets, minlength=8).min() >= 1
        assert epoch.split == (0 if number == 0 else 7)
        epoch.record(np.arange(40), torch.tensor([[0.0, 1.0] + [0.0] * 6]).repeat(40, 1))
        summary = epoch.summary(np.arange(40))
        y, collapsed = epoch.written, int(summary["collapsed_epochs"])
        assert (summary["predicted"], collapsed) == (1, number + 1)
    epoch.record(np.array([0]), torch.eye(8)[:1])
    assert epoch.summary(np.arange(40))["collapsed_epochs"] == 0


def test_memory_is_a_few_integers_for_each_image() -> None:
    """U9."""
    n, k = 200_000, 300
    y = random_labels(all_ok(n), k, Key(0))
    tracemalloc.start()
    epoch = Relabelling.begin(y % (k - 50), k, Key(1))
    epoch.arrays()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 80 * n                                                      # ten int64 for each image; a row of 64 features has 256 bytes


# ---- hidden layers, and labelling by a classifier


def reference_mlp(arrays: dict[str, np.ndarray], x: torch.Tensor, *, train: bool) -> torch.Tensor:
    """As the released code has it: 1 x 1 convolutions on a map of one place."""
    maps = x[:, :, None, None]
    for i in (0, 3):
        maps = functional.conv2d(maps, torch.from_numpy(arrays[f"{i}.weight"])[:, :, None, None])
        norm = {name: torch.from_numpy(arrays[f"{i + 1}.{name}"].copy()) for name in ("running_mean", "running_var", "weight", "bias")}
        maps = functional.relu(functional.batch_norm(maps, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"], train))
    return maps[:, :, 0, 0]


def trained_mlp(d: int, width: int) -> nn.Sequential:
    """With statistics that are not those of the start."""
    made = new_mlp(d, width, Key(2))
    made.train()
    for i in range(3):
        made(torch.from_numpy(np.random.default_rng(i).standard_normal((30, d))).float() + i)
    with torch.no_grad():
        for i in (1, 4):
            made[i].weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(i))
            made[i].bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(i))
    return made


@pytest.mark.parametrize("train", [True, False])
def test_the_hidden_layers_are_the_released_convolutions(train: bool) -> None:
    made = trained_mlp(6, 16).train(train)
    x = torch.from_numpy(np.random.default_rng(9).standard_normal((12, 6))).float()
    arrays = models.to_arrays(made)
    torch.testing.assert_close(made(x), reference_mlp(arrays, x, train=train), rtol=1e-4, atol=1e-5)


def test_hidden_layers_are_keyed_and_come_back_from_arrays() -> None:
    one, two, other = new_mlp(64, 256, Key(1)), new_mlp(64, 256, Key(1)), new_mlp(64, 256, Key(2))
    assert [name for name, _ in one.named_parameters()] == ["0.weight", "1.weight", "1.bias", "3.weight", "4.weight", "4.bias"]
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert not torch.equal(one[3].weight[:, :64], one[0].weight)
    for i in (0, 3):
        assert float(one[i].weight.detach().std()) == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    made = trained_mlp(6, 16)
    arrays = models.to_arrays(made)
    again = mlp(arrays, 6)
    assert again is not None
    assert all(np.array_equal(a, arrays[name]) for name, a in models.to_arrays(again).items())
    assert mlp({}, 6) is None
    with pytest.raises(DataError, match=r"wanted \(16, 7\)"):
        mlp(arrays, 7)
    with pytest.raises(DataError, match="mlp"):
        mlp({"1.bias": np.zeros(3)}, 7)


def classifier(d: int, k: int, width: int = 0) -> tuple[Checkpoint, nn.Module]:
    """A checkpoint of nothing but a head, and the same in torch, in evaluation mode."""
    hidden = trained_mlp(d, width) if width else None
    head = models.new_head(width or d, k, Key(4))
    with torch.no_grad():
        head.bias.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    arrays = {f"head.{name}": v for name, v in models.to_arrays(head).items()}
    if hidden is not None:
        arrays |= {f"mlp.{name}": v for name, v in models.to_arrays(hidden).items()}
    return Checkpoint(arrays), (head if hidden is None else nn.Sequential(hidden, head)).eval()


@pytest.mark.parametrize("width", [0, 16])
def test_labels_by_a_head_are_torchs(width: int) -> None:
    model, module = classifier(8, 11, width)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8)).astype(np.float32)
    status = np.where(rng.random(300) < 0.1, UNREADABLE, OK).astype(np.uint8)
    x[status != OK] = np.nan
    head = Head.of(model)
    assert (head.k, head.dim) == (11, 8)
    with torch.no_grad():
        logits = module(torch.from_numpy(np.nan_to_num(x)))
    np.testing.assert_allclose(head.logits(np.nan_to_num(x)), logits.numpy(), rtol=1e-4, atol=1e-5)
    found = argmax([x], head, status, threads=1)
    assert np.array_equal(found, np.where(status == OK, logits.argmax(1).numpy(), -1))


def test_how_rows_come_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size, from a generator, in one piece: the products are of the same rows."""
    products: list[int] = []
    logits = Head.logits

    def watched(self: Head, x: np.ndarray) -> np.ndarray:
        products.append(len(x))
        return logits(self, x)

    monkeypatch.setattr("ucl.argmax._MOST_ROWS", 32)
    monkeypatch.setattr(Head, "logits", watched)
    model, _ = classifier(16, 7)
    head, rng = Head.of(model), np.random.default_rng(1)
    x, status = rng.standard_normal((101, 16)).astype(np.float32), np.zeros(101, np.uint8)
    whole = argmax([x], head, status, threads=1)
    for size in (1, 3, 32, 50, 64, 101):
        products.clear()
        assert np.array_equal(argmax((x[a:a + size] for a in range(0, 101, size)), head, status, threads=1), whole)
        assert products == [32, 32, 32, 5]
    assert dataclasses.replace(head, weight=np.zeros((1 << 20, 16), np.float32)).rows == 16


def test_a_status_that_changes_as_rows_come_is_seen() -> None:
    """An extraction flags images on its way."""
    head, status = Head.of(classifier(4, 3)[0]), np.zeros(9, np.uint8)

    def blocks() -> Any:
        for a in (0, 3, 6):
            block = np.ones((3, 4), np.float32)
            if a == 6:
                status[7], block[1] = UNREADABLE, np.nan
            yield block

    assert np.flatnonzero(argmax(blocks(), head, status) < 0).tolist() == [7]


def test_ties_go_to_the_lower_class() -> None:
    head = Head(np.zeros((4, 2), np.float32), np.array([0, 1, 1, 0], np.float32))
    assert argmax([np.zeros((3, 2), np.float32)], head, np.zeros(3, np.uint8)).tolist() == [1, 1, 1]


def test_what_a_head_cannot_label_is_refused() -> None:
    model, _ = classifier(4, 3)
    head, x, status = Head.of(model), np.ones((5, 4), np.float32), np.zeros(5, np.uint8)
    more = np.ones((6, 4), np.float32)
    for bad, message in ((x[:, :3], "3 dimensions, the classifier takes 4"), (x[:4], "4 rows, expected 5"), (more, "more than")):
        with pytest.raises(DataError, match=message):
            argmax([bad], head, status)
    for value in (np.nan, np.inf):
        y = x.copy()
        y[2, 1] = value
        with pytest.raises(DataError, match="/features: row 2: not finite"):
            argmax([y[:1], y[1:]], head, status)
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(DataError, match="logits: row 0: not finite"):
        argmax([x * 3e38], Head(np.full((3, 4), 2, np.float32), np.zeros(3, np.float32)), status)
    with pytest.raises(DataError, match="no classifier"):
        Head.of(Checkpoint({}))
    hidden, _ = classifier(4, 3, 8)
    with pytest.raises(DataError, match=r"mlp\.4\.running_var: missing"):
        Head.of(Checkpoint({name: v for name, v in hidden.model.items() if name != "mlp.4.running_var"}))
    with pytest.raises(DataError, match="do not fit"):
        Head.of(Checkpoint(hidden.model | {"head.weight": np.zeros((3, 5), np.float32)}))


def test_labels_by_a_head_as_an_artifact() -> None:
    model, module = classifier(4, 30)
    x = np.random.default_rng(2).standard_normal((6, 4)).astype(np.float32)
    samples = Samples(np.array([f"{i}.png".encode() for i in range(6)]), np.array([OK] * 5 + [UNREADABLE], np.uint8))
    features = Features(x, samples, weights=model.weights_digest(), layer="last")
    made = label_by_head(features, model, CONTEXT, threads=1)
    with torch.no_grad():
        assert made.labels.tolist() == [*module(torch.from_numpy(x[:5])).argmax(1).tolist(), -1]
    assert made.flag is not None
    assert made.flag.tolist() == [KEPT] * 5 + [BAD_IMAGE]
    assert made.k == 30                                                       # empty classes count
    assert made.size is not None
    assert made.size.sum() == 5
    assert made.weight is not None
    assert made.weight.tolist() == [1] * 5 + [0]
    assert made.info["method"] == "argmax"
    for wrong, message in ((dataclasses.replace(features, weights="0" * 64), "of a model 0"),
                           (dataclasses.replace(features, layer="last, before its ReLU"), "before its ReLU")):
        with pytest.raises(DataError, match=message):
            label_by_head(wrong, model, CONTEXT)
    assert as_labels(np.array([0, -1], np.int32), 2, None, CONTEXT, {}).flag.tolist() == [KEPT, DISSOLVED]  # type: ignore[union-attr]


# ---- epochs of training


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(N)))


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return new_model()


NOTHING: Any = None
"""The network, which this objective does not look at once the epoch is over."""


class Watched(SelfLabelled):
    """Notes what every step compared with, and the logits of it, by a head of its own call."""

    made: list[Watched] = []  # noqa: RUF012

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.steps: list[tuple[np.ndarray, np.ndarray]] = []
        self.start = {name: v.copy() for name, v in self.tensors().items()}
        Watched.made.append(self)

    def loss(self, features: list[torch.Tensor], rows: np.ndarray, start: int) -> list[torch.Tensor]:
        target, hidden, x = self.labels.targets[rows].copy(), copy.deepcopy(self.hidden), features[0]
        (found,) = super().loss(features, rows, start)
        with torch.no_grad():
            x = x if hidden is None else hidden(x)
            logits = x @ self.head.weight.T + self.head.bias
        logp = torch.log_softmax(logits, 1)[np.arange(len(rows)), target]
        assert float(found.detach()) == pytest.approx(-float(logp.mean()), abs=1e-5, nan_ok=True)
        self.steps.append((rows, logits.numpy()))
        return [found]


def epoch(images: ImageList, model: Checkpoint, labels: Labels | None = None, *, number: int = 0, monkeypatch: pytest.MonkeyPatch,
          safe: SafePoint | None = None, resume: Checkpoint | None = None, **more: Any) -> tuple[Checkpoint, Watched]:
    """An epoch by the real loop."""
    monkeypatch.setattr(train_epoch, "objective", lambda *args, **kw: Watched(*args[:4], *args[5:], **kw))
    chosen = TrainSettings(objective="relabel", **({"k": K, "batch": 8, "lr": 0.02} | more))
    context = dataclasses.replace(CONTEXT, epoch=number)
    trained = train_epoch.train_epoch(images, model, labels, chosen, context, RUNTIME, silent, resume=resume, safe=safe)
    return trained.model, Watched.made[-1]


def given_labels(values: Any, k: int = K) -> Labels:
    y = np.array(values, np.int32)
    return Labels(y, size=np.bincount(y[y >= 0], minlength=k).astype(np.int64))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize("width", [0, 12])
def test_two_epochs_of_training(images: ImageList, model: Checkpoint, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """U3, U4, U6, U7: targets of a whole epoch are its start's, the next ones are the argmax of the loss's own logits."""
    y, kept, dim = random_labels(all_ok(N), K, Key(5, stage="init")), {}, int(models.restore(model).feature_dim)
    for number in range(2):
        model, seen = epoch(images, model, number=number, mlp=width, monkeypatch=monkeypatch)
        key = Key(5, stage="train-epoch", epoch=number)
        y, _ = split_empty(y, K, key)
        assert np.array_equal(seen.labels.targets, y)
        assert np.array_equal(np.concatenate([rows for rows, _ in seen.steps]), draw_epoch(y, "uniform", 1.0, key))
        assert len(seen.steps) == N // 8
        after = y.copy()
        for rows, logits in seen.steps:
            for row, each in zip(rows, logits, strict=True):                  # duplicates: the last word
                after[row] = int(np.argmax(each))
        assert np.array_equal(seen.handed_on().labels, after)
        assert np.array_equal(model.memory[WRITTEN], after)
        assert all(array.size <= N for array in model.memory.values())        # U9
        if not number:
            init = Key(5, stage="init")                                       # drawn once, the first epoch's number has no say
            parts = ({"mlp": new_mlp(dim, width, init)} if width else {}) | {"head": models.new_head(width or dim, K, init)}
            assert same(seen.start, {f"{part}.{name}": v for part, module in parts.items() for name, v in models.to_arrays(module).items()})
        else:
            assert same(seen.start, kept)                                     # U6: where the last epoch left it
        kept = {name: v for name, v in model.model.items() if name.startswith(("head.", "mlp."))}
        assert same(kept, seen.tensors())
        assert not np.array_equal(kept["head.weight"], seen.start["head.weight"])
        assert ("mlp.0.weight" in kept) is bool(width)
        assert "head/weight/momentum_buffer" in model.optimizer
        said = seen.finish(NOTHING)
        assert said["changed"] == compare_labelings(after, y)["churn"] <= said["visited"]
        y = after
    assert model.config["k"] == K


def test_the_first_epoch_changes_nearly_all_labels_it_sees(images: ImageList, model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """U5: what the network says has nothing to do with random labels: 1 - 1 / K of them change."""
    changed = visited = 0
    for seed in range(6):
        monkeypatch.setattr("test_relabel.CONTEXT", dataclasses.replace(CONTEXT, seed=seed))
        _, seen = epoch(images, model, lr=0.0, monkeypatch=monkeypatch)
        said = seen.finish(NOTHING)
        changed, visited = changed + said["changed"], visited + said["visited"]
    assert changed / visited == pytest.approx(1 - 1 / K, abs=0.12)


def test_an_epoch_goes_on_from_within(images: ImageList, model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch's state leads to the same end, whatever the labels' source."""
    first, _ = epoch(images, model, mlp=12, monkeypatch=monkeypatch)
    for relabel in ("training", "fixed"):
        kept: list[Checkpoint] = []
        whole, seen = epoch(images, first, number=1, relabel=relabel, monkeypatch=monkeypatch, safe=SafePoint(lambda: True, kept.append))
        assert len(kept) == N // 8
        for state in kept[1:]:
            again, resumed = epoch(images, first, number=1, relabel=relabel, monkeypatch=monkeypatch, resume=state)
            assert same(again.model, whole.model)
            assert same(again.optimizer, whole.optimizer)
            assert same(again.memory, whole.memory)
            assert resumed.finish(NOTHING) == seen.finish(NOTHING)


def test_labels_of_the_fixed_views(images: ImageList, model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """U8: the last stage's labels are the argmax in evaluation mode, the same again, and training leaves them as they are."""
    bad = dataclasses.replace(images, samples=Samples(images.samples.path, np.where(np.arange(N) == 9, UNREADABLE, OK).astype(np.uint8)))
    trained, _ = epoch(bad, model, mlp=12, lr=0.1, monkeypatch=monkeypatch)
    rows = np.setdiff1d(np.arange(N), [9])
    net = models.restore(trained).eval()
    with torch.no_grad():
        views = Batches(bad, RUNTIME, int(trained.config["size"]), tuple(trained.config["mean"]), tuple(trained.config["std"])).evaluate(rows)
        x = reference_mlp(models.part(trained, "mlp."), net(views), train=False)
        wanted = np.full(N, -1)
        wanted[rows] = (x @ torch.from_numpy(trained.model["head.weight"]).T + torch.from_numpy(trained.model["head.bias"])).argmax(1)
    found = fixed_view_labels(bad, trained, RUNTIME, batch=16)
    assert np.array_equal(found, wanted)
    assert np.array_equal(found, fixed_view_labels(bad, trained, RUNTIME, batch=16))
    with torch.no_grad():
        features = np.full((N, net.feature_dim), np.nan, np.float32)
        features[rows] = net(views).numpy()
    assert np.array_equal(argmax([features], Head.of(trained), bad.samples.status, threads=1), found)

    later, seen = epoch(bad, trained, number=1, relabel="fixed", fill_empty=False, monkeypatch=monkeypatch)
    assert np.array_equal(seen.labels.targets, found)
    assert np.array_equal(later.memory[WRITTEN], found)
    assert not np.isin(9, seen.rows)
    last, seen = epoch(bad, later, number=2, relabel="none", fill_empty=False, monkeypatch=monkeypatch)
    assert last.memory[WRITTEN].tobytes() == found.tobytes()
    assert seen.handed_on().labels.tobytes() == found.tobytes()
    assert not same(last.model, later.model)
    assert seen.finish(NOTHING) == {}


def test_labels_given_come_before_the_models_own(images: ImageList, model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = epoch(images, model, monkeypatch=monkeypatch)
    y = np.arange(N) % K
    _, seen = epoch(images, first, given_labels(y), number=1, monkeypatch=monkeypatch)
    assert np.array_equal(seen.labels.targets, y)
    y[:3] = -1
    _, seen = epoch(images, first, given_labels(y), number=1, monkeypatch=monkeypatch)
    assert not np.isin([0, 1, 2], seen.rows).any()
    assert (seen.handed_on().labels[:3] == -1).all()


def test_what_does_not_belong_is_refused(images: ImageList, model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = epoch(images, model, monkeypatch=monkeypatch)
    with pytest.raises(DataError, match="one number of classes"):
        epoch(images, first, k=K + 1, monkeypatch=monkeypatch)
    with pytest.raises(DataError, match="one number of classes"):
        epoch(images, first, given_labels(np.arange(N) % 7, 7), monkeypatch=monkeypatch)
    with pytest.raises(UsageError, match="neither a classifier nor labels"):
        epoch(images, model, k=0, monkeypatch=monkeypatch)
    with pytest.raises(UsageError, match="40 usable images"):
        epoch(images, model, k=N + 1, monkeypatch=monkeypatch)
    with pytest.raises(DataError, match="found none"):
        epoch(images, model, relabel="none", monkeypatch=monkeypatch)
    with pytest.raises(DataError, match="another image list"):
        epoch(images, dataclasses.replace(first, config=first.config | {"memory": {"images": "others"}}), monkeypatch=monkeypatch)
    with pytest.raises(DataError, match=r"logits: not finite"):
        epoch(images, dataclasses.replace(first, model=first.model | {"head.bias": np.full(K, np.nan, np.float32)}), monkeypatch=monkeypatch)
    with pytest.raises(DataError, match="no classifier"):
        fixed_view_labels(images, model, RUNTIME)
    broken = dataclasses.replace(first, model=first.model | {"head.bias": np.full(K, np.inf, np.float32)})
    with pytest.raises(DataError, match="logits: not finite for row 0"):
        fixed_view_labels(images, broken, RUNTIME)


def test_a_collapse_that_recurs_is_told(images: ImageList, model: Checkpoint, monkeypatch: pytest.MonkeyPatch,
                                        caplog: pytest.LogCaptureFixture) -> None:
    """U10: mended each time, counted across checkpoints, told after more than five."""
    one = {"head.weight": np.zeros((K, int(models.restore(model).feature_dim)), np.float32), "head.bias": np.array([0, 0, 9, 0, 0], np.float32)}
    at = dataclasses.replace(model, model=model.model | one, memory={WRITTEN: np.full(N, 2, np.int32), COUNTS: np.array([PATIENCE - 1, 0])})
    for times in (PATIENCE, PATIENCE + 1):
        with caplog.at_level(logging.WARNING):
            trained, seen = epoch(images, at, lr=0.0, monkeypatch=monkeypatch)
            said = seen.finish(NOTHING)
        assert (said["predicted"], said["collapsed_epochs"]) == (1, times)
        assert said["split"] == (K - 1 if times == PATIENCE else 0)           # of the second, images not seen are in the other classes
        assert ("one class for" in caplog.text) is (times > PATIENCE)
        at = dataclasses.replace(at, memory=seen.memory(midway=False))
        assert set(at.memory) == {WRITTEN, COUNTS}
        assert trained.memory[COUNTS].dtype == np.int64
