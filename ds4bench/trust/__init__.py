"""Experiments that show whether verdicts can be trusted. Nothing imports this; ``python -m ds4bench.trust`` runs it."""
