"""ucl.images: the list, its order and its safety; reading everything once."""

from __future__ import annotations

import io
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucl import decode, images, pixels
from ucl.errors import DataError, InputMissing, UsageError
from ucl.listing import list_images


def put(path: Path, height: int = 12, width: int = 12, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "PNG")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    path.write_bytes(out.getvalue())
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(["b/2.png", "b/10.PNG", "a.png", "B/1.png", "b.png"]):
        put(tmp_path / "in" / name, seed=seed)
    return tmp_path / "in"


def test_folder_in_byte_order_without_hidden_and_other_files(folder: Path) -> None:
    put(folder / ".hidden.png")
    put(folder / ".cache" / "x.png")
    (folder / "notes.txt").write_text("x")
    listing = list_images(folder)
    assert listing.paths == [b"B/1.png", b"a.png", b"b.png", b"b/10.PNG", b"b/2.png"]
    assert listing.ignored == 1
    assert listing.root == str(folder)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputMissing, match="1 other files"):
        list_images(tmp_path)
    with pytest.raises(InputMissing, match="no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a folder"):
        list_images(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="no images given"):
        list_images(None)


def test_links(folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "out" / "o.png")
    (folder / "inside.png").symlink_to(folder / "a.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "again").symlink_to(folder / "b")
    (folder / "up").symlink_to(folder)
    listing = list_images(folder)
    assert {b"inside.png", b"loop.png"} < set(listing.paths)
    assert len(listing.paths) == 7
    made = images.read_all(listing, size=12, on_error="skip")
    row = listing.paths.index(b"loop.png")
    assert made.status.nonzero()[0].tolist() == [row]
    assert "leads back to itself" in made.reasons[row]
    assert len(list_images(folder, follow_links=True).paths) == 9
    (folder / "z.png").symlink_to(tmp_path / "out" / "o.png")
    with pytest.raises(DataError, match=r"z\.png: leads out"):
        list_images(folder)
    (folder / "z.png").unlink()
    (folder / "far").symlink_to(tmp_path / "out")
    with pytest.raises(DataError, match="far: leads out"):
        list_images(folder)
    assert b"far/o.png" in list_images(folder, follow_links=True).paths


def test_names_that_are_not_utf8(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(DataError, match="not UTF-8"):
        list_images(folder)
    listing = list_images(folder, escape_names=True)
    assert b"caf%E9.png" in listing.paths
    made = images.read_all(listing, size=12)
    assert made.n == 6
    row = listing.paths.index(b"caf%E9.png")
    np.testing.assert_array_equal(
        made.crops(np.array([row]), None, 12), made.batch(np.array([row]))
    )


def test_newline_in_a_name(folder: Path) -> None:
    put(folder / "a\nb.png")
    with pytest.raises(DataError, match="newline"):
        list_images(folder)
    assert b"a%0Ab.png" in list_images(folder, escape_names=True).paths


def test_files_from_keeps_the_order(folder: Path, tmp_path: Path, monkeypatch) -> None:
    names = tmp_path / "list.txt"
    names.write_bytes(b"b/2.png\r\n./a.png\n\nnone.png")
    listing = list_images(folder, files_from=names)
    assert listing.paths == [b"b/2.png", b"a.png", b"none.png"]
    monkeypatch.chdir(folder)
    assert list_images(None, files_from=names).paths == listing.paths
    assert list_images(None, files_from=names).root == str(folder)
    made = images.read_all(listing, size=12, on_error="skip")
    assert made.status.tolist() == [0, 0, decode.MISSING]

    class Pipe:
        buffer = io.BytesIO(b"a.png\n")

    monkeypatch.setattr(sys, "stdin", Pipe())
    assert list_images(folder, files_from="-").paths == [b"a.png"]


def test_files_from_with_absolute_paths(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text(f"{folder}/b/2.png\n{folder}/B/1.png\n")
    listing = list_images(None, files_from=names)
    assert listing.root == str(folder)
    assert listing.paths == [b"b/2.png", b"B/1.png"]
    assert list_images(folder, files_from=names).paths == listing.paths
    with pytest.raises(DataError, match=r"line 2: .*not below"):
        list_images(folder / "b", files_from=names)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a.png\nb.png\n./a.png\n", "lines 1 and 3 name the same image, a.png"),
        ("../in/a.png\n", "line 1"),
        ("a.png\nb\0.png\n", "line 2"),
    ],
)
def test_files_from_refuses(folder: Path, tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=match):
        list_images(folder, files_from=tmp_path / "list.txt")


def test_files_from_that_is_empty_or_missing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(InputMissing, match="empty"):
        list_images(folder, files_from=tmp_path / "list.txt")
    with pytest.raises(InputMissing, match="no such file"):
        list_images(folder, files_from=tmp_path / "other.txt")


def test_small_square_images_are_packed_as_they_are(folder: Path) -> None:
    listing = list_images(folder)
    calls: list[tuple[int, int]] = []
    made = images.read_all(
        listing, size=32, progress=lambda done, total: calls.append((done, total))
    )
    assert made.pixels is not None
    assert made.pixels.shape == (5, 12, 12, 3)
    assert calls[-1] == (5, 5)
    for row, path in enumerate(listing.paths):
        data = (folder / path.decode()).read_bytes()
        np.testing.assert_array_equal(made.pixels[row], decode.decode(data))
        assert (made.size[row], made.crc32[row]) == (len(data), zlib.crc32(data))
    assert made.height.tolist() == [12] * 5
    np.testing.assert_array_equal(made.batch(np.array([3, 1])), made.pixels[[3, 1]])


def test_mixed_sizes_are_packed_as_centre_squares(folder: Path) -> None:
    pixels = put(folder / "c.png", 20, 40)
    listing = list_images(folder)
    made = images.read_all(listing, size=16)
    assert made.pixels is not None
    assert made.pixels.shape == (6, 16, 16, 3)
    row = listing.paths.index(b"c.png")
    np.testing.assert_array_equal(made.pixels[row], decode.square(pixels, 16))
    assert (made.height[row], made.width[row]) == (20, 40)
    assert images.read_all(listing, size=16, pack_budget=6 * 16 * 16 * 3 - 1).pixels is None
    assert images.read_all(listing, size=16, pack_budget=6 * 16 * 16 * 3).pixels is not None
    assert images.read_all(listing, size=16, pack="none").pixels is None
    packed = images.read_all(listing, size=16, pack=10, pack_budget=0).pixels
    assert packed is not None
    assert packed.shape == (6, 10, 10, 3)
    with pytest.raises(UsageError, match="--pack"):
        images.read_all(listing, size=16, pack="some")


def test_rows_do_not_depend_on_workers_nor_on_where_they_go(tmp_path: Path, monkeypatch) -> None:
    for row in range(60):
        put(tmp_path / "many" / f"{row:03}.jpg", 150 + row % 3, 160, seed=row)
    listing = list_images(tmp_path / "many")
    alone = images.read_all(listing, size=24)
    monkeypatch.setattr(pixels, "IN_MEMORY", 1000)
    many = images.read_all(listing, size=24, workers=4, folder=tmp_path)
    assert isinstance(many.pixels, np.memmap)
    assert not list(tmp_path.glob("ucl-*"))                             # the file has no name
    assert many.squares is not None
    np.testing.assert_array_equal(np.concatenate(list(many.squares.blocks())), alone.pixels)
    for name in ("paths", "status", "size", "crc32", "pixels", "height", "width"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(many, name))
    rows = np.arange(59, -1, -1)
    boxes = np.tile([0.1, 0.2, 0.6, 0.9], (60, 1))
    np.testing.assert_array_equal(many.crops(rows, boxes, 9, 1), many.crops(rows, boxes, 9, 4))
    np.testing.assert_array_equal(many.crops(rows, None, 24, 3), alone.batch(rows))


@pytest.mark.parametrize("limit", [10**9, 100])
@pytest.mark.parametrize("odd", [(40, 40), (12, 14), (70, 70), (10, 10), None])
@pytest.mark.parametrize("at", [0, 7, 19])
def test_one_other_size_anywhere_gives_centre_squares(tmp_path: Path, monkeypatch, limit: int, odd: tuple[int, int] | None, at: int) -> None:
    """The side is found while reading; what was kept before the odd one is what reading it again would give."""
    monkeypatch.setattr(pixels, "IN_MEMORY", limit)
    wanted = []
    for row in range(20):
        path = tmp_path / "in" / f"{row:02}.png"
        if row == (at + 3) % 20:
            path.write_bytes(b"\x89PNG")
            wanted.append(None)
        else:
            wanted.append(put(path, *(odd if odd and row == at else (16, 16)), seed=row))
    for workers in (1, 3):
        made = images.read_all(list_images(tmp_path / "in"), size=24, on_error="skip", workers=workers)
        side = 16 if odd is None else 24
        assert made.pixels is not None
        assert made.pixels.shape == (20, side, side, 3)
        for row, image in enumerate(wanted):
            square = np.zeros((side, side, 3)) if image is None else decode.square(image, side)
            np.testing.assert_array_equal(made.pixels[row], square)
    if odd is not None:
        assert images.read_all(list_images(tmp_path / "in"), size=24, on_error="skip", pack_budget=20 * 24 * 24 * 3 - 1).pixels is None


def test_bad_images_fail_together_or_keep_their_rows(folder: Path) -> None:
    (folder / "b" / "2.png").write_bytes(b"no image")
    os.mkfifo(folder / "pipe.jpg")
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[:-30])
    listing = list_images(folder)
    with pytest.raises(DataError, match=r"a\.png: .*\(3 of 6 images cannot be used\)") as caught:
        images.read_all(listing, size=12)
    assert "--on-error skip" in caught.value.hint
    made = images.read_all(listing, size=12, on_error="skip", max_bad=0.5)
    bad = [listing.paths.index(name) for name in (b"a.png", b"b/2.png", b"pipe.jpg")]
    assert np.flatnonzero(made.status == decode.UNREADABLE).tolist() == sorted(bad)
    assert sorted(made.reasons) == sorted(bad)
    assert made.pixels is not None
    assert not made.pixels[bad].any()
    assert made.size[bad[0]] == len(whole) - 30
    with pytest.raises(DataError, match="status is UNREADABLE"):
        made.batch(np.array([bad[0]]))
    with pytest.raises(DataError, match=r"more than --max-bad 0\.4"):
        images.read_all(listing, size=12, on_error="skip", max_bad=0.4)
    large = images.read_all(listing, size=12, on_error="skip", max_pixels=10**6)
    assert (large.status == made.status).all()


def test_all_bad_and_too_large(folder: Path) -> None:
    listing = list_images(folder)
    with pytest.raises(DataError, match="no image can be used"):
        images.read_all(listing, size=12, on_error="skip", max_pixels=100)
    put(folder / "wide.png", 10, 20)
    made = images.read_all(list_images(folder), size=12, on_error="skip", max_pixels=150)
    assert made.status.tolist().count(decode.TOO_LARGE) == 1


def test_a_file_that_changed_or_went_is_named(folder: Path) -> None:
    listing = list_images(folder)
    made = images.read_all(listing, size=12, pack="none")
    with pytest.raises(DataError, match="not packed"):
        made.batch(np.array([0]))
    assert made.crops(np.arange(5), None, 6).shape == (5, 6, 6, 3)
    put(folder / "a.png", seed=99)
    with pytest.raises(DataError, match=r"a\.png: the file is not the one that was listed"):
        made.crops(np.arange(5), None, 6)
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        made.crops(np.arange(5), None, 6, workers=2)
    made.paths[0] = b"../x.png"
    with pytest.raises(DataError, match="not a plain relative path"):
        made.crops(np.array([0]), None, 6)


def test_digits_are_built_in() -> None:
    from sklearn.datasets import load_digits

    listing = list_images("digits")
    assert listing.paths[:2] == [b"digits/0000.png", b"digits/0001.png"]
    made = images.read_all(listing, size=16, workers=2)
    assert made.pixels is not None
    assert made.pixels.shape == (1797, 8, 8, 3)
    np.testing.assert_allclose(made.pixels[:, :, :, 1] / 255 * 16, load_digits().images, atol=0.04)
    doubled = images.read_all(listing, size=16, pack=16)
    assert doubled.pixels is not None
    assert doubled.pixels.shape == (1797, 16, 16, 3)
    np.testing.assert_array_equal(doubled.pixels[7, 0, 0], made.pixels[7, 0, 0])
    rows = np.array([5, 1700])
    np.testing.assert_array_equal(made.crops(rows, None, 16), doubled.batch(rows))
    with pytest.raises(UsageError, match="built in"):
        list_images("digits", files_from="x")
