"""The kernels by name, with the signatures that they may be compiled for.

A kernel is declared with `kernel` and compiled by `warm_up`, never at import
and never for a signature that was not declared: afterwards an array of another
dtype is a TypeError, where numba would otherwise stop every connection for the
seconds of a compilation. numba still coerces scalars without a word (1.5 becomes
1), so that callers check those.

Kernels are compiled in the order of their declaration, hence the inner before
the outer. A kernel that only other kernels call is declared as *inner*: their
code contains it, so that it is neither kept nor loaded by itself, and compiled
only when one of them has to be. Compiled code is kept by `_cache`, whose
directory is named after all
sources: a kernel is compiled anew when one that it calls has changed. numba's own
cache looks only at the file in which the outer one stands, and unpickles
whatever it finds.

Under ``NUMBA_DISABLE_JIT=1`` a kernel is the plain Python function.
"""

import hashlib
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import attrs
import numba
import numpy as np
from numba.core import caching, sigutils
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys

from triows._kernels import _cache

_P = ParamSpec("_P")
_R = TypeVar("_R")

JIT: Final = not numba.config.DISABLE_JIT
"""Whether kernels are compiled; if not, they are plain Python functions."""

READ_ONLY: Final = "Array(uint8, 1, 'C', readonly=True)"
"""The type of octets that a kernel only reads; writable ones are accepted too."""

Progress = Callable[[int, int, str], None]
"""Called with the number of a kernel, how many there are, and its name."""


@attrs.frozen(kw_only=True)
class Kernel:
    """A declared kernel."""

    name: str
    signatures: tuple[str, ...]
    is_inner: bool
    is_inline: bool
    dispatcher: Any  # numba's, or the plain function where nothing is compiled
    py_func: Callable[..., Any]


@attrs.frozen(kw_only=True)
class Timing:
    """What it took to make one kernel ready."""

    name: str
    seconds: float
    is_cached: bool


@attrs.frozen(kw_only=True)
class WarmUp:
    """What `warm_up` did.

    ``directory`` is where compiled kernels are kept, None if nowhere;
    ``is_compiled`` is False where kernels run as plain Python.
    """

    kernels: tuple[Timing, ...]
    seconds: float
    directory: Path | None
    is_compiled: bool


class Registry:
    """Kernels that become ready together."""

    def __init__(self) -> None:
        self._kernels: list[Kernel] = []
        self._timings: dict[str, Timing] = {}  # of the kernels that are ready
        self._lock = threading.RLock()
        self._done: WarmUp | None = None

    def registered(self) -> tuple[Kernel, ...]:
        """The kernels in the order of their declaration."""
        return tuple(self._kernels)

    def kernel(
        self, *signatures: str, inner: bool = False, inline: bool = False
    ) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
        """Declare a kernel and the *signatures* that it is compiled for.

        Used before `warm_up`, the kernel warms up itself and all others.

        Args:
            signatures: as numba writes them.
            inner: it is there for other kernels, and cannot be called from Python;
                `warm_up` makes it ready only with them.
            inline: it is inner, and no call at all: an array costs seven words in every
                call, which counts where a call does little else.
        """
        options = {
            "nogil": True,
            "error_model": "numpy",  # kernels never raise, not even on division by zero
            "inline": "always" if inline else "never",
            "no_rewrites": True,  # these are for expressions of whole arrays, and take time
            # No array is made, and no one counts who refers to those there are: their owner is
            # whoever calls from Python. Counting is a call for every use of one, null or not.
            "_nrt": False,
        }
        if inner:  # a fifth of what there is to compile is for callers from Python and C
            options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

        def declare(function: Callable[_P, _R]) -> Callable[_P, _R]:
            dispatcher: Any = numba.njit(**options)(function) if JIT else function
            kernel = Kernel(
                name=function.__name__,
                signatures=signatures,
                is_inner=inner or inline,
                is_inline=inline,
                dispatcher=dispatcher,
                py_func=function,
            )
            if JIT:
                # What numba calls for arguments that it has no compiled code for.
                dispatcher._compile_for_args = lambda *_, **__: self._warm(kernel)  # noqa: SLF001 - numba offers no hook for this
                if kernel.is_inner:  # nor may whoever compiles a caller choose its signature
                    dispatcher._can_compile = False  # noqa: SLF001 - disable_compile() wants code first
            self._kernels.append(kernel)
            self._done = None
            ready: Callable[_P, _R] = dispatcher
            return ready

        return declare

    def is_warm(self) -> bool:
        """Whether every kernel is ready."""
        return self._done is not None

    def ensure_warm(self) -> None:
        """Make every kernel ready, unless that was done."""
        if self._done is None:
            self.warm_up()

    def warm_up(self, progress: Progress | None = None) -> WarmUp:
        """Make every kernel ready: load it from the cache, or compile it and keep it.

        Afterwards no kernel compiles again. A second call returns at once;
        threads that call together wait for the one that works.

        Args:
            progress: called as each kernel is begun; it must not call a kernel.

        Returns:
            The seconds that each kernel took, and where they are kept.

        Warns:
            CacheWarning: the cache may not be used; everything was compiled.
        """
        with self._lock:
            if self._done is None:
                self._done = self._make_ready(progress) if JIT else _plain()
            return self._done

    def _make_ready(self, progress: Progress | None) -> WarmUp:
        begin = time.perf_counter()
        with _cache.open_store() as store:
            # Goes on where an earlier call was interrupted.
            for number, kernel in enumerate(self._kernels):
                if not kernel.is_inner and kernel.name not in self._timings:
                    self._report(progress, number)
                    self._make_entry_ready(kernel, store, progress)
        numba.typeof(np.zeros(0, np.uint8))  # imports more: later there may be no descriptor left
        return WarmUp(
            kernels=tuple(self._timings.values()),
            seconds=time.perf_counter() - begin,
            directory=store.path if store is not None else None,
            is_compiled=True,
        )

    def _make_entry_ready(
        self, kernel: Kernel, store: _cache.Store | None, progress: Progress | None
    ) -> None:
        def compile_inner() -> None:
            self._make_inner_ready(self._kernels.index(kernel), progress)

        overloads = None
        if store is None:
            compile_inner()
        else:
            overloads = _Overloads(kernel, store, compile_inner)
            kernel.dispatcher._cache = overloads  # noqa: SLF001 - numba picks its own directory otherwise
        self._compile(kernel, overloads)

    def make_inner_ready(self) -> None:
        """Compile the inner kernels too, for whoever is to compile a caller of theirs."""
        with self._lock:
            self._make_inner_ready(len(self._kernels))

    def _make_inner_ready(self, stop: int, progress: Progress | None = None) -> None:
        """Compile what an entry that is declared as number *stop* may call."""
        for number, kernel in enumerate(self._kernels[:stop]):
            if kernel.is_inner and not kernel.is_inline and kernel.name not in self._timings:
                self._report(progress, number)
                self._compile(kernel, None)

    def _compile(self, kernel: Kernel, overloads: "_Overloads | None") -> None:
        begin = time.perf_counter()
        kernel.dispatcher._can_compile = True  # noqa: SLF001 - see `kernel`
        for signature in kernel.signatures:
            kernel.dispatcher.compile(signature)
        kernel.dispatcher.disable_compile()
        if kernel.is_inner:  # what numba would call from Python is not there: refuse, not crash
            kernel.dispatcher._clear()  # noqa: SLF001 - see `kernel`
        self._timings[kernel.name] = Timing(
            name=kernel.name,
            seconds=time.perf_counter() - begin,
            is_cached=overloads is not None and overloads.loads == len(kernel.signatures),
        )

    def _report(self, progress: Progress | None, number: int) -> None:
        if progress is not None:
            progress(number + 1, len(self._kernels), self._kernels[number].name)

    def _warm(self, kernel: Kernel) -> Any:
        self.ensure_warm()
        return kernel.dispatcher  # numba calls again what it is given


class _Overloads(caching._Cache):  # type: ignore[misc]  # noqa: SLF001 - numba's interface for caches has no public name
    """The compiled code of one kernel in a store, for numba to load and save."""

    def __init__(
        self, kernel: Kernel, store: _cache.Store, before_compiling: Callable[[], None]
    ) -> None:
        self._kernel = kernel
        self._store = store
        self._before_compiling = before_compiling
        self.loads = 0

    @property
    def cache_path(self) -> str:  # pragma: no cover - for numba's statistics, which no one asks for
        return str(self._store.path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compile result for *sig*, or None if there is none that works.

        numba's own cache refreshes the target context first, which takes a
        quarter of a second. Machine code needs its runtime, not its typing rules.
        """
        rtsys.initialize(target_context)
        name = self._name(sig)
        data = self._store.load(name)
        if data is None:
            self._before_compiling()
            return None
        try:
            result = CompileResult._rebuild(target_context, *pickle.loads(data))  # noqa: SLF001, S301 - numba's own way; the store vouches for the octets
        except Exception:  # noqa: BLE001 - whatever is wrong with it, compiling helps
            self._store.discard(name)
            self._before_compiling()
            return None
        self.loads += 1
        return result

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compile result *data* for *sig*."""
        if data.library.has_dynamic_globals:  # addresses of this process are compiled in
            return
        try:
            self._store.save(self._name(sig), caching.dumps(data._reduce()))  # noqa: SLF001 - numba's own way
        except OSError as error:
            _cache.warn(f"cannot keep {self._kernel.name}: {error}")

    def enable(self) -> None:
        """Do nothing: it is always enabled."""

    def disable(self) -> None:
        """Do nothing: it is always enabled."""

    def flush(self) -> None:
        """Do nothing: `clear_cache` empties the store."""

    def _name(self, sig: Any) -> str:
        # By the types, as the text of a signature may be longer than a file's name.
        digest = hashlib.sha256(str(sigutils.normalize_signature(sig)).encode()).hexdigest()
        return f"{self._kernel.name}-{digest[:16]}"


def _plain() -> WarmUp:
    return WarmUp(kernels=(), seconds=0.0, directory=None, is_compiled=False)


_REGISTRY: Final = Registry()

kernel = _REGISTRY.kernel
registered = _REGISTRY.registered
is_warm = _REGISTRY.is_warm
ensure_warm = _REGISTRY.ensure_warm
make_inner_ready = _REGISTRY.make_inner_ready
warm_up = _REGISTRY.warm_up
