"""Hooks of the SGLang plugin, one module a group of ops; each has ``HOOKS``."""
