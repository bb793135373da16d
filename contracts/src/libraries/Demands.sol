// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../interfaces/IDisputes.sol";
import { IStakeVault } from "../interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Demand, Format, Member, Outcome, Phase, Role, Verdict } from "../interfaces/Types.sol";
import { ChunkTree } from "./ChunkTree.sol";
import { Members } from "./Members.sol";
import { Openings } from "./Openings.sol";
import { Proofs } from "./Proofs.sol";
import { Rounds } from "./Rounds.sol";
import { Book, Task } from "./TaskStorage.sol";

/// @title A wrong update, and one whose bytes are withheld. Linked: the coordinator delegates to it; the promises are in
/// IDisputes.
library Demands {
    uint8 private constant MAX_DEMANDS = 16;
    uint16 private constant ABSTAIN = type(uint16).max;

    // --- a wrong update ---------------------------------------------------------------------------

    function commitProof(Task storage t, bytes32 commitment) external {
        t.proofCommitments[msg.sender][commitment] = block.number;
    }

    function proveUpdate(
        Task storage t,
        uint256 taskId,
        uint16 round,
        bytes calldata proof,
        bytes32 salt,
        IStakeVault vault
    ) external {
        // Check
        _requireProvable(t, taskId);
        Rounds.checkRound(taskId, t.clock.round, round);
        Rounds.checkAnnounced(t, taskId, round, Openings.keccakOf(proof), salt);
        (uint256 workerIndex, bytes32 reason) = _faultOf(t, proof);
        address worker = t.lists[Role.Worker][workerIndex];
        // INVARIANT: having been slashed for withholding is no shield.
        uint256 bit = 1 << (workerIndex % 256);
        if (t.proven[round][workerIndex / 256] & bit != 0) revert IDisputes.AlreadyRefuted(taskId, worker);

        // Effect
        t.proven[round][workerIndex / 256] |= bit;
        _markRefuted(t, round, workerIndex);
        emit IDisputes.UpdateRefuted(taskId, round, worker, msg.sender, reason);

        // Interaction
        uint256 bps = t.fixed_.economics.rangeSlashBps;
        Members.slash(t, taskId, vault, Role.Worker, worker, bps, msg.sender, reason);
    }

    /// @dev From Reveal on, but not between the batches of a tally: weights that were added up stay.
    function _requireProvable(Task storage t, uint256 taskId) private view {
        (Phase phase,) = Rounds.phase(t);
        bool between = phase == Phase.Tally && t.progress.tallied > 0;
        if (phase < Phase.Reveal || phase > Phase.Dispute || between) {
            revert ITaskCoordinator.UnexpectedPhase(taskId, phase, Phase.Reveal);
        }
    }

    function _faultOf(Task storage t, bytes calldata proof) private view returns (uint256 workerIndex, bytes32 reason) {
        Format memory f = t.fixed_.format;
        uint256 start;
        assembly ("memory-safe") {
            start := proof.offset
        }
        workerIndex = Openings.uint16At(start);
        Openings.Place memory at = Openings.placeOf(f.numParams, f.chunkParams, Openings.uint64At(start + 2));
        Openings.Update memory u = Openings.update(at, start + 10);
        if (u.cursor != start + proof.length) revert IDisputes.ProofLength(proof.length, u.cursor - start);
        if (workerIndex >= t.lists[Role.Worker].length) revert IDisputes.NotRevealed(address(0), u.root, 0);
        Member storage m = _revealed(t, t.lists[Role.Worker][workerIndex], u.root);
        reason = faultIn(at, u, m.squaredNorm, Openings.uint8At(start + 10) == 1);
    }

    /// @notice What is wrong with an opened update. Reverts NothingWrong.
    /// @param revealedSum the sum of squares that was revealed with its root. @param isStated whether it came in form 1.
    function faultIn(Openings.Place memory at, Openings.Update memory u, uint64 revealedSum, bool isStated)
        internal
        pure
        returns (bytes32)
    {
        uint256 squares;
        for (uint256 i; i < at.chunkParams; ++i) {
            int256 value = Openings.int16At(u.values, i);
            if (value == type(int16).min) return "value out of range";
            squares += uint256(value * value);
        }
        if (!Proofs.isClean(at, u.values, 2)) return "wrong padding";
        if (squares != u.leafSum || !u.adds || u.sum != revealedSum) return "wrong sum";
        if (!_isPaddingClean(at, u, isStated)) return "wrong padding";
        revert IDisputes.NothingWrong();
    }

    /// @dev Whether siblings that cover nothing but padding are their level's constant, with sums of zero.
    function _isPaddingClean(Openings.Place memory at, Openings.Update memory u, bool isStated)
        private
        pure
        returns (bool)
    {
        uint256 numChunks = ChunkTree.chunksOf(ChunkTree.Shape(ChunkTree.UPDATE, at.numParams, at.chunkParams));
        uint256 path = u.values + 2 * uint256(at.chunkParams) + 8;
        bytes32 constantNode;
        for (uint256 h; h < at.depth; ++h) {
            bool isPadding = ((uint256(at.index) >> h) ^ 1) << h >= numChunks;
            bool isConstant = Openings.bytes32At(path) == constantNode && Openings.uint64At(path + 32) == 0;
            if (isPadding && !isConstant) return false;
            constantNode = ChunkTree.sumNode(constantNode, 0, constantNode, 0);
            path += isStated ? 48 : 40;
        }
        return true;
    }

    // --- an update that is withheld ---------------------------------------------------------------

    function demandChunk(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint16 workerIndex,
        uint64 chunkIndex,
        IStakeVault vault
    ) external {
        // Check
        Rounds.checkRound(taskId, t.clock.round, round);
        bool isLate = _requireDemandable(t, taskId, workerIndex);
        Openings.placeOf(t.fixed_.format.numParams, t.fixed_.format.chunkParams, chunkIndex);
        Demand storage d = t.demands[keyOf(round, workerIndex, chunkIndex)];
        if (d.challenger != address(0)) revert IDisputes.AlreadyDemanded(taskId, workerIndex, chunkIndex);
        Book storage book = t.books[Rounds.keyOf(round, workerIndex)];
        if (book.asked >= MAX_DEMANDS) revert IDisputes.TooManyDemands(taskId, workerIndex);

        // Effect
        uint96 fee = t.fixed_.economics.demandFee << book.asked;
        uint40 deadline = uint40(block.timestamp) + t.fixed_.windows.answer;
        (book.asked, book.open) = (book.asked + 1, book.open + 1);
        (d.challenger, d.fee, d.round, d.workerIndex) = (msg.sender, fee, round, workerIndex);
        (d.chunkIndex, d.deadline, d.isLate, d.isOpen) = (chunkIndex, deadline, isLate, true);
        (t.docket.demands, t.docket.demandEnd) = (t.docket.demands + 1, deadline);
        address worker = t.lists[Role.Worker][workerIndex];
        emit IDisputes.ChunkDemanded(taskId, round, worker, workerIndex, chunkIndex, msg.sender, deadline, isLate);

        // Interaction
        vault.lock(taskId, Role.Challenger, msg.sender, fee);
    }

    function answerDemand(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint16 workerIndex,
        uint64 chunkIndex,
        bytes calldata opening,
        IStakeVault vault
    ) external {
        // Check
        Demand storage d = _demand(t, taskId, round, workerIndex, chunkIndex);
        if (block.timestamp >= d.deadline) revert IDisputes.TooLate(d.deadline);
        Rounds.checkRound(taskId, t.clock.round, round);
        address worker = t.lists[Role.Worker][workerIndex];
        _checkOpening(t, worker, chunkIndex, opening);

        // Effect
        _closeRecord(t, d);
        emit IDisputes.DemandAnswered(taskId, round, worker, chunkIndex, msg.sender, opening);

        // Interaction
        // Half of it burns: otherwise asking oneself would price others out for nothing.
        vault.slash(taskId, Role.Challenger, d.challenger, d.fee, msg.sender);
    }

    function closeDemand(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint16 workerIndex,
        uint64 chunkIndex,
        IStakeVault vault
    ) external {
        // Check
        Demand storage d = _demand(t, taskId, round, workerIndex, chunkIndex);
        if (block.timestamp < d.deadline) revert IDisputes.StillOpen(taskId, d.deadline);

        // Effect
        (Phase phase,) = Rounds.phase(t);
        _closeRecord(t, d);
        address worker = t.lists[Role.Worker][workerIndex];
        emit IDisputes.DemandClosed(taskId, round, worker, chunkIndex, true);

        // Interaction
        vault.release(taskId, Role.Challenger, d.challenger, d.fee);
        // Who did not deliver in time pays, even if the round has passed since. Votes are known only while it lasts.
        if (!d.isLate) {
            _punishWorker(t, taskId, round, workerIndex, d.challenger, vault);
        } else if (t.clock.round == round && phase >= Phase.Aggregate && phase <= Phase.Dispute) {
            _punishVouchers(t, taskId, round, workerIndex, d.challenger, vault);
        }
    }

    /// @dev Once, however many of its chunks were asked for. After the tally of the worker this no longer moves weights:
    /// the tally saw the open demand by itself.
    function _punishWorker(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint16 workerIndex,
        address challenger,
        IStakeVault vault
    ) private {
        address worker = t.lists[Role.Worker][workerIndex];
        Book storage book = t.books[Rounds.keyOf(round, workerIndex)];
        if (book.asked > MAX_DEMANDS) return;
        book.asked = MAX_DEMANDS + 1;
        if (t.clock.round == round && !Rounds.isRefuted(t, round, workerIndex)) {
            _markRefuted(t, round, workerIndex);
            emit IDisputes.UpdateRefuted(taskId, round, worker, challenger, "withheld");
        }
        uint256 bps = t.fixed_.economics.withheldSlashBps;
        Members.slash(t, taskId, vault, Role.Worker, worker, bps, challenger, "withheld");
    }

    /// @dev Not even one of those who vouched for the update had it: they pay, and the round is void. Nothing that was
    /// posted is at fault.
    function _punishVouchers(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint16 workerIndex,
        address challenger,
        IStakeVault vault
    ) private {
        t.progress.outcome = Outcome.Withheld;
        uint256 bps = t.fixed_.economics.vouchSlashBps;
        address[] memory accounts = t.lists[Role.Validator];
        for (uint256 v; v < accounts.length; ++v) {
            Member storage m = t.members[Role.Validator][accounts[v]];
            if (m.lastRound != round || !m.revealed) continue;
            uint256 vote = uint256(t.votes[accounts[v]][workerIndex / 8]) >> (224 - 32 * (workerIndex % 8));
            uint16 weight = uint16(vote >> 16);
            if (weight == 0 || weight == ABSTAIN) continue;
            Members.slash(t, taskId, vault, Role.Validator, accounts[v], bps, challenger, "vouched, not held");
        }
        uint8 attempt = t.clock.attempt;
        // Nothing was posted, or what was posted fell already.
        if (t.progress.postedAt == 0 || t.verdicts[Rounds.keyOf(round, attempt)] != Verdict.Open) return;
        t.verdicts[Rounds.keyOf(round, attempt)] = Verdict.Abandoned;
        vault.release(taskId, Role.Aggregator, t.posting.aggregator, Rounds.bondOf(t, attempt));
    }

    // --- checks and records -----------------------------------------------------------------------

    /// @return isLate whether the weights are fixed already.
    function _requireDemandable(Task storage t, uint256 taskId, uint16 workerIndex) private view returns (bool isLate) {
        (Phase phase,) = Rounds.phase(t);
        isLate = phase == Phase.Aggregate || phase == Phase.Challenge;
        if (!isLate && phase != Phase.Reveal && phase != Phase.ScoreCommit) {
            revert ITaskCoordinator.UnexpectedPhase(taskId, phase, Phase.ScoreCommit);
        }
        uint16 round = t.clock.round;
        // INVARIANT: an update that counts can be asked for even when it was refuted later. Otherwise its worker would give
        // up its stake to hide it, and nobody could check the aggregate.
        bool isOut = !isLate && Rounds.isRefuted(t, round, workerIndex);
        if (workerIndex >= t.lists[Role.Worker].length || isOut) revert IDisputes.NotDemandable(taskId, workerIndex);
        Member storage m = t.members[Role.Worker][t.lists[Role.Worker][workerIndex]];
        if (m.lastRound != round || !m.revealed || (isLate && m.weight == 0)) {
            revert IDisputes.NotDemandable(taskId, workerIndex);
        }
    }

    function _checkOpening(Task storage t, address worker, uint64 chunkIndex, bytes calldata opening) private view {
        Format memory f = t.fixed_.format;
        uint256 start;
        assembly ("memory-safe") {
            start := opening.offset
        }
        Openings.Update memory u = Openings.update(Openings.placeOf(f.numParams, f.chunkParams, chunkIndex), start);
        if (u.cursor != start + opening.length) revert IDisputes.ProofLength(opening.length, u.cursor - start);
        _revealed(t, worker, u.root);
    }

    /// @dev The member whose revealed update has that root in the current round.
    function _revealed(Task storage t, address worker, bytes32 root) private view returns (Member storage m) {
        m = t.members[Role.Worker][worker];
        bool current = m.lastRound == t.clock.round && m.revealed;
        if (!current || m.commitment != root) revert IDisputes.NotRevealed(worker, root, m.commitment);
    }

    function _demand(Task storage t, uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex)
        private
        view
        returns (Demand storage d)
    {
        d = t.demands[keyOf(round, workerIndex, chunkIndex)];
        if (!d.isOpen) revert IDisputes.NoDemand(taskId, workerIndex, chunkIndex);
    }

    /// @dev The docket counts demands of the round's present half alone: those against workers, then the late ones.
    function _closeRecord(Task storage t, Demand storage d) private {
        d.isOpen = false;
        --t.books[Rounds.keyOf(d.round, d.workerIndex)].open;
        bool counted = t.clock.round == d.round && d.isLate == (t.progress.aggregateStart > 0);
        if (counted && t.docket.demands > 0) --t.docket.demands;
    }

    function _markRefuted(Task storage t, uint16 round, uint256 workerIndex) private {
        t.refuted[round][workerIndex / 256] |= 1 << (workerIndex % 256);
        t.docket.anyRefuted = true;
    }

    function keyOf(uint16 round, uint16 workerIndex, uint64 chunkIndex) internal pure returns (bytes32) {
        return keccak256(abi.encode(round, workerIndex, chunkIndex));
    }
}
