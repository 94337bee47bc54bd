"""ucl init: the run directory, whole or not at all."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from cli.harness import Runner, tree
from ucl import read


def test_a_run_directory(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    result = ucl("init", "deepcluster", photos, "-o", "deep/run", "--threads", 1, "--seed", 7, cwd=tmp_path, stdout="pipe")
    assert (result.code, result.out) == (0, b"")
    assert result.err.startswith("ucl init: deep/run: 24 images (0 unreadable), packed at 16 px; deepcluster, 100 epochs; ")
    run = tmp_path / "deep/run"
    assert sorted(p for p in tree(run) if not p.startswith("work/")) == [
        "epochs", "epochs/0000", "epochs/0000/metrics.json", "epochs/0000/model.h5", "images.h5", "model.h5", "ucl.toml", "work"]
    assert (run / "model.h5").readlink() == Path("epochs/0000/model.h5")
    assert json.loads((run / "epochs/0000/metrics.json").read_text()) == {"generation": 0, "images": 24, "bad": 0}
    config = (run / "ucl.toml").read_text()
    for line in ('method = "deepcluster"', f'images = "{photos}"', "n = 24", "size = 32", "seed = 7", "threads = 1", 'keep = "2"'):
        assert line in config.splitlines()
    images = read(run / "images.h5")
    assert images.samples.path.tolist() == sorted(f"{c}/{i}.png".encode() for c in ("ant", "bee", "cat") for i in range(8))
    one = photos / "bee/3.png"
    with h5py.File(run / "images.h5") as file:
        assert file["samples/crc32"][11] == zlib.crc32(one.read_bytes())
        assert file["samples/size"][11] == one.stat().st_size
        assert (file["pixels"][11] == np.asarray(Image.open(one))).all()


def test_json_and_what_is_set_by_hand(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    result = ucl("init", "persistent", photos, "-o", "run", "--json", "--epochs", 5, "--keep", "all", "--set", "cluster.k=4",
                 "--set", "train-epoch.lr=0.1", "--pack", "none", "--size", 16, cwd=tmp_path, stdout="pipe")
    assert result.code == 0
    assert result.out == b""
    facts = json.loads(result.err)
    assert sorted(facts) == ["bad", "directory", "epochs", "images", "method", "packed", "schema", "seconds"]
    assert (facts["schema"], facts["epochs"], facts["packed"], facts["images"]) == ("ucl.init/1", 5, "not packed", 24)
    config = (tmp_path / "run/ucl.toml").read_text()
    assert 'k = "4"' in config
    assert "[train-epoch]\nlr = \"0.1\"" in config
    assert '[init]\npack = "none"\nsize = "16"' in config
    assert 'keep = "all"' in config


def test_precision_and_compilation_are_recorded(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """bf16 holds for pipe and run alike, and the pipe of commands needs no flag for it; another precision by hand warns."""
    words = ["init", "deepcluster", photos, "--size", 16, "--set", "cluster.k=3", "--set", "cluster.pca=4", "--epochs", 2, "-j", 1]
    for name in ("pipe", "run"):
        assert ucl(*words, "-o", name, "--precision", "bf16", cwd=tmp_path).code == 0
    assert ucl(*words, "-o", "compiled", "--compile", cwd=tmp_path).code == 0
    assert ucl(*words, "-o", "plain", cwd=tmp_path).code == 0
    assert 'precision = "bf16"\ncompile = false\n' in (tmp_path / "pipe/ucl.toml").read_text()
    assert "compile = true\n" in (tmp_path / "compiled/ucl.toml").read_text()
    assert [r.code for r in ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=tmp_path / "pipe")] == [0, 0, 0]
    for name in ("run", "plain"):
        assert ucl("run", "--limit", 1, cwd=tmp_path / name).code == 0
    pipe, run, plain = (read(tmp_path / name / "model.h5").model for name in ("pipe", "run", "plain"))
    assert all((pipe[k] == run[k]).all() for k in pipe)
    assert any((plain[k] != run[k]).any() for k in plain)
    result = ucl("extract", "--precision", "float32", "-o", "f.h5", cwd=tmp_path / "run")
    assert result.code == 0
    assert result.lines[0] == "ucl extract: warning: precision float32, the run directory was made with bf16: results differ"
    assert "compile: the run has False, asked for True" in ucl("run", "deepcluster", photos, "-o", tmp_path / "plain", "--compile").err


def test_same_seed_same_model_other_seed_other_model(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert ucl("init", "deepcluster", photos, "-o", name, "--seed", seed, "-q", cwd=tmp_path).err == ""
    digests = [line.split()[0] for line in ucl("digest", *(f"{n}/{f}.h5" for n in "abc" for f in ("model", "images")), cwd=tmp_path,
                                               stdout="pipe").text.splitlines()]
    assert digests[0] == digests[2] != digests[4]
    assert digests[1] == digests[3] == digests[5]


def test_every_kind_of_image(ucl: Runner, write_photos: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write_photos("mixed")
    red = Image.new("RGB", (20, 10), (200, 10, 10))
    red.convert("L").save(folder / "grey.png")
    red.convert("RGBA").save(folder / "rgba.png")
    red.convert("P").save(folder / "palette.png")
    red.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((10, 20), 51400, np.uint16)).save(folder / "deep.png")
    red.save(folder / "web.webp", lossless=True)
    red.save(folder / "bits.bmp")
    split = Image.new("RGB", (16, 16), (0, 0, 0))
    split.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6                                                    # to be shown turned by 90 degrees clockwise
    split.save(folder / "turned.png", exif=exif)
    (folder / "readme.txt").write_text("no image")
    (folder / ".hidden.png").write_text("hidden")
    result = ucl("init", "deepcluster", folder, "-o", "run", "--size", 16, "--pack", 16, cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.lines[0] == "ucl init: 1 files are no images by their names and were left out"
    images = read(tmp_path / "run/images.h5")
    names = [p.decode() for p in images.samples.path.tolist()]
    assert names == ["a.png", "bits.bmp", "cmyk.jpg", "deep.png", "grey.png", "palette.png", "rgba.png", "turned.png", "web.webp"]
    assert not images.samples.status.any()
    pixel = {name: np.asarray(images.pixels[i]).astype(int) for i, name in enumerate(names)}
    for name in ("a.png", "bits.bmp", "rgba.png", "palette.png", "web.webp"):
        assert np.abs(pixel[name][8, 8] - (200, 10, 10)).max() <= 12, name
    assert pixel["grey.png"][8, 8].tolist() == [np.asarray(red.convert("L"))[0, 0]] * 3
    assert np.abs(pixel["deep.png"][8, 8] - 200).max() <= 1
    assert np.ptp(pixel["cmyk.jpg"][8, 8]) > 100
    assert pixel["turned.png"][:, -1].min() > 200                       # the white upper half is now the right one
    assert pixel["turned.png"][:, 0].max() < 50


def test_unreadable_images(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    for i in range(12):
        (photos / f"bee/x{i:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(i))
    result = ucl("init", "deepcluster", photos, "-o", "run", "--on-error", "skip", cwd=tmp_path)
    assert result.code == 0
    assert len(result.lines) == 12
    assert all(line.startswith("ucl init: warning: bee/x") for line in result.lines[:10])
    assert result.lines[10] == "ucl init: warning: and 2 more; ucl view --bad names them all"
    assert result.lines[11].startswith("ucl init: run: 36 images (12 unreadable)")
    bad = ucl("view", "--bad", "--columns", "path", "--no-header", cwd=tmp_path / "run", stdout="pipe").text.splitlines()
    assert bad == [f"bee/x{i:02d}.png" for i in range(12)]
    assert json.loads((tmp_path / "run/epochs/0000/metrics.json").read_text())["bad"] == 12


def test_a_list_keeps_its_order(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    names = [f"{photos}/cat/1.png", f"{photos}/ant/0.png", f"{photos}/bee/5.png"]
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
    for number, options in enumerate((["--files-from", "list.txt"], ["--files-from", "-"])):
        result = ucl("init", "deepcluster", *options, "-o", f"run{number}", cwd=tmp_path, stdin=(tmp_path / "list.txt").read_bytes())
        assert result.code == 0, result.err
        assert read(tmp_path / f"run{number}/images.h5").samples.path.tolist() == [b"cat/1.png", b"ant/0.png", b"bee/5.png"]


def test_an_empty_folder_is_taken(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert ucl("init", "deepcluster", photos, "-o", "run", cwd=tmp_path).code == 0
    assert (tmp_path / "run/ucl.toml").is_file()


@pytest.mark.slow
def test_every_backbone(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    for name in ucl("doctor", "--json", stdout="pipe").json["backbones"]:
        assert ucl("init", "deepcluster", photos, "-o", name, "--backbone", name, cwd=tmp_path).code == 0
        assert read(tmp_path / name / "model.h5").config["backbone"] == name
