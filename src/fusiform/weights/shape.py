"""The shape of a ViT in MAE's layout, read off its state dict; and a ViT filled with one, strictly.

Files come from strangers: every number here is checked against the others before anything is made of that size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError
from fusiform.nn.vit import ViT

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads by width in the sizes of MAE, SiameseIM, CAMD and MCF: a checkpoint does not say."""

NEEDED = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight")
"""Entries without which nothing can be said of a shape."""

_BLOCK = re.compile(r"blocks\.([0-9]+)\.")


@dataclass(frozen=True)
class Shape:
    """What entries say of an encoder's shape."""

    width: int
    patch: int
    grid: int
    """Patches along one side."""
    depth: int
    hidden: int
    """Outputs of the first linear layer of a block's MLP."""
    inner: int
    """Channels of all attention heads together."""


def lacking(state: Mapping[str, Tensor]) -> str:
    """The entries of `NEEDED` that are not there, in words; empty if all are."""
    return ", ".join(sorted(set(NEEDED) - state.keys()))


def shape_of(state: Mapping[str, Tensor]) -> Shape:
    """The shape of the encoder with these entries, which have all that are `NEEDED`.

    Raises:
        WeightsError: an entry has another number of dimensions, patches are not square, positions are none for a class
            token and a square grid, or blocks are not numbered from 0.
    """
    for name, dims in zip(NEEDED, (3, 3, 4, 2, 2), strict=True):
        if state[name].ndim != dims or 0 in state[name].shape:
            raise WeightsError(f"'{name}' has the shape {tuple(state[name].shape)}", expected=f"{dims} dimensions")
    width, colours, patch, across = state["patch_embed.proj.weight"].shape
    if colours != 3 or patch != across:
        raise WeightsError(
            f"'patch_embed.proj.weight' has the shape {(width, colours, patch, across)}",
            expected="three colours and square patches",
        )
    positions = state["pos_embed"].shape[1]
    grid = round((positions - 1) ** 0.5)
    if grid < 1 or grid**2 + 1 != positions:
        raise WeightsError(
            f"The checkpoint has {positions} positions",
            expected="one for the class token and a square number of others",
        )
    numbers = {int(found[1]) for name in state if (found := _BLOCK.match(name))}
    if numbers != set(range(len(numbers))):
        raise WeightsError(
            f"The checkpoint has {len(numbers)} blocks, the last of which is numbered {max(numbers)}",
            expected="blocks numbered from 0, without gaps",
        )
    hidden, inner = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.attn.proj.weight"].shape[1]
    return Shape(width, patch, grid, len(numbers), hidden, inner)


def heads_of(width: int, published: Mapping[int, int], heads: int | None) -> int:
    """Attention heads: those that are said, else those of the published size.

    Raises:
        WeightsError: a width of no published size, and none are said.
    """
    if heads is None and width not in published:
        raise WeightsError(f"Width {width} is that of no published size", do="--heads N says the attention heads")
    return published[width] if heads is None else heads


def mae_config(state: Mapping[str, Tensor], published: Mapping[int, int], heads: int | None) -> ViTConfig:
    """The shape of a ViT with a class token, a square grid and ImageNet's pixel statistics.

    Args:
        state: with MAE's names.
        published: attention heads by width, which a checkpoint does not say.
        heads: instead of the published number; None: that.

    Raises:
        WeightsError: as `shape_of` and `heads_of`.
    """
    shape = shape_of(state)
    return ViTConfig(
        image_size=shape.grid * shape.patch,
        patch_size=shape.patch,
        width=shape.width,
        depth=shape.depth,
        heads=heads_of(shape.width, published, heads),
        mlp_ratio=shape.hidden / shape.width,
    )


def joined(three: Mapping[str, Tensor], parts: tuple[str, str, str], ours: str) -> Tensor:
    """Queries, keys and values that a file has apart, as the one entry `ours`.

    Raises:
        WeightsError: one of them is missing, or they do not fit together.
    """
    if missing := set(parts) - three.keys():
        raise WeightsError(f"The checkpoint has no {', '.join(sorted(missing))} for '{ours}'")
    shapes = [tuple(three[part].shape) for part in parts]
    if len(set(shapes)) > 1 or not shapes[0]:
        raise WeightsError(f"The parts of '{ours}' have the shapes {shapes}", expected="three equal ones")
    return torch.cat([three[part] for part in parts])


def strictly(config: ViTConfig, state: Mapping[str, Tensor], about: str) -> ViT:
    """The ViT of that shape with exactly these entries, as float32 and in evaluation mode.

    Args:
        about: what the file should have been, for errors.

    Raises:
        WeightsError: an entry is unknown, missing, of another shape or kind of number, or not finite.
    """
    table = (1, 1 + config.patches, config.width)
    if "pos_embed" in state and tuple(state["pos_embed"].shape) != table:  # before a table of that size is made
        raise WeightsError(f"'pos_embed' has the shape {tuple(state['pos_embed'].shape)}", expected=str(table))
    with torch.device("meta"):
        wanted = ViT(config).state_dict()
    if unknown := sorted(state.keys() - wanted.keys()):
        raise WeightsError(
            f"{len(unknown)} entries of the checkpoint have no place in the encoder, first '{unknown[0]}'",
            expected=f"{about} No relative positions, distillation tokens or norms of queries and keys",
            do="name another family with --family, if it has one",
        )
    if missing := sorted(wanted.keys() - state.keys()):
        raise WeightsError(
            f"The checkpoint lacks {len(missing)} entries of the encoder, first '{missing[0]}'", expected=about
        )
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise WeightsError(f"'{name}' has the shape {tuple(value.shape)}", expected=str(tuple(wanted[name].shape)))
        if value.is_floating_point() != wanted[name].is_floating_point() or not value.isfinite().all():
            raise WeightsError(f"'{name}' holds values that are no finite numbers", expected="trained weights")
    vit = ViT(config)
    vit.load_state_dict({name: value.to(wanted[name].dtype) for name, value in state.items()}, strict=True)
    return vit.eval()
