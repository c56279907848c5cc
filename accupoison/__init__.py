"""Simulate poisoning of models that learn from a stream, defend against it, and measure both."""

__version__ = "0.2.0"
