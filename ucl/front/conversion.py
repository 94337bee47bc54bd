"""What `convert` reads and writes: which format a file is in, and how its rows get their names."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ucl.convert import Table, foreign_hdf5, from_artifact, from_foreign
from ucl.errors import DataError, InputMissing, NotPermitted, UsageError
from ucl.foreign import Found, read_dataset, read_npy, read_npz
from ucl.formats.spool import spool_file
from ucl.front.listing import list_of
from ucl.front.streams import standard_input, stdin_is_data
from ucl.names import Names, read_names, require_plain
from ucl.tabular import read_csv

ENDINGS = {".h5": "h5", ".hdf5": "h5", ".npy": "npy", ".npz": "npz", ".csv": "csv", ".tsv": "tsv"}
KINDS = ("ucl/features", "ucl/labels")


def form_of(name: str) -> str | None:
    """The format that a file's ending says."""
    return ENDINGS.get(Path(name).suffix.lower())


@contextmanager
def opened(given: str | None, form: str | None) -> Iterator[tuple[str, IO[bytes], str]]:
    """(format, file, name in messages) of the input; what is not HDF5 can be seeked, so a pipe of it is spooled.

    Raises:
        UsageError: no input, or a pipe of unknown format.  InputMissing, NotPermitted: no such file.
        DataError: empty, or of no known format.
    """
    if given is None and not stdin_is_data():
        raise UsageError("no input: found no INPUT and no data on standard input", "ucl convert INPUT -o OUT, or pipe it in with --from FORMAT")
    if given in (None, "-"):
        with os.fdopen(os.dup(standard_input("data")), "rb") as source:
            regular = stat.S_ISREG(os.fstat(source.fileno()).st_mode)
            form = form or (sniffed(source, "stdin") if regular else "h5")
            if regular or form == "h5":
                yield form, source, "stdin"
                return
            with spool_file("standard input", None) as spool:
                shutil.copyfileobj(source, spool, 1 << 20)
                if not spool.tell():
                    raise DataError("stdin: empty: the producer wrote nothing", "look at the messages of the command before the pipe")
                spool.seek(0)
                yield form, spool, "stdin"
        return
    assert given is not None
    with _open(given) as source:
        yield form or sniffed(source, given), source, given


def _open(name: str) -> IO[bytes]:
    try:
        return Path(name).open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissing(f"{name}: no such file", "look at the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{name}: is a folder, wanted a file", f"ls {name}") from error
    except PermissionError as error:
        raise NotPermitted(f"{name}: cannot read: {error.strerror}", f"ls -l {name}") from error


def sniffed(file: IO[bytes], name: str) -> str:
    """The format by content; of text the separator by ending, or by a tab in the first line."""
    from ucl.formats.reader import looks_like

    head = os.pread(file.fileno(), 4096, 0)
    if not head:
        raise DataError(f"{name}: empty: 0 bytes", "the writer or the copy did not finish: make the file again")
    for magic, form in ((b"\x89HDF", "h5"), (b"\x93NUMPY", "npy"), (b"PK\x03\x04", "npz"), (b"PK\x05\x06", "npz")):
        if head.startswith(magic):
            return form
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    if b"\0" in head or any(c < 32 and c not in b"\t\r" for c in line):
        raise DataError(f"{name}: begins like {looks_like(head)}, wanted HDF5, .npy, .npz, CSV or TSV", "--from FORMAT if it is one of these")
    return "tsv" if form_of(name) == "tsv" or b"\t" in line else "csv"


@contextmanager
def table_of(form: str, file: IO[bytes], name: str, labelled: bool | None, array: str | None, *, narrow: bool) -> Iterator[tuple[Table, bool]]:
    """(table, whether somebody else wrote it) of an input of a known format.

    Raises:
        DataError, UsageError: see `from_foreign` and the readers.
    """
    if form == "h5" and array is None:
        from ucl.formats.reader import open_artifact

        expect = KINDS if labelled is None else KINDS[labelled:][:1]
        with open_artifact(file.fileno(), expect, name=name) as opened_file:
            if opened_file.foreign:
                yield from_foreign(foreign_hdf5(opened_file), None, narrow=narrow), True
            else:
                yield from_artifact(opened_file), False
        return
    found = _found(form, file, name, labelled, array)
    yield from_foreign(found, labelled, narrow=narrow), True


def _found(form: str, file: IO[bytes], name: str, labelled: bool | None, array: str | None) -> Found:
    if form == "h5":
        if name == "stdin":
            raise UsageError("--array: HDF5 on standard input is read for features or labels only", "give the file by its name")
        return read_dataset(name, str(array))
    if array is not None and form != "npz":
        raise UsageError(f"--array: {name} is {form}, which holds one array", "leave --array out")
    if form == "npy":
        return read_npy(file, name)
    if form == "npz":
        return read_npz(file, name, array)
    return read_csv(file, name, "\t" if form == "tsv" else ",", labelled)


def attach(table: Table, paths: str | None, images: str | None) -> None:
    """Give a table's rows the names of a text file or of an image list.

    Raises:
        UsageError: the rows have names, or two lists were given.  DataError: another number of names than of rows.
    """
    if paths is None and images is None:
        return
    if paths is not None and images is not None:
        raise UsageError("--paths and --images: give one of them", "leave one out")
    if table.paths is not None:
        raise UsageError(f"{table.rows.name}: its rows have names", "--paths and --images are for rows that have none; ucl align changes their order")
    names: Names = read_names(Path(paths)) if paths is not None else list_of(images, None)[0].path
    where = str(paths if paths is not None else images)
    if len(names) != table.rows.shape[0]:
        raise DataError(f"{where}: {len(names)} names for the {table.rows.shape[0]} rows of {table.rows.name}",
                        "one name per row, in the order of the rows")
    require_plain(names, where)
    table.paths = names


def settings_of(**given: Any) -> dict[str, Any]:
    """What was asked for, for the provenance."""
    return {k: v for k, v in given.items() if v not in (None, False)}
