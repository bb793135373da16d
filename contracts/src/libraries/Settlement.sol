// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IModelRegistry } from "../interfaces/IModelRegistry.sol";
import { IStakeVault } from "../interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Draw, DrawBy, Economics, Member, Outcome, Phase, Role, ServerKind, Verdict } from "../interfaces/Types.sol";
import { Draws } from "./Draws.sol";
import { Members } from "./Members.sol";
import { Payouts } from "./Payouts.sol";
import { Clock, Phases, Progress } from "./Phases.sol";
import { Rounds } from "./Rounds.sol";
import { Sums, Task } from "./TaskStorage.sol";

/// @title Pay, slashes, lineage and what comes next. Linked: the coordinator delegates to it.
library Settlement {
    using Phases for Clock;

    bytes32 private constant NO_REVEAL = "no reveal";
    bytes32 private constant MISSED_SLOT = "missed slot";

    /// @dev What a round pays, in memory.
    struct Pots {
        IStakeVault vault;
        Outcome outcome;
        uint16 round;
        uint256 budget;
        uint256 workers;
        uint256 validators;
        uint256 aggregator;
        uint256 burned;
        Draw draw;
    }

    function settle(Task storage t, uint256 taskId, uint16 maxWorkers, IStakeVault vault, IModelRegistry registry)
        external
    {
        // Check
        Rounds.requirePhase(t, taskId, Phase.Settlement);

        // Effect
        Progress memory p = t.progress;
        p.outcome = t.clock.outcome(p);
        Pots memory pots = _pots(t, p.outcome, vault);
        Sums memory s = t.sums;
        address[] storage workers = t.lists[Role.Worker];
        uint256 end = Rounds.batchEnd(p.settled, maxWorkers, workers.length);
        bool anySlashed = t.docket.anySlashed;
        for (uint256 i = p.settled; i < end; ++i) {
            _settleWorker(t, taskId, pots, s, workers[i], i);
            if (anySlashed) Members.applySlash(t, taskId, Role.Worker, workers[i], pots.round);
            if (pots.draw.clientsPerRound > 0) _returnToPool(t, taskId, pots, workers[i], i);
        }
        p.settled = uint16(end);
        t.progress = p;
        if (end == workers.length) _closeRound(t, taskId, pots, p, s, registry);
    }

    function _pots(Task storage t, Outcome outcome, IStakeVault vault) private view returns (Pots memory pots) {
        Economics memory e = t.fixed_.economics;
        (pots.vault, pots.outcome) = (vault, outcome);
        (pots.round, pots.draw) = (t.clock.round, t.fixed_.draw);
        pots.budget = t.fixed_.reward / t.fixed_.rounds;
        (pots.workers, pots.validators, pots.aggregator) =
            Payouts.split(pots.budget, e.workersBps, e.validatorsBps, e.aggregatorBps);
        pots.workers += t.carry;
    }

    function _settleWorker(
        Task storage t,
        uint256 taskId,
        Pots memory pots,
        Sums memory s,
        address worker,
        uint256 workerIndex
    ) private {
        Member storage m = t.members[Role.Worker][worker];
        bool committed = m.lastRound == pots.round;
        if (committed && m.revealed) {
            m.missed = 0;
            // Without quorum, weights say nothing of who was refuted; with it, weight 0 does.
            bool paid = pots.outcome != Outcome.QuorumMissed || !Rounds.isRefuted(t, pots.round, workerIndex);
            if (paid && worker != t.fixed_.requester) _payWorker(t, taskId, pots, s, m, worker);
        } else if (Members.isActive(m, pots.round)) {
            Economics memory e = t.fixed_.economics;
            if (committed) _slash(pots, taskId, Role.Worker, worker, m, e.workerStake, e.workerSlashBps);
            Members.miss(t, taskId, Role.Worker, worker, pots.round);
        }
    }

    /// @dev After its pay and its slashes: whoever was drawn waits for the next draw, and so does who rejoined meanwhile.
    function _returnToPool(Task storage t, uint256 taskId, Pots memory pots, address worker, uint256 workerIndex)
        private
    {
        Member storage m = t.members[Role.Worker][worker];
        uint16 activeFrom = m.activeFrom;
        if (activeFrom == Members.IDLE) return;
        m.activeFrom = Members.IDLE;
        bool rated = pots.draw.by == DrawBy.Reputation && pots.outcome != Outcome.QuorumMissed;
        if (!rated || activeFrom != pots.round) return;
        bool counts = m.lastRound == pots.round && m.revealed && !Rounds.isRefuted(t, pots.round, workerIndex);
        Draws.rate(t, taskId, pots.round, worker, counts ? m.weight : 0);
    }

    function _payWorker(
        Task storage t,
        uint256 taskId,
        Pots memory pots,
        Sums memory s,
        Member storage m,
        address worker
    ) private {
        uint256 amount;
        if (pots.outcome == Outcome.QuorumMissed) {
            amount = Payouts.proRata(pots.workers, m.stake, s.stake);
        } else if (m.weight > 0) {
            amount = Payouts.workerPay(pots.workers, t.fixed_.economics.baseBps, m.stake, s.stake, m.score, s.score);
        }
        _pay(pots, taskId, worker, Role.Worker, amount);
    }

    /// @dev The last batch of a round: everybody but the workers, the lineage, and what comes next.
    function _closeRound(
        Task storage t,
        uint256 taskId,
        Pots memory pots,
        Progress memory p,
        Sums memory s,
        IModelRegistry registry
    ) private {
        // Nobody payable took part in the workers' pot: it is the next round's.
        t.carry = s.stake == 0 && pots.outcome != Outcome.NoUpdates
            ? uint128(pots.workers)
            : pots.outcome == Outcome.NoUpdates ? t.carry : 0;
        if (pots.outcome == Outcome.NoUpdates) {
            pots.vault.refund(taskId, t.fixed_.requester, pots.budget);
        } else {
            _settleValidators(t, taskId, pots);
            if (pots.outcome == Outcome.Final) _settleAggregator(t, taskId, pots, p);
            else pots.burned += pots.aggregator;
        }
        bool last = pots.round == t.fixed_.rounds;
        if (last) (pots.burned, t.carry) = (pots.burned + t.carry, 0);
        if (pots.burned > 0) pots.vault.burnEscrow(taskId, pots.burned);
        if (pots.outcome == Outcome.Final) {
            t.modelRoot = t.posting.root;
            if (t.fixed_.format.server != ServerKind.Plain) t.stateRoot = t.posting.stateRoot;
            // Bonds of challenges that were never proven burn from here on.
            if (t.docket.challenges > 0) t.verdicts[Rounds.keyOf(pots.round, t.clock.attempt)] = Verdict.Stood;
            Rounds.publish(t, taskId, registry);
        }
        emit ITaskCoordinator.RoundClosed(taskId, pots.round, pots.outcome, t.modelRoot, pots.burned, t.carry);
        if (last) _complete(t, taskId, pots.vault);
        else Rounds.open(t, taskId, pots.round + 1);
    }

    function _settleValidators(Task storage t, uint256 taskId, Pots memory pots) private {
        address[] memory accounts = t.lists[Role.Validator];
        (uint256[] memory parts, uint256 whole) = _validatorParts(t, pots, accounts);
        Economics memory e = t.fixed_.economics;
        if (whole == 0) pots.burned += pots.validators;
        for (uint256 v; v < accounts.length; ++v) {
            Member storage m = t.members[Role.Validator][accounts[v]];
            if (m.lastRound == pots.round && m.revealed) {
                m.missed = 0;
                uint256 amount = Payouts.proRata(pots.validators, parts[v], whole);
                _pay(pots, taskId, accounts[v], Role.Validator, amount);
            } else if (Members.isActive(m, pots.round)) {
                _slash(pots, taskId, Role.Validator, accounts[v], m, e.validatorStake, e.validatorSlashBps);
                Members.miss(t, taskId, Role.Validator, accounts[v], pots.round);
            }
            if (t.docket.anySlashed) Members.applySlash(t, taskId, Role.Validator, accounts[v], pots.round);
        }
    }

    /// @dev Stake × agreement of those who revealed; by stake where agreement is not measured or nobody agreed.
    function _validatorParts(Task storage t, Pots memory pots, address[] memory accounts)
        private
        view
        returns (uint256[] memory parts, uint256 whole)
    {
        parts = new uint256[](accounts.length);
        uint256 agreements = pots.outcome == Outcome.QuorumMissed ? 0 : t.agreements;
        for (uint256 v; v < accounts.length; ++v) {
            Member storage m = t.members[Role.Validator][accounts[v]];
            if (m.lastRound != pots.round || !m.revealed) continue;
            parts[v] = agreements == 0 ? m.stake : m.stake * (agreements >> (16 * v) & 0xffff);
            whole += parts[v];
        }
    }

    function _settleAggregator(Task storage t, uint256 taskId, Pots memory pots, Progress memory p) private {
        address poster = t.posting.aggregator;
        Economics memory e = t.fixed_.economics;
        pots.vault.release(taskId, Role.Aggregator, poster, Rounds.bondOf(t, t.clock.attempt));
        _pay(pots, taskId, poster, Role.Aggregator, pots.aggregator);
        t.members[Role.Aggregator][poster].missed = 0;
        if (!p.orderDrawn) return;
        uint256 slot = t.fixed_.windows.slot;
        for (uint256 i; i < p.numSlots; ++i) {
            uint256 start = p.aggregateStart + i * slot;
            if (start + slot > p.postedAt) break;
            address holder = t.order.holders[i];
            if (holder == address(0)) break;
            // A slot whose holder nobody could know yet, or who was late but did the work, owes nothing.
            if (start < t.order.knownFrom || holder == poster) continue;
            uint256 fee = pots.vault.takeFee(holder, e.slotFee);
            emit ITaskCoordinator.Slashed(taskId, pots.round, holder, Role.Aggregator, fee, MISSED_SLOT);
            Members.miss(t, taskId, Role.Aggregator, holder, pots.round);
        }
    }

    function _slash(
        Pots memory pots,
        uint256 taskId,
        Role role,
        address account,
        Member storage m,
        uint256 required,
        uint256 bps
    ) private {
        uint256 taken = pots.vault.slash(taskId, role, account, Payouts.slashAmount(required, bps, m.stake), address(0));
        m.stake -= uint96(taken);
        emit ITaskCoordinator.Slashed(taskId, pots.round, account, role, taken, NO_REVEAL);
    }

    function _pay(Pots memory pots, uint256 taskId, address account, Role role, uint256 amount) private {
        if (amount == 0) return;
        pots.vault.pay(taskId, account, amount);
        emit ITaskCoordinator.Paid(taskId, pots.round, account, role, amount);
    }

    /// @dev What is left of the escrow is dust and goes back to the requester.
    function _complete(Task storage t, uint256 taskId, IStakeVault vault) private {
        t.endedAt = uint40(block.timestamp);
        uint256 rest = vault.escrowOf(taskId).balance;
        if (rest > 0) vault.refund(taskId, t.fixed_.requester, rest);
        emit ITaskCoordinator.TaskCompleted(taskId, rest);
    }
}
