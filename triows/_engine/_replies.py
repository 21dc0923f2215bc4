"""The replies that wait for an embedder: where their octets lie, in the order of sending."""

from typing import NamedTuple, TypeAlias


class InputSegment(NamedTuple):
    """Octets to send that lie in the caller's buffer."""

    start: int
    size: int


class LocalSegment(NamedTuple):
    """Octets to send that lie in `EmbeddedEngine.outbound_local`."""

    start: int
    size: int


Segment: TypeAlias = InputSegment | LocalSegment


class Replies:
    """Segments, and the octets that the local ones among them speak of.

    Local octets are joined only when they are asked for: an engine's own frames
    are many and small.
    """

    __slots__ = ("_local", "_local_size", "segments")

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._local: list[bytes | bytearray | memoryview] = []
        self._local_size = 0

    def append_input(self, start: int, size: int) -> None:
        """Add octets of the caller's buffer."""
        self.segments.append(InputSegment(start, size))

    def append_local(self, octets: bytes | bytearray | memoryview) -> None:
        """Add octets of the engine's own, which may not change from now on."""
        self.segments.append(LocalSegment(self._local_size, len(octets)))
        self._local.append(octets)
        self._local_size += len(octets)

    def local(self) -> memoryview:
        """Return the octets that local segments count their offsets in; read-only."""
        if len(self._local) != 1:
            self._local = [b"".join(self._local)]
        return memoryview(self._local[0]).toreadonly()

    def clear(self) -> None:
        """Forget everything; views handed out before stay as they are."""
        self.segments = []
        self._local = []
        self._local_size = 0
