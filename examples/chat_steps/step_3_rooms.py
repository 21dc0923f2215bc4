"""A chat, step 3: rooms, each with a history of its own."""

import itertools

import trio

import triows

numbers = itertools.count(1)


class Room:
    def __init__(self) -> None:
        self.channel = triows.BroadcastChannel[str](history=20)
        self.members: list[str] = []


class Chat:
    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}

    async def serve_member(self, ws: triows.WebSocket) -> None:
        name, place = f"guest-{next(numbers)}", "lobby"
        while True:
            came_to = await self.visit(ws, name, place)
            if came_to is None:
                return
            place = came_to

    async def visit(self, ws: triows.WebSocket, name: str, place: str) -> str | None:
        """Be in a room; returns where to go next, or None when the connection has ended."""
        room = self.rooms.setdefault(place, Room())
        room.members.append(name)
        room.channel.publish_nowait(f"* {name} came to {place}")
        try:
            with room.channel.attach(ws):
                async for line in ws:
                    command, _, rest = str(line).partition(" ")
                    if command == "/join" and rest:
                        return rest
                    if command == "/who":
                        await ws.send(f"* here: {', '.join(room.members)}")
                    else:
                        room.channel.publish_nowait(f"{name}: {line}")
        finally:
            room.members.remove(name)
            room.channel.publish_nowait(f"* {name} left {place}")
        return None


if __name__ == "__main__":
    trio.run(triows.serve, Chat().serve_member, 8765)
