"""ucl run: start, go on, dry run."""

import json
import tomllib
from pathlib import Path

from cli.harness import Runner, tree
from ucl import read
from ucl.cli import COMMANDS


def test_from_nothing_to_the_end(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    words = ["run", "deepcluster", photos, "-o", tmp_path / "run", "--epochs", 2, "--size", 16, "--set", "cluster.k=3"]
    result = ucl(*words, "--limit", 1, stdout="pipe")
    assert result.code == 0
    assert [line.split(": ")[1] for line in result.lines] == [str(tmp_path / "run"), "epoch 1"]
    table = dict(line.split("  ", 1) for line in result.text.splitlines()[:4])
    assert table["epochs"].strip() == "1 of 2"
    assert "next: cd " in result.text
    result = ucl(*words, "--json", stdout="pipe")                       # the same line goes on
    assert result.code == 0
    assert (result.json["schema"], result.json["epochs"], result.json["of"], result.json["last"]["generation"]) == ("ucl.run/1", 2, 2, 2)
    again = ucl(*words, stdout="pipe")
    assert again.code == 76
    assert ucl("status", "--done", tmp_path / "run").code == 0
    assert not (tmp_path / "run/lock").exists()


def test_other_settings_are_refused_by_name(ucl: Runner, small: Path, photos_made: Path, photos: Path) -> None:
    before = tree(small)
    for options, said in ((["--seed", 4], "seed: the run has 0, asked for 4"), (["--epochs", 9], "plan.epochs: the run has 3, asked for 9"),
                          (["--set", "cluster.k=4"], "cluster.k: the run has 3, asked for 4"),
                          (["--set", "purify.min_size=4"], "purify.min_size: the run has its default, asked for 4")):
        result = ucl("run", "deepcluster", photos_made, "-o", small, *options)
        assert result.code == 2
        assert said in result.lines[0]
    assert f"images: the run has {photos_made}, asked for {photos}" in ucl("run", "deepcluster", photos, "-o", small).err
    assert "method: the run has deepcluster, asked for persistent" in ucl("run", "persistent", photos_made, "-o", small).err
    assert "settings belong to a new run" in ucl("run", "--epochs", 9, cwd=small).err
    assert tree(small) == before


def test_dry_run_prints_the_plan_as_shell(ucl: Runner, digits: Path, photos: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    result = ucl("run", "--dry-run", cwd=digits, stdout="pipe")
    assert (result.code, result.err) == (0, "")
    lines = result.text.splitlines()
    assert lines[0] == "# deepcluster: 1797 images at 16 px, convnet; epoch 1 of 3, 1 threads, seed 0"
    assert (lines[1], lines[3]) == ("until ucl status --done; do", "done")
    stages = lines[2].strip().removesuffix(" || exit").split(" | ")
    assert [s.split()[:2] for s in stages] == [["ucl", "extract"], ["ucl", "cluster"], ["ucl", "train-epoch"]]
    assert "-k 60" in stages[1]
    assert "--iterations 5" in stages[1]
    assert all(s.split()[1] in COMMANDS for s in stages)
    assert any(line.startswith("# memory: 2 MB of features") for line in lines)
    assert any(line.startswith("# time: ") and "the 2 left" in line for line in lines)
    new = ucl("run", "persistent", photos, "-o", tmp_path / "new", "-n", stdout="pipe").text.splitlines()
    assert new[1].startswith(f"ucl init persistent {photos} ")
    assert new[1].endswith(f" -o {tmp_path / 'new'} && cd {tmp_path / 'new'}")
    assert "--warm-start" in new[3]
    assert "--head kept" in new[3]
    assert tree(tmp_path) == before


def test_the_plan_as_shell_lines_does_what_run_does(ucl: Runner, small: Path, tmp_path: Path) -> None:
    import shlex
    import shutil

    other = tmp_path / "other"
    shutil.copytree(small, other, symlinks=True)
    line = ucl("run", "--dry-run", cwd=small, stdout="pipe").text.splitlines()[2].strip().removesuffix(" || exit")
    stages = [shlex.split(stage)[1:] for stage in line.split(" | ")]
    assert [r.code for r in ucl.pipe(*stages, cwd=small)] == [0, 0, 0]
    assert ucl("run", "--limit", 1, cwd=other).code == 0
    for name in ("model", "labels"):
        a, b = read(small / f"{name}.h5"), read(other / f"{name}.h5")
        same = a.model if name == "model" else {"labels": a.labels, "distance": a.distance}
        found = b.model if name == "model" else {"labels": b.labels, "distance": b.distance}
        assert all((same[k] == found[k]).all() for k in same)


def test_dry_run_of_another_network(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """The network's own view size and normalisation; behind a Sobel filter no jitter; a layer's own dimension."""
    words = ["run", "deepcluster", photos, "-o", "new", "--backbone", "alexnet-bn", "--sobel", "--precision", "bf16", "--no-compile", "-n"]
    found = tomllib.loads(ucl(*words, "--toml", cwd=tmp_path, stdout="pipe").text)
    assert (found["precision"], found["compile"], found["size"]) == ("bf16", False, 224)
    assert (found["init"]["size"], found["init"]["mean"], found["init"]["sobel"]) == (224, [0.485, 0.456, 0.406], True)
    assert (found["train-epoch"]["jitter_p"], found["train-epoch"]["grey_p"]) == (0, 0)
    assert found["train-epoch"]["crop_scale"] == [0.08, 1.0]
    text = ucl(*words, cwd=tmp_path, stdout="pipe").text
    assert "--precision bf16 --no-compile" in text
    assert f"# memory: {24 * 4096 * 4 / 1000:.0f} KB of features" in text
    assert "--jitter-p 0.0 --grey-p 0.0" in text
    small = ucl("run", "deepcluster", photos, "-o", "new", "--set", "extract.layer=conv2", "-n", cwd=tmp_path, stdout="pipe").text
    assert f"# memory: {24 * 128 * 4 / 1000:.0f} KB of features" in small
    assert list(tmp_path.iterdir()) == [photos]


def test_dry_run_toml(ucl: Runner, digits: Path) -> None:
    found = tomllib.loads(ucl("run", "--dry-run", "--toml", cwd=digits, stdout="pipe").text)
    assert (found["method"], found["threads"], found["cluster"]["k"], found["cluster"]["iterations"]) == ("deepcluster", 1, 60, 5)
    assert found["train-epoch"]["crop_scale"] == [1.0, 1.0]
    assert found["init"]["size"] == 16


def test_through_disk_is_the_same(ucl: Runner, small: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(small, other, symlinks=True)
    assert ucl("run", "--limit", 1, cwd=small).code == 0
    assert ucl("run", "--limit", 1, "--through-disk", cwd=other).code == 0
    assert read(small / "model.h5").digest == read(other / "model.h5").digest


def test_shell_and_run_may_alternate(ucl: Runner, small: Path) -> None:
    assert [r.code for r in ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=small)] == [0, 0, 0]
    assert ucl("run", cwd=small).code == 0
    assert [json.loads(p.read_text())["generation"] for p in sorted((small / "epochs").glob("*/metrics.json"))] == [0, 1, 2, 3]


def test_collapse_stops_when_asked(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """Images that are all alike fall into one cluster."""
    alike = (photos / "ant/0.png").read_bytes()
    for path in photos.rglob("*.png"):
        path.write_bytes(alike)
    words = ["run", "deepcluster", photos, "-o", tmp_path / "run", "--epochs", 3, "--size", 16, "--set", "cluster.k=2", "--set", "cluster.pca=0"]
    result = ucl(*words, "--stop-on-collapse", stdout="pipe")
    assert (result.code, result.out) == (65, b"")
    assert any(line.startswith("ucl run: warning: the clusters collapse: 1 of 2 are filled") for line in result.lines)
    assert "the clusters collapsed in epoch 1: 1 filled" in result.lines[-2]
    metrics = json.loads((tmp_path / "run/epochs/0001/metrics.json").read_text())      # committed before it stops
    assert metrics["collapse"] is True
    assert metrics["largest_share"] > 0.5
    assert ucl(*words, "--limit", 1).code == 0


def test_a_run_without_clusters(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """No labels: view lists the images, evaluate says why there is nothing to measure, a dry run counts the memory and no features."""
    run = tmp_path / "apart"
    assert ucl("run", "ir", photos, "-o", run, "--size", 16, "--epochs", 1, "-j", 1).code == 0
    assert sorted(p.name for p in (run / "epochs" / "0001").iterdir()) == ["metrics.json", "model.h5"]
    listed = ucl("view", cwd=run, stdout="pipe").text.splitlines()
    assert listed[0].split("\t") == ["row", "path", "status", "size", "crc32"]
    assert len(listed) == 1 + 24
    refused = ucl("evaluate", "clusters", cwd=run)
    assert refused.code == 65
    assert refused.lines[0] == "ucl evaluate clusters: error: .: no labels: found the method 'ir', which trains without any"
    assert "ucl extract --model model.h5 | ucl cluster" in refused.lines[1]
    text = ucl("run", "--dry-run", cwd=run, stdout="pipe").text
    assert f"# memory: {24 * 128 * 4 / 1000:.0f} KB of past embeddings; " in text
    assert "features" not in text
    both = ucl("run", "pcp", photos, "-o", tmp_path / "new", "--projection", 10, "-n", stdout="pipe").text
    assert "960 B of features, x 2 while they are clustered; 960 B of past embeddings; " in both
    assert "cluster k 24 ... 2; purify whole_up_to 5 ... 0; purify votes False ... True; " in both
    assert ucl("run", "and", photos, "-o", tmp_path / "new", "-n", stdout="pipe").text.count("discover False at both ends") == 1


def test_one_of_several_processes_is_refused_before_anything_is_done(ucl: Runner, small: Path, tmp_path: Path) -> None:
    """Also where an epoch is training alone, after which its checkpoint would be the first to ask."""
    made = ucl("init", "ir", "digits", "-o", tmp_path / "ir", "-j", 1)
    assert made.code == 0, made.err
    for command, folder in (("run", tmp_path / "ir"), ("train-epoch", tmp_path / "ir"), ("run", small)):
        before = tree(folder)
        result = ucl(command, cwd=folder, env={"WORLD_SIZE": "2", "RANK": "0"})
        assert result.code == 69, result.err
        assert "2 processes: this version of ucl works in one process" in result.lines[0]
        assert len(result.lines) == 2
        assert tree(folder) == before
