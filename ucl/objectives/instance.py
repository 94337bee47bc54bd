"""Telling images apart: each image, each purified cluster, or each image and its neighbours, by a memory of past embeddings; and two
views of each image by the batch.

One objective for four methods, by `ucl.settings.TrainSettings`: IR (no labels), PCP (labels; ``spread`` in its first round), AND
(``anchors``), IS (``spread = 1``, no memory).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.device import Runtime
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.objectives import MEMORY, Pass, mixed, of_these_images, of_views
from ucl.objectives.bank import Bank
from ucl.objectives.neighbourhood import Neighbourhoods, discover
from ucl.objectives.online import KEPT, LABELS
from ucl.objectives.spreading import spreading_loss
from ucl.samplers import draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim

BANK, NEIGHBOR = "bank", "neighbor"


class Instance:
    """The loss (1 - spread) * `mixed.exact` + spread * `spreading_loss`; the memory moves after each step.

    See `objectives.Objective`.  Every usable image is drawn once, whatever its label; a bad image is never in the memory.
    """

    optimizers: list[optim.SGD]
    trains_network = True
    reviews = False

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, labels: Labels | None, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        from ucl import models

        self.settings, self.key, self.optimizers = settings, key, []
        self.ok, self.images = images.samples.ok, images.samples.digest
        self.keeps = frozenset({BANK, NEIGHBOR}) | KEPT if settings.spread < 1 else frozenset()
        self.projection = models.projection(model, dim)
        if self.projection is not None:
            self.projection.to(runtime.device)
        self.trained: dict[str, nn.Module] = {} if self.projection is None else {"projection": self.projection}
        out = dim if self.projection is None else int(model.config["projection"])
        w = settings.spread
        self.views: tuple[tuple[int, ...], ...] = ((0,),) if w == 0 else ((0, 1),) if w == 1 else ((0,), (0, 1))
        self.columns: tuple[str, ...] = ("loss_memory", "loss_views") if 0 < w < 1 else ()
        self.bank = None if w == 1 else self._bank(model, images, out, runtime)
        self.sets = self._sets(model, labels, midway=midway)
        self._last: tuple[NDArray[np.int64], torch.Tensor] | None = None

    def _bank(self, model: Checkpoint, images: ImageList, dim: int, runtime: Runtime) -> Bank:
        device = "cpu" if self.settings.sampled else runtime.device
        stored = model.memory.get(BANK)
        if stored is None or LABELS in model.memory:  # ODC's is of other embeddings
            return Bank.fresh(self.ok, dim, Key(self.key.seed, stage="init"), device)
        if stored.shape != (len(self.ok), dim):
            raise DataError(f"checkpoint: /memory/{BANK}: shape {stored.shape}, expected {(len(self.ok), dim)}: images x dimensions",
                            "go on from a checkpoint of these images")
        of_these_images(model, images, BANK)
        return Bank.of(stored, self.ok, device)

    def _sets(self, model: Checkpoint, labels: Labels | None, *, midway: bool) -> mixed.Sets | Neighbourhoods:
        """Which images are meant by each."""
        s = self.settings
        if s.anchors and self.bank is not None:
            if labels is not None and (labels.labels >= 0).any():
                raise DataError("labels: clusters, and anchors are asked for: an image is told apart with the one or the other",
                                "leave out --anchors, or the labels")
            stored = model.memory.get(NEIGHBOR)
            if stored is None or (s.discover and not midway):
                usable = int(self.ok.sum())
                if s.neighbors >= usable:
                    raise UsageError(f"neighbors: found {s.neighbors}, wanted fewer than the {usable} images that can be used",
                                     f"at most --neighbors {usable - 1}")
                return discover(self.bank, share=s.anchors, size=s.neighbors, tau=s.tau)
            share = model.config.get(MEMORY, {}).get("anchors", s.anchors)
            if stored.shape != (len(self.ok), s.neighbors) or share != s.anchors:
                raise DataError(f"checkpoint: /memory/{NEIGHBOR}: shape {stored.shape} of a share of {share} anchors, expected "
                                f"{(len(self.ok), s.neighbors)} of {s.anchors}", "--discover looks for them anew")
            return Neighbourhoods(stored.astype(np.int64))
        none = np.full(len(self.ok), -1, np.int32)
        return mixed.Sets.of(none if labels is None else labels.labels, self.ok)

    def draw(self) -> NDArray[np.int64]:
        return draw_epoch(np.where(self.ok, np.int32(0), np.int32(-1)), "shuffle", self.settings.epoch_length, self.key)

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        return of_views(rows, places, *self.views)

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        from torch.nn import functional

        s = self.settings
        units = [functional.normalize(f if self.projection is None else self.projection(f), dim=1) for f in features]
        views = None
        if s.spread:
            views = spreading_loss(units[-1][:len(rows)], units[-1][len(rows):], tau=s.tau)
        if self.bank is None:
            assert views is not None
            return [views]
        own = self._told_apart(units[0], rows, start)
        self._last = (rows, units[0].detach())
        return [own] if views is None else [(1 - s.spread) * own + s.spread * views, own, views]

    def _told_apart(self, v: torch.Tensor, rows: NDArray[np.int64], start: int) -> torch.Tensor:
        assert self.bank is not None
        s, columns = self.settings, self.sets.columns(rows)
        if s.sampled:
            drawn = mixed.draw(self.ok, s.sampled, self.key, start)
            return mixed.sampled(v, self.bank, columns, drawn, tau=s.tau, form=s.cluster_loss).mean()
        return mixed.exact(v, self.bank, columns, tau=s.tau, form=s.cluster_loss).mean()

    def after_step(self) -> None:
        if self.bank is not None and self._last is not None:
            self.bank.update(*self._last, self.settings.memory_momentum)
        self._last = None

    def settle(self) -> None:
        """The memory is up to date after each step."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        from ucl import models

        return {} if self.projection is None else {f"projection.{k}": v for k, v in models.to_arrays(self.projection).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return {}

    def finish(self, network: nn.Module) -> dict[str, Any]:
        return {}

    def handed_on(self) -> None:
        """The labels are those it was given."""

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {} if self.bank is None else {BANK: self.bank.array()}
        return found | ({NEIGHBOR: self.sets.neighbor.copy()} if isinstance(self.sets, Neighbourhoods) else {})

    def config(self) -> dict[str, Any]:
        if self.bank is None:
            return {}
        return {MEMORY: {"images": self.images} | ({"anchors": self.settings.anchors} if isinstance(self.sets, Neighbourhoods) else {})}
