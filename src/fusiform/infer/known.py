"""Tasks as a head's card names them: what is needed to read a head's output, and nothing about where labels lay."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusiform.errors import ConfigError, DataError, did_you_mean
from fusiform.infer.typed import TASKS
from fusiform.public import public_tasks
from fusiform.tasks.sets.folder import RENDERED
from fusiform.tasks.task import SupervisedTask

CLASSES: Mapping[str, str] = {
    "Alignment": "fusiform.tasks.alignment",
    "Parsing": "fusiform.tasks.parsing",
    "HeadPose": "fusiform.tasks.head_pose",
    "Gaze": "fusiform.tasks.gaze",
    "ActionUnits": "fusiform.tasks.action_units",
    "ActionUnitDetection": "fusiform.tasks.action_unit_detection",
    "Expression": "fusiform.tasks.expression",
    "Attributes": "fusiform.tasks.attributes",
    "FaceAttributes": "fusiform.tasks.face_attributes",
    "Affect": "fusiform.tasks.affect",
    "Age": "fusiform.tasks.age",
    "Forgery": "fusiform.tasks.forgery",
    "OwnPoints": "fusiform.tasks.own_labels",
    "OwnClasses": "fusiform.tasks.own_labels",
}
"""The only classes that a card can name: a card from a stranger imports nothing else."""
RENDERED_TASKS: Mapping[str, str] = {
    "alignment": "Alignment",
    "parsing": "Parsing",
    "head-pose": "HeadPose",
    "gaze": "Gaze",
    "action-units": "ActionUnits",
    "expression": "Expression",
    "attributes": "Attributes",
    "affect": "Affect",
    "age": "Age",
}
OWN = {"alignment": "OwnPoints", "classes": "OwnClasses"}
"""Tasks whose labels may be a file of one's own."""
ANSWERS: Mapping[str, tuple[str, str]] = {
    "Alignment": ("crop pixels", "x right, y down, pixel centres at .5"),
    "OwnPoints": ("crop pixels", "x right, y down, pixel centres at .5"),
    "Parsing": ("class of each crop pixel", "left and right are the subject's own"),
    "HeadPose": ("degrees", "yaw + the subject's left, pitch + up, roll + clockwise for the viewer"),
    "Gaze": (
        "degrees",
        "against the line from camera to face: yaw + the subject's left, pitch + up",
    ),
    "ActionUnits": ("FACS intensity", "0 absent to 5 strongest"),
    "ActionUnitDetection": ("probability", "0 absent to 1 present; present above .5"),
    "Expression": ("probability", "of each class; they add up to 1"),
    "OwnClasses": ("probability", "of each class; they add up to 1"),
    "Forgery": ("probability", "of each class; they add up to 1"),
    "Attributes": ("probability; age in years", "0 no to 1 yes; yes above .5"),
    "FaceAttributes": ("probability", "0 no to 1 yes; yes above .5"),
    "Affect": ("-1 to 1", "valence + pleasant, arousal + aroused"),
    "Age": ("years", "0 at birth"),
}
"""Unit and sign of each answer, as a card states them."""
_OF_DATA = ("path", "root", "photos", "train_faces", "test_faces", "faces", "jitter", "copies", "folds", "incomplete")
_OF_DATA_TOO = ("placed", "test_sequences", "frames", "soft_labels", "mirror_copies")


def class_of(name: str) -> type:
    """The task class that a card names. `DataError` for any that is not in `CLASSES`."""
    if name not in CLASSES:
        raise DataError(f"A head's card names the task class '{name}'", expected=", ".join(CLASSES))
    found: type = getattr(importlib.import_module(CLASSES[name]), name)
    return found


def described(task: SupervisedTask) -> dict[str, Any]:
    """A task as JSON: its class and the settings that decide what an output means; no folders, no counts."""
    settings = {
        field.name: getattr(task, field.name)
        for field in dataclasses.fields(task)  # type: ignore[arg-type]
        if field.init and field.name not in (*_OF_DATA, *_OF_DATA_TOO)
    }
    name = type(task).__name__
    class_of(name)
    return {"class": name, "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}}


def rebuilt(card: Mapping[str, Any]) -> SupervisedTask:
    """The task of a card, good for `encode`, `decode` and `mirror`; it has no labels to read.

    Raises:
        DataError: the card names no task, or settings that its class does not have.
    """
    kind, settings = class_of(str(card.get("class"))), card.get("settings")
    if not isinstance(settings, Mapping):
        raise DataError(f"A head's card has the settings {settings!r}", expected="a mapping")
    names = {field.name: field for field in dataclasses.fields(kind)}
    values = {k: _tupled(v) for k, v in settings.items()}
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise DataError(f"A head's card has the settings {unknown} of {kind.__name__}", expected=", ".join(names))
    if "path" in names and (settings.get("dataset", RENDERED) == RENDERED or kind.__name__.startswith("Own")):
        values["path"] = Path("labels-are-not-needed")
    try:
        task: SupervisedTask = kind(**values)
    except (TypeError, ConfigError) as error:
        raise DataError(f"A head's card describes no {kind.__name__}: {error}") from error
    return task


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def task_for(
    name: str,
    data: Path,
    *,
    dataset: str | None = None,
    photos: Path | None = None,
    scheme: str = "",
    incomplete: bool = False,
) -> SupervisedTask:
    """The task of that name on the labels at `data`.

    Args:
        name: one of `TASKS`, or "classes" for classes of one's own.
        data: a rendered set; a CSV or JSON file of one's own labels; or the folder of public sets.
        dataset: which of the public sets, where several have labels for the task.
        photos: folder that the file names of one's own labels are relative to; by default the label file's.
        scheme: of one's own points, such as ibug-68: faces may then be mirrored in training.
        incomplete: accept public sets whose counts are not the official ones; leave photos out that cannot be read.

    Raises:
        ConfigError: there is no such task, or not on these labels.
        DataError: there is nothing at `data`.
    """
    known = (*TASKS, "classes")
    if name not in known:
        raise ConfigError(f"There is no task '{name}' that a head can be trained for", do=did_you_mean(name, known))
    if not data.exists():
        raise DataError(f"There are no labels at '{data}'", expected="a rendered set, a CSV or JSON file, or a folder")
    if data.is_file():
        if name not in OWN:
            raise ConfigError(f"{name} cannot be read from the file '{data}'", expected=" or ".join(OWN))
        settings: dict[str, Any] = {"path": data, "photos": photos, "incomplete": incomplete}
        if name == "alignment" and scheme:
            settings["scheme"] = scheme
        own: SupervisedTask = class_of(OWN[name])(**settings)
        return own
    if (data / "set.json").is_file():
        if name not in RENDERED_TASKS:
            raise ConfigError(f"Rendered faces have no labels for {name}", expected=", ".join(RENDERED_TASKS))
        settings = {"path": data, "dataset": RENDERED}
        kind = class_of(RENDERED_TASKS[name])
        names = {field.name for field in dataclasses.fields(kind)}
        rendered: SupervisedTask = kind(**{k: v for k, v in settings.items() if k in names})
        return rendered
    found: list[Any] = [task for task in public_tasks(data, incomplete=incomplete) if task.name == name]
    if name in ("alignment", "parsing") and (data / "real" / "london").is_dir():
        found.append(class_of(RENDERED_TASKS[name])(root=data, incomplete=incomplete))
    if dataset is not None:
        found = [task for task in found if task.dataset == dataset]
    if not found:
        asked = "" if dataset is None else f" called '{dataset}'"
        raise DataError(
            f"No set{asked} at '{data}' has labels for {name}",
            expected="a rendered set (fusiform render --preset tasks), a label file, or the folder of a public set",
            do=f"fusiform doctor {data}",
        )
    if len(found) > 1:
        names_found = ", ".join(task.dataset for task in found)
        raise ConfigError(f"Several sets at '{data}' have labels for {name}", expected=names_found, do="add --dataset")
    public: SupervisedTask = found[0]
    return public
