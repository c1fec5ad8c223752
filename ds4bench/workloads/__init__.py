"""Workloads: what a gate sends and how an answer is read. Nothing here says pass or fail."""
