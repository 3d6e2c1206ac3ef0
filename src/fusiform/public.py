"""Which tasks the public sets in a folder allow: a task value for every set that is really there.

Sets that are not there are not listed; `fusiform doctor FOLDER --missing` says where to ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fusiform.errors import SetMissing
from fusiform.tasks import alignment, parsing
from fusiform.tasks.action_unit_detection import ActionUnitDetection
from fusiform.tasks.action_units import ActionUnits
from fusiform.tasks.affect import Affect
from fusiform.tasks.age import Age
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.binned_verification import BinnedVerification
from fusiform.tasks.expression import Expression
from fusiform.tasks.face_attributes import FaceAttributes
from fusiform.tasks.forgery import Forgery
from fusiform.tasks.gaze import Gaze
from fusiform.tasks.head_pose import HeadPose
from fusiform.tasks.parsing import Parsing
from fusiform.tasks.sets import ijb, insightface, oulu
from fusiform.tasks.sets.folder import data_root
from fusiform.tasks.sets.known import layout
from fusiform.tasks.sets.layout import locate
from fusiform.tasks.task import EmbeddingTask, SupervisedTask
from fusiform.tasks.template_verification import TemplateVerification

Task = SupervisedTask | EmbeddingTask
Make = Callable[[Path, bool], list[Task]]


def _affectnet(root: Path, incomplete: bool) -> list[Task]:
    return [
        Expression(dataset="affectnet-8", root=root, incomplete=incomplete),
        Expression(dataset="affectnet-7", root=root, incomplete=incomplete),
        Affect(dataset="affectnet-8", root=root, incomplete=incomplete),
    ]


TASKS: Mapping[tuple[str, ...], Make] = {
    **{(name,): lambda r, i, n=name: [Alignment(dataset=n, root=r, incomplete=i)] for name in alignment.PUBLIC},  # type: ignore[misc]
    **{(name,): lambda r, i, n=name: [Parsing(dataset=n, root=r, incomplete=i)] for name in parsing.PUBLIC},  # type: ignore[misc]
    ("300w-lp", "aflw2000-3d"): lambda r, i: [HeadPose(r, dataset="aflw2000-3d", incomplete=i)],
    ("300w-lp", "biwi"): lambda r, i: [HeadPose(r, dataset="biwi", incomplete=i)],
    ("mpiifacegaze",): lambda r, i: [Gaze(r, dataset="mpiifacegaze", incomplete=i)],
    ("gaze360",): lambda r, i: [Gaze(r, dataset="gaze360", incomplete=i)],
    ("celeba",): lambda r, i: [FaceAttributes("celeba", r, incomplete=i)],
    ("lfwa",): lambda r, i: [FaceAttributes("lfwa", r, incomplete=i)],
    ("maad-face",): lambda r, i: [FaceAttributes("maad-face", r, incomplete=i)],
    ("raf-db",): lambda r, i: [Expression(dataset="raf-db", root=r, incomplete=i)],
    ("ferplus",): lambda r, i: [Expression(dataset="ferplus", root=r, incomplete=i)],
    ("affectnet",): _affectnet,
    ("affectnet-tables",): _affectnet,
    ("bp4d",): lambda r, i: [
        ActionUnitDetection("bp4d", r, incomplete=i),
        ActionUnits(dataset="bp4d", root=r, incomplete=i),
    ],
    ("disfa",): lambda r, i: [
        ActionUnitDetection("disfa", r, incomplete=i),
        ActionUnits(dataset="disfa", root=r, incomplete=i),
    ],
    ("aff-wild2",): lambda r, i: [Affect(dataset="aff-wild2", root=r, incomplete=i)],
    ("utkface",): lambda r, i: [Age(dataset="utkface", root=r, incomplete=i)],
    ("morph-2",): lambda r, i: [Age(dataset="morph-2", root=r, incomplete=i)],
    ("faceforensics-c23",): lambda r, i: [Forgery("faceforensics", r, incomplete=i)],
    ("faceforensics-c23", "celeb-df"): lambda r, i: [Forgery("celeb-df", r, incomplete=i)],
    **{(n,): lambda r, i, n=n: [BinnedVerification(n, r, incomplete=i)] for n in insightface.FILES},  # type: ignore[misc]
    **{(n,): lambda r, i, n=n: [TemplateVerification(n, r, incomplete=i)] for n in ijb.GALLERIES},  # type: ignore[misc]
    ("oulu-npu",): lambda r, i: [Forgery("oulu-npu", r, protocol=p, incomplete=i) for p in oulu.PROTOCOLS],
}
"""Sets that must be there -> what can then be measured, given the folder of all sets and whether incomplete sets are
accepted."""


def public_tasks(root: Path | None = None, *, incomplete: bool = False) -> list[Task]:
    """A task for every public set below a folder.

    Args:
        root: the folder of all sets, or of one; FUSIFORM_DATA by default.
        incomplete: accept sets whose counts are not the official ones; results then say what is missing.
    """
    folder = data_root(root)
    found: list[Task] = []
    if not folder.is_dir():
        return found
    for names, make in TASKS.items():
        if all(_there(name, folder) for name in names):
            found += [task for task in make(folder, incomplete) if task not in found]
    return found


def _there(name: str, folder: Path) -> bool:
    try:
        locate(layout(name), folder)
    except SetMissing:
        return False
    return True
