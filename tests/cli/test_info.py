"""ucl info."""

from pathlib import Path

from cli.harness import Runner, tree
from ucl import read


def test_text(ucl: Runner, labels: Path) -> None:
    result = ucl("info", labels, stdout="pipe")
    assert (result.code, result.err) == (0, "")
    lines = result.text.splitlines()
    assert lines[0] == f"{labels}: ucl/labels: 3 clusters of 24 images, 24 of them labelled"
    facts = dict(line.split(None, 1) for line in lines[1:])
    assert facts["/labels"] == "24 int32"
    assert facts["/clusters/centroid"] == "3x4 float32"
    assert facts["digest"] == read(labels).digest
    steps = [line.split(None, 1)[1] for line in lines if line.split()[0] == "step"]
    assert steps[-1].startswith("ucl cluster ")


def test_json_of_every_kind(ucl: Runner, labels: Path, features: Path, small: Path) -> None:
    before = tree(small)
    result = ucl("info", "--json", labels, features, small / "model.h5", small / "images.h5", stdout="pipe")
    found = result.json
    assert found["schema"] == "ucl.info/1"
    assert [f["kind"] for f in found["files"]] == ["ucl/labels", "ucl/features", "ucl/checkpoint", "ucl/images"]
    assert {"file", "kind", "title", "datasets", "context", "steps", "bad", "digest", "clusters", "flags", "scores", "samples-digest", "recipe-id",
            "creator"} == set(found["files"][0])
    assert found["files"][0]["samples-digest"] == found["files"][1]["samples-digest"] == found["files"][3]["samples-digest"]
    assert found["files"][2]["context"]["method"] == "deepcluster"
    assert tree(small) == before


def test_a_pipe(ucl: Runner, labels: Path) -> None:
    piped = ucl("info", "--json", "-", stdin=labels.read_bytes(), stdout="pipe").json["files"][0]
    named = ucl("info", "--json", labels, stdout="pipe").json["files"][0]
    assert piped | {"file": ""} == named | {"file": ""}
