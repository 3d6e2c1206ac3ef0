"""A rendered face as bytes."""

from __future__ import annotations

from typing import Any

from fusiform.faces.parsing_map import encode_map
from fusiform.render.labels import RenderedFace


def encode(face: RenderedFace) -> tuple[bytes, bytes, dict[str, Any]]:
    """JPEG at the quality the dials drew, PNG of the classes, and the labels as plain JSON values."""
    import simplejpeg

    jpeg = simplejpeg.encode_jpeg(  # type: ignore[attr-defined]
        face.image, quality=face.quality, colorspace="RGB", colorsubsampling="444" if face.quality > 90 else "420"
    )
    return bytes(jpeg), encode_map(face.parsing), face.labels.to_dict()
