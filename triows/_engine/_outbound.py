"""The octets that wait for the transport, in the order in which they must leave."""

from collections import deque

PONG_BACKLOG = 65_536
"""Octets of backlog beyond which Pongs are coalesced: only the newest is owed (§5.5.3).

As many as one receive can ask for, so that a peer that reads gets every Pong.
"""


class Outbound:
    """A queue of octets; what is appended is never copied, split or reordered.

    `size` is the number of octets that wait.
    """

    __slots__ = ("_chunks", "_owed_pong", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        self._owed_pong: bytes | bytearray | None = None
        self.size = 0

    def append(self, chunk: bytes | bytearray) -> None:
        """Add octets, which may not change from now on."""
        self._chunks.append(chunk)
        self.size += len(chunk)

    def append_pong(self, frame: bytes | bytearray) -> None:
        """Add a Pong; behind a long backlog it replaces the one owed before it."""
        if self.size > PONG_BACKLOG:
            self._owed_pong = frame
        else:
            self.append(frame)

    def append_close(self, frame: bytes | bytearray) -> None:
        """Add the Close frame, behind which nothing may follow."""
        self._owed_pong = None
        self.append(frame)

    def peek(self, most: int = 64) -> list[bytes | bytearray | memoryview]:
        """Return the first chunks, *most* at the most, without taking them."""
        chunks = self._chunks
        if len(chunks) <= most:
            return list(chunks)
        return [chunks[index] for index in range(most)]

    def head(self, most: int) -> bytes:
        """Return the first octets, *most* at the most, without taking them."""
        parts: list[bytes | bytearray | memoryview] = []
        room = most
        for chunk in self._chunks:
            if room <= 0:
                break
            parts.append(chunk if len(chunk) <= room else memoryview(chunk)[:room])
            room -= len(chunk)
        return b"".join(parts)

    def consume(self, count: int) -> None:
        """Forget the first *count* octets, 0..size: the transport has them."""
        chunks = self._chunks
        if count == self.size:
            chunks.clear()
            self.size = count = 0
        self.size -= count
        while count:
            first = chunks[0]
            if count < len(first):
                chunks[0] = memoryview(first)[count:]
                break
            count -= len(first)
            chunks.popleft()
        if self._owed_pong is not None and self.size <= PONG_BACKLOG:
            self.append(self._owed_pong)
            self._owed_pong = None

    def clear(self) -> None:
        """Forget everything: the transport is gone."""
        self._chunks.clear()
        self._owed_pong = None
        self.size = 0
