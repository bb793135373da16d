"""One endpoint, and everything it can answer wrongly."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from chain_fakes import fake_client, refuse_connection

from chainfl.chain.abi import contract_abi
from chainfl.chain.client import Call, ChainClient, _parse_error
from chainfl.chain.reverts import RpcError
from chainfl.chain.transport import _answer
from chainfl.errors import (
    ChainError,
    NoContract,
    NodeBehind,
    RpcRefused,
    RpcUnreachable,
    WrongChainId,
    WrongContractVersion,
)
from chainfl.tasks.state import Block
from chainfl.types import Address

VAULT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
HEADER = {"number": "0x5", "timestamp": "0x64", "hash": "0x" + "ab" * 32}
FREE_OF = contract_abi("StakeVault").functions["freeOf"]
VERSION = contract_abi("StakeVault").functions["version"]


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} for url: http://host/access-key", response=response)


def failing(times: int, error: Exception, then: Any) -> Any:
    left = [times]

    def answer(*_: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return then

    return answer


def text_result(text: str) -> str:
    body = text.encode()
    return "0x" + ((32).to_bytes(32, "big") + len(body).to_bytes(32, "big") + body.ljust(32, b"\0")).hex()


@pytest.mark.parametrize("error", [requests.ConnectionError(), requests.Timeout(), http_error(429), http_error(503)])
def test_request__fails_and_recovers__is_repeated_with_growing_waits(error: Exception):
    client, _, clock = fake_client({"eth_blockNumber": failing(3, error, "0x10")})
    assert client.block_number() == 16
    assert clock.slept == [0.2, 0.4, 0.8]


def test_request__never_answers__raises_unreachable():
    client, provider, _ = fake_client({"eth_blockNumber": refuse_connection})
    with pytest.raises(RpcUnreachable) as caught:
        client.block_number()
    assert provider.asked == ["eth_blockNumber"] * 4
    assert (caught.value.exit_code, caught.value.retryable) == (21, True)


def test_request__refused_by_status__is_not_repeated_and_keeps_the_url_to_itself():
    client, provider, _ = fake_client({"eth_blockNumber": failing(9, http_error(401), "")})
    with pytest.raises(RpcUnreachable) as caught:
        client.block_number()
    assert len(provider.asked) == 1
    assert "401" in str(caught.value)
    assert "access-key" not in str(caught.value) + repr(client)


def test_request__answer_is_no_json__raises_unreachable():
    client, _, _ = fake_client({"eth_blockNumber": failing(9, json.JSONDecodeError("x", "<html>", 0), "")})
    with pytest.raises(RpcUnreachable, match="not JSON"):
        client.block_number()


def test_request__url_that_is_no_url__raises_unreachable():
    with pytest.raises(RpcUnreachable):
        ChainClient("http://", sleep=lambda _: None).block_number()


@pytest.mark.parametrize("response", [[], "text", {}, {"jsonrpc": "2.0"}, {"error": "x"}, {"error": {"code": "a"}}])
def test_request__malformed_response__raises_refused(response: Any, monkeypatch: pytest.MonkeyPatch):
    client, provider, _ = fake_client({})
    monkeypatch.setattr(provider, "request", lambda *_: response)
    with pytest.raises(RpcRefused):
        client.block_number()


def test_batch__one_error_for_all_or_too_few_answers__raises_refused(monkeypatch: pytest.MonkeyPatch):
    client, provider, _ = fake_client({})
    monkeypatch.setattr(provider, "batch", lambda _: {"error": {"code": 1, "message": "no batches"}})
    with pytest.raises(RpcRefused, match="no batches"):
        client.batch([("a", []), ("b", [])])
    monkeypatch.setattr(provider, "batch", lambda _: [{"result": 1}])
    with pytest.raises(RpcRefused, match="1 of 2"):
        client.batch([("a", []), ("b", [])])
    assert client.batch([]) == []


def test_chain_id__another_one__raises_wrong_chain_id():
    client, _, _ = fake_client({"eth_chainId": lambda: "0x1"}, expected_chain_id=31_337)
    with pytest.raises(WrongChainId) as caught:
        _ = client.chain_id
    assert caught.value.hint.startswith("Point `rpc` at chain 31337")


def test_wait_for_block__new_block__returns_after_few_polls():
    numbers = iter(["0x5", "0x5", "0x6"])
    client, provider, clock = fake_client(
        {"eth_blockNumber": lambda: next(numbers), "eth_getBlockByNumber": lambda *_: HEADER}, poll_interval_s=0.5
    )
    assert client.wait_for_block(5, 60) == Block(5, 100, bytes([0xAB]) * 32)
    assert clock.slept == [0.5, 0.5]
    assert provider.asked.count("eth_getBlockByNumber") == 1


def test_wait_for_block__nothing_new__returns_at_the_timeout():
    client, _, clock = fake_client(
        {"eth_blockNumber": lambda: "0x5", "eth_getBlockByNumber": lambda *_: HEADER}, poll_interval_s=0.5
    )
    client.wait_for_block(5, 1.2)
    assert sum(clock.slept) == pytest.approx(1.2)


def test_read_all__several__are_pinned_to_one_block_hash():
    seen: list[Any] = []

    def call(_: Any, block: Any) -> str:
        seen.append(block)
        return "0x" + (7).to_bytes(32, "big").hex()

    client, _, _ = fake_client({"eth_call": call, "eth_getBlockByNumber": lambda *_: HEADER})
    assert client.read_all([Call(VAULT, FREE_OF, (VAULT,), int)] * 2) == [7, 7]
    assert seen == [{"blockHash": HEADER["hash"]}] * 2


def test_read__block_not_there_yet__is_asked_once_more():
    answers = iter([RpcError(-32000, "header not found", None), "0x" + "00" * 32])
    client, _, _ = fake_client({"eth_call": lambda *_: next(answers), "eth_getBlockByNumber": lambda *_: HEADER})
    assert client.read(Call(VAULT, FREE_OF, (VAULT,), int)) == 0


BUSY = [
    RpcError(-32005, "limit exceeded", None),
    RpcError(429, "slow down", None),
    RpcError(-32000, "429 Too Many Requests", None),
    RpcError(-32016, "your app exceeded its compute units per second capacity", None),
    RpcError(-32029, "rate limit reached", None),
]
BEHIND = [RpcError(-32000, text, None) for text in ("header not found", "unknown block", "Unknown block")]


@pytest.mark.parametrize("error", BUSY + BEHIND)
def test_request__busy_or_behind_for_a_while__is_repeated(error: RpcError):
    answers = iter([error, error, "0x10"])
    client, _, clock = fake_client({"eth_blockNumber": lambda: next(answers)})
    assert client.block_number() == 16
    assert clock.slept == [0.2, 0.4]


@pytest.mark.parametrize(
    ("error", "kind"), [(BUSY[0], RpcUnreachable), (BUSY[2], RpcUnreachable), (BEHIND[0], NodeBehind)]
)
def test_request__busy_or_behind_for_long__raises_what_is_worth_trying_later(error: RpcError, kind: type[ChainError]):
    client, provider, _ = fake_client({"eth_call": lambda *_: error, "eth_getBlockByNumber": lambda *_: HEADER})
    with pytest.raises(kind) as caught:
        client.read(Call(VAULT, FREE_OF, (VAULT,), int))
    assert caught.value.retryable
    assert provider.asked.count("eth_call") == 4


def test_batch__one_answer_is_busy__is_repeated_as_a_whole():
    answers = iter(["0x1", BUSY[0], "0x1", "0x2"])
    client, _, _ = fake_client({"eth_x": lambda: next(answers)})
    assert client.batch([("eth_x", []), ("eth_x", [])]) == ["0x1", "0x2"]


def test_request__logs_of_too_wide_a_range__are_an_answer_and_of_one_block_a_limit():
    too_many = RpcError(-32005, "query returned more than 10000 results", None)
    client, _, _ = fake_client({"eth_getLogs": lambda _: too_many})
    assert client.try_request("eth_getLogs", [{"fromBlock": "0x1", "toBlock": "0x2"}]) == too_many
    with pytest.raises(RpcUnreachable):
        client.try_request("eth_getLogs", [{"fromBlock": "0x1", "toBlock": "0x1"}])


def test_request__revert_that_talks_of_limits__is_a_revert():
    revert = RpcError(3, "execution reverted: rate limit", b"")
    client, provider, _ = fake_client({"eth_call": lambda *_: revert})
    assert client.try_request("eth_call", [{}]) == revert
    assert provider.asked == ["eth_call"]


def test_header__no_such_block__is_worth_trying_later():
    client, _, _ = fake_client({"eth_getBlockByNumber": lambda *_: None})
    with pytest.raises(NodeBehind):
        client.block(7)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("0x", NoContract),
        ("0x12", ChainError),
        (RpcError(-32000, "missing trie node", None), RpcRefused),
        (RpcError(3, "execution reverted", bytes.fromhex("00000000")), ChainError),
    ],
)
def test_read__not_a_result__raises(answer: Any, error: type[ChainError]):
    client, _, _ = fake_client({"eth_call": lambda *_: answer, "eth_getBlockByNumber": lambda *_: HEADER})
    with pytest.raises(error):
        client.read(Call(VAULT, FREE_OF, (VAULT,), int))


@pytest.mark.parametrize("answer", [text_result("chainfl-1"), "0x", "0x12", RpcError(3, "execution reverted", b"")])
def test_check_contract__another_version__raises(answer: Any):
    client, _, _ = fake_client(
        {"eth_chainId": lambda: "0x1", "eth_getCode": lambda *_: "0x60", "eth_call": lambda *_: answer}
    )
    with pytest.raises(WrongContractVersion):
        client.check_contract(VAULT, "StakeVault", VERSION)


def test_check_contract__no_code__raises_no_contract():
    client, _, _ = fake_client({"eth_chainId": lambda: "0x1", "eth_getCode": lambda *_: "0x"})
    with pytest.raises(NoContract):
        client.check_contract(VAULT, "StakeVault", VERSION)


@pytest.mark.parametrize(
    ("status", "body", "comes_through"),
    [
        (400, b'{"error": {"code": -32602, "message": "range too large"}}', True),
        (413, b'{"error": {"code": 1, "message": "m"}}', True),
        (429, b'{"error": {"code": 1, "message": "slow down"}}', False),
        (400, b"<html>", False),
        (400, b"{}", False),
    ],
)
def test_answer__refused_with_a_body__is_the_bodys_error(status: int, body: bytes, comes_through: bool):
    error = http_error(status)
    assert error.response is not None
    error.response._content = body

    def refuse() -> None:
        raise error

    if comes_through:
        assert "error" in _answer(refuse)
    else:
        with pytest.raises(requests.HTTPError):
            _answer(refuse)


@pytest.mark.parametrize(
    "data",
    ["0x1234", "1234", "Reverted 0x1234", {"data": "0x1234"}, {"result": "0x1234"}, {"data": {"data": "0x1234"}}],
)
def test_revert_data__as_each_endpoint_nests_it__is_found(data: Any):
    assert _parse_error({"code": 3, "message": "m", "data": data}).data == bytes.fromhex("1234")


@pytest.mark.parametrize("data", [None, 5, "zz", [], {"data": None}])
def test_revert_data__nothing_usable__is_none(data: Any):
    assert _parse_error({"code": 3, "message": "m", "data": data}).data is None
