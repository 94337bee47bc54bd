"""Whether a file is what it says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError
from ucl.formats.digest import BlockCrc
from ucl.formats.layout import CORRECT, CRC_BLOCK, FLAG, MADE_BY, ROOT_ATTRS, SCHEMA, STATUS, Item
from ucl.formats.types import schema_dtype

if TYPE_CHECKING:
    from ucl.formats.reader import Artifact, FileArtifact
    from ucl.formats.safe_open import Entry


def schema_problems(
    kind: str,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, np.dtype[Any]],
    attrs: Mapping[str, Any],
) -> list[str]:
    """What the datasets of a file lack of its kind's schema.

    Args:
        kind: a key of `SCHEMA`.
        shapes: path to shape; datasets that the schema does not know are ignored.
        dtypes: path to dtype.
        attrs: root attributes.

    Returns:
        One line per problem, "dataset: found, wanted".
    """
    ftype = SCHEMA[kind]
    out = [f"no dataset {i.path}" for i in ftype.required() if i.path not in shapes]
    lengths: dict[str, tuple[int, str]] = {}
    if isinstance(attrs.get("n-samples"), int):
        lengths["N"] = (attrs["n-samples"], "attribute n-samples")
    for item in ftype.items:
        if item.path in shapes:
            out += _item_problems(item, shapes[item.path], dtypes[item.path], lengths)
    for attr in (*ROOT_ATTRS, *ftype.attrs):
        value = attrs.get(attr.name)
        if value is not None and not isinstance(value, int if attr.dtype == "i8" else str):
            out.append(f"attribute {attr.name}: is {type(value).__name__}, wanted {attr.dtype}")
    return out


def _item_problems(
    item: Item, shape: tuple[int, ...], dtype: np.dtype[Any], lengths: dict[str, tuple[int, str]]
) -> list[str]:
    want = ", ".join(str(d) for d in item.dims)
    if len(shape) != len(item.dims):
        return [f"{item.path}: has shape {shape}, wanted ({want})"]
    out = []
    for letter, n in zip(item.dims, shape, strict=True):
        if isinstance(letter, int):
            if n != letter:
                out.append(f"{item.path}: has shape {shape}, wanted ({want})")
        elif lengths.setdefault(letter, (n, item.path))[0] != n:
            m, other = lengths[letter]
            out.append(f"{item.path}: {letter} = {n}, but {other} has {letter} = {m}")
    if not _fits(dtype, item.dtype):
        out.append(f"{item.path}: is {dtype}, wanted {item.dtype}")
    return out


def _fits(dtype: np.dtype[Any], code: str) -> bool:
    if code == "S":
        return dtype.kind == "S"
    if " " in code:
        want = schema_dtype(code)
        return dtype.names == want.names and all(
            dtype[n].kind == want[n].kind for n in want.names or ()
        )
    return any(dtype == schema_dtype(c) for c in code.split("|"))


def major(version: str) -> str:
    """`1` of `1.4`."""
    return version.split(".")[0]


def identify(
    name: str,
    attrs: Mapping[str, Any],
    entries: Sequence[Entry],
    expect: str | tuple[str, ...] | None,
) -> str:
    """The kind of a file, checked against its schema.

    A file without `encoding-type` is somebody else's: it is taken for the first expected kind whose
    required datasets it has, its datasets get our names, and numbers our dtypes (checked when they
    are read).

    Raises:
        DataError: another kind, another MAJOR version, or not what the schema says.
    """
    wanted = (expect,) if isinstance(expect, str) else expect
    kind = attrs.get("encoding-type")
    if not isinstance(kind, str):
        kind = _adopt(name, entries, wanted or ("ucl/labels", "ucl/features"))
        notes: Mapping[str, Any] = {}
    else:
        _check_kind(name, kind, attrs.get("encoding-version"), wanted)
        notes = attrs
    shapes = {e.path: e.shape for e in entries}
    problems = schema_problems(kind, shapes, {e.path: e.dtype for e in entries}, notes)
    if problems:
        raise DataError(f"{name}: not a sound {kind}: {problems[0]}", "ucl validate shows more")
    return kind


def _check_kind(name: str, kind: str, version: Any, wanted: tuple[str, ...] | None) -> None:
    if wanted is not None and kind not in wanted:
        raise DataError(f"{name}: is {kind}, expected {' or '.join(wanted)}",
                        f"such a file comes from: {MADE_BY.get(wanted[0], wanted[0])}")  # fmt: skip
    if kind not in SCHEMA:
        raise DataError(f"{name}: is {kind[:40]!r}, which this ucl does not know",
                        "a newer ucl may have written it")  # fmt: skip
    if not isinstance(version, str) or major(version) != major(SCHEMA[kind].version):
        raise DataError(f"{name}: {kind} version {version}, expected {SCHEMA[kind].version}",
                        "use the ucl that wrote it, or make it again")  # fmt: skip


def _adopt(name: str, entries: Sequence[Entry], wanted: tuple[str, ...]) -> str:
    """Takes somebody else's file for one of ours."""
    have = {e.path: e for e in entries}
    for kind in wanted:
        ftype = SCHEMA.get(kind)
        if ftype is None or not ftype.required():
            continue
        renamed = {k: v for k, v in ftype.aliases.items() if k in have and v not in have}
        paths = (set(have) - set(renamed)) | set(renamed.values())
        if all(item.path in paths for item in ftype.required()):
            for old, new in renamed.items():
                have[old].path = new
            for e in entries:
                item = ftype.item(e.path)
                numbers = item is not None and e.dtype.kind in "iufb" and item.dtype[0] in "iuf"
                if item is not None and numbers and not _fits(e.dtype, item.dtype):
                    e.dtype = schema_dtype(item.dtype.split("|")[0])
            return kind
    need = [i.path for k in wanted if k in SCHEMA for i in SCHEMA[k].required()]
    found = " ".join(list(have)[:8]) or "no dataset"
    raise DataError(
        f"{name}: has no encoding-type and no {' or '.join(need)}: found {found}",
        f"expected {' or '.join(wanted)}, which comes from: {MADE_BY.get(wanted[0], wanted[0])}",
    )


def validate(path: str | os.PathLike[str], full: bool = False) -> list[str]:
    """Everything that is wrong with a file.

    Args:
        path: the file.
        full: also read every byte: checksums, content digest, values.

    Returns:
        One line per problem; empty if there is none.

    Raises:
        InputMissing: no such file.
        NotPermitted: it may not be read.
    """
    from ucl.formats.reader import FileArtifact, open_artifact

    try:
        artifact = open_artifact(path)
    except DataError as e:
        return [e.message]
    with artifact:
        try:
            out = _header_problems(artifact)
            if isinstance(artifact, FileArtifact) and artifact.modified:
                out.append(f"{artifact.name}: modified after writing")
            if full:
                if isinstance(artifact, FileArtifact):
                    out += _byte_problems(artifact)
                out += _value_problems(artifact)
        except DataError as e:
            return [e.message]
    return out


def _header_problems(a: Artifact) -> list[str]:
    out = []
    for path in a.names:
        item = SCHEMA[a.kind].item(path)
        enum = a.entry(path).enum
        if item is not None and item.enum is not None and enum is not None and not enum.items() <= item.enum.items():  # older files know fewer
            out.append(f"{a.name}: {path}: value names differ from those of {a.kind}")
    if not a.foreign and "/integrity/crc32" not in a:
        out.append(f"{a.name}: no checksums (/integrity/crc32)")
    return out


def _byte_problems(a: FileArtifact) -> list[str]:
    """Checksums of the file and the content digest."""
    out = []
    if "/integrity/crc32" in a:
        stored = a.read("/integrity/crc32")
        crc = BlockCrc(a.entry("/integrity/crc32").offset or 0)
        a.each_block(crc.update, crc.covers)
        found = crc.array()
        first = min((a.entry(p).offset or 0 for p in a.names if a.shape(p)), default=0)
        skip = first // CRC_BLOCK + 1 if a.modified else 0
        if found.shape != stored.shape:
            out.append(f"{a.name}: /integrity/crc32: {len(stored)} values, wanted {len(found)}")
        else:
            out += [f"{a.name}: checksum of MiB {i} differs: damaged, or modified after writing"
                    for i in np.flatnonzero(found != stored) if i >= skip]  # fmt: skip
    if "/integrity/content_sha256" in a:
        kept = a.read("/integrity/content_sha256").tobytes().hex()
        if kept != a.compute_digest() and not out:
            out.append(f"{a.name}: modified after writing: the content digest differs")
    return out


def _value_problems(a: Artifact) -> list[str]:
    """Values that no command may write."""
    out: list[str] = []
    ok = None
    if "/samples/status" in a:
        status = a.read("/samples/status")
        ok = status == STATUS["OK"]
        unknown = np.setdiff1d(status, list(STATUS.values()))
        if len(unknown):
            out.append(f"{a.name}: /samples/status: unknown value {unknown[0]}")
    if "/samples/path" in a:
        try:
            a.strings("/samples/path")
        except DataError as e:
            out.append(e.message)
    if a.kind == "ucl/features":
        out += _finite_problems(a, ok)
    if a.kind == "ucl/labels":
        out += _label_problems(a) + _prediction_problems(a, ok)
    if a.kind == "ucl/neighbors":
        out += _neighbor_problems(a, ok)
    if a.kind == "ucl/pairs":
        out += _pair_problems(a)
    if a.kind == "ucl/images":
        out += _place_problems(a)
    if a.kind == "ucl/evaluation":
        out += _answer_problems(a)
    return out


def _finite_problems(a: Artifact, ok: NDArray[np.bool_] | None) -> list[str]:
    start = 0
    for rows in a.rows("/features", 4096):
        bad = ~np.isfinite(rows).all(axis=1)
        if ok is not None:
            bad &= ok[start : start + len(rows)]
        if bad.any():
            row = start + int(np.flatnonzero(bad)[0])
            return [f"{a.name}: /features[{row}]: not finite, but its status is OK"]
        start += len(rows)
    return []


def _searched(a: Artifact, n: int) -> int:
    """How many images a search was among: others, or its own n."""
    return a.shape("/among/path")[0] if "/among/path" in a else n


def _neighbor_problems(a: Artifact, ok: NDArray[np.bool_] | None) -> list[str]:
    """Rows that are not there, repeated, or an image's own; neighbours of bad images; distances that fall or stand alone."""
    n, at = a.shape("/neighbors")[0], 0
    size, own = _searched(a, n), bool(a.attrs.get("self-included")) or "/among/path" in a or a.foreign
    for near in a.rows("/neighbors", 4096):
        number, there = np.arange(at, at + len(near)), near >= 0
        far = a.read_rows("/distances", at, at + len(near)) if "/distances" in a else np.where(there, 0.0, np.nan)
        ordered = np.sort(near, axis=1)
        for bad, what in (
            (((near < -1) | (near >= size)).any(axis=1), f"a row that is not among the {size} searched"),
            ((~there[:, :-1] & there[:, 1:]).any(axis=1), "-1 before a neighbour"),
            (((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1), "a neighbour twice"),
            ((near == number[:, None]).any(axis=1) & (not own), "the image itself"),
            (there.any(axis=1) & (False if ok is None else ~ok[number]), "neighbours of an image whose status is not OK"),
            (((there != np.isfinite(far)) | (far < 0)).any(axis=1) | (far[:, 1:] < far[:, :-1]).any(axis=1),
             "distances that are negative, not ascending, or not of the neighbours"),
        ):  # fmt: skip
            if bad.any():
                return [f"{a.name}: /neighbors[{at + int(np.argmax(bad))}]: {what}"]
        at += len(near)
    return []


def _pair_problems(a: Artifact) -> list[str]:
    """Rows that are not there, of one list in the wrong order, and similarities that are none."""
    pairs = a.read("/pairs")
    size = a.shape("/samples/path")[0] if "/samples/path" in a else 1 << 62
    bad = ((pairs < 0) | (pairs >= np.array([size, _searched(a, size)]))).any(axis=1)
    if "/among/path" not in a:
        bad |= pairs[:, 0] >= pairs[:, 1]
    out = [f"{a.name}: /pairs[{i}]: {pairs[i].tolist()}, which is no pair of these images" for i in np.flatnonzero(bad)[:1]]
    if "/similarity" in a:
        similar = a.read("/similarity")
        wrong = np.flatnonzero(~(np.abs(similar) <= 1 + 1e-9))
        out += [f"{a.name}: /similarity[{i}]: {similar[i]}, a cosine is from -1 to 1" for i in wrong[:1]]
    return out


def _place_problems(a: Artifact) -> list[str]:
    """Images of a list that lie in no file, or beyond the packed bytes."""
    out = []
    if "/samples/file" in a and "/files/path" in a:
        number, files = a.read("/samples/file"), a.shape("/files/path")[0]
        bad = np.flatnonzero((number < 0) | (number >= files))
        out += [f"{a.name}: /samples/file[{i}]: {number[i]}, but there are {files} files" for i in bad[:1]]
    if "/encoded" in a and "/samples/offset" in a and "/samples/size" in a:
        offset, room = a.read("/samples/offset"), a.shape("/encoded")[0]
        bad = np.flatnonzero((offset < 0) | (offset > room) | (a.read("/samples/size") > np.maximum(room - offset, 0).astype(np.uint64)))
        out += [f"{a.name}: /samples/offset[{i}]: an image beyond the {room} bytes of /encoded" for i in bad[:1]]
    return out


def _answer_problems(a: Artifact) -> list[str]:
    """Answers that contradict each other or the first metric."""
    correct = a.read("/per_sample/correct") if "/per_sample/correct" in a else None
    if correct is None:
        return []
    unknown = np.setdiff1d(correct, list(CORRECT.values()))
    if len(unknown):
        return [f"{a.name}: /per_sample/correct: unknown value {unknown[0]}"]
    out = []
    asked, right = correct != CORRECT["LEFT_OUT"], correct == CORRECT["RIGHT"]
    metrics = a.read("/metrics")
    if not len(metrics) or metrics["n"][0] != asked.sum() or abs(metrics["value"][0] * asked.sum() - right.sum()) > 1e-6 * max(1, len(right)):
        stated = f"{metrics['value'][0]:.6g} of {metrics['n'][0]}" if len(metrics) else "nothing"
        out.append(f"{a.name}: /per_sample/correct: {right.sum()} of {asked.sum()} are right, but /metrics says {stated}")
    if "/per_sample/predicted" not in a or "/per_sample/truth" not in a:
        return out
    predicted, truth = a.read("/per_sample/predicted"), a.read("/per_sample/truth")
    bad = np.flatnonzero(np.where(asked, right != (predicted == truth), predicted != -1))
    out += [f"{a.name}: /per_sample/correct[{i}]: {correct[i]}, but class {predicted[i]} is predicted and {truth[i]} is true" for i in bad[:1]]
    if "/classes/name" in a:
        top, known = max(predicted.max(initial=-1), truth.max(initial=-1)), a.shape("/classes/name")[0]
        out += [f"{a.name}: /per_sample: class {top}, but /classes/name has {known}"] if top >= known else []
    return out


def _label_problems(a: Artifact) -> list[str]:
    out = []
    labels = a.read("/labels")
    if labels.size and labels.min() < -1:
        out.append(f"{a.name}: /labels: {labels.min()}, the least label is -1")
    if "/flag" in a:
        unknown = np.setdiff1d(a.read("/flag"), list(FLAG.values()))
        if len(unknown):
            out.append(f"{a.name}: /flag: unknown value {unknown[0]}")
    sized = [p for p in ("size", "mean", "centroid", "anchor") if f"/clusters/{p}" in a]
    if not sized:
        return out
    k = a.shape(f"/clusters/{sized[0]}")[0]
    if labels.size and labels.max() >= k:
        return [*out, f"{a.name}: /labels: {labels.max()}, but there are {k} clusters"]
    if "/clusters/anchor" in a:
        anchor = a.read("/clusters/anchor")
        if ((anchor < -1) | (anchor >= len(labels))).any():
            out.append(f"{a.name}: /clusters/anchor: a row beyond the {len(labels)} samples")
    if "/clusters/size" in a:
        out += _size_problems(a, labels, k)
    return out


def _prediction_problems(a: Artifact, ok: NDArray[np.bool_] | None) -> list[str]:
    """Probabilities of good images that are none, and clusters of an ensemble below -1."""
    out, start = [], 0
    for rows in a.rows("/probs", 4096) if "/probs" in a else ():
        bad = ~((rows >= 0) & (rows <= 1)).all(axis=1)
        if ok is not None:
            bad &= ok[start : start + len(rows)]
        if bad.any():
            out.append(f"{a.name}: /probs[{start + int(np.argmax(bad))}]: no probabilities, but its status is OK")
            break
        start += len(rows)
    if "/pred" in a and (least := a.read("/pred").min(initial=0)) < -1:
        out.append(f"{a.name}: /pred: {least}, the least is -1, for none")
    return out


def _size_problems(a: Artifact, labels: NDArray[np.int32], k: int) -> list[str]:
    """Sizes count the members, or, where labels were cut since, at least them."""
    size = a.read("/clusters/size")
    count = np.bincount(labels[labels >= 0], minlength=k)
    cut = (
        "/flag" in a and not np.isin(a.read("/flag"), [FLAG["KEPT"], FLAG["BAD_IMAGE"]]).all()
    )
    if cut and not (size.sum() > len(labels) or (size < 0).any()):
        return []
    bad = np.flatnonzero(size != count)
    if not len(bad):
        return []
    i = int(bad[0])
    return [f"{a.name}: /clusters/size[{i}]: {size[i]}, but {count[i]} samples have that label"]
