"""A chat, step 2: who says it, who comes, and who goes."""

import itertools

import trio

import triows

chat = triows.BroadcastChannel[str](history=20)
names: set[str] = set()
numbers = itertools.count(1)


class Member:
    def __init__(self, ws: triows.WebSocket) -> None:
        self.ws = ws
        self.name = f"guest-{next(numbers)}"

    async def run(self) -> None:
        names.add(self.name)
        chat.publish_nowait(f"* {self.name} came")
        try:
            with chat.attach(self.ws):
                async for line in self.ws:
                    await self.obey(str(line))
        finally:
            names.remove(self.name)
            chat.publish_nowait(f"* {self.name} left")

    async def obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/nick":
            await self.rename(rest.strip())
        elif command == "/who":
            await self.ws.send(f"* here: {', '.join(sorted(names))}")
        else:
            chat.publish_nowait(f"{self.name}: {line}")

    async def rename(self, name: str) -> None:
        if not name or name in names:
            await self.ws.send("* that name is taken")
            return
        names.remove(self.name)
        names.add(name)
        chat.publish_nowait(f"* {self.name} is now {name}")
        self.name = name


async def serve_member(ws: triows.WebSocket) -> None:
    await Member(ws).run()


if __name__ == "__main__":
    trio.run(triows.serve, serve_member, 8765)
