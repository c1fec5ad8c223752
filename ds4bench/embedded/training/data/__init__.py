"""Seeded generators of training text. Everything here is the project's own writing."""
