"""Reports: all from the same run, baseline and verdict."""
