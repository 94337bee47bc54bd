"""The artifacts of the search for neighbours: the nearest images of each image, and pairs of images that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError
from ucl.samples import Samples, samples_digest
from ucl.stored import Arrays, Stored, carried, read_samples, samples_arrays

if TYPE_CHECKING:
    from ucl.formats.reader import Artifact as OpenFile


@dataclass
class Neighbors(Stored):
    """The K nearest images of each of N images.

    Attributes:
        neighbors: (N, K) int32 or int64 rows of the images searched, nearest first, of equal distances the lower row; -1 where there
            are no more, and in rows whose status is not OK.
        distances: (N, K) float32: 1 - cosine, or euclidean; NaN where there is no neighbour.  None in a file of somebody's own.
        samples: the N images asked about.
        among: (R,) paths of the images searched; None = those asked about.
        metric: cosine or euclidean.
        self_included: each image was searched among all, itself too.
        exact: no nearer image was missed.
    """

    kind: ClassVar[str] = "ucl/neighbors"
    neighbors: NDArray[Any]
    distances: NDArray[np.float32] | None = None
    samples: Samples | None = None
    among: NDArray[np.bytes_] | None = None
    metric: str = "cosine"
    self_included: bool = False
    exact: bool = True

    def title(self) -> str:
        n, k = self.neighbors.shape
        return f"{k} nearest of each of {n} images{_where(self.among)}{', itself among them' if self.self_included else ''} ({self.metric})"

    def arrays(self) -> Arrays:
        found = {"/neighbors": self.neighbors} | ({} if self.distances is None else {"/distances": self.distances})
        return found | _listed(self.samples, self.among)

    def attrs(self) -> dict[str, Any]:
        return {"metric": self.metric, "exact": int(self.exact), "self-included": int(self.self_included), **_digest(self.among)}

    @classmethod
    def load(cls, file: OpenFile) -> Neighbors:
        """From an opened file or stream; one that has only a dataset /neighbors of (N, K) integers is enough.

        Raises:
            DataError: no such integers, rows beyond those searched, or samples or distances of another shape.
        """
        raw = file.read("/neighbors")
        distances = file.read("/distances") if "/distances" in file.names else None
        among, samples, a = _among(file), read_samples(file), file.attrs
        if raw.ndim != 2 or raw.dtype.kind not in "iu":
            raise DataError(f"{file.name}: /neighbors: {raw.dtype} {raw.shape}, expected integers of shape (N, K)")
        if distances is not None and distances.shape != raw.shape:
            raise DataError(f"{file.name}: /distances: {distances.shape}, expected {raw.shape} as in /neighbors")
        if samples is not None and len(samples) != len(raw):
            raise DataError(f"{file.name}: /neighbors: {len(raw)} rows, expected {len(samples)} as in /samples/path")
        _inside(file, "/neighbors", raw, -1, len(raw) if among is None else len(among))
        return cls(raw, distances, samples, among, str(a.get("metric") or "cosine"), bool(a.get("self-included")), bool(a.get("exact")),
                   **carried(file))


@dataclass
class Pairs(Stored):
    """Q pairs of images that are alike.

    Attributes:
        pairs: (Q, 2) int64 rows; of one list the lower row first, of two lists a row of each; sorted.
        similarity: (Q,) float64 cosine.  None in a file of somebody's own.
        samples: the N images asked about.
        among: (R,) paths of the images searched; None = those asked about.
        threshold: the least similarity listed.
    """

    kind: ClassVar[str] = "ucl/pairs"
    pairs: NDArray[np.int64]
    similarity: NDArray[np.float64] | None = None
    samples: Samples | None = None
    among: NDArray[np.bytes_] | None = None
    threshold: float = -1.0

    def title(self) -> str:
        n = "" if self.samples is None else f" of {len(self.samples)} images{_where(self.among)}"
        return f"{len(self.pairs)} pairs{n}, of a cosine of at least {self.threshold:g}"

    def arrays(self) -> Arrays:
        found: Arrays = {"/pairs": self.pairs} | ({} if self.similarity is None else {"/similarity": self.similarity})
        return found | _listed(self.samples, self.among)

    def attrs(self) -> dict[str, Any]:
        return {"threshold": repr(self.threshold), **_digest(self.among)}

    @classmethod
    def load(cls, file: OpenFile) -> Pairs:
        """From an opened file or stream.

        Raises:
            DataError: rows beyond those there are, a threshold that is no number, or a similarity of another length.
        """
        raw = file.read("/pairs")
        similarity = file.read("/similarity") if "/similarity" in file.names else None
        among, samples = _among(file), read_samples(file)
        if raw.ndim != 2 or raw.shape[1] != 2 or (similarity is not None and similarity.shape != raw.shape[:1]):
            raise DataError(f"{file.name}: /pairs: {raw.shape}, expected (Q, 2), and (Q,) of /similarity")
        if samples is not None:
            _inside(file, "/pairs", raw[:, 0], 0, len(samples))
            _inside(file, "/pairs", raw[:, 1], 0, len(samples if among is None else among))
        try:
            threshold = float(file.attrs.get("threshold") or -1)
        except ValueError:
            raise DataError(f"{file.name}: threshold: found {file.attrs['threshold']!r}, expected a number") from None
        return cls(raw.astype(np.int64), similarity, samples, among, threshold, **carried(file))


def _where(among: NDArray[np.bytes_] | None) -> str:
    return "" if among is None else f" among {len(among)} others"


def _listed(samples: Samples | None, among: NDArray[np.bytes_] | None) -> Arrays:
    return samples_arrays(samples) | ({} if among is None else {"/among/path": among})


def _digest(among: NDArray[np.bytes_] | None) -> dict[str, str]:
    return {} if among is None else {"among-digest": samples_digest(among)}


def _among(file: OpenFile) -> NDArray[np.bytes_] | None:
    return file.read("/among/path") if "/among/path" in file.names else None


def _inside(file: OpenFile, path: str, rows: NDArray[Any], low: int, size: int) -> None:
    """Refuse rows below ``low`` or from ``size`` on."""
    least, most = int(rows.min(initial=0)), int(rows.max(initial=-1))
    if least < low or most >= size:
        raise DataError(f"{file.name}: {path}: rows {least} to {most}, expected {low} to {size - 1}")
