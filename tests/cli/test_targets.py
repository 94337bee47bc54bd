"""ucl targets: truth as an ordinary labels file."""

from pathlib import Path

from cli.harness import Runner, tree
from ucl import read

WANTED = [0] * 8 + [1] * 8 + [2] * 8


def test_folder_list_and_run_directory(ucl: Runner, photos: Path, small: Path, tmp_path: Path) -> None:
    assert ucl("targets", photos, "-o", tmp_path / "a.h5").code == 0
    assert ucl("targets", small / "images.h5", stdout=tmp_path / "b.h5").code == 0
    before = tree(small)
    piped = ucl("targets", cwd=small, stdout="pipe")
    (tmp_path / "c.h5").write_bytes(piped.out)
    assert tree(small) == before
    for name in "abc":
        made = read(tmp_path / f"{name}.h5", "ucl/labels")
        assert made.labels.tolist() == WANTED
        assert made.samples.path[8] == b"bee/0.png"


def test_from_a_file(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("ant/1.png\tb\nbee/0.png\ta\n\n")
    assert ucl("targets", photos, "--targets", tmp_path / "t.tsv", "-o", tmp_path / "a.h5").code == 0
    found = read(tmp_path / "a.h5").labels
    assert {int(i): int(found[i]) for i in range(24) if found[i] >= 0} == {1: 1, 8: 0}


def test_a_supervised_epoch(ucl: Runner, small: Path) -> None:
    results = ucl.pipe(["targets"], ["train-epoch"], cwd=small)
    assert [r.code for r in results] == [0, 0], [r.err for r in results]
    assert read(small / "epochs/0002/labels.h5").labels.tolist() == WANTED


def test_digits(ucl: Runner, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    assert ucl("targets", "digits", "-o", tmp_path / "d.h5").code == 0
    assert read(tmp_path / "d.h5").labels.tolist() == load_digits().target.tolist()
