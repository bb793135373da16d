// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Hashes } from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { DrawBy, Member, Phase, Role } from "../interfaces/Types.sol";
import { Members } from "./Members.sol";
import { Progress } from "./Phases.sol";
import { Rounds } from "./Rounds.sol";
import { Task } from "./TaskStorage.sol";

/// @title Who takes part in a round, where not everybody does. Linked: the coordinator delegates to it.
/// @dev Without replacement, by rejection: nobody sorts, sums up or keeps anything, whoever joins or leaves. The mirror is
/// chainfl/tasks/draws.py.
library Draws {
    /// @dev A stake beyond so many times what is required adds no chance: it bounds the trials, and what money buys.
    uint256 internal constant STAKE_CAP = 4;
    uint256 internal constant FULL = 10_000;
    /// @dev Who has less is drawn as if it had this: a way back, and a bound of the trials.
    uint256 internal constant REPUTATION_FLOOR = 1000;
    uint16 internal constant REPUTATION_START = 5000;

    /// @dev One draw, in memory. A worker is accepted with its chance out of `whole`.
    struct Urn {
        bytes32 base;
        uint256 size;
        uint256 whole;
        uint16 round;
        DrawBy by;
        address[] drawn;
    }

    function drawWorkers(Task storage t, uint256 taskId) external {
        Rounds.requirePhase(t, taskId, Phase.Commit);
        (uint16 round, Progress memory p) = (t.clock.round, t.progress);
        if (!Members.isDrawn(t, Role.Worker)) revert ITaskCoordinator.NotDrawn(taskId);
        if (t.clock.eligibleWorkers > 0) revert ITaskCoordinator.AlreadyDrawn(taskId, round);
        if (p.pool == 0) revert ITaskCoordinator.NobodyToDraw(taskId, round);
        if (block.number <= p.seedBlock) revert ITaskCoordinator.SeedNotReady(p.seedBlock);
        bytes32 seed = blockhash(p.seedBlock);
        if (seed == 0) {
            // More than 256 blocks old.
            t.progress.seedBlock = uint40(block.number);
            emit ITaskCoordinator.SeedRolled(taskId, round, uint40(block.number));
        } else {
            address[] memory drawn = draw(t, taskId, seed);
            t.clock.eligibleWorkers = uint16(drawn.length);
            emit ITaskCoordinator.WorkersDrawn(taskId, round, drawn);
        }
    }

    /// @notice Makes clientsPerRound of those who wait, or all if there are not more, active in the round. Returns them in
    /// the order in which they were drawn.
    function draw(Task storage t, uint256 taskId, bytes32 seed) internal returns (address[] memory) {
        Urn memory u = _urn(t, taskId, seed);
        uint256 trials = u.drawn.length < t.progress.pool ? maxTrials(u.size) : 0;
        _takeInOrder(t, u, _try(t, u, trials), uint128(uint256(hashAt(u.base, trials))));
        return u.drawn;
    }

    /// @notice After so many trials the rest is taken in order: for the largest task a draw then stays below 2^24 gas.
    function maxTrials(uint256 numWorkers) internal pure returns (uint256) {
        return 64 + 3 * numWorkers;
    }

    function hashAt(bytes32 base, uint256 trial) internal pure returns (bytes32) {
        return Hashes.efficientKeccak256(base, bytes32(trial));
    }

    /// @notice A worker that enrols in a task that draws has a reputation, if that is what it draws by.
    function enter(Task storage t, address worker) internal {
        if (t.fixed_.draw.by == DrawBy.Reputation) t.reputations[worker] = REPUTATION_START;
    }

    /// @notice What a round that a worker was drawn for makes of its reputation.
    function rate(Task storage t, uint256 taskId, uint16 round, address worker, uint256 weight) internal {
        uint16 reputation = uint16((3 * uint256(t.reputations[worker]) + weight) / 4);
        t.reputations[worker] = reputation;
        emit ITaskCoordinator.ReputationChanged(taskId, round, worker, reputation);
    }

    function _urn(Task storage t, uint256 taskId, bytes32 seed) private view returns (Urn memory u) {
        (u.round, u.size, u.by) = (t.clock.round, t.lists[Role.Worker].length, t.fixed_.draw.by);
        u.base = keccak256(abi.encode(seed, taskId, u.round));
        u.whole = u.by == DrawBy.Uniform ? 1 : u.by == DrawBy.Stake ? STAKE_CAP * t.fixed_.economics.workerStake : FULL;
        (uint256 wanted, uint256 pool) = (t.fixed_.draw.clientsPerRound, t.progress.pool);
        u.drawn = new address[](wanted < pool ? wanted : pool);
    }

    /// @dev Each trial picks a worker with the low half of its hash, and accepts it with the high half.
    function _try(Task storage t, Urn memory u, uint256 trials) private returns (uint256 count) {
        address[] storage workers = t.lists[Role.Worker];
        mapping(address => Member) storage members = t.members[Role.Worker];
        for (uint256 k; k < trials && count < u.drawn.length; ++k) {
            uint256 h = uint256(hashAt(u.base, k));
            address worker = workers[uint128(h) % u.size];
            Member storage m = members[worker];
            if (!_waits(m, u.round) || (h >> 128) % u.whole >= _chance(t, u.by, m, worker)) continue;
            (m.activeFrom, u.drawn[count++]) = (u.round, worker);
        }
    }

    /// @dev Of a worker that a trial fell on, out of `whole`.
    function _chance(Task storage t, DrawBy by, Member storage m, address worker) private view returns (uint256) {
        if (by == DrawBy.Uniform) return 1;
        if (by == DrawBy.Stake) return m.stake;
        uint256 reputation = t.reputations[worker];
        return reputation < REPUTATION_FLOOR ? REPUTATION_FLOOR : reputation;
    }

    /// @dev Whoever still waits, in the order of the list from `start` on, until all places are taken.
    function _takeInOrder(Task storage t, Urn memory u, uint256 count, uint256 start) private {
        address[] storage workers = t.lists[Role.Worker];
        for (uint256 i; i < u.size && count < u.drawn.length; ++i) {
            address worker = workers[(start + i) % u.size];
            Member storage m = t.members[Role.Worker][worker];
            if (_waits(m, u.round)) (m.activeFrom, u.drawn[count++]) = (u.round, worker);
        }
        // INVARIANT: the pool was counted when the round opened; until the next nobody enters it, or leaves it but drawn.
        assert(count == u.drawn.length);
    }

    function _waits(Member storage m, uint16 round) private view returns (bool) {
        return m.activeFrom == Members.IDLE && round < m.activeUntil;
    }
}
