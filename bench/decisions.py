"""How often each decision of `curate` is right, on a pool of known truth: `python -m bench.decisions --data DIR`.

    python -m bench.decisions --data DATA --seed 7 --policy standard --out FOLDER

Recall and precision of every kind of copy, of every way to spoil a photo, of what is no photo; and whether every file
is accounted for. The models are found as `fusiform curate` finds them (FUSIFORM_WEIGHTS).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.dirty_pool import COPIES, SPOILED, Truth, make_pool
from fusiform.curate.card import read_card
from fusiform.curate.options import CurateOptions
from fusiform.curate.pipeline import curate

FACE = ("kept", "near-duplicate")


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Name without the label -> its ledger rows, the kept or marked face first."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in pq.read_table(folder / "ledger.parquet").to_pylist():
        found[row["path"].split("/", 1)[1]].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: (row["outcome"] == "not-largest", row["face"] or 0))
    return found


def scores(folder: Path, truth: Sequence[Truth]) -> dict[str, float]:
    """Name -> share or count. Names that begin with "wrong" should be 0, all others 1."""
    rows, result = rows_of(folder), {}
    of = {t.path: rows[t.path][0] for t in truth if t.path in rows}
    result["wrong: files without a row"] = float(sum(t.path not in rows for t in truth))
    card = read_card(folder)["counts"]
    result["wrong: seen less kept and refused"] = float(card["seen"] - card["kept"] - card["refused"])

    good = [t for t in truth if t.kind == "good"]
    group = {p: row["group"] or row["key"] for p, row in of.items() if row["key"]}
    why = Counter(of[t.path]["outcome"] for t in good)
    result["good photos that are kept or a copy"] = sum(why[name] for name in (*FACE, "duplicate")) / len(good)
    for name, count in why.items():
        if name not in (*FACE, "duplicate"):
            result[f"wrong: good photos marked {name}"] = count / len(good)

    home = {t.base: group[t.path] for t in good if t.path in group}
    split = {t.base: of[t.path]["split"] for t in good}
    apart = 0
    for kind in COPIES:
        copies = [t for t in truth if t.kind == kind and t.base in home]
        faces = [t for t in copies if t.path in group]
        result[f"copy, {kind}: in its portrait's group"] = sum(group[t.path] == home[t.base] for t in faces) / max(
            1, len(faces)
        )
        result[f"copy, {kind}: with a face"] = len(faces) / max(1, len(copies))
        apart += sum(of[t.path]["split"] != split[t.base] for t in faces)
    result["wrong: copies in another split than their portrait"] = float(apart)
    members: dict[str, set[str]] = defaultdict(set)
    for t in truth:
        if t.path in group and t.base:
            members[group[t.path]].add(t.person or t.base)
    many = list(members.values())
    result["wrong: groups of copies with two people"] = float(sum(len(m) > 1 for m in many))

    for kind, (_, right) in SPOILED.items():
        spoiled = [of[t.path]["outcome"] for t in truth if t.kind == kind]
        result[f"{kind}: not kept"] = sum(name not in FACE for name in spoiled) / len(spoiled)
        result[f"{kind}: for a right reason"] = sum(name in right for name in spoiled) / len(spoiled)
    once = {t.base: of[t.path]["outcome"] for t in good}
    twice = [(once[t.base], of[t.path]["outcome"]) for t in truth if t.kind == "same bytes"]
    result["same bytes: one of two is a duplicate"] = sum(pair.count("duplicate") == 1 for pair in twice) / len(twice)
    for kind in ("no face", "hostile"):
        asked = [t for t in truth if t.kind == kind and t.path in of]
        missed = [f"{t.path}: {of[t.path]['outcome']}" for t in asked if of[t.path]["outcome"] not in t.expected]
        result[f"{kind}: as expected"] = 1 - len(missed) / len(asked)
        for line in missed:
            sys.stdout.write(f"  not as expected: {line}\n")
    crowds = [t for t in truth if t.kind == "several faces"]
    result["several faces: as many found as there are"] = sum(len(rows[t.path]) == t.faces for t in crowds) / len(
        crowds
    )
    faceless = {t.path for t in truth if not t.faces}
    no_face = [p for p, row in of.items() if row["outcome"] == "no-face"]
    unspoiled = [p for p in no_face if p not in faceless and {t.path: t.kind for t in truth}[p] not in SPOILED]
    result["no-face: precision, spoiled photos aside"] = 1 - len(unspoiled) / max(1, len(no_face))

    sides: dict[str, set[str]] = defaultdict(set)
    for t in good:
        if t.person and of[t.path]["key"]:
            sides[t.person].add(of[t.path]["split"])
    result["wrong: people in two splits"] = float(sum(len(s) > 1 for s in sides.values()))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.decisions", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with real/ and rendered/")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--policy", nargs="+", default=["lenient", "standard"])
    parser.add_argument("--out", type=Path, help="keep pool and sets here")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        root = flags.out or Path(aside) / "pool"
        truth = make_pool(root, flags.data, flags.seed)
        sys.stdout.write(f"{len(truth)} files of known truth, seed {flags.seed}\n")
        for policy in flags.policy:
            options = CurateOptions(
                policy=policy, person_from="folder", val_share=0.2, test_share=0.2, contact_sheet=0, workers=1
            )
            curate([root / "photos"], root / "set", options=options, progress=None)
            sys.stdout.write(f"{policy}\n")
            for name, value in scores(root / "set", truth).items():
                sys.stdout.write(f"  {name:<60} {value:.3f}\n")


if __name__ == "__main__":
    main()
