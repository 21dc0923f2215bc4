"""Where and with what a bench ran: what every results file begins with."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = (
    "triows", "trio", "numba", "numpy", "attrs", "httptools", "websockets", "trio-websocket",
    "picows", "aiohttp", "uvloop", "coredis",
)  # fmt: skip


def describe(script: str, argv: Sequence[str]) -> dict[str, object]:
    """Return the command, the date, the commit, the machine and the versions."""
    return {
        "command": shlex.join(["python", f"benches/{Path(script).name}", *argv]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "machine": _machine(),
        "versions": _versions(),
    }


def keep(results: dict[str, object], output: Path | None) -> None:
    """Write the results file, if one is wanted."""
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _machine() -> dict[str, object]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=HERE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return result.stdout.strip()
