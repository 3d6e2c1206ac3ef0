"""A cell of the comparison on disk: one arm with one seed at one budget.  (no torch)

OUT/cells/BUDGET/ARM/seed-0/
    cell.json         what it is; sealed; a cell that is asked for otherwise is refused
    seconds.json      wall-clock so far, by stage; kept up while a stage runs
    run/, teacher/    pre-training, where the arm trains
    results/TASK-DATASET-PROTOCOL.json   rows, slices and the key of what was measured; written last
    results/TASK-DATASET-PROTOCOL.npz    every metric in every resample of people
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.durable import open_sealed_json, replace_file, sealed_json
from fusiform.errors import ConfigError, DataError
from fusiform.results import ResultRow

_EVERY = 5.0
"""Seconds between two notes of the time that a stage has taken."""


@dataclass(frozen=True)
class SliceScore:
    """The deciding metric on a part of the scored faces."""

    group: str
    """What the faces are told apart by, such as yaw."""
    name: str
    faces: int
    people: int
    value: float | None
    """None where the part has too few faces or people, or the metric is undefined on it."""
    error: float | None = None
    """Standard error from who was tested; None where it is not known."""


@dataclass(frozen=True, eq=False)
class Result:
    """What was measured of one arm and seed on one task."""

    rows: tuple[ResultRow, ...]
    """The deciding metric first."""
    slices: tuple[SliceScore, ...]
    draws: Mapping[str, np.ndarray]
    note: str = ""
    """Why there are no rows."""


class CellFolder:
    """One cell. Everything in it is written whole or not at all."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """
        Args:
            about: everything that decides its results, as JSON values.

        Raises:
            ConfigError: the folder holds a cell of other settings.
        """
        self.folder = folder
        asked = json.loads(json.dumps(dict(about)))
        path = folder / "cell.json"
        if path.is_file():
            stored = open_sealed_json(path)
            differing = [
                f"{name}: stored {stored.get(name)}, asked {asked.get(name)}"
                for name in sorted({*stored, *asked})
                if stored.get(name) != asked.get(name)
            ]
            if differing:
                raise ConfigError(
                    f"{folder} was begun with other settings ({'; '.join(differing)})",
                    expected="the same, because a finished cell is never measured again",
                    do=f"give the arm another name (--arms new=...), name another --out, or rm -r {folder}",
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, sealed_json(asked))

    def note(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep facts that follow from the cell's work, such as FLOPs spent."""
        replace_file(self.folder / f"{name}.json", json.dumps(dict(values), indent=1, sort_keys=True).encode())

    def noted(self, name: str) -> dict[str, Any]:
        """What was kept under that name; {} where nothing was."""
        return read_note(self.folder, name)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """Time a stage, adding to what it took before it was stopped."""
        watch = Stopwatch(self, name)
        try:
            yield watch
        finally:
            watch.keep()

    def has(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether the measurement is there.

        Raises:
            ConfigError: it is, but of something else.
        """
        path = self._place(name).with_name(_safe(name) + ".json")
        if not path.is_file():
            return False
        stored = open_sealed_json(path)["key"]
        asked = json.loads(json.dumps(dict(key)))
        if stored != asked:
            raise ConfigError(
                f"{path} was measured otherwise (stored {stored}, asked {asked})",
                expected="the same data and settings, because a finished cell is never measured again",
                do=f"name another --out, or rm {path}",
            )
        return True

    def put(self, name: str, key: Mapping[str, Any], result: Result) -> None:
        """Keep a measurement; the JSON comes last and makes it count."""
        path = self._place(name)
        path.parent.mkdir(exist_ok=True)
        data = io.BytesIO()
        arrays: dict[str, Any] = {f"m{i}": draws for i, draws in enumerate(result.draws.values())}
        np.savez_compressed(data, **arrays)
        replace_file(path.with_name(path.name + ".npz"), data.getvalue())
        values = {
            "key": dict(key),
            "metrics": list(result.draws),
            "rows": [row.to_line() for row in result.rows],
            "slices": [asdict(each) for each in result.slices],
            "note": result.note,
            "draws_sha256": hashlib.sha256(data.getvalue()).hexdigest(),
        }
        replace_file(path.with_name(path.name + ".json"), sealed_json(values))

    def get(self, name: str) -> Result | None:
        """A measurement; None where there is none."""
        return read_result(self.folder, name)

    def _place(self, name: str) -> Path:
        return self.folder / "results" / _safe(name)


def read_result(folder: Path, name: str) -> Result | None:
    """A measurement in a cell's folder; None where it has not been made.

    Raises:
        DataError: it is damaged.
    """
    path = folder / "results" / _safe(name)
    if not path.with_name(path.name + ".json").is_file():
        return None
    values = open_sealed_json(path.with_name(path.name + ".json"))
    stored = path.with_name(path.name + ".npz")
    content = stored.read_bytes() if stored.is_file() else b""
    if hashlib.sha256(content).hexdigest() != values["draws_sha256"]:
        raise DataError(f"{stored} is damaged", do=f"rm {path.with_name(path.name + '.json')}, and type the same again")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        draws = {metric: arrays[f"m{i}"] for i, metric in enumerate(values["metrics"])}
    rows = tuple(ResultRow.from_line(line, where=str(path)) for line in values["rows"])
    return Result(rows, tuple(SliceScore(**each) for each in values["slices"]), draws, values["note"])


def read_note(folder: Path, name: str) -> dict[str, Any]:
    """Facts that a cell keeps under a name, such as its seconds; {} where it keeps none."""
    path = folder / f"{name}.json"
    values: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return values


def read_alarms(folder: Path) -> list[tuple[str, int, str]]:
    """(stage, step, words) of every alarm that a cell's trainings raised."""
    found = []
    for stage in ("teacher", "start", "run"):
        path = folder / stage / "log.jsonl"
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            if b'"alarm"' in line:
                with suppress(ValueError):  # a row that was cut off when the run was killed
                    row = json.loads(line)
                    if row.get("event") == "alarm":
                        found.append((stage, int(row["step"]), str(row["message"])))
    return found


class Stopwatch:
    """Seconds that a stage of a cell has taken, over however many starts."""

    def __init__(self, cell: CellFolder, name: str) -> None:
        self._cell, self._name = cell, name
        self._before = float(cell.noted("seconds").get(name, 0.0))
        self._began = self._kept = time.monotonic()

    def tick(self) -> None:
        """Called often: keeps the time now and then, so that a killed process loses seconds."""
        if time.monotonic() - self._kept > _EVERY:
            self.keep()

    def keep(self) -> None:
        self._kept = time.monotonic()
        seconds = self._cell.noted("seconds")
        self._cell.note("seconds", {**seconds, self._name: round(self._before + self._kept - self._began, 1)})


def result_name(task: str, dataset: str, protocol: Mapping[str, Any]) -> str:
    """File name of a measurement: readable, and its own for every setting."""
    digest = hashlib.sha256(json.dumps(dict(protocol), sort_keys=True).encode()).hexdigest()[:8]
    return f"{task}-{dataset}-{protocol['name']}-{digest}"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
