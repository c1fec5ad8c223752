"""Pure functions on arrays, each with its source cited. Nothing here knows gates, files or serves."""
