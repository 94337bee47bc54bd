"""IR, instance recognition (Wu, Xiong, Yu, Lin: "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018).

Every image is its own class: its view is told from all other images by a memory of their past embeddings.  The softmax is
over all of them, as in the codes of AND and PCP that build on it; ``--set train-epoch.sampled=4096`` is a cheaper estimate (not the
NCE of the paper's released code).  There are no clusters, so a turn is one command:

    until ucl status --done; do ucl train-epoch || exit; done

PCP's views are the default, for one table of all four methods; IR's own code does not mirror (``--set train-epoch.flip=0``).
"""

from __future__ import annotations

from collections.abc import Iterator

from ucl.context import Context
from ucl.methods import rounds
from ucl.methods.method import Method, Step
from ucl.settings import IrSettings


def steps(context: Context) -> Iterator[Step]:
    """One turn."""
    settings = rounds.settled(context, IrSettings)
    yield from rounds.alone(context, rounds.training(context, rounds.at(context, settings)[1], settings))


METHOD = Method("Wu et al., CVPR 2018", steps, lambda context: rounds.length(context, IrSettings), rounds.init, rounds.beside,
                lambda context: rounds.advice(context, IrSettings))
