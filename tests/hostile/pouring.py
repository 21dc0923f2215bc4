"""A crowd that pipelines: every member sends batches of frames and awaits their replies.

A script. Its arguments: host, port, members, frames in a batch, octets in a frame, seconds. It
prints one line once all are connected, pours until its time is over, and then prints how many
replies have come, each of them whole and right.
"""

import os
import select
import socket
import sys
import time

from tests.hostile.crowd import join
from tests.naive_reception import build_frame


def pour(clients, batch, reply, seconds):
    """Send the batch over every client, again whenever its replies are there; count batches."""
    epoll = select.epoll()
    waiting = {}
    for client in clients:
        epoll.register(client.fileno(), select.EPOLLIN)
        waiting[client.fileno()] = [client, b""]
        client.sendall(batch)
    end = time.monotonic() + seconds
    done = 0
    while waiting:
        for number, _ in epoll.poll(5) or sys.exit("the server is silent"):
            entry = waiting[number]
            entry[1] += entry[0].recv(1 << 20)
            if len(entry[1]) < len(reply):
                continue
            assert entry[1] == reply
            done += 1
            if time.monotonic() < end:
                entry[1] = b""
                entry[0].sendall(batch)
            else:
                epoll.unregister(number)
                del waiting[number]
    return done


def main():
    """Pour as the arguments say."""
    host, port, members, frames, size, seconds = sys.argv[1:]
    payload = os.urandom(int(size))
    batch = build_frame(2, payload, key=b"mask") * int(frames)
    reply = build_frame(2, payload) * int(frames)
    clients, _ = join([(host, int(port))], int(members))
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(batch))
    print("ready", flush=True)
    sys.stdin.read(1)
    print(pour(clients, batch, reply, float(seconds)) * int(frames), flush=True)


if __name__ == "__main__":
    main()
