"""What people like to see of an encoder: where it looks, and what its decoder makes of a face that is mostly hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusiform.encoder import Encoder
from fusiform.errors import FusiformError

RGB = NDArray[np.uint8]
SEED = 0
"""Of the mask: the same face is hidden in the same way each time."""


@torch.inference_mode()
def attention(encoder: Encoder, faces: RGB) -> RGB:
    """Where the last block looks: the mean over its heads of the attention that the patches pay, as a veil.

    The asking token is the class token where the encoder's training used it (`pooling` names it), else the mean over
    all patch tokens. Encoders whose patches are cut at landmarks have no such grid, and give a clear veil.

    Args:
        faces: (n, S, S, 3) uint8, S the encoder's image size.

    Returns: (n, S, S, 4): dark where little is looked at, clear where most is.
    """
    vit: Any = encoder.vit
    config = vit.config
    pixels = torch.from_numpy(np.ascontiguousarray(faces.transpose(0, 3, 1, 2))).to(next(vit.parameters()).device)
    side = config.image_size
    veil = np.zeros((len(faces), side, side, 4), np.uint8)
    if config.landmark_cnn:
        return veil
    x = vit.embed(vit.patches(pixels))
    for block in vit.blocks[:-1]:
        x = block(x)
    last = vit.blocks[-1]
    normed = last.norm1(x)
    B, L, _ = normed.shape
    q, k, _ = last.attn.qkv(normed).reshape(B, L, 3, last.attn.heads, -1).permute(2, 0, 3, 1, 4)
    scale = q.shape[-1] ** -0.5 if last.attn.scale is None else last.attn.scale
    weights = torch.softmax((q * scale).float() @ k.float().transpose(-2, -1), -1).mean(1)
    patches = slice(1, 1 + config.patches)
    asking = weights[:, 0] if "cls" in (encoder.pooling or "") else weights[:, patches].mean(1)
    looked = asking[:, patches].reshape(B, 1, config.grid, config.grid)
    low, high = (f(looked.flatten(1), 1).values.reshape(B, 1, 1, 1) for f in (torch.min, torch.max))
    shares = (looked - low) / (high - low).clamp_min(1e-12)
    smooth = torch.nn.functional.interpolate(shares, size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    # the root, because a few patches get most of it and the order of the others would not be seen
    veil[..., 3] = (205 * (1 - smooth.clamp(0, 1).sqrt())).round().cpu().numpy().astype(np.uint8)
    return veil


@dataclass(frozen=True, eq=False)
class Painter:
    """A decoder at work."""

    run: str
    """Name of the run it is from."""
    hidden: Callable[[RGB], RGB]

    def paint(self, faces: RGB) -> RGB:
        """(n, S, S, 3) faces -> (n, S, 2 S, 3): the visible patches alone, and the painted face beside them."""
        return self.hidden(faces)


def painter_of(run: Path, encoder: Encoder) -> Painter | None:
    """The decoder in a run's last checkpoint; None where the folder is no run, its method paints nothing, or its
    checkpoints are gone. A run whose encoder is another one is not asked.

    Raises:
        DataError: the checkpoint is damaged.
    """
    from fusiform import recipes
    from fusiform.checkpoint import folder_name, read, steps
    from fusiform.config import from_json
    from fusiform.gallery import HIDDEN, reconstruct
    from fusiform.methods.mae_face import MAEFace
    from fusiform.run import Run

    if not (run / "config.json").is_file() or not steps(run):
        return None
    try:
        stored = Run.read_config(run)
        recipe = from_json(recipes.find(str(stored.get("recipe"))), stored["config"])
        method: Any = recipe.method.build(recipe.vit)
    except (FusiformError, KeyError):  # a recipe of another version or package: there is simply no painter
        return None
    if not isinstance(method, MAEFace):
        return None
    tensors = read(run / folder_name(steps(run)[-1])).tensors()
    own = {name.removeprefix("method."): value for name, value in tensors.items() if name.startswith("method.")}
    method.load_state_dict(own, strict=True)
    method.eval()
    if recipe.vit.image_size != encoder.vit.config.image_size:
        return None
    size, patch = recipe.vit.image_size, recipe.vit.patch_size

    def paint(faces: RGB) -> RGB:
        pixels = torch.from_numpy(np.ascontiguousarray(faces.transpose(0, 3, 1, 2)))
        visible, painted, _ = reconstruct(method, pixels, SEED)
        grid = visible.reshape(len(faces), size // patch, -1).numpy()
        shown = np.kron(grid, np.ones((1, patch, patch), bool))[..., None]
        return np.concatenate([np.where(shown, faces, np.uint8(HIDDEN)), painted], axis=2)

    return Painter(run.name, paint)
