"""A real chain for the integration tests: contracts deployed once a session, funded keys, and a clock to move."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from chainfl.agents.ports import Sent
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import TOKEN, Deployment
from chainfl.chain.keys import Signer
from chainfl.chain.networks import LOCAL
from chainfl.chain.operator import Operator
from chainfl.tasks.spec import DEFAULT_ECONOMICS
from chainfl.tasks.state import ZERO_ROOT, Bounds, CidOnChain, Format, TaskParams
from chainfl.types import Root, Wei

ETHER = 10**18
RAW = 0x55


@dataclass(frozen=True)
class LocalChain:
    """One Anvil with one deployment. `operator()` gives a new account with ether and tokens of its own."""

    anvil: AnvilProcess
    client: ChainClient
    deployment: Deployment
    deployer: Signer

    def signer(self, ether: float = 10) -> Signer:
        """A fresh key with native currency."""
        signer = Signer.from_private_key("0x" + secrets.token_hex(32))
        self.anvil.fund(signer.address, int(ether * ETHER))
        return signer

    def open(self, signer: Signer | None, **options: object) -> Operator:
        """The deployment as `signer` sees it."""
        return Operator(self.client, self.deployment, signer, **options)  # type: ignore[arg-type]

    def operator(self, tokens: int = 0, stake: int = 0) -> Operator:
        """A fresh account with whole tokens outside of the vault, and whole tokens of free stake in it."""
        operator = self.open(self.signer())
        if tokens + stake:
            bank = self.open(self.deployer)
            assert isinstance(bank.transfer(operator.account, Wei((tokens + stake) * TOKEN)), Sent)
        if stake:
            assert isinstance(operator.deposit(Wei(stake * TOKEN)), Sent)
        return operator

    def advance(self, seconds: int) -> None:
        """Moves the chain's clock and mines a block."""
        self.anvil.advance(seconds)

    def now(self) -> int:
        """The newest block's time."""
        return self.client.block().timestamp


def task_params(chain: LocalChain, **changes: object) -> TaskParams:
    """A small task: one worker, one validator, one aggregator, one round, 1,000 tokens."""
    cid = CidOnChain(bytes([7]) * 32, RAW)
    params = TaskParams(
        spec_hash=bytes([1]) * 32,
        genesis_root=Root(bytes([2]) * 32),
        genesis_state_root=ZERO_ROOT,
        genesis_cid=cid,
        genesis_float_cid=cid,
        parent_model=bytes(32),
        rounds=1,
        enrolment_end=chain.now() + 3_600,
        reward=Wei(1_000 * TOKEN),
        workers=Bounds(1, 1),
        validators=Bounds(1, 1),
        aggregators=Bounds(1, 1),
        format=Format(1_000, 256, 20, 14, 1, 1, 2**50),
        windows=LOCAL.windows,
        economics=DEFAULT_ECONOMICS,
        named_validators=(),
        licence="Apache-2.0",
    )
    return replace(params, **changes)  # type: ignore[arg-type]


def expect_sent(result: object) -> Sent:
    """The Sent, or a failure that shows what came instead."""
    assert isinstance(result, Sent), result
    return result
