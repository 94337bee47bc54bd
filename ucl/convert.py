"""`ucl convert`: NumPy, CSV and foreign HDF5 files to features and labels, and back.

Two rules keep numbers honest.  Nothing is rounded unasked: float32 and float16 are kept bit by bit, wider numbers must
be float32's own or ``narrow`` must be said.  Nothing is guessed: labels are whole numbers in one column, features are
(N, D) numbers, everything else is refused with what was found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ucl import foreign, tabular
from ucl.artifacts import BAD_IMAGE, FLAGS, NOT_FINITE, OK, UNREADABLE, Features, Labels, Samples, Stored
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.foreign import Found, Rows
from ucl.names import require_plain
from ucl.store import chain, header_of, save

log = logging.getLogger(__name__)

EXACT = 1 << 24
"""Up to here float32 holds every whole number."""


@dataclass
class Table:
    """Features or labels, from whatever file, as rows that can be read in order.

    Attributes:
        kind: ucl/features or ucl/labels.
        rows: (N, D) float32 or float16, or (N,) int32.
        paths: (N,) S, or None.
        columns: flag, distance, score, weight of labels, as far as there are.
        model: Features' words about themselves (model, weights, layer, transform); empty for foreign ones.
        origin: the ucl file it comes from; None for foreign ones.
    """

    kind: str
    rows: Rows
    paths: NDArray[np.bytes_] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)
    origin: Stored | None = None


def from_foreign(found: Found, labelled: bool | None, *, narrow: bool) -> Table:
    """What a foreign file holds as features or labels.

    Args:
        found: the file's array.
        labelled: True: it is labels; False: features; None: labels if it is called so or is one column of whole numbers.
        narrow: values that float32 does not hold may be rounded.

    Raises:
        DataError: neither (N, D) numbers nor N whole numbers; no rows; labels beyond -1 .. 2^31-2; values that would be rounded
            or overflow.
    """
    rows = found.rows
    flat = len(rows.shape) == 1 or (len(rows.shape) == 2 and rows.shape[1] == 1)
    if labelled is None:
        labelled = found.labelled if found.labelled is not None else len(rows.shape) == 1 and rows.dtype.kind in "iub"
    if rows.dtype.kind not in "iufb" or len(rows.shape) not in (1, 2) or (labelled and not flat) or (not labelled and len(rows.shape) != 2):
        raise DataError(f"{rows.name}: {rows.dtype} of shape {rows.shape}, wanted "
                        + ("whole numbers (N,)" if labelled else "numbers (N, D)"), "features are (N, D) numbers, labels (N,) whole numbers; "
                        "--as labels or --as features says which")
    if not rows.shape[0] or (len(rows.shape) == 2 and not rows.shape[1]):
        raise DataError(f"{rows.name}: shape {rows.shape}: no rows", "give an array with rows")
    if found.paths is not None:
        require_plain(found.paths, rows.name)
    if labelled:
        return Table("ucl/labels", _labels(rows), found.paths, found.columns)
    return Table("ucl/features", _features(rows, narrow), found.paths)


def _labels(rows: Rows) -> Rows:
    """Labels as int32.

    Raises:
        DataError: fractions, or a value outside -1 .. 2^31-2.
    """
    def blocks() -> Iterator[NDArray[np.int32]]:
        at = 0
        for block in rows.blocks():
            block = block.reshape(-1)
            bad = ~((block >= -1) & (block <= 2**31 - 2))
            if block.dtype.kind == "f":
                bad |= block != np.floor(block)
            if bad.any():
                row = int(np.argmax(bad))
                raise DataError(f"{rows.name}: row {at + row} is {block[row]}, wanted a whole number from -1 to {2**31 - 2}",
                                "-1 means: in no cluster")
            at += len(block)
            yield block.astype("<i4")

    return Rows(rows.name, rows.shape[:1], np.dtype("<i4"), blocks)


def _features(rows: Rows, narrow: bool) -> Rows:
    """Features as float32, or float16 if they are; wider numbers are looked through first.

    Raises:
        DataError: a value that float32 does not hold, without ``narrow``; one that overflows it, anyway.
    """
    if rows.dtype.kind == "f" and rows.dtype.itemsize in (2, 4):
        dtype = rows.dtype.newbyteorder("<")
        return Rows(rows.name, rows.shape, dtype, lambda: (np.ascontiguousarray(b, dtype) for b in rows.blocks()))
    if not (rows.dtype.kind in "iub" and rows.dtype.itemsize <= 2):
        _rounded(rows, narrow)
    return Rows(rows.name, rows.shape, np.dtype("<f4"), lambda: (b.astype("<f4") for b in rows.blocks()))


def _rounded(rows: Rows, narrow: bool) -> None:
    """Count the values that float32 does not hold; refuse or warn."""
    count, at, first, worst = 0, 0, "", 0.0
    for block in rows.blocks():
        with np.errstate(over="ignore", invalid="ignore"):
            made = block.astype(np.float32)
            back = made.astype(block.dtype) if block.dtype.kind == "f" else made.astype(np.float64)
            differs = ~((back == block) | (np.isnan(made) & (block != block)))
        over = np.isinf(made) & differs
        if over.any():
            row, column = np.argwhere(over)[0]
            raise DataError(f"{rows.name}: row {at + row}, column {column}: {block[row, column]} overflows float32", "scale the features")
        if differs.any():
            row, column = np.argwhere(differs)[0]
            first = first or f"row {at + row}, column {column}: {block[row, column]} would become {made[row, column]}"
            count += int(differs.sum())
            values = block[differs].astype(np.float64)
            worst = max(worst, float((np.abs(made[differs] - values) / np.abs(values)).max()))
        at += len(block)
    if count and not narrow:
        raise DataError(f"{rows.name}: {count} values of {rows.dtype} that float32 does not hold; {first}", "--narrow rounds them to float32")
    if count:
        log.warning("%s: %d values of %s rounded to float32, by %.1e of their size at most", rows.name, count, rows.dtype, worst)


def from_artifact(file: Any) -> Table:
    """Features or labels of an opened ucl file or stream; rows go by once on a stream.

    Raises:
        UsageError: another kind.
    """
    if file.kind not in ("ucl/features", "ucl/labels"):
        raise UsageError(f"{file.name}: is {file.kind}; features and labels are converted", "ucl view prints the rows of image lists and evaluations")
    paths = file.read("/samples/path") if "/samples/path" in file.names else None
    main = "/features" if file.kind == "ucl/features" else "/labels"
    shape, dtype = file.shape(main), file.dtype(main)
    columns = {key: file.read(f"/{key}") for key in foreign.EXTRAS if f"/{key}" in file.names} if main == "/labels" else {}
    rows = Rows(file.name, shape, dtype, lambda: file.rows(main, foreign.step_of(shape, dtype.itemsize)))
    names = ("model", "weights-sha256", "layer", "transform")
    return Table(file.kind, rows, paths, columns, {k: str(file.attrs.get(k) or "") for k in names}, header_of(file))


def foreign_hdf5(file: Any) -> Found:
    """Features or labels of an HDF5 file that somebody else wrote; values as they are stored, in blocks."""
    main = "/features" if file.kind == "ucl/features" else "/labels"
    entry = file.entry(main)
    if entry.stored is not None:
        entry.dtype = entry.stored
    shape, dtype = entry.shape, entry.dtype
    rows = Rows(file.name, shape, dtype, lambda: file.rows(main, foreign.step_of(shape, dtype.itemsize)))
    paths = file.read("/samples/path") if "/samples/path" in file.names else None
    columns = {key: file.read(f"/{key}") for key in foreign.EXTRAS if f"/{key}" in file.names} if main == "/labels" else {}
    return Found(rows, paths, columns, main == "/labels")


def write_hdf5(table: Table, out: IO[bytes], provenance: list[str]) -> int:
    """Write a table as a ucl file, rows as they come; returns how many rows of features are not finite and flagged so.

    Raises:
        DataError: a row is not finite and has no name under which to flag it.
    """
    n = table.rows.shape[0]
    samples = None if table.paths is None else Samples(table.paths, np.full(n, OK, np.uint8))
    context = Context(images=n, samples_digest=samples.digest if samples is not None else "")
    if table.kind == "ucl/labels":
        extra = table.columns
        if samples is not None and "flag" in extra:
            samples.status[extra["flag"] == BAD_IMAGE] = UNREADABLE
        save(Labels(table.rows.collect(), extra.get("flag"), extra.get("distance"), extra.get("score"), extra.get("weight"),
                    samples=samples, context=context, provenance=provenance), out)
        return 0
    return _write_features(table, samples, context, out, provenance)


def _write_features(table: Table, samples: Samples | None, context: Context, out: IO[bytes], provenance: list[str]) -> int:
    from ucl.formats.writer import ArtifactWriter

    n, _ = table.rows.shape
    head = Features(np.broadcast_to(np.float32(0), table.rows.shape), samples, table.model.get("model", ""),
                    table.model.get("weights-sha256", ""), table.model.get("layer", ""), table.model.get("transform") or "{}", context=context)
    specs: dict[str, Any] = {"/features": (table.rows.shape, table.rows.dtype)}
    if samples is not None:
        specs |= {"/samples/path": (samples.path.shape, samples.path.dtype), "/samples/status": ((n,), np.dtype("u1"))}
    with ArtifactWriter(out, head.kind, head.root_attrs(), specs, provenance) as writer:
        for name in writer.order:
            if name == "/samples/path":
                writer.write(name, samples.path)  # type: ignore[union-attr]
            elif name == "/samples/status":
                writer.write(name, samples.status)  # type: ignore[union-attr]
            else:
                at = 0
                for block in table.rows.blocks():
                    bad = ~np.isfinite(block).all(axis=1)
                    if bad.any() and samples is None:
                        raise DataError(f"{table.rows.name}: row {at + int(np.argmax(bad))} is not finite, and the rows have no names",
                                        "--paths FILE names the rows, so that such a row is flagged and left out")
                    if samples is not None:
                        samples.status[at:at + len(block)][bad] = NOT_FINITE
                    writer.write(name, block)
                    at += len(block)
        writer.finish()
    return int((samples.status != OK).sum()) if samples is not None else 0


def write_table(table: Table, form: str, out: IO[bytes], *, header: bool = True, everything: bool = False) -> None:
    """Write a table as npy, npz, csv or tsv.

    Args:
        table: what to write.  form: which.  out: binary file.
        header: csv: begin with a line of titles.
        everything: npz and csv of labels: also flag, distance, score and weight.
    """
    columns = {k: v for k, v in table.columns.items() if not (k == "score" and np.isnan(v).all())} if everything else {}
    if form == "npy":
        foreign.write_npy(out, table.rows)
    elif form == "npz":
        arrays: dict[str, Rows] = {}
        if table.paths is not None:
            texts = np.array([p.decode() for p in table.paths.tolist()])
            arrays["path"] = Rows("path", texts.shape, texts.dtype, lambda: foreign.in_blocks(texts))
        arrays["features" if table.kind == "ucl/features" else "labels"] = table.rows
        for key, values in columns.items():
            arrays[key] = Rows(key, values.shape, values.dtype, lambda values=values: foreign.in_blocks(values))  # type: ignore[misc]
        foreign.write_npz(out, arrays)
    else:
        _write_csv(table, "\t" if form == "tsv" else ",", out, columns, header)


def _write_csv(table: Table, mark: str, out: IO[bytes], columns: dict[str, NDArray[Any]], header: bool) -> None:
    titles = ["path"] if table.paths is not None else []
    titles += ["label"] if table.kind == "ucl/labels" else [f"f{i}" for i in range(table.rows.shape[1])]

    def blocks() -> Iterator[tuple[list[Any], ...]]:
        at = 0
        for block in table.rows.blocks():
            part = slice(at, at + len(block))
            names = [table.paths[part].tolist()] if table.paths is not None else []
            more = [[FLAGS[min(f, len(FLAGS) - 1)] for f in v[part].tolist()] if k == "flag" else v[part].tolist() for k, v in columns.items()]
            yield (*names, block.tolist(), *more)
            at += len(block)

    tabular.write_csv(out, [*titles, *columns], mark, blocks(), header=header)


def provenance(table: Table, settings: dict[str, Any]) -> list[str]:
    """The table's steps and this one."""
    return chain("convert", settings, 0, [table.origin] if table.origin is not None else [], "cpu", 0)
