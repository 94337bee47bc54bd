"""ucl status."""

import json
from pathlib import Path

from cli.harness import Runner, tree


def test_text_and_json(ucl: Runner, small: Path) -> None:
    before = tree(small)
    result = ucl("status", cwd=small, stdout="pipe")
    assert (result.code, result.err) == (0, "")
    lines = result.text.splitlines()
    assert lines[0] == "deepcluster on 24 images: epoch 1 of 3"
    assert lines[1].split()[:2] == ["epoch", "loss"]
    assert lines[2].split()[0] == "1"
    facts = ucl("status", small, "--json", stdout="pipe").json
    assert sorted(facts) == ["done", "epoch", "epochs", "images", "method", "metrics", "needs", "schema", "unfinished"]
    assert facts["needs"] == "labels"
    assert (facts["schema"], facts["epoch"], facts["epochs"], facts["done"], facts["images"]) == ("ucl.status/1", 1, 3, False, 24)
    assert [m["generation"] for m in facts["metrics"]] == [0, 1]
    assert tree(small) == before


def test_done(ucl: Runner, small: Path) -> None:
    for epochs, code in (("3", 1), ("2", 1), ("1", 0)):
        config = small / "ucl.toml"
        config.write_text(config.read_text().replace('epochs = "3"', f'epochs = "{epochs}"').replace('epochs = "2"', f'epochs = "{epochs}"'))
        result = ucl("status", "--done", cwd=small, stdout="pipe")
        assert (result.code, result.out, result.err) == (code, b"", "")
    assert ucl("status", cwd=small, stdout="pipe").text.splitlines()[0].endswith("epoch 1 of 1, done")


def test_the_page_names_every_key_of_the_metrics(ucl: Runner, small: Path, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "pcp"
    assert ucl("run", "pcp", photos, "-o", run, "--size", 16, "--epochs", 2, "-j", 1, "--set", "pcp.final_k=2").code == 0
    keys = {key for at in (run, small) for m in json.loads(ucl("status", at, "--json", stdout="pipe").text)["metrics"] for key in m}
    assert {"loss_memory", "loss_views", "log_n", "log_k", "lr", "churn"} <= keys
    page = (Path(__file__).parents[2] / "man" / "ucl-status.inc").read_text(encoding="utf-8")
    assert {key for key in keys if f"`{key}`" not in page} == set()
    assert json.loads((run / "epochs" / "0001" / "metrics.json").read_text())["kept"] == 0              # each image is its own cluster at first


def test_the_run_of_the_lowest_metric(ucl: Runner, tmp_path: Path) -> None:
    """As of an ensemble's members the one to keep: by what the runs themselves measured, no truth."""
    for name, score in (("a", -1.5), ("b", -2.25), ("c", -2.25)):
        ucl("init", "ir", "digits", "-o", name, "--set", "init.projection=8", cwd=tmp_path)
        path = tmp_path / name / "epochs/0000/metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"score": score}))
    result = ucl("status", "--lowest", "score", "a", "b", "c", cwd=tmp_path, stdout="pipe")
    assert (result.code, result.text) == (0, "b\n")
    wrong = ucl("status", "--lowest", "accuracy", "a", "b", cwd=tmp_path)
    assert wrong.code == 65
    assert wrong.lines[0] == "ucl status: error: a: epoch 0: no metric 'accuracy'"
    several = ucl("status", "a", "b", cwd=tmp_path)
    assert several.code == 2
    assert "found 2 directories, wanted one" in several.lines[0]
