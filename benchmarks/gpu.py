"""The rows that need a CUDA device; without one they say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks import images, pipes
from benchmarks.data import Scale
from benchmarks.kmeans import ITERATIONS, Matrix, blobs, faiss_kmeans, objective, ours, unequal
from benchmarks.table import Row, race

DEVICE = "cuda:0"
REPEATS = 3
MOVED = 0.02
"""Another start, and sums in another order on another device: objectives agree to this share."""


def missing() -> str:
    """Why the rows cannot be run, or nothing."""
    import torch

    return "" if torch.cuda.is_available() else "no GPU"


def _shape(scale: Scale) -> tuple[int, int, int]:
    return scale.of(1_280_000, 20_000), 256, scale.of(10_000, 200)


def against_faiss(scale: Scale) -> Row:
    """`cluster`'s k-means as it is, against faiss.Kmeans on the GPU."""
    row = Row("gpu-kmeans-faiss", "kmeans, 20 iterations", "faiss.Kmeans(gpu=True)", goal=1.0)
    if missing():
        return replace(row, absent=missing())
    import faiss

    if not faiss.get_num_gpus():
        return replace(row, absent="this faiss sees no GPU")
    n, d, k = _shape(scale)
    x = blobs(n, d, k)
    mine = ours(x, k, scale.threads)
    centroid, labels = faiss_kmeans(x, k, gpu=True)

    def left() -> None:
        ours(x, k, scale.threads)

    def right() -> None:
        faiss_kmeans(x, k, gpu=True)

    return replace(row, pairs=race(left, right, min(REPEATS, scale.repeat), warm=False),
                   faults=unequal(mine.objective, objective(x, centroid, labels)), note=f"{n} x {d}, K = {k}")


def flash(scale: Scale) -> Row:
    """flash-kmeans in float32 from drawn rows, against faiss.Kmeans on the GPU: which of them a GPU should have."""
    row = Row("gpu-kmeans-flash", "flash-kmeans, 20 iterations", "faiss.Kmeans(gpu=True)")
    if missing():
        return replace(row, absent=missing())
    try:
        from flash_kmeans import batch_kmeans_Euclid  # type: ignore[import-not-found]
    except ImportError:
        return replace(row, absent="flash-kmeans is not installed")
    import faiss
    import torch

    if not faiss.get_num_gpus():
        return replace(row, absent="this faiss sees no GPU")
    n, d, k = _shape(scale)
    x = blobs(n, d, k)
    start = x[np.random.default_rng(0).permutation(n)[:k]]

    def left() -> tuple[Matrix, Matrix]:
        rows, first = torch.from_numpy(x).to(DEVICE)[None], torch.from_numpy(start).to(DEVICE)[None]
        labels, centroid, _ = batch_kmeans_Euclid(rows, k, max_iters=ITERATIONS, tol=-1.0, init_centroids=first)
        return centroid[0].float().cpu().numpy(), labels[0].cpu().numpy()

    def timed_left() -> None:
        left()

    def right() -> None:
        faiss_kmeans(x, k, gpu=True)

    pairs = race(timed_left, right, min(REPEATS, scale.repeat))
    mine, theirs = (objective(x, *made) for made in (left(), faiss_kmeans(x, k, gpu=True)))
    faults = () if abs(mine / theirs - 1) <= MOVED else (f"objectives differ: {mine:.6g}, {theirs:.6g}",)
    return replace(row, pairs=pairs, faults=faults, note=f"{n} x {d}, K = {k}, copy to the device included; objectives {mine:.6g}, {theirs:.6g}")


def extract(scale: Scale) -> list[Row]:
    """Images per second; the pixels go to the device once."""
    found = []
    for backbone in ("convnet", "resnet18"):
        name = f"gpu-extract-{backbone}"
        found.append(Row(name, "extract", "bare loop, tensors on the GPU", goal=1.15, absent=missing()) if missing() else
                     images.extract_against_bare(scale, name, scale.of(50_000, 320), backbone, DEVICE))
    return found


def train(scale: Scale) -> list[Row]:
    """Images per second; views are made on the device."""
    found = []
    for backbone in ("convnet", "resnet18"):
        name = f"gpu-train-{backbone}"
        found.append(Row(name, "train-epoch, with its views", "bare loop, no views", goal=1.25, absent=missing()) if missing() else
                     images.train_against_bare(scale, name, scale.of(50_000, 320), 256, backbone, DEVICE))
    return found


def run(scale: Scale) -> Row | list[Row]:
    """`run` against the shell loop with the network on the GPU; both end in equal models."""
    if missing():
        return Row("gpu-run-shell", "ucl run", "the shell loop", kind="gain", absent=missing())
    return pipes.against_shell(scale, "gpu-run-shell", DEVICE)


ROWS: dict[str, Callable[[Scale], Row | list[Row]]] = {
    "gpu-kmeans-faiss": against_faiss, "gpu-kmeans-flash": flash, "gpu-extract": extract, "gpu-train": train, "gpu-run-shell": run}
