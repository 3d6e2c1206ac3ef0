"""LAFS recipes (docs/methods/lafs.md lists where release and ours differ)."""

from __future__ import annotations


def landmark_weight(epoch: int) -> float:
    """Weight of the landmark regulariser in epoch `epoch` of the release's fine-tuning."""
    return next((weight for until, weight in ((8, 1000.0), (14, 100.0), (21, 1.0), (28, 0.11)) if epoch < until), 0.0)
