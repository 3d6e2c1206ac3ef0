"""Checkpoints that every rank writes a part of, and that any number of ranks can read.

PyTorch's distributed checkpoint (DCP) plans who writes and who reads what; the files are safetensors whose headers say
where each part belongs, not DCP's own, whose metadata is a pickle. So nothing is ever unpickled. Each rank hashes the
file it wrote; the first one seals all of them in the manifest and renames the folder.

    step-00000500/
        shard-00001-model-00001-of-00001.safetensors     rank 0's part
        shard-00002-model-00001-of-00001.safetensors     rank 1's part
        state.json  config.json  manifest.json           as in every checkpoint
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fusiform.durable import hash_file, writing
from fusiform.errors import DataError
from fusiform.group import from_collective
from fusiform.nn.ranks import is_sharded, local


def write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Write this rank's parts of `tensors` into `folder`. All ranks call it; all get the list of all ranks' files.

    Raises:
        DataError: some rank could not write, on all of them.
    """
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")  # its types are not exported

    needed = sum(t.numel() * t.element_size() for t in map(local, tensors.values()))
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with writing(folder, needed):
        try:
            # in order of names: an optimizer's state is in another order after a resume, and the header lists it
            dcp.save(dict(sorted(tensors.items())), storage_writer=writer)
        except dcp.api.CheckpointException as failed:  # derives from BaseException
            _raise_lost(failed)
            errors = list(failed.failures.values())
            refused = [e[0] for e in errors if isinstance(e[0], OSError)]
            if refused:
                raise refused[0] from failed
            raise DataError(f"Cannot write {folder}: {errors[0][0] if errors else failed}") from failed
        number = dist.get_rank() + 1
        mine = {
            path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)}
            for path in folder.glob(f"shard-{number:05d}-*.safetensors")
        }
    everyone: list[dict[str, Any] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {name: facts for each in everyone for name, facts in (each or {}).items()}


def read_parts(folder: Path, like: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
    """The tensors in the safetensors files of `folder`, however many ranks wrote them.

    Args:
        like: (name, shape, dtype) -> the tensor to read into: a sharded one reads only this rank's part of it. Where
            any is sharded, all ranks must call this alike.

    Raises:
        DataError: the files do not hold what their headers say.
    """
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")  # its types are not exported

    from safetensors import SafetensorError

    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        stored: Any = reader.read_metadata().state_dict_metadata
        into = {name: like(name, entry.size, entry.properties.dtype) for name, entry in stored.items()}
        together = any(is_sharded(tensor) for tensor in into.values())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process.*")
            dcp.load(into, storage_reader=reader, no_dist=not together)
    except (SafetensorError, dcp.api.CheckpointException, OSError, ValueError, RuntimeError, KeyError) as error:
        _raise_lost(error)
        raise DataError(f"Cannot read the checkpoint {folder}: {str(error).splitlines()[0]}") from error
    return into


def _raise_lost(error: BaseException) -> None:
    """Raises a RuntimeError, which `Group.watched` explains, where another rank is gone and no file is to blame."""
    failures: Any = getattr(error, "failures", None)
    for each in [failed[0] for failed in failures.values()] if failures else [error]:
        if isinstance(each, RuntimeError | ConnectionError) and from_collective(each):
            raise RuntimeError(str(each)) from error
