"""Weights from outside: files of PyTorch and of safetensors, read as arrays and fitted to a backbone.

Nothing in such a file is trusted.  Pickles are read by torch's weights-only reader, which runs no code; a file whose tensors
are larger than itself, damaged, of other types or not finite is refused; and nothing is half taken: each tensor that is
missing, unexpected or of another shape is told, and what is left out is named.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, InputMissing, NotPermitted, Unavailable
from ucl.layouts import HEAD, LAYOUTS, PLAIN, Arrays, Names, decode

if TYPE_CHECKING:
    import torch

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "network", "net", "weights", "classy_state_dict", "base_model", "trunk")
"""Keys under which training scripts keep the state dict; the last three are VISSL's, one in the other, with "model" before the trunk."""

PREFIXES = ("module.", "model.", "backbone.", "encoder.", "encoder_q.", "base_encoder.", "net.", "body.", "trunk.", "_feature_blocks.")
"""Wrappers of a network in its keys: DataParallel, Lightning, OpenSelfSup and MMSelfSup, MoCo's query encoder, DeeperCluster, VISSL and the
like; in any order, up to three."""

FILTER = ("sobel.0.weight", "sobel.0.bias", "sobel.1.weight", "sobel.1.bias")
"""The Sobel filter's tensors, at the end of their keys."""

NOTED = ("backbone", "size", "mean", "std", "fold_sobel")
"""What `ucl export` notes of a network beside its tensors."""

TORCH, LEGACY, SAFETENSORS = "PyTorch", "PyTorch (before 1.6)", "safetensors"
_HEADER_LIMIT = 100_000_000
_OWN = "ucl."


@dataclass
class Weights:
    """Tensors of a file, as it names them.

    Attributes:
        name: of the file, for messages.
        state: key -> array; what wrapped them is taken off.
        sha256: of the file's bytes, as sha256sum prints it.
        meta: what `ucl export` noted in a safetensors file (`NOTED`), or a checkpoint of ucl has in its config.
        beside: entries of the file that are no weights ("optimizer", "epoch").
    """

    name: str
    state: Arrays
    sha256: str
    meta: dict[str, Any] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)


@dataclass
class Fitted:
    """Weights in a backbone's own names.

    Attributes:
        tensors: ``backbone.<key>`` and, if it was kept, ``head.weight`` and ``head.bias``.
        layout: the layout the file has.  prefix: what was taken off its keys.
        left_out: keys of the file that were not taken.
        notes: what a user should hear, one line each.
    """

    tensors: Arrays
    layout: str
    prefix: str
    left_out: list[str]
    notes: list[str]


# -- reading ---------------------------------------------------------------------------------------------------------------------


def read(source: Path | int, name: str) -> Weights:
    """The tensors of a file.

    Args:
        source: a path, or the descriptor of a stream, which is spooled.
        name: for messages.

    Returns:
        The tensors, as arrays in memory of their own; float16 and bfloat16 have become float32 (exactly).

    Raises:
        InputMissing: no such file.  Unavailable: a safetensors file without that package.
        DataError: not a file of weights; or one that holds code, is damaged, or claims more than it holds.
    """
    with _whole(source, name) as (path, sha256):
        kind = _kind(path, name)
        meta: dict[str, Any] = {}
        beside: list[str] = []
        if kind == SAFETENSORS:
            tensors, meta = _safetensors(path, name)
        else:
            tensors, beside = _unwrap(_torch(path, name, kind), name)
        claimed, held = sum(t.numel() * t.element_size() for t in tensors.values()), path.stat().st_size
        if claimed > 2 * held:  # tensors may share memory, but not that much of it
            raise DataError(f"{name}: claims {claimed} bytes of tensors, the file has {held}: a bomb?", "save the weights again")
        state = {key: _array(value, f"{name}: {key}") for key, value in tensors.items()}
    return Weights(name, state, sha256, meta, beside)


@contextmanager
def _whole(source: Path | int, name: str) -> Iterator[tuple[Path, str]]:
    """(path, sha256) of the source; a stream is copied to a file first, which is gone afterwards."""
    try:
        with (source.open("rb") if isinstance(source, Path) else os.fdopen(os.dup(source), "rb")) as stream:
            if isinstance(source, Path) and source.is_file():
                yield source, hashlib.file_digest(stream, "sha256").hexdigest()
                return
            with tempfile.NamedTemporaryFile(prefix="ucl-weights-") as spool:
                shutil.copyfileobj(stream, spool, 1 << 20)
                spool.flush()
                spool.seek(0)
                yield Path(spool.name), hashlib.file_digest(spool, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputMissing(f"{name}: no such file") from error
    except IsADirectoryError as error:
        inside = isinstance(source, Path) and (source / "model.h5").exists()
        raise DataError(f"{name}: is a folder, expected a file of weights", f"{name.rstrip('/')}/model.h5" if inside else "") from error
    except PermissionError as error:
        raise NotPermitted(f"{name}: permission denied") from error


def _kind(path: Path, name: str) -> str:
    """What the file is by its first bytes; its name does not matter."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[:4] == b"PK\x03\x04":
        return TORCH
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return LEGACY
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _HEADER_LIMIT:
        return SAFETENSORS
    if start[:4] == b"\x89HDF":
        raise DataError(f"{name}: is HDF5, expected weights of PyTorch or safetensors",
                        "a checkpoint of ucl is given as --model, or as it is to ucl init --weights")
    found = "nothing" if not start else f"first bytes {start[:8]!r}"
    raise DataError(f"{name}: no weights: found {found}, expected a .pt or .pth file of torch.save, or .safetensors",
                    "torch.save(network.state_dict(), FILE) makes one")


def _torch(path: Path, name: str, kind: str) -> Any:
    """What torch.save wrote, read without running any code."""
    import torch

    if kind == TORCH:
        _check_zip(path, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about types of tensors that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a hostile file can raise anything in the reader; none of it is ours
        said = " ".join(str(error).split())
        if type(error).__name__ == "UnpicklingError" and "global" in said.lower():
            what = said.partition("GLOBAL ")[2].split(" ")[0] or "Python objects"
            raise DataError(f"{name}: holds Python code ({what}), which is never run; expected tensors only",
                            "on a machine that trusts it: torch.save(network.state_dict(), FILE)") from error
        raise DataError(f"{name}: cannot be read as {kind}: {type(error).__name__}: {said[:200]}",
                        "is it whole? sha256sum tells; torch.save(network.state_dict(), FILE) makes one") from error


def _check_zip(path: Path, name: str) -> None:
    """Refuse an archive that torch.save did not write: compressed or overlapping parts (bombs), code, wrong checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(Path(p.filename).name == "constants.pkl" for p in parts):
                raise DataError(f"{name}: is a TorchScript program, expected tensors only",
                                "on a machine that trusts it: torch.save(torch.jit.load(FILE).state_dict(), NEW)")
            if not any(Path(p.filename).name == "data.pkl" for p in parts):
                raise DataError(f"{name}: is a zip archive, but not of torch.save: no data.pkl in it")
            packed = next((p for p in parts if p.compress_type != zipfile.ZIP_STORED), None)
            if packed is not None or sum(p.file_size for p in parts) > path.stat().st_size:
                raise DataError(f"{name}: claims {sum(p.file_size for p in parts)} bytes, the file has {path.stat().st_size}: a bomb?",
                                "torch.save compresses nothing; save the weights again")
            damaged = archive.testzip()
            if damaged is not None:
                raise DataError(f"{name}: damaged: {damaged} has another checksum", "get the file again")
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError(f"{name}: truncated or damaged: {error}", "get the file again") from error


def _safetensors(path: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and what `ucl export` noted in its header."""
    needs("safetensors", f"{name}: safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{name}: cannot be read as safetensors: {error}", "is it whole? sha256sum tells") from error
    meta: dict[str, Any] = {}
    for key in NOTED:
        try:
            if _OWN + key in header:
                meta[key] = json.loads(header[_OWN + key])
        except ValueError as error:
            raise DataError(f"{name}: {_OWN + key}: found {header[_OWN + key]!r}, expected JSON") from error
    return found, meta


def metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """What a safetensors file says of the network beside its tensors."""
    return {"format": "pt"} | {_OWN + key: json.dumps(config[key]) for key in NOTED if key in config}


def needs(package: str, what: str, extra: str = "") -> None:
    """Refuse work that needs an optional package which is not installed.

    Raises:
        Unavailable: with the line that installs it; the extra has the package's name unless it is given.
    """
    import importlib

    try:
        importlib.import_module(package)
    except ImportError as error:
        raise Unavailable(f"{what} needs the package {package}, which is not installed", f"pip install 'ucl[{extra or package}]'") from error


def _unwrap(found: Any, name: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state dict in what torch.load gave, and the entries beside it."""
    import torch

    beside: list[str] = []
    for _ in range(5):
        if not isinstance(found, dict) or not found:
            raise DataError(f"{name}: found {'an empty dict' if isinstance(found, dict) else type(found).__name__}, expected a dict of tensors",
                            "torch.save(network.state_dict(), FILE) makes one")
        tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor) and isinstance(key, str)}
        inner = next((w for w in WRAPPERS if isinstance(found.get(w), dict)), None)
        if inner is None:
            beside += [str(key) for key in found if key not in tensors]
            if not tensors:
                raise DataError(f"{name}: found a dict of {_some([str(k) for k in found])}, expected tensors, or a dict of them under "
                                f"{', '.join(WRAPPERS[:4])}", "torch.save(network.state_dict(), FILE) makes one")
            return tensors, beside
        beside += [str(key) for key in found if key != inner]
        found = found[inner]
    raise DataError(f"{name}: found dicts in dicts in dicts, expected tensors")


def _array(tensor: torch.Tensor, where: str) -> NDArray[Any]:
    """A tensor as an array of its own memory, C-contiguous; half precision widened to float32, which is exact.

    Raises:
        DataError: a type that weights do not have, or more elements than the file holds for it.
    """
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or tensor.is_complex():
        raise DataError(f"{where}: found a {tensor.layout}, {tensor.dtype} tensor on {tensor.device.type}, expected plain numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise DataError(f"{where}: claims {tensor.numel()} elements, the file has {tensor.untyped_storage().nbytes()} bytes for them: a bomb?")
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    try:
        return np.array(tensor.detach().resolve_conj().numpy(), order="C")
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{where}: found {tensor.dtype}, expected plain numbers") from error


# -- fitting ---------------------------------------------------------------------------------------------------------------------


def fit(weights: Weights, names: Names, wanted: Mapping[str, tuple[tuple[int, ...], str]], dim: int, layout: str = "auto",
        head: str = "keep", filter: Mapping[str, NDArray[Any]] | None = None) -> Fitted:
    """Weights in the names of a backbone: each of its tensors, once, in its shape.

    Args:
        weights: as `read`.
        names: of the backbone.
        wanted: state-dict key of the backbone -> (shape, dtype).
        dim: dimension of its features, for the head.
        layout: as in `layouts`, or auto: the one that names most of the tensors.
        head: keep a classifier on top, if the file has one, or drop everything that is not the backbone.
        filter: the Sobel filter's tensors under the backbone's keys, for a file that has none of them.

    Returns:
        The fitted tensors; counters of batch norms that files before PyTorch 0.4.1 lack are 0.

    Raises:
        UsageError: a layout in which this backbone has no names.
        DataError: tensors missing, unexpected, of other shapes or types, or not finite; all of them counted, the first named.
    """
    keys = [f"backbone.{k}" for k in wanted] + list(HEAD)
    state = {plain(k): v for k, v in weights.state.items()}
    layout, prefix = _recognise(names, keys, state, layout)
    inner = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
    found = decode(names, layout, keys, inner)
    top = {k: found.pop(k) for k in HEAD if k in found}
    spoken = {prefix + names.outside(layout, k) for k in [*found, *(top if head == "keep" else ())]}
    beside, constants = _filter(found, state, filter or {})
    spoken |= beside
    faults, filled = _compare(found, wanted, weights.name, names, layout)
    if head == "keep" and top:
        faults["of other shapes"] += _head_faults(top, dim, names, layout)
    rest = [k for k in state if k not in spoken]
    depth = 2 if layout == "ucl" else 1
    mine = {_stem(names.outside(layout, k), depth) for k in [*keys[:-2], "backbone.sobel.0.weight"]}
    heads = {prefix + names.outside(layout, k) for k in HEAD}
    faults["unexpected"] += [k for k in rest if k.startswith(prefix) and _stem(k[len(prefix):], depth) in mine and k not in heads]
    outside = [k for k in rest if k not in faults["unexpected"]]
    _refuse(weights, names, layout, faults, outside if head == "keep" else [], len(wanted))
    wide = sum(v.dtype == np.float64 for v in found.values())
    tensors = {f"backbone.{k}": _typed(found[f"backbone.{k}"], dtype, f"{weights.name}: {k}") for k, (_, dtype) in wanted.items()}
    if head == "keep":
        tensors |= {k: _typed(v, "float32", f"{weights.name}: {k}") for k, v in top.items()}
    return Fitted(tensors, layout, prefix, outside, _notes(weights, layout, prefix, outside, filled, wide, constants))


def plain(key: str) -> str:
    """A key without what DataParallel around the features put into it (the released DeepCluster files)."""
    before, mark, after = key.partition("features.module.")
    return f"{before}features.{after}" if mark and (not before or before.endswith(".")) else key


def _filter(found: Arrays, state: Mapping[str, NDArray[Any]], filter: Mapping[str, NDArray[Any]]) -> tuple[set[str], bool]:
    """Put the Sobel filter into ``found`` where the file has it beside the network's prefix, or, as its numbers never change, not at all.

    Returns:
        The keys it was found under; whether it was ``filter`` that was put in.
    """
    if not filter or f"backbone.{FILTER[0]}" in found:
        return set(), False
    beside = {part: key for part in FILTER for key in state if key == part or key.endswith(f".{part}")}
    found |= {f"backbone.{part}": state[beside[part]] if beside else filter[part] for part in FILTER if part in beside or not beside}
    return set(beside.values()), not beside


def _stem(key: str, depth: int) -> str:
    return ".".join(key.split(".")[:depth])


def _recognise(names: Names, keys: list[str], state: Mapping[str, Any], layout: str) -> tuple[str, str]:
    """The (layout, prefix) under which most of the backbone's tensors are in the file."""
    prefixes = {""}
    for _ in range(3):
        prefixes |= {p + q for p in prefixes for q in PREFIXES if any(k.startswith(p + q) for k in state)}
    layouts = [x for x in (*LAYOUTS, PLAIN) if names.twin(x)] if layout == "auto" else [names.choose(layout)]
    layouts += [PLAIN] if layouts == ["ucl"] else []
    order = [(x, p) for p in sorted(prefixes, key=lambda p: (len(p), p)) for x in layouts]
    return max(order, key=lambda at: sum(at[1] + names.outside(at[0], k) in state for k in keys))


def _compare(found: Arrays, wanted: Mapping[str, tuple[tuple[int, ...], str]], name: str, names: Names,
             layout: str) -> tuple[dict[str, list[str]], int]:
    """What is missing or of another shape; counters of batch norms are filled in (their number is the second value)."""
    faults: dict[str, list[str]] = {"missing": [], "unexpected": [], "of other shapes": []}
    filled = 0
    for key, (shape, _) in wanted.items():
        mine = f"backbone.{key}"
        outside = names.outside(layout, mine)
        if mine in found:
            if found[mine].shape != shape:
                faults["of other shapes"].append(f"{outside} is {_by(found[mine].shape)}, wanted {_by(shape)}")
        elif key.endswith("num_batches_tracked"):
            found[mine] = np.zeros((), np.int64)
            filled += 1
        else:
            faults["missing"].append(outside)
    return faults, filled


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _head_faults(top: Arrays, dim: int, names: Names, layout: str) -> list[str]:
    weight, bias = (top.get(k) for k in HEAD)
    here = names.outside(layout, HEAD[0])
    if weight is None or bias is None:
        return [f"{here.rpartition('.')[0]} has no {'weight' if weight is None else 'bias'}"]
    if weight.ndim != 2 or weight.shape[1] != dim or bias.shape != weight.shape[:1]:
        return [f"{here} is {_by(weight.shape)} with a bias of {_by(bias.shape)}, wanted Kx{dim} and K"]
    return []


def _some(items: list[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")


def _refuse(weights: Weights, names: Names, layout: str, faults: Mapping[str, list[str]], outside: list[str], total: int) -> None:
    """Raise DataError if anything does not fit, with all of it in one line."""
    told = [f"{len(items)} {what} ({_some(items)})" for what, items in faults.items() if items]
    if told:
        raise DataError(f"{weights.name}: does not fit {names.backbone} ({total} tensors, {layout} layout): {'; '.join(told)}",
                        "--backbone must be the network the file was made from; ucl doctor lists them"
                        if faults["missing"] or faults["unexpected"] else "another --backbone? or --head drop, if it is only the classifier")
    if outside:
        raise DataError(f"{weights.name}: beside {names.backbone} it holds {len(outside)} more tensors ({_some(outside)})",
                        "--head drop leaves them out")


def _typed(value: NDArray[Any], dtype: str, where: str) -> NDArray[Any]:
    """``value`` in the type the network has.

    Raises:
        DataError: numbers that are not finite, or of another kind (whole numbers for weights).
    """
    wanted = np.dtype(dtype)
    if wanted.kind == "i" and value.dtype.kind in "iu":
        return value.astype(wanted)
    if value.dtype.kind != wanted.kind:
        raise DataError(f"{where}: found {value.dtype}, expected {wanted}")
    with np.errstate(over="ignore"):  # it becomes infinite, which is told below
        value = value.astype(wanted, copy=False)
    bad = int((~np.isfinite(value)).sum()) if wanted.kind == "f" else 0
    if bad:
        raise DataError(f"{where}: {bad} of {value.size} values are not finite {wanted} numbers", "a training that diverged? take an earlier file")
    return value


def _notes(weights: Weights, layout: str, prefix: str, outside: list[str], filled: int, wide: int, constants: bool) -> list[str]:
    found = [f"{layout} layout" + (f", prefix {prefix} taken off" if prefix else "")]
    found += [f"not weights, left out: {_some(weights.beside, 6)}"] if weights.beside else []
    found += [f"left out: {len(outside)} tensors ({_some(outside)})"] if outside else []
    found += [f"{filled} counters of batch norms were missing and are 0"] if filled else []
    found += ["the Sobel filter, which the file leaves out, is put in front"] if constants else []
    found += [f"{wide} float64 tensors rounded to float32"] if wide else []
    return found
