// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IStakeVault } from "../interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Bounds, Member, Role } from "../interfaces/Types.sol";
import { Payouts } from "./Payouts.sol";
import { Task } from "./TaskStorage.sol";

/// @title Who takes part in a task, and in its next round.
library Members {
    uint16 internal constant FOR_EVER = type(uint16).max;
    // Above every round: whoever has it as `activeFrom` waits to be drawn.
    uint16 internal constant IDLE = type(uint16).max - 1;
    uint16 internal constant MAX_MISSED = 2;

    function isActive(Member storage m, uint16 round) internal view returns (bool) {
        return m.activeFrom <= round && round < m.activeUntil;
    }

    /// @notice Whether a draw says which of the role's members a round has.
    function isDrawn(Task storage t, Role role) internal view returns (bool) {
        return role == Role.Worker && t.fixed_.draw.clientsPerRound > 0;
    }

    function isEnrolled(Task storage t, Role role, address account) internal view returns (bool) {
        return t.members[role][account].activeFrom > 0;
    }

    function bounds(Task storage t, Role role) internal view returns (Bounds memory) {
        if (role == Role.Worker) return t.fixed_.workers;
        return role == Role.Validator ? t.fixed_.validators : t.fixed_.aggregators;
    }

    /// @dev Aggregators hold no lock for the task; they bond when they post.
    function requiredStake(Task storage t, Role role) internal view returns (uint256) {
        if (role == Role.Worker) return t.fixed_.economics.workerStake;
        return role == Role.Validator ? t.fixed_.economics.validatorStake : 0;
    }

    function deactivate(Task storage t, uint256 taskId, Role role, address account, uint16 round) internal {
        t.members[role][account].activeUntil = round + 1;
        countNext(t, role, false);
        emit ITaskCoordinator.MemberLeft(taskId, role, account, round + 1);
    }

    function countNext(Task storage t, Role role, bool joins) internal {
        if (role == Role.Worker) t.nextWorkers = joins ? t.nextWorkers + 1 : t.nextWorkers - 1;
        else if (role == Role.Validator) t.nextValidators = joins ? t.nextValidators + 1 : t.nextValidators - 1;
        else t.nextAggregators = joins ? t.nextAggregators + 1 : t.nextAggregators - 1;
    }

    /// @dev Two missed rounds in a row, or less than half of the required stake, count as leaving.
    function miss(Task storage t, uint256 taskId, Role role, address account, uint16 round) internal {
        Member storage m = t.members[role][account];
        ++m.missed;
        if (m.missed >= MAX_MISSED || _isPoor(t, role, m)) _retire(t, taskId, role, account, round);
    }

    /// @notice Takes up to a share of the required stake, half of it for `challenger`. The member's own record follows
    /// when the round is settled: until then votes and pay go by the stake that it opened with.
    function slash(
        Task storage t,
        uint256 taskId,
        IStakeVault vault,
        Role role,
        address account,
        uint256 bps,
        address challenger,
        bytes32 reason
    ) internal {
        uint256 left = t.members[role][account].stake - t.slashed[role][account];
        uint256 amount = Payouts.slashAmount(requiredStake(t, role), bps, left);
        uint256 taken = vault.slash(taskId, role, account, amount, challenger);
        emit ITaskCoordinator.Slashed(taskId, t.clock.round, account, role, taken, reason);
        _recordSlash(t, taskId, role, account, taken);
    }

    function _recordSlash(Task storage t, uint256 taskId, Role role, address account, uint256 taken) private {
        t.slashed[role][account] += uint96(taken);
        // Once the settlement has begun nobody comes back to this member in the round.
        if (t.progress.settled > 0 || t.endedAt > 0) applySlash(t, taskId, role, account, t.clock.round);
        else t.docket.anySlashed = true;
    }

    /// @notice What disputes took in this round leaves the stake that the next round goes by.
    function applySlash(Task storage t, uint256 taskId, Role role, address account, uint16 round) internal {
        uint96 taken = t.slashed[role][account];
        if (taken == 0) return;
        Member storage m = t.members[role][account];
        m.stake -= taken;
        delete t.slashed[role][account];
        if (_isPoor(t, role, m)) _retire(t, taskId, role, account, round);
    }

    function _isPoor(Task storage t, Role role, Member storage m) private view returns (bool) {
        return 2 * uint256(m.stake) < requiredStake(t, role);
    }

    function _retire(Task storage t, uint256 taskId, Role role, address account, uint16 round) private {
        if (t.members[role][account].activeUntil > round + 1) deactivate(t, taskId, role, account, round);
    }
}
