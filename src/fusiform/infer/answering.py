"""A trained head's outputs as typed answers, face by face."""

from __future__ import annotations

from collections.abc import Sequence

from fusiform.faces.align import Placement
from fusiform.infer.finding import clockwise
from fusiform.infer.heads import TaskHead
from fusiform.infer.results import Answer
from fusiform.infer.seen import Seen
from fusiform.infer.typed import HeadWords, typed
from fusiform.tasks.task import Array, Classified, Pointed


def words_of(head: TaskHead) -> HeadWords:
    """What has to be known to read what it says."""
    scheme = head.task.points if isinstance(head.task, Pointed) else ""
    return HeadWords(head.name, head.kind, head.labels, head.unknown, scheme, head.task.name, head.results)


def answers(head: TaskHead, seen: Seen, placements: Sequence[Placement]) -> list[Answer]:
    """What a head says about n faces.

    Args:
        seen: the crops, at the size and with the warp that the head asks for.
        placements: where each of them lies in its photo, at that size.
    """
    outputs = head.outputs(seen)
    said: Array
    if isinstance(head.task, Classified):
        said = head.probabilities(outputs)
    else:
        said = head.decode(outputs, clockwise(list(placements)))
    words = words_of(head)
    return [typed(words, row, placement) for row, placement in zip(said, placements, strict=True)]
