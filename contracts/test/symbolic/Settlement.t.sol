// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IModelRegistry } from "../../src/interfaces/IModelRegistry.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Economics, Member, Outcome, Role } from "../../src/interfaces/Types.sol";
import { Settlement } from "../../src/libraries/Settlement.sol";
import { Sums, Task } from "../../src/libraries/TaskStorage.sol";
import { SymbolicTest } from "./SymbolicTest.sol";

/// @notice Stands for the vault, which is checked by itself: adds up where the escrow goes.
contract EscrowLedger {
    uint256 public funded;
    uint256 public paid;
    uint256 public refunded;
    uint256 public burned;

    function fund(uint256 amount) external {
        funded = amount;
    }

    function pay(uint256, address, uint256 amount) external {
        paid += amount;
    }

    function refund(uint256, address, uint256 amount) external {
        refunded += amount;
    }

    function burnEscrow(uint256, uint256 amount) external {
        burned += amount;
    }

    function escrowOf(uint256) external view returns (IStakeVault.Escrow memory escrow) {
        unchecked {
            escrow.balance = uint128(funded - paid - refunded - burned);
        }
    }

    function slash(uint256, Role, address, uint256, address) external pure returns (uint256) {
        return 0;
    }

    function release(uint256, Role, address, uint256) external pure { }

    function register(uint256) external pure returns (bytes32) {
        return 0;
    }
}

/// @notice paid + refunded + burned = budget, to the wei, for a task of one round with two workers and two validators:
/// every outcome, whoever revealed, and whoever was accepted. The real Settlement runs, over a ledger.
/// @dev Amounts are primes, so that every division leaves a remainder.
contract SettlementSymbolicTest is SymbolicTest {
    uint16 private constant ROUND = 1;
    uint128 private constant BUDGET = 10_007;

    Task private task;
    EscrowLedger private ledger;

    function setUp() public {
        ledger = new EscrowLedger();
        ledger.fund(BUDGET);
        task.fixed_.reward = BUDGET;
        vm.warp(1000);
        task.fixed_.requester = address(0xA);
        (task.fixed_.rounds, task.clock.round, task.clock.attempt) = (ROUND, ROUND, 1);
        (task.clock.committed, task.clock.revealed) = (2, 2);
        task.posting.aggregator = address(0xB);
        (task.progress.tallied, task.progress.aggregateStart, task.progress.postedAt) = (2, 1, 1);
        Economics storage e = task.fixed_.economics;
        (e.workersBps, e.validatorsBps, e.aggregatorBps, e.baseBps) = (7000, 2000, 1000, 3000);
        for (uint160 i; i < 2; ++i) {
            task.lists[Role.Worker].push(address(0x100 + i));
            task.lists[Role.Validator].push(address(0x200 + i));
        }
    }

    /// @param revealed workers, then validators. @param accepted workers.
    function check_settle(uint8 outcome, bool[4] calldata revealed, bool[2] calldata accepted) external {
        vm.assume(outcome > uint8(Outcome.Pending) && outcome <= uint8(Outcome.Withheld));
        vm.assume(outcome != uint8(Outcome.NoUpdates) || (!revealed[0] && !revealed[1]));
        task.progress.outcome = Outcome(outcome);
        bool quorum = outcome != uint8(Outcome.QuorumMissed);
        Sums memory s;
        for (uint256 i; i < 2; ++i) {
            _enrol(Role.Worker, i, revealed[i], 5 + 2 * uint96(i));
            _enrol(Role.Validator, i, revealed[2 + i], 11 + 2 * uint96(i));
            if (!revealed[i]) continue;
            Member storage m = task.members[Role.Worker][task.lists[Role.Worker][i]];
            (m.score, m.weight) = quorum && accepted[i] ? (uint16(3 + 14 * i), uint16(1)) : (0, 0);
            if (m.weight > 0 || !quorum) (s.stake, s.score) = (s.stake + m.stake, s.score + m.score);
            if (m.weight > 0) task.agreements += 1 | uint256(i) << 16;
        }
        task.sums = s;

        Settlement.settle(task, 1, 8, IStakeVault(address(ledger)), IModelRegistry(address(ledger)));

        vm.assertGt(task.endedAt, 0);
        vm.assertLe(ledger.paid() + ledger.burned(), BUDGET, "paid more than there is");
        vm.assertEq(ledger.paid() + ledger.refunded() + ledger.burned(), BUDGET, "escrow");
    }

    function _enrol(Role role, uint256 i, bool revealed, uint96 stake) private {
        Member storage m = task.members[role][task.lists[role][i]];
        (m.stake, m.revealed, m.lastRound) = (stake, revealed, revealed ? ROUND : 0);
    }
}
