"""`curate`: folders of photos in, a set of faces out.

scan -> what is new -> for each file, in worker processes: decode, detect, landmarks, align, encode -> commit by chunks
-> one index, one ledger, one data card.

The result is a function of the files and the options: not of the number of workers, nor of how often the run was
stopped. A chunk is committed whole or not at all and in order, so what is done is always a beginning of the list of
files, and the same command goes on after it.
"""

from __future__ import annotations

import contextlib
import datetime
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from fusiform import __version__
from fusiform.curate import models as face_models
from fusiform.curate import write
from fusiform.curate.card import write_card
from fusiform.curate.chunks import retire_stale
from fusiform.curate.models import FaceModels
from fusiform.curate.options import CurateOptions, require_same
from fusiform.curate.photo import Photo, look
from fusiform.curate.pool import Died, Workers
from fusiform.curate.scan import SourceFile, label_sources, printable, scan
from fusiform.durable import FolderLock, writing
from fusiform.errors import DataError
from fusiform.faces import align
from fusiform.faces.faceset import SET_FILE, FaceSet
from fusiform.faces.shards import finish_set
from fusiform.measurement import Crop
from fusiform.progress import Progress


def curate(
    sources: Sequence[Path],
    out: Path,
    *,
    options: CurateOptions | None = None,
    models: FaceModels | None = None,
    progress: TextIO | None = sys.stderr,
    today: str | None = None,
) -> FaceSet:
    """Make a set of aligned faces from photos, or add what is new to one.

    Files that were seen before and have not changed are not read again. Every file under the sources has a row in the
    set's ledger afterwards, kept or refused with a reason.

    Args:
        sources: folders, searched to the bottom, or single photos.
        out: folder of the set; made if absent.
        options: how faces are cut out and what is known about the photos.
        models: detector and landmark model; None: the best that can be had.
        progress: where progress is written; None for silence.
        today: date for the card; None: the clock's.

    Raises:
        ConfigError: the set was made with other options.
        DataError: a source does not exist, or `out` cannot be used.
        RunBusy: another process writes this set.
        WeightsError: no face detector can be had.
    """
    options = options or CurateOptions()
    out, today = Path(out), today or datetime.date.today().isoformat()
    with writing(out, 4096):
        out.mkdir(parents=True, exist_ok=True)
    write.read_record(out)  # refuses a folder with other things before a lock file is put there
    lock = FolderLock(out)
    try:
        with _terminate_as_interrupt():
            return _curate(sources, out, options, models, progress, today)
    finally:
        lock.release()


def _curate(
    sources: Sequence[Path],
    out: Path,
    options: CurateOptions,
    models: FaceModels | None,
    progress: TextIO | None,
    today: str,
) -> FaceSet:
    record = write.read_record(out)
    if record is not None:
        require_same(record["options"], options)
    folders: dict[str, str] = dict(record["folders"]) if record else {}
    labelled = label_sources(sources, folders)
    _say(progress, f"curate: looking for files in {', '.join(labelled)}")
    files = scan(labelled, leave_out=[out], follow_links=options.follow_links)
    known = write.read_known(out)
    plan = write.plan(files, known, labelled)
    _say(progress, _described(plan, len(files)))

    if record is None or any(not file.refused for file in plan.todo):
        models = models or face_models.choose(like=record["models"] if record else None)
        chosen = face_models.described(models)
        if record is not None:
            face_models.require_same_models(record["models"], chosen)
        for note in models.notes:
            _say(progress, f"curate: {note}")
    else:
        chosen = record["models"]
    record = {
        "options": options.binding(),
        "folders": {**folders, **{label: printable(path) for label, path in labelled.items()}},
        "models": chosen,
        "created": record["created"] if record else today,
    }
    write.write_record(out, record)

    if plan.todo:
        assert models is not None or all(file.refused for file in plan.todo)
        _add(out, plan, known, options, models, progress)
        known = write.read_known(out)
    unaccounted = [file.name for file in files if file.name not in known.fates]
    if unaccounted:
        raise DataError(f"{len(unaccounted)} files have no row in the ledger, among them '{unaccounted[0]}'")
    if plan.todo or known.stale or known.gaps or not (out / SET_FILE).exists():
        (out / SET_FILE).unlink(missing_ok=True)  # while shards are rewritten, nobody should open the old index
        with writing(out / SET_FILE, 300 * len(known.fates)):
            retire_stale(out, known)
            faces = finish_set(
                out,
                name=out.resolve().name,
                crop=crop_of(options, chosen),
                made_by=f"fusiform {__version__} curate",
                created=record["created"],
                chunks=known.chunks,
            )
    else:
        faces = FaceSet.open(out)
    write_card(faces, options, record, today=today, vanished=plan.vanished, at_hand={f.name: f for f in files})
    return faces


def _add(
    out: Path,
    plan: write.Plan,
    known: write.Known,
    options: CurateOptions,
    models: FaceModels | None,
    progress: TextIO | None,
) -> None:
    """Look at the files to do and commit them chunk by chunk, in their order."""
    copies = write.Copies(known, plan.todo)
    chunk, faces, done = known.chunks, 0, 0
    pending: list[Photo] = []
    shown = (
        contextlib.nullcontext() if progress is None else Progress(len(plan.todo), "files", "curate", stream=progress)
    )
    try:
        with shown as bar:
            for photo in _looked_at(plan.todo, options, models):
                judged = copies.judge(photo, write.person_of(photo.file.name, options))
                faces += len(judged.kept)
                if bar is not None:
                    bar.advance(1, faces=faces)
                if not _same_fate(known, judged):
                    pending.append(judged)
                if len(pending) == options.chunk_files:
                    write.commit(out, chunk, pending, options)
                    chunk, done, pending = chunk + 1, done + len(pending), []
            if pending:
                write.commit(out, chunk, pending, options)
    except KeyboardInterrupt:
        left = len(plan.todo) - done
        _say(progress, f"curate: stopped; {left:,} files are still to do. The same command goes on from here.")
        raise


def _looked_at(todo: Sequence[SourceFile], options: CurateOptions, models: FaceModels | None) -> Iterator[Photo]:
    """Photos in the order of `todo`, from worker processes."""
    readable = [file for file in todo if not file.refused]
    if models is None or not readable:
        yield from (Photo(file).refuse(file.refused, file.detail) for file in todo)
        return
    load = partial(face_models.load_in_worker, models, options.min_score)
    count = min(options.processes, len(readable))
    with Workers[SourceFile, Photo](load, partial(look, options), count=count) as workers:
        answers = workers.map(readable)
        for file in todo:
            if file.refused:
                yield Photo(file).refuse(file.refused, file.detail)
                continue
            answer = next(answers)
            yield Photo(file).refuse(answer.why, answer.detail) if isinstance(answer, Died) else answer


def _same_fate(known: write.Known, photo: Photo) -> bool:
    """Whether a file that was tried again ended exactly as before, so that its row may stay."""
    fate = known.fates.get(photo.file.name)
    return (
        fate is not None
        and photo.refused == fate.outcome
        and (photo.file.size, photo.file.mtime_ns) == (fate.size, fate.mtime_ns)
        and photo.refused != "duplicate"
    )


def crop_of(options: CurateOptions, chosen: dict[str, object]) -> Crop:
    """The measurement spec's crop for a set made with these options and models."""
    onto = align.template(options.template, options.size)
    return Crop(
        template=onto.family,
        size=onto.size,
        detector=str(chosen["detector"]),
        detector_sha256=str(chosen["detector_sha256"]),
        landmarks=str(chosen["landmarks"]),
        landmarks_sha256=str(chosen["landmarks_sha256"]),
        interpolation=align.RESAMPLING,
    )


def _described(plan: write.Plan, seen: int) -> str:
    parts = [f"{seen:,} files, {len(plan.todo):,} to do"]
    parts += [f"{plan.same:,} done before"] * bool(plan.same)
    parts += [f"{plan.changed:,} changed"] * bool(plan.changed)
    parts += [f"{plan.retried:,} tried again"] * bool(plan.retried)
    parts += [f"{len(plan.vanished):,} in the set are gone from the sources"] * bool(plan.vanished)
    return "curate: " + ", ".join(parts)


def _say(progress: TextIO | None, line: str) -> None:
    if progress is not None:
        progress.write(line + "\n")
        progress.flush()


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop the run as Ctrl-C does, workers and all. Only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
