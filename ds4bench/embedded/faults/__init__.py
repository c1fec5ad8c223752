"""Faults on demand, to test that gates catch them. ``table.FAULTS`` has all; a serve has none unless it is told to."""
