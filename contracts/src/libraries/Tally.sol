// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../interfaces/IDisputes.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Member, Outcome, Phase, Role } from "../interfaces/Types.sol";
import { Members } from "./Members.sol";
import { Openings } from "./Openings.sol";
import { Payouts } from "./Payouts.sol";
import { Progress } from "./Phases.sol";
import { Rounds } from "./Rounds.sol";
import { Sums, Task } from "./TaskStorage.sol";
import { WeightedMedian } from "./WeightedMedian.sol";

/// @title Votes become weights, scores and agreements. Linked: the coordinator delegates to it.
library Tally {
    uint16 private constant ABSTAIN = type(uint16).max;

    /// @dev Who votes in a round, in memory: parallel arrays over all validators of the task.
    struct Electorate {
        address[] accounts;
        uint256[] stakes; // 0 for who did not reveal
        uint256 eligibleStake;
        bool quorum;
    }

    /// @dev What the batches add up, in memory within one.
    struct Count {
        Sums sums;
        uint16 accepted;
        bytes32 updatesHash;
        bytes32 acceptedHash;
        uint256 agreements;
    }

    function tally(Task storage t, uint256 taskId, uint16 maxWorkers) external {
        // Check
        Rounds.requirePhase(t, taskId, Phase.Tally);

        // Effect
        Progress memory p = t.progress;
        Electorate memory e = _electorate(t, t.clock.round);
        Count memory count;
        // The first batch starts from nothing: what is stored is the last round's.
        if (p.tallied > 0) count = _resume(t, p);
        address[] storage workers = t.lists[Role.Worker];
        uint256 end = Rounds.batchEnd(p.tallied, maxWorkers, workers.length);
        for (uint256 i = p.tallied; i < end; i += 8) {
            _tallyWord(t, taskId, e, count, i / 8);
        }
        (t.sums, t.updatesHash, t.agreements) = (count.sums, count.updatesHash, count.agreements);
        (p.tallied, p.accepted) = (uint16(end), count.accepted);
        uint256 size = t.fixed_.format.groupSize;
        if (count.accepted % size > 0) t.acceptedHashes[count.accepted / size] = count.acceptedHash;
        if (end == workers.length) _closeTally(t, taskId, e.quorum, p);
        t.progress = p;
    }

    function _resume(Task storage t, Progress memory p) private view returns (Count memory) {
        uint256 group = p.accepted / t.fixed_.format.groupSize;
        bytes32 acceptedHash = p.accepted % t.fixed_.format.groupSize == 0 ? bytes32(0) : t.acceptedHashes[group];
        return Count(t.sums, p.accepted, t.updatesHash, acceptedHash, t.agreements);
    }

    /// @dev Settles the eight workers whose votes share a storage word.
    function _tallyWord(Task storage t, uint256 taskId, Electorate memory e, Count memory count, uint256 word) private {
        uint256 n = e.accounts.length;
        uint256[] memory words = new uint256[](n);
        for (uint256 v; v < n; ++v) {
            if (e.stakes[v] > 0) words[v] = uint256(t.votes[e.accounts[v]][word]);
        }
        address[] storage workers = t.lists[Role.Worker];
        uint256 end = workers.length < 8 * word + 8 ? workers.length : 8 * word + 8;
        for (uint256 i = 8 * word; i < end; ++i) {
            _tallyWorker(t, taskId, e, count, workers[i], i, _column(words, i % 8));
        }
    }

    /// @param votes the worker's vote of each validator: weight << 16 | score.
    function _tallyWorker(
        Task storage t,
        uint256 taskId,
        Electorate memory e,
        Count memory count,
        address worker,
        uint256 workerIndex,
        uint256[] memory votes
    ) private {
        uint16 round = t.clock.round;
        Member storage m = t.members[Role.Worker][worker];
        if (m.lastRound != round || !m.revealed) return;
        bool sound = _isSound(t, taskId, round, worker, workerIndex);
        (uint16 weight, uint16 score) = e.quorum && sound ? _medians(e, count, votes) : (0, 0);
        (m.weight, m.score) = (weight, score);

        // The requester's own worker counts in the model, is in no denominator and earns nothing.
        bool payable_ = worker != t.fixed_.requester && sound;
        Sums memory s = count.sums;
        s.weight += weight;
        if (weight > 0) _accept(t, count, m.commitment, weight);
        if (payable_ && (weight > 0 || !e.quorum)) {
            s.stake += m.stake;
            s.score += score;
        }
        count.updatesHash = keccak256(abi.encode(count.updatesHash, worker, m.commitment, weight, score));
        emit ITaskCoordinator.UpdateTallied(taskId, round, worker, m.commitment, weight, score);
    }

    /// @dev False for an update that was refuted, or asked for and not delivered: weight 0, and in nobody's count.
    function _isSound(Task storage t, uint256 taskId, uint16 round, address worker, uint256 workerIndex)
        private
        returns (bool)
    {
        if (t.docket.anyRefuted && Rounds.isRefuted(t, round, workerIndex)) return false;
        // INVARIANT: no clock of a demand is still running; see Phases.
        if (t.docket.demands == 0 || t.books[Rounds.keyOf(round, workerIndex)].open == 0) return true;
        t.refuted[round][workerIndex / 256] |= 1 << (workerIndex % 256);
        t.docket.anyRefuted = true;
        emit IDisputes.UpdateRefuted(taskId, round, worker, address(0), "withheld");
        return false;
    }

    /// @dev Chains the update to its group's, as the proofs do.
    function _accept(Task storage t, Count memory count, bytes32 root, uint16 weight) private {
        uint256 size = t.fixed_.format.groupSize;
        bytes32 before = count.accepted % size == 0 ? bytes32(0) : count.acceptedHash;
        count.acceptedHash = Openings.link(before, root, weight);
        if (++count.accepted % size == 0) t.acceptedHashes[count.accepted / size - 1] = count.acceptedHash;
    }

    /// @dev Stake-weighted lower medians over those who did not abstain, and who agreed with them.
    function _medians(Electorate memory e, Count memory count, uint256[] memory votes)
        private
        pure
        returns (uint16 weight, uint16 score)
    {
        uint256 n = votes.length;
        uint256[] memory stakes = new uint256[](n);
        uint256[] memory weights = new uint256[](n);
        uint256[] memory scores = new uint256[](n);
        uint256 heard;
        for (uint256 v; v < n; ++v) {
            (weights[v], scores[v]) = (votes[v] >> 16, votes[v] & 0xffff);
            if (weights[v] != ABSTAIN) stakes[v] = e.stakes[v];
            heard += stakes[v];
        }
        // Too many could not fetch the update: weight 0, and in nobody's count.
        if (3 * heard < 2 * e.eligibleStake) return (0, 0);
        weight = uint16(WeightedMedian.lowerMedian(weights, stakes));
        score = uint16(WeightedMedian.lowerMedian(scores, stakes));
        _countAgreements(e, count, votes, weight, score);
    }

    /// @dev Packed 16-bit counters, one a validator: at most 65,535 workers, so none overflows into the next.
    function _countAgreements(
        Electorate memory e,
        Count memory count,
        uint256[] memory votes,
        uint16 weight,
        uint16 score
    ) private pure {
        for (uint256 v; v < votes.length; ++v) {
            uint16 voted = uint16(votes[v] >> 16);
            bool agreed = voted != ABSTAIN && Payouts.agrees(voted, uint16(votes[v]), weight, score);
            if (e.stakes[v] > 0 && agreed) count.agreements += 1 << (16 * v);
        }
    }

    function _electorate(Task storage t, uint16 round) private view returns (Electorate memory e) {
        e.accounts = t.lists[Role.Validator];
        e.stakes = new uint256[](e.accounts.length);
        uint256 revealedStake;
        for (uint256 v; v < e.accounts.length; ++v) {
            Member storage m = t.members[Role.Validator][e.accounts[v]];
            if (!Members.isActive(m, round)) continue;
            e.eligibleStake += m.stake;
            if (m.lastRound != round || !m.revealed) continue;
            e.stakes[v] = m.stake;
            revealedStake += m.stake;
        }
        e.quorum = revealedStake > 0 && 3 * revealedStake >= 2 * e.eligibleStake;
    }

    /// @dev Weights and pay are fixed from here on.
    function _closeTally(Task storage t, uint256 taskId, bool quorum, Progress memory p) private {
        uint64 totalWeight = t.sums.weight;
        if (!quorum) {
            p.outcome = Outcome.QuorumMissed;
        } else if (totalWeight == 0) {
            p.outcome = Outcome.NothingAccepted;
        } else {
            p.aggregateStart = uint40(block.timestamp);
            // Demands against workers are over; those against who vouched for them begin.
            (t.docket.demands, t.docket.demandEnd) = (0, 0);
            // The hash of this very block: whoever chooses when to send the last batch cannot know it.
            p.seedBlock = uint40(block.number);
            emit ITaskCoordinator.AggregateOpened(taskId, t.clock.round, totalWeight, p.accepted, t.updatesHash);
        }
    }

    /// @dev The `k`th four-byte vote out of each word.
    function _column(uint256[] memory words, uint256 k) private pure returns (uint256[] memory votes) {
        votes = new uint256[](words.length);
        for (uint256 v; v < words.length; ++v) {
            votes[v] = words[v] >> (224 - 32 * k) & 0xffffffff;
        }
    }
}
