"""Audits of a way of training, with shadow models."""
