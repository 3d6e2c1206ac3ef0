"""Every error fusiform raises on purpose, and how it is worded.

An error says four things, in this order: what happened, the value that caused it, what was expected, what to type next.
`FusiformError` takes them as arguments so that none is forgotten, and the command line prints the message without a
traceback and exits with the class's `exit_code` (listed in `docs/errors.md`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FusiformError(Exception):
    """The root: catch this to catch everything fusiform refuses on purpose.

    Args:
        what: what happened, with the offending value in it, as a sentence without a full stop.
        expected: what would have been right.
        do: what to type or do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: str | None = None, do: str | None = None) -> None:
        self.what, self.expected, self.do = what, expected, do
        parts = [what.rstrip(".")]
        if expected:
            parts.append(f"Expected: {expected.rstrip('.')}")
        if do:
            parts.append(do if do.startswith(("Did you mean", "Known:")) else f"Do: {do}")
        super().__init__(". ".join(parts) + ("" if parts[-1].endswith((".", "?")) else "."))

    def __reduce__(self) -> tuple[object, ...]:  # keeps the message whole when it crosses a process border
        return _rebuild, (type(self), self.what, self.expected, self.do, self.__dict__)


def _rebuild(
    cls: type[FusiformError], what: str, expected: str | None, do: str | None, state: dict[str, object]
) -> FusiformError:
    error = cls.__new__(cls)
    FusiformError.__init__(error, what, expected=expected, do=do)
    error.__dict__.update(state)
    return error


class ConfigError(FusiformError):
    """A flag, recipe, template or other name that the user chose is wrong."""

    exit_code = 2


class DataError(FusiformError):
    """An image, shard, set or label file is missing, damaged or of another form than it should be."""

    exit_code = 4


class SetMissing(DataError):
    """A labelled set that a task needs is not on this machine; the message says where to get it and what to type."""


class WeightsError(FusiformError):
    """A weight file is missing, damaged, of another licence or layout than asked for."""

    exit_code = 5


class Diverged(FusiformError):
    """Training produced a number that is not finite; nothing after it can be trusted."""

    exit_code = 6


class RunBusy(FusiformError):
    """Another living process holds the run folder or set folder."""

    exit_code = 3


class RankLost(FusiformError):
    """Another process of the same run died, stopped for an error of its own, or gives no sign of life."""

    exit_code = 7


class OutOfMemory(FusiformError):
    """Training needs more memory than there is; the message names the flags that need less."""

    exit_code = 8


class Interrupted(FusiformError):
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGUSR1), saved its state, and the same command continues it."""

    exit_code = 130
    step: int = 0
    """Steps that are done and saved."""

    @classmethod
    def at(cls, step: int, place: str) -> Interrupted:
        stop = cls(f"Stopped after {step:,} steps, saved in {place}", do="type the same command to go on")
        stop.step = step
        return stop


class FusiformWarning(UserWarning):
    """Something the user should read although the work goes on. Tests turn it into an error."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence that follows "There is no X 'name'": the nearest known name, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    if near:
        return f"Did you mean '{near[0]}'?"
    return "Known: " + (", ".join(names) if names else "none") + "."
