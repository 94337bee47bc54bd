"""The typed artifacts that flow between verbs, and their way into and out of HDF5.

An artifact is plain arrays, its samples and its Context.  `arrays` gives {dataset path: array} in the names of
`formats.layout`; `load` turns an opened file or stream back into the same object.  Saving never casts or computes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError
from ucl.nearby import Neighbors as Neighbors
from ucl.nearby import Pairs as Pairs
from ucl.samples import MISSING as MISSING
from ucl.samples import NOT_FINITE as NOT_FINITE
from ucl.samples import OK as OK
from ucl.samples import STATUS as STATUS
from ucl.samples import TOO_LARGE as TOO_LARGE
from ucl.samples import UNREADABLE as UNREADABLE
from ucl.samples import Samples as Samples
from ucl.samples import samples_digest as samples_digest
from ucl.stored import Arrays as Arrays
from ucl.stored import Stored as Stored
from ucl.stored import carried, read_samples, samples_arrays

if TYPE_CHECKING:
    from ucl.formats.reader import Artifact as OpenFile
    from ucl.images import ImageSet
    from ucl.sources.records import Records

KEPT, CUT_BY_DISTANCE, DROPPED_BY_VOTE, PULLED_BACK, DISSOLVED, BAD_IMAGE, NOT_CONFIDENT = range(7)
WRONG, RIGHT, LEFT_OUT = range(3)
FLAGS = ("KEPT", "CUT_BY_DISTANCE", "DROPPED_BY_VOTE", "PULLED_BACK", "DISSOLVED", "BAD_IMAGE", "NOT_CONFIDENT")

REMEMBERED = "features"
"""Name in a checkpoint's memory: (N, D) float32, each image's features at its last training step; NaN before the first."""

@dataclass
class Features(Stored):
    """Features of N images.

    Attributes:
        features: (N, D) float32; NaN in rows whose status is not OK.  `cluster` also takes `rows.Rows`, which lie outside
            of memory.
        samples: the N images.
        model: name of the backbone; weights: digest of its weights; layer: what was tapped; transform: JSON.
    """

    kind: ClassVar[str] = "ucl/features"
    features: NDArray[np.float32]
    samples: Samples | None = None
    model: str = ""
    weights: str = ""
    layer: str = ""
    transform: str = "{}"

    def title(self) -> str:
        n, d = self.features.shape
        return f"{d}-d features of {n} images ({self.model or 'unknown model'})"

    def arrays(self) -> Arrays:
        return {"/features": self.features, **samples_arrays(self.samples)}

    def attrs(self) -> dict[str, Any]:
        return {"model": self.model, "weights-sha256": self.weights, "layer": self.layer,
                "transform": self.transform, "normalized": "none"}

    @classmethod
    def load(cls, file: OpenFile, rows: Any = None) -> Features:
        """From an opened file or stream.

        Args:
            rows: the features, if somebody has read them or will: an array or `rows.Rows`.

        Raises:
            DataError: not two-dimensional numbers, samples of another length, or a truncated stream.
        """
        x = np.ascontiguousarray(file.read("/features"), dtype=np.float32) if rows is None else rows
        samples = read_samples(file)
        if x.ndim != 2 or (samples is not None and len(samples) != len(x)):
            raise DataError(f"{file.name}: /features: shape {x.shape}, expected (N, D) with N = rows of /samples/path")
        a = file.attrs
        return cls(x, samples, str(a.get("model") or ""), str(a.get("weights-sha256") or ""),
                   str(a.get("layer") or ""), str(a.get("transform") or "{}"), **carried(file))


@dataclass(frozen=True)
class Pca:
    """mean (d,) float32, components (d, D) float32 with the whitening folded in, eigenvalues (D,) float64 of the
    scatter matrix divided by the number of rows."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    eigenvalues: NDArray[np.float64]


@dataclass
class Labels(Stored):
    """Pseudo-labels of N images in K clusters.

    Attributes:
        labels: (N,) int32, -1 = in no cluster.
        flag: (N,) uint8, why a row has or lost its label (FLAGS).
        distance: (N,) float32 to the cluster's member mean; NaN without.
        score: (N,) float32 of the votes of past epochs, or the largest of ``probs``; NaN without.
        weight: (N,) float32 in the loss.
        centroid, mean: (K, D) float32; size: (K,) int64; anchor: (K,) int64 row nearest to the mean, -1 if empty.
        pca: what led from features to the clustered space, if PCA was on.
        history: (H, N) int32 raw labels of past epochs, oldest first; history_epoch: (H,) int32.
        info: counts and objective, as the writer of the labels knew them.
        samples: the N images; None in a file of somebody's own that has only /labels.
        probs: (N, C) float32 probability of each class, NaN for bad images; from a classifier that was asked for them.
        pred: (E, N) int32 clusters that E models gave, -1 for none; ``labels`` are then groups of images that they put together.
    """

    kind: ClassVar[str] = "ucl/labels"
    labels: NDArray[np.int32]
    flag: NDArray[np.uint8] | None = None
    distance: NDArray[np.float32] | None = None
    score: NDArray[np.float32] | None = None
    weight: NDArray[np.float32] | None = None
    centroid: NDArray[np.float32] | None = None
    mean: NDArray[np.float32] | None = None
    size: NDArray[np.int64] | None = None
    anchor: NDArray[np.int64] | None = None
    pca: Pca | None = None
    history: NDArray[np.int32] | None = None
    history_epoch: NDArray[np.int32] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    samples: Samples | None = None
    probs: NDArray[np.float32] | None = None
    pred: NDArray[np.int32] | None = None

    _DATASETS: ClassVar[dict[str, str]] = {
        "flag": "/flag", "distance": "/distance", "score": "/score", "weight": "/weight",
        "centroid": "/clusters/centroid", "mean": "/clusters/mean", "size": "/clusters/size",
        "anchor": "/clusters/anchor", "history": "/history/labels", "history_epoch": "/history/epoch",
        "probs": "/probs", "pred": "/pred"}

    @property
    def k(self) -> int:
        """Number of clusters, empty ones included."""
        if self.size is not None:
            return len(self.size)
        return int(self.labels.max(initial=-1)) + 1

    @property
    def purified(self) -> bool:
        """Whether `purify` has been here."""
        return "purify" in self.info

    def raw(self) -> NDArray[np.int32] | None:
        """Labels (N,) int32 as they were clustered, which is the newest row of the history; None without a history.

        Raises:
            DataError: a history of other images or without epochs, or one whose newest row is of another clustering.
        """
        if self.history is None or not len(self.history):
            return None
        n, epochs = len(self.labels), self.history_epoch
        if self.history.ndim != 2 or self.history.shape[1] != n or epochs is None or len(epochs) != len(self.history):
            raise DataError(f"labels: /history/labels: shape {self.history.shape}, /history/epoch: {'missing' if epochs is None else epochs.shape}, "
                            f"expected (H, {n}) and (H,)", "make the labels again, or leave /history out")
        raw: NDArray[np.int32] = self.history[-1].astype(np.int32)
        other = np.flatnonzero((self.labels >= 0) & (self.labels != raw))
        if len(other):
            row = int(other[0])
            raise DataError(f"labels: row {row} is in cluster {self.labels[row]}, the newest row of /history/labels says {raw[row]}; "
                            "expected the labels before purification", "append the raw labels to the history, or leave /history out")
        return raw

    def title(self) -> str:
        return f"{self.k} clusters of {len(self.labels)} images, {int((self.labels >= 0).sum())} of them labelled"

    def arrays(self) -> Arrays:
        found: Arrays = {"/labels": self.labels}
        found |= {path: getattr(self, name) for name, path in self._DATASETS.items() if getattr(self, name) is not None}
        if self.pca is not None:
            found |= {"/pca/mean": self.pca.mean, "/pca/components": self.pca.components,
                      "/pca/eigenvalues": self.pca.eigenvalues}
        if self.info:
            found["/clusters/info"] = np.array([json.dumps(self.info, sort_keys=True).encode()])
        return found | samples_arrays(self.samples)

    @classmethod
    def load(cls, file: OpenFile) -> Labels:
        """From an opened file or stream; one that has only a dataset /labels of N integers is enough.

        Raises:
            DataError: labels that are no integers, below -1 or at least K, or samples of another length.
        """
        raw = file.read("/labels")
        if raw.ndim != 1 or raw.dtype.kind not in "iu":
            raise DataError(f"{file.name}: /labels: {raw.dtype} {raw.shape}, expected integers of shape (N,)")
        got: dict[str, Any] = {name: file.read(path) for name, path in cls._DATASETS.items() if path in file.names}
        pca = None
        if "/pca/components" in file.names:
            pca = Pca(*(file.read(f"/pca/{part}") for part in ("mean", "components", "eigenvalues")))
        info = json.loads(file.read("/clusters/info")[0]) if "/clusters/info" in file.names else {}
        labels = cls(raw.astype(np.int32), pca=pca, info=info, samples=read_samples(file), **got, **carried(file))
        if len(raw) and (raw.min() < -1 or raw.max() > 2**31 - 2 or ("size" in got and raw.max() >= labels.k)):
            raise DataError(f"{file.name}: /labels: values {raw.min()} to {raw.max()}, expected -1 to {labels.k - 1}")
        for name in ("flag", "distance", "score", "weight"):
            if name in got and len(got[name]) != len(raw):
                raise DataError(f"{file.name}: /{name}: {len(got[name])} rows, expected {len(raw)} as in /labels")
        _check_predictions(file.name, labels)
        weight = got.get("weight")
        if weight is not None and not (np.isfinite(weight) & (weight >= 0)).all():
            raise DataError(f"{file.name}: /weight: row {int(np.flatnonzero(~(weight >= 0) | ~np.isfinite(weight))[0])} is "
                            "negative or not finite, expected a weight from 0")
        if labels.samples is not None and len(labels.samples) != len(raw):
            raise DataError(f"{file.name}: /labels: {len(raw)} rows, expected {len(labels.samples)} as in /samples/path")
        return labels


def _check_predictions(name: str, labels: Labels) -> None:
    """Bring what a classifier or an ensemble said of each image to our types.

    Raises:
        DataError: of another number of images, or no probabilities, or no clusters.
    """
    n, probs, pred = len(labels.labels), labels.probs, labels.pred
    if probs is not None:
        if probs.ndim != 2 or len(probs) != n or not probs.shape[1] or probs.dtype.kind != "f":
            raise DataError(f"{name}: /probs: {probs.dtype} {probs.shape}, expected numbers of shape ({n}, C), N as in /labels")
        labels.probs = probs.astype(np.float32, copy=False)
    if pred is not None:
        if pred.ndim != 2 or pred.shape[1] != n or not len(pred) or pred.dtype.kind not in "iu":
            raise DataError(f"{name}: /pred: {pred.dtype} {pred.shape}, expected integers of shape (E, {n}), N as in /labels")
        if pred.size and (pred.min() < -1 or pred.max() > 2**31 - 2):
            raise DataError(f"{name}: /pred: values {pred.min()} to {pred.max()}, expected clusters, and -1 for none")
        labels.pred = pred.astype(np.int32, copy=False)


@dataclass
class Checkpoint(Stored):
    """A model and everything the next training step needs.

    Attributes:
        model: state-dict key -> array; keys start with ``backbone.`` or ``head.``.
        optimizer: ``<group>/<parameter>/<buffer>`` -> array.
        memory: banks, centroids and their like.
        config: backbone, sobel, view size, normalisation, K and whatever names the model.
        progress: epoch, step, samples_seen, seed, world_size.
    """

    kind: ClassVar[str] = "ucl/checkpoint"
    model: Arrays
    optimizer: Arrays = field(default_factory=dict)
    memory: Arrays = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, int] = field(default_factory=dict)

    PROGRESS: ClassVar[Any] = np.dtype([("epoch", "<i4"), ("step", "<i8"), ("samples_seen", "<i8"),
                                        ("seed", "<i8"), ("world_size", "<i4")])

    def title(self) -> str:
        return f"{self.config.get('backbone', 'model')} after {self.progress.get('epoch', 0)} epochs"

    def _named(self) -> Arrays:
        found = {f"/model/{k}": v for k, v in self.model.items()}
        found |= {f"/optimizer/{k}": v for k, v in self.optimizer.items()}
        return found | {f"/memory/{k}": v for k, v in self.memory.items()}

    def arrays(self) -> Arrays:
        row = np.zeros(1, self.PROGRESS)
        for name in self.PROGRESS.names:
            row[name] = self.progress.get(name, 1 if name == "world_size" else 0)
        found = {path: v.reshape(1) if v.ndim == 0 else v for path, v in self._named().items()}
        config = np.array([json.dumps(self.config, sort_keys=True).encode()])
        return found | {"/progress": row, "/config": config}

    def dataset_attrs(self) -> dict[str, dict[str, Any]]:
        return {path: {"scalar": 1} for path, v in self._named().items() if v.ndim == 0}

    @classmethod
    def load(cls, file: OpenFile) -> Checkpoint:
        """From an opened file or stream."""
        parts: dict[str, Any] = {"model": {}, "optimizer": {}, "memory": {}}
        for path in file.names:
            group, _, key = path.lstrip("/").partition("/")
            if group in parts:
                value = file.read(path)
                parts[group][key] = value.reshape(()) if file.dataset_attrs(path).get("scalar") else value
        if not parts["model"]:
            raise DataError(f"{file.name}: /model: found nothing, expected a model's tensors")
        row = file.read("/progress")[0] if "/progress" in file.names else np.zeros(1, cls.PROGRESS)[0]
        progress = {name: int(row[name]) for name in cls.PROGRESS.names}
        config = json.loads(file.read("/config")[0]) if "/config" in file.names else {}
        return cls(**parts, config=config, progress=progress, **carried(file))

    def weights_digest(self) -> str:
        """sha256 over the model's tensors by sorted name; names what features were made with."""
        h = hashlib.sha256()
        for key in sorted(self.model):
            value = np.ascontiguousarray(self.model[key])
            h.update(f"{key}\0{value.dtype.str}\0{value.shape}\0".encode())
            h.update(value.tobytes())
        return h.hexdigest()


@dataclass
class ImageList(Stored):
    """The frozen image list of a run.

    Attributes:
        samples: the N images.
        size: (N,) uint64 and crc32: (N,) uint32 of each file's bytes.
        height, width: (N,) uint32 of each image as decoded, upright.
        root: the folder, archive or packed list, or the name of a built-in data set.
        escaped: whether paths are percent-encoded.
        pixels: (N, H, W, 3) uint8, or None where the files are decoded on every pass.
        records: where the images lie inside larger files; None for files of their own, and where pixels are packed.
        on_device: device name -> the pixels as a tensor there; a cache.
    """

    kind: ClassVar[str] = "ucl/images"
    samples: Samples
    size: NDArray[np.uint64]
    crc32: NDArray[np.uint32]
    height: NDArray[np.uint32]
    width: NDArray[np.uint32]
    root: str = ""
    escaped: bool = False
    pixels: NDArray[np.uint8] | None = None
    records: Records | None = None
    on_device: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def title(self) -> str:
        packed = "no pixels" if self.pixels is None else "{}x{} pixels packed".format(*self.pixels.shape[1:3])
        return f"list of {len(self.samples)} images, {packed}"

    def attrs(self) -> dict[str, Any]:
        form = {} if self.records is None else {"record": self.records.form}
        return {"root": self.root, "path-escaping": "percent" if self.escaped else "none", **form}

    def arrays(self) -> Arrays:
        found = {**samples_arrays(self.samples), "/samples/size": self.size, "/samples/crc32": self.crc32,
                 "/samples/height": self.height, "/samples/width": self.width}
        if self.records is not None:
            found |= {"/files/path": np.array(self.records.files), "/samples/file": self.records.file,
                      "/samples/offset": self.records.offset}
        return found if self.pixels is None else {**found, "/pixels": self.pixels}

    def files(self) -> ImageSet:
        """The list as what reads and decodes its files."""
        from ucl.images import ImageSet

        return ImageSet(self.samples.path, self.samples.status, self.size, self.crc32, self.root, self.pixels, self.height,
                        self.width, self.escaped, records=self.records)

    @classmethod
    def made(cls, found: ImageSet) -> ImageList:
        """From what was listed and read."""
        return cls(Samples(found.paths, found.status), found.size, found.crc32, found.height, found.width, found.root,
                   found.escaped, found.pixels, found.records)

    @classmethod
    def load(cls, file: OpenFile) -> ImageList:
        """From an opened file; the pixels stay on disk and are mapped, packed bytes stay there and are read from it."""
        from ucl.sources.records import read_records

        samples = read_samples(file)
        if samples is None:
            raise DataError(f"{file.name}: /samples/path: missing, expected the list of images")
        names = ("size", "crc32", "height", "width")
        missing = [n for n in names if f"/samples/{n}" not in file.names]
        if missing:
            raise DataError(f"{file.name}: /samples/{missing[0]}: missing, expected one number per image", "make the list again with ucl init")
        size, crc32, height, width = (file.read(f"/samples/{n}") for n in names)
        pixels = None
        if "/pixels" in file.names:
            pixels = file.mapped("/pixels") if hasattr(file, "mapped") else file.read("/pixels")
        records = read_records(file, size)
        root = os.path.abspath(file.name) if "/encoded" in file else str(file.attrs.get("root") or "")  # noqa: PTH100
        return cls(samples, size, crc32, height, width, root, file.attrs.get("path-escaping") == "percent", pixels, records,
                   **carried(file))


@dataclass
class Evaluation(Stored):
    """Measured numbers, and where images are classified what became of each.

    Attributes:
        rows: (name, value, low, high, n, protocol), low and high a 95 % interval or NaN.
        confusion: (K, C) int64, clusters by classes.
        samples: the N images asked about.
        correct: (N,) uint8, how the first row counts each: WRONG, RIGHT or LEFT_OUT.
        predicted, truth: (N,) int32 indices into ``classes``; predicted is -1 for images left out, truth for those of unknown class.
        classes: C names.
    """

    kind: ClassVar[str] = "ucl/evaluation"
    rows: list[tuple[str, float, float, float, int, str]] = field(default_factory=list)
    confusion: NDArray[np.int64] | None = None
    samples: Samples | None = None
    correct: NDArray[np.uint8] | None = None
    predicted: NDArray[np.int32] | None = None
    truth: NDArray[np.int32] | None = None
    classes: list[str] = field(default_factory=list)

    METRICS: ClassVar[Any] = np.dtype([("name", "S32"), ("value", "<f8"), ("low", "<f8"), ("high", "<f8"),
                                       ("n", "<i8"), ("protocol", "S64")])

    def title(self) -> str:
        return ", ".join(f"{r[0]} {r[1]:.4f}" for r in self.rows[:4])

    def value(self, name: str) -> float:
        """The value of metric ``name``."""
        return next(r[1] for r in self.rows if r[0] == name)

    def arrays(self) -> Arrays:
        table = np.array([(r[0].encode(), *r[1:5], r[5].encode()) for r in self.rows], self.METRICS)
        names = np.array([c.encode() for c in self.classes]) if self.classes else None
        found = {"/metrics": table, "/confusion": self.confusion, "/classes/name": names, "/per_sample/correct": self.correct,
                 "/per_sample/predicted": self.predicted, "/per_sample/truth": self.truth}
        return {k: v for k, v in found.items() if v is not None} | samples_arrays(self.samples)

    @classmethod
    def load(cls, file: OpenFile) -> Evaluation:
        """From an opened file or stream.

        Raises:
            DataError: what is told of each image has another length than the list of images, or a truncated stream.
        """
        rows = [(r["name"].decode(), float(r["value"]), float(r["low"]), float(r["high"]), int(r["n"]),
                 r["protocol"].decode()) for r in file.read("/metrics")]
        confusion, names, correct, predicted, truth = (file.read(p) if p in file.names else None for p in (
            "/confusion", "/classes/name", "/per_sample/correct", "/per_sample/predicted", "/per_sample/truth"))
        samples = read_samples(file)
        if samples is not None and any(t is not None and t.shape != (len(samples),) for t in (correct, predicted, truth)):
            raise DataError(f"{file.name}: /per_sample: expected {len(samples)} rows as in /samples/path")
        classes = [] if names is None else [c.decode("utf-8", "replace") for c in names.tolist()]
        return cls(rows, confusion, samples, correct, predicted, truth, classes, **carried(file))


ARTIFACTS: Mapping[str, type[Stored]] = {
    cls.kind: cls for cls in (Features, Labels, Neighbors, Pairs, Checkpoint, ImageList, Evaluation)}


def replace(artifact: Any, **changes: Any) -> Any:
    """The same artifact with some fields changed, its digest forgotten."""
    return dataclasses.replace(artifact, digest="", **changes)
