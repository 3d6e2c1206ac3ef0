"""`make bench`, or `python -m bench T1 T9`: rows of the table of targets, side by side in one process.

Both ways alternate (plain, ours, ours, plain, ...), one thread, CPU time, after one of each to warm up. A ratio is
(time of the plain way) / (time of ours): the median of the rounds' ratios, with the smallest and the largest. Plain
ways run with torch's default settings, ours after the start-up routine of `fusiform.world`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import gc
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from bench import curation, data_path, peak, pieces, scaling, scores, steps
from bench.rows import Measured, Row, Work, alternate
from fusiform.world import tune_cpu

ROWS: dict[str, tuple[Callable[[], Iterator[Row]], ...]] = {
    "T1": (steps.t1,),
    "T2": (steps.t2,),
    "T3": (steps.t3,),
    "T4": (steps.t4,),
    "T5": (steps.t5,),
    "T6": (steps.t6,),
    "T7": (steps.t7,),
    "T8": (pieces.t8,),
    "T9": (steps.t9,),
    "T10": (pieces.t10,),
    "T11": (pieces.t11,),
    "T12": (data_path.t12,),
    "T13": (scores.t13,),
    "T14": (scores.t14,),
    "T15": (pieces.t15,),
    "T17": (steps.t17,),
}
TABLES = {
    "scaling": scaling.tables,
    "loader": scaling.waiting,
    "curate": curation.table,
    "ijbc": scores.full_size,
}
"""Not ratios: cost by faces and tokens, how long a run waits for its data, what curation costs beside others, and what
the evaluation of IJB-C costs at its full size."""
MFU_MUST = {"T2": (0.38, 0.47), "T3": (0.55, 0.62)}
"""T16: least useful share of the bf16 peak, of the small encoder and of ViT-B."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*ROWS, "T16", *TABLES]
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which to run (default: all): {' '.join(known)}")
    parser.add_argument("--rounds", type=int, default=5, help="of fast rows; slow ones take three fifths of it")
    parser.add_argument("--json", type=Path, help="append what was measured to this file, one row a line")
    flags = parser.parse_args()
    if unknown := [name for name in flags.rows if name not in known]:
        parser.error(f"there is no row {unknown[0]}; there are {' '.join(known)}")
    wanted = flags.rows or known
    if "T16" in wanted:  # read off the steps
        wanted = [*(name for name in MFU_MUST if name not in wanted), *(name for name in wanted if name != "T16")]

    torch.set_num_threads(1)
    default = torch.get_float32_matmul_precision()
    tuned = tune_cpu(torch.device("cpu"))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    print(f"{peak.processor()}, torch {torch.__version__}, Python {platform.python_version()}, load {load}")
    print("; ".join(f"{name}: {what}" for name, what in tuned.items()))
    best = peak.measured()
    print(", ".join(f"{name} {value / 1e9:.0f} GF/s" for name, value in best.items()), flush=True)
    if any(name in ROWS for name in wanted):
        print(f"{'':<5}{'what':<68}{'ratio':>7} {'min':>6} {'max':>6} {'must':>5} {'':>8} {'ours':>10}")
    for name in wanted:
        if name in TABLES:
            TABLES[name]()
            continue
        for rows in ROWS[name]:
            for row in rows():
                _one(row, flags, default, best)
                gc.collect()


def _one(row: Row, flags: argparse.Namespace, default: str, best: dict[str, float]) -> None:
    rounds = max(1, round(flags.rounds * 0.6)) if row.slow else flags.rounds
    found = alternate(replace(row, plain=_with_matmul(row.plain, default)), rounds)
    must = "" if row.must is None else f"{row.must:g}"
    low, high = min(found.ratios), max(found.ratios)
    rate = f"{row.faces / found.seconds:8.1f} faces/s" if row.faces else ""
    print(
        f"{row.number:<5}{row.what:<68}{found.ratio:>7.2f} {low:>6.2f} {high:>6.2f} {must:>5} {found.verdict:>8} "
        f"{1000 * found.seconds:>7.0f} ms {rate}"
    )
    shares = {name: row.flops / found.seconds / value for name, value in best.items() if "bf16" in name}
    if row.flops:
        print(" " * 5 + f"{row.flops / found.seconds / 1e9:.0f} useful GF/s", end="")
        print("".join(f", {share:.0%} of {name}" for name, share in shares.items()), end="")
        if row.number in MFU_MUST:
            must, stretch = MFU_MUST[row.number]
            print(f" (T16: must {must:.0%}, stretch {stretch:.0%} of the registers' peak)", end="")
        print()
    if row.note:
        print(" " * 5 + row.note)
    if flags.json is not None:
        with flags.json.open("a") as out:
            out.write(json.dumps(_as_json(found, shares)) + "\n")


def _as_json(found: Measured, shares: dict[str, float]) -> dict[str, object]:
    row = found.row
    return {
        "row": row.number,
        "what": row.what,
        "ratio": found.ratio,
        "ratios": found.ratios,
        "seconds": found.seconds,
        "must": row.must,
        "stretch": row.stretch,
        "verdict": found.verdict,
        "faces": row.faces,
        "flops": row.flops,
        "shares_of_peak": shares,
        "note": row.note,
    }


def _with_matmul(work: Work, precision: str) -> Work:
    """As torch has it before the start-up routine."""

    def run() -> object:
        tuned = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return work()
        finally:
            torch.set_float32_matmul_precision(tuned)

    return run


if __name__ == "__main__":
    main()
