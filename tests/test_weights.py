"""Files of weights from outside: what is read, what is refused, and how they are fitted."""

import hashlib
import io
import json
import os
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ucl import weights
from ucl.errors import DataError, InputMissing, UclError, Unavailable
from ucl.layouts import Names
from ucl.weights import Weights, fit, read

NET = Names("resnet9", "fc")
SHAPES = {"conv1.weight": (4, 3, 3, 3), "bn1.weight": (4,), "bn1.running_mean": (4,), "layer1.0.conv1.weight": (6, 4, 1, 1)}
WANTED: dict[str, tuple[tuple[int, ...], str]] = {k: (v, "float32") for k, v in SHAPES.items()} | {"bn1.num_batches_tracked": ((), "int64")}
STATE = {k: torch.arange(int(np.prod(v)), dtype=torch.float32).reshape(v) + i for i, (k, v) in enumerate(SHAPES.items())}
STATE["bn1.num_batches_tracked"] = torch.tensor(5)
FC = {"fc.weight": torch.ones(7, 6), "fc.bias": torch.zeros(7)}


def saved(path: Path, found: Any, **options: Any) -> Path:
    torch.save(found, path, **options)
    return path


def of(state: dict[str, Any]) -> Weights:
    return Weights("w.pt", {k: np.asarray(v) for k, v in state.items()}, "")


# -- reading ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: OrderedDict(s), lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {}}},
                                  lambda s: {"model": {"state_dict": s}}, lambda s: {"model_state_dict": s, "loss": torch.tensor(1.0)}])
@pytest.mark.parametrize("modern", [True, False])
def test_what_torch_save_wrote(wrap: Any, modern: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.anything", wrap(STATE), _use_new_zipfile_serialization=modern)
    found = read(path, "w")
    assert list(found.state) == list(STATE)
    assert all(np.array_equal(found.state[k], STATE[k].numpy()) and found.state[k].dtype == STATE[k].numpy().dtype for k in STATE)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    if "optimizer" in wrap({}):
        assert found.beside == ["epoch", "optimizer"]


def test_safetensors_and_a_stream(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "w", {"ucl.size": "24", "ucl.mean": "[0.1, 0.2, 0.3]", "other": "x"})
    found = read(tmp_path / "w", "w")
    assert found.meta == {"size": 24, "mean": [0.1, 0.2, 0.3]}
    assert all(np.array_equal(found.state[k], STATE[k].numpy()) for k in STATE)
    source, sink = os.pipe()
    os.write(sink, (tmp_path / "w").read_bytes())
    os.close(sink)
    assert read(source, "stdin").sha256 == found.sha256
    os.close(source)


def test_parameters_views_and_half_precision(tmp_path: Path) -> None:
    whole = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = read(saved(tmp_path / "w", {"p": torch.nn.Parameter(whole), "t": whole.t(), "h": whole.half(), "b": whole.bfloat16(),
                                        "d": whole.double(), "n": whole[:0]}), "w").state
    assert np.array_equal(found["p"], whole.numpy())
    assert np.array_equal(found["t"], whole.numpy().T)
    assert found["t"].flags.c_contiguous
    assert found["h"].dtype == found["b"].dtype == np.float32
    assert np.array_equal(found["h"], whole.half().float().numpy())
    assert np.array_equal(found["b"], whole.bfloat16().float().numpy())
    assert found["d"].dtype == np.float64
    assert found["n"].shape == (0, 6)


class Evil:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def refused(path: Path, *words: str, kind: type[UclError] = DataError) -> None:
    with pytest.raises(kind) as told:
        read(path, "w")
    for word in words:
        assert word in f"{told.value.message} {told.value.hint}", (word, told.value.message)
    assert "\n" not in told.value.message


@pytest.mark.parametrize("modern", [True, False])
def test_code_is_not_run(modern: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "w", {"state_dict": dict(STATE), "more": Evil(tmp_path / "made")}, _use_new_zipfile_serialization=modern)
    refused(path, "holds Python code (posix.mkdir)", "never run")
    assert not (tmp_path / "made").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "made").exists()                                 # it would have


def test_a_whole_module_and_a_program(tmp_path: Path) -> None:
    refused(saved(tmp_path / "w", torch.nn.Linear(2, 2)), "holds Python code", "state_dict()")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/constants.pkl", b"")
    (tmp_path / "jit").write_bytes(buffer.getvalue())
    refused(tmp_path / "jit", "TorchScript")


@pytest.mark.parametrize(("found", "said"), [(torch.ones(3), "found Tensor, expected a dict"), ([1, 2], "found list"), ({}, "an empty dict"),
                                             ({"a": 1, "b": "x"}, "found a dict of a, b"), ({"student": {"a": torch.ones(1)}}, "dict of student"),
                                             ({"model": {"model": {"model": {"model": {"model": {"x": torch.ones(1)}}}}}}, "dicts in dicts"),
                                             ({"a": torch.ones(2, dtype=torch.complex64)}, "expected plain numbers"),
                                             ({"a": torch.ones(2, 2).to_sparse()}, "expected plain numbers"),
                                             ({"a": torch.ones(2, device="meta")}, "expected plain numbers")])
def test_wrong_types(found: Any, said: str, tmp_path: Path) -> None:
    refused(saved(tmp_path / "w", found), said)


def test_bombs(tmp_path: Path) -> None:
    path = saved(tmp_path / "w", {"a": torch.ones(1).expand(1 << 40)})  # a terabyte in four bytes
    assert path.stat().st_size < 4096
    refused(path, "a bomb?")
    one = torch.ones(1000)
    refused(saved(tmp_path / "w", {str(i): one for i in range(100)}), "a bomb?")
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 24))
    refused(tmp_path / "z", "a bomb?")
    (tmp_path / "h").write_bytes(struct.pack("<Q", 99_000_000) + b"{" + b" " * 50)
    refused(tmp_path / "h", "safetensors")


def test_damage(tmp_path: Path) -> None:
    path = saved(tmp_path / "w", STATE)
    whole = path.read_bytes()
    for length in (1, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "w:")
    at = whole.index(STATE["layer1.0.conv1.weight"].numpy().tobytes())
    damaged = bytearray(whole)
    damaged[at + 5] ^= 4
    path.write_bytes(bytes(damaged))
    refused(path, "checksum")
    safetensors.torch.save_file(STATE, tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(whole[:-1])
    refused(tmp_path / "s", "cannot be read as safetensors")


@pytest.mark.parametrize(("start", "said"), [(b"", "found nothing"), (b"\x1f\x8b\x08" + bytes(90), "no weights"), (b"hello " * 20, "b'hello he'"),
                                             (b"\x89HDF\r\n\x1a\n" + bytes(90), "--model"), (b"\x80\x02" + bytes(90), "PyTorch (before 1.6)")])
def test_other_files(start: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(start)
    refused(tmp_path / "w", said)


def test_no_file_and_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "no", "no such file", kind=InputMissing)
    refused(tmp_path, "is a folder")
    safetensors.torch.save_file(STATE, tmp_path / "w")
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    refused(tmp_path / "w", "needs the package safetensors", "pip install 'ucl[safetensors]'", kind=Unavailable)


# -- fitting ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "model.", "module.encoder.", "module.encoder_q.", "model.backbone."])
def test_prefixes(prefix: str) -> None:
    made = fit(of({prefix + k: v for k, v in (STATE | FC).items()}), NET, WANTED, 6)
    assert (made.layout, made.prefix, made.left_out) == ("torchvision", prefix, [])
    assert set(made.tensors) == {f"backbone.{k}" for k in STATE} | {"head.weight", "head.bias"}
    assert all(np.array_equal(made.tensors[f"backbone.{k}"], STATE[k].numpy()) for k in STATE)
    assert all(made.tensors[f"backbone.{k}"].dtype.name == dtype for k, (_, dtype) in WANTED.items())


def test_the_layout_of_ucl() -> None:
    made = fit(of({f"backbone.{k}": v for k, v in STATE.items()} | {"head.weight": FC["fc.weight"], "head.bias": FC["fc.bias"]}), NET, WANTED, 6)
    assert (made.layout, made.prefix) == ("ucl", "")
    assert made.tensors["head.weight"].shape == (7, 6)


MOCO = ({f"module.encoder_q.{k}": v for k, v in STATE.items()} | {f"module.encoder_k.{k}": v + 1 for k, v in STATE.items()}
        | {"module.encoder_q.fc.0.weight": torch.ones(6, 6), "module.queue": torch.ones(8, 3)})


def test_what_is_beside_the_network_is_dropped_only_if_asked() -> None:
    with pytest.raises(DataError, match=r"beside resnet9 it holds 7 more tensors \(module.encoder_k.*--?|beside") as told:
        fit(of(MOCO), NET, WANTED, 6)
    assert told.value.hint == "--head drop leaves them out"
    made = fit(of(MOCO), NET, WANTED, 6, head="drop")
    assert len(made.left_out) == 7
    assert np.array_equal(made.tensors["backbone.bn1.weight"], STATE["bn1.weight"].numpy())
    assert set(made.tensors) == {f"backbone.{k}" for k in STATE}
    assert any(n.startswith("left out: 7 tensors (module.encoder_k.") for n in made.notes)
    assert fit(of(STATE | FC), NET, WANTED, 6, head="drop").left_out == ["fc.weight", "fc.bias"]


def test_every_fault_is_told() -> None:
    bad = {k: v for k, v in STATE.items() if k != "conv1.weight"} | {"layer1.1.conv1.weight": torch.ones(2), "bn1.weight": torch.ones(5)}
    for head in ("keep", "drop"):
        with pytest.raises(DataError) as told:
            fit(of(bad), NET, WANTED, 6, head=head)
        assert told.value.message == ("w.pt: does not fit resnet9 (5 tensors, torchvision layout): 1 missing (conv1.weight); 1 unexpected "
                                      "(layer1.1.conv1.weight); 1 of other shapes (bn1.weight is 5, wanted 4)")
    many = {k: v for k, v in STATE.items()} | {f"layer1.{i}.bn.bias": torch.ones(1) for i in range(9)}
    with pytest.raises(DataError, match=r"9 unexpected \(layer1.0.bn.bias, layer1.1.bn.bias, layer1.2.bn.bias, \.\.\.\)"):
        fit(of(many), NET, WANTED, 6, head="drop")
    with pytest.raises(DataError, match=r"4 missing"):
        fit(of({"x": torch.ones(1)}), NET, WANTED, 6)


@pytest.mark.parametrize(("head", "said"), [({"fc.weight": torch.ones(7, 5), "fc.bias": torch.ones(7)}, "7x5 with a bias of 7, wanted Kx6"),
                                            ({"fc.weight": torch.ones(7, 6)}, "fc has no bias"),
                                            ({"fc.weight": torch.ones(7, 6), "fc.bias": torch.ones(3)}, "bias of 3")])
def test_a_head_that_does_not_fit(head: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as told:
        fit(of(STATE | head), NET, WANTED, 6)
    assert "--head drop" in told.value.hint
    assert "head.weight" not in fit(of(STATE | head), NET, WANTED, 6, head="drop").tensors


def test_types_and_numbers() -> None:
    old = {k: v for k, v in STATE.items() if "num_batches" not in k}    # before PyTorch 0.4.1
    made = fit(of(old), NET, WANTED, 6)
    assert made.tensors["backbone.bn1.num_batches_tracked"].shape == ()
    assert made.tensors["backbone.bn1.num_batches_tracked"] == 0
    assert "1 counters of batch norms were missing and are 0" in made.notes
    made = fit(of({k: v.double() for k, v in STATE.items() if "num" not in k}), NET, WANTED, 6)
    assert made.tensors["backbone.bn1.weight"].dtype == np.float32
    assert "4 float64 tensors rounded to float32" in made.notes
    with pytest.raises(DataError, match=r"bn1.weight: 1 of 4 values are not finite"):
        fit(of(STATE | {"bn1.weight": torch.tensor([1, 2, float("nan"), 3])}), NET, WANTED, 6)
    with pytest.raises(DataError, match="not finite"):
        fit(of(STATE | {"bn1.weight": torch.full((4,), 1e300, dtype=torch.float64)}), NET, WANTED, 6)
    with pytest.raises(DataError, match=r"bn1.weight: found int64, expected float32"):
        fit(of(STATE | {"bn1.weight": torch.ones(4, dtype=torch.int64)}), NET, WANTED, 6)


def test_notes_of_ucl(tmp_path: Path) -> None:
    config = {"backbone": "convnet", "size": 24, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "k": 7}
    header = weights.metadata(config)
    assert {k: json.loads(v) for k, v in header.items() if k != "format"} == {f"ucl.{k}": v for k, v in config.items() if k != "k"}
