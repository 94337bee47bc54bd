"""The other side of `extract` and `train-epoch`: the loop one writes by hand, on float tensors that are in memory already.

No file, no augmentation, no random draw, no check: what is left is the network.  As a command,

    python -m benchmarks.bare extract|train VIEWS.npy MODEL.h5 OUT.npy BATCH [LABELS.npy]

loads its tensors, does the same and saves what it made.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucl.device import machine_threads, set_thread_variables

if TYPE_CHECKING:
    import torch


def extract(net: Any, views: torch.Tensor, batch: int) -> Any:
    """Features (N, D) float32 of views (N, 3, S, S) on the network's device, before the final ReLU, in evaluation mode."""
    import numpy as np
    import torch

    from ucl.networks.taps import Tap

    read = Tap(net.cpu(), views.shape[-1], final_relu=False)
    net.to(views.device).eval()
    out = np.empty((len(views), net.feature_dim), np.float32)
    with torch.inference_mode():
        for start in range(0, len(views), batch):
            out[start:start + batch] = read(views[start:start + batch]).cpu().numpy()
    return out


def train(net: Any, head: Any, views: torch.Tensor, labels: torch.Tensor, settings: Any) -> float:
    """One epoch of SGD as `train-epoch` does it: cross-entropy, two optimizers; the views in their order.  Returns the last loss."""
    from torch import optim
    from torch.nn import functional

    net.train()
    body = optim.SGD(net.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    top = optim.SGD(head.parameters(), settings.lr, settings.head_momentum, weight_decay=settings.weight_decay)
    loss = None
    for start in range(0, len(views), settings.batch):
        loss = functional.cross_entropy(head(net(views[start:start + settings.batch])), labels[start:start + settings.batch])
        body.zero_grad(set_to_none=True)
        top.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        body.step()
        top.step()
    assert loss is not None
    return float(loss.detach())


def main() -> int:
    """The command."""
    threads = int(os.environ.get("UCL_THREADS") or 0) or machine_threads()
    set_thread_variables(threads)
    import numpy as np
    import torch

    from ucl import models, read
    from ucl.keys import Key
    from ucl.settings import TrainSettings

    what, views, model, out, batch = sys.argv[1:6]
    torch.set_num_threads(threads)
    net = models.restore(read(model))
    x = torch.from_numpy(np.load(views))
    if what == "extract":
        np.save(out, extract(net, x, int(batch)))
        return 0
    labels = np.load(sys.argv[6])
    head = models.new_head(int(net.feature_dim), int(labels.max()) + 1, Key())
    train(net, head, x, torch.from_numpy(labels.astype(np.int64)), TrainSettings(batch=int(batch)))
    torch.save({"net": dict(net.named_parameters()), "head": head.state_dict()}, Path(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
