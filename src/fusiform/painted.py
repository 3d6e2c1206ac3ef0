"""What a masked autoencoder paints while it trains, kept as one picture a look."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fusiform import gallery
from fusiform.durable import replace_file, writing
from fusiform.methods.mae_face import MAEFace


def save_painted(method: Any, faces: Tensor, file: Path, seed: int) -> bool:
    """One row a face: the original, its visible patches, and what was painted. False for methods that paint nothing.

    Args:
        faces: (B, 3, S, S) uint8 with S the encoder's image size.
        file: the PNG; its folder is made. Written aside and renamed, so that a page that is open never shows half.
        seed: of the masks, the same at every look.

    Raises:
        DataError: the picture cannot be written.
    """
    if not isinstance(method, MAEFace):
        return False
    picture = gallery.reconstructions(method, faces.permute(0, 2, 3, 1).cpu().numpy(), seed, count=len(faces))
    rows = [np.asarray(Image.open(io.BytesIO(tile.image)).convert("RGB")) for tile in picture.tiles]
    png = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(png, "PNG")
    with writing(file, len(png.getvalue())):
        file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, png.getvalue())
    return True
