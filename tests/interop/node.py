"""Where Node's ws lives: installed once, outside the repository, exactly as locked."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
MANIFESTS = [HERE / "package.json", HERE / "package-lock.json"]
INSTALL_TIMEOUT = 100.0


def node_modules() -> Path:
    """The directory to give to Node as ``NODE_PATH``, filled on first use.

    Skips the test where there is no Node or nothing to install from, or fails
    it where ``CI`` is "true".
    """
    home = _cache() / _version()
    if not home.exists():
        _install(home)
    return home / "node_modules"


def find_node() -> str:
    """The path of the interpreter; the same rule where there is none."""
    return shutil.which("node") or _give_up("there is no node")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "triows-tests"


def _version() -> str:
    octets = b"".join(manifest.read_bytes() for manifest in MANIFESTS)
    return f"node-{hashlib.sha256(octets).hexdigest()[:16]}"


def _install(home: Path) -> None:
    """Install beside *home* and move the result there, so that two at once do no harm."""
    npm = shutil.which("npm") or _give_up("there is no npm")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as directory:
        for manifest in MANIFESTS:
            shutil.copy(manifest, directory)
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            subprocess.run(
                command, cwd=directory, check=True, capture_output=True, timeout=INSTALL_TIMEOUT
            )
        except (subprocess.SubprocessError, OSError) as error:
            _give_up(f"npm could not install ws: {error}")
        if not home.exists():
            shutil.copytree(directory, home, dirs_exist_ok=True)


def _give_up(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
