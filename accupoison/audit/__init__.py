"""Who can be recognised as a member: attacks on a model's answers, and what they achieve.

Pure functions on arrays: :mod:`~accupoison.audit.metric`, :mod:`~accupoison.audit.lira`,
:mod:`~accupoison.audit.rmia`, :mod:`~accupoison.audit.neural`, :mod:`~accupoison.audit.roc`.
"""
