"""The sans-IO engine: octets and the time in, events and octets out (RFC 6455).

It knows no Trio, socket, clock, thread or log. What it offers:

- the opening handshake: `ServerHandshake`, `ClientHandshake` and the HTTP around them;
- the connection after it: `ServerEngine`, `ClientEngine`, their events and phases;
- single headers and masks: `parse_header`, `unmask`.
"""

from triows._engine._base import Engine as Engine
from triows._engine._base import close_payload as close_payload
from triows._engine._closing import TRANSITIONS as TRANSITIONS
from triows._engine._closing import Input as Input
from triows._engine._closing import Phase as Phase
from triows._engine._deflate import PerMessageDeflate as PerMessageDeflate
from triows._engine._embedded import Response as Response
from triows._engine._events import Closed as Closed
from triows._engine._events import Deflated as Deflated
from triows._engine._events import Event as Event
from triows._engine._events import Failed as Failed
from triows._engine._events import Lost as Lost
from triows._engine._events import Message as Message
from triows._engine._events import Part as Part
from triows._engine._events import Ponged as Ponged
from triows._engine._header import Header as Header
from triows._engine._header import Incomplete as Incomplete
from triows._engine._header import parse_header as parse_header
from triows._engine._header import unmask as unmask
from triows._engine._headers import FieldsLike as FieldsLike
from triows._engine._headers import Headers as Headers
from triows._engine._http import HandshakeRefused as HandshakeRefused
from triows._engine._http import HTTPResponse as HTTPResponse
from triows._engine._inflater import InflateError as InflateError
from triows._engine._inflater import Inflater as Inflater
from triows._engine._messages import Budget as Budget
from triows._engine._negotiation import DeflateParameters as DeflateParameters
from triows._engine._octets import Octets as Octets
from triows._engine._opening import Accept as Accept
from triows._engine._opening import check_subprotocols as check_subprotocols
from triows._engine._opening_client import USER_AGENT as USER_AGENT
from triows._engine._opening_client import ClientHandshake as ClientHandshake
from triows._engine._opening_server import ServerHandshake as ServerHandshake
from triows._engine._prepared import PreparedMessage as PreparedMessage
from triows._engine._replies import InputSegment as InputSegment
from triows._engine._replies import LocalSegment as LocalSegment
from triows._engine._request import Request as Request
from triows._engine._roles import ClientEngine as ClientEngine
from triows._engine._roles import ServerEngine as ServerEngine
from triows._engine._target import is_authority as is_authority
from triows._engine._tunnel import TunnelHandshake as TunnelHandshake
