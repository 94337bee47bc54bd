"""What a training step computes: losses and the memory they keep.  Torch is imported by the functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn, optim

    from ucl.artifacts import Checkpoint, ImageList, Labels, Neighbors
    from ucl.device import Runtime
    from ucl.keys import Key
    from ucl.settings import TrainSettings


@dataclass(frozen=True)
class Look:
    """Views that a forward pass is given.

    Attributes:
        rows: (B,) images.  places: (B,) draw positions, which with the view name the draws.
        view: which view of each; `FIXED` = the one that nothing is drawn of.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    view: int = 0


FIXED = -1

Pass = tuple[Look, ...]
"""A forward pass through the network: whose views are joined.  One of fixed views alone makes targets: no gradient is taken of it."""


@dataclass(frozen=True)
class Made:
    """Labels that an epoch made.

    Attributes:
        labels: (N,) int32, -1 for none.  k: number of clusters.
        probs: (N, k) float32, NaN in rows of bad images; their largest is the label's score.  None from what knows no probabilities.
    """

    labels: NDArray[np.int32]
    k: int
    probs: NDArray[np.float32] | None = None


def of_views(rows: NDArray[np.int64], places: NDArray[np.int64], *passes: tuple[int, ...]) -> list[Pass]:
    """Passes over all images of a batch: of each the numbers of its views."""
    looks = {view: Look(rows, places, view) for joined in passes for view in joined}
    return [tuple(looks[view] for view in joined) for joined in passes]


class Objective(Protocol):
    """What an epoch of training minimises, and all it keeps beside the network.

    Attributes:
        columns: names of the parts of the loss, beside the loss itself.
        trained: part of the checkpoint -> module, trained by the network's own optimizer.
        trains_network: whether the network itself is; else it is in evaluation mode, and no gradient is taken of it.
        reviews: whether its end takes a pass over all images.
        optimizers: of modules of its own.
        keeps: names in the checkpoint's memory that are this objective's; what it does not hand on of them is dropped.
    """

    columns: tuple[str, ...]
    trained: dict[str, nn.Module]
    trains_network: bool
    reviews: bool
    optimizers: list[optim.SGD]
    keeps: frozenset[str]

    def draw(self) -> NDArray[np.int64]:
        """Rows to train on, one for each draw position."""

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        """What the network is shown of a batch; none where there is nothing to learn from it."""

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor] | None:
        """The loss of a batch, and its parts; scalars.  None where no step is to be taken.

        Args:
            features: of each pass, (views, D) float32.
            rows: (B,) images.
            start: draw position of the first of them.
        """

    def after_step(self) -> None:
        """What moves once the gradient is taken."""

    def settle(self) -> None:
        """Bring everything up to date, before it is looked at."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Modules of its own and `trained`, for the checkpoint's model."""

    def momentum(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        """Buffers of `optimizers`, as far as the next epoch, or with ``midway`` the rest of this one, goes on with them."""

    def finish(self, network: nn.Module) -> dict[str, Any]:
        """Once, after the last step: metrics of the epoch.  What it does to the network is in the checkpoint."""

    def handed_on(self) -> Made | None:
        """Labels that the epoch itself made; None from one that makes none."""

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        """Arrays that the next epoch, or with ``midway`` the rest of this one, needs, for the checkpoint's memory."""

    def config(self) -> dict[str, Any]:
        """What the checkpoint's config says of it."""


MEMORY = "memory"
"""Entry of a checkpoint's config: of which image list its memory is ("images"), and what else belongs to it."""


def of_these_images(model: Checkpoint, images: ImageList, name: str) -> None:
    """Refuse an array of the memory that is of another image list.

    Raises:
        DataError: it is, as the checkpoint's config tells.
    """
    from ucl.errors import DataError

    mine = images.samples.digest
    whose = model.config.get(MEMORY, {}).get("images", mine)
    if whose != mine:
        raise DataError(f"checkpoint: /memory/{name}: of another image list: found {whose}, expected {mine}",
                        "go on from a checkpoint of these images, or ucl export and ucl import the weights alone")


def objective(model: Checkpoint, dim: int, images: ImageList, labels: Labels | None, neighbors: Neighbors | None, settings: TrainSettings,
              key: Key, runtime: Runtime, *, midway: bool) -> Objective:
    """The objective of an epoch.

    Args:
        model: the checkpoint of the last epoch, or of this one with ``midway``.
        dim: of the network's features.
        images: the list.
        labels: pseudo-labels with the list's samples; None = none, which classification refuses, and ODC without clusters of its own.
        neighbors: nearest images of each, with the list's samples; None = none, which scan refuses.
        settings: which objective, and its numbers.
        key: of the epoch.
        runtime: device.

    Raises:
        DataError: a memory of other images, or no labels to classify by.
        UsageError: as many neighbours of an anchor as images, no number of classes, or more least members than can be.
    """
    if settings.objective == "instance":
        from ucl.objectives.instance import Instance

        return Instance(model, dim, images, labels, settings, key, runtime, midway=midway)
    if settings.objective == "contrast":
        from ucl.objectives.contrastive import Contrastive

        return Contrastive(model, dim, images, labels, settings, key, runtime, midway=midway)
    if settings.objective == "online":
        from ucl.objectives.online_epoch import OnlineEpoch

        return OnlineEpoch(model, dim, images, labels, settings, key, runtime, midway=midway)
    if settings.objective == "relabel":
        from ucl.objectives.self_labelled import SelfLabelled

        return SelfLabelled(model, dim, images, labels, settings, key, runtime, midway=midway)
    if settings.objective == "scan":
        from ucl.objectives.scan_epoch import Scan

        return Scan(model, dim, images, neighbors, settings, key, runtime, midway=midway)
    if settings.objective == "selflabel":
        from ucl.objectives.selflabel_epoch import SelfLabel

        return SelfLabel(model, dim, images, neighbors, settings, key, runtime, midway=midway)
    from ucl.errors import DataError
    from ucl.objectives.classify import Classify

    if labels is None:
        raise DataError("labels: found none, and classification needs them", "ucl cluster makes labels; or --objective instance")
    return Classify(model, dim, images, labels, settings, key, runtime, midway=midway)
