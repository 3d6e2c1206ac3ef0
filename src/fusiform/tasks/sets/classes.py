"""Label schemes that several sets are brought into."""

from __future__ import annotations

EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""AffectNet's order (Mollahosseini et al., 2017)."""
