"""Image bytes to RGB pixels: one decision for every odd file, so that no two commands see another
picture.

JPEG, PNG, WebP and BMP only, known by their first bytes and not by their names.  The plug-in of PIL
is called
directly: ``Image.open`` would consult process-wide limits and warn instead of failing.  Truncated
    files are errors
(PIL's ``LOAD_TRUNCATED_IMAGES`` stays off: half-grey images are silent poison).

Transparent pixels are laid over **white**.  The usual transparent pictures of a real collection are
cut-outs (product photos, logos, drawings), which are made for a white page; black would swallow
their dark edges, and dropping the alpha channel would show whatever the editor left underneath.

Only PIL and numpy are imported; no torch.
"""

# Paths are bytes here, since names need not be UTF-8, and pathlib knows only str.
# ruff: noqa: PTH114, PTH116, PTH118
from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from ucl.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageFile

OK = 0
UNREADABLE = 1
TOO_LARGE = 2
NOT_FINITE = 3
MISSING = 4
PENDING = 255
"""Codes of ``/samples/status`` (ucl-formats(5))."""

STATUS_NAMES: dict[int, str] = {
    OK: "OK",
    UNREADABLE: "UNREADABLE",
    TOO_LARGE: "TOO_LARGE",
    NOT_FINITE: "NOT_FINITE",
    MISSING: "MISSING",
    PENDING: "PENDING",
}
MAX_PIXELS = 178_956_970
"""Default limit on height x width, where PIL itself sees a decompression bomb."""

MAX_FILE_BYTES = 1 << 30

_CHUNK = 8  # images in one unit of work
WORTH_A_THREAD = 1e-3  # seconds an image takes
MAX_PATH_BYTES = 4095
_HEADER = 16
_PART = 1 << 20
_ORIENTATION = 0x0112


class Undecodable(Exception):
    """One image that cannot be used.

    Args:
        status: its code, `UNREADABLE`, `TOO_LARGE` or `MISSING`.
        reason: what is wrong with it, one line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decodes one image file.

    EXIF orientation is applied; grey, palette, 1-bit, 16-bit (divided by 256) and CMYK images
    become RGB; transparency is laid over white; of an animation the first frame counts.  Embedded
    colour profiles are ignored, as every training pipeline does.

    Args:
        data: the bytes of the file.
        max_pixels: largest height x width that is decoded.

    Returns:
        (H, W, 3) uint8, writable, C-contiguous.

    Raises:
        Undecodable: with status `TOO_LARGE` or `UNREADABLE`.
    """
    import numpy as np

    try:
        image = _open(io.BytesIO(data), data[:_HEADER])
        if image.width * image.height > max_pixels:
            raise Undecodable(
                TOO_LARGE, f"{image.width} x {image.height} pixels, more than {max_pixels}"
            )
        image.load()
        return np.array(_rgb(_upright(image)), dtype=np.uint8, order="C")
    except Undecodable:
        raise
    except MemoryError:
        raise Undecodable(TOO_LARGE, "not enough memory to decode it") from None
    except (
        Exception
    ) as error:  # damaged files reach every corner of a decoder: any exception means one bad image
        raise Undecodable(UNREADABLE, _one_line(error)) from error


def square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The centre square of an image at ``size`` x ``size``: short side to ``size``, long side cut
    equally.

    PIL's antialiased bilinear filter; the square is cut and resized in one pass, so nothing is
    rounded in between.

    Args:
        image: (H, W, 3) uint8.
        size: side of the result.

    Returns:
        (size, size, 3) uint8; the image itself if it has this shape already.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return crop(image, (left, top, left + side, top + side), size)


def crop(
    image: NDArray[np.uint8], box: tuple[float, float, float, float], size: int
) -> NDArray[np.uint8]:
    """A box of an image at ``size`` x ``size``, PIL's antialiased bilinear filter.

    Args:
        image: (H, W, 3) uint8.
        box: (left, top, right, bottom) in pixels, within the image.
        size: side of the result.

    Returns:
        (size, size, 3) uint8.
    """
    import numpy as np
    from PIL import Image

    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def crop_share(
    image: NDArray[np.uint8], box: NDArray[np.float64] | None, size: int
) -> NDArray[np.uint8]:
    """`crop` with a box (4,) of shares of width and height; None: `square`."""
    if box is None:
        return square(image, size)
    height, width = image.shape[:2]
    left, top, right, bottom = (
        round(float(share) * side, 6)
        for share, side in zip(box, (width, height, width, height), strict=True)
    )
    return crop(
        image, (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)), size
    )


def file_size(path: bytes) -> int:
    """Length of one image file in bytes; nothing is opened.

    All but regular files are refused: opening a FIFO waits, or wakes its writer.

    Raises:
        Undecodable: with status `MISSING`, `UNREADABLE` or `TOO_LARGE`.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        gone = os.path.islink(path)
        raise Undecodable(MISSING, "a link to nothing" if gone else "no such file") from None
    except OSError as error:
        reason = (
            "a link that leads back to itself" if error.errno == errno.ELOOP else error.strerror
        )
        raise Undecodable(UNREADABLE, reason or str(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise Undecodable(UNREADABLE, "not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise Undecodable(
            TOO_LARGE, f"the file has {found.st_size} bytes, more than {MAX_FILE_BYTES}"
        )
    return found.st_size


def open_file(path: bytes) -> int:
    """A descriptor of a regular file, which may be larger than an image file.

    It is opened without waiting, should the file have become a FIFO since it was looked at.

    Raises:
        Undecodable: with status `MISSING` or `UNREADABLE`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        status = MISSING if error.errno in (errno.ENOENT, errno.ENOTDIR) else UNREADABLE
        raise Undecodable(status, error.strerror or str(error)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Undecodable(UNREADABLE, "not a regular file")
    return fd


def read_file(path: bytes) -> bytes:
    """The bytes of one image file; only a regular file is ever opened.

    Args:
        path: where it is.

    Returns:
        Its bytes.

    Raises:
        Undecodable: with status `MISSING`, `UNREADABLE` or `TOO_LARGE`.
    """
    size = file_size(path)
    fd = open_file(path)
    try:
        data = os.read(fd, size + 1)
        while len(data) != size and (more := os.read(fd, _PART)):  # it grew, or came in pieces
            data += more
        return data
    except OSError as error:
        raise Undecodable(UNREADABLE, error.strerror or str(error)) from None
    finally:
        os.close(fd)


def show(path: bytes) -> str:
    """A path for people: UTF-8, with what is not printable escaped."""
    text = bytes(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def check_path(path: bytes) -> None:
    """Refuses a stored path that could leave its root or break a line-based tool.

    Args:
        path: as stored in ``/samples/path``.

    Raises:
        DataError: if it is empty, absolute, longer than 4,095 bytes, or holds ``..``, an empty
            part, NUL or newline.
    """
    if len(path) > MAX_PATH_BYTES:
        raise DataError(
            f"{show(path[:60])}...: the path has {len(path)} bytes, more than {MAX_PATH_BYTES}",
            "start from a folder further down",
        )
    parts = path.split(b"/")
    if b"\0" in path or b"\n" in path:
        raise DataError(
            f"{show(path)}: the name holds a NUL or a newline",
            "rename it, or --escape-names",
        )
    if b".." in parts or b"" in parts:
        raise DataError(
            f"{show(path)}: not a plain relative path (absolute, empty or '..')",
            "paths must stay below the image folder",
        )


def stored_path(path: bytes, escape_names: bool) -> bytes:
    """A path as it is stored, checked."""
    if escape_names:
        text = path.decode("utf-8", "surrogateescape")
        path = b"".join(
            b"%%%02X" % (ord(char) & 0xFF)
            if "\udc80" <= char <= "\udcff" or char < " " or char in "%\x7f"
            else char.encode()
            for char in text
        )
    else:
        try:
            path.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(
                f"{show(path)}: the name is not UTF-8", "rename it, or --escape-names"
            ) from None
    check_path(path)
    return path


def full_path(root: str, path: bytes, escaped: bool) -> bytes:
    """Where the file of a stored path is: under ``root``, percent-decoded if the list is ``escaped``."""
    return os.path.join(os.fsencode(root), unquote_to_bytes(path) if escaped else path)


def in_order(
    work: Callable[[int, int], Sequence[Any]], count: int, workers: int, *, slow: bool = False
) -> Generator[Any, None, None]:
    """Results of ``work(start, stop)`` over 0..count in row order, a bounded number in flight.

    Threads start once an image takes longer than `WORTH_A_THREAD`: on tiny images they only
    fight for the interpreter's lock (50,000 JPEGs of 32 px: 4 s alone, 10 s with two threads).
    ``slow`` says that they are known to take longer, and starts the threads at once.
    """
    start = 0
    while start < count and not (slow and workers > 1):
        stop = min(start + _CHUNK, count)
        began = time.perf_counter()
        results = work(start, stop)
        slow = time.perf_counter() - began > WORTH_A_THREAD * (stop - start)
        first, start = start == 0, stop
        yield from results
        if slow and workers > 1 and not first:  # the first unit also imports the decoders
            break
    if start == count:
        return
    pending: deque[Future[Sequence[Any]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for begin in range(start, count, _CHUNK):
                pending.append(pool.submit(work, begin, min(begin + _CHUNK, count)))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _open(file: IO[bytes], head: bytes) -> ImageFile.ImageFile:
    """The plug-in's image for the first bytes of a file; nothing is decoded yet."""
    if head.startswith(b"\xff\xd8\xff"):
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(file)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile(file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        from PIL.WebPImagePlugin import WebPImageFile

        return WebPImageFile(file)
    if head.startswith(b"BM"):
        from PIL.BmpImagePlugin import BmpImageFile

        return BmpImageFile(file)
    if not head:
        raise Undecodable(UNREADABLE, "the file is empty")
    raise Undecodable(UNREADABLE, "not a JPEG, PNG, WebP or BMP file")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; an unreadable EXIF block means upright."""
    from PIL import Image

    turns = Image.Transpose
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is a format of its own, written by anything; the pixels are sound
        return image
    turn = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode the four formats yield, as RGB; transparency over white."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
