"""ucl diff: what differs, and the exit code that says whether."""

from pathlib import Path

import numpy as np

from cli.harness import Runner
from ucl import read


def test_equal_is_silent(ucl: Runner, labels: Path, features: Path, small: Path) -> None:
    for path in (labels, features, small / "images.h5", small / "model.h5"):
        result = ucl("diff", path, path, stdout="pipe")
        assert (result.code, result.out, result.err) == (0, b"", "")
    piped = ucl("diff", "-", labels, "--json", stdin=labels.read_bytes(), stdout="pipe")
    assert piped.code == 0
    assert piped.json["equal"] is True
    assert piped.json["digests"] == [read(labels).digest] * 2


def test_labels(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    made = read(labels)
    order = np.array([2, 0, 1])
    (tmp_path / "l.csv").write_text("".join(f"{p.decode()},{order[y]}\n" for p, y in zip(made.samples.path, made.labels, strict=True)))
    assert ucl("convert", "l.csv", "-o", "l.h5", cwd=tmp_path).code == 0
    result = ucl("diff", labels, "l.h5", cwd=tmp_path, stdout="pipe")
    assert (result.code, result.err) == (1, "")
    assert "the same clusters under other numbers: 0->2 1->0 2->1" in result.text
    assert "24 of 24 rows differ, the first is 0 (ant/0.png)" in result.text
    assert "/clusters/mean           only in" in result.text
    facts = ucl("diff", labels, "l.h5", "--json", cwd=tmp_path, stdout="pipe").json
    assert facts["schema"] == "ucl.diff/1"
    assert facts["renumbering"] == {"0": 2, "1": 0, "2": 1}
    assert facts["labels"]["ari"] == 1
    assert ucl("diff", "-q", labels, "l.h5", cwd=tmp_path, stdout="pipe").out == b""


def test_features_and_tolerance(ucl: Runner, features: Path, tmp_path: Path) -> None:
    x = read(features).features.copy()
    x[4, 1] += 0.01
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "n.txt").write_bytes(b"\n".join(read(features).samples.path.tolist()))
    assert ucl("convert", "x.npy", "--paths", "n.txt", "-o", "x.h5", cwd=tmp_path).code == 0
    result = ucl("diff", features, "x.h5", cwd=tmp_path, stdout="pipe")
    assert result.code == 1
    assert "1 of 24 rows differ, the first is 4 (ant/4.png)" in result.text
    assert "also different, though no content: " in result.text
    assert ucl("diff", features, "x.h5", "--tolerance", 0.02, cwd=tmp_path).code == 0
    assert ucl("diff", features, "x.h5", "--tolerance", 0.001, cwd=tmp_path).code == 1


def test_checkpoints(ucl: Runner, small: Path) -> None:
    assert ucl("run", "--limit", 1, cwd=small).code == 0
    result = ucl("diff", "epochs/0001/model.h5", "epochs/0002/model.h5", cwd=small, stdout="pipe")
    assert result.code == 1
    assert "relative norm" in result.text
    assert "epoch: 1, 2" in result.text


def test_not_comparable(ucl: Runner, labels: Path, features: Path, tmp_path: Path) -> None:
    for code, told, words in ((65, "nothing to compare", [labels, features]), (66, "no such file", [labels, "no.h5"]),
                              (2, "Missing argument", [labels]), (2, "--tolerance", [labels, labels, "--tolerance", "-1"])):
        result = ucl("diff", *words, cwd=tmp_path)
        assert result.code == code, result.err
        assert told in result.lines[0]
    (tmp_path / "x.h5").write_bytes(labels.read_bytes()[:-50])
    assert ucl("diff", labels, "x.h5", cwd=tmp_path).code == 65
