"""What a report says in plain words: tasks, metrics, protocols, the measurement spec, and the limits of all that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusiform.measurement import EXACT_POINTS
from fusiform.report.figures import decimals, interval, number, plural
from fusiform.report.verdicts import Cell, Score

TASKS: Mapping[str, str] = {
    "alignment": "Where the points of a face lie.",
    "parsing": "Which part of the face each pixel shows.",
    "verification": "Whether two photos show one person. Nothing is learned: embeddings are compared.",
    "identification": "Who of a gallery a photo shows. Nothing is learned: embeddings are compared.",
    "head-pose": "Which way the head is turned: yaw, pitch and roll.",
    "action-units": "How strongly each facial muscle group is pulled, 0 to 5 (FACS).",
    "expression": "Which expression a face shows.",
    "attributes": "What is true of a face: glasses, beard, smile, and so on.",
    "affect": "How pleasant (valence) and how excited (arousal) a face looks.",
    "age": "How old a face looks, in years.",
}

METRICS: Sequence[tuple[str, str]] = (
    (r"nme_interocular", "mean distance of predicted from true points, in % of the distance of the outer eye corners"),
    (r"nme_box", "mean distance of predicted from true points, in % of the size of the points' bounding box"),
    (r"nme_.*", "mean distance of predicted from true points, in % of a length of the face"),
    (r"AUC@10", "area under the share of faces up to an error of 10 %; 1 is perfect"),
    (r"FR@10", "share of faces with an error above 10 %"),
    (r"f1_mean|f1_macro|f1|F1", "F1 is 2·hits / (predicted + true), here the mean over classes; 1 is perfect"),
    (r"f1_.*", "F1 of one class: 2·hits / (predicted + true), pooled over all faces; 1 is perfect"),
    (r"(?i)auc.*", "chance that a true case scores above a false one; .5 is guessing, 1 is perfect"),
    (r"EER", "error rate at the threshold where false accepts and false rejects are equally frequent"),
    (r"TAR@FAR=.*", "share of same-person pairs accepted where that share of different-person pairs is"),
    (r"rank-1", "share of photos whose nearest gallery face is the right person"),
    (r"rank-\d+", "share of photos with the right person among that many nearest gallery faces"),
    (r"nearest_neighbour", "share of photos whose nearest other photo shows the same person"),
    (r"balanced_accuracy", "share of right answers in each class, averaged over classes"),
    (r"accuracy.*", "share of right answers"),
    (r"geodesic.*", "angle of the rotation from the true to the predicted head pose, in degrees"),
    (r"(?i)mae.*", "mean absolute error"),
    (r"(?i)rmse.*", "root of the mean squared error"),
    (r"(?i)icc.*", "ICC(3,1), agreement of two raters up to a constant; 1 is perfect, 0 is chance"),
    (r"(?i)ccc.*", "Lin's concordance: a correlation that also punishes shift and scale; 1 is perfect, 0 is chance"),
    (r"pearson.*|r(_.*)?", "Pearson's correlation; 1 is perfect, 0 is chance"),
)
"""Pattern of the whole name -> what it measures. The first that fits counts."""

UNITS: Sequence[tuple[str, str, float, str]] = (
    (r".*", r"nme_.*|FR@.*|EER|HTER|TAR@.*|rank-.*|nearest_neighbour|accuracy.*|balanced_accuracy", 100.0, "%"),
    (r"head-pose", r"(?i)mae.*|rmse.*|geodesic.*", 1.0, "°"),
    (r"age|attributes", r"(?i)mae.*|rmse.*", 1.0, "years"),
)
"""Patterns of task and metric -> factor from the stored value to the shown one, and its unit."""

PROTOCOLS: Mapping[str, str] = {
    "linear": "a linear head (ridge regression) on the frozen encoder",
    "knn": "a vote or mean of the most similar training faces; the encoder is frozen and nothing is fitted",
    "cosine": "cosine similarity of embeddings; the encoder is frozen and nothing is fitted",
    "fine-tune": "all weights of the encoder are trained further together with a linear head",
    "few-shot": "a head fitted on very few labelled faces of each class",
    "attentive": "a head that attends over the frozen encoder's patch tokens",
}


@dataclass(frozen=True)
class Unit:
    """How a metric is shown."""

    scale: float = 1.0
    name: str = ""


def unit(task: str, metric: str) -> Unit:
    """Shares that the field quotes in per cent are shown so; results.jsonl always holds the share."""
    for tasks, metrics, scale, name in UNITS:
        if re.fullmatch(tasks, task) and re.fullmatch(metrics, metric):
            return Unit(scale, name)
    return Unit()


@dataclass(frozen=True)
class ShownScores:
    """A cell's numbers as text: (value, interval) of each."""

    trained: tuple[str, str]
    untrained: tuple[str, str]
    difference: tuple[str, str]


def shown_scores(cell: Cell) -> ShownScores:
    """Value and interval of trained, untrained and difference, in the metric's unit and with the same decimals."""
    scale = unit(cell.task, cell.metric).scale
    plain = [s for s in (cell.trained, cell.untrained) if s is not None]
    places = decimals(None if v is None else scale * v for s in plain for v in (s.value, s.low, s.high))

    def shown(score: Score | None, signed: bool = False) -> tuple[str, str]:
        if score is None:
            return ("–", "")
        value, low, high = (None if v is None else scale * v for v in (score.value, score.low, score.high))
        return number(value, places, signed=signed), interval(low, high, places, signed=signed)

    return ShownScores(shown(cell.trained), shown(cell.untrained), shown(cell.difference, signed=True))


def metric_words(metric: str) -> str:
    """What a metric measures; "" for one that is not known here."""
    return next((words for pattern, words in METRICS if re.fullmatch(pattern, metric)), "")


@dataclass(frozen=True)
class Glossary:
    """(name, sentence) of what occurs in a report."""

    tasks: tuple[tuple[str, str], ...]
    protocols: tuple[tuple[str, str], ...]
    metrics: tuple[tuple[str, str], ...]


def glossary(cells: Sequence[Cell]) -> Glossary:
    """Every task, protocol and metric of these cells with its explanation; metrics of one family share an entry."""
    protocols = [cell.protocol.split(" (")[0] for cell in cells]
    return Glossary(
        tasks=_entries((cell.task, TASKS.get(cell.task, "")) for cell in cells),
        protocols=_entries((name, PROTOCOLS.get(name, "")) for name in protocols),
        metrics=_entries((cell.metric, metric_words(cell.metric)) for cell in cells),
    )


def _entries(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    entries: dict[str, dict[str, None]] = {}
    for name, words in pairs:
        if words:
            entries.setdefault(words, {})[name] = None
    return tuple(
        (_listed(list(names)), words[:1].upper() + words[1:].rstrip(".") + ".") for words, names in entries.items()
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, ... {names[-1]}"


# ------------------------------------------------------------------------------------------ how it was measured


FINGERPRINT = "Fingerprint of all this"


@dataclass(frozen=True)
class SpecFact:
    """One sentence of the measurement spec, and which measurements it is true of."""

    label: str
    words: str
    where: tuple[str, ...]
    """Names of the measurements; empty where it is true of all."""


def spec_facts(measurement: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A measurement spec as (label, sentence) pairs, from plain mappings: a newer spec is shown rather than refused."""
    crop = measurement.get("crop") or {}
    size, shown = crop.get("size"), measurement.get("input_size")
    facts = [
        ("Faces found by", _found_by(crop)),
        ("Crop", f"template “{crop.get('template', '?')}”, {size} × {size} px, {str(crop.get('colour', '')).upper()}"),
        ("Resampling", f"{crop.get('interpolation', '?')}; outside the photo: {crop.get('border', '?')}"),
        ("The encoder sees", f"{shown} × {shown} px"),
        ("Displacement of the crop", _jitter(str(measurement.get("jitter") or "none"))),
        ("Mirroring at test time", "both ways, averaged" if measurement.get("flip") == "average" else "none"),
    ]
    if measurement.get("normalizer"):
        facts.append(("Errors are divided by", str(measurement["normalizer"]).replace("-", " ")))
    if measurement.get("class_map"):
        ignored = measurement.get("ignored_classes") or ()
        rest = f"; not counted: classes {', '.join(map(str, ignored))}" if ignored else ""
        facts.append(("Classes", f"{str(measurement['class_map']).replace(',', ', ')}{rest}"))
    if measurement.get("threshold"):
        facts.append(("Decision threshold", str(measurement["threshold"]).replace("-", " ")))
    if measurement.get("split_sha256"):
        facts.append(("List of faces and splits", f"sha256 {str(measurement['split_sha256'])[:12]}"))
    return [(label, str(words)) for label, words in facts]


def _found_by(crop: Mapping[str, Any]) -> str:
    detector = str(crop.get("detector", "?"))
    if detector == EXACT_POINTS:
        return "no detector: the points of rendered faces are known exactly"
    digest = f" (sha256 {str(crop['detector_sha256'])[:12]})" if crop.get("detector_sha256") else ""
    points = f"; aligned on {crop.get('landmarks', '?')} points"
    model = f" (sha256 {str(crop['landmarks_sha256'])[:12]})" if crop.get("landmarks_sha256") else ""
    return f"{detector}{digest}{points}{model}"


def _jitter(name: str) -> str:
    return (
        "none"
        if name == "none"
        else f"{name}, drawn once for each face, so that the mean shape does not solve the task"
    )


def spec_words(named: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[SpecFact]:
    """The specs of all measurements as one list, each fact said once; what is true of all comes first.

    Args:
        named: (what was measured, digest, measurement) of every row.
    """
    specs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for what, digest, measurement in named:
        specs.setdefault((what, digest), spec_facts(measurement))
    order: dict[str, None] = dict.fromkeys(label for facts in specs.values() for label, _ in facts)
    where: dict[tuple[str, str], dict[str, None]] = {}
    for (what, _), facts in specs.items():
        for fact in facts:
            where.setdefault(fact, {})[what] = None
    everything = {what for what, _ in specs}
    said = [
        SpecFact(label, words, () if set(whats) == everything else tuple(whats))
        for name in order
        for (label, words), whats in where.items()
        if label == name
    ]
    said.sort(key=lambda fact: bool(fact.where))
    if specs:
        said.append(SpecFact(FINGERPRINT, "; ".join(f"{what}: {digest}" for what, digest in specs), ()))
    return said


# ------------------------------------------------------------------------------------------ limits


def limits(
    cells: Sequence[Cell], headline: Sequence[Cell], *, seeds: int, unknown_licence: int, faces: int
) -> list[str]:
    """What these numbers do not say, as far as it can be told from them.

    Args:
        cells: all measurements.
        headline: those whose verdicts are counted at the top of the page.
        seeds: training runs in the report.
        unknown_licence: training faces without a known licence, of `faces`.
    """
    compared = [c for c in headline if c.status in ("better", "worse", "cannot tell")]
    said = []
    if compared:
        people = [c.people for c in compared if c.people]
        least = f" (in the smallest set {plural(min(people), 'person', 'people')})" if people else ""
        said.append(
            f"The intervals come from drawing the tested people again and again: they cover who happened to be tested"
            f"{least}, not how another "
            f"training run would have turned out. This report holds {plural(seeds, 'training run')}."
        )
        if len(compared) >= 5:
            by_chance = max(1, round(0.05 * len(compared)))
            said.append(
                f"There are {len(compared)} verdicts at 95 %. If nothing had changed at all, about {by_chance} of them "
                f"would still say better or worse."
            )
    if any(c.dataset.startswith("render") for c in cells):
        said.append(
            "Rendered faces have exact labels and belong to nobody, but they are not photos. Where rendered and real "
            "sets disagree, believe the real ones."
        )
    missing = sorted({c.dataset for c in cells if c.status == "not available"})
    if missing:
        said.append(f"Not measured, because the sets were not there: {', '.join(missing)}.")
    if unknown_licence:
        said.append(f"The licence of {unknown_licence:,} of {faces:,} training faces is not known.")
    said.append("The loss is that of the faces trained on; nothing here says what it is on others.")
    said.append(
        "No number is broken down by age, skin tone, gender or origin, so nothing here shows that the encoder works "
        "equally well for everybody. It is a research result, not grounds for decisions about people."
    )
    return said
