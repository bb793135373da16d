"""The networks that have a name: what the protocol's windows should be there, and how the chain behaves.

The RPC URL always comes from the user; only the local chain has one by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chainfl.tasks.spec import LOCAL_WINDOWS, PUBLIC_WINDOWS
from chainfl.tasks.state import Windows

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Network:
    """One chain. Times in seconds.

    reorg_depth: blocks that an event scan reads again; a deeper reorganisation than this has to be told by hand.
    op_stack: transactions also pay for their data on L1, beside the gas.
    """

    name: str
    chain_id: int
    block_time_s: float
    reorg_depth: int
    windows: Windows
    unbonding_s: int
    default_rpc: str | None = None
    op_stack: bool = False

    @property
    def poll_interval_s(self) -> float:
        """How often to look for a new block: twice a block time, but not less often than every second."""
        return min(1.0, self.block_time_s / 2)

    @property
    def is_local(self) -> bool:
        """A chain that this machine runs for itself."""
        return self.default_rpc is not None


def _public(name: str, chain_id: int, block_time_s: float, reorg_depth: int, *, op_stack: bool = False) -> Network:
    return Network(name, chain_id, block_time_s, reorg_depth, PUBLIC_WINDOWS, 7 * DAY_S, op_stack=op_stack)


LOCAL: Final = Network("local", 31_337, 1.0, 8, LOCAL_WINDOWS, 60, default_rpc="http://127.0.0.1:8545")

NETWORKS: Final = {
    network.name: network
    for network in (
        LOCAL,
        _public("sepolia", 11_155_111, 12.0, 32),
        _public("hoodi", 560_048, 12.0, 32),
        _public("base-sepolia", 84_532, 2.0, 64, op_stack=True),
        _public("op-sepolia", 11_155_420, 2.0, 64, op_stack=True),
    )
}


def network_of_chain(chain_id: int) -> Network:
    """The named network with this chain id; for an unknown one, the cautious values of a public L1."""
    known = (network for network in NETWORKS.values() if network.chain_id == chain_id)
    return next(known, None) or _public(f"chain-{chain_id}", chain_id, 12.0, 64)
