"""Weights by name, and what is known of the images they were trained on."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from ucl import pretrained
from ucl.errors import DataError, InputMissing, Unavailable
from ucl.weights import Weights

URL = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_from_the_cache(name: str, hub: Path) -> None:
    torch.save({"a": torch.ones(2)}, hub / Path(URL).name)
    told: list[str] = []
    found, preset = pretrained.start("resnet18", name, told.append)
    assert list(found.state) == ["a"]
    assert found.name.startswith(f"{name} (")
    assert preset == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert told == []


def test_from_the_network(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(url: str, path: str, digest: str | None, progress: bool) -> None:
        asked.append((url, digest))
        torch.save({"a": torch.ones(2)}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    told: list[str] = []
    pretrained.start("resnet18", "DEFAULT", told.append)
    pretrained.start("resnet18", "DEFAULT", told.append)
    assert asked == [(URL, "f37072fd")]
    assert len(told) == 1
    assert URL in told[0]


@pytest.mark.parametrize("error", [urllib.error.URLError("Name or service not known"), TimeoutError("timed out"),
                                   RuntimeError('invalid hash value (expected "f37072fd", got "00")')])
def test_no_network(error: Exception, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(Unavailable, match=f"cannot fetch {URL}") as told:
        pretrained.start("resnet18", "DEFAULT", lambda text: None)
    assert told.value.hint.endswith("--weights resnet18-f37072fd.pth")
    assert not list(hub.iterdir())


@pytest.mark.parametrize(("backbone", "given", "said"), [("resnet18", "IMAGENET1K_V9", "DEFAULT"), ("convnet", "DEFAULT", "give a file"),
                                                         ("resnet18", "no.pt", "")])
def test_no_such_weights(backbone: str, given: str, said: str) -> None:
    with pytest.raises(InputMissing, match="no such file") as told:
        pretrained.start(backbone, given, print)
    assert said in told.value.hint


@pytest.mark.parametrize("meta", [{"size": "x"}, {"mean": [1, 2, 3]}, {"mean": 3, "std": 3}, {"mean": [1, 2, "x"], "std": [1, 1, 1]}])
def test_notes_that_are_none(meta: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"ucl\.size, ucl\.mean, ucl\.std"):
        pretrained.known(Weights("w", {}, "", meta), "convnet")
