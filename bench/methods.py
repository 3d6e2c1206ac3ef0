"""`make bench-methods`: five methods, our own recipe and two baselines at equal training FLOPs, on rendered and real
faces, measured on every task there is data for.

    python -m bench.methods --out bench-methods --seeds 3 --budget 1

The quick table is `--budget 1`. More seeds or a larger budget in the same folder go on cell by cell: what is there is
not computed again, and a larger budget has cells of its own beside it.

Pre-training sees the "train" people of a rendered set and, where the photo sets are there, portraits of members of
Congress that no pair of the verification list names: nobody who is scored is in pre-training, and `fusiform compare`
refuses to start where somebody is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fusiform.cli import main, today
from fusiform.errors import DataError, FusiformError, WeightsError
from fusiform.faces.faceset import SET_FILE

FLOPS = 4e13
"""Training FLOPs of a run at budget 1: 87,000 faces through mae-face-quick, 9,400 through lafs-quick."""
ARMS = (
    "untrained",
    "supervised",
    "mae-face-quick",
    "mcf-quick:method.feature_encoder=@mae-face-quick",
    "lafs-quick",
    "paco-fr-quick",
    "camd-quick",
    "muon-mae-quick",
)
FACES = 8000
SUPERVISED = 0.35
"""Share of that for each task of the supervised arm: together its eight tasks take 2.8 times what a method takes."""
SIDE = 80
"""Of the stored crops: views of 64 pixels are cut from them."""


def run(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.methods", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-methods"))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--budget", type=float, default=1.0, help=f"multiple of {FLOPS:g} training FLOPs a run")
    parser.add_argument("--faces", type=int, default=FACES, help="rendered faces; three quarters are for training")
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--tasks", nargs="*", default=[], help="all by default")
    flags = parser.parse_args(words)
    flags.out.mkdir(parents=True, exist_ok=True)
    try:
        rendered = rendered_faces(flags.out / "faces", flags.faces)
        real = real_faces(flags.out)
    except FusiformError as error:
        sys.stderr.write(f"bench-methods: {error}\n")
        return error.exit_code
    sets = [rendered, *([real] if real else [])]
    return main(
        [
            *("compare", "--out", str(flags.out), "--arms", *flags.arms, "--data", *map(str, sets)),
            *("--rendered", str(rendered), "--seeds", str(flags.seeds), "--budget-flops", f"{FLOPS * flags.budget:g}"),
            *("--supervised-share", str(SUPERVISED), *(("--tasks", *flags.tasks) if flags.tasks else ())),
        ]
    )


def rendered_faces(out: Path, faces: int) -> Path:
    """A rendered set with labels; where its geometry cannot be had, the rendered faces in FUSIFORM_DATA."""
    from fusiform.curate.labelled import curate_labelled
    from fusiform.render import render_set
    from fusiform.tasks.sets.folder import data_root

    given = out.with_name("faces-given")
    if (given / SET_FILE).is_file():
        return given
    if (out / SET_FILE).is_file():
        return out
    try:
        return render_set(out, faces=faces, seed=0, preset="tasks", size=SIDE, today=today()).folder
    except WeightsError as error:
        folder = data_root() / "rendered"
        if not folder.is_dir():
            raise DataError(f"No faces to train on: {error}", expected=f"rendered faces in {folder}") from error
        sys.stderr.write(f"{error}\nTaking the rendered faces in {folder} instead.\n")
        return curate_labelled(folder, given, f"loose-{SIDE}", name="rendered", created=today()).folder


def real_faces(out: Path) -> Path | None:
    """A set of the portraits of Congress whose people are in no pair; None where the photos are not there."""
    from fusiform.curate.options import CurateOptions
    from fusiform.curate.pipeline import curate
    from fusiform.errors import SetMissing
    from fusiform.tasks.sets import congress

    made = out / "faces-real"
    if (made / SET_FILE).is_file():
        return made
    try:
        listed = congress.pairs()
        portraits = [face.photo for face in congress.read()]
    except SetMissing as error:
        sys.stderr.write(f"No real faces in pre-training: {error}\n")
        return None
    paired = {key for pair in listed.kept for key in (pair.a, pair.b)}
    # those with a second portrait too: their pairs were left out as suspected copies, and may come back
    scored = {photo.person for photo in portraits if photo.key in paired or photo.key.startswith("congress/b/")}
    folder = out / "portraits"
    for photo in portraits:
        if photo.person not in scored:
            place = folder / photo.person.split("/")[-1] / photo.path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_file():
                shutil.copyfile(photo.path, place)
    options = CurateOptions(
        size=SIDE, person_from="folder", source="congress", licence="public domain", consent="public figures"
    )
    curate([folder], made, options=options, today=today())
    return made


if __name__ == "__main__":
    sys.exit(run())
