"""`curate`: folders of photos in, a set of faces out.

scan -> what is new -> for each file, in worker processes: decode, detect, landmarks, align, measure, encode -> commit
by chunks -> over the whole set: screen, copies, people, splits -> one index, one ledger, one data card.

The result is a function of the files and the options: not of the number of workers, nor of how often the run was
stopped. A chunk is committed whole or not at all and in order, so what is done is always a beginning of the list of
files, and the same command goes on after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from fusiform import __version__, ledger_history
from fusiform.curate import models as face_models
from fusiform.curate import withdrawing, write
from fusiform.curate.book import Book, Plan
from fusiform.curate.card import write_card
from fusiform.curate.chunks import retire_stale
from fusiform.curate.judge import judge
from fusiform.curate.listing import found
from fusiform.curate.meter import Meter
from fusiform.curate.models import FaceModels
from fusiform.curate.options import CurateOptions, require_same
from fusiform.curate.photo import Photo, look
from fusiform.curate.pool import Died, Workers
from fusiform.curate.scan import SourceFile, label_sources, printable
from fusiform.durable import FolderLock, writing
from fusiform.errors import DataError
from fusiform.faces import align
from fusiform.faces.faceset import SET_FILE, FaceSet
from fusiform.faces.shards import finish_set
from fusiform.measurement import Crop
from fusiform.progress import Progress


def curate(
    sources: Sequence[Path | str],
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
        sources: folders, searched to the bottom; single photos or containers of photos (`fusiform.curate.sources`);
            `@FILE` for a list of addresses; addresses of object stores.
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
    sources: Sequence[Path | str],
    out: Path,
    options: CurateOptions,
    models: FaceModels | None,
    progress: TextIO | None,
    today: str,
) -> FaceSet:
    withdrawing.resume(out, today)
    record = write.read_record(out)
    before = withdrawing.digest_of(out)
    if record is not None:
        require_same(record["options"], options)
    folders: dict[str, str] = dict(record["folders"]) if record else {}
    labelled = label_sources(sources, folders)
    _say(progress, f"curate: looking for files in {', '.join(labelled)}")
    with writing(out, 1 << 20):
        book = Book(out)
    try:
        book.read_commits()
        book.add(found(labelled, out, options))
        plan = book.plan(labelled)
        _say(progress, _described(plan))
        if record is None or plan.readable:
            models = models or face_models.choose(like=record["models"] if record else None)
            chosen = face_models.described(models)
            if record is not None:
                face_models.require_same_models(record["models"], chosen)
            for note in models.notes:
                _say(progress, f"curate: {note}")
        else:
            chosen = record["models"]
        decided = options.deciding()
        stands = record is not None and record.get("deciding") == decided
        record = {
            "options": options.binding(),
            "folders": {**folders, **{label: printable(path) for label, path in labelled.items()}},
            "models": chosen,
            "created": record["created"] if record else today,
            # what is added is not in the index until the end of this run
            "deciding": record.get("deciding") if record and not plan.todo else None,
            "notes": record.get("notes", []) if record else [],
        }
        write.write_record(out, record)

        if plan.todo:
            _add(out, plan, book, options, models if plan.readable else None, progress)
            book.read_commits()
        unaccounted = book.unaccounted()
        if unaccounted:
            raise DataError(f"{len(unaccounted)} files have no row in the ledger, among them '{unaccounted[0]}'")
        if plan.todo or book.stale or book.gaps or not stands or not (out / SET_FILE).exists():
            (out / SET_FILE).unlink(missing_ok=True)  # while shards are rewritten, nobody should open the old index
            with writing(out / SET_FILE, 300 * book.rows()):
                retire_stale(out, book)
                _say(progress, "curate: deciding over the whole set")
                judgement = judge(out, range(book.chunks), options)
                faces = finish_set(
                    out,
                    name=out.resolve().name,
                    crop=crop_of(options, chosen),
                    made_by=f"fusiform {__version__} curate",
                    created=record["created"],
                    chunks=book.chunks,
                    revise=judgement.revise,
                )
            record |= {"deciding": decided, "notes": list(judgement.notes)}
            write.write_record(out, record)
            who = ledger_history.account()
            made = ledger_history.Change(today, "curate", who, _settings(options), before, faces.digest, len(faces))
            ledger_history.note(out, made)
        else:
            faces = FaceSet.open(out)
        shown = {**record, "models": {**chosen, "notes": [*chosen["notes"], *record["notes"]]}}
        write_card(faces, options, shown, today=today, vanished=plan.vanished, at_hand=book)
        return faces
    finally:
        book.close()


def _add(
    out: Path,
    plan: Plan,
    book: Book,
    options: CurateOptions,
    models: FaceModels | None,
    progress: TextIO | None,
) -> None:
    """Look at the files to do and commit them chunk by chunk, in their order."""
    chunk, faces, done = book.chunks, 0, 0
    pending: list[Photo] = []
    shown = contextlib.nullcontext() if progress is None else Progress(plan.todo, "files", "curate", stream=progress)
    meter = Meter()
    try:
        with shown as bar, contextlib.closing(_looked_at(book, options, models)) as photos:
            for photo in photos:
                judged = book.judge(photo, options.source)
                faces += len(judged.kept)
                if bar is not None:
                    bar.advance(1, faces=faces)
                if not book.same_fate(judged):
                    pending.append(judged)
                if len(pending) == options.chunk_files:
                    write.commit(out, chunk, pending, options)
                    chunk, done, pending = chunk + 1, done + len(pending), []
            if pending:
                write.commit(out, chunk, pending, options)
    except KeyboardInterrupt:
        left = plan.todo - done
        _say(progress, f"curate: stopped; {left:,} files are still to do. The same command goes on from here.")
        raise
    _say(progress, meter.said(plan.todo, faces, options.processes))


def _looked_at(book: Book, options: CurateOptions, models: FaceModels | None) -> Generator[Photo]:
    """Photos in the order of the scan, from worker processes."""
    if models is None:
        yield from (Photo(file).refuse(file.refused, file.detail) for file in book.todo())
        return
    with _answers(book, options, models) as answers:
        for file in book.todo():
            if file.refused:
                yield Photo(file).refuse(file.refused, file.detail)
                continue
            answer = next(answers)
            yield Photo(file).refuse(answer.why, answer.detail) if isinstance(answer, Died) else answer


@contextlib.contextmanager
def _answers(book: Book, options: CurateOptions, models: FaceModels) -> Iterator[Iterator[Photo | Died]]:
    """What became of each readable file, in their order."""
    files = book.todo(readable=True)
    if options.engine == "ray":
        from fusiform.curate.on_ray import looked_at

        with contextlib.closing(looked_at(files, options, models)) as answers:
            yield answers
        return
    load = partial(face_models.load_in_worker, models, options.min_score)
    with Workers[SourceFile, Photo](load, partial(look, options), count=options.processes) as workers:
        yield workers.map(files)


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


def _settings(options: CurateOptions) -> str:
    """Version, and the settings that are not the default's, without names of folders or collections."""
    usual, hidden = CurateOptions(), {"source", "roots", "embedder", "workers", "engine"}
    own = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in hidden}
    changed = [f"{name}={value}" for name, value in own.items() if value != getattr(usual, name)]
    return " ".join([f"fusiform {__version__} curate", *changed])


def _described(plan: Plan) -> str:
    parts = [f"{plan.seen:,} files, {plan.todo:,} to do"]
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
