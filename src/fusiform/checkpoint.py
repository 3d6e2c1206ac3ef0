"""Checkpoints: a folder of tensors (safetensors), numbers (JSON) and a manifest (SHA-256). Nothing is ever pickled.

    step-00000500/
        tensors.safetensors     weights, teacher, optimizer moments (or a file for each rank, see `fusiform.sharded`)
        state.json              what is not a tensor
        config.json             the run's config at that moment
        manifest.json           length and SHA-256 of each file above, and of itself

The folder is written under another name and renamed when it is whole, so a folder with the final name is a checkpoint
or was damaged afterwards. No format finds a flipped bit by itself (torch.save, safetensors and DCP all load it in
silence), hence the manifest, which is checked before anything is loaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiform.durable import (
    ASIDE,
    hash_file,
    open_sealed_json,
    remove_folder,
    sealed_json,
    sync_folder,
    write_file,
    writing,
)
from fusiform.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_REPLACED = ".replaced"
_TENSORS = "tensors.safetensors"
_FILES = ("state.json", "config.json")
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes have been checked."""

    step: int
    """Optimizer steps done."""
    folder: Path
    state: dict[str, Any]
    """What is not a tensor."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, whole and on the CPU, whether one process wrote them or several."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / _TENSORS
        if not path.exists():
            import torch

            from fusiform.sharded import read_parts

            return read_parts(self.folder, lambda _, shape, dtype: torch.empty(shape, dtype=dtype))
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"Cannot read {path}: {error}") from error


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """Steps of all folders with a checkpoint's final name, ascending; none of them checked."""
    found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in run.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def write(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], config: bytes) -> Path:
    """Write the checkpoint of `step` into the folder `run`; on return it is on the disk, under its final name.

    An older checkpoint of the same step is replaced. After an error, or a kill at any moment, what was there before is
    still there and no folder with a final name is incomplete.

    Raises:
        DataError: it cannot be written, for want of room or permission; names the path and the bytes needed.
    """
    header, ordered = _layout(tensors)
    needed = len(header) + sum(t.numel() * t.element_size() for t in ordered)
    with writing(run / folder_name(step), needed + len(config)):
        aside = begin(run, step)
        try:
            files = {_TENSORS: write_file(aside / _TENSORS, _pieces(header, ordered))}
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return seal(run, step, files, state, config)


def begin(run: Path, step: int) -> Path:
    """An empty folder to write the tensors of a checkpoint into, which `seal` makes one."""
    aside = run / (folder_name(step) + ASIDE)
    with writing(aside, 0):
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir()
    return aside


def seal(run: Path, step: int, files: Mapping[str, Any], state: Mapping[str, Any], config: bytes) -> Path:
    """Turn the folder that `begin` made, with these `files` in it, into the checkpoint of `step`.

    Args:
        files: name -> {"bytes", "sha256"} of the files with tensors.
    """
    final = run / folder_name(step)
    aside = final.with_name(final.name + ASIDE)
    numbers = (json.dumps(state, indent=1, allow_nan=False) + "\n").encode()
    with writing(final, len(numbers) + len(config)):
        try:
            files = {
                **files,
                "state.json": write_file(aside / "state.json", [numbers]),
                "config.json": write_file(aside / "config.json", [config]),
            }
            write_file(aside / "manifest.json", [sealed_json({"format": FORMAT, "step": step, "files": files})])
            sync_folder(aside)
            _rename(aside, final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return final


def _rename(aside: Path, final: Path) -> None:
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
        os.replace(final, replaced)
    try:
        os.replace(aside, final)
    except BaseException:
        if replaced.exists():
            os.replace(replaced, final)
        raise
    sync_folder(final.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def clean(run: Path) -> list[str]:
    """Remove what a killed process left unfinished; returns the names. Only for the holder of the run's lock."""
    removed = []
    for path in sorted(run.iterdir()):
        if path.name.endswith(_REPLACED):
            final = path.with_name(path.name.removesuffix(_REPLACED))
            if final.exists():
                shutil.rmtree(path)
            else:
                os.replace(path, final)
        elif path.name.endswith(ASIDE):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            removed.append(path.name)
    return removed


def remove(run: Path, step: int) -> None:
    remove_folder(run / folder_name(step))


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's bytes, in words; None if they are exactly those that were written.

    Raises:
        DataError: they may not be read. That is no damage, and an older checkpoint is no answer to it.
    """
    try:
        manifest = open_sealed_json(folder / "manifest.json")
        if manifest.get("format") != FORMAT:
            return f"its format is {manifest.get('format')}, this version reads {FORMAT}"
        if not _is_manifest(manifest):
            return "its manifest is not one that was written here"
        if folder.name != folder_name(manifest["step"]):
            return f"it was written as {folder_name(manifest['step'])}"
        if missing := [name for name in _FILES if name not in manifest["files"]]:
            return f"its manifest lacks {missing[0]}"
        for name in manifest["files"]:
            size, meant = (folder / name).stat().st_size, manifest["files"][name]
            if size != meant["bytes"]:
                return f"{name} has {size:,} bytes instead of {meant['bytes']:,}"
            if hash_file(folder / name) != meant["sha256"]:
                return f"{name} does not have the SHA-256 it was written with"
    except DataError as error:
        _refuse_forbidden(error.__cause__, folder)
        return error.what
    except OSError as error:
        _refuse_forbidden(error, folder)
        return f"{error.filename or folder}: {error.strerror}"
    return None


def _refuse_forbidden(error: BaseException | None, folder: Path) -> None:
    if isinstance(error, PermissionError):
        raise DataError(
            f"Cannot read {error.filename or folder}: {error.strerror}",
            expected="a checkpoint that this process may read",
            do=f"ls -l {folder}",
        ) from error


def _is_manifest(manifest: Mapping[str, Any]) -> bool:
    """Whether a step and files beside it are named, each with a length and a hash: a checksum does not say so."""
    files = manifest.get("files")
    return (
        isinstance(manifest.get("step"), int)
        and isinstance(files, dict)
        and all(Path(name).name == name and isinstance(about, dict) for name, about in files.items())
        and all(isinstance(a.get("bytes"), int) and isinstance(a.get("sha256"), str) for a in files.values())
    )


def read(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, after checking every byte of it.

    Raises:
        DataError: it is missing or damaged.
    """
    if reason := damage(folder):
        raise DataError(f"Checkpoint {folder} is damaged: {reason}", do="use an older one")
    return Checkpoint(int(folder.name.removeprefix("step-")), folder, json.loads((folder / "state.json").read_bytes()))


def _layout(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[Tensor]]:
    """The safetensors header, and the tensors in the order of their bytes (widest type first: all stay aligned)."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end = start + tensor.numel() * tensor.element_size()
        dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, [tensors[name] for name in order]


def _pieces(header: bytes, tensors: list[Tensor]) -> Iterator[memoryview]:
    """The file's bytes, one tensor at a time: saving needs no second copy of the model in memory."""
    import torch

    yield memoryview(header)
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data
