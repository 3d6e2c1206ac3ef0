"""How fast a run was, in numbers that plan a larger one."""

from __future__ import annotations

import sys
import time

if sys.platform != "win32":
    import resource


class Meter:
    """Measures from its making on: wall-clock time, and CPU time of this process and of its ended children."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()

    def said(self, files: int, faces: int, workers: int) -> str:
        """One line: faces a second, and core-hours for a million files and faces."""
        wall, cpu = time.monotonic() - self._wall, _cpu_seconds() - self._cpu
        line = f"curate: {files:,} files, {faces:,} faces in {wall:.1f} s with {workers} workers"
        if not files or wall <= 0:
            return line
        line += f": {faces / wall:.1f} faces/s; {_hours(cpu, files)} core-hours for a million files"
        return line + (f", {_hours(cpu, faces)} for a million faces" if faces else "")


def _hours(cpu: float, count: int) -> str:
    return f"{cpu / count * 1e6 / 3600:.3g}"


def _cpu_seconds() -> float:
    if sys.platform == "win32":  # which does not add up its ended children
        return time.process_time()
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
