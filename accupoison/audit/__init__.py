"""Who can be recognised as a member: attacks on a model's answers, and what they achieve.

Pure functions on arrays: :mod:`~accupoison.audit.metric`, :mod:`~accupoison.audit.lira`,
:mod:`~accupoison.audit.rmia`, :mod:`~accupoison.audit.neural`, :mod:`~accupoison.audit.roc`.
"""

from accupoison.audit.output import write_ages, write_results
from accupoison.audit.predictions import read_predictions
from accupoison.audit.results import AttackResult, Samples, audit_samples, evaluate_attack, table

__all__ = [
    "AttackResult",
    "Samples",
    "audit_samples",
    "evaluate_attack",
    "read_predictions",
    "table",
    "write_ages",
    "write_results",
]
