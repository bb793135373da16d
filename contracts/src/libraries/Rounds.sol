// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../interfaces/IDisputes.sol";
import { IModelRegistry } from "../interfaces/IModelRegistry.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Cid, Phase, Role } from "../interfaces/Types.sol";
import { Members } from "./Members.sol";
import { Clock, Docket, Phases, Progress } from "./Phases.sol";
import { Task } from "./TaskStorage.sol";

/// @title From round to round, and the one gate that every call passes.
library Rounds {
    using Phases for Clock;

    /// @notice Where the task stands, and when that ends by itself (0: only an action ends it).
    function phase(Task storage t) internal view returns (Phase, uint40) {
        if (t.fixed_.requester == address(0)) return (Phase.None, 0);
        if (t.cancelled) return (Phase.Cancelled, 0);
        if (t.endedAt > 0) return (Phase.Completed, 0);
        Clock memory c = t.clock;
        if (c.round == 0) return (Phase.Enrolment, t.fixed_.enrolmentEnd);
        return c.current(t.progress, t.docket, t.fixed_.windows);
    }

    function requirePhase(Task storage t, uint256 taskId, Phase expected) internal view {
        (Phase current,) = phase(t);
        if (current != expected) revert ITaskCoordinator.UnexpectedPhase(taskId, current, expected);
    }

    function unexpected(Task storage t, uint256 taskId, Phase expected) internal view {
        (Phase current,) = phase(t);
        revert ITaskCoordinator.UnexpectedPhase(taskId, current, expected);
    }

    /// @dev A transaction that arrives a round late must not be taken for the next round's.
    function checkRound(uint256 taskId, uint16 current, uint16 given) internal pure {
        if (current != given) revert ITaskCoordinator.UnexpectedRound(taskId, current, given);
    }

    /// @notice Opens a round for whoever is active in it, or will be drawn for it; what the last round left is overwritten, here or by the first
    /// batch of the tally.
    function open(Task storage t, uint256 taskId, uint16 round) internal {
        Clock memory c = Phases.open(t.fixed_.windows, round, block.timestamp);
        (c.eligibleWorkers, c.eligibleValidators) = (t.nextWorkers, t.nextValidators);
        Progress memory p;
        p.openedBlock = uint40(block.number);
        if (Members.isDrawn(t, Role.Worker)) {
            // Nobody is eligible before the draw, so that Commit does not end before it. The hash of this very block:
            // whoever chooses when to open the round cannot know it.
            (p.pool, p.seedBlock, c.eligibleWorkers) = (c.eligibleWorkers, p.openedBlock, 0);
        }
        p.numSlots = t.nextAggregators < Phases.MAX_SLOTS ? t.nextAggregators : Phases.MAX_SLOTS;
        Docket memory d;
        d.numGames = t.docket.numGames;
        (t.clock, t.progress, t.docket, t.order.knownFrom) = (c, p, d, 0);
        emit ITaskCoordinator.RoundOpened(taskId, round, t.modelRoot, c.eligibleWorkers, c.eligibleValidators);
    }

    /// @dev The caller announced the proof at least a block ago; see `commitProof`.
    function checkAnnounced(Task storage t, uint256 taskId, uint16 round, bytes32 proofHash, bytes32 salt)
        internal
        view
    {
        bytes32 commitment =
            keccak256(abi.encode(block.chainid, address(this), taskId, round, msg.sender, proofHash, salt));
        uint256 announced = t.proofCommitments[msg.sender][commitment];
        if (announced == 0) revert IDisputes.NoChallenge(taskId, msg.sender, commitment);
        if (block.number <= announced) revert ITaskCoordinator.CommitmentTooYoung(announced);
    }

    /// @notice What an aggregator has at stake: twice as much with every attempt.
    function bondOf(Task storage t, uint8 attempt) internal view returns (uint256) {
        return uint256(t.fixed_.economics.aggregatorBond) << (attempt - 1);
    }

    /// @notice Key of an attempt, of a worker, in the mappings that outlive a round.
    function keyOf(uint16 round, uint256 which) internal pure returns (uint256) {
        return uint256(round) << 16 | which;
    }

    function isRefuted(Task storage t, uint16 round, uint256 workerIndex) internal view returns (bool) {
        return t.refuted[round][workerIndex / 256] >> (workerIndex % 256) & 1 == 1;
    }

    /// @dev Lets the registry pull the task's newest result; there is none before or after this call.
    function publish(Task storage t, uint256 taskId, IModelRegistry registry) internal {
        t.publishing = true;
        registry.register(taskId);
        t.publishing = false;
    }

    /// @dev End of a batch that starts at `from`, a multiple of eight or the end of the list.
    function batchEnd(uint256 from, uint256 count, uint256 length) internal pure returns (uint256 end) {
        end = (from + (count == 0 ? 1 : count) + 7) / 8 * 8;
        if (end > length) end = length;
    }

    function checkCid(Cid calldata cid) internal pure {
        if (cid.codec != 0x55 && cid.codec != 0x70) revert ITaskCoordinator.InvalidCid(cid.codec);
    }
}
