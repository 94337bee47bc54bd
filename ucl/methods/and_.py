"""AND (Huang, Dong, Gong, Zhu: "Unsupervised Deep Learning by Neighbourhood Discovery", ICML 2019).

Instance recognition in rounds: before each round but the first the images whose place in the memory is surest, of lowest
entropy, become anchors, and each is merged with its nearest neighbours; more of them in every round, all of them in the last.
A turn is one command:

    until ucl status --done; do ucl train-epoch || exit; done

Network, optimizer and memory go on from round to round, the learning rate starts again.  ``--set and.rounds=2`` is the one-off form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods import rounds
from ucl.methods.method import Method, Step
from ucl.settings import AndSettings


def steps(context: Context) -> Iterator[Step]:
    """One turn; section 3 of the paper, with the released code's Nesterov momentum."""
    settings = rounds.settled(context, AndSettings)
    if settings.rounds > 1 and settings.neighbors >= context.images:
        raise UsageError(f"and.neighbors: found {settings.neighbors}, wanted fewer than the {context.images} usable images")
    number, epoch = rounds.at(context, settings)
    share = number / max(settings.rounds - 1, 1)
    train = dataclasses.replace(rounds.training(context, epoch, settings), nesterov=True, anchors=share,
                                neighbors=settings.neighbors, discover=share > 0 and epoch == 0)
    yield from rounds.alone(context, train)


METHOD = Method("Huang et al., ICML 2019", steps, lambda context: rounds.length(context, AndSettings), rounds.init, rounds.beside,
                lambda context: rounds.advice(context, AndSettings))
