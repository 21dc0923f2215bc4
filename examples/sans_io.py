"""The engine by itself: octets in, octets out; no socket, no clock, no Trio."""

import triows


def shout(payload: memoryview, opcode: int) -> triows.Response:
    if opcode == triows.Opcode.TEXT:
        payload[:] = bytes(payload).upper()
    return triows.Response.ECHO


def main() -> None:
    engine = triows.ServerEngine()
    # "Hello" as a client sends it, masked (RFC 6455 §5.7), and half of another frame.
    arrived = bytearray.fromhex("81 85 37fa213d 7f9f4d5158  81 85 37fa")
    engine.process(arrived, lambda octets: print(bytes(octets)), shout)
    arrived = bytearray.fromhex("213d 7f9f4d5158")
    engine.process(arrived, lambda octets: print(bytes(octets)), shout)


if __name__ == "__main__":
    main()
