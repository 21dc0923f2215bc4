"""When kernels are compiled, for what, and what happens otherwise."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import types
from numba.core import event
from numba.core.registry import CPUDispatcher

from triows import _kernels
from triows._kernels import _registry
from triows._kernels._registry import JIT, Registry

ROOT = Path(__file__).parents[2]

compiled_only = pytest.mark.skipif(not JIT, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")


def double(number):
    """A function that may become a kernel."""
    return 2 * number


def thrice(number):
    """Another."""
    return 3 * number


def half(number):
    """A kernel as it must not be: its result is a float."""
    return number / 2


def compared(octets):
    """A kernel as it must not be: numba compares a uint64 with an int64 as two floats."""
    return np.uint64(octets[0]) == 0


def in_new_process(code, **environment):
    """Run *code* in a new interpreter; return what it printed."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache root of the test's own."""
    monkeypatch.setenv("TRIOWS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def registry(cache):
    """A registry of one kernel, with a cache of its own."""
    registry = Registry()
    registry.kernel("int64(int64)")(double)
    return registry


def types_in(function, signature):
    """Every type that numba infers in *function*, compiled afresh for *signature*."""
    dispatcher = CPUDispatcher(function)
    dispatcher.compile(signature)
    (result,) = dispatcher.overloads.values()
    annotation = result.type_annotation
    calls = [call for call in annotation.calltypes.values() if call is not None]
    for signature_found in (result.signature, *calls):
        yield from (signature_found.return_type, *signature_found.args)
    for found in annotation.typemap.values():
        yield from (found, getattr(found, "dtype", found))
        yield from getattr(found, "types", ())  # of a tuple


def floats_in(function, signature):
    """The types among those that are not whole numbers."""
    return {
        found
        for found in types_in(function, signature)
        if isinstance(found, types.Float | types.Complex)
    }


@compiled_only
@pytest.mark.slow  # compiles every kernel anew
def test_no_kernel_knows_a_float():
    """No signature, variable or call of any kernel has a type that is not exact."""
    _kernels.ensure_warm()
    _registry.make_inner_ready()  # those that are compiled afresh call them
    found = {
        (kernel.name, signature): floats_in(kernel.py_func, signature)
        for kernel in _kernels.registered()
        for signature in kernel.signatures
    }

    assert len(found) >= 4
    assert not any(found.values()), found


@compiled_only
@pytest.mark.parametrize(
    ("function", "signature"),
    [(half, "int64(int64)"), (half, "float64(int64)"), (compared, "boolean(uint8[::1])")],
)
def test_a_float_would_be_found(function, signature):
    """The test above sees a float in a result, and one that stays inside."""
    assert types.float64 in floats_in(function, signature)


def test_kernels_are_listed_in_order(registry):
    """Kernels are known by name, in the order of their declaration."""
    registry.kernel("int64(int64)", "int64(uint8)")(half)

    assert [(kernel.name, kernel.signatures) for kernel in registry.registered()] == [
        ("double", ("int64(int64)",)),
        ("half", ("int64(int64)", "int64(uint8)")),
    ]
    assert registry.registered()[0].py_func is double


@compiled_only
def test_declaring_compiles_nothing(registry):
    """A declared kernel has no compiled code yet."""
    assert registry.registered()[0].dispatcher.signatures == []


@compiled_only
def test_warming_up_compiles_what_was_declared(registry):
    """Each declared signature is compiled, and no other."""
    registry.warm_up()

    dispatcher = registry.registered()[0].dispatcher
    assert dispatcher.signatures == [(types.int64,)]
    assert dispatcher(21) == 42


@compiled_only
def test_what_warming_up_reports(registry, cache):
    """The report tells each kernel's time, and whether it came from the cache."""
    cold = registry.warm_up()

    again = Registry()
    again.kernel("int64(int64)")(double)
    warm = again.warm_up()

    assert [(timing.name, timing.is_cached) for timing in cold.kernels] == [("double", False)]
    assert [(timing.name, timing.is_cached) for timing in warm.kernels] == [("double", True)]
    assert 0 < warm.kernels[0].seconds <= warm.seconds
    assert cold.directory == warm.directory == _kernels.cache_directory()
    assert cold.directory.parent == cache
    assert cold.is_compiled


@compiled_only
def test_progress_is_told(registry):
    """Progress names each kernel with its number, before it is compiled."""
    registry.kernel("int64(int64)")(half)
    calls = []

    registry.warm_up(lambda *call: calls.append(call))

    assert calls == [(1, 2, "double"), (2, 2, "half")]


@compiled_only
def test_a_second_call_does_nothing(registry):
    """Warm kernels stay as they are, and the first report is given again."""
    report = registry.warm_up()

    assert registry.warm_up(pytest.fail) is report
    registry.ensure_warm()


@compiled_only
def test_threads_that_warm_up_together(registry):
    """One thread works; the others wait for its report."""
    calls = []
    reports = []

    def warm_up():
        reports.append(registry.warm_up(lambda *call: calls.append(call)))

    threads = [threading.Thread(target=warm_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(calls) == 1
    assert len({id(report) for report in reports}) == 1


@compiled_only
def test_a_warm_up_that_was_interrupted_goes_on(registry):
    """What was ready stays; the rest is made ready by the next call."""
    registry.kernel("int64(int64)")(half)

    def interrupt(number, *_):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.warm_up(interrupt)
    report = registry.warm_up()

    assert [timing.name for timing in report.kernels] == ["double", "half"]


@compiled_only
def test_a_kernel_declared_late_is_made_ready(registry):
    """A declaration after a warm-up asks for another one."""
    registry.warm_up()
    registry.kernel("int64(int64)")(half)

    registry.ensure_warm()

    assert len(registry.registered()[1].dispatcher.signatures) == 1


@compiled_only
def test_a_kernel_called_early_warms_up_all(registry):
    """The first call of a cold kernel makes every kernel ready, and then answers."""
    second = registry.kernel("int64(int64)")(half)
    first = registry.registered()[0].dispatcher

    assert first(21) == 42
    assert second.signatures == [(types.int64,)]
    assert first.signatures == [(types.int64,)]


@compiled_only
def test_an_undeclared_type_is_a_type_error():
    """After the warm-up an array of another dtype or layout compiles nothing."""
    _kernels.warm_up()
    octets = np.zeros(16, np.uint8)

    for wrong in (octets.astype(np.int64), octets[::2], octets.reshape(4, 4), bytes(16), None):
        with pytest.raises(TypeError):
            _kernels.mask(wrong, 0, 4, 0, 0)
    with pytest.raises(TypeError):
        _kernels.mask(np.frombuffer(bytes(16), np.uint8), 0, 4, 0, 0)


@compiled_only
def test_every_kernel_is_compiled_as_declared():
    """Every kernel has its declared signatures and no other; an inner one may have none."""
    _kernels.ensure_warm()

    for kernel in _kernels.registered():
        declared = [_registry.sigutils.normalize_signature(text)[0] for text in kernel.signatures]
        assert kernel.dispatcher.signatures in ([[], declared] if kernel.is_inner else [declared])


@compiled_only
def test_an_inner_kernel_is_compiled_only_as_declared(registry):
    """Whoever compiles a caller of an inner kernel finds it as it was declared."""
    inner = registry.kernel("int64(int64)", inner=True)(thrice)
    registry.make_inner_ready()
    assert inner.signatures == [(types.int64,)]

    @numba.njit
    def call(number):
        return inner(number)

    assert call(np.int32(2)) == 6
    assert inner.signatures == [(types.int64,)]
    for argument in (2, np.zeros(2)):  # nothing but kernels may call it
        with pytest.raises(TypeError):
            inner(argument)


@compiled_only
def test_every_kernel_can_be_cached():
    """No kernel has an address of this process compiled in."""
    _kernels.ensure_warm()
    results = [r for k in _kernels.registered() for r in k.dispatcher.overloads.values()]

    assert [r.fndesc.qualname for r in results if r.library.has_dynamic_globals] == []


@compiled_only
def test_code_that_cannot_be_cached_is_compiled_each_time(registry):
    """A kernel that refers to an address of this process works, and is not kept."""
    address = np.zeros(2**17, np.int64)  # numba refers to an array as large as this by address

    def look(number):
        return address[number]

    registry.kernel("int64(int64)")(look)
    directory = registry.warm_up().directory

    assert registry.registered()[1].dispatcher(5) == 0
    assert [path.name for path in directory.iterdir() if path.name.startswith("look")] == []


@compiled_only
def test_importing_compiles_nothing():
    """`import triows` and its kernels leave all compilation to the warm-up."""
    in_new_process("""
        from numba.core import event
        with event.install_recorder("numba:compile") as compiled:
            import triows
            from triows import _kernels
        assert len(compiled.buffer) == 0
        assert len(_kernels.registered()) > 0
        assert not any(kernel.dispatcher.signatures for kernel in _kernels.registered())
    """)


@compiled_only
def test_compilation_would_be_noticed():
    """The recorder of the test above sees a compilation."""
    with event.install_recorder("numba:compile") as compiled:
        numba.njit("int64(int64)")(double)

    assert len(compiled.buffer) > 0


@compiled_only
def test_a_warm_kernel_imports_nothing():
    """The first call finds everything loaded: there may be no descriptor left to read it by."""
    in_new_process("""
        import sys
        import numpy as np
        from triows import _kernels
        _kernels.warm_up()
        octets = np.zeros(9, np.uint8)
        before = set(sys.modules)
        assert _kernels.mask(octets, 0, 9, 255, 0) == 1
        assert set(sys.modules) == before
    """)


@compiled_only
def test_kernels_from_the_cache_work(cold_start):
    """Loaded into a new process, kernels answer, take a turn, and can be called by new code."""
    code = """
        import numba, numpy as np
        from triows import _kernels
        report = _kernels.warm_up()
        print(all(timing.is_cached for timing in report.kernels))
        octets = np.zeros(300, np.uint8)
        assert _kernels.mask(octets, 1, 300, 0x20202020, 0) == 3
        assert _kernels.validate_utf8(octets, 0, 300, 0) == 0
        size = _kernels.write_header(octets, 0, 0x82, 70_000, 7)
        fields = np.zeros(7, np.int64)
        assert _kernels.read_header(octets, 0, size, fields) == 0
        assert fields.tolist() == [1, 0, 2, 1, 7, 14, 70_000]

        @numba.njit
        def twice(octets):
            first = _kernels.mask(octets, 0, 4, 255, 0)
            return first + _kernels.mask(octets, 0, 5, 255, 0)

        assert twice(octets) == 1

        import socket, triows
        from triows._kernels._handler import resolve_handler
        from triows._reactor import Loop

        def answer(payload, opcode):
            return 1

        loop = Loop(resolve_handler(answer), triows.Limits(), triows.KeepAlive())
        ours, theirs = socket.socketpair()
        loop.add(theirs.detach())
        large = bytes([0x82, 0xFF]) + (100_000).to_bytes(8) + bytes(4 + 100_000)
        cut = bytes([0x01, 0x81, 0, 0, 0, 0, 0x61, 0x80, 0x81, 0, 0, 0, 0, 0x62])
        ours.sendall(bytes([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69]) + cut + large)
        reply = b""
        while len(reply) < 4 + 4 + 10 + 100_000:
            loop.take_turns(1, 1)
            reply += ours.recv(1 << 20, socket.MSG_DONTWAIT)
        assert reply[:8] == bytes([0x81, 2]) + b"hi" + bytes([0x81, 2]) + b"ab"
        ours.close()
        loop.take_turns(1, 1)
        assert loop.statistics().messages_sent == 3 and loop.connections == 0
        loop.close()
        """
    root, _ = cold_start

    assert in_new_process(code, TRIOWS_CACHE_DIR=str(root)) == "True\n"


def test_interpreted_kernels_are_plain_functions():
    """Under NUMBA_DISABLE_JIT=1 kernels are Python, and there is nothing to warm up."""
    in_new_process(
        """
        import types
        import numpy as np
        from triows import _kernels
        report = _kernels.warm_up(lambda *_: 1 / 0)
        assert not report.is_compiled
        assert (report.kernels, report.directory, report.seconds) == ((), None, 0.0)
        assert _kernels.cache_directory() is None
        assert type(_kernels.mask) is types.FunctionType
        octets = np.zeros(9, np.uint8)
        assert _kernels.mask(octets, 0, 9, 255, 0) == 1
        assert octets.tolist() == [255, 0, 0, 0, 255, 0, 0, 0, 255]
        """,
        NUMBA_DISABLE_JIT="1",
    )
