"""`fusiform evaluate`, `fusiform report`: a run's encoder measured beside the untrained one, and a page about it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fusiform.cli import parse, today
from fusiform.errors import ConfigError
from fusiform.protocols import KNN, AttentiveProbe, FineTune, LinearProbe, Protocol
from fusiform.shots import Fraction, PerClass, Shots, list_sha256

if TYPE_CHECKING:
    from fusiform.encoder import Encoder
    from fusiform.suite import Measured

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class EvaluateFlags:
    """Measure an encoder on every face task there is data for. The untrained encoder of the same architecture is scored
    beside it, on the same faces, so that the gain from training is visible; intervals come from resampling people."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run, or an encoder's folder."""
    rendered: Path | None = None
    """Set of rendered faces with exact labels (fusiform render --preset tasks); its tasks are left out without it."""
    photos: Path | None = None
    """Folder of the labelled photo sets; without it the one that FUSIFORM_DATA names."""
    tasks: tuple[str, ...] = ()
    """Only these, such as alignment parsing verification; all by default."""
    protocol: Literal["linear", "knn", "attentive", "fine-tune"] = "linear"
    """How far the encoder may move in the tasks that learn a head."""
    linear: LinearProbe = field(default_factory=LinearProbe)
    """Settings of --protocol linear."""
    knn: KNN = field(default_factory=KNN)
    """Settings of --protocol knn."""
    attentive: AttentiveProbe = field(default_factory=AttentiveProbe)
    """Settings of --protocol attentive."""
    fine_tune: FineTune = field(default_factory=FineTune)
    """Settings of --protocol fine-tune."""
    seed: int = 0
    """Decides the untrained encoder's weights, and what trained heads draw."""
    fraction: float | None = None
    """Share of the training faces whose labels may be used, in whole people; the list is the same for all encoders and
    is written beside the rows."""
    per_class: int | None = None
    """So many labelled training faces of each class instead, in tasks with one class per face."""
    draw: int = 0
    """Another draw of the few labelled faces."""
    train_on: str | None = None
    """Name of a set, such as rendered: heads are fitted there and tested on the task's other sets."""
    allow_mismatch: tuple[str, ...] = ()
    """Measure although the faces differ from those the encoder was made for in: crop, colour, range, class-map. The
    rows say so."""
    without: Path | None = None
    """A leaks.json (fusiform leaks): its suspect faces are not scored, and the rows say so."""
    incomplete: bool = False
    """Accept public sets whose counts are not the official ones (fusiform doctor FOLDER), and leave photos out that
    cannot be read. The rows count both."""
    out: Path | None = None
    """Where the rows are added; RUN/results.jsonl by default."""

    @property
    def learned(self) -> Protocol:
        choices: dict[str, LinearProbe | KNN | AttentiveProbe | FineTune] = {
            "linear": self.linear,
            "knn": self.knn,
            "attentive": self.attentive,
            "fine-tune": self.fine_tune,
        }
        return replace(choices[self.protocol], shots=self.shots)

    @property
    def shots(self) -> Shots | None:
        if self.fraction is not None and self.per_class is not None:
            raise ConfigError(
                f"Both --fraction {self.fraction:g} and --per-class {self.per_class} limit the labels", expected="one"
            )
        if self.per_class is not None:
            return PerClass(self.per_class, self.draw)
        return None if self.fraction is None else Fraction(self.fraction, self.draw)


def evaluate(words: list[str]) -> int:
    flags = parse(EvaluateFlags, words, "evaluate")
    from fusiform.leaks import read_suspects
    from fusiform.report import table_text
    from fusiform.suite import across, cells

    folder = encoder_folder(flags.run)
    chosen = cells(
        rendered=flags.rendered,
        root=flags.photos,
        learned=flags.learned,
        names=flags.tasks,
        incomplete=flags.incomplete,
    )
    measured = measure_all(
        folder,
        chosen if flags.train_on is None else across(chosen, flags.train_on),
        out=flags.out or flags.run / RESULTS,
        seed=flags.seed,
        allow_mismatch=flags.allow_mismatch,
        without=() if flags.without is None else read_suspects(flags.without),
        rendered=flags.rendered,
    )
    rows = [row for each in measured for row in each.rows]
    sys.stdout.write(table_text(rows) + "\n")
    if flags.rendered is None and all(row.value is None for row in rows):
        sys.stdout.write(
            "No labelled set is here. Rendered faces need none:\n"
            "    fusiform render --faces 2000 --out RENDERED\n"
            f"    fusiform evaluate {flags.run} --rendered RENDERED\n"
        )
    return 0


def measure_all(
    folder: Path,
    cells: Sequence[object],
    *,
    out: Path,
    seed: int = 0,
    allow_mismatch: Sequence[str] = (),
    without: Collection[str] = (),
    rendered: Path | None = None,
) -> list[Measured]:
    """Score the encoder in `folder` and the untrained one on every cell; rows are added to `out` cell by cell.

    An encoder with a whitening is set beside an untrained one that has its own, measured on the training people of
    `rendered`; without that set the untrained one's mean of patch tokens stays as it is.

    Where labels were limited to a few faces, their list is written into `labelled/` beside the rows.
    """
    from fusiform.encoder import Encoder
    from fusiform.faces.faceset import FaceSet
    from fusiform.progress import Progress
    from fusiform.results import append_rows
    from fusiform.suite import Cell, measure
    from fusiform.whitening import measure_whitening
    from fusiform.world import tune_cpu

    trained: Encoder = Encoder.load(folder)
    tune_cpu(next(trained.vit.parameters()).device)
    untrained = Encoder.untrained(trained.vit.config, trained.crop, seed, trained.pooling)
    if rendered is not None:
        measure_whitening(untrained, FaceSet.open(rendered), "train")
    measured = []
    with Progress(len(cells), "tasks", "evaluating") as bar:
        for cell in cells:
            assert isinstance(cell, Cell)
            how: dict[str, Any] = {"allow_mismatch": allow_mismatch, "without": without}
            result = measure(cell, trained, untrained, date=today(), seed=seed, say=_say, **how)
            if result.trained is not None and result.trained.labelled:
                _write_list(out.parent / "labelled", result.trained.labelled)
            append_rows(out, result.rows)
            measured.append(result)
            bar.advance(1, last=cell.task.name)
    return measured


def _write_list(folder: Path, lists: Sequence[Sequence[str]]) -> Path:
    """The faces that had labels, a line each: round and key. The file's name is the beginning of the list's hash."""
    from fusiform.durable import replace_file

    path = folder / f"{list_sha256(lists)[:12]}.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{number}\t{key}\n" for number, keys in enumerate(lists) for key in keys]
    replace_file(path, "".join(lines).encode())
    return path


def encoder_folder(path: Path) -> Path:
    """The encoder's folder, given itself or a run."""
    for folder in (path / "encoder", path):
        if (folder / "encoder.json").is_file():
            return folder
    raise ConfigError(
        f"{path} has no encoder",
        expected="a finished run or an encoder's folder",
        do="type the run's `fusiform pretrain` again: it goes on and ends with an encoder",
    )


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


@dataclass(frozen=True)
class ReportFlags:
    """Write one self-contained HTML page about a run: curves, pictures, results with intervals, data, how to repeat."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    faces: Path | None = None
    """The set it was trained on, for its card."""
    out: Path | None = None
    """The page; RUN/report.html by default."""
    live: bool = False
    """Serve a page about the run while it goes on, to this machine only, until Ctrl-C."""
    port: int = 8765
    """Of that page; 0: any that is free."""
    refresh: int = 5
    """Seconds after which the browser asks for it again."""


def report(words: list[str]) -> int:
    flags = parse(ReportFlags, words, "report")
    if flags.live:
        return _live(flags.run, flags.port, flags.refresh)
    from fusiform.report import report_command

    page = report_command(flags.run, flags.out, date=today(), set_folder=flags.faces)
    sys.stdout.write(f"{page}\n")
    return 0


def _live(run: Path, port: int, refresh: int) -> int:
    from fusiform.report.live_server import server

    if refresh < 1:
        raise ConfigError(f"--refresh {refresh}", expected="1 second or more", do="--refresh 5")
    with server(run, port=port, refresh=refresh) as page:
        sys.stdout.write(f"http://{page.server_address[0]!s}:{page.server_address[1]} shows {run}; Ctrl-C ends it\n")
        sys.stdout.flush()
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
    return 0
