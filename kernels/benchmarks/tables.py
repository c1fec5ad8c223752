"""Markdown tables of a file that ``ds4-kernels bench --json`` wrote: ``python kernels/benchmarks/tables.py bench.json``.

``--peers`` shows the sizes that the peer was timed at too, the default shows every size of every op.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--peers", action="store_true", help="only sizes that a peer was timed at")
    options = parser.parse_args(argv)
    document = json.loads(options.file.read_text(encoding="utf-8"))
    ceilings = document["ceilings"]
    print(
        f"{document['device']}, torch {document['torch']}, Triton {document['triton']}; device copy "
        f"{ceilings['copy_tb_s']:.2f} TB/s, BF16 matmul {ceilings['matmul_tflop_s']:.0f} TFLOP/s\n"
    )
    rows = [row for row in document["rows"] if not math.isnan(row["time_us"])]
    print("\n".join(peer_table(rows) if options.peers else full_table(rows)))


def peer_table(rows: list[Row]) -> list[str]:
    """Ours beside the peer's, with the ratio of the speeds: above 1 ours is faster."""
    lines = ["| op | size | ours, us | peer, us | ours / peer speed |", "|---|---|---|---|---|"]
    for row in rows:
        if row["peer_us"]:
            ratio = row["peer_us"] / row["time_us"]
            lines.append(
                f"| {row['op']} | {row['label']} | {row['time_us']:.1f} | {row['peer_us']:.1f} | {ratio:.2f} |"
            )
    return lines


def full_table(rows: list[Row]) -> list[str]:
    """Every size: time, rates, shares of the ceilings, speed over the reference."""
    lines = [
        "| op | size | us | TB/s | of copy | TFLOP/s | of matmul | over the reference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        over = f"{row['reference_us'] / row['time_us']:.1f}x" if row["reference_us"] else "-"
        rates = f"{row['tb_s']:.2f} | {row['bandwidth_share']:.0%} | {row['tflop_s']:.0f} | {row['matmul_share']:.0%}"
        lines.append(f"| {row['op']} | {row['label']} | {row['time_us']:.1f} | {rates} | {over} |")
    return lines


if __name__ == "__main__":
    main()
