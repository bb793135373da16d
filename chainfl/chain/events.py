"""Reorg-safe event scans: chunked ranges that overlap a window, deduplicated, without logs of orphaned blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chainfl.chain.abi import ContractAbi, checksum
from chainfl.chain.client import ChainClient
from chainfl.chain.reverts import RpcError
from chainfl.errors import ChainError
from chainfl.tasks.state import Block
from chainfl.types import Address

Topic = str | tuple[str, ...] | None
"""What a log's topic must be: one value, one of several, or anything."""

LogKey = tuple[bytes, int]

CHUNK_BLOCKS: Final = 5_000
_RESCANS: Final = 5


@dataclass(frozen=True, slots=True)
class Log:
    """One log of one block. `key` names it: the same event in two forks is two logs."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    tx_hash: str
    index: int

    @property
    def key(self) -> LogKey:
        """(block hash, log index)."""
        return (self.block_hash, self.index)


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded log: the event's name and its values by name in snake case."""

    name: str
    contract: str
    arguments: Mapping[str, Any]
    log: Log


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Whose logs, and which."""

    addresses: tuple[Address, ...]
    topics: tuple[Topic, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What a follower learned: logs that are new, and logs that it had told of and that a reorg took back."""

    new: tuple[Log, ...]
    orphaned: tuple[Log, ...]
    head: Block


def scan_logs(
    client: ChainClient, wanted: LogFilter, from_block: int, *, reorg_depth: int, to: Block | None = None
) -> tuple[Log, ...]:
    """All logs from `from_block` (less a reorg window) to `to` or the newest block, in order, each once.

    When the chain reorganises meanwhile, the window is read again; what is returned is in one history.
    Raises RpcUnreachable, RpcRefused, and ChainError when the chain does not come to rest.
    """
    return _scan(client, wanted, max(0, from_block - reorg_depth), to or client.block(), reorg_depth)


def _scan(client: ChainClient, wanted: LogFilter, first: int, head: Block, reorg_depth: int) -> tuple[Log, ...]:
    """Logs of [first, head] in one history."""
    found: dict[LogKey, Log] = {}
    start = first
    for _ in range(_RESCANS):
        found.update((log.key, log) for log in _fetch_range(client, wanted, start, head.number))
        window = max(first, head.number - reorg_depth)
        if _is_canonical(client, head, [log for log in found.values() if log.block_number >= window]):
            return _ordered(found.values())
        # INVARIANT: nothing from the window survives a reorg without being seen again.
        found = {key: log for key, log in found.items() if log.block_number < window}
        start, head = window, client.block(min(head.number, client.block_number()))
    raise ChainError("the chain keeps reorganising while its events are read")


class LogFollower:
    """Reads on from where it was, over a window that a reorg may have changed."""

    def __init__(self, client: ChainClient, wanted: LogFilter, from_block: int, *, reorg_depth: int) -> None:
        self._client = client
        self._wanted = wanted
        self._next = from_block
        self._first = from_block
        self._reorg_depth = reorg_depth
        self._recent: dict[LogKey, Log] = {}
        self._head: Block | None = None

    def poll(self) -> Changes:
        """What changed since the last poll; one request when there is no new block."""
        head = self._client.block()
        if head == self._head:
            return Changes((), (), head)
        start = max(self._first, min(self._next, head.number + 1) - self._reorg_depth)
        logs = _scan(self._client, self._wanted, start, head, self._reorg_depth)
        seen = {log.key: log for log in logs}
        new = _ordered(log for key, log in seen.items() if key not in self._recent)
        gone = _ordered(log for key, log in self._recent.items() if log.block_number >= start and key not in seen)
        horizon = head.number - 2 * self._reorg_depth
        kept = {key: log for key, log in self._recent.items() if log.block_number < start}
        self._recent = {key: log for key, log in {**kept, **seen}.items() if log.block_number >= horizon}
        self._next, self._head = head.number + 1, head
        return Changes(new, gone, head)


def decode_event(log: Log, contracts: Mapping[Address, ContractAbi]) -> Event | None:
    """The event of a log, or None when it is not an event of these contracts."""
    abi = contracts.get(log.address)
    event = abi.events_by_topic.get(log.topics[0]) if abi and log.topics else None
    if abi is None or event is None:
        return None
    return Event(event.name, abi.name, event.decode(log.topics, log.data), log)


def _fetch_range(client: ChainClient, wanted: LogFilter, start: int, end: int) -> Iterable[Log]:
    """Logs of [start, end] in chunks; a chunk that the endpoint refuses is halved, and grows again later."""
    size = CHUNK_BLOCKS
    while start <= end:
        stop = min(start + size - 1, end)
        answer = client.try_request("eth_getLogs", [_query(wanted, start, stop)])
        if isinstance(answer, RpcError):
            if stop == start:
                answer.raise_refused("eth_getLogs")
            size = max(1, (stop - start + 1) // 2)
            continue
        yield from (parse_log(item) for item in answer if not item.get("removed"))
        start, size = stop + 1, min(2 * size, CHUNK_BLOCKS)


def _query(wanted: LogFilter, start: int, end: int) -> dict[str, Any]:
    return {
        "address": list(wanted.addresses),
        "topics": list(wanted.topics),
        "fromBlock": hex(start),
        "toBlock": hex(end),
    }


def _is_canonical(client: ChainClient, head: Block, recent: Sequence[Log]) -> bool:
    """Whether the head, and every block that a recent log claims, are still the chain's blocks at their numbers."""
    claimed = {(log.block_number, log.block_hash) for log in recent} | {(head.number, head.hash)}
    ordered = sorted(claimed)
    headers = client.batch([("eth_getBlockByNumber", [hex(number), False]) for number, _ in ordered])
    return all(
        header is not None and bytes.fromhex(header["hash"][2:]) == block_hash
        for header, (_, block_hash) in zip(headers, ordered, strict=True)
    )


def parse_log(item: Mapping[str, Any]) -> Log:
    """A log as the endpoint writes it."""
    return Log(
        address=checksum(item["address"]),
        topics=tuple(bytes.fromhex(topic[2:]) for topic in item["topics"]),
        data=bytes.fromhex(item["data"][2:]),
        block_number=int(item["blockNumber"], 16),
        block_hash=bytes.fromhex(item["blockHash"][2:]),
        tx_hash=item["transactionHash"],
        index=int(item["logIndex"], 16),
    )


def _ordered(logs: Iterable[Log]) -> tuple[Log, ...]:
    return tuple(sorted(logs, key=lambda log: (log.block_number, log.index)))
