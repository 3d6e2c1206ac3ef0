"""`Run`: a pre-training run is a folder.

    runs/a/
        config.json         recipe, every resolved choice, versions, code revision; sealed with a checksum
        log.jsonl           one JSON row per line, the source of every curve
        step-00000500/      checkpoints, see `fusiform.checkpoint`
        done.json           present when the run has finished
        lock                held while a process works in the folder

Reading a run (`Run.read_config`, `Run.read_log`) takes no lock and does not import torch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from fusiform import checkpoint, config
from fusiform.checkpoint import Checkpoint
from fusiform.durable import ASIDE, FolderLock, open_sealed_json, replace_file, sealed_json, writing
from fusiform.errors import ConfigError, DataError, FusiformError, FusiformWarning
from fusiform.revision import revision, version

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_MAY_CHANGE = ("arithmetic", "tuning", "started_from")  # of the last one the recipe's `start` holds the hash
_OWN = ("config.json", "log.jsonl", "lock", "done.json")


class Run:
    """A run's folder, open for one process. Use as a context manager, or call `close`."""

    def __init__(self, folder: Path, lock: FolderLock, stored: dict[str, Any], keep: int) -> None:
        """Not called directly: see `Run.open`."""
        self.folder = folder
        self.config = stored
        """What config.json holds."""
        self._lock, self._keep = lock, max(keep, 1)
        self._good: set[int] = set()
        """Steps whose checkpoint this process wrote or verified."""
        self._log = _open_log(folder / "log.jsonl")

    @classmethod
    def open(cls, folder: Path, recipe: config.Recipe, *, notes: Mapping[str, Any] = _NOTHING) -> Run:
        """Create the run in `folder`, or reopen it to go on.

        Args:
            folder: made if it is missing; if it is there, it must be empty or a run of the same identity.
            recipe: as resolved from name and flags.
            notes: further facts for config.json, as JSON values. They must be the same when the run is reopened (the
                data set's identity), but for those of `World.describe`: `tuning` may change, and `arithmetic` may too
                but is warned about, because the run then no longer equals an undisturbed one bit for bit.

        Raises:
            RunBusy: another process works in the folder.
            ConfigError: the folder holds something else, or a run whose results would differ: names every such field.
            DataError: the folder cannot be written, or its config.json is damaged.
        """
        folder = Path(folder)
        with writing(folder / "config.json", 10_000):
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"{folder} is a file", expected="a run's folder, or a name that is free")
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder)
        lock = FolderLock(folder)
        try:
            with writing(folder / "config.json", 10_000):
                checkpoint.clean(folder)
            asked = _describe(recipe, notes)
            changes: dict[str, Any] = {}
            if (folder / "config.json").exists():
                stored = cls.read_config(folder)
                _refuse_other_results(folder, stored, asked)
                changes = _changes(stored, asked)
                asked = {**asked, "created": stored["created"], "history": stored["history"]}
                if changes:
                    asked["history"] = [*stored["history"], {"time": _now(), "changes": changes}]
            if changes or not (folder / "config.json").exists():
                replace_file(folder / "config.json", sealed_json(asked))
            run = cls(folder, lock, asked, recipe.loop.keep_checkpoints)
        except BaseException:
            lock.release()
            raise
        inexact = [name for name in changes if name.startswith(("notes.arithmetic.", "versions."))]
        if inexact:
            said = ", ".join(f"{name} {changes[name][0]} -> {changes[name][1]}" for name in inexact)
            run._warn("no longer bit-exact", f"{folder} goes on, but no longer bit for bit as it began: {said}")
        return run

    @staticmethod
    def read_config(folder: Path) -> dict[str, Any]:
        """What a run's config.json holds, without its checksum.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            return open_sealed_json(folder / "config.json")
        except DataError as error:
            copies = sorted(folder.glob("step-*/config.json"))
            do = f"cp {copies[-1]} {folder / 'config.json'}" if copies else "name a folder made by fusiform pretrain"
            raise DataError(error.what, expected=error.expected, do=do) from error

    @staticmethod
    def read_log(folder: Path) -> list[dict[str, Any]]:
        """The rows of a run's log.jsonl, oldest first; a row that is being written right now is left out.

        Raises:
            DataError: there is no log.
        """
        rows, bad = [], []
        for number, line in enumerate(_lines(folder / "log.jsonl"), start=1):
            row = _row(line)
            if row is not None:
                rows.append(row)
            elif line.endswith(b"\n"):
                bad.append(number)
        if bad:
            warnings.warn(
                FusiformWarning(f"{folder / 'log.jsonl'}: {len(bad)} damaged rows left out, lines {bad[:10]}"),
                stacklevel=2,
            )
        return rows

    @property
    def done(self) -> bool:
        """Whether the run has reached its last step."""
        return (self.folder / "done.json").exists()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None in a new run. Damaged ones are reported aloud and passed over.

        Raises:
            DataError: there are checkpoints and all of them are damaged.
        """
        damaged: dict[int, str] = {}
        for step in reversed(checkpoint.steps(self.folder)):
            folder = self.folder / checkpoint.folder_name(step)
            if reason := checkpoint.damage(folder):
                damaged[step] = f"{folder}: {reason}"
                continue
            self._good.add(step)
            if damaged:
                self._warn(
                    "damaged checkpoint",
                    f"{'; '.join(damaged.values())}. Going on from step {step}: {max(damaged) - step} steps are lost",
                    damaged=sorted(damaged),
                    lost_steps=max(damaged) - step,
                )
            return checkpoint.read(folder)
        if damaged:
            raise DataError(
                f"No checkpoint of {self.folder} is whole: {'; '.join(damaged.values())}",
                do=f"rm -r {self.folder}/step-* to begin again at step 0, or name another folder",
            )
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint after `step` optimizer steps, then delete all but the newest `loop.keep_checkpoints`.

        Raises:
            DataError: no room or no permission; the older checkpoints are untouched.
        """
        self._before_saving()
        path = checkpoint.write(self.folder, step, tensors, state, sealed_json(self.config))
        return self._kept(step, path)

    def begin(self, step: int) -> Path:
        """As `save`, where several ranks write the tensors: an empty folder for them, which `commit` makes whole."""
        self._before_saving()
        return checkpoint.begin(self.folder, step)

    def commit(self, step: int, files: Mapping[str, Any]) -> Path:
        """Seal the checkpoint that was begun; `files` as in `checkpoint.seal`."""
        return self._kept(step, checkpoint.seal(self.folder, step, files, {}, sealed_json(self.config)))

    def _before_saving(self) -> None:
        with writing(self.folder / "log.jsonl", 0):
            os.fsync(self._log)  # a row of a step that was done is not younger than the checkpoint
            (self.folder / "done.json").unlink(missing_ok=True)

    def _kept(self, step: int, path: Path) -> Path:
        self._good.add(step)
        kept = sorted(self._good)[-self._keep :]
        if len(kept) == self._keep:
            with writing(path, 0):
                for old in checkpoint.steps(self.folder):
                    if old < kept[0]:
                        checkpoint.remove(self.folder, old)
            self._good = set(kept)
        return path

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to log.jsonl. Numbers that JSON lacks become null and are named under `not_finite`."""
        lost: dict[str, str] = {}
        values = {name: _plain(value, name, lost) for name, value in row.items()}
        if lost:
            values["not_finite"] = lost
        left = memoryview((json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode())
        with writing(self.folder / "log.jsonl", len(left)):
            while left:
                left = left[os.write(self._log, left) :]

    def rewind(self, step: int) -> None:
        """Remove the rows of `step` and later, which will be done again. Rows with an `event` are history and stay."""
        path = self.folder / "log.jsonl"
        kept = []
        for line in _lines(path):
            row = _row(line) or {}
            if "event" in row or not isinstance(row.get("step"), int) or row["step"] < step:
                kept.append(line)
        replace_file(path, b"".join(kept))
        before, self._log = self._log, _open_log(path)
        os.close(before)

    def rows(self) -> list[dict[str, Any]]:
        """The log's rows, oldest first."""
        return self.read_log(self.folder)

    def finish(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the last checkpoint, unless `latest` or `save` has dealt with this step, and mark the run as done."""
        if not self.has(step):
            self.save(step, tensors, state)
        return self.mark_done(step)

    def has(self, step: int) -> bool:
        """Whether this process wrote or checked the checkpoint of `step`."""
        return step in self._good

    def mark_done(self, step: int) -> Path:
        replace_file(self.folder / "done.json", sealed_json({"step": step, "time": _now()}))
        return self.folder / checkpoint.folder_name(step)

    def stopped(self, error: FusiformError) -> None:
        """Note in the log why the run stopped before its end, if the log can still be written."""
        with contextlib.suppress(DataError):
            self.log({"event": "stopped", "message": str(error), "error": type(error).__name__, "time": _now()})

    def close(self) -> None:
        """Give the folder back. Twice does no harm."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warn(self, event: str, message: str, **values: Any) -> None:
        self.log({"event": event, "message": message, "time": _now(), **values})
        warnings.warn(FusiformWarning(message), stacklevel=3)


def _describe(recipe: config.Recipe, notes: Mapping[str, Any]) -> dict[str, Any]:
    method = type(recipe.method)
    return {
        "format": 1,
        "recipe": recipe.name,
        "method": f"{method.__module__}.{method.__qualname__}",
        "identity": recipe.identity,
        "config": config.to_json(recipe),
        "notes": json.loads(json.dumps(dict(notes), allow_nan=False)),
        "versions": {name: version(name) for name in ("fusiform", "torch", "numpy", "safetensors")},
        "revision": revision(),
        "created": _now(),
        "history": [],
    }


def _refuse_foreign(folder: Path) -> None:
    """A folder of photos named by mistake must not be written into."""
    if (folder / "config.json").exists():
        return
    names = [p.name for p in folder.iterdir() if p.name not in _OWN and not p.name.endswith(ASIDE)]
    if names:
        raise ConfigError(
            f"{folder} is not a run: it holds {len(names)} other things ({', '.join(sorted(names)[:3])})",
            expected="an empty or new folder, or one made by fusiform pretrain",
        )


def _refuse_other_results(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Reopening may change how a run is carried out, but not what comes out of it."""
    differ = []
    before, now = _flat(stored["config"]), _flat(asked["config"])
    before["method (class)"], now["method (class)"] = stored["method"], asked["method"]
    for values, notes in ((before, stored["notes"]), (now, asked["notes"])):
        values.update({f"{k} (note)": v for k, v in _flat(notes).items() if k.split(".")[0] not in _MAY_CHANGE})
    flags = []
    for name in sorted({*before, *now}):
        if name.split(".")[0] in ("loop", "name", "about", "continues") or before.get(name) == now.get(name):
            continue
        differ.append(f"{name}: stored {before.get(name, 'nothing')}, asked {now.get(name, 'nothing')}")
        if name == "start" and name in before:
            flags.append(f"--start with the folder whose SHA-256 that is, {stored['notes']['started_from']['folder']}")
        elif "(" not in name and name in before:
            flags.append(f"--{name.replace('_', '-')} {_typed(before[name])}")
    if differ:
        to_go_on = f"to go on with it: {' '.join(flags)}; " if flags else ""
        raise ConfigError(
            f"{folder} holds a run with other settings ({'; '.join(differ)})",
            expected="the same values, because a run has one result",
            do=f"{to_go_on}to begin another: name another folder",
        )


def _changes(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{field: [before, now]} of everything that config.json records and that may change."""
    before = _flat({k: v for k, v in stored.items() if k not in ("created", "history")})
    now = _flat({k: v for k, v in asked.items() if k not in ("created", "history")})
    return {n: [before.get(n), now.get(n)] for n in sorted({*before, *now}) if before.get(n) != now.get(n)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _typed(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: Any, name: str, lost: dict[str, str]) -> Any:
    """`value` as JSON values; 0-d tensors and NumPy scalars become numbers, non-finite ones None, noted in `lost`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v, f"{name}.{key}", lost) for key, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}.{i}", lost) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost[name] = str(value)
        return None
    return value


def _open_log(path: Path) -> int:
    """The log, open for appending, after cutting off a last row that a killed process did not finish."""
    with writing(path, 100):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        torn = next(reversed(_lines(path)), b"")
        if torn and not torn.endswith(b"\n"):
            os.ftruncate(file, path.stat().st_size - len(torn))
    return file


def _lines(path: Path) -> list[bytes]:
    try:
        return re.findall(rb"[^\n]*\n|[^\n]+\Z", path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}", expected="the log of a run") from error


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
