"""ucl.artifacts and ucl.store: every artifact comes back from a file as it was, bit for bit; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ucl import store
from ucl.artifacts import (
    ARTIFACTS,
    MISSING,
    OK,
    Checkpoint,
    Evaluation,
    Features,
    ImageList,
    Labels,
    Neighbors,
    Pairs,
    Pca,
    Samples,
    Stored,
    replace,
    samples_digest,
)
from ucl.context import Context
from ucl.errors import DataError, InputMissing

RNG = np.random.default_rng(0)
CONTEXT = Context("deepcluster", 1, "cluster", 4, 4, "ab" * 32, 2**60, 5, 16, "digits", "sha256:x", {"cluster.k": "3", "plan.epochs": "\u00e9"})
COMMON = {"context": CONTEXT, "provenance": ['{"verb": "init"}', '{"verb": "cluster", "x": "\u00e9"}'], "recipe": "r" * 64}
SAMPLES = Samples(np.array([b"a/1.png", "b/\u00e9.png".encode(), b"c", b"d", b"e.png"]), np.array([OK, OK, MISSING, OK, OK], np.uint8))
ODD = np.array([[np.nan, -0.0, np.inf], [1e-45, -np.inf, 3.4e38], [np.nan] * 3, [0, 1, 2], [5, 6, 7]], np.float32)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


FEATURES = Features(ODD, SAMPLES, "convnet", "w" * 64, "last", '{"size": 16}', **COMMON)
LABELS = Labels(
    np.array([1, 0, -1, 2, 1], np.int32), np.array([0, 1, 5, 3, 4], np.uint8), np.array([0.5, 1, np.nan, 0, 2], np.float32),
    np.array([1, np.nan, np.nan, 0.5, 0], np.float32), np.array([1, 2, 0, 0.5, 1], np.float32), floats(4, 3), floats(4, 3),
    np.array([1, 2, 1, 0]), np.array([1, 0, 3, -1]), Pca(floats(3), floats(3, 3), RNG.random(3)),
    np.array([[0, 1, -1, 2, 0], [1, 0, -1, 2, 1]], np.int32), np.array([3, 4], np.int32),
    {"objective": 0.1 + 0.2, "iterations": 20, "l2": True, "name": "\u00e9"}, SAMPLES,
    np.array([[0.1, 0.9], [1, 0], [np.nan] * 2, [0.5, 0.5], [1e-45, 1]], np.float32),
    np.array([[0, 1, -1, 2, 3], [4, 0, -1, 0, 4]], np.int32), **COMMON)
CHECKPOINT = Checkpoint(
    {"backbone.w": floats(2, 3, 4, 5), "backbone.norm.num_batches_tracked": np.array(2**40, np.int64), "head.bias": floats(4),
     "backbone.scale": np.array(0.1, np.float32), "backbone.one": floats(1)},
    {"body/w/momentum_buffer": floats(2, 3, 4, 5), "body/step": np.array(7, np.int64)}, {"bank": floats(5, 3), "count": np.array(3.5, np.float64)},
    {"backbone": "convnet", "mean": [0.1, 0.2, 1 / 3], "size": 16},
    {"epoch": 3, "step": 2**40, "samples_seen": 2**41, "seed": 2**62, "world_size": 1}, **COMMON)
IMAGES = ImageList(SAMPLES, np.array([1, 2**40, 0, 4, 5], np.uint64), np.array([2**32 - 1, 0, 0, 3, 4], np.uint32), np.arange(5, dtype=np.uint32),
                   np.arange(5, dtype=np.uint32) + 1, "/photos/\u00e9", True, RNG.integers(0, 256, (5, 4, 4, 3), np.uint8), **COMMON)
EVALUATION = Evaluation([("knn_top1", 0.1 + 0.2, 0.25, 0.35, 2**40, "k=10 tau=0.1"), ("nmi_geometric", float("nan"), float("nan"), 1.0, 5, "")],
                        np.array([[3, 1], [0, 2**40]]), SAMPLES, np.array([0, 1, 2, 1, 0], np.uint8), np.array([1, 0, -1, 1, 0], np.int32),
                        np.array([0, 0, -1, 1, 1], np.int32), ["ant", "b\u00e9e"], **COMMON)
OTHERS = np.array([b"x.png", b"y.png"])
NEIGHBORS = Neighbors(np.array([[1, 0], [0, -1], [-1, -1], [1, 0], [0, 1]], np.int32),
                      np.array([[0, 0.1], [0.5, np.nan], [np.nan, np.nan], [1, 2], [0.3, 0.3]], np.float32), SAMPLES, OTHERS, "euclidean", **COMMON)
PAIRS = Pairs(np.array([[0, 1], [0, 4]]), np.array([1, 0.1 + 0.2]), SAMPLES, threshold=0.1, **COMMON)
WHOLE = {"features": FEATURES, "labels": LABELS, "neighbors": NEIGHBORS, "pairs": PAIRS, "checkpoint": CHECKPOINT, "images": IMAGES,
         "evaluation": EVALUATION}


def write(artifact: Stored, path: Path) -> Path:
    with path.open("wb") as out:
        store.save(artifact, out)
    return path


def bits(value: Any) -> Any:
    """Comparable, arrays and floats by their bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    if dataclasses.is_dataclass(value):
        return {f.name: bits(getattr(value, f.name)) for f in dataclasses.fields(value) if f.compare}
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    return [bits(v) for v in value] if isinstance(value, (list, tuple)) else value


# round trips

@pytest.mark.parametrize("name", WHOLE)
def test_round_trip_through_a_file(name: str, tmp_path: Path) -> None:
    artifact = WHOLE[name]
    path = write(artifact, tmp_path / "a.h5")
    found = store.load(path)
    assert type(found) is type(artifact)
    assert bits(found) == bits(artifact)
    assert found.digest == artifact.digest == store.digest_of(dataclasses.replace(artifact, digest=""))
    assert store.read(path, artifact.kind).digest == artifact.digest
    again = write(found, tmp_path / "b.h5")
    assert again.read_bytes() == path.read_bytes()                       # and once more, to the byte


@pytest.mark.parametrize("name", WHOLE)
def test_round_trip_through_a_pipe(name: str, tmp_path: Path) -> None:
    artifact = WHOLE[name]
    write(artifact, tmp_path / "a.h5")
    read, into = os.pipe()
    os.write(into, (tmp_path / "a.h5").read_bytes())                     # small: it fits the pipe
    os.close(into)
    try:
        found = store.load(read, artifact.kind)
    finally:
        os.close(read)
    assert bits(found) == bits(artifact)
    assert found.digest == artifact.digest


@pytest.mark.parametrize("least", [Features(floats(3, 2)), Labels(np.array([0, 1], np.int32)), Checkpoint({"w": floats(2)}), Evaluation(),
                                   Neighbors(np.array([[1], [0]], np.int32)), Pairs(np.array([[0, 1]]))],
                         ids=lambda a: a.kind)
def test_the_least_of_each(least: Stored, tmp_path: Path) -> None:
    found = store.load(write(least, tmp_path / "a.h5"))
    if isinstance(least, Checkpoint):
        assert found.progress == {"epoch": 0, "step": 0, "samples_seen": 0, "seed": 0, "world_size": 1}
        found.progress = {}
    assert bits(found) == bits(least)
    assert found.context == Context()


def test_numbers_without_a_dimension_stay_so(tmp_path: Path) -> None:
    found = store.load(write(CHECKPOINT, tmp_path / "a.h5"))
    for group, key in (("model", "backbone.norm.num_batches_tracked"), ("model", "backbone.scale"), ("optimizer", "body/step"),
                       ("memory", "count")):
        value = getattr(found, group)[key]
        assert (value.shape, value) == ((), getattr(CHECKPOINT, group)[key])
    assert found.model["backbone.one"].shape == (1,)                     # which is another thing
    arrays, marks = CHECKPOINT.arrays(), CHECKPOINT.dataset_attrs()      # in the file they are one row, marked
    assert {p: arrays[p].shape for p in marks} == dict.fromkeys(
        ("/model/backbone.norm.num_batches_tracked", "/model/backbone.scale", "/optimizer/body/step", "/memory/count"), (1,))
    assert all(a == {"scalar": 1} for a in marks.values())
    with h5py.File(tmp_path / "a.h5") as f:
        assert [f[p].shape for p in marks] == [(1,)] * 4


def test_pixels_stay_on_disk(tmp_path: Path) -> None:
    found = store.load(write(IMAGES, tmp_path / "a.h5"))
    assert not found.pixels.flags.writeable
    assert not found.pixels.flags.owndata
    assert found.files().batch(np.array([3, 0])).tolist() == IMAGES.pixels[[3, 0]].tolist()
    assert store.load(write(replace(IMAGES, pixels=None), tmp_path / "b.h5")).pixels is None


def test_every_kind_is_tested() -> None:
    assert {a.kind for a in WHOLE.values()} == set(ARTIFACTS)
    for kind, cls in ARTIFACTS.items():
        assert cls.kind == kind


def test_the_digest_is_of_the_content() -> None:
    def digest(artifact: Stored, **changes: Any) -> str:
        return store.digest_of(replace(artifact, **changes))

    base = digest(LABELS)
    assert digest(LABELS, provenance=["another"]) == base
    moved = LABELS.labels.copy()
    moved[0] = 0
    assert digest(LABELS, labels=moved) != base
    assert digest(LABELS, samples=Samples(SAMPLES.path[::-1].copy(), SAMPLES.status)) != base
    x = ODD.copy()
    x[4, 2] = np.nextafter(x[4, 2], np.float32(9))
    assert digest(FEATURES, features=x) != digest(FEATURES)
    assert digest(CHECKPOINT, optimizer={}) != digest(CHECKPOINT)


# samples

def test_samples() -> None:
    assert SAMPLES.ok.tolist() == [True, True, False, True, True]
    assert len(SAMPLES) == 5
    wanted = hashlib.sha256("a/1.png\nb/\u00e9.png\nc\nd\ne.png\n".encode()).hexdigest()
    assert SAMPLES.digest == samples_digest(SAMPLES.path) == "sha256:" + wanted
    assert samples_digest(SAMPLES.path[::-1]) != SAMPLES.digest
    assert samples_digest(SAMPLES.path.astype("S99")) == SAMPLES.digest
    many = np.array([b"%d" % i for i in range(70_000)])
    assert samples_digest(many) == "sha256:" + hashlib.sha256(b"".join(b"%d\n" % i for i in range(70_000))).hexdigest()


def test_paths_that_do_not_fit_their_digest_are_refused(tmp_path: Path) -> None:
    path = write(FEATURES, tmp_path / "a.h5")
    with h5py.File(path, "r+") as f:
        f["/samples/path"][0] = b"other"
    with pytest.raises(DataError, match=r"samples-digest: found sha256:.*, the paths give sha256:|damaged|modified|changed"):
        store.load(path)


# somebody's own labels

@pytest.mark.parametrize("dtype", ["i8", "i4", "i2", "u1", "u8", ">i4"])
def test_a_file_with_only_labels(tmp_path: Path, dtype: str) -> None:
    """As ``h5py`` writes it by default: f["labels"] = y."""
    with h5py.File(tmp_path / "mine.h5", "w") as f:
        f["labels"] = np.array([3, 0, 1, 1], dtype)
    found = store.load(tmp_path / "mine.h5", "ucl/labels")
    assert found.labels.tolist() == [3, 0, 1, 1]
    assert found.labels.dtype == np.int32
    assert found.k == 4
    assert found.samples is None
    assert found.context == Context()


def test_a_file_with_labels_and_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "mine.h5", "w") as f:
        f["labels"] = np.array([-1, 0, -1])
    assert store.load(tmp_path / "mine.h5", "ucl/labels").labels.tolist() == [-1, 0, -1]


@pytest.mark.parametrize(("values", "message"), [
    (np.array([0.0, 1.0]), "is float64, wanted int32"), (np.zeros((2, 2), int), "has shape (2, 2), wanted (N)"),
    (np.array([0, -2]), "values -2 to 0, expected -1"),
    (np.array([0, 2**31 - 1]), "values 0 to 2147483647"), (np.array([0, 2**40]), "values do not fit in int32"),
    (np.array([0, 2**64 - 1], np.uint64), "values do not fit in int32")])
def test_labels_that_are_none(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with h5py.File(tmp_path / "mine.h5", "w") as f:
        f["labels"] = values
    with pytest.raises(DataError, match="labels") as e:
        store.load(tmp_path / "mine.h5", "ucl/labels")
    assert message in e.value.message


@pytest.mark.parametrize(("extra", "message"), [
    ({"clusters/size": np.array([1, 2])}, "/labels: values 0 to 2, expected -1 to 1"),
    ({"flag": np.zeros(2, np.uint8)}, "/flag: N = 2, but /labels has N = 3"),
    ({"distance": np.zeros(4, np.float32)}, "/distance: N = 4, but /labels has N = 3"),
    ({"score": np.zeros(4, np.float32)}, "/score: N = 4, but /labels has N = 3"),
    ({"weight": np.zeros(1, np.float32)}, "/weight: N = 1, but /labels has N = 3"),
    ({"samples/path": np.array([b"a", b"b"])}, "/labels: N = 3, but /samples/path has N = 2")])
def test_labels_beside_what_does_not_fit(tmp_path: Path, extra: dict[str, np.ndarray], message: str) -> None:
    with h5py.File(tmp_path / "mine.h5", "w") as f:
        f["labels"] = np.array([0, 1, 2])
        for name, value in extra.items():
            f[name] = value
    with pytest.raises(DataError) as e:
        store.load(tmp_path / "mine.h5", "ucl/labels")
    assert message in e.value.message


# what else is refused

def test_features_that_are_none(tmp_path: Path) -> None:
    for number, (values, paths) in enumerate([(floats(3), 0), (floats(3, 2), 2), (floats(3, 2, 2), 0)]):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as f:
            f["features"] = values
            if paths:
                f["samples/path"] = np.array([b"a", b"b"])
        with pytest.raises(DataError, match="/features"):
            store.load(path, "ucl/features")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(LABELS, tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"ucl/labels.*ucl/features|ucl/features.*ucl/labels"):
        store.read(path, "ucl/features")
    with pytest.raises(InputMissing):
        store.read(tmp_path / "gone.h5")


def test_a_checkpoint_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/model: found nothing"):
        store.load(write(Checkpoint({}, {"body/w/momentum_buffer": floats(2)}), tmp_path / "a.h5"))


# the rest

def test_replace_forgets_the_digest() -> None:
    made = replace(dataclasses.replace(LABELS, digest="d"), labels=np.zeros(5, np.int32))
    assert made.digest == ""
    assert (made.context, made.provenance, made.recipe) == (CONTEXT, COMMON["provenance"], COMMON["recipe"])
    assert made.labels.tolist() == [0] * 5
    assert LABELS.labels.tolist() == [1, 0, -1, 2, 1]


def test_k() -> None:
    assert LABELS.k == 4                                                 # empty ones count
    assert Labels(np.array([0, 7, -1], np.int32)).k == 8
    assert Labels(np.array([-1], np.int32)).k == 0


def test_weights_digest_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2, np.float32)}
    digest = Checkpoint(base).weights_digest()
    assert Checkpoint(dict(reversed(base.items()))).weights_digest() == digest
    assert Checkpoint(base, {"x": floats(1)}, config={"k": 3}).weights_digest() == digest
    for other in ({"c": base["a"], "b": base["b"]}, {"a": base["a"].view(np.int32), "b": base["b"]}, {"a": base["a"].reshape(2, 2), "b": base["b"]},
                  {"a": base["a"] + 1, "b": base["b"]}, {"a": base["a"]}):
        assert Checkpoint(other).weights_digest() != digest


def test_titles() -> None:
    assert FEATURES.title() == "3-d features of 5 images (convnet)"
    assert LABELS.title() == "4 clusters of 5 images, 4 of them labelled"
    assert CHECKPOINT.title() == "convnet after 3 epochs"
    assert IMAGES.title() == "list of 5 images, 4x4 pixels packed"
    assert EVALUATION.title() == "knn_top1 0.3000, nmi_geometric nan"
    assert EVALUATION.value("knn_top1") == 0.1 + 0.2


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"epoch": "x"}', '{"overrides": [1]}', "{"])
def test_a_context_that_is_none(text: str) -> None:
    with pytest.raises(DataError, match=r"^here: context: "):
        Context.from_json(text, "here")


def test_a_context_ignores_what_a_later_version_adds() -> None:
    assert Context.from_json(CONTEXT.to_json()) == CONTEXT
    assert Context.from_json(json.dumps(json.loads(CONTEXT.to_json()) | {"later": 1})) == CONTEXT
    assert Context.from_json("{}") == Context()


# recipes and provenance

def test_recipe() -> None:
    def made(kind: str = "ucl/labels", verb: str = "cluster", k: int = 3, seed: int = 0, inputs: tuple[Stored, ...] = (FEATURES,)) -> str:
        return store.recipe(kind, verb, {"k": k, "scale": (0.5, 1.0)}, seed, inputs)

    assert made() == made()
    others = [made(kind="ucl/features"), made(verb="purify"), made(k=4), made(seed=1), made(inputs=()), made(inputs=(replace(FEATURES, recipe="s"),))]
    assert len({made(), *others}) == 7


def test_provenance_grows_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UCL_PROVENANCE", raising=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    a, b = Features(floats(1, 1), provenance=["1", "2"], recipe="ra"), Labels(np.zeros(1, np.int32), provenance=["2", "3"], digest="db")
    *past, last = store.chain("cluster", {"k": 3}, 7, [a, b], "cpu", 2)
    assert past == ["1", "2", "3"]                                       # each once, oldest first
    entry = json.loads(last)
    assert (entry["verb"], entry["seed"], entry["settings"], entry["device"], entry["threads"]) == ("cluster", 7, {"k": 3}, "cpu", 2)
    assert entry["time"] == "1970-01-02T00:00:00Z"
    assert entry["inputs"] == [{"kind": "ucl/features", "recipe-id": "ra", "content-sha256": None},
                               {"kind": "ucl/labels", "recipe-id": "", "content-sha256": "db"}]
    assert len(store.chain("x", {}, 0, [Features(floats(1, 1), provenance=[str(i) for i in range(100)])], "cpu", 1)) == 65
    monkeypatch.setenv("UCL_PROVENANCE", "none")
    assert store.chain("cluster", {}, 0, [a], "cpu", 1) == []
    monkeypatch.setenv("UCL_PROVENANCE", "minimal")
    monkeypatch.setattr("sys.argv", ["ucl", "extract", "/home/me/photos"])
    entry = json.loads(store.chain("cluster", {}, 0, [], "cpu", 1)[0])
    assert "host" not in entry
    assert entry["argv"] == ["ucl", "extract", "photos"]
