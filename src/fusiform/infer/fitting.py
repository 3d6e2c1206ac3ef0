"""fit_head(): train a head to keep. Its score is the one that `fusiform.evaluate.evaluate` reports.

Where a set has test people, the very head that was scored is kept. Where every person is tested in turn (folds), the
score is that of heads that never saw the tested person; the head that is kept is then trained on everybody in the same
way, so it has seen more people than those that were scored, and no score of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform import __version__, intervals
from fusiform.embedding import FeatureCache, embed, feature_key
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError
from fusiform.evaluate import SHARED_CACHE, Evaluation, Fitted, evaluate, input_size, learns
from fusiform.heads import Fold, probe, split_folds
from fusiform.infer.heads import TaskHead, require_name, softmax
from fusiform.infer.nets import Net, Saved, net_of
from fusiform.infer.seen import Seen
from fusiform.protocols import AttentiveProbe, FineTune, LinearProbe, read_out
from fusiform.tasks.task import Classified, Labelled, SupervisedTask

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
SHARPNESS = (0.05, 200.0)
"""Range in which a class head's sharpness is looked for."""


def fit_head(
    encoder: Encoder,
    task: SupervisedTask,
    protocol: Saved,
    *,
    date: str,
    name: str | None = None,
    licence: str = "unknown",
    seed: int = 0,
    device: str = "cpu",
    batch: int = 256,
    resamples: int = intervals.RESAMPLES,
    cache: FeatureCache | None = None,
) -> tuple[TaskHead, Evaluation]:
    """Train a head, measure it, and give both.

    Args:
        name: of the head's files; the task's name by default.
        licence: of the labels and photos, as you state it; it travels in the card.
        date: ISO date for the card and the rows.
        seed, device, batch, resamples, cache: as for `fusiform.evaluate.evaluate`.

    Raises:
        ConfigError: the task learns nothing, or the protocol leaves no head behind.
        DataError: the labels are missing, or too few people have them.
    """
    require_name(name or task.name)
    if not learns(task) or not isinstance(protocol, LinearProbe | AttentiveProbe | FineTune):
        raise ConfigError(
            f"{task.name} with {protocol.name} leaves no head behind", expected="linear, attentive or fine-tune"
        )
    if getattr(protocol, "select", "val") == "best-on-test":
        raise ConfigError("A head chosen on its test faces has no honest score", expected="--select val")
    held = SHARED_CACHE if cache is None else cache
    size = input_size(encoder, protocol)
    faces = task.read(size)
    shown = encoder.at_size(size)
    keep: list[Fitted] = []
    options: dict[str, Any] = {"seed": seed, "device": device, "batch": batch, "cache": held}
    evaluation = evaluate(encoder, task, protocol, date=date, faces=faces, resamples=resamples, keep=keep, **options)
    form = read_out(protocol, encoder.pooling, task.features)
    warp = getattr(protocol, "tanh_warp", None)
    folds = split_folds(faces)
    fold = folds[0]
    fitted, last = keep[0], fold
    if len(keep) > 1:
        last = everybody(faces)
        fitted = _once_more(shown, task, protocol, faces, last, form, options)
    net = net_of(fitted, shown, task, protocol, form)
    head = TaskHead(
        name=name or task.name,
        task=task,
        protocol=replace(protocol, shots=None),
        net=net,
        input_size=size,
        encoder_sha256=encoder.sha256,
        results=evaluation.rows,
        about=_about(encoder, task, faces, last, evaluation, len(keep), licence, date),
    )
    if isinstance(task, Classified):
        chooser = (
            _before_refit(shown, task, protocol, faces, last, form, options) if last.refit is not last.fit else net
        )
        pictures = faces.images[last.choose]
        bent = pictures if warp is None or head.warp is None else head.warp.images(pictures)
        truth = np.asarray(task.encode(faces.rows(last.choose), shown.vit.config.grid)).argmax(1)
        head = replace(head, sharpness=sharpness_of(chooser.outputs(Seen(shown, bent, device)), truth))
    return head, evaluation


def everybody(faces: Labelled) -> Fold:
    """All people on the training side, every fifth one (at least one) held out for choosing."""
    people = np.unique(faces.person)
    if len(people) < 2:
        raise DataError(f"{faces.dataset} has {len(people)} person", expected="two: one to fit on, one to choose on")
    rows = np.arange(len(faces))
    held_out = np.isin(faces.person, people[:: max(2, min(5, len(people)))])
    choose = rows[held_out & ~faces.train_only]
    return Fold(rows[~held_out], choose, rows, choose[:1])


def _once_more(
    shown: Encoder,
    task: SupervisedTask,
    protocol: Saved,
    faces: Labelled,
    fold: Fold,
    form: Any,
    options: Mapping[str, Any],
) -> Fitted:
    """What a protocol leaves behind on one fold."""
    if isinstance(protocol, LinearProbe):
        batch, device, held = (options[name] for name in ("batch", "device", "cache"))
        seen = embed(shown, faces.images, features=form, layer=protocol.layer, batch=batch, device=device, cache=held)
        key = feature_key(shown, faces.images, form, protocol.layer)
        found = probe(task, protocol, faces, [fold], seen, shown.vit.config.grid, cache=held, key=key)
        return found.heads[0], found.strengths[0]
    if protocol.tanh_warp is not None:
        from fusiform.goals import warp_of

        warp = warp_of(protocol)
        assert warp is not None
        faces = replace(faces, images=warp.images(faces.images))
    parts = (fold.fit, fold.choose, fold.test)
    if isinstance(protocol, AttentiveProbe):
        from fusiform.attending import attend

        return attend(shown, task, protocol, faces, *parts, refit=fold.refit, **options)
    from fusiform.finetuning import fine_tune

    seed, device = options["seed"], options["device"]
    return fine_tune(shown, task, protocol, faces, *parts, refit=fold.refit, seed=seed, device=device)


def _before_refit(
    shown: Encoder,
    task: SupervisedTask,
    protocol: Saved,
    faces: Labelled,
    fold: Fold,
    form: Any,
    options: Mapping[str, Any],
) -> Net:
    """The head that has not seen the people it is judged on."""
    again = replace(fold, refit=fold.fit)
    return net_of(_once_more(shown, task, protocol, faces, again, form, options), shown, task, protocol, form)


def sharpness_of(outputs: Floats, truth: NDArray[np.int64]) -> float:
    """The factor before the softmax that makes the labels most probable (Guo et al., "On Calibration of Modern Neural
    Networks", 2017, section 4.2, where its inverse is called the temperature).

    Args:
        outputs: (n, C) of faces that the head was not fitted on.
        truth: (n,) their classes.
    """

    def surprise(log: float) -> float:
        p = softmax(np.asarray(math.exp(log) * outputs, np.float32))[np.arange(len(truth)), truth]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    low, high = (math.log(v) for v in SHARPNESS)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(40):  # the mean surprise is convex in the factor, so it has one minimum
        one, two = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, two) if surprise(one) <= surprise(two) else (one, high)
    return math.exp((low + high) / 2)


def _about(
    encoder: Encoder,
    task: SupervisedTask,
    faces: Labelled,
    fold: Fold,
    evaluation: Evaluation,
    rounds: int,
    licence: str,
    date: str,
) -> dict[str, Any]:
    """The rest of the card."""
    own = fold.refit[~faces.train_only[fold.refit]]
    row = evaluation.rows[0]
    kept = (
        "the head that was scored"
        if rounds == 1
        else (f"trained on everybody after {rounds} heads were scored on people they never saw; not scored itself")
    )
    return {
        "patch": encoder.vit.config.patch_size,
        "encoder": encoder.name,
        "encoder_card": dict(encoder.card),
        "trained_on": {
            "dataset": faces.dataset,
            "faces": len(own),
            "displaced_copies": int(len(fold.refit) - len(own)),
            "people": len(np.unique(faces.person[own])),
            "chosen_on_people": len(np.unique(faces.person[fold.choose])),
            "licence": licence,
        },
        "never_labelled": never_labelled(task, faces.rows(fold.refit)),
        "crop": faces.crop.to_dict(),
        "measurement": dict(row.measurement),
        "kept": kept,
        "made": date,
        "fusiform": __version__,
    }


def never_labelled(task: SupervisedTask, faces: Labelled) -> list[str]:
    """Labels without a single known value among the faces."""
    names: tuple[str, ...] = next((getattr(task, n) for n in ("units", "attributes") if hasattr(task, n)), ())
    target = np.asarray(faces.target)
    if not names or target.ndim != 2 or target.dtype.kind != "f":
        return []
    unknown = np.flatnonzero(~np.isfinite(target).any(0)).tolist()
    # the rendered attributes have the age behind their names
    return [(*names, "age")[i] for i in unknown if i <= len(names)]
