"""Reading weight files of strangers. Nothing in a file is ever executed, and nothing that looks wrong is repaired.

Two containers are read: safetensors, and torch's own, first by our list of what a pickle may contain (`pickles.py`) and
then through torch's restricted unpickler. `argparse.Namespace`, which MAE and its heirs save beside the weights, is let
through: it holds values and runs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fusiform.errors import WeightsError
from fusiform.weights import pickles


def read(path: Path) -> Mapping[str, Any]:
    """What a weight file holds: names and tensors, or a dict of several such.

    Raises:
        WeightsError: no such file, damaged, cut short, compressed, or it holds something that would have to be run.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}", expected="a .pth, .pt, .bin or .safetensors file")
    again = "fetch it again from its official place and compare its size and hash"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        pickles.check(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            whole = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # whatever a hostile or damaged file makes a parser raise is one thing: a refusal
        # torch's message begins with advice to switch the safety off, which must not reach anybody
        reason = " ".join(str(error).split()).rpartition("WeightsUnpickler error:")[2].strip()
        raise WeightsError(
            f"{path} cannot be read as weights ({type(error).__name__}: {reason.partition(' Check the ')[0][:160]})",
            expected="a whole file saved by torch.save or safetensors",
            do=again,
        ) from error
    if not isinstance(whole, Mapping):
        raise WeightsError(f"{path} holds a {type(whole).__name__}", expected="a dict of tensors", do=again)
    return whole


def state_dict(whole: Mapping[str, Any], entries: Sequence[str], path: Path) -> tuple[str, dict[str, Tensor]]:
    """The first of `entries` that the file has, or the file itself where it has none: its name and its tensors.

    Raises:
        WeightsError: no tensors there, something else among them, or a tensor larger than what is stored of it.
    """
    entry = next((e for e in entries if isinstance(whole.get(e), Mapping)), "")
    found = whole[entry] if entry else whole
    if not found or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise WeightsError(
            f"{path} has no state dict: its entries are {', '.join(map(str, list(whole)[:8])) or 'none'}",
            expected=f"tensors by name, or an entry {' or '.join(map(repr, entries))} with them",
        )
    for name, value in found.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise WeightsError(
                f"'{name}' of {path} claims {value.numel():,} numbers and stores fewer", expected="every number stored"
            )
    return entry, dict(found)
