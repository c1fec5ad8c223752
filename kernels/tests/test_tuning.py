"""Tile tables: what they hold, which device gets which, and that every row is compiled by the gate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ds4_kernels import tuning
from ds4_kernels.tuning import Tile, load_table, resolve_device, select_tile, tables
from hypothesis import given
from hypothesis import strategies as st

HARNESS_M = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
HARNESS_SHAPES = [(1536, 4096), (16384, 1024), (2048, 4096), (4096, 1024), (4096, 4096), (8192, 1024)]
TP4_SHAPES = [(8192, 1024), (4096, 2048), (1024, 4096), (4096, 512)]
SM12X_TABLES = [tables.WORKSTATION, tables.GB10]
SM12X_SHARED_BYTES = 101_376


def rows(name: str) -> list[tuple[tuple[int, int], int, Tile]]:
    return [(shape, m, tile) for shape, by_m in load_table(name).items() for m, tile in by_m.items()]


@pytest.mark.parametrize("name", SM12X_TABLES)
def test_the_harness_tables_are_complete_and_named_as_its(name: str) -> None:
    document = json.loads((Path(tuning.__file__).parent / f"{name}.json").read_text())
    assert "jasl" in document["tuned"]["source"]
    listed = document["tuned"]["shapes"]
    assert sorted(tuple(map(int, shape.split(","))) for shape in listed) == sorted(HARNESS_SHAPES)
    assert all([int(m) for m in by_m] == HARNESS_M for by_m in listed.values())


def test_rows_of_appendix_a_read_as_printed() -> None:
    workstation, gb10 = load_table(tables.WORKSTATION), load_table(tables.GB10)
    assert workstation[1536, 4096][1] == Tile(16, 32, 128, 32, num_warps=8, num_stages=4)
    assert workstation[16384, 1024][512] == Tile(64, 128, 128, 16, num_warps=4, num_stages=3)
    assert workstation[4096, 4096][128] == Tile(64, 64, 128, 1, num_warps=8, num_stages=5)
    assert gb10[1536, 4096][512] == Tile(256, 64, 128, 1, num_warps=8, num_stages=3)
    assert gb10[16384, 1024][2] == Tile(16, 128, 64, 32, num_warps=4, num_stages=2)
    assert gb10[2048, 4096][256] == Tile(32, 128, 64, 1, num_warps=4, num_stages=4)


@pytest.mark.parametrize("name", [*SM12X_TABLES, tables.H200])
def test_every_table_has_the_model_shapes_of_tp2_and_tp4(name: str) -> None:
    table = load_table(name)
    for shape in (*HARNESS_SHAPES, *TP4_SHAPES):
        assert {1, 512, 4096} <= set(table[shape])


@pytest.mark.parametrize("name", [*SM12X_TABLES, tables.H200])
def test_tiles_are_powers_of_two_and_divide_k(name: str) -> None:
    for (_, k), _, tile in rows(name):
        assert k % tile.block_k == 0
        for size in (tile.block_m, tile.block_n, tile.block_k, tile.num_warps, tile.group_m):
            assert size & (size - 1) == 0
        assert tile.block_m >= 16 and tile.block_n >= 32
        assert tile.block_k in (64, 128) or (name == tables.H200 and tile.block_k in (256, 512))
        assert not tile.swap or (tile.block_n >= 64 and tile.block_k in (128, 512))  # wgmma's rows; one block or four


@pytest.mark.parametrize(
    "tile", [*(tile for name in SM12X_TABLES for *_, tile in rows(name)), *tables.default_tiles()["sm12x"]]
)
def test_sm12x_tiles_fit_its_shared_memory(tile: Tile) -> None:
    operands = (tile.num_stages - 1) * (tile.block_m + tile.block_n) * tile.block_k
    assert operands <= SM12X_SHARED_BYTES
    assert not tile.swap


@pytest.mark.parametrize(
    ("device", "table", "noted"),
    [
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", tables.WORKSTATION, False),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", tables.WORKSTATION, False),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", tables.WORKSTATION, False),
        ("NVIDIA_RTX_PRO_6000_Blackwell_Server_Edition", tables.WORKSTATION, False),
        ("NVIDIA GB10", tables.GB10, False),
        ("NVIDIA GeForce RTX 5090", tables.WORKSTATION, True),
        ("NVIDIA H200", tables.H200, False),
        ("NVIDIA H100 80GB HBM3", tables.H200, True),
        ("NVIDIA GeForce RTX 4090", tables.DEFAULT, True),
        ("cpu", tables.DEFAULT, True),
        ("", tables.DEFAULT, True),
    ],
)
def test_devices_resolve_to_their_tables(device: str, table: str, noted: bool) -> None:
    resolution = resolve_device(device)
    assert resolution.table == table
    assert (resolution.note is not None) == noted


def test_every_alias_names_a_table_that_exists() -> None:
    assert tuning.table_names() == sorted([*SM12X_TABLES, tables.H200])
    assert set(tables._ALIASES.values()) == set(tuning.table_names())


@pytest.mark.parametrize(
    ("m", "listed"), [(1, 1), (3, 2), (6, 4), (7, 8), (24, 16), (25, 32), (700, 512), (2304, 512), (2305, 4096)]
)
def test_the_nearest_m_is_taken_and_of_two_the_smaller(m: int, listed: int) -> None:
    assert select_tile("NVIDIA GB10", m, 1536, 4096) == load_table(tables.GB10)[1536, 4096][listed]


@given(st.integers(1, 100_000), st.integers(1, 40_000), st.sampled_from(["NVIDIA H200", "NVIDIA GB10", "unknown"]))
def test_any_shape_gets_a_tile_that_is_shipped(m: int, n: int, device: str) -> None:
    tile = select_tile(device, m, n, 640)
    assert tile in tables.default_tiles()["sm90" if device == "NVIDIA H200" else "sm12x"]
    assert not tile.swap or m <= tile.block_m


@pytest.mark.parametrize(
    "entry", ["64/128/128 g16 w4", "64/128 g1 w4 s3", "a/b/c g1 w1 s1", "16/32/64 g1 w4 s3 swapped"]
)
def test_other_entries_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="not a tile entry"):
        Tile.parse(entry)


def test_entries_print_as_they_are_read() -> None:
    for name in tuning.table_names():
        for _, _, tile in rows(name):
            assert Tile.parse(str(tile)) == tile


def test_every_row_of_every_table_is_compiled_by_the_gate() -> None:
    pytest.importorskip("triton")
    from ds4_kernels.triton.w8a8 import compile_cases

    def key(case: object) -> tuple[object, ...]:
        sizes = case.constexprs  # type: ignore[attr-defined]
        blocks = (sizes["BLOCK_M"], sizes["BLOCK_N"], sizes["BLOCK_K"], case.num_warps, case.num_stages)  # type: ignore[attr-defined]
        return (*blocks, "HALVES" not in sizes, case.tiles)  # type: ignore[attr-defined]

    compiled = {key(case) for case in compile_cases() if case.op == "w8a8_gemm"}
    for name in tuning.table_names():
        for _, _, tile in rows(name):
            assert (*tile.compiled_key, "sm90" if name == tables.H200 else "sm12x") in compiled
    for tiles, listed in tables.default_tiles().items():
        assert {(*tile.compiled_key, tiles) for tile in listed} <= compiled
