"""Where packages from npm live: installed once, outside the repository, exactly as locked."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
MANIFESTS = ("package.json", "package-lock.json")
INSTALL_TIMEOUT = 100.0


def node_modules(wanted: Path = HERE) -> Path:
    """The directory to give to Node as ``NODE_PATH``, filled on first use.

    *wanted* has the manifests of what is wanted; by default Node's ws.

    Skips the test where there is no Node or nothing to install from, or fails
    it where ``CI`` is "true".
    """
    manifests = [wanted / name for name in MANIFESTS]
    home = _cache() / _version(manifests)
    if not home.exists():
        _install(manifests, home)
    return home / "node_modules"


def find_node() -> str:
    """The path of the interpreter; the same rule where there is none."""
    return shutil.which("node") or _give_up("there is no node")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "triows-tests"


def _version(manifests: list[Path]) -> str:
    octets = b"".join(manifest.read_bytes() for manifest in manifests)
    return f"node-{hashlib.sha256(octets).hexdigest()[:16]}"


def _install(manifests: list[Path], home: Path) -> None:
    """Install beside *home* and move the result there, so that two at once do no harm."""
    npm = shutil.which("npm") or _give_up("there is no npm")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as directory:
        for manifest in manifests:
            shutil.copy(manifest, directory)
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            subprocess.run(
                command, cwd=directory, check=True, capture_output=True, timeout=INSTALL_TIMEOUT
            )
        except (subprocess.SubprocessError, OSError) as error:
            _give_up(f"npm could not install what {manifests[0]} wants: {error}")
        if not home.exists():
            shutil.copytree(directory, home, dirs_exist_ok=True)


def _give_up(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
