"""Where compiled kernels are kept between runs, and whom that place may belong to.

A cached kernel is a pickle with machine code inside: whoever writes it runs
code as its reader. So the cache is one directory which only the effective user
can write, created with mode 0700 below the user's cache root, and named after
a digest of everything that the machine code depends on: the kernels' sources,
numba, llvmlite, Python, the CPU and numba's settings. A directory that belongs to
someone else, that group or world may write, or that is a symbolic link is
refused with one `CacheWarning`; kernels are then compiled in memory.

A name can be made to mean another directory between its check and its use.
The directory is therefore opened once and judged through its descriptor, and
its files are reached through that same descriptor, each judged after it was
opened. A file starts with a digest of its name and content, so that
a truncated or damaged one is found before anything is unpickled. It is no
defence against its owner, and none is needed.

Where the system has neither owners nor descriptors of directories (Windows),
the user's profile is what protects the cache, and only the digests are checked.

This module knows files and octets. What a kernel is, it does not know.
"""

import contextlib
import functools
import hashlib
import importlib.resources
import os
import re
import stat
import sys
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import llvmlite
import numba
from numba.core.registry import cpu_target

_SUFFIX: Final = ".kernel"
_DIRECTORY_NAME: Final = re.compile(r"kernels-[0-9a-f]{32}")
_FILE_NAME: Final = re.compile(r"[\w.-]+\.kernel(\.[0-9a-f]{32})?")
_DIGEST_SIZE: Final = hashlib.sha256().digest_size
_HAS_OWNERS: Final = hasattr(os, "geteuid")
_HAS_DESCRIPTORS: Final = os.open in os.supports_dir_fd

_SETTINGS: Final = (
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "LOOP_VECTORIZE",
    "OPT",
    "SLP_VECTORIZE",
)
"""numba's settings that change the machine code, beside those of the CPU."""


class CacheWarning(UserWarning):
    """Compiled kernels cannot be kept, so that every start compiles them anew."""


class _RefusedError(Exception):
    """Why a directory or a file is not used."""


@attrs.define(eq=False)
class Store:
    """An open cache directory that has been found trustworthy."""

    path: Path
    _descriptor: int | None

    def load(self, name: str) -> bytes | None:
        """Read what was saved as *name*; delete it if it is not whole and ours.

        Returns:
            The octets that were saved, or None.
        """
        try:
            content = self._read(name)
        except FileNotFoundError:
            return None
        except (OSError, _RefusedError):
            self.discard(name)
            return None
        data = content[_DIGEST_SIZE:]
        if content[:_DIGEST_SIZE] != self._digest(name, data):
            self.discard(name)
            return None
        return data

    def save(self, name: str, data: bytes) -> None:
        """Keep *data* as *name*, so that another process sees all of it or none.

        Raises:
            OSError: it could not be written; what was there before is still there.
        """
        # Not tempfile: it knows no directory descriptors.
        partial = f"{name}{_SUFFIX}.{uuid.uuid4().hex}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self._at(partial), flags, 0o600, dir_fd=self._descriptor)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._digest(name, data))
                file.write(data)
            os.replace(
                self._at(partial),
                self._at(name + _SUFFIX),
                src_dir_fd=self._descriptor,
                dst_dir_fd=self._descriptor,
            )
        except BaseException:
            self._unlink(partial)
            raise

    def discard(self, name: str) -> None:
        """Delete what was saved as *name*, if anything was."""
        self._unlink(name + _SUFFIX)

    def clear(self) -> int:
        """Delete every file that a store wrote here; return how many there were."""
        names = os.listdir(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH208 - a Path knows no descriptors
        return sum(self._unlink(name) for name in names if _FILE_NAME.fullmatch(name))

    def close(self) -> None:
        """Let go of the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self, name: str) -> bytes:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY
        for optional in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
            flags |= getattr(os, optional, 0)
        descriptor = os.open(self._at(name + _SUFFIX), flags, dir_fd=self._descriptor)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _RefusedError("not a regular file")
            _judge(status)
            return file.read()

    def _unlink(self, name: str) -> bool:
        try:
            os.unlink(self._at(name), dir_fd=self._descriptor)
        except OSError:
            return False
        return True

    def _at(self, name: str) -> str:
        return name if self._descriptor is not None else str(self.path / name)

    def _digest(self, name: str, data: bytes) -> bytes:
        # The directory's name is part of it: files moved from one to another are stale.
        return hashlib.sha256(f"{self.path.name}/{name}\0".encode() + data).digest()


def cache_directory() -> Path | None:
    """The directory in which compiled kernels are kept, made or not.

    Returns:
        Its path, or None where there is no place for it or nothing is compiled.
    """
    root = _cache_root()
    if root is None or numba.config.DISABLE_JIT:
        return None
    return root / f"kernels-{_fingerprint()}"


@contextlib.contextmanager
def open_store() -> Iterator[Store | None]:
    """Open the cache directory, made if it is not there; None if it may not be used.

    Warns:
        CacheWarning: why there is no directory to be used.
    """
    path = cache_directory()
    store = None
    if path is None:
        warn("none of TRIOWS_CACHE_DIR, XDG_CACHE_HOME and a home directory is set")
    else:
        try:
            _make_private(path)
            store = _open(path)
        except (OSError, _RefusedError) as error:
            warn(f"not using {path}: {error}")
    try:
        yield store
    finally:
        if store is not None:
            store.close()


def clear_cache() -> int:
    """Delete the compiled kernels of this and every other version of triows.

    What belongs to someone else, or was not written by triows, is left alone.

    Returns:
        How many files were deleted.
    """
    root = _cache_root()
    deleted = 0
    for path in root.glob("kernels-*") if root is not None else ():
        if not _DIRECTORY_NAME.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError, _RefusedError):
            store = _open(path)
            with contextlib.closing(store):
                deleted += store.clear()
            path.rmdir()
    return deleted


def warn(why: str) -> None:
    """Say that kernels are compiled in memory, and why."""
    warnings.warn(
        f"{why}; kernels are compiled in memory at every start",
        CacheWarning,
        stacklevel=2,
    )


def _cache_root() -> Path | None:
    if given := os.environ.get("TRIOWS_CACHE_DIR"):
        return Path(given).absolute()
    # The XDG base directory specification: a relative path is to be ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "triows"
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the user database
        return None
    return home / ".cache" / "triows" if home.is_absolute() else None


def _make_private(path: Path) -> None:
    """Make *path* and what is missing above it, each for the user alone."""
    if not path.parent.is_dir():
        _make_private(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)


def _open(path: Path) -> Store:
    if not _HAS_DESCRIPTORS:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise _RefusedError("not a directory")
        _judge(status)
        return Store(path, None)
    if path.is_symlink():  # O_NOFOLLOW is what protects; this says it in plain words
        raise _RefusedError("a symbolic link")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _judge(os.fstat(descriptor))
    except _RefusedError:
        os.close(descriptor)
        raise
    return Store(path, descriptor)


def _judge(status: os.stat_result) -> None:
    """Refuse what another user owns or can write."""
    if not _HAS_OWNERS:
        return
    if status.st_uid != os.geteuid():
        raise _RefusedError(f"owned by user {status.st_uid}, not {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _RefusedError(f"mode {stat.S_IMODE(status.st_mode):04o} lets others write")


@functools.cache
def _fingerprint() -> str:
    """Digest everything that decides what machine code a kernel becomes."""
    digest = hashlib.sha256()
    for part in (
        numba.__version__,
        llvmlite.__version__,
        sys.version,
        *cpu_target.target_context.codegen().magic_tuple(),  # triple, CPU name, its features
        *(f"{name}={getattr(numba.config, name, None)}" for name in _SETTINGS),
    ):
        digest.update(f"{part}\0".encode())
    for name, source in _sources():
        digest.update(f"{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()[:32]


def _sources() -> Iterator[tuple[str, bytes]]:
    """The name and content of every file that a kernel's code comes from."""
    package = importlib.resources.files("triows")
    yield "_spec.py", (package / "_spec.py").read_bytes()
    for entry in sorted((package / "_kernels").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            yield entry.name, entry.read_bytes()
