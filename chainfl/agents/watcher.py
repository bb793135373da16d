"""A watcher of one task: recomputes what strangers claim, and disputes what is wrong. No torch.

One honest watcher anywhere keeps the model right. It is paid by the slashes of those it catches; what each dispute
costs and can earn is told before anything is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from chainfl.agents.cases import Against, Case, CaseFile
from chainfl.agents.context import AgentContext
from chainfl.agents.evidence import Evidence
from chainfl.agents.player import new_salt
from chainfl.agents.ports import (
    AnsweredDemand,
    ChunkDemand,
    DemandAnswer,
    DisputeStep,
    DryRun,
    SendResult,
    Sent,
    TimedOut,
    WouldRevert,
)
from chainfl.agents.watching import (
    IS_POSTED,
    Announce,
    AnswerDemand,
    AnswerGame,
    Batched,
    DemandChunk,
    Drop,
    EndChallenge,
    EndDemand,
    EndGame,
    Findings,
    Look,
    LookAtAggregate,
    LookAtAnswers,
    LookAtGame,
    LookAtUpdates,
    Move,
    OpenCase,
    OpenGame,
    OwnChallenge,
    PointAt,
    Prove,
    Rest,
    StartGame,
    UpdateFinding,
    Watch,
    batch,
    demand_fee,
    is_overdue,
    moves,
    next_game_bond,
    next_move,
    prize,
    sent_for,
)
from chainfl.errors import NodeBehind, StillFetching, UnexpectedPhase
from chainfl.tasks.commitments import challenge_commitment, proof_commitment, proof_hash_of
from chainfl.tasks.state import Block, PostedAggregate, Role, RoundView, Snapshot, Target
from chainfl.types import TaskId

PROOF_GAS = 600_000
"""What a proof of the usual size costs to execute; its calldata come on top. For the estimate that is told."""
GAS_A_PROOF_BYTE = 40


class Watcher:
    """Takes one step at a time in one task. dry_run: tell what would be disputed, and send nothing.

    answers: also serve chunks and nodes that others ask for.
    """

    def __init__(self, context: AgentContext, *, dry_run: bool = False, answers: bool = False) -> None:
        self.context = context
        self.task_id: TaskId = context.scope.task_id
        self._dry_run = dry_run
        self._answers = answers
        self._evidence = Evidence(context, waits=False)
        self._cases = CaseFile(context.journal)
        self._findings = Findings()
        self._round = 0
        self._told: set[tuple[object, ...]] = set()
        self._refused: set[Move] = set()

    @property
    def is_owed(self) -> bool:
        """Whether a bond is still out, so that the task is not to be left yet."""
        return any(self._cases.all())

    def step(self, block: Block) -> Rest | None:
        """One look and at most one transaction, or many of a kind. returns: None when it should look again at once.

        Raises ChainflError; a retryable one is worth another try.
        """
        try:
            return self._step(self._look(block))
        except StillFetching as error:
            self.context.log.emit("fetching", level=logging.DEBUG, why=str(error))
            return Rest()

    def _step(self, watch: Watch) -> Rest | None:
        self._enter_round(watch)
        cases = {case.key: case for case in self._cases.all()}
        if self._dry_run:
            return self._rehearse(watch, cases)
        salt, refused, answers = new_salt(), self._refused, self._answers
        move = next_move(watch, self._findings, cases, salt=salt, answers=answers, refused=refused)
        if isinstance(move, Rest):
            return move
        together = batch(move, watch, self._findings, cases, salt=salt, answers=answers, refused=refused)
        if together:
            return self._judged_all(together, self._do_all(watch, together))
        return self._judged(move, self._do(watch, move))

    def _rehearse(self, watch: Watch, cases: Mapping[str, Case]) -> Rest | None:
        """Looks at all there is, and tells of all that it would send."""
        for move in moves(watch, self._findings, cases, salt=new_salt(), answers=self._answers):
            if isinstance(move, Look):
                self._do(watch, move)
                return None
            self._tell_facts(watch, move)
            sends, about = sent_for(move)
            if sends:
                self._tell_once("would_dispute", sends=sends, about=about)
        return Rest(watch.round.phase_end or None)

    # --- looking ----------------------------------------------------------------------------------

    def _look(self, block: Block) -> Watch:
        chain, task_id = self.context.chain, self.task_id
        snapshot = chain.snapshot(task_id, Role.CHALLENGER, block)
        view = snapshot.round
        self.context.log.stand_at(task_id, view.round, view.phase)
        created = self.context.task.created_block
        own = chain.challenges(task_id, created, chain.account)
        return Watch(
            block=block,
            task_id=task_id,
            task=snapshot.task,
            round=view,
            me=chain.account,
            free_stake=snapshot.free_stake,
            posted=self._posted(view),
            games=self._games(snapshot),
            demands=chain.open_demands(task_id, view.round, view.opened_block) if view.round else (),
            challenges=tuple(OwnChallenge(c, chain.verdict(task_id, c.round, c.attempt, block)) for c in own),
            answered=self._answered(view),
        )

    def _answered(self, view: RoundView) -> tuple[AnsweredDemand, ...]:
        if view.round == 0 or not any(found.is_open for found in self._findings.updates.values()):
            return ()
        return self.context.chain.answered_demands(self.task_id, view.round, view.opened_block)

    def _posted(self, view: RoundView) -> PostedAggregate | None:
        if view.phase not in IS_POSTED:
            return None
        posted = self.context.chain.posted_aggregates(self.task_id, view.round, view.opened_block)
        return next((one for one in posted if one.attempt == view.attempt), None)

    def _games(self, snapshot: Snapshot) -> tuple[OpenGame, ...]:
        view, chain = snapshot.round, self.context.chain
        if view.num_games == 0 or view.round == 0:
            return ()
        records = chain.games(self.task_id, view.round, view.opened_block)
        open_games = [(r, chain.game(self.task_id, r.game_id, snapshot.block)) for r in records if r.is_lost is None]
        return tuple(OpenGame(record, game) for record, game in open_games if game.is_open)

    def _enter_round(self, watch: Watch) -> None:
        if watch.round.round == self._round:
            return
        self._round = watch.round.round
        self._findings = self._findings.next_round()
        self._refused.clear()
        self._evidence.enter(watch.round)

    # --- doing ------------------------------------------------------------------------------------

    def _do(self, watch: Watch, move: Move) -> SendResult | None:
        chain, task_id = self.context.chain, self.task_id
        match move:
            case LookAtUpdates():
                self._look_at_updates(watch)
            case LookAtAnswers(found=found):
                self._look_at_answers(watch, found)
            case LookAtAggregate():
                self._look_at_aggregate(watch)
            case LookAtGame(game=game):
                self._look_at_game(watch, game)
            case OpenCase():
                self._open_case(watch, move)
            case Drop(case=case):
                self._cases.close(case)
            case Announce(case=case):
                return self._announce(watch, case)
            case Prove(case=case):
                return self._prove(case)
            case StartGame():
                return self._start_game(watch, move)
            case PointAt():
                return chain.point_at(task_id, move.game_id, move.child, move.node, move.siblings)
            case EndGame(game_id=game_id):
                return chain.close_game(task_id, game_id)
            case EndChallenge(challenge=challenge):
                return chain.close_challenge(task_id, challenge.challenger, challenge.commitment)
            case EndDemand(demand=d):
                return chain.close_demand(task_id, d.round, d.worker_index, d.chunk_index)
            case DemandChunk() | AnswerGame() | AnswerDemand() | Rest():
                raise AssertionError("goes in a batch, or is not done")
        return None

    def _look_at_updates(self, watch: Watch) -> None:
        findings = self._findings
        findings.looked_at = watch.now
        for found in self._evidence.check_updates(watch.round, overdue=is_overdue(watch)):
            known = findings.updates.get(found.index)
            if known is None or known.state is not found.state:  # what is still missing is no news
                self._found(found)

    def _look_at_answers(self, watch: Watch, found: UpdateFinding) -> None:
        self._found(self._evidence.read_answers(watch.round, found, watch.answers_for(found.index)))

    def _found(self, found: UpdateFinding) -> None:
        self._findings.updates[found.index] = found
        if found.why:
            self._tell_once("update_suspect", worker=found.index, state=found.state.value, why=found.why)

    def _look_at_aggregate(self, watch: Watch) -> None:
        assert watch.posted is not None
        findings = self._findings
        findings.recomputed_at = watch.now
        findings.unavailable = self._evidence.recompute(watch.round, overdue=is_overdue(watch))
        if findings.unavailable:
            self._tell_once("cannot_recompute", missing=len(findings.unavailable))
            self._look_at_updates(watch)  # after a restart it is not known what is the matter with them
            return
        findings.expected = self._evidence.expected
        findings.aggregate = self._evidence.judge(watch.posted, overdue=is_overdue(watch))
        wrong = findings.aggregate.proof is not None or findings.aggregate.withheld is not None
        if not wrong:
            self._tell_once("aggregate_right", attempt=watch.posted.attempt, root=watch.posted.claim.model_root.hex())
            return
        proof = findings.aggregate.proof or b""
        is_game = findings.aggregate.proof is None
        bond = next_game_bond(watch) if is_game else watch.task.economics.challenger_bond
        self._tell_dispute(findings.aggregate.why, len(proof), self._bond_at(watch.round) // 2, bond)

    def _look_at_game(self, watch: Watch, game: OpenGame) -> None:
        assert watch.posted is not None
        # After a restart, what the aggregate must be is not known any more.
        if self._evidence.recompute(watch.round):
            raise NodeBehind("an accepted update cannot be fetched any more")
        found = self._evidence.play(game, watch.posted)
        self._findings.games[found.game_id] = found

    def _do_all(self, watch: Watch, together: Sequence[Batched]) -> tuple[SendResult, ...]:
        for move in together:
            self._tell_facts(watch, move)
        return self.context.chain.dispute_all(self.task_id, [self._step_of(watch, move) for move in together])

    def _step_of(self, watch: Watch, move: Batched) -> DisputeStep:
        match move:
            case DemandChunk():
                return ChunkDemand(watch.round.round, move.worker_index, move.chunk_index)
            case AnswerGame(game=game):
                return self._evidence.step(game.record.game_id, game.game)
            case AnswerDemand(demand=d):
                opening = self._evidence.opening(d.worker_index, d.chunk_index)
                return DemandAnswer(d.round, d.worker_index, d.chunk_index, opening)

    def _open_case(self, watch: Watch, move: OpenCase) -> None:
        self._tell_facts(watch, move)
        self._cases.open(move.case)

    def _announce(self, watch: Watch, case: Case) -> SendResult | None:
        chain = self.context.chain
        if case.against is not Against.AGGREGATE:
            result = chain.commit_proof(self.task_id, self._proof_commitment(case))
        elif found := self._announced_before(watch, case):
            self._findings.announced[case.key] = found
            return None
        else:
            result = chain.commit_challenge(self.task_id, case.round, case.attempt, self._challenge_commitment(case))
        if isinstance(result, Sent):
            self._findings.announced[case.key] = result.block_number
        return result

    def _announced_before(self, watch: Watch, case: Case) -> int | None:
        """The block of the announcement, when this process was restarted since."""
        wanted = self._challenge_commitment(case)
        return next((o.challenge.block_number for o in watch.challenges if o.challenge.commitment == wanted), None)

    def _prove(self, case: Case) -> SendResult:
        chain = self.context.chain
        if case.against is Against.UPDATE:
            result = chain.prove_update(self.task_id, case.round, case.proof, case.salt)
        elif case.against is Against.GAME:
            result = chain.prove_in_game(self.task_id, case.subject, case.proof, case.salt)
        else:
            result = chain.prove_aggregate(self.task_id, case.round, case.attempt, case.proof, case.salt)
        if isinstance(result, Sent):
            self._cases.close(case)
        return result

    def _start_game(self, watch: Watch, move: StartGame) -> SendResult:
        assert watch.posted is not None
        view = watch.round
        roots = watch.posted.claim.group_roots if move.target is Target.GROUP else ()
        return self.context.chain.open_game(
            self.task_id, view.round, view.attempt, move.target, move.group, roots, move.own_root
        )

    # --- telling ----------------------------------------------------------------------------------

    def _judged(self, move: Move, result: SendResult | None) -> Rest | None:
        log = self.context.log
        match result:
            case None:
                return None
            case Sent():
                self._count(move, result)
                return None
            case WouldRevert(error=error):
                # Somebody was quicker, or a clock ran out between the look and the simulation.
                if not isinstance(error, UnexpectedPhase):
                    self._refused.add(move)
                log.emit("refused", level=logging.WARNING, move=type(move).__name__, why=str(error))
            case TimedOut(tx_hash=tx):
                log.emit("no_receipt", level=logging.WARNING, move=type(move).__name__, tx=tx)
            case DryRun(gas_estimate=gas, cost_wei=cost):
                log.emit("dry_run", move=type(move).__name__, gas=gas, cost_wei=cost)
        return Rest()

    def _judged_all(self, together: Sequence[Batched], results: Sequence[SendResult]) -> Rest | None:
        """Looks again at once while something of it arrives."""
        # Fewer results than moves: the others did not fit, and come at the next look.
        rests = [self._judged(move, result) for move, result in zip(together, results, strict=False)]
        return None if None in rests else Rest()

    def _count(self, move: Move, sent: Sent) -> None:
        report, log = self.context.report, self.context.log
        report.transactions[type(move).__name__] += 1
        report.gas, report.cost_wei = report.gas + sent.gas_used, report.cost_wei + sent.cost_wei
        gas, cost, tx = sent.gas_used, sent.cost_wei, sent.tx_hash
        if isinstance(move, Prove):
            against, size = move.case.against.value, len(move.case.proof)
            log.emit("proven", against=against, bytes=size, gas=gas, cost_wei=cost, tx=tx)
        else:
            log.emit("sent", move=type(move).__name__, gas=gas, cost_wei=cost, tx=tx)

    def _tell_facts(self, watch: Watch, move: Move) -> None:
        """What a dispute costs and can earn, before anything of it is sent; of an aggregate it is told when found."""
        match move:
            case OpenCase(case=case) if case.against is Against.UPDATE:
                found = self._findings.updates[case.subject]
                self._tell_dispute(found.why, len(case.proof), prize(watch, found), 0)
            case DemandChunk():
                found = self._findings.updates[move.worker_index]
                why = f"chunk {move.chunk_index} of the update of worker {found.index}: {found.why}"
                self._tell_dispute(why, 0, prize(watch, found), demand_fee(watch, found))

    def _tell_dispute(self, why: str, proof_bytes: int, reward: int, bond: int) -> None:
        """bond: what it locks, in wei of the token; of a demand the fee, which an answer takes."""
        gas = PROOF_GAS + GAS_A_PROOF_BYTE * proof_bytes
        price = self.context.chain.gas_price_wei()
        self._tell_once("disputing", why=why, cost_wei=gas * price, reward_wei=reward, bond_wei=bond)

    def _tell_once(self, what: str, **details: int | str) -> None:
        key = (self._round, what, *sorted(details.items()))
        if key not in self._told:
            self._told.add(key)
            self.context.log.emit(what, level=logging.INFO, **details)

    # --- commitments ------------------------------------------------------------------------------

    def _bond_at(self, view: RoundView) -> int:
        return self.context.task.economics.aggregator_bond << (view.attempt - 1)

    def _challenge_commitment(self, case: Case) -> bytes:
        scope = self.context.scope
        return challenge_commitment(
            chain_id=scope.chain_id,
            coordinator=scope.coordinator,
            task_id=scope.task_id,
            round_number=case.round,
            attempt=case.attempt,
            challenger=self.context.chain.account,
            proof_hash=proof_hash_of(case.proof),
            salt=case.salt,
        )

    def _proof_commitment(self, case: Case) -> bytes:
        scope = self.context.scope
        return proof_commitment(
            chain_id=scope.chain_id,
            coordinator=scope.coordinator,
            task_id=scope.task_id,
            round_number=case.round,
            challenger=self.context.chain.account,
            proof_hash=proof_hash_of(case.proof),
            salt=case.salt,
        )
