"""ucl digest: content, not provenance."""

from pathlib import Path

import h5py

from cli.harness import Runner
from ucl import read


def test_names_pipes_and_copies(ucl: Runner, labels: Path, features: Path, tmp_path: Path) -> None:
    result = ucl("digest", labels, features, stdout="pipe")
    assert (result.code, result.err) == (0, "")
    assert result.text.splitlines() == [f"{read(labels).digest}  {labels}", f"{read(features).digest}  {features}"]
    assert ucl("digest", stdin=labels.read_bytes(), stdout="pipe").text == f"{read(labels).digest}  -\n"
    assert ucl("digest", "-", stdin=labels, stdout="pipe").text == f"{read(labels).digest}  -\n"


def test_computed_and_not_believed(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    """Provenance does not count; one changed label does, although the stored digest says otherwise."""
    again = tmp_path / "again.h5"
    assert ucl("cluster", labels.with_name("features.h5"), "-k", 3, "--pca", 4, "-o", again, env={"UCL_PROVENANCE": "none"}).code == 0
    assert again.read_bytes() != labels.read_bytes()
    assert ucl("digest", again, stdout="pipe").text.split()[0] == read(labels).digest
    with h5py.File(again, "r+") as file:
        file["labels"][0] = 2 - file["labels"][0] if file["labels"][0] != 1 else 0
    assert ucl("digest", again, stdout="pipe").text.split()[0] != read(labels).digest
