"""Which tasks there are, as values: a cell is a task, a set and a protocol, and `measure` scores two encoders on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, SetMissing, did_you_mean
from fusiform.evaluate import Evaluation, compare_to, evaluate, input_size, learns
from fusiform.faces.align import template
from fusiform.protocols import Cosine, Protocol
from fusiform.public import public_tasks
from fusiform.report.verdicts import absent
from fusiform.results import ResultRow
from fusiform.tasks.action_units import ActionUnits
from fusiform.tasks.affect import Affect
from fusiform.tasks.age import Age
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.attributes import Attributes
from fusiform.tasks.binned_verification import BinnedVerification
from fusiform.tasks.expression import Expression
from fusiform.tasks.gaze import Gaze
from fusiform.tasks.head_pose import HeadPose
from fusiform.tasks.identification import Identification
from fusiform.tasks.parsing import Parsing
from fusiform.tasks.task import EmbeddingTask, Labelled, SupervisedTask
from fusiform.tasks.template_verification import TemplateVerification
from fusiform.tasks.verification import Verification

Task = SupervisedTask | EmbeddingTask


@dataclass(frozen=True)
class Cell:
    """One measurement: what is measured, and how far the encoder may move."""

    task: Task
    protocol: Protocol
    train_on: SupervisedTask | None = None
    """The same task on another set, which fits the head; the task's own people are tested."""
    found: bool = False
    """Whether its set was found by itself below the folder of photo sets, and not named: where it is not whole, it is
    said and left out, and the other measurements go on."""

    @property
    def name(self) -> str:
        after = "" if self.train_on is None else f" after {self.train_on.dataset}"
        return f"{self.task.name} on {self.task.dataset}{after}, {self.protocol.name}"


@dataclass(frozen=True, eq=False)
class Measured:
    """A cell with both encoders' results, or the row that says why there are none."""

    cell: Cell
    rows: tuple[ResultRow, ...]
    trained: Evaluation | None = None
    untrained: Evaluation | None = None


def cells(
    *,
    rendered: Path | None,
    root: Path | None = None,
    learned: Protocol,
    names: Sequence[str] = (),
    incomplete: bool = False,
) -> list[Cell]:
    """Every task with public labels at hand: on real photos first, then on a set of rendered faces.

    The public sets that are below `root` are found by themselves (`fusiform.public`).

    Args:
        rendered: set with exact labels; without one its tasks are left out.
        root: folder of the photo sets; FUSIFORM_DATA by default.
        learned: protocol of the tasks that fit a head; the others compare embeddings.
        names: only these tasks; gaze on rendered faces is measured only where it is named. ConfigError for a name that
            is none.
        incomplete: accept public sets whose counts are not the official ones.
    """
    tasks: list[Task] = [
        Alignment(root=root, incomplete=incomplete),
        Parsing(root=root, incomplete=incomplete),
        Verification(root=root, incomplete=incomplete),
        Identification(root=root, incomplete=incomplete),
        *public_tasks(root, incomplete=incomplete),
    ]
    if rendered is not None:
        tasks += [
            Alignment(dataset="rendered", path=rendered),
            Parsing(dataset="rendered", path=rendered),
            HeadPose(path=rendered),
            ActionUnits(path=rendered),
            Expression(path=rendered),
            Attributes(path=rendered),
            Affect(path=rendered),
            Age(path=rendered),
        ]
        if Gaze.name in names:  # where it is asked for: comparisons that exist do not change by it
            tasks.append(Gaze(path=rendered))
    known = {task.name for task in tasks} | ({Gaze.name} if rendered is not None else set())
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no task '{name}' here", do=did_you_mean(name, known))
    return [
        Cell(task, learned if hasattr(task, "encode") else Cosine(), found=task.dataset != "rendered")
        for task in tasks
        if not names or task.name in names
    ]


def readable(cell: Cell, size: int, say: Callable[[str], None]) -> Labelled | str:
    """The labelled faces of a cell, or why there are none, which is said.

    Raises:
        DataError: a set that was named is damaged.
    """
    try:
        return cell.task.read(size)
    except SetMissing as error:
        why = str(error)
    except DataError as error:
        if not cell.found:
            raise
        why = f"LEFT OUT, because the set is not whole. {error}"
    say(f"{cell.name}: not available. {why}")
    return why


def across(found: Sequence[Cell], dataset: str) -> list[Cell]:
    """Of the given cells those that can be tested after training on the set called `dataset`.

    Raises:
        ConfigError: no task here has that set and another one.
    """
    sources = {cell.task.name: cell.task for cell in found if cell.task.dataset == dataset and learns(cell.task)}
    made = []
    for cell in found:
        source = sources.get(cell.task.name)
        if source is not None and cell.task.dataset != dataset and learns(source):
            made.append(replace(cell, train_on=source))
    if not made:
        sets = sorted({cell.task.dataset for cell in found})
        raise ConfigError(
            f"No task here can train on '{dataset}' and test on another set",
            expected=f"a set of {', '.join(sets)}, for a task that has two of them",
            do="name both, such as --rendered SET --photos FOLDER --train-on rendered",
        )
    return made


def measure(
    cell: Cell,
    trained: Encoder,
    untrained: Encoder,
    *,
    date: str,
    seed: int = 0,
    say: Callable[[str], None],
    allow_mismatch: Sequence[str] = (),
    without: Collection[str] = (),
) -> Measured:
    """Score both encoders on one cell, on the same faces, and the difference in pairs.

    Args:
        without: keys of faces that are not scored, such as suspects of a leak; the rows say how many that were.

    A set that is not there gives a row that says what to type, and so does one that was found by itself and is damaged
    or not whole; every other error is raised.
    """
    task = cell.task
    if isinstance(task, BinnedVerification | TemplateVerification) and template(trained.crop.template, 112).points:
        # these sets come with their points, so the faces are cut as the encoder saw faces
        task = replace(task, template=trained.crop.template)
    faces = readable(replace(cell, task=task), input_size(trained, cell.protocol), say)
    if isinstance(faces, str):
        return Measured(cell, (absent(cell.task.name, cell.task.dataset, faces, date),))
    left_out = ""
    if without:
        suspect = np.isin(faces.keys.astype(str), sorted(without)) & ~np.isin(faces.split, ["train", "val"])
        if suspect.all() or not (~suspect & ~np.isin(faces.split, ["train", "val"])).any():
            raise DataError(f"No face of {cell.name} is left without the suspects", do="leave --without away")
        faces = faces.rows(np.flatnonzero(~suspect))
        left_out = f"WITHOUT {int(suspect.sum()):,} suspect faces of {len(suspect):,}"
    before, after = (
        evaluate(
            encoder,
            task,
            cell.protocol,
            date=date,
            seed=seed,
            faces=faces,
            train_on=cell.train_on,
            allow_mismatch=allow_mismatch,
        )
        for encoder in (untrained, trained)
    )
    differences = [compare_to(before, after, row.metric) for row in after.rows]
    rows = (*before.rows, *after.rows, *differences)
    if left_out:
        rows = tuple(replace(row, note="; ".join(filter(None, (left_out, row.note)))) for row in rows)
    return Measured(cell, rows, after, before)
