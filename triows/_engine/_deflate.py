"""permessage-deflate of one connection: what it sends compressed, what it inflates (RFC 7692 §7.2).

Refuses to know frames and how the parameters were agreed on.
"""

import functools
from typing import Any

from triows._engine import _contexts as contexts
from triows._engine._contexts import Recipe
from triows._engine._frames import FIN, RSV1, server_header
from triows._engine._inflater import Inflater
from triows._engine._negotiation import DeflateParameters
from triows._engine._prepared import PreparedMessage
from triows._options import Deflate, Limits


class Deflater:
    """What one side's messages are compressed with.

    Args:
        recipe: of the compressor.
        threshold: octets below which a message goes as it is.
        takes_over: whether messages refer back to earlier ones.
    """

    __slots__ = ("_context", "_parts", "_takes_over", "_threshold", "recipe")

    def __init__(self, recipe: Recipe, threshold: int, *, takes_over: bool) -> None:
        self.recipe = recipe
        self._threshold = threshold
        self._takes_over = takes_over
        self._context: Any = None
        self._parts: Any = None

    def compress(self, message: bytes | bytearray | memoryview | PreparedMessage) -> bytes | None:
        """Compress a whole message, which must be the next that is sent.

        Returns:
            The payload to send, or None to send the message as it is: it is short, or was
            prepared to go so, or does not shrink.
        """
        if isinstance(message, PreparedMessage):
            return self._compress_prepared(message)
        if len(message) < self._threshold:
            return None
        if self._takes_over:
            return contexts.finish(self._get_context(), message)
        compressed = contexts.compress_alone(self.recipe, message)
        return compressed if len(compressed) < len(message) or not self._threshold else None

    def compress_part(self, octets: bytes, *, is_last: bool) -> bytes:
        """Compress the next part of a message, so that the peer can inflate it at once."""
        compressor = self._parts or self._begin_parts()
        if not is_last:
            return contexts.go_on(compressor, octets)
        self._parts = None
        if self._takes_over:
            return contexts.finish(compressor, octets)
        compressed = contexts.finish_alone(compressor, octets)
        contexts.give_back(self.recipe, compressor)
        return compressed

    def frame(self, message: PreparedMessage) -> bytes:
        """Return a prepared message as a server sends it, the next that is sent.

        Where no context is taken over it is the same object for all such connections.
        """
        if self._leaves_alone(message):
            return message.frame
        if not self._takes_over:
            return message.compressed_frame(self.recipe) or message.frame
        octets = contexts.finish(self._get_context(), message.payload)
        return server_header(FIN | RSV1 | message.opcode, len(octets)) + octets

    def discard(self) -> None:
        """Free the compressors: nothing more will be sent."""
        self._context = self._parts = None

    def _compress_prepared(self, message: PreparedMessage) -> bytes | None:
        if self._leaves_alone(message):
            return None
        if self._takes_over:
            return contexts.finish(self._get_context(), message.payload)
        return message.compressed(self.recipe)

    def _leaves_alone(self, message: PreparedMessage) -> bool:
        if message.compress is None:
            return self._takes_over or len(message) < self._threshold
        return not message.compress

    def _begin_parts(self) -> Any:
        self._parts = self._get_context() if self._takes_over else contexts.borrow(self.recipe)
        return self._parts

    def _get_context(self) -> Any:
        if self._context is None:
            self._context = contexts.make_compressor(self.recipe)
        return self._context


_make_recipe = functools.lru_cache(Recipe)  # many connections have the same


class PerMessageDeflate:
    """permessage-deflate of one connection (RFC 7692).

    Args:
        settings: how to compress.
        agreed: the parameters that both sides keep to.
        is_server: which side this is.
        limits: what a message may inflate to: ``max_message``.

    Attributes:
        parameters: as given.
    """

    __slots__ = ("deflater", "inflater", "parameters")

    def __init__(
        self,
        settings: Deflate,
        agreed: DeflateParameters,
        *,
        is_server: bool,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.parameters = agreed
        server = (agreed.server_max_window_bits, not agreed.server_no_context_takeover)
        client = (agreed.client_max_window_bits, not agreed.client_no_context_takeover)
        (bits, takes_over), (peers_bits, peer_takes_over) = (
            (server, client) if is_server else (client, server)
        )
        recipe = _make_recipe(settings.level, settings.memory_level, bits)
        self.deflater = Deflater(recipe, settings.threshold, takes_over=takes_over)
        self.inflater = Inflater(peers_bits, takes_over=peer_takes_over, most=limits.max_message)
