"""Measures what a skill does to the backends that a model builds."""
