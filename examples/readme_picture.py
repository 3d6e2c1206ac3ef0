"""Draws docs/readme.jpg from a finished demo: rendered test faces, what the encoder sees, what the decoder makes of it,
the points and the regions that linear heads find.

    fusiform demo && python examples/readme_picture.py demo docs/readme.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fusiform import gallery, recipes
from fusiform.checkpoint import folder_name, read, steps
from fusiform.clock import stream_seed
from fusiform.encoder import Encoder
from fusiform.engine import Training
from fusiform.evaluate import evaluate
from fusiform.protocols import LinearProbe
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.parsing import Parsing

COLUMNS, SIDE, GAP = 8, 112, 4


def main(demo: Path, out: Path) -> None:
    run = demo / "run"
    recipe = recipes.find("demo")
    method = recipe.method.build(recipe.vit)
    last = run / folder_name(steps(run)[-1])
    Training(recipe, method, 1).restore(read(last).tensors(), last)
    encoder = Encoder.load(run / "encoder")
    points = evaluate(encoder, Alignment(dataset="rendered", path=demo / "faces"), LinearProbe(), date="")
    regions = evaluate(encoder, Parsing(dataset="rendered", path=demo / "faces"), LinearProbe(), date="")
    rng = np.random.default_rng(stream_seed("readme"))
    chosen = rng.choice(len(points.faces), COLUMNS, replace=False)
    same = {key: i for i, key in enumerate(regions.faces.keys.tolist())}

    images = points.faces.images[chosen]
    faces = torch.from_numpy(images).permute(0, 3, 1, 2)
    visible, painted, _ = gallery.reconstruct(method, faces, seed=0)
    grid, patch = recipe.vit.grid, recipe.vit.patch_size
    shown = visible.reshape(-1, grid, grid).numpy().repeat(patch, 1).repeat(patch, 2)
    seen = np.where(shown[..., None], images, np.uint8(96))
    columns = []
    for i, row in enumerate(chosen.tolist()):
        region = regions.prediction[same[points.faces.keys[row]]]
        column = [images[i], seen[i], painted[i]]
        column.append(gallery._with_points(images[i], points.faces.target[row], points.prediction[row]))
        column.append(gallery._coloured(images[i], region.astype(np.int64), gallery.PALETTE, 255))
        tiles = [Image.fromarray(tile).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for tile in column]
        columns.append(tiles)
    canvas = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, 5 * (SIDE + GAP) - GAP), (255, 255, 255))
    for x, tiles in enumerate(columns):
        for y, tile in enumerate(tiles):
            canvas.paste(tile, (x * (SIDE + GAP), y * (SIDE + GAP)))
    canvas.save(out, "JPEG", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
