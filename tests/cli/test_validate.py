"""ucl validate: every file is tried, every damage is found."""

from pathlib import Path

import h5py

from cli.harness import Runner


def test_whole_files(ucl: Runner, small: Path, features: Path, labels: Path) -> None:
    names = [features, labels, small / "images.h5", small / "model.h5"]
    for options in ([], ["--full"]):
        result = ucl("validate", *options, *names, stdout="pipe")
        assert (result.code, result.err) == (0, "")
        assert result.text.splitlines() == [f"{name}: ok" for name in names]


def test_damage(ucl: Runner, features: Path, labels: Path, tmp_path: Path) -> None:
    flipped = bytearray(features.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "flipped.h5").write_bytes(flipped)
    (tmp_path / "cut.h5").write_bytes(features.read_bytes()[:-1])
    result = ucl("validate", "cut.h5", features, "no.h5", "flipped.h5", cwd=tmp_path, stdout="pipe")
    assert result.code == 65
    lines = result.text.splitlines()
    assert lines[0].startswith("cut.h5: truncated: ends after ")
    assert lines[1:] == [f"{features}: ok", "no.h5: no such file", "flipped.h5: ok"]    # level 1 reads no rows
    full = ucl("validate", "--full", "flipped.h5", cwd=tmp_path, stdout="pipe")
    assert full.code == 65
    assert "ok" not in full.text
    assert ucl("validate", "no.h5", cwd=tmp_path, stdout="pipe").code == 66
    assert ucl("validate", cwd=tmp_path, stdout="pipe").code == 2


def test_json(ucl: Runner, features: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.h5").write_bytes(features.read_bytes()[:9000])
    result = ucl("validate", "--json", features, "cut.h5", cwd=tmp_path, stdout="pipe")
    assert result.code == 65
    assert result.json["schema"] == "ucl.validate/1"
    assert result.json["files"][str(features)] == []
    assert len(result.json["files"]["cut.h5"]) == 1


def test_somebody_elses_labels(ucl: Runner, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["labels"] = [0, 1, 1]
    result = ucl("validate", "mine.h5", cwd=tmp_path, stdout="pipe")
    assert result.code in (0, 65)
    assert result.text.startswith("mine.h5: ")
