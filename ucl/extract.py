"""`extract`: features of all images, in evaluation mode, in the order of the image list."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl import dist, stop
from ucl.artifacts import NOT_FINITE, OK, REMEMBERED, Checkpoint, Features, ImageList, Samples
from ucl.batches import Batches
from ucl.context import Context
from ucl.device import Runtime
from ucl.errors import DataError, Stopped, UsageError
from ucl.keys import Key
from ucl.settings import ExtractSettings, ViewSettings

if TYPE_CHECKING:
    from ucl.networks.taps import Tap

log = logging.getLogger(__name__)
Report = Callable[[str, int, int], None]
Keep = Callable[[NDArray[np.float32], int, bool], None]


@dataclass
class FeatureStream:
    """Features that are made while they are read.

    Attributes:
        n, d: number of rows and of dimensions, known before the first row.
        blocks: yields (rows, d) float32 in the order of the list; NaN where an image is not OK.
        head: the same artifact without rows: samples, model, context.
        status: (N,) uint8; complete once ``blocks`` is exhausted.
        batch: rows of a block.
        first: the first row that is computed; those before it were kept (`go_on`).
    """

    n: int
    d: int
    blocks: Iterator[NDArray[np.float32]]
    head: Features
    status: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    batch: int = 1
    first: int = 0

    def collect(self, keep: Keep | None = None) -> Features:
        """All rows in memory.

        Args:
            keep: called after each block with the matrix, how many of its rows are done, and False; with True before a signal
                ends the extraction.

        Raises:
            Stopped: a signal came.
        """
        whole = np.empty((self.n, self.d), np.float32)
        at = 0
        try:
            for block in self.blocks:
                whole[at:at + len(block)] = block
                at += len(block)
                if keep is not None:
                    keep(whole, at, False)
        except Stopped:
            if keep is not None and at:
                keep(whole, at, True)
            raise
        self.head.features = whole
        return self.finish()

    def aligned(self, rows: int) -> int:
        """The most rows, up to so many, after which a block begins: another grouping into batches may change last bits."""
        return rows if rows == self.n else rows - rows % self.batch

    def go_on(self, status: NDArray[np.uint8], blocks: Iterator[NDArray[np.float32]]) -> None:
        """Begin with rows that were computed before.

        Args:
            status: (rows,) uint8 of these rows; `aligned`.
            blocks: the rows.
        """
        self.first = len(status)
        self.status[:self.first] = status
        self.blocks = itertools.chain(blocks, self.blocks)

    def layout(self) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], Any]]]:
        """Root attributes, and path -> (shape, dtype), of the file that the stream is going to be."""
        head = self.head
        assert head.samples is not None
        path = head.samples.path
        attrs = head.root_attrs() | {"title": f"{self.d}-d features of {self.n} images ({head.model})"}
        return attrs, {"/features": ((self.n, self.d), np.dtype("<f4")), "/samples/path": (path.shape, path.dtype),
                       "/samples/status": ((self.n,), np.dtype("u1"))}

    def finish(self) -> Features:
        """The artifact, its samples with the final status."""
        assert self.head.samples is not None
        self.head.samples = Samples(self.head.samples.path, self.status)
        return self.head


def extract(images: ImageList, model: Checkpoint, settings: ExtractSettings, context: Context, runtime: Runtime,
            report: Report) -> FeatureStream:
    """Features of every image of a list.

    DeepCluster section 3.2 and its released code: evaluation mode (running statistics, no dropout), the fixed view, list
    order, and the network without its final ReLU.  With ``views = "train"`` a random view of each, drawn anew in every epoch (PCP,
    released code).

    Args:
        images: N images; those whose status is not OK are never loaded.
        model: the backbone's weights; its config names the backbone, the view size and the normalisation.
        settings: batch size; layer, map and final ReLU.
        context: where in the plan.
        runtime: device, threads, precision, compilation.
        report: called with ("extract", done, total).

    Returns:
        A stream of (rows, D) float32; a row that comes out non-finite is flagged NOT_FINITE.

    Raises:
        UsageError: the network has no such layer, or the layer no such map.
        DataError: the checkpoint is not of a known backbone, an image changed since init, or no image is usable.
    """
    from ucl import models

    if not images.samples.ok.any():
        raise DataError("images: found no readable image", "ucl view --bad names them")
    remembered = _remembered(images, model, settings)
    tap = models.tap(models.restore(model), model, settings)
    d = tap.dim
    transform = {k: model.config.get(k) for k in ("size", "mean", "std")} | ({"sobel": True} if model.config.get("sobel") else {}) | (
        {"views": {f.name: getattr(settings, f.name) for f in dataclasses.fields(ViewSettings)}} if settings.views == "train" else {})
    head = Features(np.empty((0, d), np.float32), images.samples, str(model.config["backbone"]), model.weights_digest(),
                    tap.text if remembered is None else f"{tap.text}, in training", json.dumps(transform), context=context)
    status = images.samples.status.copy()
    stream = FeatureStream(len(images.samples), d, iter(()), head, status, settings.batch)
    key = Key(context.seed, context.round, context.stage or "extract", context.epoch)
    stream.blocks = _blocks(images, model, tap, settings, key, runtime, report, stream, remembered)
    return stream


def _remembered(images: ImageList, model: Checkpoint, settings: ExtractSettings) -> NDArray[np.float32] | None:
    """(N, D) features of the last training pass over each image, NaN where there was none; None where the network is to be asked.

    Raises:
        UsageError: settings that speak of another layer than the one that training remembers.
        DataError: they are of another image list.
    """
    if settings.source != "training":
        return None
    if settings.layer or not settings.final_relu:
        raise UsageError("--source training gives what the classifier was given: the last layer after its final ReLU",
                         "--final-relu, and no --layer")
    found = model.memory.get(REMEMBERED)
    if found is not None and len(found) != len(images.samples):
        raise DataError(f"checkpoint: /memory/{REMEMBERED}: {len(found)} rows, expected {len(images.samples)} as in the image list",
                        "--source network")
    return found


def _blocks(images: ImageList, model: Checkpoint, tap: Tap, settings: ExtractSettings, key: Key, runtime: Runtime,
            report: Report, stream: FeatureStream, remembered: NDArray[np.float32] | None) -> Iterator[NDArray[np.float32]]:
    import torch

    status, d = stream.status, stream.d
    config = model.config
    batches = Batches(images, runtime, int(config["size"]), tuple(config["mean"]), tuple(config["std"]))
    tap.network.to(batches.device).eval()
    features = runtime.compiled(tap.__call__)
    mine = dist.shard(len(status))
    for start in range(max(mine.start, stream.first), mine.stop, settings.batch):
        stop.check()
        rows = np.arange(start, min(start + settings.batch, mine.stop))
        good = rows[status[rows] == OK]
        block = np.full((len(rows), d), np.nan, np.float32)
        if remembered is not None:
            known = np.isfinite(remembered[good]).all(1)
            block[good[known] - start] = remembered[good[known]]
            good = good[~known]
        if len(good):
            views = batches.evaluate(good) if settings.views == "fixed" else batches.train(good, good, key, settings)
            with torch.inference_mode(), runtime.autocast():
                out = features(views)
            block[good - start] = out.float().cpu().numpy()
            bad = good[~np.isfinite(block[good - start]).all(1)]
            if len(bad):
                log.warning("features of %d images are not finite, the first: row %d", len(bad), bad[0])
                status[bad] = NOT_FINITE
                block[bad - start] = np.nan
        report("extract", int(rows[-1]) + 1, len(status))
        yield dist.gather(block)
