"""Rooms: who is in one hears who comes, who goes, and what is said. Names come with the path."""

import trio

import triows

rooms = triows.Rooms[str](history=20)


async def visit(ws: triows.WebSocket) -> None:
    _, room, name = ws.request.target.split("/")  # /ROOM/NAME
    with rooms.attach(room, ws, member=name, policy=triows.Policy.DROP_OLDEST, capacity=200):
        rooms.publish_nowait(room, f"{name} is here, with {len(rooms.members(room)) - 1} others")
        async for message in ws:
            rooms.publish_nowait(room, f"{name}: {message}")
    rooms.publish_nowait(room, f"{name} has left")


if __name__ == "__main__":
    trio.run(triows.serve, visit, 8765)
