"""ucl extract: features, and which of the standard streams they go to."""

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.harness import Runner, tree
from ucl import read


def test_alone_it_writes_work(ucl: Runner, small: Path) -> None:
    result = ucl("extract", cwd=small)
    assert (result.code, result.err) == (0, "ucl extract: 24 x 256 features in work/features.h5\n")
    made = read(small / "work/features.h5", "ucl/features")
    assert made.features.shape == (24, 256)
    assert made.features.dtype == np.float32
    assert (made.context.method, made.context.generation, made.context.epoch) == ("deepcluster", 1, 1)
    assert made.context.generation_digest == read(small / "model.h5").digest
    assert ucl("extract", cwd=small).code == 0                          # work is replaced without -f


def test_pipe_file_null_terminal_and_slurm(ucl: Runner, small: Path, tmp_path: Path) -> None:
    """Data is a pipe or a file that is not the log; /dev/null, a terminal, the log and srun's streams mean the directory."""
    work = small / "work/features.h5"
    piped = ucl("extract", cwd=small, stdout="pipe")
    assert piped.code == 0
    assert piped.err == "ucl extract: 24 x 256 features\n"
    assert ucl("extract", cwd=small, stdout=tmp_path / "file.h5").code == 0
    assert not work.exists()
    for options in ({"stdout": "null"}, {"stdout": "tty"}, {"stderr_too": True}, {"stdout": "pipe", "env": {"SLURM_TASK_PID": "self"}}):
        result = ucl("extract", cwd=small, **options)
        assert (result.code, result.out) == (0, b""), options
        assert b"HDF" not in result.err.encode()
        made = read(work)
        work.unlink()
        assert made.digest == read(tmp_path / "file.h5").digest
    other = ucl("extract", cwd=small, stdout="pipe", env={"SLURM_TASK_PID": "1"})       # inside srun bash -c 'a | b'
    assert other.out.startswith(b"\x89HDF")
    (tmp_path / "piped.h5").write_bytes(piped.out)
    assert read(tmp_path / "piped.h5").digest == read(tmp_path / "file.h5").digest
    assert not work.exists()


def test_where_output_is_named(ucl: Runner, small: Path, tmp_path: Path) -> None:
    before = tree(small)
    assert ucl("extract", "-o", tmp_path / "a.h5", cwd=small, stdout="pipe").out == b""
    dashed = ucl("extract", "-o", "-", cwd=small, stdout="pipe", env={"SLURM_TASK_PID": "self"})
    (tmp_path / "b.h5").write_bytes(dashed.out)
    assert read(tmp_path / "a.h5").digest == read(tmp_path / "b.h5").digest
    assert tree(small) == before
    assert ucl("extract", "-q", "-f", "-o", tmp_path / "a.h5", cwd=small).err == ""


def test_outside_a_run_directory(ucl: Runner, small: Path, photos: Path, features: Path, tmp_path: Path) -> None:
    """A folder, an image list and a list of files give the same features of the same model."""
    wanted = read(features)
    assert wanted.context.method == ""
    assert wanted.context.generation == -1
    assert ucl("extract", photos, "--model", small / "model.h5", "-o", "folder.h5", cwd=tmp_path).code == 0
    names = "".join(f"{p.decode()}\n" for p in wanted.samples.path.tolist()).encode()
    result = ucl("extract", photos, "--files-from", "-", "--model", small / "model.h5", "-o", "list.h5", cwd=tmp_path, stdin=names)
    assert result.code == 0, result.err
    for name in ("folder.h5", "list.h5"):
        found = read(tmp_path / name)
        assert found.samples.digest == wanted.samples.digest
        assert (found.features == wanted.features).all()


def test_an_untrained_network(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 5)):
        assert ucl("extract", photos, "--backbone", "convnet", "--size", 16, "--seed", seed, "-o", name, cwd=tmp_path).code == 0
    a, b, c = (read(tmp_path / name).features for name in "abc")
    assert (a == b).all()
    assert np.abs(a - c).max() > 1e-3


def test_flags_are_used_and_noted(ucl: Runner, small: Path, tmp_path: Path) -> None:
    assert ucl("extract", "--final-relu", "--batch", 5, "-o", tmp_path / "relu.h5", cwd=small).code == 0
    assert ucl("extract", "-o", tmp_path / "plain.h5", cwd=small).code == 0
    relu, plain = read(tmp_path / "relu.h5"), read(tmp_path / "plain.h5")
    assert relu.features.min() == 0
    assert plain.features.min() < 0
    assert np.allclose(np.maximum(plain.features, 0), relu.features, atol=1e-5)
    assert relu.context.overrides["extract.final_relu"] == "True"
    assert "extract.final_relu" not in plain.context.overrides


def test_layers_and_maps(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    words = ["extract", photos, "--backbone", "convnet", "--sobel", "--size", 16]
    for name, flags, d, layer in (("a", ["--layer", "conv3"], 128, "conv3, mean"),
                                  ("b", ["--layer", "conv3", "--map", "grid-2"], 512, "conv3, grid-2"),
                                  ("c", ["--layer", "trunk.12", "--map", "flatten"], 1024, "trunk.12, flatten"),
                                  ("d", ["--layer", "fc"], 256, "fc"), ("e", [], 256, "last, before its ReLU")):
        result = ucl(*words, *flags, "-o", name, cwd=tmp_path)
        assert result.code == 0, result.err
        found = read(tmp_path / name)
        assert (found.features.shape, found.layer) == ((24, d), layer)
        assert json.loads(found.transform)["sobel"] is True
    a, b, e, d = (read(tmp_path / name).features for name in "abed")
    assert np.allclose(b.reshape(24, 128, 4).mean(2), a, atol=1e-5)
    assert np.allclose(np.maximum(e, 0), d, atol=1e-5)


def test_precision_outside_a_run_directory(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    for name, flags in (("a", []), ("b", ["--precision", "bf16"])):
        assert ucl("extract", photos, "--backbone", "convnet", "--size", 16, *flags, "-o", name, cwd=tmp_path).code == 0
    a, b = (read(tmp_path / name) for name in "ab")
    assert 0 < np.abs(a.features - b.features).max() < 0.05 * a.features.std()
    assert json.loads(b.provenance[-1])["settings"]["precision"] == "bf16"


def test_bad_rows_keep_their_place(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    clean = ucl("extract", photos, "--backbone", "convnet", "-o", "clean.h5", cwd=tmp_path)
    assert clean.code == 0
    (photos / "bee/2.png").write_text("broken")
    result = ucl("extract", photos, "--backbone", "convnet", "--on-error", "skip", "-o", "bad.h5", cwd=tmp_path)
    assert result.code == 0
    a, b = read(tmp_path / "clean.h5"), read(tmp_path / "bad.h5")
    row = a.samples.path.tolist().index(b"bee/2.png")
    assert np.flatnonzero(b.samples.status).tolist() == [row]
    assert np.isnan(b.features[row]).all()
    rest = np.arange(24) != row
    assert np.allclose(a.features[rest], b.features[rest], atol=1e-6)


def test_past_the_end_of_the_plan(ucl: Runner, small: Path) -> None:
    assert ucl("run", cwd=small).code == 0
    before = tree(small)
    for command in ("extract", "cluster", "purify", "train-epoch", "run"):
        result = ucl(command, cwd=small, stdout="null")
        assert result.code == 76, (command, result.err)
        assert result.lines[0] == f"ucl {command}: .: all 3 epochs of the plan are done"
        assert len(result.lines) == 2
    codes = [r.code for r in ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=small)]
    assert codes == [76, 65, 76]
    assert tree(small) == before
    assert ucl("extract", "--model", "model.h5", cwd=small, stdout="pipe").out.startswith(b"\x89HDF")  # beside the plan


@pytest.mark.slow
def test_h5py_and_h5ls_read_a_pipes_bytes(ucl: Runner, small: Path, tmp_path: Path) -> None:
    assert ucl("extract", cwd=small, stdout=tmp_path / "f.h5", real=True).code == 0
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["features"].shape == (24, 256)
    if shutil.which("h5ls"):
        assert "/features" in subprocess.run(["h5ls", "-r", tmp_path / "f.h5"], capture_output=True, text=True, check=True).stdout
