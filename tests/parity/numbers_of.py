"""Reading files of numbers: where they are, which cases a folder holds, and how far ours are from theirs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

Stored = dict[str, np.ndarray]

_TESTS = Path(__file__).resolve().parent.parent


def folder() -> Path:
    """The folder that FUSIFORM_FIXTURES names, else the full set where it lies beside the repository, else the extract
    in the repository."""
    named = os.environ.get("FUSIFORM_FIXTURES")
    beside = _TESTS.parent.parent / "shared" / "fixtures"
    return Path(named) if named else beside if beside.is_dir() else _TESTS / "golden"


def cases(beginning: str, array: str) -> list[str]:
    """Names of the folder's files that begin so and hold an array of that name, whatever else they are called."""
    found = []
    for path in sorted(folder().glob(f"{beginning}*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            if array in stored.files:
                found.append(path.stem)
    return found


def load(where: Path, name: str) -> Stored:
    path = where / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in {where}")
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def load_json(where: Path, name: str) -> dict[str, Any]:
    path = where / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no {path.name} in {where}")
    return dict(json.loads(path.read_text()))


def config_of(stored: Stored) -> dict[str, Any]:
    """Sizes and flags of a case."""
    return dict(json.loads(str(stored["config_json"])))


def under(stored: Stored, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in stored.items() if k.startswith(prefix)}


def relative(ours: Tensor | np.ndarray | float, theirs: Tensor | np.ndarray) -> float:
    """Norm of the difference over the norm of what is stored."""
    stored = torch.as_tensor(theirs).detach().double()
    return float((torch.as_tensor(ours).detach().double() - stored).norm() / stored.norm().clamp_min(1e-30))


def set_eps(module: nn.Module, layer_norms: float, batch_norms: float = 1e-5) -> None:
    """Give every norm the epsilon of a case; ours have the authors'."""
    for each in module.modules():
        if isinstance(each, nn.LayerNorm):
            each.eps = layer_norms
        elif isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.eps = batch_norms


def like_initial(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two draws of the same initialisation can have these spreads; of few numbers they say little."""
    ratio = float(ours.double().std() / theirs.double().std())
    return abs(ratio - 1) < max(0.1, 5 / theirs.numel() ** 0.5)
