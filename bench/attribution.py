"""`python -m bench.attribution`: what an ingredient is worth at equal training FLOPs, on people kept for choosing.

    python -m bench.attribution --out bench-attribution --seeds 1 [--arms muon-6 mask-60 ...]

Trains on the "train" people of the rendered set that `bench.methods` uses and measures on two rendered sets with people
of their own, drawn with other seeds; nobody whom `bench.methods` scores is looked at, real or rendered. Resumes cell by
cell. At the end: identity, as the AUC of pairs, of each arm's mean patch tokens as they are, centred and whitened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.methods import FLOPS, SIDE, rendered_faces
from fusiform.cli import main, today
from fusiform.errors import FusiformError
from fusiform.faces.faceset import SET_FILE, FaceSet

BASE = "mae-face-quick"
ONE, VIEWS = "bench.ingredients:ONE", "bench.ingredients:VIEWS"
ARMS = {
    "untrained": "untrained",
    "mae": BASE,
    "muon-1": f"{BASE}:optim.muon=1",
    "muon-3": f"{BASE}:optim.muon=3",
    "muon-6": f"{BASE}:optim.muon=6",
    "muon-12": f"{BASE}:optim.muon=12",
    "width-96": f"{BASE}:optim.muon=6,vit.width=96",
    "steps-64": f"{BASE}:optim.muon=6,optim.faces_per_step=64,optim.lr_per_256=4e-3",
    "steps-256": f"{BASE}:optim.muon=3,optim.faces_per_step=256,optim.lr_per_256=1e-3",
    "mask-60": f"{BASE}:optim.muon=6,method.mask_ratio=0.6",
    "mask-85": f"{BASE}:optim.muon=6,method.mask_ratio=0.85",
    "blocks-60": f"{ONE}:method.mask=blocks,method.mask_ratio=0.6",
    "regions-60": f"{ONE}:method.mask=regions,method.mask_ratio=0.6",
    "decoder-1": f"{BASE}:optim.muon=6,method.decoder_depth=1",
    "decoder-4": f"{BASE}:optim.muon=6,method.decoder_depth=4",
    "plain-pixels": f"{BASE}:optim.muon=6,method.norm_pix=false",
    "crops-50": f"{BASE}:optim.muon=6,data.crop_scale=[0.5, 1.0]",
    "crops-none": f"{BASE}:optim.muon=6,data.crop_scale=[1.0, 1.0],data.crop_aspect=[1.0, 1.0]",
    "colour": f"{BASE}:optim.muon=6,data.colour.jitter=[0.4, 0.4, 0.2, 0.1],data.colour.jitter_share=0.8",
    "averaged": f"{BASE}:optim.muon=6,optim.ema=0.99",
    "warm-up-long": f"{BASE}:optim.muon=6,optim.warmup_epochs=12",
    "not-to-zero": f"{BASE}:optim.muon=6,optim.end_lr_per_256=4e-4",
    "gradients": f"{ONE}:method.gradients=1",
    "teacher": f"{ONE}:method.teacher=1",
    "contrast": VIEWS,
    "vicreg": f"{VIEWS}:method.agreement=vicreg",
    "camd-muon": "camd-quick:optim.muon=6",
    "paco-fr-muon": "paco-fr-quick:optim.muon=6",
}
CHOOSING, WHO = (3000, 77), (1000, 78)
"""Faces and seed of the sets that choose: one with labels, one with ten pictures a person."""
SHRINK = 0.01


def run(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.attribution", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-attribution"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--faces", type=int, default=8000, help="rendered faces; three quarters are for training")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    flags = parser.parse_args(words)
    try:
        faces = rendered_faces(flags.out / "faces", flags.faces)
        choosing = drawn(flags.out / "choosing", *CHOOSING, "tasks")
        who = drawn(flags.out / "who", *WHO, "recognition")
    except FusiformError as error:
        sys.stderr.write(f"bench-attribution: {error}\n")
        return error.exit_code
    (flags.out / "no-photos").mkdir(exist_ok=True)
    arms = [name if ARMS[name] == name else f"{name}={ARMS[name]}" for name in flags.arms]
    failed = main(
        [
            *("compare", "--out", str(flags.out), "--arms", *arms, "--data", str(faces), "--rendered", str(choosing)),
            *("--photos", str(flags.out / "no-photos"), "--seeds", str(flags.seeds), "--budget-flops", f"{FLOPS:g}"),
        ]
    )
    if not failed:
        identity(flags.out, faces, who)
    return failed


def drawn(folder: Path, faces: int, seed: int, preset: str) -> Path:
    from fusiform.render import render_set

    if not (folder / SET_FILE).is_file():
        render_set(folder, faces=faces, seed=seed, preset=preset, size=SIDE, today=today())
    return folder


def identity(out: Path, faces: Path, who: Path) -> None:
    """AUC over all pairs of `who`, for every encoder of the comparison."""
    import torch
    from sklearn.metrics import roc_auc_score

    from fusiform import recipes
    from fusiform.embedding import embed
    from fusiform.encoder import Encoder
    from fusiform.nn.whitening import Whitening
    from fusiform.tasks.rendered import resized

    shown, seen = FaceSet.open(who), FaceSet.open(faces)
    person, _ = shown.codes("person")
    upper = np.triu_indices(len(person), 1)
    same = (person[:, None] == person[None])[upper]
    rows = seen.rows("train")[:3000]
    sys.stdout.write(f"\nidentity, AUC of {same.sum():,} pairs of one person among {len(same):,}\n")
    found = {f"{f.parents[2].name} {f.parents[1].name}": f for f in sorted(out.glob("cells/*/*/seed-*/run/encoder"))}
    untrained = Encoder.untrained(recipes.find(BASE).vit, shown.crop)
    for name, encoder in [("untrained", untrained), *((name, Encoder.load(found[name])) for name in found)]:
        side = encoder.vit.config.image_size
        fit, x = (torch.from_numpy(embed(encoder, resized(s.images(r), side)))
                  for s, r in ((seen, rows), (shown, np.arange(len(person)))))  # fmt: skip
        white = Whitening(fit.shape[1])
        white.measure(fit, SHRINK)
        values = []
        for vectors in (x, x - fit.mean(0), white(x)):
            unit = torch.nn.functional.normalize(vectors, dim=1)
            values.append(roc_auc_score(same, (unit @ unit.T).numpy()[upper]))
        sys.stdout.write(f"  {name:<28} as it is {values[0]:.3f}, centred {values[1]:.3f}, whitened {values[2]:.3f}\n")


if __name__ == "__main__":
    sys.exit(run())
