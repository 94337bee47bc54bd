"""`export`: a checkpoint as weights that other programs read: PyTorch, safetensors, ONNX."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint
from ucl.errors import DataError, UsageError
from ucl.layouts import ARCHITECTURES, HEAD, Names, encode
from ucl.models import head_stands_on
from ucl.weights import metadata

if TYPE_CHECKING:
    import torch

ENDINGS = {".pt": "torch", ".pth": "torch", ".safetensors": "safetensors", ".onnx": "onnx"}
OPSET = 18
ONNX_LIMIT = 2_000_000_000
"""Bytes of weights beyond which an ONNX file, one protobuf message, cannot hold them."""


@dataclass
class StateDict:
    """Tensors under the names of a layout.

    Attributes:
        state: key -> array.
        layout: the layout.  remark: what whoever loads them must know; "" for nothing.
    """

    state: dict[str, NDArray[Any]]
    layout: str
    remark: str


def wants_head(model: Checkpoint, head: bool | None) -> bool:
    """Whether the head goes along: as asked, else if there is one.

    Raises:
        DataError: it was asked for and the checkpoint has none.
    """
    there = all(k in model.model for k in HEAD)
    if head and not there:
        raise DataError("checkpoint: /model/head.weight: missing, --head asks for it", "an untrained model has no head; --no-head")
    return there if head is None else head


def state_dict(model: Checkpoint, names: Names, layout: str, head: bool | None) -> StateDict:
    """A checkpoint's tensors in a layout.

    Args:
        model: the checkpoint.
        names: of its backbone.
        layout: as in `layouts`, or auto.
        head: whether the head goes along; None if there is one.

    Raises:
        UsageError: no network of that layout's library has these tensors.  DataError: no head there.
    """
    layout = names.choose(layout)
    between = head_stands_on(model)
    along = wants_head(model, False if between and head is None else head)
    if along and between:
        raise UsageError(f"--head: the classifier stands on the {between}, which no network of that library has", "--no-head, or an .onnx file")
    if along and not names.takes_head(layout):
        raise UsageError(f"--layout {layout}: the last layer of {names.backbone} is not linear with a bias, as the head is",
                         "--no-head, or --layout ucl")
    tensors = {k: v for k, v in model.model.items() if k.startswith("backbone.") or (along and k in HEAD)}
    remark = names.remark(layout)
    left = [f"the {between} and the classifier on them are left out, an .onnx file has the logits"] if between and HEAD[0] in model.model else []
    left += ["the projection is left out, an .onnx file has it as embedding"] if model.config.get("projection") else []
    remark = "; ".join(part for part in (remark, *left) if part)
    return StateDict(encode(names, layout, tensors), layout, remark)


def write_torch(made: StateDict, model: Checkpoint, sink: IO[bytes]) -> None:
    """A plain dict of tensors, or for the layout deepcluster its {"epoch", "arch", "state_dict"}, by torch.save."""
    import torch

    tensors: dict[str, Any] = {k: torch.from_numpy(np.array(v, order="C")) for k, v in made.state.items()}
    if made.layout == "deepcluster":
        tensors = {"epoch": model.progress.get("epoch", 0), "arch": ARCHITECTURES[str(model.config["backbone"])], "state_dict": tensors}
    torch.save(tensors, sink)


def write_safetensors(made: StateDict, model: Checkpoint, sink: IO[bytes]) -> None:
    """The tensors, flat, with backbone, view size and normalisation in the header."""
    from safetensors.numpy import save

    data = memoryview(save({k: np.array(v, order="C") for k, v in made.state.items()}))
    start = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": metadata(model.config)} | json.loads(bytes(data[8:start]))  # safetensors itself shuffles the metadata
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    for part in (len(text).to_bytes(8, "little"), text, data[start:]):
        sink.write(part)


def write_onnx(model: Checkpoint, head: bool | None, sink: IO[bytes]) -> None:
    """A graph from normalised images (B, 3, S, S) float32, any B, to ``features`` (B, D) and, with a head, ``logits`` (B, K), and, with a
    projection, ``embedding`` (B, P) of unit length.

    The network is in evaluation mode.  The features are those the head sees, after the network's final ReLU.

    Raises:
        DataError: more weights than one ONNX file holds.
    """
    import torch

    held = sum(v.nbytes for v in model.model.values())
    if held > ONNX_LIMIT:
        raise DataError(f"checkpoint: {held} bytes of weights, an ONNX file holds at most {ONNX_LIMIT}", "export .safetensors")
    along = wants_head(model, head)
    network = _network(model, head=along)
    size = int(model.config["size"])
    outputs = ["features", *(["logits"] if along else []), *(["embedding"] if model.config.get("projection") else [])]
    program = torch.onnx.export(network, (torch.zeros(2, 3, size, size),), None, dynamo=True, verbose=False, opset_version=OPSET,
                                input_names=["images"], output_names=outputs, dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert program is not None
    proto = program.model_proto
    for key, value in metadata(model.config).items():
        if key != "format":
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value
    sink.write(proto.SerializeToString())


def _network(model: Checkpoint, *, head: bool) -> torch.nn.Module:
    """Images to features, and to logits and embedding where they are, in evaluation mode on the CPU."""
    from torch import nn
    from torch.nn import functional

    from ucl import models

    body = models.restore(model)

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            if head:
                stored = models.part(model, "head.")
                self.between = models.under_head(model, int(body.feature_dim))
                self.head = nn.utils.skip_init(nn.Linear, stored["weight"].shape[1], len(stored["weight"]))  # type: ignore[no-untyped-call]
                models.from_arrays(self.head, stored)
            self.projection = models.projection(model, int(body.feature_dim))

        def forward(self, images: torch.Tensor) -> Any:
            features = self.body(images)
            found = (features, *([self.head(features if self.between is None else self.between(features))] if head else []))
            if self.projection is not None:
                found += (functional.normalize(self.projection(features), dim=1),)
            return found if len(found) > 1 else features

    return Exported().eval()
