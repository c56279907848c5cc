"""Three defences that close what each of them leaves open: momentum, statistics, weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from accupoison.defenses.base import DEFENSES
from accupoison.defenses.gate import Gate
from accupoison.defenses.stat_trust import TrustedStatistics
from accupoison.defenses.trust_proj import TrustedProjection, trusted_rows
from accupoison.types import Batch, Context, ModelView


@DEFENSES.register("STACK")
@dataclass(kw_only=True)
class Stack(TrustedStatistics, TrustedProjection, Gate):
    """TRUST-PROJ, STAT-TRUST and GATE in one step, each with its settings and switched off at its neutral ones.

    The momentum is projected, the step taken, the statistics made afresh, and the gate judges what came of it all. The
    images of the projection are no canaries where both are on: a step made for images says little by their loss.
    """

    requires: ClassVar[frozenset[str]] = TrustedStatistics.requires | TrustedProjection.requires
    couples: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = TrustedStatistics.neutral | TrustedProjection.neutral | Gate.neutral

    def __post_init__(self) -> None:
        for part in (TrustedStatistics, TrustedProjection, Gate):
            part.__post_init__(self)

    def setup(self, live: ModelView, reference: ModelView | None, trusted: Sequence[Batch], ctx: Context) -> None:
        """Set the parts up, on halves of the trusted images where two of them need labels."""
        ours = theirs = trusted
        if self.projects and self.gates:
            rows = trusted_rows(trusted, sum(map(len, trusted)), type(self).name, least=4)
            half = len(rows) // 2
            ours, theirs = [rows.rows(slice(0, half))], [rows.rows(slice(half, None))]
        TrustedStatistics.setup(self, live, reference, trusted, ctx)
        TrustedProjection.setup(self, live, reference, ours, ctx)
        Gate.setup(self, live, reference, theirs, ctx)
