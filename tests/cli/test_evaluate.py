"""ucl evaluate: clusters and features against classes."""

from pathlib import Path

import h5py

from cli.harness import Runner
from ucl import read
from ucl.artifacts import Evaluation


def test_clusters(ucl: Runner, labels: Path, photos: Path, tmp_path: Path) -> None:
    result = ucl("evaluate", "clusters", labels, stdout="pipe")
    assert (result.code, result.err) == (0, "")
    rows = {line.split()[0]: float(line.split()[1]) for line in result.text.splitlines()}
    assert {"acc_one_to_one", "nmi_arithmetic", "ari"} <= set(rows)
    assert 1 / 3 <= rows["acc_one_to_one"] <= 1
    facts = ucl("evaluate", "clusters", "--json", stdin=labels.read_bytes(), stdout="pipe").json
    assert facts["schema"] == "ucl.evaluation/1"
    assert sorted(facts["metrics"]["acc_one_to_one"]) == ["high", "low", "n", "protocol", "value"]
    assert abs(facts["metrics"]["acc_one_to_one"]["value"] - rows["acc_one_to_one"]) < 1e-3
    assert ucl("targets", photos, "-o", tmp_path / "truth.h5").code == 0
    truth = ucl("evaluate", "clusters", tmp_path / "truth.h5", "--json", stdout="pipe").json["metrics"]
    assert truth["acc_one_to_one"]["value"] == truth["ari"]["value"] == 1.0


def test_the_run_directorys_labels(ucl: Runner, small: Path, tmp_path: Path) -> None:
    a = ucl("evaluate", "clusters", "--json", cwd=small, stdout="pipe").json
    b = ucl("evaluate", "clusters", small / "labels.h5", "--json", cwd=tmp_path, stdout="pipe").json
    assert a == b


def test_output_file(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    assert ucl("evaluate", "clusters", labels, "-o", tmp_path / "e.h5", stdout="pipe").code == 0
    made = read(tmp_path / "e.h5", "ucl/evaluation")
    assert isinstance(made, Evaluation)
    assert made.value("acc_one_to_one") == ucl("evaluate", "clusters", labels, "--json", stdout="pipe").json["metrics"]["acc_one_to_one"]["value"]
    piped = ucl("evaluate", "clusters", labels, "-o", "-", stdout="pipe")
    assert piped.out.startswith(b"\x89HDF")
    (tmp_path / "p.h5").write_bytes(piped.out)
    assert read(tmp_path / "p.h5").digest == made.digest


def test_targets_from_a_file(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    names = [p.decode() for p in read(labels).samples.path.tolist()]
    (tmp_path / "t.tsv").write_text("".join(f"{n}\t{'x' if i % 2 else 'y'}\n" for i, n in enumerate(names)))
    odd = ucl("evaluate", "clusters", labels, "--targets", tmp_path / "t.tsv", "--json", stdout="pipe").json["metrics"]
    assert odd["ari"]["value"] < 0.3
    (tmp_path / "t.csv").write_text("".join(f"{n},{c}\n" for n, c in zip(names, read(labels).labels, strict=True)))
    own = ucl("evaluate", "clusters", labels, "--targets", tmp_path / "t.csv", "--json", stdout="pipe").json["metrics"]
    assert own["ari"]["value"] == 1.0


def test_knn(ucl: Runner, small: Path, features: Path, photos: Path) -> None:
    given = ucl("evaluate", "knn", features, "--json", stdout="pipe").json["metrics"]["knn_top1"]
    here = ucl("evaluate", "knn", "--json", cwd=small, stdout="pipe").json["metrics"]["knn_top1"]
    assert given == here
    assert given["n"] == 24
    assert given["low"] < given["value"] <= given["high"] or given["value"] == 1.0
    assert "leave-one-out" in given["protocol"]
    test = ucl("evaluate", "knn", "--test", photos, "-k", 1, "--json", cwd=small, stdout="pipe").json["metrics"]["knn_top1"]
    assert test["value"] == 1.0                                         # each image's nearest is itself
    assert "train/test" in test["protocol"]
    files = ucl("evaluate", "knn", features, "--test", features, "-k", 1, "--json", stdout="pipe").json["metrics"]["knn_top1"]
    assert files["value"] == 1.0
    told = ucl("evaluate", "knn", features, "--test", photos, stdout="pipe")
    assert (told.code, told.out) == (2, b"")
    assert "a folder needs a model" in told.err


def test_a_report_tells_of_each_image(ucl: Runner, features: Path, tmp_path: Path) -> None:
    plain = ucl("evaluate", "knn", features, "-k", 3, stdout="pipe")
    made = ucl("evaluate", "knn", features, "-k", 3, "-o", "r.h5", cwd=tmp_path, stdout="pipe")
    assert (made.code, made.text) == (0, plain.text)
    report, x = read(tmp_path / "r.h5", "ucl/evaluation"), read(features)
    assert report.samples.digest == x.samples.digest
    assert (report.correct == (report.predicted == report.truth)).all()
    assert report.correct.mean() == report.value("knn_top1")
    assert [report.classes[t] for t in report.truth] == [p.decode().split("/")[0] for p in x.samples.path.tolist()]
    facts = ucl("info", "r.h5", "--json", cwd=tmp_path, stdout="pipe").json["files"][0]
    assert facts["datasets"]["/per_sample/correct"] == "24 uint8"
    assert facts["samples-digest"] == x.samples.digest
    assert "evaluate knn" in facts["steps"][-1]
    assert len(facts["steps"]) == len(x.provenance) + 1
    assert ucl("validate", "--full", "r.h5", cwd=tmp_path, stdout="pipe").code == 0
    with h5py.File(tmp_path / "r.h5") as file:
        assert h5py.check_enum_dtype(file["per_sample/correct"].dtype) == {"WRONG": 0, "RIGHT": 1, "LEFT_OUT": 2}
    before = (tmp_path / "r.h5").read_bytes()
    told = ucl("evaluate", "knn", "no.h5", "-o", "r.h5", cwd=tmp_path, stdout="pipe")
    assert (told.code, told.lines[0]) == (73, "ucl evaluate knn: error: r.h5: exists already")         # before anything is read
    assert (tmp_path / "r.h5").read_bytes() == before
    assert ucl("evaluate", "linear", features, "--folds", 3, "-f", "-o", "r.h5", cwd=tmp_path, stdout="pipe").code == 0
    assert read(tmp_path / "r.h5").rows[0][0] == "linear_top1"
    assert (read(tmp_path / "r.h5").correct == 1).mean() == read(tmp_path / "r.h5").value("linear_top1")


def test_validate_finds_answers_that_contradict(ucl: Runner, features: Path, tmp_path: Path) -> None:
    assert ucl("evaluate", "knn", features, "-o", "r.h5", cwd=tmp_path, stdout="pipe").code == 0
    for path, value, said in (("per_sample/correct", 9, "unknown value 9"), ("per_sample/correct", 2, "are right, but /metrics says"),
                              ("per_sample/predicted", -1, "but class -1 is predicted"), ("per_sample/truth", 50, "/classes/name has 3")):
        copy = tmp_path / "copy.h5"
        copy.write_bytes((tmp_path / "r.h5").read_bytes())
        with h5py.File(copy, "r+") as file:
            row = int((file["per_sample/correct"][:] == 1).argmax())
            file[path][row] = value
        told = ucl("validate", "--full", copy, stdout="pipe")
        assert told.code == 65
        assert said in told.text + told.err, (said, told.text, told.err)


def test_compare(ucl: Runner, features: Path, photos: Path, tmp_path: Path) -> None:
    assert ucl("extract", photos, "--backbone", "convnet", "--seed", 5, "-o", "other.h5", cwd=tmp_path).code == 0
    for name, words in (("a", [features, "-k", 3]), ("b", ["other.h5", "-k", 3]), ("k1", [features, "-k", 1])):
        assert ucl("evaluate", "knn", *words, "-o", f"{name}.h5", cwd=tmp_path, stdout="pipe").code == 0
    a, b = (read(tmp_path / f"{name}.h5") for name in "ab")
    facts = ucl("evaluate", "compare", "a.h5", "b.h5", "--json", cwd=tmp_path, stdout="pipe").json
    assert facts["schema"] == "ucl.comparison/1"
    assert facts["metrics"]["b_minus_a"]["value"] == (int(b.correct.sum()) - int(a.correct.sum())) / 24
    assert facts["metrics"]["b_minus_a"]["low"] <= facts["metrics"]["b_minus_a"]["value"] <= facts["metrics"]["b_minus_a"]["high"]
    assert facts["metrics"]["only_a"]["value"] == ((a.correct == 1) & (b.correct == 0)).sum()
    assert (facts["images"], facts["resamples"], facts["seed"], facts["a"]["files"], facts["b"]["values"]) == (24, 9999, 0, ["a.h5"], [b.rows[0][1]])
    lines = ucl("evaluate", "compare", "a.h5", "b.h5", cwd=tmp_path, stdout="pipe").text.splitlines()
    assert [line.split()[0] for line in lines] == ["a", "b", "b_minus_a", "only_a", "only_b", "mcnemar_p"]
    assert "[" in lines[2]
    assert "9999 resamples" in lines[2]
    piped = ucl("evaluate", "compare", "a.h5", "-", "--json", stdin=(tmp_path / "b.h5").read_bytes(), cwd=tmp_path, stdout="pipe").json
    assert piped["metrics"] == facts["metrics"]
    many = ucl("evaluate", "compare", "a.h5", "vs", "b.h5", "b.h5", "--json", cwd=tmp_path, stdout="pipe")
    assert "b.h5 has the content of b.h5" in many.err
    assert many.json["metrics"]["b_minus_a"] == facts["metrics"]["b_minus_a"]
    assert "mcnemar_p" not in many.json["metrics"]
    other = ucl("evaluate", "compare", "a.h5", "k1.h5", "--any-protocol", "--json", cwd=tmp_path, stdout="pipe").json
    assert other["a"]["protocols"] != other["b"]["protocols"]
    few = ucl("evaluate", "compare", "a.h5", "b.h5", "--resamples", 100, "--seed", 4, "--json", cwd=tmp_path, stdout="pipe").json
    assert (few["resamples"], few["seed"], few["metrics"]["only_b"]) == (100, 4, facts["metrics"]["only_b"])


def test_compare_mistakes(ucl: Runner, features: Path, labels: Path, tmp_path: Path) -> None:
    assert ucl("evaluate", "knn", features, "-k", 3, "-o", "a.h5", cwd=tmp_path, stdout="pipe").code == 0
    assert ucl("evaluate", "knn", features, "-k", 1, "-o", "k1.h5", cwd=tmp_path, stdout="pipe").code == 0
    assert ucl("evaluate", "clusters", labels, "-o", "c.h5", cwd=tmp_path, stdout="pipe").code == 0
    assert ucl("select", features, "--rows", "0:20", "-o", "part.h5", cwd=tmp_path).code == 0
    assert ucl("evaluate", "knn", "part.h5", "-k", 3, "-o", "p.h5", cwd=tmp_path, stdout="pipe").code == 0
    for code, told, words in ((2, "wanted two reports", ["a.h5"]), (2, "wanted two reports", ["a.h5", "a.h5", "a.h5"]),
                              (2, "wanted two reports", ["a.h5", "vs"]), (2, "wanted two reports", ["vs", "a.h5"]),
                              (2, "resamples", ["a.h5", "a.h5", "--resamples", 5]), (2, "named twice", ["-", "-"]),
                              (66, "no such file", ["a.h5", "no.h5"]),
                              (65, "expected ucl/evaluation", ["a.h5", labels]), (65, "c.h5: /per_sample/correct: missing", ["a.h5", "c.h5"]),
                              (65, "p.h5: 20 images, expected 24 as in a.h5", ["a.h5", "p.h5"]), (65, "by the protocol", ["a.h5", "k1.h5"])):
        result = ucl("evaluate", "compare", *words, cwd=tmp_path, stdout="pipe")
        assert (result.code, result.out) == (code, b""), (words, result.err)
        assert result.lines[0].startswith("ucl evaluate compare: error: "), result.err
        assert told in result.lines[0], result.err
        assert all(line.startswith("  try: ") for line in result.lines[1:])


def test_digits_have_their_truth_built_in(ucl: Runner, digits: Path) -> None:
    found = ucl("evaluate", "clusters", "--json", cwd=digits, stdout="pipe").json["metrics"]
    assert found["acc_one_to_one"]["n"] == 1797
    with h5py.File(digits / "labels.h5") as file:
        assert len(file["labels"]) == 1797


def test_images_without_classes(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    assert ucl("extract", photos / "ant", "--backbone", "convnet", "-o", "f.h5", cwd=tmp_path).code == 0
    told = ucl("evaluate", "knn", "f.h5", cwd=tmp_path, stdout="pipe")
    assert (told.code, told.out) == (65, b"")
    assert told.lines[0] == "ucl evaluate knn: error: truth: the images lie in no class folders"


def test_linear(ucl: Runner, small: Path, features: Path, photos: Path, tmp_path: Path) -> None:
    given = ucl("evaluate", "linear", features, "--folds", 4, "--json", stdout="pipe").json["metrics"]
    here = ucl("evaluate", "linear", "--folds", 4, "--json", cwd=small, stdout="pipe").json["metrics"]
    assert given == here
    assert given["linear_top1"]["n"] == 24
    assert given["linear_top1"]["protocol"] == "logistic, C=1, standardised, 4-fold"
    assert given["converged"]["value"] == 1
    seeded = ucl("evaluate", "linear", features, "--folds", 4, "--seed", 0, "--json", stdout="pipe").json["metrics"]
    assert seeded == given
    test = ucl("evaluate", "linear", "--test", photos, "--json", cwd=small, stdout="pipe").json["metrics"]
    files = ucl("evaluate", "linear", features, "--test", features, "--json", stdout="pipe").json["metrics"]
    assert test["linear_top1"]["value"] == files["linear_top1"]["value"] == 1.0
    assert "train/test" in test["linear_top1"]["protocol"]
    auto = ucl("evaluate", "linear", features, "--test", features, "--c", "auto", "--folds", 3, "-o", tmp_path / "e.h5", stdout="pipe")
    assert auto.code == 0, auto.err
    assert "chosen of 8 by 3-fold" in auto.text
    assert read(tmp_path / "e.h5", "ucl/evaluation").value("linear_top1") == 1.0
    sgd = ucl("evaluate", "linear", features, "--test", features, "--solver", "sgd", "--json", stdout="pipe").json["metrics"]
    assert sgd["linear_top1"]["protocol"] == "SeLa's sgd, standardised, train/test"


def test_linear_mistakes(ucl: Runner, features: Path, photos: Path, tmp_path: Path) -> None:
    for code, told, words in ((2, "c: found 'much', wanted a number above 0, or auto", ["--c", "much"]), (2, "folds", ["--folds", 1]),
                              (2, "solver: found 'svm'", ["--solver", "svm"]), (2, "a folder needs a model", ["--test", photos]),
                              (65, "expected at least 30", ["--folds", 30])):
        result = ucl("evaluate", "linear", features, *words, "-o", "e.h5", cwd=tmp_path, stdout="pipe")
        assert (result.code, result.out) == (code, b""), result.err
        assert result.lines[0].startswith("ucl evaluate linear: error: ")
        assert told in result.lines[0]
        assert not (tmp_path / "e.h5").exists()
