"""Audits of online runs."""
