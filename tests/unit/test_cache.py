"""Where compiled kernels are kept, and from whom they are never taken."""

import contextlib
import os
import pickle
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from triows._kernels import CacheWarning, cache_directory, clear_cache
from triows._kernels import _cache as cache_module
from triows._kernels._registry import JIT, Registry

ROOT = Path(__file__).parents[2]
SOMEONE_ELSE = 65_534

pytestmark = [
    pytest.mark.skipif(not JIT, reason="nothing is compiled under NUMBA_DISABLE_JIT=1"),
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no owners and modes"),
]
needs_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can give a file away"
)
not_for_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere"
)


def triple(number):
    """A function that becomes a kernel."""
    return 3 * number


def warm_up():
    """Compile one kernel, or load it; return the report after a call of the kernel."""
    registry = Registry()
    kernel = registry.kernel("int64(int64)")(triple)
    report = registry.warm_up()
    assert kernel(14) == 42
    return report


def is_cached():
    """Whether the kernel came from the cache."""
    return warm_up().kernels[0].is_cached


def touch_when_unpickled(path):
    """A pickle that creates the file *path* in whoever loads it."""

    class Payload:
        def __reduce__(self):
            return Path.touch, (path,)

    return pickle.dumps(Payload())


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A cache root that does not exist yet."""
    monkeypatch.setenv("TRIOWS_CACHE_DIR", str(tmp_path / "deep" / "root"))
    return tmp_path / "deep" / "root"


@pytest.fixture
def directory(root):
    """The cache directory, not made yet."""
    return cache_directory()


@pytest.fixture
def cached(directory):
    """The file with the only kernel of a filled cache."""
    assert not is_cached()
    (file,) = directory.iterdir()
    return file


def mode(path):
    """The permission bits of *path*."""
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_made_is_private(root, directory):
    """The directory, what is missing above it, and the files are the user's alone."""
    before = os.umask(0)
    try:
        warm_up()
    finally:
        os.umask(before)

    assert [mode(path) for path in (root.parent, root, directory)] == [0o700] * 3
    assert [mode(path) for path in directory.iterdir()] == [0o600]


def test_a_second_start_loads(cached):
    """What one start compiles, the next one loads."""
    assert is_cached()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRIOWS_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"TRIOWS_CACHE_DIR": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/triows"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/triows"),
        ({"HOME": "/c"}, "/c/.cache/triows"),
    ],
)
def test_where_the_cache_is(environment, expected, monkeypatch):
    """TRIOWS_CACHE_DIR goes before XDG_CACHE_HOME, and that before the home directory."""
    for name in ("TRIOWS_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert cache_directory().parent == Path(expected)


def no_home():
    """What pathlib does for a user without a home directory."""
    raise RuntimeError


@pytest.mark.parametrize("home", [no_home, lambda: Path("relative")])
def test_without_any_root(home, monkeypatch):
    """With nowhere to keep kernels they are compiled, with a warning."""
    monkeypatch.delenv("TRIOWS_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)

    with pytest.warns(CacheWarning, match="home directory"):
        report = warm_up()

    assert report.directory is None
    assert clear_cache() == 0


def refused(why):
    """One warning that says *why*, and a kernel that works all the same."""
    with pytest.warns(CacheWarning, match=why) as caught:
        report = warm_up()
    assert len(caught) == 1
    assert report.directory is None
    assert not report.kernels[0].is_cached


@needs_root
def test_a_directory_of_someone_else_is_refused(cached, directory):
    """What another user owns is not read, even if its files are in order."""
    os.chown(directory, SOMEONE_ELSE, -1)

    refused("owned by user 65534")


@pytest.mark.parametrize("permissions", [0o777, 0o720, 0o702, 0o1777])
def test_a_directory_that_others_can_write_is_refused(cached, directory, permissions):
    """Group and world may not write where kernels are kept."""
    directory.chmod(permissions)

    refused("lets others write")


def test_a_directory_that_others_can_read_is_used(cached, directory):
    """There is nothing secret in machine code."""
    directory.chmod(0o755)

    assert is_cached()


def test_a_symbolic_link_is_refused(cached, directory, tmp_path):
    """A link is not followed, not even to a directory that is in order."""
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")

    refused("symbolic link")


def test_a_link_put_in_place_after_the_look_is_refused(cached, directory, tmp_path, monkeypatch):
    """Opening does not follow a link either."""
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(Path, "is_symlink", lambda _: False)

    refused("not using")


def test_a_file_in_the_place_of_the_directory_is_refused(directory):
    """What is no directory is not used."""
    directory.parent.mkdir(parents=True)
    directory.touch()

    refused("Not a directory")


def test_a_root_that_cannot_be_made(root):
    """A file where the root should be leaves kernels in memory."""
    root.parent.mkdir()
    root.touch()

    refused("not using")


@not_for_root
def test_a_home_that_cannot_be_written(root):
    """A user whose home is read-only compiles in memory."""
    root.parent.mkdir(mode=0o500)

    refused("Permission denied")


@needs_root
def test_a_poisoned_directory_of_someone_else_is_not_unpickled(cached, directory, tmp_path):
    """A pickle that someone else left is never loaded."""
    poison(directory, cached, tmp_path / "executed")
    os.chown(directory, SOMEONE_ELSE, -1)

    refused("owned by user")

    assert not (tmp_path / "executed").exists()


def poison(directory, cached, path):
    """Replace a cached kernel by a valid file whose pickle creates *path*."""
    with cache_module.open_store() as store:
        store.save(cached.stem, touch_when_unpickled(path))
    assert [file.name for file in directory.iterdir()] == [cached.name]


def test_poison_would_work(cached, directory, tmp_path):
    """The pickle of these tests does its harm where the user left it for himself."""
    poison(directory, cached, tmp_path / "executed")

    assert not is_cached()

    assert (tmp_path / "executed").exists()


@needs_root
def test_a_poisoned_file_of_someone_else_is_not_unpickled(cached, directory, tmp_path):
    """In the user's own directory, too, someone else's file is deleted unread."""
    poison(directory, cached, tmp_path / "executed")
    os.chown(cached, SOMEONE_ELSE, -1)

    assert not is_cached()

    assert not (tmp_path / "executed").exists()
    assert is_cached()


def test_a_poisoned_file_that_others_can_write_is_not_unpickled(cached, directory, tmp_path):
    """What others could have changed is deleted unread."""
    poison(directory, cached, tmp_path / "executed")
    cached.chmod(0o666)

    assert not is_cached()

    assert not (tmp_path / "executed").exists()
    assert is_cached()


def test_a_file_without_its_digest_is_not_unpickled(cached, tmp_path):
    """Octets that no store wrote do not get as far as pickle."""
    cached.write_bytes(touch_when_unpickled(tmp_path / "executed"))

    assert not is_cached()

    assert not (tmp_path / "executed").exists()


def test_a_linked_file_is_replaced(cached, tmp_path):
    """A link in the place of a file is not followed."""
    cached.rename(tmp_path / "elsewhere")
    cached.symlink_to(tmp_path / "elsewhere")

    assert not is_cached()
    assert not cached.is_symlink()


def test_a_pipe_is_replaced(cached):
    """A named pipe without a writer neither blocks nor confuses."""
    cached.unlink()
    os.mkfifo(cached)

    assert not is_cached()
    assert is_cached()


def test_a_directory_in_the_place_of_a_file_is_survived(cached):
    """What can be neither read nor deleted costs a compilation and a warning."""
    cached.unlink()
    cached.mkdir()

    with pytest.warns(CacheWarning, match="cannot keep triple"):
        assert not is_cached()


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 1_000, -1])
def test_a_truncated_file_is_replaced(cached, size):
    """A file cut anywhere is deleted; the kernel is compiled and kept again."""
    cached.write_bytes(cached.read_bytes()[:size])

    assert not is_cached()
    assert is_cached()


@pytest.mark.parametrize("position", [0, 31, 32, 100, -1])
def test_a_corrupt_file_is_replaced(cached, position):
    """A file with one octet changed is deleted; the kernel is compiled and kept again."""
    content = bytearray(cached.read_bytes())
    content[position] ^= 1
    cached.write_bytes(content)

    assert not is_cached()
    assert is_cached()


@pytest.mark.parametrize("data", [b"", b"\x80", pickle.dumps(()), pickle.dumps((1, 2, 3))])
def test_a_file_that_is_no_kernel_is_replaced(cached, data):
    """A file that is in order but means nothing is deleted; the kernel is compiled again."""
    with cache_module.open_store() as store:
        store.save(cached.stem, data)

    assert not is_cached()
    assert is_cached()


def test_a_file_of_another_version_is_not_loaded(cached, directory, monkeypatch):
    """A file moved here from the directory of other sources is stale."""
    content = cached.read_bytes()
    monkeypatch.setattr(cache_module, "_fingerprint", lambda: "0" * 32)
    other = cache_directory()
    other.mkdir(mode=0o700)
    (other / cached.name).write_bytes(content)

    assert not is_cached()


def test_a_full_disk_is_survived(directory, monkeypatch):
    """What cannot be kept is compiled, with a warning, and leaves no partial file."""
    directory.mkdir(parents=True, mode=0o700)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.warns(CacheWarning, match="cannot keep triple: .*No space left"):
        report = warm_up()

    assert not report.kernels[0].is_cached
    assert list(directory.iterdir()) == []


def test_what_decides_the_name(monkeypatch):
    """Other sources, versions, CPUs or settings of numba use another directory."""
    fingerprint = cache_module._fingerprint.__wrapped__
    names = {fingerprint(), fingerprint()}
    assert len(names) == 1

    for target, name, value in (
        (cache_module.numba, "__version__", "0.0"),
        (cache_module.llvmlite, "__version__", "0.0"),
        (cache_module.sys, "version", "3.0"),
        (cache_module.numba.config, "BOUNDSCHECK", 1),
        (cache_module, "_sources", lambda: [("_spec.py", b"")]),
        (
            type(cache_module.cpu_target.target_context.codegen()),
            "magic_tuple",
            lambda _: ("triple", "cpu", "features"),
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            names.add(fingerprint())

    assert len(names) == 7


def test_every_source_is_part_of_the_name():
    """All files of the kernels are digested, and what they take from the specification."""
    names = {name for name, _ in cache_module._sources()}

    assert names == {"_spec.py"} | {
        path.name for path in Path(cache_module.__file__).parent.glob("*.py")
    }


def test_clearing(cached, directory, root):
    """Clearing deletes what every version kept, and the directories."""
    other = root / f"kernels-{'0' * 32}"
    other.mkdir(mode=0o700)
    (other / "mask-0123456789abcdef.kernel").touch()
    (other / f"mask-0123456789abcdef.kernel.{'0' * 32}").touch()

    assert clear_cache() == 3

    assert list(root.iterdir()) == []
    assert clear_cache() == 0


def test_clearing_leaves_what_is_not_ours(cached, directory, root):
    """Clearing deletes no file and no directory that triows did not write."""
    (directory / "notes.txt").touch()
    (root / "kernels-of-maize").mkdir()
    (root / "kernels-of-maize" / "a.kernel").touch()
    open_to_all = root / f"kernels-{'1' * 32}"
    open_to_all.mkdir()
    (open_to_all / "a.kernel").touch()
    open_to_all.chmod(0o777)

    assert clear_cache() == 1

    assert (directory / "notes.txt").exists()
    assert (root / "kernels-of-maize" / "a.kernel").exists()
    assert (open_to_all / "a.kernel").exists()


def test_without_descriptors_of_directories(root, directory, monkeypatch):
    """Where directories cannot be opened, paths do, and the checks stay."""
    monkeypatch.setattr(cache_module, "_HAS_DESCRIPTORS", False)

    assert not is_cached()
    assert is_cached()
    directory.chmod(0o777)
    refused("lets others write")
    directory.chmod(0o700)
    assert clear_cache() == 1
    directory.touch()
    refused("not a directory")


def test_without_owners(directory, monkeypatch):
    """Where the system has no owners, none are asked for."""
    monkeypatch.setattr(cache_module, "_HAS_OWNERS", False)
    assert not is_cached()
    directory.chmod(0o777)

    assert is_cached()


def fill():
    """Compile a number of kernels, or load them; say how many were there already."""
    registry = Registry()
    for factor in range(12):

        def multiply(number, factor=factor):
            return factor * number

        multiply.__name__ = f"times_{factor}"
        registry.kernel("int64(int64, int64)")(multiply)
    return sum(timing.is_cached for timing in registry.warm_up().kernels)


def test_two_processes_at_once(root):
    """Two processes that fill one cache both succeed, and leave it whole."""
    code = "from tests.unit.test_cache import fill; input(); print(fill())"
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {"TRIOWS_CACHE_DIR": str(root), "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
            for _ in range(2)
        ]
        for process in both:
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert [process.wait(60) for process in both] == [0, 0]
    output = subprocess.check_output(command, cwd=ROOT, env=environment, input=b"\n", timeout=60)

    assert output == b"12\n"
    assert all(path.suffix == ".kernel" for path in cache_directory().iterdir())


def test_the_warning_can_be_an_error(directory):
    """A user who makes the warning an error is told at every warm-up."""
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    registry = Registry()
    registry.kernel("int64(int64)")(triple)

    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        for _ in range(2):
            with pytest.raises(CacheWarning):
                registry.warm_up()
