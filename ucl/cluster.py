"""`ucl cluster`: features in, pseudo-labels out.

PCA, whitening, unit length, then k-means, mini-batch k-means or power iteration clustering: DeepCluster, sections 3.2 and 4.1 and
its appendix.  Rows whose status is not OK take no part.

Rows are worked on in chunks of a fixed size, wherever they lie (`ucl.matrix`), so that the same labels come out, bit for bit,
whether they fit into memory or not.  `ucl.memory.need` says what is held.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ucl import pca as pca_module
from ucl.agreement import collapsed
from ucl.artifacts import BAD_IMAGE, KEPT, Features, Labels, Pca
from ucl.context import Context
from ucl.errors import DataError
from ucl.keys import Key
from ucl.kmeans import (
    KMeansResult,
    check_k,
    faiss_threads,
    initial_means,
    kmeans,
    member_means,
    nearest,
    squared_distances,
)
from ucl.labelled import extended_history
from ucl.matrix import Rows, chunks, picked, place
from ucl.memory import UNLIMITED, need, need_of_assigning
from ucl.minibatch import minibatch
from ucl.pic import pic
from ucl.settings import ClusterSettings, default_k

log = logging.getLogger(__name__)

S = TypeVar("S", bound=np.generic)


@dataclasses.dataclass(frozen=True)
class _Found:
    """Labels of the usable rows (n,), centroids (K, D) float32 or None for the means of the members, and what `info` says of them."""

    labels: NDArray[np.int32]
    k: int
    centroid: NDArray[np.float32] | None
    info: dict[str, object]


def cluster(features: Features, settings: ClusterSettings, context: Context, *,
            previous: Labels | None = None, threads: int, memory: int = UNLIMITED) -> Labels:
    """Pseudo-labels of every usable image.

    Every draw is keyed by (seed, round, stage, epoch): equal for equal runs, other ones in every epoch.

    Args:
        features: (N, D) float32 and the images they are of; an array, or `rows.Rows` elsewhere.
        settings: what `ucl cluster --help` lists.
        context: where in a plan this happens; ``context.stage`` is this step's name ("cluster" if empty).
        previous: labels of the epoch before, for the history and for ``settings.warm_start``; None in the
            first.
        threads: threads of BLAS and faiss; bits are equal for equal threads.
        memory: bytes to keep to; rows beyond go to a temporary file.

    Returns:
        Complete labels: -1 and BAD_IMAGE for rows that are not usable, distance to the member mean, centroids
        (the member means, for power iteration clustering), member means (that of an empty cluster is its
        centroid), sizes, anchors, the PCA, the history, and in ``info`` the counts and the objective.

    Raises:
        UsageError: k below 2 or above the number of usable rows; not even one chunk of them fits into memory.
        DataError: a usable row that is not finite, no usable row, constant features under PCA, empty clusters
            under ``empty = "error"``, previous labels of other images.
        StorageError: no room for the temporary file.
    """
    context = dataclasses.replace(context, stage=context.stage or "cluster")
    if previous is not None:
        _same_images(features, previous)
    room = _room(features, settings, memory)
    rows = pca_module.usable_rows(features)
    if settings.method != "pic":
        check_k(settings.k or default_k(len(rows)), len(rows))
    x, pca = _project(features, rows, settings, threads, room)
    found = _find(x, rows, settings, context, previous, threads)
    mean, size = member_means(x, found.labels, found.k)
    if found.centroid is None:
        mean32 = centroid = mean.astype(np.float32)
        found.info["objective"] = float(squared_distances(x, centroid, found.labels).sum())
    else:
        centroid = found.centroid
        mean32 = np.where(size[:, None] > 0, mean, centroid).astype(np.float32)
    del mean
    labels = _complete(features, rows, x, found.labels, centroid, mean32, context)
    _warn_of_collapse(size, len(rows))
    history, epochs = extended_history(labels.labels, previous, context, settings.history)
    return dataclasses.replace(labels, pca=pca, history=history, history_epoch=epochs, info=found.info)


def _find(x: Rows, rows: NDArray[np.int64], settings: ClusterSettings, context: Context, previous: Labels | None,
          threads: int) -> _Found:
    """Clusters of the projected rows, by the method of the settings."""
    key = Key(context.seed, context.round, context.stage, context.epoch)
    if settings.method == "pic":
        return _by_pic(x, settings, threads)
    k = settings.k or default_k(len(rows))
    if k == len(x):
        return _each_alone(x, settings)
    init, drawn = None, 0
    iterations = settings.iterations
    if settings.warm_start and previous is not None:
        raw = _raw(previous)
        if previous.k == k and raw.max(initial=-1) < k:
            init, drawn = initial_means(x, raw[rows], k, key)
        else:
            iterations = max(iterations, ClusterSettings().iterations)
            log.warning("warm start: the previous labels have %d clusters, not %d: started cold, %d iterations", previous.k, k, iterations)
    if settings.method == "minibatch":
        found = minibatch(x, k, batch=settings.batch, passes=settings.passes, reassign=settings.reassign, redo=settings.redo,
                          spherical=settings.spherical, empty=settings.empty, key=key, init=init, threads=threads)
    else:
        found = kmeans(x, k, iterations=iterations, redo=settings.redo, seed=key.small("kmeans"),
                       spherical=settings.spherical, max_points=settings.max_points, empty=settings.empty,
                       init=init, key=key, threads=threads)
    return _Found(found.labels, k, found.centroid, _info(settings, found, k, len(rows), init is not None, drawn))


def _each_alone(x: Rows, settings: ClusterSettings) -> _Found:
    """As many clusters as rows: row i is cluster i, and nothing is searched."""
    k = len(x)
    centroid = np.concatenate([np.asarray(x[part], np.float32) for part in chunks(k, pca_module.ROWS)])
    info: dict[str, object] = {"method": settings.method, "k": k, "images": k, "objective": 0.0, "iterations": 0, "empty": 0, "l2": settings.l2,
                               "whiten": bool(settings.pca and settings.whiten)}
    return _Found(np.arange(k, dtype=np.int32), k, centroid, info)


def _by_pic(x: Rows, settings: ClusterSettings, threads: int) -> _Found:
    found = pic(x, neighbors=settings.neighbors, sigma=settings.sigma, alpha=settings.alpha, iterations=settings.walk,
                distribute=settings.distribute, threads=threads)
    info: dict[str, object] = {
        "method": "pic", "k": found.k, "images": len(x), "neighbors": settings.neighbors, "sigma": settings.sigma,
        "alpha": settings.alpha, "walk": settings.walk, "joined": found.joined, "alone": found.alone, "empty": 0,
        "l2": settings.l2, "whiten": bool(settings.pca and settings.whiten)}
    return _Found(found.labels, found.k, None, info)


def assign(features: Features, reference: Labels, context: Context, *, threads: int, memory: int = UNLIMITED) -> Labels:
    """New images into clusters that exist: the reference's PCA and normalisation, then the nearest centroid.

    Args:
        features: (N, D) float32 of any images, of the layer and model the reference was made from; as in `cluster`.
        reference: labels with centroids, as `cluster` makes them.
        context: where in a plan this happens.
        threads: threads of BLAS and faiss.
        memory: bytes to keep to; rows beyond go to a temporary file.

    Returns:
        Labels of the new images: centroids, means and PCA are the reference's; distances are to its means;
        sizes and anchors are of the new images; no history.

    Raises:
        DataError: a reference without centroids, features of other dimensions, a usable row that is not
            finite.
        UsageError: not even one chunk of rows fits into memory.
    """
    if reference.centroid is None:
        raise DataError("labels to assign to: no /clusters/centroid, expected the centroids of k-means",
                        "give labels made by ucl cluster")
    context = dataclasses.replace(context, stage=context.stage or "cluster")
    n, d = features.features.shape
    out = d if reference.pca is None else reference.pca.components.shape[1]
    if out != reference.centroid.shape[1]:
        raise DataError(f"/features: {out} dimensions, expected {reference.centroid.shape[1]} as in "
                        "/clusters/centroid", "use features of the same layer of the same model")
    wanted = need_of_assigning(n, d, out, len(reference.centroid))
    room = memory - wanted.least - _held(features)
    rows = pca_module.usable_rows(features)
    x, _ = _transformed(picked(features.features, rows), reference.pca, bool(reference.info.get("l2")), threads, room)
    with faiss_threads(threads):
        found = nearest(x, reference.centroid)
    mean = reference.centroid if reference.mean is None else reference.mean
    info = {"method": "assign", "k": len(reference.centroid), "images": len(rows),
            "l2": bool(reference.info.get("l2")),
            "objective": float(squared_distances(x, reference.centroid, found).sum()),
            "empty": len(reference.centroid) - len(np.unique(found)), "reference": reference.digest}
    labels = _complete(features, rows, x, found, reference.centroid, mean, context)
    return dataclasses.replace(labels, pca=reference.pca, info=info)


def _held(features: Features) -> int:
    """Bytes of memory that the features take."""
    return features.features.nbytes if isinstance(features.features, np.ndarray) else 0


def _room(features: Features, settings: ClusterSettings, memory: int) -> int:
    """Bytes left for the projected rows.

    Raises:
        UsageError: not even what is needed without them is there.
    """
    n, d = features.features.shape
    wanted = need(n, d, settings)
    wanted.check(memory, f"clustering {n} x {d} features")
    return memory - wanted.least - _held(features)


def _project(features: Features, rows: NDArray[np.int64], settings: ClusterSettings, threads: int,
             room: int) -> tuple[Rows, Pca | None]:
    """Usable rows in the space that is clustered (n, D) float32, and the PCA that led there."""
    x = picked(features.features, rows)
    pca = None
    if settings.pca:
        pca = pca_module.fit(x, settings.pca, whiten=settings.whiten, rank_deficient=settings.rank_deficient,
                             threads=threads)
    z, zero = _transformed(x, pca, settings.l2, threads, room)
    if zero.any():
        row = int(rows[np.argmax(zero)])
        path = "" if features.samples is None else f" ({features.samples.path[row].decode(errors='replace')})"
        log.warning("%d rows of the features are zero vectors, the first is row %d%s", int(zero.sum()), row,
                    path)
    return z, pca


def _transformed(x: Rows, pca: Pca | None, l2: bool, threads: int, room: int) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows under a PCA and a normalisation, and which of them are zero before or after the PCA.

    They lie in memory if they fit into ``room``, else in a temporary file; where nothing is to be done and they do
    not fit, they stay where they are.
    """
    n, d = len(x), x.shape[1] if pca is None else pca.components.shape[1]
    project = pca_module.projector(pca, x.shape[1]) if pca is not None else None
    zero = np.zeros(n, bool)
    stays = project is None and not l2 and (isinstance(x, np.ndarray) or 4 * n * d > room)
    out = None if stays else place(n, d, room, "the projected features")
    with pca_module.blas_threads(threads):
        for part in chunks(n, pca_module.ROWS):
            chunk = x[part]
            zero[part] = ~chunk.any(axis=1)
            if project is not None:
                chunk = project(chunk)
                zero[part] |= ~chunk.any(axis=1)
            if out is not None:
                out[part] = pca_module.unit_rows(chunk) if l2 else chunk
    return (x if out is None else out), zero


def _same_images(features: Features, previous: Labels) -> None:
    """Raise DataError unless both speak of the same images in the same order."""
    n, m = len(features.features), len(previous.labels)
    a, b = features.samples, previous.samples
    if n != m or (a is not None and b is not None and a.digest != b.digest):
        raise DataError(f"previous labels: {m} images, digest {b.digest if b else 'unknown'}; features: {n} "
                        f"images, digest {a.digest if a else 'unknown'}; expected the same images",
                        "cluster the features of the images that the labels are of")
    h, e = previous.history, previous.history_epoch
    if h is not None and (h.ndim != 2 or h.shape[1] != n or e is None or len(e) != len(h)):
        raise DataError(f"previous labels: /history/labels: shape {h.shape}, /history/epoch: "
                        f"{'missing' if e is None else e.shape}, expected (H, {n}) and (H,)",
                        "make the labels again, or leave /history out")


def _raw(previous: Labels) -> NDArray[np.int32]:
    """Labels (N,) of the last epoch, before purification if the history remembers them."""
    raw = previous.labels
    if previous.history is not None and len(previous.history):
        raw = previous.history[-1]
    return raw.astype(np.int32)


def _spread(n: int, rows: NDArray[np.int64], values: NDArray[S], fill: float) -> NDArray[S]:
    """(n,) of ``fill``, with ``values`` in ``rows``."""
    out = np.full(n, fill, values.dtype)
    out[rows] = values
    return out


def _complete(features: Features, rows: NDArray[np.int64], x: Rows, found: NDArray[np.int32],
              centroid: NDArray[np.float32], mean: NDArray[np.float32], context: Context) -> Labels:
    """Labels of all N images from those of the usable ones."""
    n, k = len(features.features), len(centroid)
    distance = np.sqrt(squared_distances(x, mean, found)).astype(np.float32)
    size = np.bincount(found, minlength=k).astype(np.int64)
    order = np.lexsort((distance, found))               # stable: ties by row
    first = np.concatenate(([0], np.cumsum(size)[:-1]))
    anchor = np.full(k, -1, np.int64)
    anchor[size > 0] = rows[order[first[size > 0]]]
    return Labels(
        labels=_spread(n, rows, found, -1),
        flag=_spread(n, rows, np.full(len(rows), KEPT, np.uint8), BAD_IMAGE),
        distance=_spread(n, rows, distance, np.nan),
        score=np.full(n, np.nan, np.float32),
        weight=_spread(n, rows, np.ones(len(rows), np.float32), 0.0),
        centroid=centroid, mean=mean, size=size, anchor=anchor, samples=features.samples, context=context,
        provenance=list(features.provenance))


def _info(settings: ClusterSettings, found: KMeansResult, k: int, images: int, warm: bool,
          drawn: int) -> dict[str, object]:
    """What the labels remember of how they were made."""
    if settings.method == "minibatch":
        return {"method": "minibatch", "k": k, "images": images, "objective": found.objective, "objectives": list(found.objectives),
                "batch": settings.batch, "batches": found.iterations_run, "passes": settings.passes, "reassign": settings.reassign,
                "reassigned": found.splits, "redo": settings.redo, "empty_policy": settings.empty, "empty": found.empty,
                "relocated": found.relocated, "warm_start": warm, "warm_start_drawn": drawn, "l2": settings.l2,
                "whiten": bool(settings.pca and settings.whiten), "spherical": settings.spherical}
    return {"method": "kmeans", "k": k, "images": images, "objective": found.objective,
            "faiss_objective": found.faiss_objective if found.objectives else None,
            "objectives": list(found.objectives), "iterations": found.iterations_run, "redo": settings.redo,
            "empty_policy": settings.empty, "empty": found.empty, "relocated": found.relocated,
            "split": found.splits, "warm_start": warm, "warm_start_drawn": drawn, "l2": settings.l2,
            "whiten": bool(settings.pca and settings.whiten), "spherical": settings.spherical,
            "max_points": settings.max_points}


def _warn_of_collapse(size: NDArray[np.int64], n: int) -> None:
    """Warn where under a tenth of the clusters have members, or one of ten or more has half of all images."""
    k, used = len(size), int((size > 0).sum())
    if collapsed(size):
        log.warning("collapse: %d of %d clusters have members, the largest %d of %d images", used, k,
                    int(size.max()), n)
