"""What `fusiform doctor` looks at: this machine, and folders of public labelled sets.  (torch only in `machine`)

Nothing here changes anything or fetches anything: it says what is there, what is not, and what to type.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusiform import __version__
from fusiform.assets import ASSETS, cache_dir, fetch
from fusiform.errors import DataError, SetMissing, WeightsError, did_you_mean
from fusiform.tasks.sets.at_hand import AtHand, at_hand
from fusiform.tasks.sets.known import layouts
from fusiform.tasks.sets.layout import Inspection, SetLayout, inspect_set, locate

State = Literal["good", "look", "bad"]
PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "onnxruntime", "pyarrow"),
    *("safetensors", "tyro", "pydantic", "jinja2", "tqdm"),
)
"""Needed by every command."""
EXTRAS = {
    "render": ("numba", "scipy"),
    "reading LFWA": ("scipy",),
}
"""What more is needed for what."""
SMALL_DISK = 5 << 30
"""Bytes below which a disk is worth a look: a set of 100,000 faces of 112 pixels takes about one gigabyte."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether that is good, worth a look, or bad."""

    what: str
    found: str
    state: State = "good"
    do: str = ""
    """What to type where it is not good."""


# ---------------------------------------------------------------------------------------------------- this machine


def machine(root: Path | None = None) -> Iterator[Finding]:
    """Versions, weights, cores, torch's routes, disk, and where the data is looked for.

    Args:
        root: folder of the labelled sets.
    """
    yield Finding("fusiform", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from _packages()
    yield from _torch()
    yield from _memory()
    yield from _weights()
    for name, folder in (("this folder", Path.cwd()), ("cache", cache_dir())):
        yield _disk(name, folder)
    if root is None:
        do = "export FUSIFORM_DATA=FOLDER, then fusiform doctor FOLDER"
        yield Finding("labelled sets", "FUSIFORM_DATA is not set", "look", do)
    else:
        there = "is there" if root.is_dir() else "is not there"
        yield Finding(
            "labelled sets", f"'{root}' {there}", "good" if root.is_dir() else "bad", f"fusiform doctor {root}"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    held = {name: _version(name) for name in PACKAGES}
    if held["opencv-python-headless"] is None:  # the same module comes under several names
        held["opencv-python-headless"] = _version("opencv-python") or _version("opencv-contrib-python")
    absent = [name for name, version in held.items() if version is None]
    yield Finding(
        "packages",
        ", ".join(f"{name} {version}" for name, version in held.items() if version),
        "bad" if absent else "good",
        f"pip install {' '.join(absent)}" if absent else "",
    )
    for use, names in EXTRAS.items():
        missing = [name for name in names if _version(name) is None]
        found = "there" if not missing else f"without {', '.join(missing)}"
        yield Finding(f"for {use}", found, "look" if missing else "good", f"pip install {' '.join(missing)}")


def _torch() -> Iterator[Finding]:
    import torch

    from fusiform.world import local_ranks, tune_cpu, usable_cores

    cores, machine_wide = usable_cores(), os.cpu_count() or 1
    granted = "" if cores == machine_wide else f" of the machine's {machine_wide}"
    yield Finding("cores", f"{cores} usable{granted}; torch uses {torch.get_num_threads()} threads")
    if torch.get_num_threads() * local_ranks() > cores:
        many = f"{torch.get_num_threads()} threads on {cores} cores are slower than {cores}"
        yield Finding("threads", many, "look", f"export OMP_NUM_THREADS={max(1, cores // local_ranks())}")
    for route, how in tune_cpu(torch.device("cpu")).items():
        yield Finding(f"route: {route}", str(how))
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            half = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            yield Finding(f"cuda:{i}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {half}")
    elif torch.version.cuda or torch.version.hip:
        built = (
            f"torch is built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'ROCm'} and sees no device"
        )
        yield Finding("cuda", built, "look", "nvidia-smi, or rocm-smi")
    else:
        mps = torch.backends.mps.is_available()
        yield Finding("device", "mps" if mps else "cpu only")


def _memory() -> Iterator[Finding]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return
    yield Finding("memory", f"{total / 2**30:.1f} GiB")


def _weights() -> Iterator[Finding]:
    for name, asset in ASSETS.items():
        try:
            path = fetch(name, offline=True)
        except WeightsError as error:
            damaged = "sha256" in error.what and " is not " in error.what
            found = error.what if damaged else f"not on this machine ({asset.bytes / 2**20:.1f} MiB, {asset.licence})"
            yield Finding(f"weights {name}", found, "bad" if damaged else "look", f"fusiform weights fetch {name}")
        else:
            yield Finding(f"weights {name}", str(path))


def _disk(name: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    found = f"{free / 2**30:.1f} GiB free at '{folder}'" + ("" if writable else ", which cannot be written")
    state: State = "good" if writable and free >= SMALL_DISK else "look" if writable else "bad"
    do = "export FUSIFORM_CACHE=FOLDER on a larger disk" if name == "cache" else "work in another folder"
    return Finding(f"disk, {name}", found, state, do)


# ---------------------------------------------------------------------------------------------------- public sets


@dataclass(frozen=True)
class Checked:
    """A set that is there: what was counted, or why it could not be."""

    layout: SetLayout
    folder: Path
    inspection: Inspection | None
    error: str = ""

    @property
    def whole(self) -> bool:
        return self.inspection is not None and self.inspection.whole


@dataclass(frozen=True)
class Checkup:
    """What a folder holds of the public sets that fusiform reads."""

    found: tuple[Checked, ...]
    absent: tuple[SetLayout, ...]
    wrong: tuple[SetMissing, ...] = ()
    """Of sets that were asked for by name and are not there."""
    photos: tuple[AtHand, ...] = ()
    """London, Congress and ORL, where no set was asked for by name."""

    @property
    def whole(self) -> bool:
        return (
            not self.wrong and all(each.whole for each in self.found) and not any(each.problems for each in self.photos)
        )


def sets_at(root: Path, names: Sequence[str] = ()) -> Checkup:
    """Look for every known set at `root` (the folder of all sets, or of one) and count what is there.

    Args:
        root: any folder.
        names: only these sets, which must then be there.

    Raises:
        DataError: `root` is not there, or a name is none.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder '{root}'", expected="the folder of labelled sets, or of one of them")
    known = {each.name: each for each in layouts()}
    for name in names:
        if name not in known:
            raise DataError(f"There is no set '{name}'", do=did_you_mean(name, known))
    found, absent, wrong = [], [], []
    for layout in known.values():
        if names and layout.name not in names:
            continue
        try:
            folder = locate(layout, root)
        except SetMissing as error:
            absent.append(layout)
            if names:
                wrong.append(error)
            continue
        try:
            found.append(Checked(layout, folder, inspect_set(layout, root)))
        except DataError as error:
            found.append(Checked(layout, folder, None, str(error)))
    return Checkup(tuple(found), tuple(absent), tuple(wrong), () if names else tuple(at_hand(root)))
