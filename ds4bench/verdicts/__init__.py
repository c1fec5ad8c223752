"""Validity checks, comparability, rules and the five verdicts. Pure: records in, records out."""
