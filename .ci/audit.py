"""Known vulnerabilities of the exact versions in constraints.txt, by pip-audit: what `make check` runs at its end.

Advisories come from the network. Where none can be had, that is said, in one line, and nothing fails: an audit that
could not be made is no finding. Neither is it a clean bill: the line says how many packages were looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
SERVICES = ("pypi", "osv")
SECONDS = 300


def verdict(report: dict[str, Any] | None, why: str = "") -> tuple[str, int]:
    """What to say about a report of pip-audit (None: there is none), and the exit code."""
    packages = [] if report is None else report["dependencies"]
    looked_up = [each for each in packages if "skip_reason" not in each]
    if not looked_up:
        reason = why or next((each["skip_reason"] for each in packages), "no packages")
        said = f"dependency audit: not made, because no advisories can be had from here ({reason}). "
        return said + "Do: make audit on a machine that reaches pypi.org or api.osv.dev", 0
    found = [
        f"  {each['name']} {each['version']}: {advisory['id']}, repaired in "
        f"{', '.join(advisory['fix_versions']) or 'no version yet'}"
        for each in looked_up
        for advisory in each["vulns"]
    ]
    said = f"dependency audit: {len(looked_up)} of {len(packages)} packages looked up, {len(found)} advisories"
    return "\n".join([said, *found]), int(bool(found))


def run(service: str) -> tuple[dict[str, Any] | None, str]:
    """pip-audit's report, or None and why there is none."""
    words = ["-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "-s", service, "-f", "json"]
    words += ["--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", *words], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"{service}: no answer within {SECONDS} s"
    try:
        return dict(json.loads(done.stdout)), ""
    except ValueError:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no output")
        return None, f"{service}: {last.strip()[:200]}"


def main() -> int:
    said, code = "", 0
    for service in SERVICES:
        report, why = run(service)
        said, code = verdict(report, why)
        if ": not made" not in said:
            break
    sys.stdout.write(said + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
