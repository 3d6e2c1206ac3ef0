"""fusiform: self-supervised facial representation learning, from a folder of photos to a measured face encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusiform.infer.analyzer import Analyzer

__version__ = "0.1.0"


def load(model: Any, **options: Any) -> Analyzer:
    """An analyzer of photos: `fusiform.load("MODEL")("photo.jpg")`; options as for `fusiform.infer.analyzer.load`."""
    from fusiform.infer.analyzer import load as load_analyzer

    return load_analyzer(model, **options)
