"""One task with its three participants on a real chain, phase by phase."""

from __future__ import annotations

import secrets

from anvil import DEFAULT_ECONOMICS, RAW, LocalChain, expect_sent, task_params

from chainfl.agents.ports import Sent
from chainfl.chain.operator import Operator
from chainfl.tasks.commitments import scores_commitment, update_commitment
from chainfl.tasks.state import ZERO_ROOT, CidOnChain, Claim, Role
from chainfl.tasks.votes import Vote, pack_votes
from chainfl.types import Root, TaskId, Wei

CID = CidOnChain(bytes([9]) * 32, RAW)
NEXT_ROOT = Root(bytes([8]) * 32)
CLAIM = Claim(NEXT_ROOT, ZERO_ROOT, ())


def create(chain: LocalChain, requester: Operator, **changes: object) -> TaskId:
    return requester.created_task(expect_sent(requester.create_task(task_params(chain, **changes))))


class Round:
    """One task with its three participants, and the salts they must remember."""

    def __init__(self, chain: LocalChain, **changes: object) -> None:
        self.chain = chain
        self.requester = chain.operator(stake=2_000)
        self.worker, self.validator, self.aggregator = (chain.operator(stake=1_000) for _ in range(3))
        self.task_id = create(chain, self.requester, **changes)
        self.salt = secrets.token_bytes(32)
        self.root = Root(secrets.token_bytes(32))
        self.squared_norm = 5
        self.cid = CID

    def enrol(self) -> None:
        expect_sent(self.aggregator.enrol(self.task_id, Role.AGGREGATOR, Wei(0)))
        expect_sent(self.validator.enrol(self.task_id, Role.VALIDATOR, DEFAULT_ECONOMICS.validator_stake))
        expect_sent(self.worker.enrol(self.task_id, Role.WORKER, DEFAULT_ECONOMICS.worker_stake))

    def _scope(self) -> dict[str, object]:
        port = self.worker
        return {"chain_id": port.chain_id, "coordinator": port.coordinator, "task_id": self.task_id, "round_number": 1}

    def commit(self) -> Sent:
        commitment = update_commitment(
            **self._scope(),
            worker=self.worker.account,
            root=self.root,
            cid=self.cid,
            squared_norm=self.squared_norm,
            num_examples=100,
            salt=self.salt,
        )
        return expect_sent(self.worker.commit_update(self.task_id, 1, commitment))

    def reveal(self) -> object:
        return self.worker.reveal_update(self.task_id, 1, self.root, self.cid, self.squared_norm, 100, self.salt)

    def score(self) -> None:
        votes = pack_votes([Vote(10_000, 10_000)])
        commitment = scores_commitment(**self._scope(), validator=self.validator.account, votes=votes, salt=self.salt)
        expect_sent(self.validator.commit_scores(self.task_id, 1, commitment))
        expect_sent(self.validator.reveal_scores(self.task_id, 1, votes, self.salt))

    def post(self, claim: Claim = CLAIM) -> None:
        expect_sent(self.aggregator.tally(self.task_id, 8))
        self.chain.advance(1)
        expect_sent(self.aggregator.post_aggregate(self.task_id, 1, claim, CID, CID, bytes(32)))

    def aggregate(self) -> None:
        self.post()
        self.chain.advance(4)
        expect_sent(self.aggregator.settle(self.task_id, 8))

    def play(self) -> None:
        self.enrol()
        self.commit()
        expect_sent(self.reveal())
        self.score()
        self.aggregate()
