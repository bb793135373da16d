"""One JSON-RPC endpoint: raw requests, batches, blocks, and calls pinned to one block.

The requests go below web3's contract objects: nine agents on two cores feel the milliseconds that those cost a call.
A request that is safe to repeat is repeated on connection errors; when that
does not help, RpcUnreachable says so, at the start as well as half-way.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import requests

from chainfl.chain.abi import Function
from chainfl.chain.reverts import RpcError, decode_rpc_error, is_revert
from chainfl.chain.transport import BUSY_STATUSES, Request, transport_for
from chainfl.errors import (
    ChainError,
    ChainflError,
    NoContract,
    NodeBehind,
    RpcRefused,
    RpcUnreachable,
    WrongChainId,
    WrongContractVersion,
)
from chainfl.tasks.state import Block
from chainfl.types import Address

T = TypeVar("T")

CONTRACT_VERSION: Final = "chainfl-2"
MAX_POLL_INTERVAL_S: Final = 1.0
_BLOCK_NOT_FOUND: Final = ("header not found", "unknown block", "block not found", "blocknotfound", "hash not found")
_LIMIT_EXCEEDED: Final = -32005
_RATE_LIMITED: Final = re.compile(
    r"\b429\b|too many requests|rate.?limit|request rate|rate exceeded|requests per second|throughput|compute units",
    re.IGNORECASE,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """One read of one contract: what to send and what the answer becomes."""

    to: Address
    function: Function
    arguments: tuple[Any, ...] = ()
    target: Any = Any


class ChainClient:
    """A persistent HTTP session to one endpoint.

    expected_chain_id: checked at the first use; WrongChainId when the endpoint serves another. timeout_s: a single
    request's. attempts: how often a repeatable request is tried. poll_interval_s: between two looks for a block.
    """

    def __init__(
        self,
        rpc_url: str,
        *,
        expected_chain_id: int | None = None,
        timeout_s: float = 10.0,
        attempts: int = 4,
        poll_interval_s: float = MAX_POLL_INTERVAL_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rpc_url = rpc_url
        self.poll_interval_s = poll_interval_s
        self.sleep = sleep
        self.clock = clock
        self._expected_chain_id = expected_chain_id
        self._chain_id: int | None = None
        self._attempts = attempts
        self._transport = transport_for(rpc_url, timeout_s)

    def __repr__(self) -> str:
        # The URL of a hosted endpoint carries the user's access key in its path.
        return f"ChainClient(chain_id={self._chain_id or self._expected_chain_id})"

    # --- requests ---------------------------------------------------------------------------------

    def try_request(self, method: str, params: Sequence[Any] = (), *, attempts: int | None = None) -> Any | RpcError:
        """The result, or the endpoint's error as a value. Raises RpcUnreachable or NodeBehind."""
        return self._repeat(
            lambda: _lasting(_outcome(self._transport.request(method, params)), method, params), attempts
        )

    def request(self, method: str, params: Sequence[Any] = ()) -> Any:
        """The result. Raises RpcUnreachable, or RpcRefused with the endpoint's error."""
        return _require(method, self.try_request(method, params))

    def try_batch(self, wanted: Sequence[Request]) -> list[Any | RpcError]:
        """Many requests in one round trip, in order; errors are values. Raises RpcUnreachable."""
        if not wanted:
            return []
        return self._repeat(lambda: self._batch_once(wanted), None)

    def _batch_once(self, wanted: Sequence[Request]) -> list[Any | RpcError]:
        response = self._transport.batch(wanted)
        if isinstance(response, dict):  # one error for the whole batch
            return [_lasting(_outcome(response), "a batch")] * len(wanted)
        if len(response) != len(wanted):
            raise RpcRefused(f"the endpoint answered {len(response)} of {len(wanted)} requests of a batch")
        return [
            _lasting(_outcome(item), method, params) for item, (method, params) in zip(response, wanted, strict=True)
        ]

    def batch(self, wanted: Sequence[Request]) -> list[Any]:
        """Many requests in one round trip. Raises RpcUnreachable, or RpcRefused with the first error."""
        return [_require(method, item) for (method, _), item in zip(wanted, self.try_batch(wanted), strict=True)]

    def _repeat(self, send: Callable[[], T], attempts: int | None) -> T:
        """Tries again on connection errors, busy endpoints and late nodes, waiting 0.2, 0.4, 0.8 … s in between."""
        tries = attempts or self._attempts
        for attempt in range(tries):
            try:
                return send()
            except _Passing as passing:
                if attempt + 1 == tries:
                    raise passing.error from None
            except (OSError, http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError) as error:
                if attempt + 1 == tries or not _is_transient(error):
                    raise RpcUnreachable(f"no answer from the RPC endpoint: {_reason(error)}") from error
                _log.debug("no answer from the endpoint, try %d: %s", attempt + 1, _reason(error))
            self.sleep(0.2 * 2**attempt)
        raise AssertionError("attempts is at least one")

    # --- the chain --------------------------------------------------------------------------------

    @property
    def chain_id(self) -> int:
        """The endpoint's chain id, asked once. Raises WrongChainId when another one was expected."""
        if self._chain_id is None:
            found = int(self.request("eth_chainId"), 16)
            if self._expected_chain_id not in (None, found):
                raise WrongChainId(
                    f"the endpoint serves chain {found}, not {self._expected_chain_id}",
                    expected=self._expected_chain_id,
                    found=found,
                )
            self._chain_id = found
        return self._chain_id

    def block_number(self) -> int:
        """The newest block's number: the cheapest question there is."""
        return int(self.request("eth_blockNumber"), 16)

    def header(self, block: int | str | bytes = "latest") -> dict[str, Any]:
        """A block without its transactions, by number, tag or hash. Raises NodeBehind when there is none (yet)."""
        if isinstance(block, bytes):
            found = self.request("eth_getBlockByHash", ["0x" + block.hex(), False])
        else:
            found = self.request("eth_getBlockByNumber", [block_tag(block), False])
        if found is None:
            raise NodeBehind(f"the endpoint has no block {block if not isinstance(block, bytes) else block.hex()}")
        return cast(dict[str, Any], found)

    def block(self, block: int | str | bytes = "latest") -> Block:
        """Number, time and hash of a block, by number, tag or hash."""
        return parse_block(self.header(block))

    def wait_for_block(self, after: int, timeout_s: float) -> Block:
        """The newest block; returns once its number exceeds `after`, or at the timeout. Polls the block number only."""
        deadline = self.clock() + timeout_s
        while self.block_number() <= after:
            left = deadline - self.clock()
            if left <= 0:
                break
            self.sleep(min(self.poll_interval_s, left))
        return self.block()

    def balance(self, account: Address) -> int:
        """Native wei of an account at the newest block."""
        return int(self.request("eth_getBalance", [account, "latest"]), 16)

    def has_code(self, address: Address) -> bool:
        """Whether there is a contract at the address."""
        return len(self.request("eth_getCode", [address, "latest"])) > 2

    # --- calls ------------------------------------------------------------------------------------

    def read(self, call: Call, block: Block | None = None) -> Any:
        """One contract read, at `block` or the newest one."""
        return self.read_all([call], block)[0]

    def read_all(self, calls: Sequence[Call], block: Block | None = None) -> list[Any]:
        """Contract reads that all see the same block: `block`, or the newest one.

        Raises NoContract when an address has no code, and the decoded error when a read reverts.
        """
        pinned = block or self.block()
        answers = self.try_batch([("eth_call", [_call_object(call), block_reference(pinned)]) for call in calls])
        return [_result(call, answer) for call, answer in zip(calls, answers, strict=True)]

    # --- checks -----------------------------------------------------------------------------------

    def check_contract(self, address: Address, name: str, version: Function) -> None:
        """Raises WrongChainId, NoContract or WrongContractVersion unless our contract of this version is there."""
        _ = self.chain_id
        if not self.has_code(address):
            raise NoContract(f"there is no {name} at {address}", address=address, name=name)
        answer = self.try_request("eth_call", [_call_object(Call(address, version)), "latest"])
        found = _version_text(version, answer)
        if found != CONTRACT_VERSION:
            raise WrongContractVersion(
                f"the {name} at {address} is {found or 'something else'}, not {CONTRACT_VERSION}",
                address=address,
                found=found,
                expected=CONTRACT_VERSION,
            )


def block_tag(block: int | str) -> str:
    """A block number or a tag as the endpoint wants it."""
    return hex(block) if isinstance(block, int) else block


def block_reference(block: Block) -> dict[str, Any]:
    """Pins a call to one block by its hash (EIP-1898), so that a reorg can't mix two histories."""
    return {"blockHash": "0x" + block.hash.hex()}


def parse_block(header: dict[str, Any]) -> Block:
    """The three facts of a header that decisions need."""
    return Block(int(header["number"], 16), int(header["timestamp"], 16), bytes.fromhex(header["hash"][2:]))


def _call_object(call: Call) -> dict[str, str]:
    return {"to": call.to, "data": "0x" + call.function.encode(*call.arguments).hex()}


def _result(call: Call, answer: Any | RpcError) -> Any:
    if isinstance(answer, RpcError):
        raise decode_rpc_error(answer, call.function.name)
    data = bytes.fromhex(answer[2:])
    if not data and call.function.outputs:
        raise NoContract(f"no contract answers at {call.to}", address=call.to)
    return call.function.result(data, call.target)


def _version_text(version: Function, answer: Any | RpcError) -> str | None:
    """The version string, or None when what answered is not a version at all."""
    if isinstance(answer, RpcError):
        return None
    try:
        return str(version.result(bytes.fromhex(answer[2:])))[:64]
    except ChainError:
        return None


class _Passing(Exception):
    """An answer that asking again may change. error: what is raised when it does not."""

    def __init__(self, error: ChainflError) -> None:
        super().__init__(str(error))
        self.error = error


def _lasting(outcome: Any | RpcError, method: str, params: Sequence[Any] = ()) -> Any | RpcError:
    """The outcome. Raises _Passing when the endpoint is busy, or behind the node that showed the block."""
    if not isinstance(outcome, RpcError) or is_revert(outcome):
        return outcome
    said = f"the endpoint refused {method}: {outcome.message}"
    if any(mark in outcome.message.lower() for mark in _BLOCK_NOT_FOUND):
        raise _Passing(NodeBehind(said, code=outcome.code, method=method))
    if _is_rate_limit(outcome, method, params):
        raise _Passing(RpcUnreachable(said, code=outcome.code, method=method))
    return outcome


def _is_rate_limit(error: RpcError, method: str, params: Sequence[Any]) -> bool:
    """Whether it was asked too often. The code for it also says that a range of logs is too wide, which is halved."""
    if error.code == 429 or _RATE_LIMITED.search(error.message):
        return True
    return error.code == _LIMIT_EXCEEDED and not (method == "eth_getLogs" and _is_range(params))


def _is_range(params: Sequence[Any]) -> bool:
    query = params[0] if params and isinstance(params[0], dict) else {}
    return query.get("fromBlock") != query.get("toBlock")


def _require(method: str, outcome: Any | RpcError) -> Any:
    if isinstance(outcome, RpcError):
        outcome.raise_refused(method)
    return outcome


def _outcome(response: Any) -> Any | RpcError:
    """The `result` of a response, or its error. A response without either is an error, too."""
    if not isinstance(response, dict) or ("error" not in response and "result" not in response):
        return RpcError(0, f"not a JSON-RPC response: {str(response)[:120]}", None)
    if response.get("error") is None:
        return response["result"]
    return _parse_error(response["error"])


def _parse_error(error: Any) -> RpcError:
    if not isinstance(error, dict):
        return RpcError(0, str(error)[:500], None)
    code = error.get("code")
    return RpcError(
        code if isinstance(code, int) else 0, str(error.get("message", ""))[:500], _revert_data(error.get("data"))
    )


def _revert_data(data: Any) -> bytes | None:
    """Revert data as geth, Anvil and hosted endpoints nest it: a hex string, bare or inside of another object."""
    if isinstance(data, dict):
        return _revert_data(data.get("data") or data.get("result"))
    if not isinstance(data, str):
        return None
    text = data.removeprefix("Reverted ").removeprefix("0x")
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _is_transient(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in BUSY_STATUSES
    return not isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema)


def _reason(error: Exception) -> str:
    """What went wrong, without the URL: it may carry an access key."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout | TimeoutError):
        return "it took too long"
    if isinstance(error, requests.ConnectionError | ConnectionError | http.client.HTTPException):
        return "the connection failed"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "what answers is not JSON"
    return type(error).__name__
