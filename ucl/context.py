"""Context: where in a plan an artifact was made.  Every file and stream carries one, so that the next command asks
nothing twice and refuses what does not belong together."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ucl.errors import DataError


@dataclass(frozen=True)
class Context:
    """Where in a plan something happens.

    Attributes:
        method: the method's name; empty outside a run directory.
        round: a paper's restart, 0 otherwise.
        stage: name of the step in its turn.
        epoch: the epoch being worked on, from 0; generation ``epoch`` is what it starts from.
        generation: number of the committed generation it starts from; -1 outside a run directory.
        generation_digest: content digest of that generation's model.
        seed: the run's seed.
        images: number of images N that can be used; size: side of a view in pixels.
        source: name of a built-in data set ("digits") or empty.
        samples_digest: digest of the image list.
        overrides: what was set by hand, as "verb.key" -> text; ucl.toml's and the flags given on the way.
    """

    method: str = ""
    round: int = 0
    stage: str = ""
    epoch: int = 0
    generation: int = -1
    generation_digest: str = ""
    seed: int = 0
    images: int = 0
    size: int = 0
    source: str = ""
    samples_digest: str = ""
    overrides: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """As canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str = "context") -> Context:
        """From JSON; unknown keys are ignored (a later minor version may add some).

        Raises:
            DataError: not a JSON object of the right types.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            known = {f.name: f for f in dataclasses.fields(cls)}
            values = {k: v for k, v in raw.items() if k in known}
            made = cls(**values)
            if not isinstance(made.epoch, int) or not isinstance(made.overrides, dict):
                raise TypeError("epoch or overrides")
            return made
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: context: {error}", "the file was not written by ucl; make it again") from error
