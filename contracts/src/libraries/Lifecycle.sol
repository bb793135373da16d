// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IModelRegistry } from "../interfaces/IModelRegistry.sol";
import { IStakeVault } from "../interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Bounds, Member, Phase, Role, TaskParams } from "../interfaces/Types.sol";
import { Draws } from "./Draws.sol";
import { Members } from "./Members.sol";
import { Rounds } from "./Rounds.sol";
import { TaskRules } from "./TaskRules.sol";
import { Task } from "./TaskStorage.sol";

/// @title A task before its first round, and who joins and leaves it. Linked: the coordinator delegates to it.
library Lifecycle {
    function createTask(
        Task storage t,
        uint256 taskId,
        TaskParams calldata params,
        IStakeVault vault,
        IModelRegistry registry
    ) external {
        // Check
        TaskRules.check(params);

        // Effect
        t.fixed_ = TaskRules.toView(params);
        t.modelRoot = params.genesisRoot;
        t.stateRoot = params.genesisStateRoot;
        t.parentModel = params.parentModel;
        t.genesisCid = params.genesisCid;
        t.genesisFloatCid = params.genesisFloatCid;
        t.licence = params.licence;
        for (uint256 i; i < params.namedValidators.length; ++i) {
            t.named[params.namedValidators[i]] = true;
        }
        emit ITaskCoordinator.TaskCreated(taskId, msg.sender, params);

        // Interaction
        vault.fund(taskId, msg.sender, params.reward);
        Rounds.publish(t, taskId, registry);
    }

    function enrol(Task storage t, uint256 taskId, Role role, uint96 stake, IStakeVault vault) external {
        // Check
        Rounds.requirePhase(t, taskId, Phase.Enrolment);
        if (block.timestamp >= t.fixed_.enrolmentEnd) {
            revert ITaskCoordinator.EnrolmentOver(taskId, t.fixed_.enrolmentEnd);
        }
        _checkAdmission(t, taskId, role, stake);

        // Effect
        t.lists[role].push(msg.sender);
        Member storage m = t.members[role][msg.sender];
        bool drawn = Members.isDrawn(t, role);
        (m.stake, m.activeFrom, m.activeUntil) = (stake, drawn ? Members.IDLE : 1, Members.FOR_EVER);
        if (drawn) Draws.enter(t, msg.sender);
        Members.countNext(t, role, true);
        emit ITaskCoordinator.Enrolled(taskId, role, msg.sender, stake);

        // Interaction
        if (stake > 0) vault.lock(taskId, role, msg.sender, stake);
        if (_reaches(t, true)) Rounds.open(t, taskId, 1);
    }

    function startTask(Task storage t, uint256 taskId) external {
        Rounds.requirePhase(t, taskId, Phase.Enrolment);
        if (block.timestamp < t.fixed_.enrolmentEnd || !_reaches(t, false)) {
            revert ITaskCoordinator.MinimaNotReached(taskId);
        }
        Rounds.open(t, taskId, 1);
    }

    function cancelTask(Task storage t, uint256 taskId, IStakeVault vault) external {
        // Check
        Rounds.requirePhase(t, taskId, Phase.Enrolment);
        // INVARIANT: a task that can start cannot be cancelled, so enrolling is not a free option for its requester.
        if (block.timestamp < t.fixed_.enrolmentEnd) {
            if (msg.sender != t.fixed_.requester) revert ITaskCoordinator.NotRequester(taskId, msg.sender);
        } else if (_reaches(t, false)) {
            revert ITaskCoordinator.MinimaReached(taskId);
        }

        // Effect
        (t.cancelled, t.endedAt) = (true, uint40(block.timestamp));
        uint256 escrow = vault.escrowOf(taskId).balance;
        emit ITaskCoordinator.TaskCancelled(taskId, escrow);

        // Interaction
        vault.refund(taskId, t.fixed_.requester, escrow);
    }

    function leave(Task storage t, uint256 taskId, Role role) external {
        (Member storage m, uint16 round) = _running(t, taskId, role);
        if (m.activeUntil <= round + 1) revert ITaskCoordinator.NotEligible(taskId, msg.sender, round + 1);
        Members.deactivate(t, taskId, role, msg.sender, round);
    }

    function rejoin(Task storage t, uint256 taskId, Role role) external {
        (Member storage m, uint16 round) = _running(t, taskId, role);
        bool wasAway = m.activeUntil <= round;
        // INVARIANT: an active member holds at least half of the required stake, so no phase needs to read it again. And it
        // has missed less than two rounds in a row: a round away begins the count anew, leaving and coming back does not.
        bool isOut = !wasAway && m.missed >= Members.MAX_MISSED;
        if (isOut || m.activeUntil > round + 1 || 2 * uint256(m.stake) < Members.requiredStake(t, role)) {
            revert ITaskCoordinator.NotEligible(taskId, msg.sender, round + 1);
        }
        if (wasAway) (m.activeFrom, m.missed) = (_nextFrom(t, role, round), 0);
        m.activeUntil = Members.FOR_EVER;
        Members.countNext(t, role, true);
        emit ITaskCoordinator.MemberRejoined(taskId, role, msg.sender, round + 1);
    }

    /// @dev INVARIANT: who rejoins a drawn task is in no draw of this round. Its settlement makes the next round's number
    /// IDLE, but comes by no worker twice: once it has begun, and so the draw is over, IDLE it is at once.
    function _nextFrom(Task storage t, Role role, uint16 round) private view returns (uint16) {
        return Members.isDrawn(t, role) && t.progress.settled > 0 ? Members.IDLE : round + 1;
    }

    function _checkAdmission(Task storage t, uint256 taskId, Role role, uint96 stake) private view {
        if (role == Role.Challenger) revert ITaskCoordinator.NotAdmitted(taskId, msg.sender);
        if (Members.isEnrolled(t, role, msg.sender)) revert ITaskCoordinator.AlreadyEnrolled(taskId, msg.sender);
        if (t.lists[role].length >= Members.bounds(t, role).max) revert ITaskCoordinator.RoleFull(taskId, role);
        uint256 required = Members.requiredStake(t, role);
        if (stake < required || (role == Role.Aggregator && stake > 0)) {
            revert ITaskCoordinator.StakeBelowRequired(stake, required);
        }
        if (role == Role.Aggregator) return;
        // INVARIANT: nobody scores its own update.
        Role other = role == Role.Worker ? Role.Validator : Role.Worker;
        if (Members.isEnrolled(t, other, msg.sender)) revert ITaskCoordinator.AlreadyEnrolled(taskId, msg.sender);
        if (role == Role.Validator) {
            bool named = !t.fixed_.validatorsNamed || t.named[msg.sender];
            if (!named || msg.sender == t.fixed_.requester) revert ITaskCoordinator.NotAdmitted(taskId, msg.sender);
        }
    }

    function _running(Task storage t, uint256 taskId, Role role) private view returns (Member storage m, uint16 round) {
        m = t.members[role][msg.sender];
        round = t.clock.round;
        if (round == 0 || t.endedAt > 0) Rounds.unexpected(t, taskId, Phase.Commit);
        if (m.activeFrom == 0) revert ITaskCoordinator.NotEnrolled(taskId, msg.sender);
    }

    function _reaches(Task storage t, bool maxima) private view returns (bool) {
        for (uint8 r; r < 3; ++r) {
            Bounds memory b = Members.bounds(t, Role(r));
            if (t.lists[Role(r)].length < (maxima ? b.max : b.min)) return false;
        }
        return true;
    }
}
