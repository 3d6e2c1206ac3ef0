"""Files whose entries contradict each other: refused before anything is made of the size that they claim."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import ConfigError, WeightsError
from fusiform.nn.vit import ViT
from fusiform.weights.importing import import_encoder

PROJECTION, TABLE, FIRST = "patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"


def plain() -> dict[str, Tensor]:
    return ViT(ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)).state_dict()


FAMILIES = {"mae": "", "moco-v3": "module.base_encoder.", "mcf": "target_encoder.", "siameseim": "", "dinov2": ""}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (PROJECTION, torch.zeros(10_000_000, 0, 8, 8), "4 dimensions"),
        (PROJECTION, torch.zeros(48, 192), "4 dimensions"),
        (PROJECTION, torch.zeros(48, 3, 8, 7), "square patches"),
        (TABLE, torch.zeros(1, 1_000_001, 0), "3 dimensions"),
        (TABLE, torch.zeros(1, 3000**2 + 1, 1, dtype=torch.uint8), "'pos_embed' has the shape"),
        (TABLE, torch.zeros(17), "3 dimensions"),
        (TABLE, torch.zeros(1, 18, 48), "18 positions"),
        (FIRST, torch.zeros(()), "2 dimensions"),
        ("blocks.99999999.norm1.weight", torch.zeros(48), "without gaps"),
        ("blocks.².norm1.weight", torch.zeros(48), "no place in the encoder"),
        ("cls_token", torch.zeros(1, 1, 48, dtype=torch.complex64), "no finite numbers"),
        ("cls_token", torch.zeros(1, 1, 48, dtype=torch.int32), "no finite numbers"),
    ],
)
def test_entries_that_contradict_each_other(family: str, name: str, value: Tensor, says: str, tmp_path: Path) -> None:
    state = plain()
    if family == "siameseim":
        state = {n: v for n, v in state.items() if not n.startswith("norm.")}
    state = {FAMILIES[family] + n: v for n, v in {**state, name: value}.items()}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=says):
        import_encoder(tmp_path / "x.pth", family, heads=3)


@pytest.mark.parametrize("heads", [0, -3, 5])
def test_heads_that_cannot_be(heads: int, tmp_path: Path) -> None:
    torch.save(plain(), tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"heads|size below 1"):
        import_encoder(tmp_path / "x.pth", "mae", heads=heads)


@pytest.mark.parametrize("shape", [(48,), (48, 191), (48, 3, 8, 8)])
def test_a_lafs_projection_of_no_square_patches(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save({"module.patch_to_embedding.weight": torch.zeros(shape)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="patch projection has the shape"):
        import_encoder(tmp_path / "x.pth", "lafs")
