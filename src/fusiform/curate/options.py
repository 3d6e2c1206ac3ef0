"""What the user decides about a set. Written into it, and held to when the set is added to."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fusiform.curate.screen import thresholds
from fusiform.errors import ConfigError
from fusiform.faces import align
from fusiform.faces.decode import MAX_PIXELS


@dataclass(frozen=True)
class CurateOptions:
    """How photos become faces, and what is known about them."""

    template: str = "loose"
    """Family of the crop template: loose, arcface or box (see docs/curate.md)."""
    size: int = 112
    """Side of the stored crop in pixels. 224 for ViTs at full size; costs four times the disk."""
    faces: Literal["largest", "all", "only-one"] = "largest"
    """Of a picture with several faces, keep the largest, keep all, or refuse the picture. The largest by default: the
    others are often people who were not asked, and a folder named after a person is about one."""
    min_face: int = 30
    """Shorter side of the smallest face box that is kept, in pixels of the photo. A face of 30 is enlarged about 1.8
    times for a loose crop of 112."""
    min_score: float | None = None
    """Detector score below which a face does not count; without it the detector's own, .7 for YuNet. Above .85 faces
    in profile are lost."""
    min_presence: float = 0.5
    """Landmark model's own certainty that it looks at a face, below which a face is left out unless the detector is
    sure of it, as with faces in profile."""
    max_pixels: int = MAX_PIXELS
    """Pixels of the largest photo that is decoded."""
    licence: str = "unknown"
    """Licence of the photos as you state it, such as CC-BY-4.0. It travels with every face."""
    source: str = ""
    """Name of the collection; without it the name of the folder given."""
    consent: str = "unknown"
    """Basis on which the people agreed, such as "signed consent" or "public figures"."""
    person_from: Literal["source", "folder", "none"] = "source"
    """Where the key of the person comes from: from the source where it says so (the label of a RecordIO record, a field
    of the JSON in a WebDataset sample, a Parquet column, a list's second column), from the name of the folder that a
    file lies in, or from nowhere."""
    person_key: str = ""
    """Field or column that holds the person; without it the first of person, person_id, subject, subject_id, identity,
    identity_id."""
    policy: Literal["off", "lenient", "standard", "strict"] = "lenient"
    """Thresholds of the screening (docs/curate.md). Faces that fail are marked with the reason and stay in the shards,
    so another policy may be asked for later without looking at the photos again."""
    limits: tuple[str, ...] = ()
    """Single thresholds in place of the policy's, such as `max_yaw=45 min_sharpness=0.1`."""
    near_duplicates: Literal["mark", "keep"] = "mark"
    """Of pictures that are copies of one another but for size, compression, colour, a moderate crop or mirroring, keep
    the best and mark the others, or keep them all."""
    embedder: Path | None = None
    """Folder of an encoder: faces whose features are nearer than `--embedding-threshold` are copies too."""
    embedding_threshold: float = 0.98
    """Cosine from which two faces are copies by their features. What is right depends on the encoder."""
    people: Literal["given", "cluster"] = "given"
    """Group faces without a given person by their features (needs `--embedder`); such groups are marked as inferred."""
    people_threshold: float = 0.9
    """Cosine from which two faces are taken to show one person. What is right depends on the encoder."""
    video_every: float = 0.0
    """Seconds between the frames that are taken from videos; 0 leaves videos closed."""
    roots: tuple[Path, ...] = ()
    """Folders in which the lines of a list may name local files, besides the list's own."""
    allow_private: bool = False
    """Fetch addresses of lists that lead into private networks or to this machine."""
    jpeg_quality: int = 95
    """Quality of the stored crops, without colour subsampling."""
    val_share: float = 0.0
    """Share of faces put aside for validation; whole people at a time where people are known."""
    test_share: float = 0.0
    """Share of faces put aside for testing; whole people at a time where people are known."""
    split_seed: int = 0
    """Changes who is put aside."""
    follow_links: bool = False
    """Enter folders that are reached by a symbolic link."""
    engine: Literal["processes", "ray"] = "processes"
    """Where photos are looked at: by processes of this machine, or on the Ray cluster that RAY_ADDRESS names. Does not
    change the result."""
    workers: int | None = None
    """Processes; as many as there are cores when not given. Does not change the result."""
    chunk_files: int = 256
    """Files between two commits: what a killed run loses at most. Does not change which faces are kept."""
    contact_sheet: int = 60
    """Faces shown on the data card; 0 for a card without pictures."""

    def __post_init__(self) -> None:
        align.template(self.template, self.size)
        checks: dict[str, tuple[float, float]] = {
            "min_face": (1, 1e5),
            "min_score": (0, 1),
            "min_presence": (0, 1),
            "max_pixels": (1, 89_000_000),
            "jpeg_quality": (1, 100),
            "val_share": (0, 1),
            "test_share": (0, 1),
            "chunk_files": (1, 1e6),
            "contact_sheet": (0, 1000),
            "video_every": (0, 1e6),
            "embedding_threshold": (0, 1),
            "people_threshold": (0, 1),
        }
        for name, (low, high) in checks.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} is {value}", expected=f"{low:g} to {high:g}")
        if self.val_share + self.test_share > 1:
            raise ConfigError(
                f"--val-share {self.val_share:g} and --test-share {self.test_share:g} leave nothing to train on",
                expected="a sum below 1",
            )
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers is {self.workers}", expected="1 or more")
        if self.people == "cluster" and self.embedder is None:
            raise ConfigError("--people cluster has no features to go by", do="name an encoder with --embedder")
        thresholds(self.policy, self.limits)

    @property
    def processes(self) -> int:
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def binding(self) -> dict[str, Any]:
        """The fields that decide what is in the set; adding to a set with others is refused."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in FREE}

    def deciding(self) -> dict[str, Any]:
        """The fields that decide over the whole set at the end of a run; with others it is decided anew."""
        return {name: _plain(getattr(self, name)) for name in sorted(DECIDING)}


def _plain(value: Any) -> Any:
    return [str(v) for v in value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


DECIDING = frozenset(
    {
        *("policy", "limits", "near_duplicates", "embedder", "embedding_threshold", "people", "people_threshold"),
        *("val_share", "test_share", "split_seed"),
    }
)
FREE = DECIDING | frozenset(
    {
        *("engine", "workers", "chunk_files", "contact_sheet", "licence", "source", "consent", "follow_links"),
        *("video_every", "roots", "allow_private"),
    }
)
"""Fields that may differ between two runs into one set: how it is done, what is known about the new photos, and what is
decided anew over the whole set at the end of each run."""


def require_same(stored: dict[str, Any], options: CurateOptions) -> None:
    """Refuse to add faces to a set that were made in another way than those in it.

    Raises:
        ConfigError: naming each field with both values.
    """
    wanted = options.binding()
    differing = [name for name in wanted if stored.get(name, wanted[name]) != wanted[name]]
    if differing:
        sides = "; ".join(f"{n}: the set has {stored[n]!r}, asked for {wanted[n]!r}" for n in differing)
        flags = " ".join(f"--{n.replace('_', '-')} {stored[n]}" for n in differing)
        raise ConfigError(f"The options differ from those of the set ({sides})", do=f"{flags}, or name another --out")
