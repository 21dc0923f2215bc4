"""Prices for everyone: each client gets the latest of each symbol, however slowly it reads."""

import itertools
import json

import trio

import triows

SYMBOLS = ("GOLD", "IRON", "WHEAT")
latest = triows.Policy.LATEST(lambda price: json.loads(price)["symbol"])


async def quote(prices: triows.BroadcastChannel[str]) -> None:
    """Make up a price, a hundred times a second."""
    ticks = itertools.count()
    while True:
        symbol = SYMBOLS[next(ticks) % len(SYMBOLS)]
        price = {"symbol": symbol, "price": 100 + next(ticks) % 17}
        prices.publish_nowait(json.dumps(price))  # one frame, whoever gets it
        await trio.sleep(0.01)


async def main() -> None:
    prices = triows.BroadcastChannel[str](history=50)

    async def client(ws: triows.WebSocket) -> None:
        with prices.attach(ws, latest):
            async for _ in ws:
                pass  # until it leaves; whatever it says

    async with trio.open_nursery() as nursery:
        nursery.start_soon(quote, prices)
        await triows.serve(client, 8765)


if __name__ == "__main__":
    trio.run(main)
