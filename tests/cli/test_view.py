"""ucl view: rows as TSV and JSON lines."""

import json
from pathlib import Path

import numpy as np

from cli.harness import Runner
from ucl import read


def rows(text: str) -> list[dict[str, str]]:
    lines = text.splitlines()
    names = lines[0].split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]


def test_tsv(ucl: Runner, labels: Path) -> None:
    result = ucl("view", labels, stdout="pipe")
    assert (result.code, result.err) == (0, "")
    made, found = read(labels), rows(result.text)
    assert list(found[0]) == ["row", "path", "label", "distance", "flag", "weight", "status"]
    assert [int(r["row"]) for r in found] == list(range(24))
    assert [int(r["label"]) for r in found] == made.labels.tolist()
    assert [r["path"].encode() for r in found] == made.samples.path.tolist()
    assert np.allclose([float(r["distance"]) for r in found], made.distance, rtol=1e-5)
    assert {r["flag"] for r in found} == {"KEPT"}
    assert {r["status"] for r in found} == {"OK"}
    assert ucl("view", "-", stdin=labels.read_bytes(), stdout="pipe").text == result.text
    assert ucl("view", stdin=labels.read_bytes(), stdout="pipe").text == result.text


def test_choosing(ucl: Runner, labels: Path) -> None:
    made = read(labels)

    def view(*options: object) -> list[list[str]]:
        result = ucl("view", labels, "--no-header", *options, stdout="pipe")
        assert result.code == 0, result.err
        return [line.split("\t") for line in result.text.splitlines()]

    assert view("--rows", "3:5", "--columns", "row,path") == [["3", "ant/3.png"], ["4", "ant/4.png"]]
    assert view("--rows", "22:", "--columns", "row") == [["22"], ["23"]]
    members = np.flatnonzero(made.labels == 1)
    nearest = members[np.argsort(made.distance[members], kind="stable")]
    assert view("--cluster", 1, "--sort", "distance", "--columns", "row") == [[str(r)] for r in nearest]
    assert view("--cluster", 1, "--sort", "distance", "--head", 1, "--columns", "row") == [[str(made.anchor[1])]]
    assert view("--head", 0) == view("--bad") == view("--cluster", 99) == []


def test_json_lines(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    assert ucl("purify", labels, "--keep-nearest", 0.5, "-o", tmp_path / "p.h5").code == 0
    lines = [json.loads(line) for line in ucl("view", tmp_path / "p.h5", "--json", stdout="pipe").text.splitlines()]
    made = read(tmp_path / "p.h5")
    assert [r["label"] for r in lines] == made.labels.tolist()
    assert lines[0]["path"] == "ant/0.png"
    assert {r["flag"] for r in lines if r["label"] == -1} == {"CUT_BY_DISTANCE"}
    assert [r["row"] for r in lines if r["label"] == -1] == [
        int(x) for x in ucl("view", tmp_path / "p.h5", "--cluster", -1, "--columns", "row", "--no-header", stdout="pipe").text.split()]


def test_other_kinds(ucl: Runner, small: Path, features: Path, labels: Path, tmp_path: Path) -> None:
    assert len(rows(ucl("view", features, stdout="pipe").text)) == 24
    images = rows(ucl("view", small / "images.h5", stdout="pipe").text)
    assert list(images[0]) == ["row", "path", "status", "size", "crc32"]
    assert ucl("evaluate", "clusters", labels, "-o", tmp_path / "e.h5").code == 0
    assert "acc_one_to_one" in [r["name"] for r in rows(ucl("view", tmp_path / "e.h5", stdout="pipe").text)]
    here = rows(ucl("view", cwd=small, stdout="pipe").text)
    assert [int(r["label"]) for r in here] == read(small / "labels.h5").labels.tolist()


def test_names_with_control_characters_are_escaped(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (photos / "ant/0.png").rename(photos / "ant/\x1b[31mred\t.png")
    made = ucl("extract", photos, "--backbone", "convnet", "-o", "f.h5", cwd=tmp_path)
    if made.code == 0:
        result = ucl("view", "f.h5", cwd=tmp_path, stdout="pipe")
        assert "\x1b" not in result.text
        assert any(r["path"] == "ant/\\x1b[31mred\\t.png" for r in rows(result.text))
    else:
        assert made.code == 65
        assert "\x1b" not in made.err
