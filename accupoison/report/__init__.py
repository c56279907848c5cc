"""From finished runs to tables with intervals and a figure of the curves."""

from accupoison.report.brief import brief
from accupoison.report.claims import claims_table
from accupoison.report.collect import Run, collect
from accupoison.report.figure import curves
from accupoison.report.outcomes import Estimate, estimate, retention
from accupoison.report.table import CAPTION, mechanism_table, outcome_table, retention_table, threat_lines

__all__ = [
    "CAPTION",
    "Estimate",
    "Run",
    "brief",
    "claims_table",
    "collect",
    "curves",
    "estimate",
    "mechanism_table",
    "outcome_table",
    "retention",
    "retention_table",
    "threat_lines",
]
