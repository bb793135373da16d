// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IERC20 } from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import { IERC20Errors } from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import { SafeERC20 } from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import { ReentrancyGuardTransient } from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import { SafeCast } from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import { StakeVault } from "../../src/StakeVault.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Role } from "../../src/interfaces/Types.sol";
import { HostileToken, SilentToken } from "../base/Tokens.sol";
import { ReleaseClock, VaultFixture } from "../base/VaultFixture.sol";

/// @notice Follows StakeVault.tree.
contract StakeVaultTest is VaultFixture {
    function test_construction__immutables__areKept() external view {
        vm.assertEq(vault.token(), address(token));
        vm.assertEq(vault.coordinator(), address(coordinator));
        vm.assertEq(vault.unbonding(), UNBONDING);
        vm.assertEq(vault.version(), "chainfl-2");
        _assertTotals(0, 0, 0, 0, 0);
    }

    // --- deposit -------------------------------------------------------------------------------------

    function test_deposit__amountZero__reverts() external {
        vm.prank(alice);
        vm.expectRevert(IStakeVault.ZeroAmount.selector);
        vault.deposit(0);
    }

    function test_deposit__allowanceOneShort__reverts() external {
        token.mint(alice, 100);
        vm.startPrank(alice);
        token.approve(address(vault), 99);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(vault), 99, 100)
        );
        vault.deposit(100);
    }

    function test_deposit__good__movesTokensAndCredits() external {
        _endow(alice, 100);
        vm.expectEmit();
        emit IStakeVault.Deposited(alice, 100);
        vm.prank(alice);
        vault.deposit(100);

        vm.assertEq(vault.freeOf(alice), 100);
        vm.assertEq(token.balanceOf(alice), 0);
        _assertTotals(100, 0, 0, 0, 0);
    }

    function test_deposit__repeated__addsUp() external {
        _deposit(alice, 1);
        _deposit(alice, 41);
        _deposit(bob, 8);
        vm.assertEq(vault.freeOf(alice), 42);
        vm.assertEq(vault.freeOf(bob), 8);
        _assertTotals(50, 0, 0, 0, 0);
    }

    function test_deposit__oneWeiFee__revertsTransferShort() external {
        _endow(alice, 100);
        token.setFee(1);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TransferShort.selector, 99, 100));
        vault.deposit(100);
        vm.assertEq(vault.freeOf(alice), 0);
        _assertTotals(0, 0, 0, 0, 0);
    }

    function test_deposit__feeTakesAll__revertsTransferShort() external {
        _endow(alice, 100);
        token.setFee(100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TransferShort.selector, 0, 100));
        vault.deposit(100);
    }

    function test_deposit__balanceFalls__revertsTransferShort() external {
        _deposit(bob, 500);
        _endow(alice, 100);
        token.setShrinks(true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TransferShort.selector, 0, 100));
        vault.deposit(100);
        vm.assertEq(token.balanceOf(address(vault)), 500);
    }

    function test_deposit__tokenGivesMore__creditsWhatWasAsked() external {
        token.setBonus(7);
        _deposit(alice, 100);
        vm.assertEq(vault.freeOf(alice), 100);
        vm.assertEq(token.balanceOf(address(vault)), 107);
    }

    function test_deposit__tokenAnswersFalse__reverts() external {
        _endow(alice, 100);
        token.setAnswersFalse(true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(token)));
        vault.deposit(100);
    }

    function test_deposit__tokenReverts__reverts() external {
        _endow(alice, 100);
        token.setReverts(true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(HostileToken.Refused.selector, alice));
        vault.deposit(100);
    }

    function test_deposit__tokenAnswersNothing__credits() external {
        (SilentToken silent, StakeVault other) = _silentVault(100);
        vm.prank(alice);
        other.deposit(100);
        vm.assertEq(other.freeOf(alice), 100);

        vm.prank(alice);
        other.withdraw(40);
        vm.assertEq(silent.balanceOf(alice), 40);
    }

    function test_deposit__tokenCallsBack__findsVaultClosed() external {
        _armReentrancy(abi.encodeCall(IStakeVault.withdraw, (50)));
        _deposit(alice, 100);
        _assertClosed();
        vm.assertEq(vault.freeOf(address(token)), 50);
    }

    function test_deposit__tokenSpendsThenDeliversShort__undoesEverything() external {
        _endow(alice, 100);
        token.setFee(1);
        token.setCall(address(coordinator), abi.encodeCall(ReleaseClock.fund, (address(vault), TASK, alice, 100)));
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TransferShort.selector, 99, 100));
        vault.deposit(100);
        _assertEscrow(TASK, 0, 0, 0, 0);
        _assertTotals(0, 0, 0, 0, 0);
    }

    function test_deposit__allOfUint128__credits() external {
        _deposit(alice, type(uint128).max);
        vm.assertEq(vault.freeOf(alice), type(uint128).max);
        _assertTotals(type(uint128).max, 0, 0, 0, 0);
    }

    function test_deposit__oneBeyondUint128__reverts() external {
        uint256 amount = uint256(type(uint128).max) + 1;
        _endow(alice, amount);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(SafeCast.SafeCastOverflowedUintDowncast.selector, 128, amount));
        vault.deposit(amount);
    }

    function test_deposit__togetherBeyondUint128__reverts() external {
        // What is locked or escrowed counts as well: no ledger may ever overflow.
        _lock(TASK, Role.Worker, alice, type(uint128).max - 10);
        _fund(TASK, bob, 10);
        _endow(carol, 1);
        vm.prank(carol);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        vault.deposit(1);
    }

    // --- depositWithPermit ---------------------------------------------------------------------------

    function test_depositWithPermit__goodSignature__needsNoAllowance() external {
        token.mint(alice, 100);
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(0xA11CE, 100, block.timestamp);
        vm.prank(alice);
        vault.depositWithPermit(100, block.timestamp, v, r, s);
        vm.assertEq(vault.freeOf(alice), 100);
        vm.assertEq(token.allowance(alice, address(vault)), 0);
    }

    function test_depositWithPermit__permitAlreadySubmitted__deposits() external {
        token.mint(alice, 100);
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(0xA11CE, 100, block.timestamp);
        vm.prank(bob);
        token.permit(alice, address(vault), 100, block.timestamp, v, r, s);
        vm.prank(alice);
        vault.depositWithPermit(100, block.timestamp, v, r, s);
        vm.assertEq(vault.freeOf(alice), 100);
    }

    function test_depositWithPermit__somebodyElsesSignature__reverts() external {
        token.mint(alice, 100);
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(0xB0B, 100, block.timestamp);
        vm.prank(alice);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(vault), 0, 100)
        );
        vault.depositWithPermit(100, block.timestamp, v, r, s);
    }

    function test_depositWithPermit__deadlinePassed__reverts() external {
        token.mint(alice, 100);
        uint256 deadline = block.timestamp - 1;
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(0xA11CE, 100, deadline);
        vm.prank(alice);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(vault), 0, 100)
        );
        vault.depositWithPermit(100, deadline, v, r, s);
    }

    function test_depositWithPermit__badSignatureButAllowance__deposits() external {
        _endow(alice, 100);
        vm.prank(alice);
        vault.depositWithPermit(100, block.timestamp, 27, bytes32(0), bytes32(0));
        vm.assertEq(vault.freeOf(alice), 100);
    }

    function test_depositWithPermit__tokenWithoutPermit__usesAllowance() external {
        (, StakeVault other) = _silentVault(100);
        vm.prank(alice);
        other.depositWithPermit(100, block.timestamp, 27, bytes32(0), bytes32(0));
        vm.assertEq(other.freeOf(alice), 100);
    }

    function test_depositWithPermit__tokenCallsBack__findsVaultClosed() external {
        _armReentrancy(abi.encodeCall(IStakeVault.deposit, (50)));
        _endow(alice, 100);
        vm.prank(alice);
        vault.depositWithPermit(100, block.timestamp, 27, bytes32(0), bytes32(0));
        _assertClosed();
    }

    function test_depositWithPermit__amountZero__reverts() external {
        vm.prank(alice);
        vm.expectRevert(IStakeVault.ZeroAmount.selector);
        vault.depositWithPermit(0, block.timestamp, 27, bytes32(0), bytes32(0));
    }

    // --- withdraw ------------------------------------------------------------------------------------

    function test_withdraw__amountZero__reverts() external {
        _deposit(alice, 100);
        vm.prank(alice);
        vm.expectRevert(IStakeVault.ZeroAmount.selector);
        vault.withdraw(0);
    }

    function test_withdraw__oneMoreThanFree__reverts() external {
        _deposit(alice, 100);
        _deposit(bob, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 100, 101));
        vault.withdraw(101);
    }

    function test_withdraw__maximum__reverts() external {
        _deposit(alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 100, type(uint256).max));
        vault.withdraw(type(uint256).max);
    }

    function test_withdraw__amountWhoseLowHalfFits__reverts() external {
        _deposit(alice, 100);
        uint256 amount = (1 << 128) + 1;
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 100, amount));
        vault.withdraw(amount);
    }

    function test_withdraw__part__movesTokensAndDebits() external {
        _deposit(alice, 100);
        vm.expectEmit();
        emit IStakeVault.Withdrawn(alice, 30);
        vm.prank(alice);
        vault.withdraw(30);
        vm.assertEq(vault.freeOf(alice), 70);
        vm.assertEq(token.balanceOf(alice), 30);
        _assertTotals(70, 0, 0, 0, 0);
    }

    function test_withdraw__all__leavesNothing() external {
        _deposit(alice, 100);
        vm.prank(alice);
        vault.withdraw(100);
        vm.assertEq(vault.freeOf(alice), 0);
        _assertTotals(0, 0, 0, 0, 0);
    }

    function test_withdraw__stakeElsewhere__isNotTouched() external {
        _lock(TASK, Role.Worker, alice, 100);
        _fund(TASK, alice, 200);
        _credit(alice, 300);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 0, 1));
        vault.withdraw(1);
        _assertTotals(0, 100, 200, 300, 0);
    }

    function test_withdraw__maturedButLocked__isNotTouched() external {
        _lock(TASK, Role.Worker, alice, 100);
        coordinator.setReleasableAt(TASK, uint40(block.timestamp));
        vm.warp(block.timestamp + UNBONDING + 1);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 0, 100));
        vault.withdraw(100);
    }

    function test_withdraw__tokenAnswersFalse__keepsBalance() external {
        _deposit(alice, 100);
        token.setAnswersFalse(true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(token)));
        vault.withdraw(100);
        vm.assertEq(vault.freeOf(alice), 100);
        _assertTotals(100, 0, 0, 0, 0);
    }

    function test_withdraw__tokenReverts__keepsBalance() external {
        _deposit(alice, 100);
        token.setReverts(true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(HostileToken.Refused.selector, alice));
        vault.withdraw(100);
        vm.assertEq(vault.freeOf(alice), 100);
    }

    function test_withdraw__tokenCallsBack__findsVaultClosed() external {
        _deposit(alice, 100);
        _armReentrancy(abi.encodeCall(IStakeVault.withdraw, (50)));
        vm.prank(alice);
        vault.withdraw(100);
        _assertClosed();
        vm.assertEq(vault.freeOf(address(token)), 50);
        _assertTotals(50, 0, 0, 0, 0);
    }

    function test_withdraw__payeeRefused__othersAreServed() external {
        _deposit(alice, 100);
        _deposit(bob, 100);
        token.setRefused(alice, true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(HostileToken.Refused.selector, alice));
        vault.withdraw(100);
        vm.prank(bob);
        vault.withdraw(100);
        vm.assertEq(token.balanceOf(bob), 100);
    }

    // --- claim ---------------------------------------------------------------------------------------

    function test_claim__noCredit__reverts() external {
        _deposit(alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NothingToClaim.selector, alice));
        vault.claim();
    }

    function test_claim__credit__paysAllAndLeavesFreeAlone() external {
        _deposit(alice, 5);
        _credit(alice, 100);
        vm.expectEmit();
        emit IStakeVault.Claimed(alice, 100);
        vm.prank(alice);
        uint256 amount = vault.claim();
        vm.assertEq(amount, 100);
        vm.assertEq(token.balanceOf(alice), 100);
        vm.assertEq(vault.freeOf(alice), 5);
        _assertTotals(5, 0, 0, 0, 0);
    }

    function test_claim__repeated__reverts() external {
        _credit(alice, 100);
        _credit(bob, 100);
        vm.startPrank(alice);
        vault.claim();
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NothingToClaim.selector, alice));
        vault.claim();
    }

    function test_claim__tokenAnswersFalse__keepsCredit() external {
        _credit(alice, 100);
        token.setAnswersFalse(true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(token)));
        vault.claim();
        vm.assertEq(vault.creditOf(alice), 100);
    }

    function test_claim__payeeRefused__othersAreServed() external {
        token.setRefused(alice, true);
        _credit(alice, 100);
        _credit(bob, 60);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(HostileToken.Refused.selector, alice));
        vault.claim();
        vm.prank(bob);
        vault.claim();
        vm.assertEq(token.balanceOf(bob), 60);
        vm.assertEq(vault.creditOf(alice), 100);
    }

    function test_claim__tokenCallsBack__findsVaultClosed() external {
        _credit(alice, 100);
        _credit(address(token), 50);
        token.setCall(address(vault), abi.encodeCall(IStakeVault.claim, ()));
        vm.prank(alice);
        vault.claim();
        _assertClosed();
        _assertTotals(0, 0, 0, 50, 0);
    }

    // --- flushBurn -----------------------------------------------------------------------------------

    function test_flushBurn__nothingWaits__reverts() external {
        _deposit(alice, 100);
        vm.expectRevert(IStakeVault.ZeroAmount.selector);
        vault.flushBurn();
    }

    function test_flushBurn__something__reachesBurnAddress() external {
        _fund(TASK, alice, 100);
        vm.prank(address(coordinator));
        vault.burnEscrow(TASK, 60);

        vm.expectEmit();
        emit IStakeVault.BurnFlushed(60);
        vm.prank(carol);
        vault.flushBurn();
        vm.assertEq(token.balanceOf(BURN_ADDRESS), 60);
        _assertTotals(0, 0, 40, 0, 0);

        vm.expectRevert(IStakeVault.ZeroAmount.selector);
        vault.flushBurn();
    }

    function test_flushBurn__burnAddressRefused__blocksNobody() external {
        token.setRefused(BURN_ADDRESS, true);
        _lock(TASK, Role.Worker, alice, 100);
        vm.prank(address(coordinator));
        vault.slash(TASK, Role.Worker, alice, 100, bob);
        vm.expectRevert(abi.encodeWithSelector(HostileToken.Refused.selector, BURN_ADDRESS));
        vault.flushBurn();
        vm.prank(bob);
        vault.claim();
        _assertTotals(0, 0, 0, 0, 50);
    }

    function test_flushBurn__tokenCallsBack__findsVaultClosed() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.prank(address(coordinator));
        vault.slash(TASK, Role.Worker, alice, 100, address(0));
        token.setCall(address(vault), abi.encodeCall(IStakeVault.flushBurn, ()));
        vault.flushBurn();
        _assertClosed();
        vm.assertEq(token.balanceOf(BURN_ADDRESS), 100);
    }

    // --- lock ----------------------------------------------------------------------------------------

    function test_lock__notCoordinator__reverts() external {
        _deposit(alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, alice));
        vault.lock(TASK, Role.Worker, alice, 100);
    }

    function test_lock__amountZero__doesNothing() external {
        vm.recordLogs();
        vm.prank(address(coordinator));
        vault.lock(TASK, Role.Aggregator, alice, 0);
        vm.assertEq(vm.getRecordedLogs().length, 0);
        _assertTotals(0, 0, 0, 0, 0);
    }

    function test_lock__oneMoreThanFree__reverts() external {
        _deposit(alice, 100);
        vm.prank(address(coordinator));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 100, 101));
        vault.lock(TASK, Role.Worker, alice, 101);
    }

    function test_lock__allFree__locks() external {
        _deposit(alice, 100);
        vm.expectEmit();
        emit IStakeVault.Locked(TASK, Role.Worker, alice, 100);
        vm.prank(address(coordinator));
        vault.lock(TASK, Role.Worker, alice, 100);
        vm.assertEq(vault.freeOf(alice), 0);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, alice), 100);
        _assertTotals(0, 100, 0, 0, 0);
    }

    function test_lock__second__addsUp() external {
        _lock(TASK, Role.Worker, alice, 100);
        _lock(TASK, Role.Worker, alice, 11);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, alice), 111);
        _assertTotals(0, 111, 0, 0, 0);
    }

    function test_lock__otherTasksRolesAccounts__areApart() external {
        _lock(TASK, Role.Worker, alice, 1);
        _lock(TASK, Role.Validator, alice, 2);
        _lock(TASK + 1, Role.Worker, alice, 4);
        _lock(TASK, Role.Worker, bob, 8);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, alice), 1);
        vm.assertEq(vault.lockOf(TASK, Role.Validator, alice), 2);
        vm.assertEq(vault.lockOf(TASK + 1, Role.Worker, alice), 4);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, bob), 8);
        vm.assertEq(vault.lockOf(TASK, Role.Aggregator, alice), 0);
        _assertTotals(0, 15, 0, 0, 0);
    }

    // --- release -------------------------------------------------------------------------------------

    function test_release__notCoordinator__reverts() external {
        _lock(TASK, Role.Aggregator, alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, alice));
        vault.release(TASK, Role.Aggregator, alice, 100);
    }

    function test_release__amountZero__doesNothing() external {
        vm.recordLogs();
        vm.prank(address(coordinator));
        vault.release(TASK, Role.Aggregator, alice, 0);
        vm.assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_release__oneMoreThanLocked__reverts() external {
        _lock(TASK, Role.Aggregator, alice, 100);
        vm.prank(address(coordinator));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.LockTooLow.selector, TASK, Role.Aggregator, alice, 100, 101));
        vault.release(TASK, Role.Aggregator, alice, 101);
    }

    function test_release__taskNotOver__freesAtOnce() external {
        _lock(TASK, Role.Aggregator, alice, 100);
        vm.expectEmit();
        emit IStakeVault.Unlocked(TASK, Role.Aggregator, alice, 100);
        vm.prank(address(coordinator));
        vault.release(TASK, Role.Aggregator, alice, 100);
        vm.assertEq(vault.freeOf(alice), 100);
        _assertTotals(100, 0, 0, 0, 0);
    }

    function test_release__part__keepsRestLocked() external {
        _lock(TASK, Role.Aggregator, alice, 100);
        vm.prank(address(coordinator));
        vault.release(TASK, Role.Aggregator, alice, 1);
        vm.assertEq(vault.lockOf(TASK, Role.Aggregator, alice), 99);
        _assertTotals(1, 99, 0, 0, 0);
    }

    // --- unlock --------------------------------------------------------------------------------------

    function test_unlock__nothingLocked__reverts() external {
        _lock(TASK, Role.Worker, alice, 100);
        coordinator.setReleasableAt(TASK, 0);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NothingLocked.selector, TASK, Role.Validator, alice));
        vault.unlock(TASK, Role.Validator, alice);
    }

    function test_unlock__taskNotOver__reverts() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.warp(type(uint40).max);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillBonded.selector, TASK, type(uint256).max));
        vault.unlock(TASK, Role.Worker, alice);
    }

    function test_unlock__oneSecondEarly__reverts() external {
        uint256 end = _bonded(100);
        vm.warp(end - 1);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillBonded.selector, TASK, end));
        vault.unlock(TASK, Role.Worker, alice);
    }

    function test_unlock__atTheEnd__freesAll() external {
        vm.warp(_bonded(100));
        vm.expectEmit();
        emit IStakeVault.Unlocked(TASK, Role.Worker, alice, 100);
        vault.unlock(TASK, Role.Worker, alice);
        vm.assertEq(vault.freeOf(alice), 100);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, alice), 0);
        _assertTotals(100, 0, 0, 0, 0);
    }

    function test_unlock__oneSecondLater__freesAll() external {
        vm.warp(_bonded(100) + 1);
        vault.unlock(TASK, Role.Worker, alice);
        vm.assertEq(vault.freeOf(alice), 100);
    }

    function test_unlock__taskCancelled__freesAtOnce() external {
        _lock(TASK, Role.Worker, alice, 100);
        coordinator.setReleasableAt(TASK, 0);
        vault.unlock(TASK, Role.Worker, alice);
        vm.assertEq(vault.freeOf(alice), 100);
    }

    function test_unlock__lastPossibleEnd__doesNotOverflow() external {
        _lock(TASK, Role.Worker, alice, 100);
        coordinator.setReleasableAt(TASK, type(uint40).max - 1);
        uint256 end = uint256(type(uint40).max) - 1 + UNBONDING;
        vm.warp(end - 1);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillBonded.selector, TASK, end));
        vault.unlock(TASK, Role.Worker, alice);
        vm.warp(end);
        vault.unlock(TASK, Role.Worker, alice);
        vm.assertEq(vault.freeOf(alice), 100);
    }

    function test_unlock__byStranger__creditsOwner() external {
        vm.warp(_bonded(100));
        vm.prank(bob);
        vault.unlock(TASK, Role.Worker, alice);
        vm.assertEq(vault.freeOf(alice), 100);
        vm.assertEq(vault.freeOf(bob), 0);
    }

    function test_unlock__afterSlash__freesRest() external {
        vm.warp(_bonded(100));
        vm.prank(address(coordinator));
        vault.slash(TASK, Role.Worker, alice, 30, address(0));
        vault.unlock(TASK, Role.Worker, alice);
        vm.assertEq(vault.freeOf(alice), 70);
        _assertTotals(70, 0, 0, 0, 30);
    }

    function test_unlock__slashedToNothing__reverts() external {
        vm.warp(_bonded(100));
        vm.prank(address(coordinator));
        vault.slash(TASK, Role.Worker, alice, 100, address(0));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NothingLocked.selector, TASK, Role.Worker, alice));
        vault.unlock(TASK, Role.Worker, alice);
    }

    function test_unlock__repeated__reverts() external {
        vm.warp(_bonded(100));
        vault.unlock(TASK, Role.Worker, alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NothingLocked.selector, TASK, Role.Worker, alice));
        vault.unlock(TASK, Role.Worker, alice);
    }

    // --- slash ---------------------------------------------------------------------------------------

    function test_slash__notCoordinator__reverts() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, bob));
        vault.slash(TASK, Role.Worker, alice, 100, bob);
    }

    function test_slash__nothingLocked__takesNothing() external {
        _deposit(alice, 100);
        vm.recordLogs();
        vm.assertEq(_slash(100, bob), 0);
        vm.assertEq(vm.getRecordedLogs().length, 0);
        _assertTotals(100, 0, 0, 0, 0);
    }

    function test_slash__amountZero__takesNothing() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.assertEq(_slash(0, bob), 0);
        _assertTotals(0, 100, 0, 0, 0);
    }

    function test_slash__exactlyTheLock__takesAll() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.assertEq(_slash(100, address(0)), 100);
        _assertTotals(0, 0, 0, 0, 100);
    }

    function test_slash__moreThanLocked__takesWhatIsThere() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.assertEq(_slash(101, address(0)), 100);
        vm.assertEq(_slash(101, address(0)), 0);
        _assertTotals(0, 0, 0, 0, 100);
    }

    function test_slash__maximum__takesWhatIsThere() external {
        _lock(TASK, Role.Worker, alice, type(uint128).max);
        vm.assertEq(_slash(type(uint256).max, address(0)), type(uint128).max);
        _assertTotals(0, 0, 0, 0, type(uint128).max);
    }

    function test_slash__beneficiary__getsHalf() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.expectEmit();
        emit IStakeVault.Slashed(TASK, Role.Worker, alice, 40, bob, 20);
        vm.assertEq(_slash(40, bob), 40);
        vm.assertEq(vault.creditOf(bob), 20);
        _assertTotals(0, 60, 0, 20, 20);
    }

    function test_slash__oddAmount__burnsOddWei() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.expectEmit();
        emit IStakeVault.Slashed(TASK, Role.Worker, alice, 41, bob, 21);
        _slash(41, bob);
        vm.assertEq(vault.creditOf(bob), 20);
        _assertTotals(0, 59, 0, 20, 21);
    }

    function test_slash__oneWei__isBurned() external {
        _lock(TASK, Role.Worker, alice, 1);
        vm.assertEq(_slash(1, bob), 1);
        vm.assertEq(vault.creditOf(bob), 0);
        _assertTotals(0, 0, 0, 0, 1);
    }

    function test_slash__noBeneficiary__burnsAll() external {
        _lock(TASK, Role.Worker, alice, 100);
        vm.expectEmit();
        emit IStakeVault.Slashed(TASK, Role.Worker, alice, 40, address(0), 40);
        _slash(40, address(0));
        vm.assertEq(vault.creditOf(address(0)), 0);
        _assertTotals(0, 60, 0, 0, 40);
    }

    function test_slash__ofOneself__losesHalf() external {
        _lock(TASK, Role.Worker, alice, 100);
        _slash(100, alice);
        vm.assertEq(vault.creditOf(alice), 50);
        _assertTotals(0, 0, 0, 50, 50);
    }

    function test_slash__stakeIsUnbonding__isReached() external {
        vm.warp(_bonded(100) - 1);
        vm.assertEq(_slash(100, bob), 100);
        _assertTotals(0, 0, 0, 50, 50);
    }

    function test_slash__stakeHasMatured__isReached() external {
        vm.warp(_bonded(100) + 365 days);
        vm.assertEq(_slash(100, bob), 100);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NothingLocked.selector, TASK, Role.Worker, alice));
        vault.unlock(TASK, Role.Worker, alice);
    }

    function test_slash__freeBalanceBeside__isLeftAlone() external {
        _lock(TASK, Role.Worker, alice, 100);
        _lock(TASK, Role.Validator, alice, 10);
        _deposit(alice, 1000);
        vm.assertEq(_slash(500, address(0)), 100);
        vm.assertEq(vault.freeOf(alice), 1000);
        vm.assertEq(vault.lockOf(TASK, Role.Validator, alice), 10);
        _assertTotals(1000, 10, 0, 0, 100);
    }

    // --- takeFee -------------------------------------------------------------------------------------

    function test_takeFee__notCoordinator__reverts() external {
        _deposit(alice, 100);
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, bob));
        vault.takeFee(alice, 5);
    }

    function test_takeFee__nothingFree__takesNothing() external {
        vm.recordLogs();
        vm.assertEq(_takeFee(5), 0);
        vm.assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_takeFee__amountZero__takesNothing() external {
        _deposit(alice, 100);
        vm.assertEq(_takeFee(0), 0);
        _assertTotals(100, 0, 0, 0, 0);
    }

    function test_takeFee__lessThanFee__takesWhatIsThere() external {
        _deposit(alice, 4);
        vm.assertEq(_takeFee(5), 4);
        _assertTotals(0, 0, 0, 0, 4);
    }

    function test_takeFee__maximum__takesWhatIsThere() external {
        _deposit(alice, type(uint128).max);
        vm.assertEq(_takeFee(type(uint256).max), type(uint128).max);
    }

    function test_takeFee__enough__isBurned() external {
        _deposit(alice, 6);
        vm.expectEmit();
        emit IStakeVault.FeeTaken(alice, 5);
        vm.assertEq(_takeFee(5), 5);
        vm.assertEq(vault.freeOf(alice), 1);
        _assertTotals(1, 0, 0, 0, 5);
    }

    function test_takeFee__locksBeside__areLeftAlone() external {
        _lock(TASK, Role.Aggregator, alice, 100);
        _credit(alice, 50);
        vm.assertEq(_takeFee(5), 0);
        _assertTotals(0, 100, 0, 50, 0);
    }

    // --- fund ----------------------------------------------------------------------------------------

    function test_fund__notCoordinator__reverts() external {
        _deposit(alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, alice));
        vault.fund(TASK, alice, 100);
    }

    function test_fund__amountZero__doesNothing() external {
        vm.recordLogs();
        vm.prank(address(coordinator));
        vault.fund(TASK, alice, 0);
        vm.assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_fund__oneMoreThanFree__reverts() external {
        _deposit(alice, 100);
        vm.prank(address(coordinator));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 100, 101));
        vault.fund(TASK, alice, 101);
    }

    function test_fund__enough__escrows() external {
        _deposit(alice, 100);
        vm.expectEmit();
        emit IStakeVault.EscrowFunded(TASK, alice, 100);
        vm.prank(address(coordinator));
        vault.fund(TASK, alice, 100);
        vm.assertEq(vault.freeOf(alice), 0);
        _assertEscrow(TASK, 100, 0, 0, 0);
        _assertTotals(0, 0, 100, 0, 0);
    }

    // --- pay, refund, burnEscrow ---------------------------------------------------------------------

    function test_pay__notCoordinator__reverts() external {
        _fund(TASK, alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, alice));
        vault.pay(TASK, alice, 100);
    }

    function test_refund__notCoordinator__reverts() external {
        _fund(TASK, alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, alice));
        vault.refund(TASK, alice, 100);
    }

    function test_burnEscrow__notCoordinator__reverts() external {
        _fund(TASK, alice, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, alice));
        vault.burnEscrow(TASK, 100);
    }

    function test_escrowMoves__amountZero__doNothing() external {
        vm.recordLogs();
        vm.startPrank(address(coordinator));
        vault.pay(TASK, alice, 0);
        vault.refund(TASK, alice, 0);
        vault.burnEscrow(TASK, 0);
        vm.assertEq(vm.getRecordedLogs().length, 0);
        _assertEscrow(TASK, 0, 0, 0, 0);
    }

    function test_escrowMoves__oneMoreThanEscrow__revert() external {
        _fund(TASK, alice, 100);
        bytes memory tooLow = abi.encodeWithSelector(IStakeVault.EscrowTooLow.selector, TASK, 100, 101);
        vm.startPrank(address(coordinator));
        vm.expectRevert(tooLow);
        vault.pay(TASK, bob, 101);
        vm.expectRevert(tooLow);
        vault.refund(TASK, alice, 101);
        vm.expectRevert(tooLow);
        vault.burnEscrow(TASK, 101);
    }

    function test_escrowMoves__anotherTasksEscrow__revert() external {
        _fund(TASK, alice, 100);
        bytes memory tooLow = abi.encodeWithSelector(IStakeVault.EscrowTooLow.selector, TASK + 1, 0, 1);
        vm.startPrank(address(coordinator));
        vm.expectRevert(tooLow);
        vault.pay(TASK + 1, bob, 1);
        vm.expectRevert(tooLow);
        vault.refund(TASK + 1, alice, 1);
        vm.expectRevert(tooLow);
        vault.burnEscrow(TASK + 1, 1);
    }

    function test_escrowMoves__amountWhoseLowHalfFits__revert() external {
        _fund(TASK, alice, 100);
        uint256 amount = (1 << 128) + 1;
        vm.prank(address(coordinator));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.EscrowTooLow.selector, TASK, 100, amount));
        vault.pay(TASK, bob, amount);
    }

    function test_pay__enough__credits() external {
        _fund(TASK, alice, 100);
        vm.expectEmit();
        emit IStakeVault.EscrowPaid(TASK, bob, 60);
        vm.prank(address(coordinator));
        vault.pay(TASK, bob, 60);
        vm.assertEq(vault.creditOf(bob), 60);
        _assertEscrow(TASK, 40, 60, 0, 0);
        _assertTotals(0, 0, 40, 60, 0);
    }

    function test_pay__payeeRefused__isCreditedAllTheSame() external {
        token.setRefused(bob, true);
        _fund(TASK, alice, 100);
        vm.startPrank(address(coordinator));
        vault.pay(TASK, bob, 60);
        vault.pay(TASK, carol, 40);
        vm.stopPrank();
        vm.prank(carol);
        vault.claim();
        vm.assertEq(token.balanceOf(carol), 40);
        vm.assertEq(vault.creditOf(bob), 60);
    }

    function test_refund__enough__creditsRequester() external {
        _fund(TASK, alice, 100);
        vm.expectEmit();
        emit IStakeVault.EscrowRefunded(TASK, alice, 100);
        vm.prank(address(coordinator));
        vault.refund(TASK, alice, 100);
        vm.assertEq(vault.creditOf(alice), 100);
        _assertEscrow(TASK, 0, 0, 100, 0);
        _assertTotals(0, 0, 0, 100, 0);
    }

    function test_burnEscrow__enough__waitsForFlush() external {
        _fund(TASK, alice, 100);
        vm.expectEmit();
        emit IStakeVault.EscrowBurned(TASK, 100);
        vm.prank(address(coordinator));
        vault.burnEscrow(TASK, 100);
        _assertEscrow(TASK, 0, 0, 0, 100);
        _assertTotals(0, 0, 0, 0, 100);
        vm.assertEq(token.balanceOf(BURN_ADDRESS), 0);
    }

    function test_escrowMoves__allOfUint128__add() external {
        _fund(TASK, alice, type(uint128).max);
        vm.startPrank(address(coordinator));
        vault.pay(TASK, bob, type(uint128).max - 2);
        vault.refund(TASK, alice, 1);
        vault.burnEscrow(TASK, 1);
        _assertEscrow(TASK, 0, type(uint128).max - 2, 1, 1);
        _assertTotals(0, 0, 0, type(uint128).max - 1, 1);
    }

    // --- unlockableAt, totals ------------------------------------------------------------------------

    function test_unlockableAt__cancelled__isZero() external {
        coordinator.setReleasableAt(TASK, 0);
        vm.assertEq(vault.unlockableAt(TASK), 0);
    }

    function test_unlockableAt__notOver__isMaximum() external view {
        vm.assertEq(vault.unlockableAt(TASK), type(uint256).max);
    }

    function test_unlockableAt__over__addsUnbonding() external {
        coordinator.setReleasableAt(TASK, 1);
        vm.assertEq(vault.unlockableAt(TASK), 1 + uint256(UNBONDING));
    }

    function test_unlockableAt__noUnbonding__isTheEnd() external {
        StakeVault other = new StakeVault(IERC20(address(token)), address(coordinator), 0);
        coordinator.setReleasableAt(TASK, 5);
        vm.assertEq(other.unlockableAt(TASK), 5);
    }

    function test_totals__donation__isNotCounted() external {
        _deposit(alice, 100);
        token.mint(address(vault), 1_000_000);
        (uint256 free,,,,) = vault.totals();
        vm.assertEq(free, 100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, 100, 101));
        vault.withdraw(101);
    }

    function test_totals__wholeTask__accountForEveryWei() external {
        _fund(TASK, carol, 1000);
        _lock(TASK, Role.Worker, alice, 100);
        _lock(TASK, Role.Validator, bob, 300);
        vm.startPrank(address(coordinator));
        vault.pay(TASK, alice, 700);
        vault.pay(TASK, bob, 199);
        vault.slash(TASK, Role.Validator, bob, 31, alice);
        vault.burnEscrow(TASK, 100);
        vault.refund(TASK, carol, 1);
        vm.stopPrank();
        _assertEscrow(TASK, 0, 899, 1, 100);
        _assertTotals(0, 369, 0, 915, 116);

        coordinator.setReleasableAt(TASK, uint40(block.timestamp));
        vm.warp(block.timestamp + UNBONDING);
        vault.unlock(TASK, Role.Worker, alice);
        vault.unlock(TASK, Role.Validator, bob);
        vault.flushBurn();
        _leave(alice, 100 + 700 + 15);
        _leave(bob, 269 + 199);
        vm.prank(carol);
        vm.assertEq(vault.claim(), 1);
        vm.assertEq(token.balanceOf(BURN_ADDRESS), 116);
        _assertTotals(0, 0, 0, 0, 0);
    }

    // --- moves and checks of these tests -------------------------------------------------------------

    function _slash(uint256 amount, address beneficiary) private returns (uint256) {
        vm.prank(address(coordinator));
        return vault.slash(TASK, Role.Worker, alice, amount, beneficiary);
    }

    function _takeFee(uint256 amount) private returns (uint256) {
        vm.prank(address(coordinator));
        return vault.takeFee(alice, amount);
    }

    /// @dev Locks a worker's stake of a task that ends now; returns when the stake is free.
    function _bonded(uint256 amount) private returns (uint256) {
        _lock(TASK, Role.Worker, alice, amount);
        coordinator.setReleasableAt(TASK, uint40(block.timestamp));
        return block.timestamp + UNBONDING;
    }

    /// @dev Takes everything out and compares it.
    function _leave(address account, uint256 expected) private {
        vm.startPrank(account);
        vault.claim();
        vault.withdraw(vault.freeOf(account));
        vm.stopPrank();
        vm.assertEq(token.balanceOf(account), expected);
    }

    /// @dev From now on every transfer of the token, which owns 50 of free balance, makes this call to the vault.
    function _armReentrancy(bytes memory data) private {
        _deposit(address(token), 50);
        token.setCall(address(vault), data);
    }

    function _assertClosed() private view {
        vm.assertFalse(token.calleeSucceeded());
        vm.assertEq(
            token.calleeAnswer(), abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
    }

    function _silentVault(uint256 amount) private returns (SilentToken silent, StakeVault other) {
        silent = new SilentToken();
        other = new StakeVault(IERC20(address(silent)), address(coordinator), UNBONDING);
        silent.mint(alice, amount);
        vm.prank(alice);
        silent.approve(address(other), amount);
    }

    function _signPermit(uint256 key, uint256 amount, uint256 deadline)
        private
        view
        returns (uint8 v, bytes32 r, bytes32 s)
    {
        bytes32 typehash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 inner = keccak256(abi.encode(typehash, alice, address(vault), amount, token.nonces(alice), deadline));
        return vm.sign(key, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), inner)));
    }
}
