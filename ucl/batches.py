"""The one data path: rows of an image list as batches of views on the device, for extraction and training alike.

Packed pixels go to a GPU once and stay there; lists without packed pixels are decoded per batch, by threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl import views
from ucl.artifacts import ImageList
from ucl.device import Runtime
from ucl.keys import Key
from ucl.settings import ViewSettings

if TYPE_CHECKING:
    import torch


class Batches:
    """Batches of one image list.

    Args:
        images: the list.
        runtime: device and threads.
        size: side of the views.
        mean, std: of the channels, for values in [0, 1].
    """

    def __init__(self, images: ImageList, runtime: Runtime, size: int, mean: tuple[float, ...],
                 std: tuple[float, ...]) -> None:
        self.images, self.runtime, self.size = images, runtime, size
        self.mean, self.std = mean, std
        self.device = runtime.prepare()
        self.files = images.files()

    def _packed(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """(B, H, W, 3) uint8 on the device."""
        import torch

        if self.device.type == "cpu":
            return torch.from_numpy(self.files.batch(rows))
        cache = self.images.on_device
        if str(self.device) not in cache:
            assert self.images.pixels is not None
            cache[str(self.device)] = torch.from_numpy(np.array(self.images.pixels)).to(self.device)
        whole: torch.Tensor = cache[str(self.device)]
        return whole[torch.from_numpy(rows).to(self.device)]

    def train(self, rows: NDArray[np.int64], positions: NDArray[np.int64], key: Key, settings: ViewSettings,
              view: int = 0) -> torch.Tensor:
        """Random views: (B, 3, size, size) float32.

        Args:
            rows: (B,) int64 rows of the list, all OK.
            positions: (B,) int64 draw positions in the epoch; the same image drawn twice gets two views.
            key: the epoch's key.  settings: what is drawn.  view: which view of each draw.
        """
        import torch

        recipe = views.recipe(settings, self.mean, self.std)
        if self.images.pixels is not None:
            return views.train_views(self._packed(rows), key, positions, view, recipe, self.size)
        boxes = views.crop_boxes(key, positions, view, self.files.height[rows], self.files.width[rows], recipe)
        pixels = torch.from_numpy(self.files.crops(rows, boxes, self.size, self.runtime.threads)).to(self.device)
        return views.train_views(pixels, key, positions, view, views.uncropped(recipe), self.size)

    def evaluate(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """The fixed view: (B, 3, size, size) float32."""
        import torch

        recipe = views.recipe(ViewSettings(), self.mean, self.std)
        if self.images.pixels is not None:
            return views.eval_views(self._packed(rows), recipe, self.size)
        pixels = self.files.crops(rows, None, self.size, self.runtime.threads)
        return views.eval_views(torch.from_numpy(pixels).to(self.device), recipe, self.size)
