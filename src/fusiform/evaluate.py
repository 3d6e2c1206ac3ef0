"""evaluate(): one encoder, one task, one protocol -> result rows with intervals.

    Task.read -> labelled faces -> encoder -> head (the protocol) -> prediction -> Task.score -> rows

Nothing here knows a particular task or encoder, so tasks x protocols x encoders is a product of values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fusiform import intervals, metrics
from fusiform.crossing import crossed
from fusiform.embedding import FeatureCache, Streamed, embed, feature_key
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError
from fusiform.faces.align import TEMPLATE_FAMILIES, template
from fusiform.heads import neighbours, probe, split_folds
from fusiform.intervals import Resamples
from fusiform.measurement import Crop, Measurement, require_same_measurement, split_sha256
from fusiform.protocols import (
    KNN,
    AttentiveProbe,
    Cosine,
    Features,
    FineTune,
    LinearProbe,
    Protocol,
    read_out,
    settings,
)
from fusiform.results import ResultRow
from fusiform.shots import list_sha256
from fusiform.tasks.task import Array, Classified, EmbeddingTask, Labelled, SupervisedTask, Tallied

Rows = NDArray[np.int64]
Fitted = Any
"""A head as its protocol leaves it: (Ridge, strength), `Attended` or `FineTuned`; there is none of `KNN`."""

SHARED_CACHE = FeatureCache()
"""Features that the tasks of one process share unless they are given another cache."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured, and what a picture or a comparison needs besides the rows."""

    rows: tuple[ResultRow, ...]
    """The deciding metric first."""
    prediction: Array
    """(n, ...) in the layout of `faces.target`, in the order of `faces`; embeddings (n, D) where nothing is learned."""
    faces: Labelled
    """The scored faces."""
    draws: intervals.Draws = field(default_factory=dict)
    """Each metric in each resample of people; paired with another evaluation of the same faces."""
    labelled: tuple[tuple[str, ...], ...] = ()
    """Where labels were limited to a few: the keys of the faces that had one, for each round (fold)."""

    def row(self, metric: str | None = None) -> ResultRow:
        """The row of a metric; None: the deciding one."""
        if metric is None:
            return self.rows[0]
        for row in self.rows:
            if row.metric == metric:
                return row
        raise ConfigError(
            f"No metric '{metric}' in {self.rows[0].task}", expected=", ".join(r.metric for r in self.rows)
        )


def evaluate(
    encoder: Encoder,
    task: SupervisedTask | EmbeddingTask,
    protocol: Protocol,
    *,
    date: str,
    seed: int = 0,
    device: str = "cpu",
    batch: int = 256,
    resamples: int = intervals.RESAMPLES,
    cache: FeatureCache | None = None,
    faces: Labelled | None = None,
    train_on: SupervisedTask | None = None,
    allow_mismatch: Sequence[str] = (),
    keep: list[Fitted] | None = None,
) -> Evaluation:
    """Measure an encoder on a task.

    Whatever is chosen (ridge strength, epoch, learning rate) is chosen on "val" people, or on every fifth person of the
    training side where a set has none; "test" is then scored once. Only a protocol with `select="best-on-test"` chooses
    on the faces that it reports, and its rows have that as their split.

    Args:
        date: ISO date for the rows.
        seed: of `FineTune` and `AttentiveProbe`; the other protocols give the same rows for every seed.
        batch: faces per forward pass of a frozen encoder.
        resamples: of people, for the interval.
        cache: of features; None: one that all evaluations of this process share.
        faces: what `task.read` returned at the encoder's size, where the caller has it already. Read again where the
            protocol has an `input_size` of its own.
        train_on: the same task on another set, whose training and validation people fit the head; the test people are
            the task's own.
        allow_mismatch: kinds of `fusiform.measurement.KINDS` in which the faces may differ from the encoder's; the row
            says so.
        keep: takes the fitted head of every fold, in the order of the folds.

    Raises:
        DataError: the set is missing, made otherwise than the encoder's faces, or has a person on two sides of a split.
        ConfigError: the protocol does not suit the task.
    """
    shown = encoder.at_size(input_size(encoder, protocol))
    side = shown.vit.config.image_size
    if faces is None or faces.images.shape[1] != side != encoder.vit.config.image_size:
        faces = task.read(side)
    if train_on is not None:
        if not learns(task):
            raise ConfigError(f"{task.name} learns nothing, so it cannot train on {train_on.dataset}")
        faces = crossed(train_on, task, train_on.read(side), faces)
    mismatch = require_same_measurement(
        encoder.crop,
        faces.crop,
        what=f"{task.name} on {faces.dataset}",
        class_maps=(str(encoder.card.get("class_map", "")), str(task.measurement_notes.get("class_map", ""))),
        allow=allow_mismatch,
    )
    held, pixels = SHARED_CACHE if cache is None else cache, faces.images

    def features(form: Features, layer: int | None, mirrored: bool = False) -> NDArray[np.float32]:
        images = pixels[:, :, ::-1] if mirrored else pixels
        return embed(shown, images, features=form, layer=layer, batch=batch, device=device, cache=held)

    form = read_out(protocol, encoder.pooling, task.features if learns(task) else "pooled")
    described = settings(protocol) | {"features": form}
    notes: list[str] = [f"MISMATCH allowed: {mismatch}"] if mismatch else []
    labelled: tuple[tuple[str, ...], ...] = ()
    fitted: tuple[Fitted, ...] = ()
    if learns(task):
        if isinstance(protocol, Cosine):
            raise ConfigError(f"{task.name} learns a head, which cosine similarity cannot", do="use --protocol linear")
        grid = shown.vit.config.grid
        folds = split_folds(faces, protocol.shots, _class_of(task, faces, grid))
        labelled = tuple(fold.keys for fold in folds) if protocol.shots is not None else ()
        if protocol.shots is not None:
            described["shots"] |= {"sha256": list_sha256(labelled), "faces": len(set().union(*labelled))}
        if not isinstance(protocol, KNN):
            notes += _choice_notes(faces, protocol)
        if isinstance(protocol, FineTune | AttentiveProbe):
            from fusiform.goals import head_of, warp_of

            described["head"] = head_of(task, protocol)
            if (warp := warp_of(protocol)) is not None:
                faces = replace(faces, images=warp.images(faces.images))
            if protocol.select == "best-on-test":
                folds = [replace(fold, choose=fold.test) for fold in folds]
        if isinstance(protocol, FineTune):
            from fusiform.finetuning import fine_tune

            options: dict[str, Any] = {"seed": seed, "device": device}
            tuned = [fine_tune(shown, task, protocol, faces, *f.parts, refit=f.refit, **options) for f in folds]
            parts, fitted = [each.prediction for each in tuned], tuple(tuned)
            notes += _epoch_notes([each.epoch for each in tuned])
        elif isinstance(protocol, AttentiveProbe):
            from fusiform.attending import attend

            options = {"seed": seed, "device": device, "batch": batch, "cache": held}
            found = [attend(shown, task, protocol, faces, *f.parts, refit=f.refit, **options) for f in folds]
            parts, fitted = [each.prediction for each in found], tuple(found)
            notes.append("learning rate and epoch " + ", ".join(f"{each.lr:.2g} at {each.epoch}" for each in found))
            notes += _epoch_notes([each.epoch for each in found])[1:]
        elif isinstance(protocol, KNN):
            seen = features(form, protocol.layer)
            parts = neighbours(task, protocol, faces, folds, seen, grid)
        else:
            _require_form(task, form)
            key = feature_key(shown, faces.images, form, protocol.layer)
            streamed = Streamed(shown, faces.images, protocol.layer, batch=batch, device=device)
            large = form == "patches" and streamed.nbytes > held.max_bytes
            tokens = streamed if large else features(form, protocol.layer)
            probed = probe(task, protocol, faces, folds, tokens, grid, cache=held, key=key)
            parts, fitted = probed.predictions, tuple(zip(probed.heads, probed.strengths, strict=True))
            notes += _strength_notes(protocol, probed.strengths)
        if keep is not None:
            keep += fitted
        tested = np.concatenate([fold.test for fold in folds])
        order = np.argsort(tested, kind="stable")
        prediction, scored = np.concatenate(parts)[order], faces.rows(tested[order])
    else:
        if not isinstance(protocol, Cosine):
            raise ConfigError(f"{task.name} learns nothing, so {protocol.name} does not apply", do="use Cosine()")
        prediction = features(form, protocol.layer)
        if task.measurement_notes.get("flip") == "average":
            prediction = prediction + features(form, protocol.layer, mirrored=True)
        if not getattr(task, "uses_norms", False):
            prediction = prediction / np.maximum(np.linalg.norm(prediction, axis=1, keepdims=True), 1e-12)
        scored = faces
    values, draws = _scores(task, prediction, scored, resamples)
    spec = Measurement(
        crop=faces.crop,
        input_size=side,
        split_sha256=split_sha256(dict(zip(faces.keys.tolist(), faces.split.tolist(), strict=True))),
        scale=_eye_distance(faces.crop),
        mismatch=mismatch,
        **task.measurement_notes,  # type: ignore[arg-type]
    )
    rows = _rows(encoder, task, described, spec, faces, scored, values, draws, seed=seed, date=date, notes=notes)
    return Evaluation(rows, prediction, scored, draws, labelled)


def input_size(encoder: Encoder, protocol: Protocol) -> int:
    """Side in pixels of the faces that an encoder is shown under a protocol."""
    return getattr(protocol, "input_size", None) or encoder.vit.config.image_size


def cross_matrix(
    encoder: Encoder, tasks: Sequence[SupervisedTask], protocol: Protocol, **settings: Any
) -> dict[tuple[str, str], Evaluation]:
    """(set trained on, set tested on) -> result, for every pair of one task's sets. `settings` are `evaluate`'s.

    Raises:
        ConfigError: the sets' labels mean different things.
    """
    found = {}
    for trained in tasks:
        for tested in tasks:
            other = None if trained is tested else trained
            found[trained.dataset, tested.dataset] = evaluate(encoder, tested, protocol, train_on=other, **settings)
    return found


def learns(task: SupervisedTask | EmbeddingTask) -> TypeGuard[SupervisedTask]:
    """Whether a head is fitted for this task."""
    return hasattr(task, "encode")


def compare_to(reference: Evaluation, other: Evaluation, metric: str | None = None) -> ResultRow:
    """`other` minus `reference` on the same faces, with a paired interval over people and a verdict.

    Raises:
        DataError: the two were not measured on the same faces of the same task in the same way.
    """
    base, row = reference.row(metric), other.row(metric)
    same_faces = np.array_equal(reference.faces.keys, other.faces.keys)
    ways = [replace(r.spec, input_size=0).digest for r in (base, row)]  # encoders may differ in input size
    if (base.task, base.dataset, base.metric) != (row.task, row.dataset, row.metric) or not same_faces:
        raise DataError(
            f"{base.task}/{base.dataset}/{base.metric} and {row.task}/{row.dataset}/{row.metric} cannot be subtracted",
            expected="the same metric of the same task on the same faces",
        )
    if ways[0] != ways[1]:
        raise DataError(
            f"{base.encoder} and {row.encoder} were measured differently on {row.task}: {base.measurement} against "
            f"{row.measurement}"
        )
    undefined = np.full(1, np.nan)
    gap = intervals.difference(
        np.nan if base.value is None else base.value,
        np.nan if row.value is None else row.value,
        reference.draws.get(base.metric, undefined),
        other.draws.get(row.metric, undefined),
        higher_is_better=row.higher_is_better,
    )
    return replace(
        row,
        metric=f"difference:{row.metric}",
        value=gap.value,
        low=gap.low,
        high=gap.high,
        reference=base.encoder,
        verdict=gap.verdict,
        note=f"{row.encoder} minus {base.encoder} ({base.encoder_sha256[:12]}), paired over people",
    )


def _class_of(task: SupervisedTask, faces: Labelled, grid: int) -> Callable[[Rows], NDArray[np.int64]] | None:
    """Rows of the faces -> their classes, where each face has one."""
    if not isinstance(task, Classified):
        return None
    return lambda rows: np.asarray(task.encode(faces.rows(rows), grid)).argmax(1)


def _choice_notes(faces: Labelled, protocol: LinearProbe | AttentiveProbe | FineTune) -> list[str]:
    """Who chose, where it was not a split of the set's own."""
    if not isinstance(protocol, LinearProbe) and protocol.select == "best-on-test":
        return ["CHOSEN ON TEST, as some releases do: comparable with nothing that was chosen on val"]
    if "val" not in faces.split and not (isinstance(protocol, LinearProbe) and len(protocol.strengths) == 1):
        return ["no val people in the set: every fifth person of the training side chose"]
    if protocol.shots is not None:
        return ["few labels to train on, all of val to choose on"]
    return []


def _eye_distance(crop: Crop) -> float | None:
    if crop.template not in TEMPLATE_FAMILIES or not (points := template(crop.template, 1000).points):
        return None
    (left, up), (right, low) = points[:2]
    return round(float(np.hypot(right - left, low - up)) / 1000, 4)


def _require_form(task: SupervisedTask, form: str) -> None:
    if (form == "patches") != (task.features == "patches"):
        unit = "each patch" if task.features == "patches" else "whole faces"
        raise ConfigError(f"{task.name} predicts {unit}, so a head cannot see '{form}'", expected=task.features)


def _epoch_notes(epochs: list[int]) -> list[str]:
    said = ["epoch " + ", ".join(map(str, epochs))]
    return [*said, "epoch 0: the ridge, as nothing that training added was better"] if 0 in epochs else said


def _strength_notes(protocol: LinearProbe, chosen: list[float]) -> list[str]:
    notes = ["strength " + ", ".join(f"{s:.2g}" for s in dict.fromkeys(chosen))]
    for which, edge in (("weakest", protocol.strengths[0]), ("strongest", protocol.strengths[-1])):
        if len(protocol.strengths) > 1 and edge in chosen:
            notes.append(f"the {which} strength tried: edge of the grid")
    return notes


def _scores(
    task: SupervisedTask | EmbeddingTask, prediction: Array, faces: Labelled, resamples: int
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Every metric on all faces, and in each resample of people."""
    # Scores need no pixels, and rows are taken from these faces a thousand times
    light = replace(faces, images=faces.images[:, :0, :0])
    drawn = Resamples.of(faces.person, resamples, seed=faces.dataset)
    if isinstance(task, Tallied):
        sums: Tallied = task
        totals = drawn.totals(sums.tally(prediction, light))
        values = task.score(prediction, light)  # type: ignore[arg-type]  # embeddings or predictions, as it made them
        return values, intervals.scored_draws(drawn, lambda i: sums.score_tally(totals[i]))
    if not learns(task):
        distances: EmbeddingTask = task  # type: ignore[assignment]
        embedding = prediction.astype(np.float32)
        by_weight = intervals.scored_draws(drawn, lambda i: distances.score(embedding, light, drawn.weights(i)))
        return distances.score(embedding, light), by_weight
    values = task.score(prediction, light)

    def score(draw: int) -> Mapping[str, float]:
        rows = drawn.rows(draw)
        return task.score(prediction[rows], light.rows(rows))

    return values, intervals.scored_draws(drawn, score)


def _rows(
    encoder: Encoder,
    task: SupervisedTask | EmbeddingTask,
    protocol: Mapping[str, Any],
    spec: Measurement,
    faces: Labelled,
    scored: Labelled,
    values: Mapping[str, float],
    draws: intervals.Draws,
    *,
    seed: int,
    date: str,
    notes: list[str],
) -> tuple[ResultRow, ...]:
    described = json.loads(json.dumps(spec.to_dict()))  # lists for tuples, as it comes back from the file
    counted = [f"{count} {what}" for what, count in faces.notes.items()]
    split = "folds" if str(faces.split[0]).startswith("fold-") else "test"
    if protocol.get("select") == "best-on-test":
        split = "best-on-test"
    names = [task.metric, *(name for name in values if name != task.metric)]
    rows = []
    for name in names:
        low, high = intervals.interval(draws[name]) if name in draws else (np.nan, np.nan)
        undefined = [] if np.isfinite(values[name]) else [f"{name} is undefined on these faces"]
        rows.append(
            ResultRow(
                encoder=encoder.name,
                encoder_sha256=encoder.sha256,
                task=task.name,
                dataset=faces.dataset,
                split=split,
                protocol=protocol,
                seed=seed,
                metric=name,
                value=float(values[name]),
                low=low,
                high=high,
                n=len(scored),
                people=len(np.unique(scored.person)),
                higher_is_better=task.higher_is_better if name == task.metric else metrics.higher_is_better(name),
                measurement=described,
                measurement_digest=spec.digest,
                date=date,
                note="; ".join([*undefined, *notes, *counted]),
            )
        )
    return tuple(rows)
