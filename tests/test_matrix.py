"""ucl.matrix and ucl.memory: the same rows wherever they lie; how much memory there is, and what clustering needs."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucl import memory, pca
from ucl.artifacts import OK, Features, Samples
from ucl.cluster import cluster
from ucl.context import Context
from ucl.errors import StorageError, UsageError
from ucl.formats.reader import open_artifact
from ucl.keys import Key
from ucl.kmeans import initial_means, kmeans, member_means, nearest, squared_distances
from ucl.matrix import FileRows, PickedRows, SpooledRows, columns, gather, picked, place
from ucl.memory import UNLIMITED, machine_memory, need, parse_size, told
from ucl.settings import ClusterSettings


def spooled(x: np.ndarray) -> SpooledRows:
    rows = SpooledRows(*x.shape, "a test")
    for start in range(0, len(x), 100):
        rows[start:start + 100] = x[start:start + 100]
    return rows


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features as anybody may store them: plain, half precision, compressed, transposed in memory."""
    path = tmp_path_factory.mktemp("rows")
    x = np.random.default_rng(0).standard_normal((500, 12)).astype(np.float32)
    for name, data, options in (("plain", x, {}), ("half", x.astype(np.float16), {}),
                                ("packed", x, {"compression": "gzip", "chunks": (64, 12)}), ("big", x.astype(">f4"), {})):
        with h5py.File(path / f"{name}.h5", "w") as file:
            file.create_dataset("features", data=data, **options)
    return path


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(["plain", "half", "packed", "big"]))
def test_any_rows_are_the_array(stored: Path, data: st.DataObject, name: str) -> None:
    rows = FileRows(open_artifact(stored / f"{name}.h5", "ucl/features"), "/features")
    with h5py.File(stored / f"{name}.h5") as file:
        x = file["features"][:].astype(np.float32)
    keep = np.sort(np.random.default_rng(data.draw(st.integers(0, 99))).choice(500, data.draw(st.integers(1, 500)), replace=False))
    for found, wanted in ((rows, x), (spooled(x), x), (PickedRows(rows, keep), x[keep]), (picked(spooled(x), keep), x[keep])):
        assert (found.shape, len(found), found.dtype) == (wanted.shape, len(wanted), np.float32)
        start, stop = data.draw(st.integers(0, 500)), data.draw(st.integers(0, 500))
        np.testing.assert_array_equal(found[start:stop], wanted[start:stop])
        np.testing.assert_array_equal(np.asarray(found), wanted)
        index = np.array(data.draw(st.lists(st.integers(0, len(wanted) - 1), max_size=40)), np.int64)
        np.testing.assert_array_equal(gather(found, index), wanted[index])
        np.testing.assert_array_equal(columns(found, slice(3, 7), 64), wanted[:, 3:7])


def test_a_spool_file_has_no_name_and_goes_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    rows = spooled(np.ones((200, 3), np.float32))
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    del rows
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_full_spool_folder_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StorageError, match="no room to spool the projected features") as raised:
        place(10**12, 10**4, 1000, "the projected features")
    assert raised.value.hint == "TMPDIR=/somewhere/else"
    assert isinstance(place(10, 10, 400, "x"), np.ndarray)
    assert isinstance(place(10, 10, 399, "x"), SpooledRows)


# The same bits

@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    rng = np.random.default_rng(2)
    return (rng.standard_normal((40, 24))[rng.integers(0, 40, 9001)] + 0.5 * rng.standard_normal((9001, 24))).astype(np.float32)


@pytest.mark.parametrize("shape", [(9001, 24), (300, 24), (5, 24)])
def test_pca_has_the_same_bits(wide: np.ndarray, shape: tuple[int, int]) -> None:
    x = wide[:shape[0]]
    one, two = pca.fit(x, 10, threads=1), pca.fit(spooled(x), 10, threads=1)
    assert (one.mean.tobytes(), one.components.tobytes(), one.eigenvalues.tobytes()) == (
        two.mean.tobytes(), two.components.tobytes(), two.eigenvalues.tobytes())


def test_pca_of_more_columns_than_a_chunk_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "ROWS", 64)
    x = np.random.default_rng(0).standard_normal((90, 300)).astype(np.float32)
    assert pca.fit(x, 10, threads=1).components.tobytes() == pca.fit(spooled(x), 10, threads=1).components.tobytes()


@pytest.mark.parametrize("changes", [{}, {"spherical": True, "redo": 2}, {"max_points": 3000}, {"empty": "relocate"}, {"k": 9001},
                                     {"init": np.zeros((50, 24), np.float32)}])
@pytest.mark.parametrize("rows", [9001, 2000])                       # above and below what faiss takes a matrix product for
def test_k_means_has_the_same_bits(wide: np.ndarray, changes: dict[str, object], rows: int) -> None:
    x = wide[:rows]
    options = {"k": 50, "iterations": 5, "redo": 1, "seed": 3, "spherical": False, "max_points": 0, "empty": "leave", "threads": 1} | changes
    options["k"] = min(rows, int(str(options["k"])))
    options["max_points"] = min(rows - 1, int(str(options["max_points"])))
    one, two = kmeans(x, **options), kmeans(spooled(x), **options)
    assert (one.labels.tobytes(), one.centroid.tobytes()) == (two.labels.tobytes(), two.centroid.tobytes())
    assert (one.objective, one.objectives, one.splits) == (two.objective, two.objectives, two.splits)


def test_helpers_have_the_same_bits(wide: np.ndarray) -> None:
    labels = nearest(wide, wide[:30])
    rows = spooled(wide)
    assert nearest(rows, wide[:30]).tobytes() == labels.tobytes()
    assert squared_distances(rows, wide[:30], labels).tobytes() == squared_distances(wide, wide[:30], labels).tobytes()
    assert member_means(rows, labels, 30)[0].tobytes() == member_means(wide, labels, 30)[0].tobytes()
    assert initial_means(rows, labels, 40, Key())[0].tobytes() == initial_means(wide, labels, 40, Key())[0].tobytes()


@pytest.mark.parametrize("changes", [{}, {"pca": 0}, {"l2": False}, {"pca": 0, "l2": False}, {"method": "minibatch"},
                                     {"method": "pic", "neighbors": 4}])
def test_labels_have_the_same_bits_whatever_fits(wide: np.ndarray, changes: dict[str, object]) -> None:
    """Rows in memory, in a file, and projected ones in a file; with and without unusable rows among them."""
    chosen = ClusterSettings(pca=10).override(changes)
    if "k" not in chosen.unread:
        chosen = chosen.override({"k": 30})
    x = wide[:6000].copy()
    path, least = np.array([b"%05d" % i for i in range(len(x))]), need(*x.shape, chosen).least
    for bad in ([], [5, 4000, 5999]):
        status = np.full(len(x), OK, np.uint8)
        status[bad] = 3
        x[bad] = np.nan
        made = [cluster(Features(where, Samples(path, status)), chosen, Context(), threads=1, memory=size)
                for where in (x, spooled(x)) for size in (UNLIMITED, least)]
        for other in made[1:]:
            for name, array in made[0].arrays().items():
                np.testing.assert_array_equal(array, other.arrays()[name], err_msg=name)


# How much

@pytest.mark.parametrize(("text", "size"), [("10", 10), ("1k", 1024), ("8G", 8 << 30), ("512M", 512 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30),
                                            (" 3 TB ", 3 << 40), ("100MB", 100 << 20)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "8X", "1e9", "8 G B", "nonsense", "0x10"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory: found .*, wanted bytes with a suffix"):
        parse_size(text)


@pytest.mark.parametrize("size", [500, 5 << 20, 700 << 20, (1 << 30) + 1, 123 << 30])
def test_what_is_told_is_enough_and_reads_back(size: int) -> None:
    assert size <= parse_size(told(size)) <= 1.2 * size


def test_the_machines_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory, "_cgroup_limits", list)
    whole = machine_memory()
    assert 0 < whole <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert machine_memory() == 100 << 20
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "50")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    assert machine_memory() == 150 << 20
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: [7 << 20, 9 << 20])
    assert machine_memory() == 7 << 20


@pytest.mark.parametrize(("line", "folder", "name"), [("0::/a/b", "", "memory.max"), ("4:memory:/a/b", "memory", "memory.limit_in_bytes")])
def test_limits_of_control_groups_above_count(tmp_path: Path, line: str, folder: str, name: str) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "sys"
    own.write_text(f"9:cpu:/x\n{line}\n")
    for group, text in (("a/b", "max"), ("a", "2048"), ("", "4096")):
        place_ = root / folder / group
        place_.mkdir(parents=True, exist_ok=True)
        (place_ / name).write_text(text + "\n")
    assert memory._cgroup_limits(own, root) == [2048, 4096]
    assert memory._cgroup_limits(tmp_path / "none", root) == []


def test_needs_grow_with_what_is_asked() -> None:
    base = need(100_000, 1024, ClusterSettings(pca=64, k=200)).least
    for n, d, changes in ((200_000, 1024, {}), (100_000, 4096, {}), (100_000, 1024, {"k": 50_000}), (100_000, 1024, {"pca": 1024}),
                          (100_000, 1024, {"method": "pic"})):
        chosen = ClusterSettings(pca=64, k=200).override(changes)
        assert need(n, d, chosen).least > base, (n, d, changes)
    need(100_000, 1024, ClusterSettings()).check(4 << 30, "it")
    with pytest.raises(UsageError, match=r"--memory: 1\.1G at hand, it needs at least \d") as raised:
        need(100_000, 65536, ClusterSettings()).check(1 << 30 | 1, "it")
    assert raised.value.hint.startswith("--memory ")
