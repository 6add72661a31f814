"""Measures what a skill does to the backends that a model builds."""

__version__ = "1.0.0"
