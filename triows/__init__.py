"""WebSockets for Trio: structured concurrency above, compiled speed below."""

from triows._channel import CloseReason, ConnectionBroken, IncomingMessage, OutgoingMessage
from triows._client import open_websocket
from triows._engine import (
    Accept,
    ClientEngine,
    DeflateParameters,
    Header,
    Headers,
    HTTPResponse,
    Incomplete,
    InputSegment,
    LocalSegment,
    PerMessageDeflate,
    PreparedMessage,
    Request,
    Response,
    ServerEngine,
    parse_header,
    unmask,
)
from triows._errors import (
    HandshakeError,
    HandshakeRejected,
    InvalidHandshake,
    ProtocolError,
    ProxyError,
    RedirectRefused,
    TriowsError,
)
from triows._kernels import warm_up
from triows._options import Deflate, KeepAlive, Limits
from triows._reactor import (
    CompiledHandler,
    Connection,
    Handler,
    LoopStatistics,
    SessionId,
    compiled,
    handler_fn,
)
from triows._reactors import Reactor, ReactorStatistics, open_reactor
from triows._sender import Sender
from triows._server import Server, ServerStatistics, serve, serve_listeners
from triows._spec import CloseCode, Opcode
from triows._version import __version__
from triows._websocket import WebSocket, WebSocketStatistics

__all__ = [
    "Accept",
    "ClientEngine",
    "CloseCode",
    "CloseReason",
    "CompiledHandler",
    "Connection",
    "ConnectionBroken",
    "Deflate",
    "DeflateParameters",
    "HTTPResponse",
    "Handler",
    "HandshakeError",
    "HandshakeRejected",
    "Header",
    "Headers",
    "IncomingMessage",
    "Incomplete",
    "InputSegment",
    "InvalidHandshake",
    "KeepAlive",
    "Limits",
    "LocalSegment",
    "LoopStatistics",
    "Opcode",
    "OutgoingMessage",
    "PerMessageDeflate",
    "PreparedMessage",
    "ProtocolError",
    "ProxyError",
    "Reactor",
    "ReactorStatistics",
    "RedirectRefused",
    "Request",
    "Response",
    "Sender",
    "Server",
    "ServerEngine",
    "ServerStatistics",
    "SessionId",
    "TriowsError",
    "WebSocket",
    "WebSocketStatistics",
    "__version__",
    "compiled",
    "handler_fn",
    "open_reactor",
    "open_websocket",
    "parse_header",
    "serve",
    "serve_listeners",
    "unmask",
    "warm_up",
]
