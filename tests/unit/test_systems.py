"""Nothing that only some systems have is needed to import the package; where it is used, it is asked for first."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "fusiform"
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}
POSIX_NAMES = {
    "os": {
        *("fork", "forkpty", "pread", "pwrite", "geteuid", "getuid", "getgid", "setsid", "killpg", "getpgid", "nice"),
        *("sched_getaffinity", "sched_setaffinity", "sysconf", "statvfs", "register_at_fork", "mkfifo", "getloadavg"),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "wait", "uname", "chown", "posix_fadvise"),
    },
    "signal": {
        "SIGUSR1",
        "SIGUSR2",
        "SIGXCPU",
        "SIGKILL",
        "SIGHUP",
        "SIGALRM",
        "alarm",
        "setitimer",
        "pthread_sigmask",
    },
    "mmap": {"PROT_READ", "MAP_SHARED", "MAP_PRIVATE", "MADV_RANDOM"},
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unguarded(tree: ast.AST) -> list[str]:
    """Uses of what Windows has not, outside of `if sys.platform ...`, `hasattr(...)` and `try: ... except
    AttributeError`, or after a `return` for Windows at the top of the function."""
    found: list[str] = []

    def visit(node: ast.AST, guarded: bool) -> None:
        if isinstance(node, ast.If | ast.IfExp):
            test = ast.unparse(node.test)
            guarded = guarded or "sys.platform" in test or "hasattr(" in test or "os.name" in test
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = [ast.unparse(each) for each in node.body[:3]]
            guarded = guarded or any(text.startswith(("if sys.platform ==", "if not hasattr(")) for text in first)
        if isinstance(node, ast.With):
            guarded = guarded or any("suppress(AttributeError" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(h.type) for h in node.handlers if h.type is not None)
            inner = guarded or "AttributeError" in caught or "ImportError" in caught
            for child in node.body:
                visit(child, inner)
            for child in [*node.handlers, *node.orelse, *node.finalbody]:
                visit(child, guarded)
            return
        if not guarded:
            if isinstance(node, ast.Import):
                found.extend(f"{node.lineno}: import {a.name}" for a in node.names if a.name in POSIX_MODULES)
            if isinstance(node, ast.ImportFrom) and node.module in POSIX_MODULES:
                found.append(f"{node.lineno}: from {node.module}")
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.attr in POSIX_NAMES.get(node.value.id, ())
            ):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.FunctionDef | ast.With | ast.Module | ast.If):
            for child in children:
                visit(child, guarded)
                # what follows `if not hasattr(os, ...): ... return` in the same block is guarded too
                if isinstance(child, ast.If) and "hasattr(" in ast.unparse(child.test):
                    guarded = guarded or isinstance(child.body[-1], ast.Return)
            return
        for child in children:
            visit(child, guarded)

    visit(tree, False)
    return found


def test_the_search_finds_what_it_looks_for():
    assert unguarded(ast.parse("import os\nimport fcntl\ndef f():\n    return os.fork()")) == [
        "2: import fcntl",
        "4: os.fork",
    ]
    assert not unguarded(ast.parse("import sys\nif sys.platform != 'win32':\n    import fcntl"))
    assert not unguarded(ast.parse("import os\nx = os.geteuid() if hasattr(os, 'geteuid') else 0"))


def test_what_windows_has_not_is_asked_for_first():
    found = {str(p.relative_to(PACKAGE)): unguarded(ast.parse(p.read_text(encoding="utf-8"))) for p in sources()}
    assert len(found) > 200
    assert not {name: uses for name, uses in found.items() if uses}


def test_workers_are_never_forked():
    """Fork is not there on Windows, not safe on macOS, and copies locks and threads of OpenMP everywhere else."""
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert 'get_context("fork")' not in text, path
        assert "set_start_method" not in text, path
        if "ProcessPoolExecutor(" in text:
            assert "mp_context=" in text, path


AS_ON_WINDOWS = """
import os, sys, signal, types, multiprocessing, asyncio, subprocess, importlib, pkgutil, pathlib, contextlib, logging
import concurrent.futures, multiprocessing.connection, multiprocessing.shared_memory, socket, ssl, tempfile, http.server
import numpy, PIL.Image, pyarrow.parquet, pydantic, tyro, jinja2, safetensors.numpy, cv2, tqdm
import torch, torchvision, onnxruntime, safetensors.torch, torch.distributed.checkpoint, torch.distributed.fsdp
for name in {extras}:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
for name in {modules}:
    sys.modules[name] = None
for module, names in {names}.items():
    for name in names:
        with contextlib.suppress(AttributeError):
            delattr(sys.modules[module], name) if module in sys.modules else None
import fusiform
locked = []
msvcrt = types.SimpleNamespace(LK_NBLCK=2, locking=lambda file, how, count: locked.append((how, count)))
sys.modules["msvcrt"] = msvcrt
sys.platform = "win32"
for found in pkgutil.walk_packages(fusiform.__path__, "fusiform."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
from pathlib import Path
from fusiform.durable import FolderLock, open_sealed_json, replace_file, sealed_json
from fusiform.export.loading import load_onnx
folder = Path({folder!r})
replace_file(folder / "a.json", sealed_json({{"a": 1}}))
assert open_sealed_json(folder / "a.json") == {{"a": 1}}
lock = FolderLock(folder)
assert locked == [(2, 1)]
assert "process" in (folder / "lock").read_text()
lock.release()
from fusiform.curate.meter import Meter
assert "faces/s" in Meter().said(2, 2, 1)
"""


@pytest.mark.slow
def test_every_module_is_imported_where_posix_is_not(tmp_path):
    """Linux without what Windows has not: no proof that it works there, but none of these names can be missed."""
    code = AS_ON_WINDOWS.format(
        extras=["fastapi", "uvicorn", "scipy.optimize", "numba", "lmdb", "h5py", "duckdb", "faiss", "fsspec", "onnx"],
        modules=sorted(POSIX_MODULES - {"posix"}),
        names={module: sorted(names) for module, names in POSIX_NAMES.items()},
        folder=str(tmp_path),
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
