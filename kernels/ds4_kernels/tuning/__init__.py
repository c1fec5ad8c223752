"""W8A8 tile tables, one JSON file a device, and the functions that pick a tile from them."""

from __future__ import annotations

from ds4_kernels.tuning.tables import Resolution, Tile, load_table, resolve_device, select_tile, table_names

__all__ = ["Resolution", "Tile", "load_table", "resolve_device", "select_tile", "table_names"]
