"""Run folders, baselines, provenance, published tables: everything that is kept."""
