"""Images in tar archives: the list of the folder they were made from, the same bytes, and no surprise from a hostile or cut one."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from releases import archive

from ucl import decode, images
from ucl.artifacts import Samples
from ucl.errors import DataError, InputMissing, StorageError, UsageError
from ucl.listing import list_images
from ucl.sources import tar
from ucl.targets import true_classes

LONG = "a very long folder name that no old header has room for/" * 3


def png(seed: int, size: int = 12) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(["b/2.png", "b/10.PNG", "a.png", "B/1.png", "b.png", LONG + "x.png", "b/\u00e9\u4e2d.png"]):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / ".hidden.png").write_bytes(png(9))
    (tmp_path / "in" / "._b.png").write_bytes(b"resource fork")
    (tmp_path / "in" / "broken.png").write_bytes(png(3)[:-30])
    return tmp_path / "in"


KINDS = [pytest.param(tarfile.USTAR_FORMAT, id="ustar"), pytest.param(tarfile.GNU_FORMAT, id="gnu"), pytest.param(tarfile.PAX_FORMAT, id="pax")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top", "mode"), [("photos", "w"), (".", "w"), ("photos", "w:gz")])
def test_the_archive_of_a_folder_is_the_folder(folder: Path, tmp_path: Path, kind: int, top: str, mode: str) -> None:
    with tarfile.open(tmp_path / "x.tar", mode, format=kind) as out:  # type: ignore[call-overload]
        out.add(folder, top)
    plain, packed = list_images(folder), list_images(tmp_path / "x.tar")
    assert packed.paths == plain.paths
    assert packed.ignored == plain.ignored == 1
    a, b = (images.read_all(x, size=12, on_error="skip", workers=2) for x in (plain, packed))
    for name in ("status", "size", "crc32", "height", "width", "pixels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.reasons == b.reasons
    if mode == "w":
        loose = images.read_all(packed, size=12, on_error="skip", pack="none")
        good = np.flatnonzero(loose.status == decode.OK)[::-1]
        np.testing.assert_array_equal(loose.crops(good, None, 12, 2), a.pixels[good])


@pytest.mark.parametrize("kind", KINDS)
def test_the_index_is_tarfiles(tmp_path: Path, kind: int) -> None:
    rng = np.random.default_rng(0)
    files = {f"{'d' * int(rng.integers(1, 70))}/{'e' * int(rng.integers(1, 90))}{i}": rng.bytes(int(rng.integers(0, 2000))) for i in range(40)}
    path = archive(tmp_path / "x.tar", files, kind=kind)
    with tarfile.open(path) as theirs, path.open("rb") as file:
        wanted = [(m.name, m.offset_data, m.size) for m in theirs.getmembers()]
        found, others = tar.index(file, "x")
        assert [(m.name.decode(), m.offset, m.size) for m in found] == wanted
        assert others == 0
        for member, data in zip(found, files.values(), strict=True):
            assert os.pread(file.fileno(), member.size, member.offset) == data


def test_large_sizes_in_base_256(tmp_path: Path) -> None:
    """A member beyond 8 GiB has a size that no octal field holds; the file is sparse."""
    info = tarfile.TarInfo("big.bin")
    info.size = 9 << 30
    head = info.tobuf(tarfile.GNU_FORMAT)
    last = tarfile.TarInfo("a.png")
    last.size = len(png(0))
    with (tmp_path / "x.tar").open("wb") as out:
        out.write(head)
        out.seek(info.size, os.SEEK_CUR)
        out.write(last.tobuf(tarfile.GNU_FORMAT) + png(0) + bytes(-len(png(0)) % 512) + bytes(1024))
    listing = list_images(tmp_path / "x.tar")
    assert listing.paths == [b"a.png"]
    assert images.read_all(listing, size=12).status.tolist() == [decode.OK]


def test_links_devices_and_duplicates(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", {"p/a.png": png(0), "p/b.png": png(1)})
    with tarfile.open(path, "a") as out:
        for kind, name in ((tarfile.SYMTYPE, "p/link.png"), (tarfile.LNKTYPE, "p/hard.png"), (tarfile.CHRTYPE, "p/device.png"),
                           (tarfile.FIFOTYPE, "p/fifo.png"), (tarfile.DIRTYPE, "p/folder.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            out.addfile(info)
        again = tarfile.TarInfo("p/a.png")
        again.size = len(png(7))
        out.addfile(again, io.BytesIO(png(7)))
    listing = list_images(path)
    assert listing.paths == [b"a.png", b"b.png"]
    assert listing.ignored == 5                                          # four that are no files, and the first a.png
    made = images.read_all(listing, size=12)
    assert made.pixels is not None
    np.testing.assert_array_equal(made.pixels[0], decode.decode(png(7)))    # as tar -x would leave it


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "a//x.png", "./../x.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "x.tar", {"a.png": png(0), name: png(1)})
    with pytest.raises(DataError, match="not a plain relative name"):
        list_images(path)


def test_names_that_cannot_be_stored(tmp_path: Path) -> None:
    info = tarfile.TarInfo("caf\udce9.png")
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as out:
        out.addfile(info)
    with pytest.raises(DataError, match="not UTF-8"):
        list_images(tmp_path / "x.tar")
    assert list_images(tmp_path / "x.tar", escape_names=True).paths == [b"caf%E9.png"]


def test_cut_anywhere_is_told(tmp_path: Path) -> None:
    whole = archive(tmp_path / "x.tar", {f"d/{i}.png": png(i) for i in range(4)}).read_bytes()
    end = len(whole.rstrip(b"\0")) + (-len(whole.rstrip(b"\0")) % 512)
    for length in [*range(1, end, 97), *range(0, end + 1, 512)]:
        (tmp_path / "x.tar").write_bytes(whole[:length])
        with pytest.raises((DataError, InputMissing), match=r"cut|not a tar|no images") as caught:
            list_images(tmp_path / "x.tar")
        if length > 512:
            assert f"found {length} bytes, wanted" in caught.value.message
    (tmp_path / "x.tar").write_bytes(whole[:end + 512])                  # one block of zeros is an end mark
    assert len(list_images(tmp_path / "x.tar").paths) == 4


def test_damage_is_told(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", {f"d/{i}.png": png(i) for i in range(4)})
    whole = path.read_bytes()
    with tarfile.open(path) as file:
        second = file.getmembers()[1].offset
    damaged = bytearray(whole)
    damaged[second + 3] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=f"a damaged archive: no header at byte {second}"):
        list_images(path)
    path.write_bytes(whole + whole)
    with pytest.raises(DataError, match="bytes after the end mark"):
        list_images(path)
    path.write_bytes(b"no archive" * 200)
    with pytest.raises(DataError, match="not a tar archive"):
        list_images(path)
    with pytest.raises(InputMissing, match="no images in this archive \\(1 other members\\)"):
        list_images(archive(tmp_path / "y.tar", {"a.txt": b"x"}))


def test_a_byte_that_changed_since(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", {f"d/{i}.png": png(i) for i in range(4)})
    made = images.read_all(list_images(path), size=12, pack="none")
    assert made.records is not None
    data = bytearray(path.read_bytes())
    data[int(made.records.offset[2]) + 60] ^= 1
    path.write_bytes(bytes(data))
    assert made.crops(np.array([0, 1, 3]), None, 12).shape == (3, 12, 12, 3)
    with pytest.raises(DataError, match=r"^2\.png: the record is not the one that was listed"):
        made.crops(np.array([2]), None, 12)


def classes(source: Path) -> list[str]:
    paths = np.array(list_images(source).paths)
    names, y = true_classes(Samples(paths, np.zeros(len(paths), np.uint8)))
    return [names[i] for i in y]


def test_class_folders_inside_and_archives_of_a_class(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": png(i) for c in ("cat", "ant") for i in range(2)}
    assert classes(archive(tmp_path / "x.tar", {f"photos/{n}": d for n, d in files.items()})) == ["ant", "ant", "cat", "cat"]
    (tmp_path / "by-class").mkdir()
    for c in ("cat", "ant"):
        archive(tmp_path / "by-class" / f"{c}.tar", {f"{i}.png": png(i) for i in range(2)})
    assert list_images(tmp_path / "by-class").paths == sorted(n.encode() for n in files)
    assert classes(tmp_path / "by-class") == ["ant", "ant", "cat", "cat"]


def test_shards(tmp_path: Path) -> None:
    """Folders in the archives are kept, an archive's name is then not part of the path."""
    names = [f"{c}/{i:03}.png" for c in ("cat", "ant", "bee") for i in range(30)]
    (tmp_path / "plain").mkdir()
    for shard in range(3):
        (tmp_path / "shards").mkdir(exist_ok=True)
        files = {f"all/{n}": png(i) for i, n in enumerate(names) if i % 3 == shard}
        archive(tmp_path / "shards" / f"s-{shard}.tar", files | {f"all/{shard}.json": b"{}"})
    for i, name in enumerate(names):
        path = tmp_path / "plain" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(i))
    a, b = list_images(tmp_path / "plain"), list_images(tmp_path / "shards")
    assert a.paths == b.paths
    assert b.ignored == 3
    loose = images.read_all(b, size=12, pack="none")
    rows = np.random.default_rng(0).permutation(90)
    np.testing.assert_array_equal(loose.crops(rows, None, 12, 3), images.read_all(a, size=12).pixels[rows])  # type: ignore[index]
    archive(tmp_path / "shards" / "s-9.tar", {"all/bee/003.png": png(0)})
    with pytest.raises(DataError, match=r"bee/003\.png is in s-0\.tar and in s-9\.tar"):
        list_images(tmp_path / "shards")
    (tmp_path / "shards" / "s-9.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"s-9\.tar: found 0 bytes"):
        list_images(tmp_path / "shards")
    (tmp_path / "shards" / "readme.txt").write_text("not only archives")
    with pytest.raises(InputMissing, match="no images in this folder"):
        list_images(tmp_path / "shards")


def test_more_archives_than_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ucl.sources import records

    monkeypatch.setattr(records, "_OPEN_FILES", 2)
    (tmp_path / "shards").mkdir()
    for shard in range(5):
        archive(tmp_path / "shards" / f"c{shard}.tar", {f"{i}.png": png(10 * shard + i) for i in range(3)})
    loose = images.read_all(list_images(tmp_path / "shards"), size=12, pack="none")
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = loose.crops(np.arange(15), None, 12, 2)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    np.testing.assert_array_equal(found[7], decode.decode(png(21)))


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("x.tar", "train_32x32.mat", "x.h5", "x.tar.gz"):
        os.mkfifo(tmp_path / name)
        with pytest.raises((UsageError, InputMissing), match=r"not a folder|missing"):
            list_images(tmp_path / name)


def test_no_room_for_a_compressed_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "x.tar.gz", {"a.png": png(0)}, mode="w:gz")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        list_images(path)
