"""A client that stays connected: it comes back after every loss, and misses nothing."""

import json
from dataclasses import dataclass, field

import attrs
import trio

import triows


@dataclass
class Feed:
    last: int = 0
    seen: list[str] = field(default_factory=list)

    def resume(self, attempt: triows.Attempt) -> triows.Attempt:
        if attempt.after is not None:
            print(f"connecting again: {attempt.after}")
        return attrs.evolve(attempt, url=f"{attempt.url}?after={self.last}")

    async def follow(self, url: str) -> None:
        backoff = triows.Backoff(first=0.5, longest=30)
        async for ws in triows.reconnecting(url, backoff=backoff, resume=self.resume):
            async with ws:
                async for message in ws:
                    event = json.loads(message)
                    self.seen.append(event["text"])
                    self.last = event["number"]
            if ws.close_reason == triows.CloseReason(4000, "that was all"):
                break


async def submit(url: str, orders: list[str]) -> None:
    pending = dict(enumerate(orders))
    async for ws in triows.reconnecting(url):
        async with ws:
            for number, order in pending.items():  # whether the last of them arrived, who knows
                await ws.send(json.dumps([number, order]))
            while pending:
                pending.pop(int(await ws.receive()), None)
            break


if __name__ == "__main__":
    trio.run(Feed().follow, "ws://127.0.0.1:8765/events")
