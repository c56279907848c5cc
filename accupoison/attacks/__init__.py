"""Attacks on the stream, by name in :data:`ATTACKS`."""

from accupoison.attacks.accumulative import Accumulative
from accupoison.attacks.base import ATTACKS, Attack
from accupoison.attacks.clean import Clean
from accupoison.attacks.direct import Direct
from accupoison.attacks.noise import Noise

__all__ = ["ATTACKS", "Accumulative", "Attack", "Clean", "Direct", "Noise"]
