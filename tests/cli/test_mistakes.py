"""What goes wrong ends in its exit code, with one line that says what and at most one that says how to mend it, with nothing on
standard output, and with every file as it was."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

import ucl as ucl_package
from cli.harness import Result, Runner, tree
from ucl.errors import EXIT_STATUS

NOBODY = 65534


def told(result: Result, code: int, *words: str, name: str = "", mark: str = "error: ") -> None:
    """Assert the form of a failure, and that its line has all of ``words``."""
    assert result.code == code, (result.code, result.err)
    assert code in EXIT_STATUS
    assert result.out == b""
    assert 1 <= len(result.lines) <= 2, result.err
    start, _, said = result.lines[0].partition(": ")
    assert start.startswith(name or "ucl"), result.err
    assert said.startswith(mark), result.err
    assert "a bug" not in said
    for word in words:
        assert word in result.err, (word, result.err)
    assert all(line.startswith("  try: ") for line in result.lines[1:]), result.err


@pytest.fixture
def refused(ucl: Runner, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command that must fail and leave everything below tmp_path as it was."""

    def run(code: int, words: list[object], *said: str, cwd: Path | None = None, stdout: str = "pipe", **options: object) -> Result:
        before = tree(tmp_path)
        result = ucl(*words, cwd=cwd or tmp_path, stdout=stdout, **options)
        told(result, code, *said, name="ucl" + (f" {words[0]}" if code != 2 or str(words[0]) in ("extract", "cluster", "init") else ""))
        assert tree(tmp_path) == before
        return result

    return run


# -- the wrong file ------------------------------------------------------------------------------------------------------------


def test_another_type_of_file(refused: Callable[..., Result], features: Path, labels: Path, small: Path) -> None:
    refused(65, ["cluster", labels, "-k", 3], "is ucl/labels, expected ucl/features", str(labels))
    refused(65, ["purify", features], "is ucl/features, expected ucl/labels")
    refused(65, ["train-epoch", features], "is ucl/features, expected ucl/labels", cwd=small)
    refused(65, ["extract", small / "images.h5", "--model", labels], "is ucl/labels, expected ucl/checkpoint")
    refused(65, ["evaluate", "clusters", features], "is ucl/features, expected ucl/labels")
    refused(65, ["cluster", features, "--assign", features], "is ucl/features, expected ucl/labels")
    refused(65, ["cluster", small / "ucl.toml"], "not HDF5", "text")
    refused(65, ["info", small / "ucl.toml"], "not HDF5")
    refused(2, ["view", small / "model.h5"], "ucl/checkpoint has no rows to list")


def test_a_file_that_is_not_there(refused: Callable[..., Result], small: Path, features: Path) -> None:
    for words in (["cluster", "no.h5"], ["purify", "no.h5"], ["info", "no.h5"], ["view", "no.h5"], ["digest", "no.h5"],
                  ["evaluate", "clusters", "no.h5"], ["evaluate", "knn", "no.h5"], ["extract", small / "images.h5", "--model", "no.h5"],
                  ["cluster", features, "--assign", "no.h5"], ["cluster", features, "--previous", "no.h5"]):
        refused(66, words, "no.h5: no such file")
    refused(66, ["extract", "no-folder", "--backbone", "convnet"], "no-folder: no such folder")
    refused(66, ["init", "deepcluster", "no-folder", "-o", "new"], "no-folder: no such folder", stdout="null")
    refused(66, ["extract", "--files-from", "no.txt", "--backbone", "convnet"], "no.txt: no such file")
    refused(66, ["status"], "no ucl.toml here", "ucl init")
    refused(66, ["status", "--done"], "no ucl.toml here")
    refused(66, ["run"], "no ucl.toml here", "ucl run METHOD IMAGES -o DIR")
    refused(66, ["cluster"], "work/features.h5: not there yet", cwd=small, stdout="null")


def test_an_empty_folder_and_an_empty_list(refused: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(66, ["init", "deepcluster", "empty", "-o", "new"], "empty: no images", ".png")
    refused(66, ["extract", "--files-from", "-", "--backbone", "convnet"], "the list is empty", stdin=b"")


def test_a_truncated_file_of_every_kind(refused: Callable[..., Result], ucl: Runner, features: Path, labels: Path, small: Path,
                                        tmp_path: Path) -> None:
    whole = features.read_bytes()
    for length in (1, 47, 48, 4096, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        refused(65, ["cluster", "cut.h5", "-k", 3], "cut.h5")
        refused(65, ["cluster", "-", "-k", 3], "stdin", stdin=whole[:length])
    (tmp_path / "cut.h5").write_bytes(labels.read_bytes()[:-1])
    refused(65, ["train-epoch", tmp_path / "cut.h5"], "truncated", cwd=small)
    metrics = small / "epochs/0001/metrics.json"
    text = metrics.read_text()
    metrics.write_text("{")
    refused(65, ["status"], "metrics.json: not JSON", cwd=small)
    metrics.write_text(text)
    model = small / "epochs/0001/model.h5"
    model.write_bytes(model.read_bytes()[:-1])
    refused(65, ["extract"], "model.h5", "truncated", cwd=small)
    refused(65, ["run"], "model.h5", "truncated", cwd=small)


def test_a_stream_that_does_not_end_where_it_should(refused: Callable[..., Result], features: Path, labels: Path, small: Path) -> None:
    refused(65, ["cluster", "-k", 3], "bytes after the end", stdin=features.read_bytes() + b"x")
    refused(65, ["cluster", "-k", 3], "begins like text: 'hello'", stdin=b"hello\n" * 20)
    damaged = bytearray(features.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    refused(65, ["cluster", "-k", 3], "damaged", "checksum", stdin=bytes(damaged))
    damaged = bytearray(labels.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    refused(65, ["train-epoch"], "damaged", cwd=small, stdin=bytes(damaged))


def test_labels_of_another_image_list(refused: Callable[..., Result], ucl: Runner, small: Path, photos: Path, tmp_path: Path) -> None:
    names = sorted(p.relative_to(photos) for p in photos.rglob("*.png"))
    names[0], names[1] = names[1], names[0]
    listed = "".join(f"{n}\n" for n in names).encode()
    made = ucl("extract", photos, "--files-from", "-", "--backbone", "convnet", "-o", "swapped.h5", cwd=tmp_path, stdin=listed)
    assert made.code == 0, made.err
    assert ucl("cluster", "swapped.h5", "-k", 3, "-o", "labels.h5", cwd=tmp_path).code == 0
    refused(65, ["train-epoch", tmp_path / "labels.h5"], "labels.h5: row 0 is ant/1.png, expected ant/0.png", "another order", cwd=small)
    refused(65, ["train-epoch"], "stdin: row 0 is ant/1.png", cwd=small, stdin=(tmp_path / "labels.h5").read_bytes())
    refused(65, ["train-epoch", "labels.h5", "--images", small / "images.h5", "--model", small / "model.h5"],
            "row 0 is ant/1.png, expected ant/0.png", "another order")
    refused(65, ["cluster", "swapped.h5", "--previous", small / "labels.h5", "-k", 3], "expected the same images")


def test_labels_of_somebody_elses_that_do_not_fit(refused: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    for labels, said in ((np.arange(23) % 3, "23 rows, expected 24"), (np.arange(24) % 3 + 0.5, "wanted int32"),
                         (np.full(24, -1), "found no image in a cluster"), (np.full(24, -2), "values -2"),
                         (np.zeros((24, 2), int), "/labels")):
        with h5py.File(tmp_path / "mine.h5", "w") as file:
            file["labels"] = labels
        refused(65, ["train-epoch", tmp_path / "mine.h5"], said, cwd=small)
        refused(65, ["train-epoch"], said, cwd=small, stdin=(tmp_path / "mine.h5").read_bytes())


def test_stale_work(refused: Callable[..., Result], ucl: Runner, small: Path) -> None:
    for step in ("extract", "cluster", "train-epoch"):
        assert ucl(step, cwd=small).code == 0
    stale = "stale: made for generation 1, the newest is 2"
    for step in ("cluster", "purify", "train-epoch"):
        refused(65, [step], f"work/{'features' if step == 'cluster' else 'labels'}.h5: {stale}", "make it again", cwd=small, stdout="null")
    refused(65, ["train-epoch", "work/labels.h5"], stale, cwd=small)
    refused(73, ["train-epoch"], "made for generation 1, but 2 is committed", "run the same line again", cwd=small,
            stdin=(small / "work/labels.h5").read_bytes())


# -- wrong values --------------------------------------------------------------------------------------------------------------


def test_k(refused: Callable[..., Result], features: Path) -> None:
    refused(2, ["cluster", features, "-k", 25], "k: found 25, wanted at most 24", "-k 24")
    refused(2, ["cluster", features, "-k", 1], "k: found 1, wanted at least 2")
    refused(2, ["cluster", features, "-k", -4], "k: found -4, wanted at least 0")
    refused(2, ["cluster", features, "-k", "many"], "'-k'", "ucl cluster --help")


def test_values_out_of_range(refused: Callable[..., Result], features: Path, labels: Path, photos: Path, small: Path) -> None:
    refused(2, ["cluster", features, "--empty", "sometimes"], "wanted one of leave, relocate, error")
    refused(2, ["purify", labels, "--keep-nearest", 1.5], "keep_nearest: found 1.5, wanted 0 to 1")
    refused(2, ["extract", photos, "--backbone", "convnot"], "convnot", "convnet")
    refused(2, ["extract", photos, "--backbone", "convnet", "--size", 3], "size: found 3, wanted at least 8")
    refused(2, ["extract", photos, "--backbone", "convnet", "--model", small / "model.h5"], "give one of them")
    refused(2, ["extract", photos, "--backbone", "resnet-50"], "resnet-50", "did you mean resnet50")
    refused(2, ["extract", photos, "--backbone", "alexnet-bn", "--size", 32, "--layer", "conv1"], "cannot take views of 32 pixels", "larger --size")
    refused(2, ["extract", photos, "--model", small / "model.h5", "--sobel"], "--sobel: belongs to --backbone")
    refused(2, ["extract", photos, "--model", small / "model.h5", "--layer", "conv9"], "none called 'conv9'", "did you mean conv")
    refused(2, ["extract", "--layer", "fc6"], "none called 'fc6'", "conv1, conv2", cwd=small)
    refused(2, ["extract", "--layer", "fc", "--map", "max"], "fc is a vector of 256", "--layer names one that is a map", cwd=small)
    refused(2, ["extract", "--map", "average"], "map: found 'average', wanted mean, max, flatten, grid-S or max-S", cwd=small)
    refused(2, ["extract", "--precision", "half"], "precision: found 'half'", cwd=small)
    refused(2, ["init", "deepcluster", photos, "-o", "new", "--set", "extract.layer=conv9"], "none called 'conv9'", "conv5")
    refused(2, ["init", "deepcluster", photos, "-o", "new", "--backbone", "alexnet-bn", "--size", 40], "cannot take views of 40 pixels")
    refused(2, ["cluster", features, "--threads", -1], "threads: found -1")
    refused(2, ["cluster", features, "--seed", -1], "seed: found -1")
    refused(2, ["run", "--limit", -1], "--limit: found -1", cwd=small)
    refused(2, ["train-epoch", labels, "--lr", -1], "lr: found -1", cwd=small)
    refused(2, ["view", labels, "--rows", "1-2"], "wanted A:B")
    refused(2, ["view", labels, "--columns", "pth"], "no column 'pth'", "path")


def test_a_loss_that_is_not_finite(refused: Callable[..., Result], labels: Path, small: Path) -> None:
    refused(65, ["train-epoch", labels, "--lr", 1e30], "loss: found", "wanted a finite number", "--lr", cwd=small)


def test_unknown_words(refused: Callable[..., Result], photos: Path) -> None:
    refused(2, ["clustre"], "no command 'clustre'; did you mean cluster?")
    refused(2, ["zzz"], "no command 'zzz'", "ucl --help")
    refused(2, ["cluster", "--itertions", 3], "--itertions", "--iterations")
    refused(2, ["evaluate", "knnn"], "knnn", "knn")
    for words, said in ((["deepclustr", photos], "unknown method 'deepclustr'"), (["deepcluster", photos, "--set", "clster.k=3"], "cluster"),
                        (["deepcluster", photos, "--set", "cluster.itertions=3"], "did you mean iterations?"),
                        (["deepcluster", photos, "--set", "cluster.k=x"], "found 'x', wanted int"),
                        (["deepcluster", photos, "--set", "cluster.k"], "wanted VERB.KEY=VALUE"),
                        (["deepcluster", photos, "--set", "plan.epoks=3"], "did you mean epochs?"),
                        (["deepcluster", photos, "--keep", 0], "--keep: found '0'"), (["deepcluster"], "found neither IMAGES nor --files-from")):
        refused(2, ["init", *words, "-o", "new"], said)


def test_no_arguments_is_help_on_standard_error(ucl: Runner, tmp_path: Path) -> None:
    for words in ([], ["evaluate"]):
        result = ucl(*words, cwd=tmp_path, stdout="pipe")
        assert (result.code, result.out) == (2, b"")
        assert result.lines[0] == " ".join(["Usage: ucl", *words, "[OPTIONS] COMMAND [ARGS]..."])


def test_a_device_that_is_not_there(refused: Callable[..., Result], small: Path, features: Path) -> None:
    refused(69, ["extract", "--device", "cuda:77"], "--device cuda:77: found", "CUDA devices", cwd=small)
    refused(69, ["train-epoch"], "--device cuda:77", cwd=small, env={"UCL_DEVICE": "cuda:77"})
    refused(69, ["cluster", features, "--device", "cuda:77"], "--device cuda:77")
    refused(2, ["extract", "--device", "gpu"], "found 'gpu', wanted auto, cpu, cuda or cuda:N", cwd=small)


def test_another_number_of_threads_warns(ucl: Runner, small: Path) -> None:
    result = ucl("extract", "--threads", 2, cwd=small)
    assert result.code == 0
    assert result.lines[0] == "ucl extract: warning: 2 threads, the run directory was made with 1: results may differ in their last bits"
    assert len(ucl("extract", "--threads", 2, "-q", cwd=small).lines) == 0


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: t + "\n[cluster", "ucl.toml: "), (lambda t: 'methd = "x"\n' + t, "unknown key 'methd'"), (lambda t: t, ""),
    (lambda t: t + "\n[clster]\nk = 3\n", "did you mean cluster?"), (lambda t: t + "\n[purify]\nkeep_nerest = 1\n", "did you mean keep_nearest?"),
    (lambda t: t + "\n[purify]\nkeep_nearest = 7\n", "ucl.toml: [purify]: keep_nearest: found 7.0, wanted 0 to 1"),
    (lambda t: t.replace("threads = 1", 'threads = "two"'), "threads: found 'two', wanted int"),
    (lambda t: t.replace("threads = 1", "threads = -1"), "ucl.toml: threads: found -1"),
    (lambda t: t.replace("deepcluster", "deepclustr"), "unknown method 'deepclustr'"),
    (lambda t: t.replace("method", "#method"), "ucl.toml: method: missing"),
    (lambda t: t.replace('"float32"', '"float8"'), "wanted one of float32, tf32"),
    (lambda t: t.replace('keep = "2"', 'keep = "x"'), "keep: found 'x'"),
], ids=lambda x: x if isinstance(x, str) else "")
def test_a_corrupt_ucl_toml(change: Callable[[str], str], said: str, refused: Callable[..., Result], small: Path) -> None:
    config = small / "ucl.toml"
    text = config.read_text()
    config.write_text(change(text))
    if change(text) == text:
        config.write_bytes(b"\xff\xfe")
    for command in ("status", "extract", "run"):
        refused(78, [command], said, "ucl.toml", cwd=small)


# -- images --------------------------------------------------------------------------------------------------------------------


def test_broken_images(refused: Callable[..., Result], ucl: Runner, photos: Path, tmp_path: Path) -> None:
    cut = photos / "ant/9.png"
    cut.write_bytes((photos / "ant/0.png").read_bytes()[:60])
    (photos / "bee/9.jpg").write_text("hello")
    for words in (["init", "deepcluster", photos, "-o", "new"], ["extract", photos, "--backbone", "convnet"]):
        refused(65, words, "ant/9.png", "2 of 26 images", "--on-error skip")
        refused(65, [*words, "--on-error", "skip", "--max-bad", 0.05], "more than --max-bad 0.05")
    made = ucl("extract", photos, "--backbone", "convnet", "--on-error", "skip", "-o", "f.h5", cwd=tmp_path)
    assert made.code == 0
    assert [line.split(": ")[:3] for line in made.lines[:2]] == [["ucl extract", "warning", "ant/9.png"], ["ucl extract", "warning", "bee/9.jpg"]]
    assert made.lines[2] == "ucl extract: 26 x 256 features, 2 rows bad in f.h5"
    with h5py.File(tmp_path / "f.h5") as file:
        bad = file["samples/status"][:] != 0
        assert file["samples/path"].asstr()[:][bad].tolist() == ["ant/9.png", "bee/9.jpg"]
        assert (np.isnan(file["features"][:]).all(1) == bad).all()


def test_nothing_but_broken_images(refused: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all/a.jpg").write_text("hello")
    for words in (["init", "deepcluster", "all", "-o", "new"], ["extract", "all", "--backbone", "convnet"]):
        refused(65, [*words, "--on-error", "skip"], "no image can be used")


# -- standard streams ----------------------------------------------------------------------------------------------------------


def test_an_empty_pipe_is_never_a_fall_back(refused: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    shutil.copy(small / "labels.h5", small / "work/labels.h5")
    for command in ("cluster", "purify", "train-epoch"):
        refused(65, [command], "stdin: empty", cwd=small, stdin=b"", stdout="null")
    (tmp_path / "empty").touch()
    refused(65, ["cluster", "-k", 3], "stdin", stdin=tmp_path / "empty")
    refused(65, ["cluster", "-", "-k", 3], "stdin: empty")


def test_hdf5_is_never_written_to_a_terminal(refused: Callable[..., Result], features: Path, labels: Path, small: Path, photos: Path) -> None:
    for words in (["cluster", features, "-k", 3], ["cluster", features, "-k", 3, "-o", "-"], ["purify", labels], ["targets", photos],
                  ["extract", photos, "--backbone", "convnet"]):
        refused(2, words, "refusing to write HDF5 to a terminal", "-o FILE", stdout="tty")
    refused(2, ["extract", "-o", "-"], "refusing to write HDF5 to a terminal", cwd=small, stdout="tty")
    refused(2, ["cluster", features, "-k", 3], "refusing to write HDF5", stdout="null")


def test_standard_input_that_is_a_terminal(refused: Callable[..., Result]) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        refused(2, ["cluster", "-", "-k", 3], "standard input is a terminal", stdin=theirs)
        refused(2, ["cluster", "-k", 3], "no features", stdin=theirs)
        refused(2, ["view", "-"], "standard input is a terminal", stdin=theirs)
        refused(2, ["info", "-"], "standard input is a terminal", stdin=theirs)
        refused(2, ["digest"], "standard input is a terminal", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_reader_that_goes_away(ucl: Runner, digits: Path, features: Path) -> None:
    for words in (["extract"], ["view", "images.h5"], ["cluster", features, "-k", 3]):
        read, write = os.pipe()
        process = ucl.start(*words, cwd=digits, stdout=write)
        os.close(write)
        if words[0] == "extract":
            assert len(os.read(read, 1000)) == 1000
        os.close(read)
        result = process.wait()
        assert (result.code, result.err) == (141, ""), words


@pytest.mark.slow
def test_head_in_a_shell(small: Path) -> None:
    script = "ucl extract | head -c 1000 | wc -c; echo ${PIPESTATUS[0]}"
    env = os.environ | {"PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=small, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.split(), done.stderr) == (["1000", "141"], "")


def test_a_producer_that_is_killed(ucl: Runner, digits: Path, features: Path, tmp_path: Path) -> None:
    whole = features.read_bytes()
    before = tree(digits)
    for given in (b"", whole[:20], whole[:9000], whole[:-1]):
        read, write = os.pipe()
        producer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=write)
        os.close(write)
        consumer = ucl.start("cluster", "-k", 3, "-o", tmp_path / "out.h5", cwd=tmp_path, stdin=read)
        os.close(read)
        producer.stdin.write(given)
        producer.stdin.flush()
        time.sleep(0.05)
        producer.kill()
        producer.wait()
        producer.stdin.close()
        result = consumer.wait()
        told(result, 65, "stdin: ", name="ucl cluster")
        assert len(result.lines[0]) < 120
        assert not (tmp_path / "out.h5").exists()
    assert tree(digits) == before


def test_a_killed_extract_is_noticed_downstream(ucl: Runner, digits: Path) -> None:
    before = tree(digits)
    ours, theirs = os.pipe()
    producer = ucl.start("extract", "--batch", 8, cwd=digits, stdout=theirs)
    os.close(theirs)
    theirs, mine = os.pipe()
    consumer = ucl.start("cluster", cwd=digits, stdin=theirs)
    os.close(theirs)
    for _ in range(10):                                                 # a relay, so that the producer is still at work when it dies
        os.write(mine, os.read(ours, 10_000))
    producer.kill(signal.SIGKILL)
    assert producer.wait().code == 137
    while rest := os.read(ours, 1 << 16):
        os.write(mine, rest)
    os.close(mine)
    os.close(ours)
    told(consumer.wait(), 65, "stdin: stream ends after ", "the producer did not finish", name="ucl cluster")
    assert tree(digits) == before


# -- signals -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75)])
def test_signals_to_a_stage(signum: int, code: int, ucl: Runner, small: Path) -> None:
    before = tree(small)
    read, write = os.pipe()
    process = ucl.start("cluster", cwd=small, stdin=read)
    time.sleep(0.3)
    process.kill(signum)
    result = process.wait()
    os.close(read)
    os.close(write)
    told(result, code, signal.Signals(signum).name, "the same line again", name="ucl cluster", mark="stopped by ")
    assert result.seconds < 5
    assert tree(small) == before


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_signals_to_training(signum: int, code: int, ucl: Runner, small: Path, labels: Path) -> None:
    before = tree(small)
    process = ucl.start("train-epoch", labels, "--epoch-length", 500, cwd=small)
    end = time.monotonic() + 20
    while not (small / "lock").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.2)
    process.kill(signum)
    told(process.wait(), code, signal.Signals(signum).name, "the same line again", name="ucl train-epoch", mark="stopped by ")
    assert tree(small) == before


def test_a_stopped_run_goes_on(ucl: Runner, small: Path) -> None:
    process = ucl.start("run", cwd=small)
    end = time.monotonic() + 60
    while not (small / "epochs/0002").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.kill(signal.SIGUSR1)
    stopped = process.wait()
    assert stopped.code in (75, 0)                                      # it may have been past its last safe point
    if stopped.code == 75:
        assert stopped.lines[-2:] == ["ucl run: stopped by SIGUSR1; everything finished is on disk", "  try: the same line again goes on from there"]
        assert ucl("run", cwd=small).code == 0
    assert ucl("status", "--done", cwd=small).code == 0
    assert not (small / "lock").exists()


# -- outputs -------------------------------------------------------------------------------------------------------------------


def test_an_output_that_exists(refused: Callable[..., Result], ucl: Runner, features: Path, labels: Path, small: Path, photos: Path,
                               tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    out.write_bytes(b"precious")
    for words in (["cluster", features, "-k", 3], ["purify", labels], ["extract", photos, "--backbone", "convnet"], ["targets", photos],
                  ["evaluate", "clusters", labels]):
        refused(73, [*words, "-o", out], f"{out}: exists already", "--force")
    refused(73, ["init", "deepcluster", photos, "-o", small], "exists already")
    refused(73, ["init", "deepcluster", photos, "-o", out], "exists already")
    refused(73, ["cluster", features, "-k", 3, "-o", small], "is a folder")
    refused(73, ["cluster", features, "-k", 3, "-o", "no/out.h5"], "folder does not exist", "mkdir -p")
    assert ucl("purify", labels, "-f", "-o", out).code == 0
    assert h5py.is_hdf5(out)


def test_a_fifo_is_written_to_and_never_replaced(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    result = ucl("purify", labels, "-o", fifo)
    assert result.code == 0, result.err
    assert reader.communicate(timeout=20)[0].startswith(b"\x89HDF")
    assert fifo.is_fifo()


def test_somebody_else_is_at_work(refused: Callable[..., Result], ucl: Runner, small: Path, labels: Path) -> None:
    lock = small / "lock"
    lock.write_text(f"{os.uname().nodename} {os.getpid()} -\n")
    refused(73, ["train-epoch", labels], f"process {os.getpid()}", "is at work here", cwd=small)
    refused(73, ["run"], "is at work here", cwd=small)
    lock.write_text("elsewhere 1 77\n")
    refused(73, ["run"], "process 1 on elsewhere", "Slurm job 77", cwd=small)
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock.write_text(f"{os.uname().nodename} {dead.pid} -\n")
    assert ucl("run", "--limit", 1, cwd=small).code == 0
    assert not lock.exists()


def test_a_file_size_limit(refused: Callable[..., Result], features: Path, labels: Path, small: Path, photos: Path) -> None:
    for words in (["cluster", features, "-k", 3, "-o", "new.h5"], ["extract", photos, "--backbone", "convnet", "-o", "new.h5"],
                  ["targets", photos, "-o", "new.h5"], ["evaluate", "clusters", labels, "-o", "new.h5"]):
        refused(74, words, "new.h5", "File too large", "ulimit -f", fsize=2000)
    refused(74, ["extract"], "work/features.h5", "File too large", cwd=small, fsize=5000, stdout="null")
    refused(74, ["train-epoch", labels], "File too large", cwd=small, fsize=1_000_000)
    refused(74, ["init", "deepcluster", photos, "-o", "new"], "File too large", fsize=1_000_000)


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """A mount for the time of a test; skips where mounting is not permitted."""
    done = subprocess.run(["mount", *options, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk(ucl: Runner, features: Path, labels: Path, small: Path, photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", "size=12m", "tmpfs"):
        run = place / "run"
        shutil.copytree(small, run, symlinks=True, ignore=shutil.ignore_patterns("0000"))
        old = place / "old.h5"
        shutil.copy(labels, old)
        with (place / "filler").open("wb") as filler:
            left = os.statvfs(place)
            filler.write(bytes(left.f_bavail * left.f_frsize))
        before = tree(place)
        for words, cwd in ((["cluster", features, "-k", 3, "-f", "-o", old], tmp_path), (["extract"], run), (["train-epoch", labels], run),
                           (["run"], run), (["init", "deepcluster", photos, "-o", place / "new"], tmp_path)):
            result = ucl(*words, cwd=cwd)
            told(result, 74, "No space left on device", name=f"ucl {words[0]}")
            assert tree(place) == before, words
        with old.open("wb") as out:
            result = ucl("cluster", features, "-k", 3, stdout=out.fileno())
        told(result, 74, "No space left on device", name="ucl cluster")


def test_a_read_only_file_system(ucl: Runner, features: Path, labels: Path, small: Path, photos: Path, tmp_path: Path) -> None:
    before = tree(small)
    with mounted(small, "--bind", "-o", "ro", str(small)):
        for words in (["extract"], ["train-epoch", labels], ["run"], ["cluster", features, "-o", "new.h5"]):
            told(ucl(*words, cwd=small), 77, "Read-only file system", name=f"ucl {words[0]}")
        told(ucl("init", "deepcluster", photos, "-o", small / "new", cwd=tmp_path), 77, "Read-only file system", name="ucl init")
        assert ucl("status", cwd=small).code == 0
        assert ucl("extract", "-o", tmp_path / "f.h5", cwd=small).code == 0
    assert tree(small) == before


def open_to_all(path: Path) -> bool:
    """Whether any user may read what lies at ``path``."""
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not open_to_all(Path(ucl_package.__file__).parent), reason="other users cannot read the installed package")
def test_no_permission(ucl: Runner, features: Path, labels: Path, small: Path, photos: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ucl-test-") as name:       # pytest's own folder is closed to others
        place = Path(name)
        place.chmod(0o755)
        run = place / "run"
        shutil.copytree(small, run, symlinks=True)
        shutil.copytree(photos, place / "photos")
        shutil.copy(features, place / "open.h5")
        shutil.copy(features, place / "closed.h5")
        (place / "closed.h5").chmod(0o600)
        shutil.copy(labels, place / "labels.h5")
        before = tree(place)
        for words, cwd in ((["extract"], run), (["train-epoch", place / "labels.h5"], run), (["run"], run),
                           (["cluster", "open.h5", "-k", 3, "-o", "new.h5"], place), (["cluster", "closed.h5", "-k", 3, "-o", "new.h5"], place),
                           (["info", "closed.h5"], place), (["init", "deepcluster", "photos", "-o", "new"], place)):
            told(ucl(*words, cwd=cwd, user=NOBODY), 77, "ermission denied", name=f"ucl {words[0]}")
        (place / "photos/ant").chmod(0o700)
        told(ucl("init", "deepcluster", "photos", "-o", "new", cwd=place, user=NOBODY), 77, "ant: the folder cannot be read", name="ucl init")
        (run / "ucl.toml").chmod(0o600)
        told(ucl("status", cwd=run, user=NOBODY), 77, "ucl.toml: permission denied", name="ucl status")
        assert tree(place) == before
