"""Scans over a chain that limits ranges and reorganises."""

from __future__ import annotations

import pytest
from chain_fakes import FakeChain, fake_client

from chainfl.chain.events import Log, LogFilter, LogFollower, scan_logs
from chainfl.chain.reverts import RpcError
from chainfl.errors import ChainError, RpcRefused

ALL = LogFilter(())


def seen(logs: tuple[Log, ...]) -> str:
    """The fork's letter of each log's block, in order."""
    return "".join(chr(log.block_hash[-1]) for log in logs)


def test_scan__from_a_block__overlaps_the_window_and_ends_at_the_head():
    client, _, _ = FakeChain(20).client()
    numbers = [log.block_number for log in scan_logs(client, ALL, 10, reorg_depth=4)]
    assert numbers == list(range(6, 20))


def test_scan__range_too_large__is_halved_until_it_fits():
    chain = FakeChain(20)
    chain.max_range = 3
    client, provider, _ = chain.client()
    assert [log.block_number for log in scan_logs(client, ALL, 0, reorg_depth=0)] == list(range(20))
    assert provider.asked.count("eth_getLogs") < 40


def test_scan__refused_even_for_one_block__raises():
    client, _, _ = fake_client(
        {"eth_getLogs": lambda _: RpcError(-32601, "no logs here", None), "eth_getBlockByNumber": FakeChain(5).header}
    )
    with pytest.raises(RpcRefused, match="no logs here"):
        scan_logs(client, ALL, 0, reorg_depth=0)


def test_scan__reorg_meanwhile__drops_orphaned_logs():
    chain = FakeChain(20)
    client, _, _ = chain.client()
    chain.on_logs = lambda: chain.reorg(17, "b") if chain.forks[-1] == "a" else None
    assert seen(scan_logs(client, ALL, 0, reorg_depth=5)) == "a" * 17 + "bbb"


def test_scan__reorg_to_a_shorter_chain__ends_at_its_head():
    chain = FakeChain(20)
    client, _, _ = chain.client()
    chain.on_logs = lambda: chain.reorg(17, "b", 19) if len(chain.forks) == 20 else None
    assert seen(scan_logs(client, ALL, 0, reorg_depth=5)) == "a" * 17 + "bb"


def test_scan__chain_never_rests__raises():
    chain = FakeChain(10)
    client, _, _ = chain.client()
    forks = iter("bcdefghijk")
    chain.on_logs = lambda: chain.reorg(8, next(forks))
    with pytest.raises(ChainError, match="keeps reorganising"):
        scan_logs(client, ALL, 0, reorg_depth=5)


def test_scan__log_marked_removed__is_left_out():
    chain = FakeChain(3)
    client, provider, _ = chain.client()
    provider.handlers["eth_getLogs"] = lambda query: [{**log, "removed": True} for log in chain.logs(query)]
    assert scan_logs(client, ALL, 0, reorg_depth=0) == ()


def test_follower__chain_grows__tells_each_log_once():
    chain = FakeChain(10)
    client, provider, _ = chain.client()
    follower = LogFollower(client, ALL, 5, reorg_depth=3)
    assert [log.block_number for log in follower.poll().new] == [5, 6, 7, 8, 9]
    asked = len(provider.asked)
    assert follower.poll().new == ()
    assert len(provider.asked) == asked + 1
    chain.forks += ["a", "a"]
    assert [log.block_number for log in follower.poll().new] == [10, 11]


def test_follower__reorg__tells_what_came_and_what_was_taken_back():
    chain = FakeChain(10)
    client, _, _ = chain.client()
    follower = LogFollower(client, ALL, 0, reorg_depth=3)
    follower.poll()
    chain.reorg(8, "b")
    changes = follower.poll()
    assert seen(changes.new) == "bb"
    assert seen(changes.orphaned) == "aa"
    assert [log.block_number for log in changes.orphaned] == [8, 9]


def test_follower__shorter_chain__takes_back_what_is_gone():
    chain = FakeChain(10)
    client, _, _ = chain.client()
    follower = LogFollower(client, ALL, 0, reorg_depth=3)
    follower.poll()
    chain.reorg(8, "b", 9)
    changes = follower.poll()
    assert (seen(changes.new), seen(changes.orphaned)) == ("b", "aa")
    chain.forks += ["b"]
    assert [log.block_number for log in follower.poll().new] == [9]


def test_follower__memory__is_bounded_by_the_window():
    chain = FakeChain(200)
    client, _, _ = chain.client()
    follower = LogFollower(client, ALL, 0, reorg_depth=3)
    follower.poll()
    assert len(follower._recent) <= 7
