"""Images labelled by a classifier: each gets the class of its largest logit, from features of the fixed view.

UIC's labels where training does not make them: at its start from a model, before its last stage, and in the ablation without
augmented labels.  Torch-free, and rows are worked on a few at a time, as they come: nothing of N x D or N x K is held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import OK, Checkpoint, Features, Labels
from ucl.context import Context
from ucl.errors import DataError
from ucl.labelled import as_labels
from ucl.matrix import chunks
from ucl.pca import blas_threads
from ucl.settings import ClusterSettings

_FLOATS = 1 << 24
"""Numbers in the widest array of a chunk, 64 MB; a constant, since the number of rows in a product decides its last bits."""

_MOST_ROWS = 4096
_EPS = 1e-5
"""Of torch's batch normalisation."""


@dataclass(frozen=True)
class Head:
    """A classifier in evaluation mode: hidden layers, if there are any, and a linear one on top.

    Attributes:
        weight: (K, W) float32; bias: (K,) float32.
        hidden: for each layer a weight (W, D or W) and, of its batch normalisation, scale and shift (W,); a ReLU follows.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    hidden: tuple[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], ...] = ()

    @classmethod
    def of(cls, model: Checkpoint) -> Head:
        """The head of a checkpoint: ``head.weight``, ``head.bias`` and, as `ucl.networks.mlp` names them, ``mlp.*``.

        Raises:
            DataError: it has none, or one that does not fit together.
        """
        weight, bias = model.model.get("head.weight"), model.model.get("head.bias")
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise DataError(f"checkpoint: no classifier: head.weight {getattr(weight, 'shape', 'missing')}, head.bias "
                            f"{getattr(bias, 'shape', 'missing')}", "use a model that was trained on labels")
        hidden = []
        numbers = sorted(int(name.split(".")[1]) for name, value in model.model.items()
                         if name.startswith("mlp.") and name.endswith(".weight") and value.ndim == 2)
        for i in numbers:
            norm = {part: model.model.get(f"mlp.{i + 1}.{part}") for part in ("weight", "bias", "running_mean", "running_var")}
            missing = [f"mlp.{i + 1}.{part}" for part, value in norm.items() if value is None]
            if missing:
                raise DataError(f"checkpoint: {missing[0]}: missing", "use a checkpoint made by ucl")
            values = {part: np.asarray(value, np.float64) for part, value in norm.items()}
            scale = values["weight"] / np.sqrt(values["running_var"] + _EPS)
            shift = values["bias"] - values["running_mean"] * scale
            hidden.append((np.asarray(model.model[f"mlp.{i}.weight"], np.float32), scale.astype(np.float32), shift.astype(np.float32)))
        made = cls(np.asarray(weight, np.float32), np.asarray(bias, np.float32), tuple(hidden))
        widths = [w.shape for w, _, _ in hidden] + [weight.shape]
        if any(below[0] != above[1] for below, above in itertools.pairwise(widths)):
            raise DataError(f"checkpoint: layers of shapes {widths} do not fit on each other", "use a checkpoint made by ucl")
        return made

    @property
    def k(self) -> int:
        """Number of classes."""
        return len(self.weight)

    @property
    def dim(self) -> int:
        """Dimension of the features."""
        return int((self.hidden[0][0] if self.hidden else self.weight).shape[1])

    @property
    def rows(self) -> int:
        """Rows worked on at a time."""
        return max(1, min(_MOST_ROWS, _FLOATS // max(self.k, self.dim, *(len(w) for w, _, _ in self.hidden), 1)))

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, D) float32 features as (n, K) float32."""
        x = features
        for weight, scale, shift in self.hidden:
            x = x @ weight.T
            x *= scale
            x += shift
            np.maximum(x, 0, out=x)
        out: NDArray[np.float32] = x @ self.weight.T
        out += self.bias
        return out


def argmax(blocks: Iterable[NDArray[np.float32]], head: Head, status: NDArray[np.uint8], *, threads: int = 0,
           probs: NDArray[np.float32] | None = None) -> NDArray[np.int32]:
    """The class of every row, ties by lower id.

    Args:
        blocks: (rows, D) in order, of any numbers of rows, N in all; what `ucl.extract.extract` yields, or parts of a file.
        head: the classifier.
        status: (N,) uint8, looked at only after the row's block has come, as an extraction changes it on the way.
        threads: of BLAS; bits are equal for equal threads, however the blocks are cut.
        probs: (N, K) float32, where the softmax of the logits is put; NaN where the status is not OK.

    Returns:
        (N,) int32; -1 where the status is not OK.

    Raises:
        DataError: other dimensions, fewer or more rows, or a row whose status is OK with a number that is not finite, in its features
            or in its logits.
    """
    labels, at = np.full(len(status), -1, np.int32), 0
    with blas_threads(threads):
        for block in _even(blocks, head.rows):
            if block.ndim != 2 or block.shape[1] != head.dim:
                raise DataError(f"/features: {block.shape[-1]} dimensions, the classifier takes {head.dim}",
                                "ucl extract --final-relu of the same model, and no --layer")
            part = slice(at, at + len(block))
            ok = status[part] == OK
            if len(ok) < len(block):
                raise DataError(f"/features: more than the {len(status)} rows expected", "use the features of these images")
            _finite(block, ok, at, "/features")
            logits = head.logits(np.where(ok[:, None], block, np.float32(0)))
            _finite(logits, ok, at, "logits")
            labels[part] = np.where(ok, logits.argmax(axis=1), -1)
            if probs is not None:
                probs[part] = np.where(ok[:, None], softmax(logits), np.float32(np.nan))
            at += len(block)
    if at != len(status):
        raise DataError(f"/features: {at} rows, expected {len(status)}", "use the features of these images")
    return labels


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of (n, K) float32 logits, in their own precision and memory; the largest logit's is the largest, or one of equals."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _finite(values: NDArray[np.float32], ok: NDArray[np.bool_], at: int, what: str) -> None:
    bad = ok & ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise DataError(f"{what}: row {at + int(np.argmax(bad))}: not finite, expected finite numbers",
                        "training has diverged: go back an epoch, or lower the learning rate")


def _even(blocks: Iterable[NDArray[np.float32]], rows: int) -> Iterator[NDArray[np.float32]]:
    """The same rows, so many at a time."""
    held: list[NDArray[np.float32]] = []
    for block in blocks:
        start = 0
        while start < len(block):
            part = block[start:start + rows - sum(len(b) for b in held)]
            held.append(part)
            start += len(part)
            if sum(len(b) for b in held) == rows:
                yield np.concatenate(held)
                held = []
    if held:
        yield np.concatenate(held)


def label_by_head(features: Features, model: Checkpoint, context: Context, *, previous: Labels | None = None,
                  history: int = ClusterSettings.history, threads: int = 0, probs: bool = ClusterSettings.probs) -> Labels:
    """Labels of images by a model's classifier, from their features; ``ucl cluster --method argmax``.

    Args:
        features: (N, D) of the layer that the classifier stands on: the last one, with its ReLU, or ODC's neck; an array, or
            `matrix.Rows` elsewhere.
        model: with a classifier.
        previous, history: see `labelled.as_labels`.
        context: where in a plan this happens.
        threads: of BLAS.
        probs: also keep the probabilities, and the largest of each image as its score.

    Returns:
        Labels with flags, weights, sizes and history; no distances, means or anchors.

    Raises:
        DataError: features of another model, no classifier, and what `argmax` raises.
    """
    mine = model.weights_digest()
    if features.weights and features.weights != mine:
        raise DataError(f"/features: of a model {features.weights[:12]}, the classifier is of {mine[:12]}", "extract with the model that labels")
    on = str(model.config.get("head_on", "last"))
    if features.layer not in ("", on):
        raise DataError(f"/features: of the layer {features.layer!r}, the classifier takes " + (
                            "the last one after its ReLU" if on == "last" else f"the {on}"),
                        "ucl extract --final-relu, and no --layer" if on == "last" else f"ucl extract --layer {on}")
    head, x = Head.of(model), features.features
    status = np.full(len(x), OK, np.uint8) if features.samples is None else features.samples.status
    kept = np.empty((len(x), head.k), np.float32) if probs else None
    found = argmax((x[part] for part in chunks(len(x), head.rows)), head, status, threads=threads, probs=kept)
    made = as_labels(found, head.k, features.samples, context, {"method": "argmax", "l2": False, "whiten": False},
                     previous, history, score=None if kept is None else kept.max(axis=1), probs=kept)
    made.provenance = list(features.provenance)
    return made
