"""A run while it goes on, as one page: alarms, where it stands, and a chart for every number that is watched.

The page is made anew from config.json and log.jsonl at each request. It loads nothing and runs no script; the browser
asks for it again by itself.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiform import __version__
from fusiform.errors import DataError
from fusiform.report import figures
from fusiform.report.charts import Tick, nice_ticks, thinned
from fusiform.report.page import environment
from fusiform.report.runs import METHOD_NAMES
from fusiform.run import Run

WIDTH, HEIGHT = 400.0, 150.0
PICTURES = "watched"
"""Folder of the run in which pictures of looks lie."""


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    label: str
    points: tuple[tuple[float, float], ...]
    """(step, value)."""

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True)
class Panel:
    """One chart: what it is, what is good, and its lines."""

    title: str
    words: str
    lines: tuple[Drawn, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


@dataclass(frozen=True)
class Drawn:
    label: str
    path: str
    last: str
    where: tuple[float, float]
    """The last point, in the chart's units."""


@dataclass(frozen=True)
class Live:
    """What the page's template shows."""

    title: str
    about: str
    state: str
    fusiform: str
    refresh: int
    tiles: tuple[tuple[str, str], ...]
    alarms: tuple[tuple[int | None, str], ...]
    events: tuple[str, ...]
    panels: tuple[Panel, ...]
    picture: str
    """Data URL of the newest picture, or nothing."""
    picture_words: str


PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Loss", "What is minimised, on the faces trained on.", (("loss", "loss"),)),
    (
        "Rank of the features (RankMe)",
        "How many directions the watched faces fill. It may fall at first; near 1 all faces look alike.",
        (("rank", "face"), ("rank_eyes", "eyes"), ("rank_mouth", "mouth"), ("rank_skin", "skin")),
    ),
    (
        "Spread of the features",
        "0: all faces look alike. 1: they point everywhere.",
        (
            *(("spread", "encoder"), ("batch_spread", "in training")),
            *(("teacher_projector_spread", "teacher"), ("teacher_head_spread", "teacher")),
        ),
    ),
    (
        "What targets tell",
        "Nats that the teacher's answers tell of which face they belong to. 0: it says the same of all.",
        (("batch_information", "nats"),),
    ),
    (
        "Identity",
        "Share of faces whose nearest other face shows the same person, and what guessing scores. Higher is better.",
        (("identity", "nearest face"), ("identity_chance", "guessing")),
    ),
    (
        "Attributes",
        "Balanced accuracy of the nearest other people's answers; guessing scores 0.5. Higher is better.",
        (("attributes", "neighbours"),),
    ),
    (
        "Landmarks",
        "Mean error of a linear head, as a share of the points' box, and that of the mean shape. Lower is better.",
        (("landmarks", "linear head"), ("landmarks_mean_shape", "mean shape")),
    ),
    (
        "Parsing",
        "Mean IoU of a linear head on patch tokens, and of the usual class at each place. Higher is better.",
        (("parsing", "linear head"), ("parsing_by_place", "usual class")),
    ),
    (
        "Student and teacher",
        "Mean cosine between their features of the same face.",
        (("teacher_agreement", "agreement"),),
    ),
    (
        "Lag of the teacher",
        "Steps that the student is ahead of it, told from their features. Below 3 it has nothing to teach.",
        (("teacher_lag", "steps"),),
    ),
    (
        "Distance to the teacher",
        "Between their weights, as a share of the student's. 0: the teacher is the student.",
        (("teacher_distance", "distance"),),
    ),
    ("Codes in use", "How many codes the likeliest ones amount to.", (("code_perplexity", "perplexity"),)),
    ("Dead codes", "Codes that were no patch's candidate in the last epoch.", (("dead_codes", "dead"),)),
    ("Gradient norm", "Before clipping. Steady is good; a jump is not.", (("gradient_norm", "norm"),)),
    ("Learning rate", "As scheduled.", (("lr", "rate"),)),
    ("Speed", "Faces per second, over this process's time.", (("faces_per_second", "faces/s"),)),
)
_PLACED = {name for _, _, lines in PANELS for name, _ in lines}


def live_page(folder: Path, *, refresh: int, age: float | None) -> str:
    """The page as HTML.

    Args:
        folder: the run's.
        refresh: seconds until the browser asks again; 0: it does not.
        age: seconds since the log grew; None: not known.

    Raises:
        DataError: it is no run.
    """
    return environment().get_template("live.html.j2").render(page=read(folder, refresh=refresh, age=age))


def read(folder: Path, *, refresh: int, age: float | None) -> Live:
    stored = Run.read_config(folder)
    try:
        rows = Run.read_log(folder)
    except DataError:
        rows = []  # the first row is still to come
    config = _mapping(stored.get("config"))
    done = (folder / "done.json").exists()
    values = [_flat(row) for row in rows if "event" not in row]
    method = str(stored.get("method", "")).rpartition(".")[2].removesuffix("Config")
    picture = newest_picture(folder)
    return Live(
        title=f"{METHOD_NAMES.get(method, method) or 'A run'}: {folder.resolve().name}",
        about=str(config.get("about", "")),
        state=_state(rows, done, age),
        fusiform=__version__,
        refresh=0 if done else refresh,
        tiles=_tiles(values, config),
        alarms=tuple((_step(r), str(r.get("message", ""))) for r in rows if r.get("event") == "alarm"),
        events=tuple(
            figures.hide_places(str(r.get("message") or r["event"]))
            for r in rows
            if "event" in r and r["event"] != "alarm"
        ),
        panels=tuple(panels(values)),
        picture=f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}" if picture else "",
        picture_words=f"After step {int(picture.stem.removeprefix('step-')):,}." if picture else "",
    )


def newest_picture(folder: Path) -> Path | None:
    """The newest of RUN/watched/step-*.png."""
    return max((folder / PICTURES).glob("step-*.png"), default=None)


def panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Those that have two points or more; parts of the loss come last, each in a chart of its own."""
    extra = sorted({name for row in rows for name in row} - _PLACED - _NO_CHART)
    extra = [n for n in extra if not n.endswith(("_rank", "_spread"))]
    wanted = [*PANELS, *((name.replace("_", " "), "As the method logs it.", ((name, name),)) for name in extra)]
    return [p for title, words, names in wanted if (p := panel(title, words, _series(rows, names))) is not None]


_NO_CHART = {
    *("step", "epoch", "seconds", "faces", "codes", "likeness", "teacher_length", "attributes_asked", "not_finite"),
    *("batch_likeness", "batch_momentum", "batch_weight", "picture_spread", "red_faces"),
}


def panel(title: str, words: str, series: Sequence[Series]) -> Panel | None:
    """The chart of these lines on common axes; None where no line has two points."""
    series = [s for s in series if len(s.points) > 1]
    if not series:
        return None
    drawn = [thinned(list(s.points)) for s in series]
    values = [y for points in drawn for _, y in points]
    ticks = nice_ticks(min(values), max(values), 3)
    low, high, end = ticks[0], ticks[-1], max(p[0] for points in drawn for p in points) or 1.0
    x_ticks = [t for t in nice_ticks(0.0, end, 4) if t <= end * 1.001]

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return WIDTH * point[0] / end, HEIGHT * (high - point[1]) / (high - low)

    return Panel(
        title=title,
        words=words,
        lines=tuple(
            Drawn(
                s.label, "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in map(at, points)), short(s.last), at(points[-1])
            )
            for s, points in zip(series, drawn, strict=True)
        ),
        x=tuple(Tick(100 * t / end, f"{t:,.0f}") for t in x_ticks),
        y=tuple(Tick(100 * (high - t) / (high - low), short(t)) for t in ticks),
    )


def short(value: float) -> str:
    """Three or four digits, whatever the size."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2g}"


def _series(rows: Sequence[Mapping[str, Any]], names: Sequence[tuple[str, str]]) -> list[Series]:
    found = []
    for name, label in names:
        points = tuple(
            (float(r["step"]), float(r[name])) for r in rows if _finite(r.get(name)) and _finite(r.get("step"))
        )
        if points:
            found.append(Series(label, points))
    return found


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    heard = {f"batch_{name}": value for name, value in _mapping(row.get("batch")).items()}
    return {**{k: v for k, v in row.items() if k not in ("probes", "batch")}, **_mapping(row.get("probes")), **heard}


def _tiles(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    last: dict[str, float] = {}
    for row in rows:
        last |= {name: float(value) for name, value in row.items() if _finite(value)}
    epochs = _mapping(config.get("optim")).get("epochs")
    tiles = []
    if "step" in last:
        tiles.append((f"{last['step'] + 1:,.0f}", "steps done"))
    if "epoch" in last:
        of = f" of {epochs:.4g}" if _finite(epochs) and epochs is not None else ""
        tiles.append((f"{last['epoch']:.1f}{of}", "epochs"))
    if "loss" in last:
        tiles.append((short(last["loss"]), "loss"))
    if "faces_per_second" in last:
        tiles.append((f"{last['faces_per_second']:,.0f}", "faces per second"))
    if "rank" in last:
        tiles.append((short(last["rank"]), f"rank, of {min(int(last.get('faces', 0)), _width(config)):,} at most"))
    spent = sum(float(r["seconds"]) for r in rows if _finite(r.get("seconds")))
    if spent:
        tiles.append((figures.span(spent), "spent on looking"))
    return tuple(tiles)


def _width(config: Mapping[str, Any]) -> int:
    width = _mapping(config.get("vit")).get("width")
    return width if isinstance(width, int) else 10**9


def _state(rows: Sequence[Mapping[str, Any]], done: bool, age: float | None) -> str:
    if done:
        return "The run is finished."
    last = next((r for r in reversed(rows) if r.get("event") != "alarm"), None)
    if last is not None and last.get("event") == "stopped":
        return f"The run has stopped: {figures.hide_places(str(last.get('message', '')))}"
    if last is None:
        return "The run has not logged a row yet."
    return f"Under way; the last row was written {figures.span(age)} ago." if age is not None else "Under way."


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _step(row: Mapping[str, Any]) -> int | None:
    step = row.get("step")
    return step if isinstance(step, int) else None


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
