"""IS (Ye, Zhang, Yuen, Chang: "Unsupervised Embedding Learning via Invariant and Spreading Instance Feature", CVPR 2019).

Two views of an image attract each other, the views of all other images of the batch repel; no memory, no clusters.  It is
also the warm-up of PCP.  A turn is one command:

    until ucl status --done; do ucl train-epoch || exit; done

The released code trains 301 epochs with the learning rate of the last 180 a tenth; here it falls at 60 % of the round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ucl.context import Context
from ucl.methods import rounds
from ucl.methods.method import Method, Step
from ucl.settings import IsSettings


def steps(context: Context) -> Iterator[Step]:
    """One turn."""
    settings = rounds.settled(context, IsSettings)
    train = rounds.training(context, rounds.at(context, settings)[1], settings)
    yield from rounds.alone(context, dataclasses.replace(train, spread=1.0))


METHOD = Method("Ye et al., CVPR 2019", steps, lambda context: rounds.length(context, IsSettings), rounds.init, rounds.beside,
                lambda context: rounds.advice(context, IsSettings))
