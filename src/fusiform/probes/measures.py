"""Numbers about features that need no label.

Shapes: B faces, D channels, N patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusiform.nn.ranks import local

LEAST_CHANGE = 1e-4
"""One minus the cosine below which rounding in bf16 cannot be told from change."""

COLOURED = 6.0
"""Grey levels between a picture's channels above which it has colour."""


def rankme(features: Tensor) -> float:
    """How many directions the features fill, from 1 to min(B, D): the exponential of the entropy of the singular
    values (Garrido, Balestriero, Najman, LeCun, "RankMe: Assessing the Downstream Performance of Pretrained
    Self-Supervised Representations by Their Rank", ICML 2023, equation 1).

    Args:
        features: (B, D). They are not centred, as in the paper. Compare numbers of the same faces only: more faces
            have a higher rank.
    """
    values = _singular_values(features)
    shares = values / values.sum().clamp_min(1e-30) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def _singular_values(features: Tensor) -> Tensor:
    """From the smaller of the two Gram matrices, in double precision: features of very many channels stay cheap."""
    x = features.double()
    x = x / x.norm().clamp_min(1e-30)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return torch.as_tensor(torch.linalg.eigvalsh(gram)).clamp_min(0).sqrt()


def spread(features: Tensor) -> float:
    """Standard deviation over the faces of features of length 1, times the root of D: 1 where they point everywhere,
    0 where all faces look the same (Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021, 4.1).

    Args:
        features: (B, D).
    """
    unit = nn.functional.normalize(features.double(), dim=-1)
    return float(unit.std(0, unbiased=False).mean() * features.shape[-1] ** 0.5)


def likeness(features: Tensor) -> float:
    """Mean cosine between the features of two different faces, (B, D): 1 where all faces look the same."""
    unit = nn.functional.normalize(features.double(), dim=-1)
    B = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / max(B * (B - 1), 1))


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """Mean cosine between two features of the same face, both (B, D)."""
    return float(nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=-1).mean())


def lag(agreement_with_teacher: float, agreement_with_past: float, steps: int) -> float | None:
    """How many steps a teacher is behind its student, told from how much the student's features changed in `steps`
    steps; None where they hardly changed.

    One minus a cosine grows at most with the square of the way, so the root makes the lag rather too long than too
    short, and a slow teacher is never taken for a copy.
    """
    changed, apart = 1 - agreement_with_past, max(1 - agreement_with_teacher, 0.0)
    return steps * (apart / changed) ** 0.5 if changed > LEAST_CHANGE else None


@torch.no_grad()
def distance(student: nn.Module, teacher: nn.Module) -> float:
    """How far a teacher's parameters are from the student's, as a share of the student's length: 0 where they are the
    same."""
    theirs = [local(p) for p in teacher.parameters()]
    ours = [local(p) for p in student.parameters()]
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(ours, theirs, strict=True))
    return float((apart / max(sum(float(a.double().square().sum()) for a in ours), 1e-30)) ** 0.5)


@torch.no_grad()
def length(module: nn.Module) -> float:
    """Of all parameters as one vector: that of a teacher that follows changes from look to look."""
    return float(sum(float(local(p).double().square().sum()) for p in module.parameters()) ** 0.5)


def region_features(patch_tokens: Tensor, regions: Tensor, wanted: tuple[int, ...]) -> Tensor | None:
    """Mean token of the patches that lie in one of the regions: (B, N, D) and (N,) -> (B, D), None where no patch
    does."""
    inside = torch.isin(regions, torch.tensor(wanted))
    return patch_tokens[:, inside].mean(1) if bool(inside.any()) else None


def pictures(images: Tensor) -> dict[str, float]:
    """What is plain about pictures of faces, whatever looks at them: how many grey levels a pixel differs between two
    of them (`picture_spread`); how strong their mean picture is beside that (`picture_shape`), in which eyes and mouth
    show where faces are aligned, 0 where pictures have nothing in common; and how many of those that have colour are
    more red than blue in the middle (`red_faces`), which skin is, left out where fewer than eight have colour.

    Args:
        images: (B, 3, H, W) uint8, RGB; B > 1.
    """
    values = {"picture_spread": float(images.float().std(0).mean())}
    grey = images.float().mean(1)
    apart = float(grey.std(0).mean())
    if apart > 0:  # the mean of B pictures of noise has a B-th of their variance
        values["picture_shape"] = max(float(grey.mean(0).var()) / apart**2 - 1 / len(grey), 0.0) ** 0.5
    height, width = images.shape[-2:]
    middle = images[..., height // 4 : -(height // 4), width // 4 : -(width // 4)].float().mean((-1, -2))
    coloured = middle[middle.amax(1) - middle.amin(1) > COLOURED]
    if len(coloured) >= 8:
        values["red_faces"] = float((coloured[:, 0] > coloured[:, 2]).float().mean())
    return values
