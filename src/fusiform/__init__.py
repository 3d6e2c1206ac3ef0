"""fusiform: self-supervised facial representation learning, from a folder of photos to a measured face encoder."""

from __future__ import annotations

import typing as _typing

if _typing.TYPE_CHECKING:
    from fusiform.infer.analyzer import Analyzer

__version__ = "0.1.0"


def load(model: _typing.Any, **options: _typing.Any) -> Analyzer:
    """An analyzer of photos: `fusiform.load("MODEL")("photo.jpg")`; options as for `fusiform.infer.analyzer.load`."""
    from fusiform.infer.analyzer import load as load_analyzer

    return load_analyzer(model, **options)
