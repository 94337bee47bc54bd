"""What every artifact carries beside its arrays, and how that is read; the artifacts themselves are in `ucl.artifacts`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ucl.context import Context
from ucl.errors import DataError
from ucl.samples import Samples

if TYPE_CHECKING:
    from ucl.formats.reader import Artifact as OpenFile

Arrays = dict[str, NDArray[Any]]


@dataclass
class Stored:
    """What every artifact carries beside its arrays.

    Attributes:
        context: where in a plan it was made.
        provenance: one JSON text per step that led to it, oldest first.
        recipe: digest of what it was made from and how; known before the first byte.
        digest: its content digest once it has been saved or loaded, else empty.
        foreign: read from a file without a context: a stage of somebody's own wrote it.
    """

    kind: ClassVar[str] = ""
    context: Context = field(default_factory=Context, kw_only=True)
    provenance: list[str] = field(default_factory=list, kw_only=True)
    recipe: str = field(default="", kw_only=True)
    digest: str = field(default="", kw_only=True)
    foreign: bool = field(default=False, kw_only=True)

    def title(self) -> str:
        """One line for people."""
        raise TypeError(self.kind)

    def arrays(self) -> Arrays:
        """Dataset path -> array, as `formats.layout` names them."""
        raise TypeError(self.kind)

    def attrs(self) -> dict[str, Any]:
        """Root attributes beside the common ones."""
        return {}

    def dataset_attrs(self) -> dict[str, dict[str, Any]]:
        """Dataset path -> its attributes."""
        return {}

    def root_attrs(self) -> dict[str, Any]:
        """All root attributes a writer is given."""
        samples: Samples | None = getattr(self, "samples", None)
        attrs = {"title": self.title(), "recipe-id": self.recipe, "context": self.context.to_json(), **self.attrs()}
        if samples is not None:
            attrs |= {"samples-digest": samples.digest, "n-samples": len(samples)}
        return attrs


def samples_arrays(samples: Samples | None) -> Arrays:
    """Dataset path -> array of the samples; nothing for None."""
    if samples is None:
        return {}
    return {"/samples/path": samples.path, "/samples/status": samples.status}


def read_samples(file: OpenFile) -> Samples | None:
    """The samples of an opened file or stream; None if it names none.

    Raises:
        DataError: the names are not those that the file's digest is of.
    """
    if "/samples/path" not in file.names:
        return None
    path = file.read("/samples/path")
    status = file.read("/samples/status") if "/samples/status" in file.names else np.zeros(len(path), np.uint8)
    samples = Samples(path, status)
    stated = file.attrs.get("samples-digest")
    if stated and stated != samples.digest:
        raise DataError(f"{file.name}: samples-digest: found {stated}, the paths give {samples.digest}",
                        "the file was changed after it was written; make it again")
    return samples


def carried(file: OpenFile) -> dict[str, Any]:
    """The fields of `Stored`, from an opened file or stream."""
    return {"context": Context.from_json(file.attrs.get("context") or "{}", file.name),
            "provenance": list(file.provenance), "recipe": str(file.attrs.get("recipe-id") or ""),
            "digest": file.digest, "foreign": not file.attrs.get("context")}
