"""ucl.safepoints: an epoch or an extraction that is cut anywhere and gone on with ends in the same bits."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_extract import RUNTIME, image_list, new_model, noise, write_pngs
from test_run import Log, context, start

from ucl import run, safepoints, stop, store, train_epoch
from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.context import Context
from ucl.device import Runtime
from ucl.errors import DataError, Stopped, StorageError
from ucl.extract import extract
from ucl.methods.method import Step
from ucl.safepoints import SafePoint, SafePoints, note_of, writer_for
from ucl.settings import ExtractSettings, TrainSettings

CONTEXT = Context("deepcluster", stage="train-epoch", epoch=2, seed=5, generation=2)
STEP = Step("train-epoch", TrainSettings(batch=5), ("images", "model", "labels", "previous"), ("model", "labels"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(24)))


@pytest.fixture(autouse=True)
def no_signal() -> Iterator[None]:
    yield
    stop._pending.clear()


def signal_now() -> None:
    stop._pending.append(10)


def labels(n: int = 24, k: int = 4) -> Labels:
    y = (np.arange(n) % k).astype(np.int32)
    return Labels(y, size=np.bincount(y, minlength=k).astype(np.int64), recipe="a recipe")


def places(folder: Path, every: float = 0.0, **options: Any) -> SafePoints:
    return SafePoints(folder / "train.partial", folder / "train-labels.partial", (folder / "features.h5", folder / "features.partial"),
                      every=every, **options)


def round_trip(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    with (folder / "c.h5").open("wb") as out:
        store.save(checkpoint, out)
    made: Checkpoint = store.load(folder / "c.h5")
    return made


def facts(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if "second" not in k}


# one epoch

@pytest.mark.parametrize("settings", [
    {"head": "kept", "head_momentum": 0.5}, {"keep_features": True},
    *(pytest.param(s, marks=pytest.mark.slow) for s in ({}, {"head_momentum": 0.9}, {"batch": 23}, {"weights": "inverse"}))])
def test_from_every_batch_on_it_is_the_same_epoch(images: ImageList, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Model, both momenta, head, batch statistics, loss: from each safe point, read back from a file."""
    chosen = TrainSettings(**({"batch": 5} | settings))
    first = train_epoch.train_epoch(images, new_model(), labels(), chosen, dataclasses.replace(CONTEXT, epoch=1), RUNTIME, run.silent)
    first.model.memory["bank"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    kept: list[Checkpoint] = []

    def go(resume: Checkpoint | None = None, safe: SafePoint | None = None) -> train_epoch.Trained:
        return train_epoch.train_epoch(images, first.model, labels(), chosen, CONTEXT, RUNTIME, run.silent, resume=resume, safe=safe)

    straight = go()
    watched = go(safe=SafePoint(lambda: True, kept.append))
    steps = straight.metrics["steps"]
    assert [len(c.memory["midway/losses"]) for c in kept] == list(range(steps))
    assert [c.config["midway"]["batches"] for c in kept] == list(range(steps))
    for trained in (watched, *(go(resume=round_trip(c, tmp_path)) for c in kept)):
        assert store.digest_of(trained.model) == store.digest_of(straight.model)
        assert trained.model.memory["bank"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert set(trained.model.memory) == {"bank", *(["features"] if "keep_features" in settings else [])}
        assert trained.model.progress == straight.model.progress
        assert trained.model.config == straight.model.config
        assert facts(trained.metrics) == facts(straight.metrics)


def test_a_signal_keeps_exactly_the_batches_that_are_done(images: ImageList) -> None:
    kept: list[Checkpoint] = []

    def report(what: str, done: int, total: int) -> None:
        if done == 15:
            signal_now()

    with pytest.raises(Stopped):
        train_epoch.train_epoch(images, new_model(), labels(), TrainSettings(batch=5), CONTEXT, RUNTIME, report,
                                safe=SafePoint(lambda: False, kept.append))
    assert [c.config["midway"]["batches"] for c in kept] == [3]
    assert kept[0].config["midway"]["of"] == 5
    assert kept[0].progress["epoch"] == 2                                # not done yet
    assert kept[0].progress["samples_seen"] == 15
    stop._pending.clear()
    signal_now()                                                         # and again before the first batch: nothing new to keep
    with pytest.raises(Stopped):
        train_epoch.train_epoch(images, new_model(), labels(), TrainSettings(batch=5), CONTEXT, RUNTIME, run.silent, resume=kept[0],
                                safe=SafePoint(lambda: False, kept.append))
    assert len(kept) == 1


def test_a_loss_that_is_not_finite_is_never_kept(images: ImageList) -> None:
    kept: list[Checkpoint] = []
    with pytest.raises(DataError, match="loss: found"):
        train_epoch.train_epoch(images, new_model(), labels(), TrainSettings(batch=5, lr=1e30), CONTEXT, RUNTIME, run.silent,
                                safe=SafePoint(lambda: True, kept.append))
    assert all(np.isfinite(c.memory["midway/losses"]).all() for c in kept)


# a walk

@pytest.fixture(scope="module")
def whole(images: ImageList) -> dict[str, Log]:
    found = {}
    for method in ("deepcluster", "persistent"):
        found[method] = Log()
        run.walk(context(images, method, **{"extract.batch": "5"}), start(images), RUNTIME, found[method])
    return found


def stopped_at(images: ImageList, committed: dict[str, Any], log: Log, folder: Path, call: int, runtime: Runtime = RUNTIME) -> list[str]:
    """Walk on from the last commit until the ``call``-th report, where a signal comes; returns the reports."""
    told: list[str] = []
    safe = places(folder)
    slots = {"images": images} | {name: committed[name] for name in ("model", "labels") if name in committed}

    def commit(at: Context, slots: dict[str, Any], metrics: dict[str, Any]) -> Context:
        following = log(at, slots, metrics)
        committed.update({name: slots[name] for name in ("model", "labels") if name in slots}, at=following)
        safe.clear()
        return following

    def report(what: str, done: int, total: int) -> None:
        told.append(f"{what} {done}")
        if len(told) == call:
            signal_now()

    try:
        run.walk(committed["at"], slots, runtime, commit, report=report, safe=safe)
    except Stopped:
        pass
    finally:
        stop._pending.clear()
        if safe._rows is not None:
            safe._rows.discard()                                         # as the end of the process does
    return told


@pytest.mark.parametrize(("method", "calls"), [
    ("deepcluster", [3, 4, 1, 2]), ("persistent", [6, 1, 1, 1, 4, 2]), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("deepcluster", [1, 1, 1]), ("deepcluster", [5, 5, 5]), ("deepcluster", [6, 1, 1, 1, 4, 2]), ("deepcluster", [8, 7, 3]),
        ("persistent", [1, 1, 1]), ("persistent", [3, 4, 1, 2]), ("persistent", [5, 5, 5]), ("persistent", [8, 7, 3])))])
def test_a_walk_cut_anywhere_is_the_walk(images: ImageList, whole: dict[str, Log], tmp_path: Path, method: str, calls: list[int]) -> None:
    """Extraction (5 batches) and training (3): what is done is not done again, and all digests are those of the undisturbed walk."""
    log = Log()
    committed = {"at": context(images, method, **{"extract.batch": "5"}), "model": new_model()}
    store.digest_of(committed["model"])
    told: list[str] = []
    for call in [*calls, 0]:
        told += stopped_at(images, committed, log, tmp_path, call)
    assert log.digests == whole[method].digests
    assert log.metrics == whole[method].metrics
    assert told == 3 * [*(f"extract {n}" for n in (5, 10, 15, 20, 24)), *(f"train-epoch {n}" for n in (8, 16, 24))]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", [pytest.param("ir", marks=pytest.mark.slow), pytest.param("and", marks=pytest.mark.slow), "pcp"])
def test_a_walk_of_rounds_cut_anywhere_is_the_walk(images: ImageList, tmp_path: Path, method: str) -> None:
    """Methods that tell images apart: those without clusters keep no labels, anchors are not looked for anew, and past epochs vote alike."""
    overrides = {"plan.epochs": "6", "train-epoch.batch": "8", "init.projection": "0", "extract.batch": "5"}
    at = dataclasses.replace(context(images, method), overrides=overrides | ({"pcp.final_k": "3"} if method == "pcp" else {}))
    undisturbed, log, slots = Log(), Log(), start(images)
    run.walk(at, slots, RUNTIME, undisturbed)
    if method == "pcp":
        assert slots["labels"].info["purify"]["voted"]
    committed: dict[str, Any] = {"at": at, "model": new_model()}
    store.digest_of(committed["model"])
    told: list[str] = []
    for call in itertools.islice(itertools.cycle((1, 2, 5, 3, 1, 4)), 40):
        told += stopped_at(images, committed, log, tmp_path, call)
        if committed["at"].epoch == 6:
            break
    assert log.digests == undisturbed.digests
    assert log.metrics == undisturbed.metrics
    extraction = [f"extract {n}" for n in (5, 10, 15, 20, 24)] if method == "pcp" else []
    assert told == 6 * [*extraction, *(f"train-epoch {n}" for n in (8, 16, 24))]
    assert not list(tmp_path.iterdir())


def test_every_batch_is_a_safe_point_if_it_is_asked_for(images: ImageList, whole: dict[str, Log], tmp_path: Path) -> None:
    """With a tiny interval the state is on disk after each batch, whatever comes; the features only until training has its own."""
    seen: list[set[str]] = []
    log = Log()
    safe = places(tmp_path, 1e-9)

    def commit(at: Context, slots: dict[str, Any], metrics: dict[str, Any]) -> Context:
        seen.append({p.name for p in tmp_path.iterdir()})
        safe.clear()
        return log(at, slots, metrics)

    def report(what: str, done: int, total: int) -> None:
        if done > 8:
            seen.append({p.name for p in tmp_path.iterdir()})

    run.walk(context(images, **{"extract.batch": "5"}), start(images), RUNTIME, commit, report=report, safe=safe, limit=1)
    assert log.digests == whole["deepcluster"].digests[:1]
    assert seen == [{"features.partial"}] * 4 + [{"train.partial", "train-labels.partial"}] * 3
    assert not list(tmp_path.iterdir())


def test_other_numerics_do_not_make_what_is_done_anew(images: ImageList, tmp_path: Path) -> None:
    """With bfloat16 too an epoch that was stopped goes on without another extraction and clustering."""
    half, log = Runtime("cpu", 1, "bf16"), Log()
    committed = {"at": context(images, **{"extract.batch": "5", "plan.epochs": "1"}), "model": new_model()}
    store.digest_of(committed["model"])
    told = [stopped_at(images, committed, log, tmp_path, call, half) for call in (6, 0)]
    assert told == [[*(f"extract {n}" for n in (5, 10, 15, 20, 24)), "train-epoch 8"], ["train-epoch 16", "train-epoch 24"]]


def test_long_work_before_training_is_kept_at_its_start(images: ImageList, tmp_path: Path) -> None:
    """The clock runs over the whole turn: clustering that took longer than the interval is not lost to a kill in training."""
    safe = places(tmp_path, 1000)
    safe._last -= 2000
    slots = start(images) | {"labels": labels()}

    def report(what: str, done: int, total: int) -> None:
        assert (safe.midway() or {})["batches"] == 0

    run.perform(STEP, slots, CONTEXT, RUNTIME, report, safe)


# what is of another identity

def kept_epoch(images: ImageList, folder: Path, after: int = 2) -> dict[str, Any]:
    """An epoch stopped after two batches; returns its slots."""
    slots = start(images) | {"labels": labels()}

    def report(what: str, done: int, total: int) -> None:
        if done == 5 * after:
            signal_now()

    with pytest.raises(Stopped):
        run.perform(STEP, slots, CONTEXT, RUNTIME, report, places(folder))
    stop._pending.clear()
    assert (places(folder).midway() or {})["batches"] == after
    return slots


def other_images(images: ImageList) -> ImageList:
    crc = images.crc32.copy()
    crc[3] += 1
    return dataclasses.replace(images, crc32=crc, digest="")


OTHERS: dict[str, Any] = {
    "settings: lr": lambda s, i: (dataclasses.replace(STEP, settings=TrainSettings(batch=5, lr=0.01)), s, CONTEXT, RUNTIME),
    "settings: crop_scale": lambda s, i: (dataclasses.replace(STEP, settings=TrainSettings(batch=5, crop_scale=(1, 1))), s, CONTEXT, RUNTIME),
    "generation": lambda s, i: (STEP, s, dataclasses.replace(CONTEXT, generation=3), RUNTIME),
    "epoch": lambda s, i: (STEP, s, dataclasses.replace(CONTEXT, epoch=3), RUNTIME),
    "stage": lambda s, i: (dataclasses.replace(STEP, name="refine"), s, CONTEXT, RUNTIME),
    "seed": lambda s, i: (STEP, s, dataclasses.replace(CONTEXT, seed=6), RUNTIME),
    "threads": lambda s, i: (STEP, s, CONTEXT, Runtime("cpu", 2)),
    "precision": lambda s, i: (STEP, s, CONTEXT, Runtime("cpu", 1, "tf32")),
    "device": lambda s, i: (STEP, s, CONTEXT, Runtime("cuda:0", 1)),
    "model": lambda s, i: (STEP, s | {"model": new_model(1)}, CONTEXT, RUNTIME),
    "labels": lambda s, i: (STEP, s | {"labels": labels(k=5)}, CONTEXT, RUNTIME),
    "images": lambda s, i: (STEP, s | {"images": other_images(i)}, CONTEXT, RUNTIME),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_identity_is_told_in_one_line_or_refused(images: ImageList, tmp_path: Path, name: str,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    slots = kept_epoch(images, tmp_path)
    assert places(tmp_path).fits(run.identity(STEP, slots, CONTEXT, RUNTIME))
    assert not caplog.records
    identity = run.identity(*OTHERS[name](slots, images))
    safe = places(tmp_path)
    assert safe.training(identity) is None
    assert not safe.fits(identity)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert f"train.partial: {name}: found " in caplog.text
    assert "ignored, the epoch starts again" in caplog.text
    with pytest.raises(DataError, match=f"of another epoch: {name}: found .*, now ") as caught:
        places(tmp_path, strict=True).training(identity)
    assert "--resume" in caught.value.hint


def test_versions_count(images: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    slots = kept_epoch(images, tmp_path)
    monkeypatch.setitem(store._versions, "torch", "99")
    assert not places(tmp_path).fits(run.identity(STEP, slots, CONTEXT, RUNTIME))
    assert "versions: torch: found " in caplog.text


def test_labels_of_a_users_own_are_not_the_plans(images: ImageList, tmp_path: Path, whole: dict[str, Log],
                                                 caplog: pytest.LogCaptureFixture) -> None:
    """An epoch kept on other labels than the plan would make: the walk makes its own, and says that it starts again."""
    at = context(images, **{"extract.batch": "5"})
    slots = start(images) | {"labels": labels(k=3)}
    step = next(s for s in run.plan(at) if s.verb == "train-epoch")
    with pytest.raises(Stopped):
        run.perform(step, slots, at, RUNTIME, lambda *a: signal_now(), places(tmp_path))
    stop._pending.clear()
    log = Log()
    run.walk(at, start(images), RUNTIME, log, limit=1, safe=places(tmp_path))
    assert log.digests == whole["deepcluster"].digests[:1]
    assert "train.partial: labels: found" in caplog.text


# what is damaged

def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) * 2 // 3:]
    elif how == "head cut":
        del data[100:]
    elif how == "empty":
        data.clear()
    elif how == "text":
        data[:] = b"hello\n"
    elif how == "flip":
        data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["cut", "head cut", "empty", "text", "flip", "labels", "checkpoint", "folder"])
def test_a_damaged_checkpoint_is_told_and_ignored(images: ImageList, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    slots = kept_epoch(images, tmp_path)
    path = tmp_path / "train.partial"
    if how == "labels":
        path.write_bytes((tmp_path / "train-labels.partial").read_bytes())
    elif how == "checkpoint":
        with path.open("wb") as out:
            store.save(new_model(), out)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        spoil(path, how)
    safe = places(tmp_path)
    assert safe.training(run.identity(STEP, slots, CONTEXT, RUNTIME)) is None
    assert len(caplog.records) == 1
    assert caplog.text.count("train.partial") == 1
    assert "ignored" in caplog.text
    straight = run.perform(STEP, start(images) | {"labels": labels()}, CONTEXT, RUNTIME)
    again = run.perform(STEP, start(images) | {"labels": labels()}, CONTEXT, RUNTIME, run.silent, safe)
    assert store.digest_of(again["model"]) == store.digest_of(straight["model"])


@pytest.mark.parametrize("how", ["cut", "flip", "gone", "other"])
def test_damaged_labels_are_told_and_ignored(images: ImageList, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    kept_epoch(images, tmp_path)
    path = tmp_path / "train-labels.partial"
    if how == "gone":
        path.unlink()
    elif how == "other":
        with path.open("wb") as out:
            store.save(labels(k=5), out)
    else:
        spoil(path, how)
    assert places(tmp_path).made() is None
    assert "train-labels.partial" in caplog.text
    assert len(caplog.records) == 1


def test_kept_labels_are_those_that_were_given(images: ImageList, tmp_path: Path) -> None:
    slots = kept_epoch(images, tmp_path)
    found = places(tmp_path).made()
    assert found is not None
    assert store.content_of(found) == store.content_of(slots["labels"])
    assert found.recipe == "a recipe"


@pytest.mark.parametrize("signalled", [False, True])
def test_a_full_disk_does_not_end_the_epoch(images: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: bool,
                                            caplog: pytest.LogCaptureFixture) -> None:
    """A line says that nothing is kept; what was kept before stays whole."""
    def full(artifact: Any, path: Path) -> None:
        raise StorageError(f"{path}: cannot write: No space left on device")

    monkeypatch.setattr(safepoints, "_save", full)
    slots = start(images) | {"labels": labels()}
    if signalled:
        with pytest.raises(Stopped):
            run.perform(STEP, slots, CONTEXT, RUNTIME, lambda *a: signal_now(), places(tmp_path, 1e-9))
    else:
        made = run.perform(STEP, slots, CONTEXT, RUNTIME, run.silent, places(tmp_path, 1e-9))
        straight = run.perform(STEP, start(images) | {"labels": labels()}, CONTEXT, RUNTIME)
        assert store.digest_of(made["model"]) == store.digest_of(straight["model"])
    assert len(caplog.records) == 1 + signalled
    assert "nothing of this epoch is kept" in caplog.text


# extraction

def stream_of(images: ImageList, seed: int = 0, batch: int = 5, told: list[int] | None = None) -> Any:
    model = new_model(seed)
    store.digest_of(model)
    found = extract(images, model, ExtractSettings(batch=batch), CONTEXT, RUNTIME,
                    lambda what, done, total: told.append(done) if told is not None else None)
    run.sign(found.head, Step("extract", ExtractSettings(batch=batch), (), ()), [images, model], CONTEXT, RUNTIME)
    return found


def interrupted(images: ImageList, folder: Path, rows: int) -> None:
    stream = stream_of(images)
    safe = places(folder)
    keep = safe.rows(stream, images, RUNTIME)
    assert keep is not None
    whole = np.concatenate(list(stream.blocks))
    keep(whole, rows, True)
    assert safe._rows is not None
    safe._rows.discard()


@pytest.mark.parametrize("rows", [5, 15, 17, 24])
def test_kept_rows_are_not_computed_again(images: ImageList, tmp_path: Path, rows: int) -> None:
    """Into memory; a number that is no multiple of the batch goes on from the batch before."""
    interrupted(images, tmp_path, rows)
    told: list[int] = []
    stream = stream_of(images, told=told)
    made = stream.collect(places(tmp_path).rows(stream, images, RUNTIME))
    assert made.features.tobytes() == stream_of(images).collect().features.tobytes()
    assert told == [n for n in (5, 10, 15, 20, 24) if n > (rows if rows == 24 else rows - rows % 5)]


def test_statuses_are_kept_too(images: ImageList, tmp_path: Path) -> None:
    """A row that came out not finite is not OK, and is NaN, when the rows are read back."""
    stream = stream_of(images)
    safe = places(tmp_path)
    keep = safe.rows(stream, images, RUNTIME)
    assert keep is not None
    whole = np.concatenate(list(stream.blocks))
    whole[3] = np.nan
    stream.status[3] = 3
    keep(whole, 10, True)
    assert safe._rows is not None
    safe._rows.discard()
    again = stream_of(images)
    made = again.collect(places(tmp_path).rows(again, images, RUNTIME))
    assert np.isnan(made.features[3]).all()
    assert made.samples.status.tolist() == [0, 0, 0, 3, *[0] * 20]


def test_rows_of_another_extraction_are_told_or_refused(images: ImageList, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from ucl.formats.partial import PartialFile

    interrupted(images, tmp_path, 10)
    for name, made, listed, runtime in (("recipe-id", stream_of(images, 1), images, RUNTIME),
                                        ("recipe-id", stream_of(images, batch=4), images, RUNTIME),
                                        ("images", stream_of(images), other_images(images), RUNTIME),
                                        ("threads", stream_of(images), images, Runtime("cpu", 2))):
        out = PartialFile(tmp_path / "features.h5", tmp_path / "features.partial", force=True)
        with pytest.raises(DataError, match=f"of another extraction: {name}: found .*, now "):
            writer_for(out, made, note_of(made, listed, runtime), strict=True)
        out.discard()
    assert (tmp_path / "features.partial").exists()
    told: list[int] = []
    stream = stream_of(images, 1, told=told)
    made = stream.collect(places(tmp_path).rows(stream, images, RUNTIME))
    assert made.features.tobytes() == stream_of(images, 1).collect().features.tobytes()
    assert told[0] == 5
    assert "features.partial: recipe-id: found" in caplog.text


def test_rows_that_another_process_writes_are_left_alone(images: ImageList, tmp_path: Path) -> None:
    from ucl.formats.partial import PartialFile

    interrupted(images, tmp_path, 10)
    other = PartialFile(tmp_path / "features.h5", tmp_path / "features.partial", force=True)
    safe = places(tmp_path, 1e-9)
    stream = stream_of(images)
    made = stream.collect(safe.rows(stream, images, RUNTIME))
    assert made.features.tobytes() == stream_of(images).collect().features.tobytes()
    safe.clear()
    assert (tmp_path / "features.partial").exists()
    other.discard()


def test_the_clock(tmp_path: Path) -> None:
    assert not places(tmp_path, 0).due()
    safe = places(tmp_path, 0.02)
    assert not safe.due()
    time.sleep(0.03)
    assert safe.due()
    safe.clear()
    assert not safe.due()


def test_nothing_is_there(tmp_path: Path) -> None:
    safe = places(tmp_path)
    assert safe.midway() is None
    assert safe.made() is None
    assert safepoints.rows_of(tmp_path / "features.partial") is None
    safe.clear()
    assert not list(tmp_path.iterdir())
