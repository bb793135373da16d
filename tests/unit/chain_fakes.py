"""A chain in memory behind the client's requests: blocks that can be reorganised, logs, a mempool that obeys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import requests

from chainfl.chain.client import ChainClient
from chainfl.chain.reverts import RpcError

Handler = Callable[..., Any]


class Clock:
    """Time that passes only in sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def __call__(self) -> float:
        return self.now


class FakeTransport:
    """Answers JSON-RPC from a table of handlers. A handler's exception is the connection's."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.handlers = handlers
        self.asked: list[str] = []

    def request(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        self.asked.append(method)
        answer = self.handlers[method](*params)
        if isinstance(answer, RpcError):
            data = None if answer.data is None else "0x" + answer.data.hex()
            return {"error": {"code": answer.code, "message": answer.message, "data": data}}
        return {"result": answer}

    def batch(self, wanted: Sequence[tuple[str, Sequence[Any]]]) -> Any:
        return [self.request(method, params) for method, params in wanted]


def fake_client(handlers: dict[str, Handler], **options: Any) -> tuple[ChainClient, FakeTransport, Clock]:
    """A client that never opens a socket."""
    clock = Clock()
    client = ChainClient("http://127.0.0.1:1", sleep=clock.sleep, clock=clock, **options)
    provider = FakeTransport(handlers)
    client._transport = provider
    return client, provider, clock


class FakeChain:
    """Blocks by number, each with a fork's letter in its hash, and one log a block."""

    def __init__(self, length: int) -> None:
        self.forks = ["a"] * length
        self.max_range: int | None = None
        self.on_logs: Callable[[], None] = lambda: None

    def hash(self, number: int) -> str:
        return "0x" + (f"{number:04x}" + self.forks[number].encode().hex()).rjust(64, "0")

    def reorg(self, start: int, fork: str, length: int | None = None) -> None:
        """Replaces the blocks from `start` on by another fork's."""
        end = len(self.forks) if length is None else length
        self.forks = self.forks[:start] + [fork] * (end - start)

    def header(self, tag: str, _: bool) -> dict[str, str] | None:
        number = len(self.forks) - 1 if tag == "latest" else int(tag, 16)
        if number >= len(self.forks):
            return None
        return {"number": hex(number), "timestamp": hex(number), "hash": self.hash(number)}

    def logs(self, query: dict[str, Any]) -> Any:
        start, end = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        if self.max_range is not None and end - start + 1 > self.max_range:
            return RpcError(-32005, "query returned more than 10000 results", None)
        found = [self._log(number) for number in range(start, min(end + 1, len(self.forks)))]
        self.on_logs()
        return found

    def _log(self, number: int) -> dict[str, Any]:
        return {
            "address": "0x" + "11" * 20,
            "topics": [],
            "data": "0x",
            "blockNumber": hex(number),
            "blockHash": self.hash(number),
            "transactionHash": "0x00",
            "logIndex": "0x0",
        }

    def client(self) -> tuple[ChainClient, FakeTransport, Clock]:
        return fake_client(
            {
                "eth_getBlockByNumber": self.header,
                "eth_getLogs": self.logs,
                "eth_blockNumber": lambda: hex(len(self.forks) - 1),
            }
        )


def refuse_connection(*_: Any) -> Any:
    """What a dead endpoint does."""
    raise requests.ConnectionError("refused")
