"""Projected steps, and batch-norm statistics of the world as it is."""

import math
from dataclasses import dataclass
from typing import ClassVar

from accupoison.defenses.base import DEFENSES
from accupoison.defenses.stack import Stack
from accupoison.defenses.stat_trust import MODES


@DEFENSES.register("STACK-CURRENT")
@dataclass(kw_only=True)
class CurrentStatistics(Stack):
    """STACK with statistics of trusted images of the world as it is at each step, and a gate that stands open.

    A gate cannot tell an attack on the statistics from a world that shifts (``docs/study.md``); who has new images of
    that world, unlabelled, needs none: the stream has no say in the statistics, and its steps are projected. Each step
    costs a forward pass of 400 images and a gradient on ``buffer`` besides.

    Attributes:
        statistics: "current", or a mode of STACK's: of those images as they were at the start ("reestimated"), those
            that the stream began with ("frozen"), or the stream's ("off").
    """

    requires: ClassVar[frozenset[str]] = Stack.requires | {"trusted-current"}
    couples: ClassVar[bool] = True
    modes: ClassVar[tuple[str, ...]] = ("current", *MODES)

    statistics: str = "current"
    buffer: int = 1000
    delta: float = math.inf
