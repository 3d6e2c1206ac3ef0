"""Forgery and spoof: is the face in a video genuine, or made by a computer, printed or replayed?

A frame gets a score, larger meaning forged; a video's score is the mean over its frames, and videos are what is
counted, also in the intervals. AUC and EER need no threshold. HTER and ACER do, and it must not be chosen on the faces
that are scored: it is the EER threshold of the set's development people (OULU-NPU's "Dev", FaceForensics++'s "val").
Those people stand among the scored rows, marked `extra["dev"]`, so that a resample draws them too and the interval
covers the choice of the threshold; their errors count in no score.

ISO/IEC 30107-3: APCER is the share of one kind of attack that is taken for genuine, the worst kind counts; BPCER the
share of genuine videos taken for attacks; ACER their mean. HTER is the mean of the error rates over all attacks and
over all genuine videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.sets import celeb_df, faceforensics, oulu
from fusiform.tasks.sets.clips import GENUINE, Clips, listing_of
from fusiform.tasks.sets.listing import labelled
from fusiform.tasks.task import Array, Features, Labelled

SETS = ("faceforensics", "celeb-df", "oulu-npu")
CLASSES = (GENUINE, "forged")


@dataclass(frozen=True)
class Forgery:
    """Genuine or not, from all patch tokens. On Celeb-DF the head is trained on FaceForensics++: a test across sets."""

    dataset: str = "faceforensics"
    """"faceforensics", "celeb-df" or "oulu-npu"."""
    root: Path | None = None
    """Folder of the public sets; FUSIFORM_DATA by default."""
    compression: Literal["raw", "c23", "c40"] = "c23"
    """Of FaceForensics++."""
    protocol: str = "1"
    """Of OULU-NPU: 1, 2, 3_1 to 3_6, 4_1 to 4_6."""
    frames: int = 10
    """Evenly spaced frames of each video."""
    incomplete: bool = False
    """Accept a set whose counts are not the official ones; the result counts what is missing."""

    name = "forgery"
    features: Features = "concat"
    higher_is_better = True
    face_classes = CLASSES

    def __post_init__(self) -> None:
        if self.dataset not in SETS:
            raise ConfigError(f"forgery has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, SETS))
        if self.protocol not in oulu.PROTOCOLS:
            raise ConfigError(
                f"OULU-NPU has no protocol '{self.protocol}'", do=did_you_mean(self.protocol, oulu.PROTOCOLS)
            )
        if self.compression not in faceforensics.COMPRESSIONS or self.frames < 1:
            raise ConfigError(
                f"{self.frames} frames of videos at compression '{self.compression}'",
                expected="at least one; raw, c23 or c40",
            )

    @property
    def metric(self) -> str:
        return "auc"

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        variant = f"protocol-{self.protocol}" if self.dataset == "oulu-npu" else self.compression
        return {
            "class_map": f"genuine-forged:{variant}:video-mean-of-{self.frames}-frames",
            "threshold": "eer-of-development-people",
        }

    def read(self, size: int) -> Labelled:
        """Target (N,): 1 where a frame is of a forged video; extra "video", "kind", "share" and "dev"."""
        found = self._clips()
        clips = found.clips
        # development people are scored rows, see above; a head is chosen on a fifth of the training people
        moved = [replace(clip, split="test" if clip.split == "val" else clip.split) for clip in clips]
        development = {clip.key for clip in clips if clip.split == "val"}
        faces = labelled(listing_of(self._name, moved, self.frames), size)
        video = faces.extra["video"]
        _, index, count = np.unique(video, return_inverse=True, return_counts=True)
        extra = {**faces.extra, "share": 1 / count[index], "dev": np.isin(video, list(development))}
        notes = {
            **faces.notes,
            **found.notes,
            "faces of development people, who choose the threshold": int(extra["dev"].sum()),
            "videos of which no frame has a face": len({c.key for c in clips if c.there}) - len(count),
        }
        return replace(faces, extra=extra, notes=notes)

    @property
    def _name(self) -> str:
        if self.dataset == "oulu-npu":
            return f"oulu-npu-{self.protocol}"
        trained = f"faceforensics-{self.compression}"
        return f"{trained}-to-celeb-df" if self.dataset == "celeb-df" else trained

    def _clips(self) -> Clips:
        if self.dataset == "oulu-npu":
            return oulu.clips(self.root, self.protocol, incomplete=self.incomplete)
        found = faceforensics.clips(self.root, self.compression, incomplete=self.incomplete)
        if self.dataset == "faceforensics":
            return found
        tested = celeb_df.clips(self.root, incomplete=self.incomplete)
        known = tuple(clip for clip in found.clips if clip.split != "test")
        return Clips(known + tested.clips, {**found.notes, **tested.notes})

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 2) one-hot: genuine, forged."""
        return np.eye(2, dtype=np.float32)[faces.target.astype(np.int64)]

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N,) scores, larger meaning forged: the difference of the two outputs."""
        return np.asarray(output[:, 1] - output[:, 0], np.float64)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: a mirrored forgery is one."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        """Scores of videos. HTER and ACER are undefined without development people (as when a head is chosen)."""
        videos = _Videos.of(np.asarray(prediction, float), faces)
        tested = videos.rows(~videos.dev)
        scores = {
            "auc": metrics.auc(tested.score, tested.forged, tested.weight),
            "eer": metrics.eer(tested.score, tested.forged, tested.weight),
            "hter": float("nan"),
            "acer": float("nan"),
            "bpcer": float("nan"),
        }
        kinds = sorted({*tested.kind.tolist()} - {GENUINE})
        scores |= {f"auc_{kind}": tested.against(kind) for kind in kinds}
        chosen = videos.rows(videos.dev)
        if not (chosen.forged.any() and not chosen.forged.all()):
            return scores
        said = tested.score > metrics.eer_threshold(chosen.score, chosen.forged)
        genuine = ~tested.forged
        bpcer = _share(said & genuine, genuine, tested.weight)
        apcer = {kind: _share(~said & (tested.kind == kind), tested.kind == kind, tested.weight) for kind in kinds}
        every = _share(~said & tested.forged, tested.forged, tested.weight)
        worst = max(apcer.values(), default=float("nan"))
        scores |= {"hter": (every + bpcer) / 2, "acer": (worst + bpcer) / 2, "bpcer": bpcer}
        return scores | {f"apcer_{kind}": value for kind, value in apcer.items()}


@dataclass(frozen=True, eq=False)
class _Videos:
    """Frames taken together."""

    score: NDArray[np.float64]
    weight: NDArray[np.float64]
    """How often the video counts: 1, or how often a resample drew its person."""
    forged: NDArray[np.bool_]
    kind: NDArray[np.str_]
    dev: NDArray[np.bool_]

    @classmethod
    def of(cls, score: NDArray[np.float64], faces: Labelled) -> _Videos:
        _, first, index = np.unique(faces.extra["video"], return_index=True, return_inverse=True)
        share = np.asarray(faces.extra["share"], np.float64)
        weight = np.bincount(index, share).astype(np.float64)
        return cls(
            np.bincount(index, share * score) / weight,
            weight,
            faces.target[first] == 1,
            np.asarray(faces.extra["kind"][first], np.str_),
            np.asarray(faces.extra["dev"][first], np.bool_),
        )

    def rows(self, which: NDArray[np.bool_]) -> _Videos:
        return _Videos(self.score[which], self.weight[which], self.forged[which], self.kind[which], self.dev[which])

    def against(self, kind: str) -> float:
        """AUC of one kind of forgery against the genuine videos."""
        which = ~self.forged | (self.kind == kind)
        return metrics.auc(self.score[which], self.forged[which], self.weight[which])


def _share(hit: NDArray[np.bool_], of: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    return float(metrics.ratio((weight * hit).sum(), (weight * of).sum()))
