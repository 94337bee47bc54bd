"""ucl doctor."""

import ucl as package
from cli.harness import Runner


def test_text_and_json(ucl: Runner) -> None:
    facts = ucl("doctor", "--json", stdout="pipe").json
    assert (facts["schema"], facts["ucl"]) == ("ucl.doctor/1", package.__version__)
    for key in ("torch", "hdf5", "gpus", "cuda", "threads", "tmpdir", "tmpdir free bytes", "backbones", "python", "numpy", "h5py"):
        assert key in facts
    assert {"convnet", "alexnet-bn"} <= set(facts["backbones"])
    assert {"convnext_tiny", "vgg16_bn"} <= set(facts["torchvision models"])
    result = ucl("doctor", stdout="pipe")
    assert (result.code, result.err) == (0, "")
    lines = dict(line.split(None, 1) for line in result.text.splitlines())
    assert lines["ucl"] == package.__version__
    assert lines["torch"] == facts["torch"]


def test_the_environment_is_obeyed(ucl: Runner, tmp_path: object) -> None:
    facts = ucl("doctor", "--json", stdout="pipe", env={"SLURM_CPUS_PER_TASK": "3", "SLURM_JOB_ID": "77", "UCL_TMPDIR": str(tmp_path)}).json
    assert (facts["threads"], facts["SLURM_JOB_ID"], facts["tmpdir"]) == (3, "77", str(tmp_path))
