"""Rendered faces: a world whose labels are exact and whose people do not exist.

>>> from fusiform.render import face, load_geometry, preset
>>> one = face(seed=0, index=7, dials=preset("pretrain"), people=100, size=112, geometry=load_geometry())  # doctest:
+SKIP
>>> one.image.shape, one.labels.pose["yaw"]  # doctest: +SKIP
"""

from __future__ import annotations

from fusiform.render.dials import Dials
from fusiform.render.encode import encode
from fusiform.render.heads import load_geometry
from fusiform.render.labels import FaceLabels, RenderedFace, to_lapa
from fusiform.render.presets import preset
from fusiform.render.scene import face
from fusiform.render.sets import render_set

__all__ = ["Dials", "FaceLabels", "RenderedFace", "encode", "face", "load_geometry", "preset", "render_set", "to_lapa"]
