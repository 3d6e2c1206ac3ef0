"""`fusiform head`: train a head on an encoder and keep it, so that photos can be asked."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fusiform.cli import parse, today
from fusiform.errors import DataError
from fusiform.protocols import AttentiveProbe, FineTune, LinearProbe


@dataclass(frozen=True)
class HeadFlags:
    """Train a head for a task on a frozen or fine-tuned encoder, measure it on people it never saw, and keep it in a
    model's folder, beside the encoder and the heads that are there already. Then: fusiform infer PHOTOS --model OUT."""

    task: Annotated[str, tyro.conf.Positional]
    """alignment, parsing, head-pose, gaze, action-units, action-unit-detection, expression, attributes, affect, age,
    forgery; or classes, for a label file of your own."""
    encoder: Path
    """A finished run, or an encoder's folder."""
    data: Path
    """Labels: a rendered set, the folder of a public set, or a CSV or JSON file of your own (docs/infer.md)."""
    out: Path
    """Folder of the model. The encoder is copied there; heads of the same encoder are added."""
    protocol: Literal["linear", "attentive", "fine-tune"] = "linear"
    """How far the encoder may move: not at all with linear and attentive; fine-tune keeps a copy of it in the head."""
    linear: LinearProbe = field(default_factory=LinearProbe)
    """Settings of --protocol linear."""
    attentive: AttentiveProbe = field(default_factory=AttentiveProbe)
    """Settings of --protocol attentive."""
    fine_tune: FineTune = field(default_factory=FineTune)
    """Settings of --protocol fine-tune."""
    name: str | None = None
    """Of the head, where a model has several for one task; the task's name by default."""
    dataset: str | None = None
    """Which public set, where several below --data have labels for the task."""
    photos: Path | None = None
    """Folder that the file names in your own label file are relative to; by default the label file's own."""
    scheme: str = ""
    """Order of your own points where it is a known one, such as ibug-68: faces are then mirrored in training."""
    licence: str = "unknown"
    """Licence of photos and labels as you state it. It travels in the head's card."""
    seed: int = 0
    """Of what trained heads draw."""
    incomplete: bool = False
    """Accept public sets whose counts are not the official ones, and leave photos out that cannot be read."""
    device: str = "cpu"
    """Where to train: cpu, cuda, mps."""


def head(words: list[str]) -> int:
    flags = parse(HeadFlags, words, "head")
    from fusiform.commands.measuring import encoder_folder
    from fusiform.encoder import Encoder
    from fusiform.infer.fitting import fit_head
    from fusiform.infer.known import task_for
    from fusiform.report import table_text
    from fusiform.world import tune_cpu

    task = task_for(
        flags.task,
        flags.data,
        dataset=flags.dataset,
        photos=flags.photos,
        scheme=flags.scheme,
        incomplete=flags.incomplete,
    )
    encoder = Encoder.load(encoder_folder(flags.encoder))
    if (flags.out / "encoder.json").is_file() and (there := Encoder.load(flags.out)).sha256 != encoder.sha256:
        raise DataError(
            f"{flags.out} holds the encoder '{there.name}' ({there.sha256[:12]}), and --encoder is "
            f"'{encoder.name}' ({encoder.sha256[:12]})",
            expected="heads of one encoder in one folder",
            do="name another --out",
        )
    tune_cpu(next(encoder.vit.parameters()).device)
    protocols = {"linear": flags.linear, "attentive": flags.attentive, "fine-tune": flags.fine_tune}
    protocol = replace(protocols[flags.protocol], shots=None)
    trained, evaluation = fit_head(
        *(encoder, task, protocol),
        date=today(),
        name=flags.name,
        licence=flags.licence,
        seed=flags.seed,
        device=flags.device,
    )
    if not (flags.out / "encoder.json").is_file():
        encoder.save(flags.out)
    card = trained.save(flags.out)
    sys.stdout.write(table_text(list(evaluation.rows), alone=True) + "\n")
    if trained.unknown:
        sys.stdout.write(f"Never labelled, so not answered: {', '.join(trained.unknown)}\n")
    sys.stdout.write(
        f"Head: {card} ({(trained.about or {})['kept']})\nNext: fusiform infer PHOTOS --model {flags.out}\n"
    )
    return 0
