"""ucl.decode: every odd file becomes one RGB picture or one clear fault."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ucl import decode
from ucl.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 8, columns * 6, (rows + columns) * 4], 2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_formats_give_the_very_pixels(kind: str) -> None:
    np.testing.assert_array_equal(
        decode.decode(encoded(Image.fromarray(gradient()), kind)), gradient()
    )


def test_webp_and_jpeg_are_close() -> None:
    lossless = encoded(Image.fromarray(gradient()), "WEBP", lossless=True)
    np.testing.assert_array_equal(decode.decode(lossless), gradient())
    jpeg = decode.decode(encoded(Image.fromarray(gradient()), "JPEG", quality=98))
    assert np.abs(jpeg.astype(int) - gradient()).mean() < 3


def test_transparency_lies_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 255, 51  # black: unseen, full, one fifth
    got = decode.decode(encoded(Image.fromarray(pixels, "RGBA")))
    np.testing.assert_array_equal(got[0, :, 0], [255, 0, 204])
    grey = np.array([[[0, 0], [0, 255]]], np.uint8)
    np.testing.assert_array_equal(
        decode.decode(encoded(Image.fromarray(grey, "LA")))[0, :, 1], [255, 0]
    )


def test_palette_with_a_transparent_entry() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    got = decode.decode(encoded(image, transparency=0))
    np.testing.assert_array_equal(got, [[[255, 255, 255], [40, 50, 60]]])


def test_grey_one_bit_and_sixteen_bit() -> None:
    grey = np.array([[0, 128, 255]], np.uint8)
    got = decode.decode(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(got, np.repeat(grey[:, :, None], 3, 2))
    bits = decode.decode(encoded(Image.fromarray(grey > 100)))
    np.testing.assert_array_equal(bits[0, :, 2], [0, 255, 255])
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    np.testing.assert_array_equal(
        decode.decode(encoded(Image.fromarray(deep)))[0, :, 0], [0, 0, 1, 255]
    )


def test_cmyk_jpeg() -> None:
    got = decode.decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert got.shape == (8, 8, 3)
    assert (got[4, 4] - np.array([255, 0, 0]) < 12).all()
    assert got[4, 4, 0] > 240


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "PNG", exif=exif)
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode.decode(data), want)
    assert want.shape[:2] == ((20, 30) if orientation < 5 else (30, 20))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(Image.fromarray(gradient()), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode.decode(data), gradient())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_truncated_files_are_unreadable_at_every_cut(kind: str) -> None:
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)), kind)
    for cut in (1, 10, 30, len(data) // 2, int(len(data) * 0.9)):
        with pytest.raises(decode.Undecodable) as caught:
            decode.decode(data[:cut])
        assert caught.value.status == decode.UNREADABLE
        assert caught.value.reason
        assert "\n" not in caught.value.reason


def test_other_formats_and_empty_files() -> None:
    with pytest.raises(decode.Undecodable, match="not a JPEG, PNG, WebP or BMP file"):
        decode.decode(encoded(Image.fromarray(gradient()), "GIF"))
    with pytest.raises(decode.Undecodable, match="empty"):
        decode.decode(b"")


def test_flipped_bytes_raise_nothing_else() -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        data = bytearray(encoded(Image.fromarray(gradient()), kind))
        for place in rng.integers(0, len(data), 60):
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            with contextlib.suppress(decode.Undecodable):  # and nothing else
                assert decode.decode(bytes(flipped), max_pixels=10**6).ndim == 3


def test_bombs_are_too_large_before_they_are_decoded() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)

    def part(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    bomb = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 100))
    with pytest.raises(decode.Undecodable, match="60000 x 60000") as caught:
        decode.decode(bomb + part(b"IEND", b""))
    assert caught.value.status == decode.TOO_LARGE
    with pytest.raises(decode.Undecodable):
        decode.decode(encoded(Image.fromarray(gradient())), max_pixels=599)
    assert decode.decode(encoded(Image.fromarray(gradient())), max_pixels=600).shape == (20, 30, 3)


def test_square_is_the_centre_and_leaves_fitting_images_alone() -> None:
    image = gradient(10, 30)
    np.testing.assert_array_equal(decode.square(image, 10), image[:, 10:20])
    same = gradient(8, 8)
    assert decode.square(same, 8) is same
    flat = np.full((50, 70, 3), 77, np.uint8)
    np.testing.assert_array_equal(decode.square(flat, 16), np.full((16, 16, 3), 77))
    want = np.asarray(Image.fromarray(image[:, 10:20]).resize((5, 5), Image.Resampling.BILINEAR))
    assert np.abs(decode.square(image, 5).astype(int) - want).max() <= 1


def test_crop_share_takes_shares_of_both_sides() -> None:
    image = gradient(10, 20)
    got = decode.crop_share(image, np.array([0.25, 0.2, 0.5, 0.7]), 5)
    np.testing.assert_array_equal(got, image[2:7, 5:10])


def test_read_file_never_opens_a_fifo(tmp_path) -> None:
    fifo = tmp_path / "a.jpg"
    os.mkfifo(fifo)
    with pytest.raises(decode.Undecodable, match="not a regular file"):
        decode.read_file(os.fsencode(fifo))
    with pytest.raises(decode.Undecodable) as caught:
        decode.read_file(os.fsencode(tmp_path / "none.jpg"))
    assert caught.value.status == decode.MISSING


@pytest.mark.parametrize(
    "path",
    [b"/a.jpg", b"../a.jpg", b"a/../b.jpg", b"a//b.jpg", b"", b"a\nb.jpg", b"a\0.jpg", b"x" * 4096],
)
def test_unsafe_stored_paths_are_refused(path: bytes) -> None:
    with pytest.raises(DataError):
        decode.check_path(path)


def test_escaped_names_come_back() -> None:
    for name in (b"caf\xe9.jpg", b"100%.jpg", b"a\nb.jpg", "grüße/ñ.png".encode()):
        stored = decode.stored_path(name, True)
        stored.decode("utf-8")
        assert decode.full_path("/r", stored, True) == b"/r/" + name
    assert decode.stored_path(b"caf\xe9.jpg", True) == b"caf%E9.jpg"
    assert decode.show(b"a\xe9\x1b[31m") == "a\\xe9\\x1b[31m"


@pytest.mark.parametrize("workers", [1, 3])
def test_in_order_keeps_the_order_and_the_window(workers: int) -> None:
    import time

    started: list[int] = []

    def work(start: int, stop: int) -> list[int]:
        started.append(start)
        time.sleep(0.002 * (stop - start) if start < 40 else 0)
        return list(range(start, stop))

    seen = []
    for item in decode.in_order(work, 200, workers):
        seen.append(item)
        assert max(started) - item <= 8 * (2 * workers + 3)
    assert seen == list(range(200))
