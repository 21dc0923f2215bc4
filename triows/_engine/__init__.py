"""To be filled."""

# --- opening handshake -------------------------------------------------------------------------
from triows._engine._headers import Headers as Headers
from triows._engine._http import HandshakeRefused as HandshakeRefused
from triows._engine._http import HTTPResponse as HTTPResponse
from triows._engine._opening import Accept as Accept
from triows._engine._opening import check_subprotocols as check_subprotocols
from triows._engine._opening_client import ClientHandshake as ClientHandshake
from triows._engine._opening_server import ServerHandshake as ServerHandshake
from triows._engine._request import Request as Request

# --- end of opening handshake ------------------------------------------------------------------
