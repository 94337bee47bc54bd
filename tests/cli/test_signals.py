"""What a signal, a missing byte or an odd number does at the places where a review found it wrong."""

import os
import signal
import time
import tomllib
from pathlib import Path

import numpy as np
from PIL import Image

from cli.harness import Runner, tree


def test_init_stops_and_leaves_nothing(ucl: Runner, tmp_path: Path) -> None:
    """TERM while images are being decoded: the exit code of TERM, and no directory."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    Image.fromarray(noise).save(folder / "0.png", compress_level=1)
    for i in range(1, 400):
        os.link(folder / "0.png", folder / f"{i}.png")
    before = tree(tmp_path)
    process = ucl.start("init", "deepcluster", folder, "-o", "run", "-j", 1, cwd=tmp_path)
    time.sleep(1.0)
    process.kill(signal.SIGTERM)
    result = process.wait()
    assert result.code == 143, result.err
    assert "stopped by SIGTERM" in result.err
    assert tree(tmp_path) == before


def test_a_signalled_pipe_ends_in_the_signals_code(ucl: Runner, small: Path) -> None:
    """USR1 reaches every stage; the last one's code is the pipe's, and it is 75, though its input was cut off."""
    read, write = os.pipe()
    last = ucl.start("train-epoch", cwd=small, stdin=read)
    os.close(read)
    time.sleep(1.0)
    last.kill(signal.SIGUSR1)
    time.sleep(0.2)
    os.close(write)  # as the stage before does when it is stopped
    result = last.wait()
    assert result.code == 75, result.err
    assert "stopped by SIGUSR1" in result.err


def test_zero_threads_are_resolved_before_they_are_frozen(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    assert ucl("init", "deepcluster", photos, "-o", "run", "--size", 16, "-j", 0, cwd=tmp_path).code == 0
    assert tomllib.loads((tmp_path / "run/ucl.toml").read_text())["threads"] == len(os.sched_getaffinity(0))


def test_pixels_are_never_packed_larger_than_the_views_unasked(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """16 px photos for views of 8 px are packed at 8; a larger pack on purpose warns, since its views alias."""
    result = ucl("init", "deepcluster", photos, "-o", "auto", "--size", 8, cwd=tmp_path)
    assert "packed at 8 px" in result.err
    result = ucl("init", "deepcluster", photos, "-o", "larger", "--size", 8, "--pack", 16, cwd=tmp_path)
    assert "packed at 16 px" in result.err
    assert "they alias" in result.err


def test_the_folder_one_is_in(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = ucl("init", "deepcluster", photos, "-o", ".", cwd=tmp_path / "empty")
    assert result.code == 2
    assert "is the folder you are in" in result.err
    assert not list((tmp_path / "empty").iterdir())


def test_lists_with_a_byte_order_mark(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n".join(names) + "\r\n", encoding="utf-8")
    result = ucl("init", "deepcluster", photos, "--files-from", "list.txt", "-o", "run", "--size", 16, cwd=tmp_path)
    assert result.code == 0, result.err
    assert "24 images" in result.err


def test_evaluating_before_the_first_epoch(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    assert ucl("init", "deepcluster", photos, "-o", "run", "--size", 16, cwd=tmp_path).code == 0
    result = ucl("evaluate", "clusters", cwd=tmp_path / "run")
    assert result.code == 65
    assert "no epoch is done" in result.err
