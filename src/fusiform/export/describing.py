"""The card that travels in an exported file: what goes in, what comes out, and under which rights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusiform.encoder import Encoder
from fusiform.export.graph import Layout
from fusiform.export.outputs import Output, Precision
from fusiform.measurement import Crop

NOT_STATED = "not stated"


def describe(
    encoder: Encoder,
    crop: Crop,
    outputs: Sequence[Output],
    layout: Layout,
    precision: Precision,
    *,
    what: str = "encoder",
    head: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of a file made from an encoder, or from an encoder and the head of a task.

    Args:
        crop: how the faces that it is shown are cropped, at the size of its input.
        head: the head's own card.
    """
    config, side = encoder.vit.config, crop.size
    shape: list[str | int] = ["B", side, side, 3] if layout == "nhwc" else ["B", 3, side, side]
    card: dict[str, Any] = {
        "what": what,
        "name": encoder.name,
        "encoder_sha256": encoder.sha256,
        "pooling": encoder.pooling,
        "precision": precision,
        "input": {
            "name": "faces",
            "layout": layout,
            "shape": shape,
            "size": side,
            "type": "uint8",
            "colour": "rgb",
            "inside": {"divided_by": 255, "mean": list(config.pixel_mean), "std": list(config.pixel_std)},
        },
        "crop": crop.to_dict(),
        "outputs": [output.to_dict() for output in outputs],
        "licence": licence(encoder.card),
        "encoder": dict(encoder.card),
    }
    return card if head is None else card | {"head": dict(head)}


def licence(card: Mapping[str, Any]) -> str:
    """Of an encoder: that of the file it was imported from, or those of the faces it was trained on."""
    if card.get("licence"):
        return str(card["licence"])
    found = card.get("licences_of_faces")
    if isinstance(found, Mapping) and found:
        return "; ".join(
            f"{name} ({count:,} faces)" if isinstance(count, int) else str(name) for name, count in found.items()
        )
    return NOT_STATED
