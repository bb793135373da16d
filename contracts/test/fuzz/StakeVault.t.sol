// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Role } from "../../src/interfaces/Types.sol";
import { VaultFixture } from "../base/VaultFixture.sol";

/// @notice Properties of single moves, over all amounts and times.
contract StakeVaultFuzz is VaultFixture {
    function testFuzz_deposit__thenWithdraw__returnsEveryWei(uint256 amount, uint256 part) external {
        amount = bound(amount, 1, type(uint128).max);
        part = bound(part, 1, amount);
        _deposit(alice, amount);
        vm.prank(alice);
        vault.withdraw(part);
        vm.assertEq(token.balanceOf(alice), part);
        _assertTotals(amount - part, 0, 0, 0, 0);
    }

    function testFuzz_deposit__anyFee__reverts(uint256 amount, uint256 fee) external {
        amount = bound(amount, 1, type(uint128).max);
        fee = bound(fee, 1, amount);
        _endow(alice, amount);
        token.setFee(fee);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TransferShort.selector, amount - fee, amount));
        vault.deposit(amount);
    }

    function testFuzz_deposit__othersHoldings__boundIt(uint256 held, uint256 amount) external {
        held = bound(held, 1, type(uint128).max);
        amount = bound(amount, 1, type(uint128).max);
        _deposit(alice, held);
        _endow(bob, amount);
        if (held + amount > type(uint128).max) vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        vm.prank(bob);
        vault.deposit(amount);
    }

    function testFuzz_withdraw__moreThanFree__reverts(uint256 free, uint256 amount) external {
        free = bound(free, 1, type(uint128).max);
        amount = bound(amount, free + 1, type(uint256).max);
        _deposit(alice, free);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, free, amount));
        vault.withdraw(amount);
    }

    function testFuzz_lock__moreThanFree__reverts(uint256 free, uint256 amount) external {
        free = bound(free, 1, type(uint128).max);
        amount = bound(amount, free + 1, type(uint256).max);
        _deposit(alice, free);
        vm.prank(address(coordinator));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.StakeTooLow.selector, alice, free, amount));
        vault.lock(TASK, Role.Worker, alice, amount);
    }

    function testFuzz_lock__anyKey__touchesNoOther(uint256 taskId, uint8 role, address account, uint256 amount)
        external
    {
        vm.assume(account != address(0) && account != address(vault) && account != alice);
        amount = bound(amount, 1, type(uint64).max);
        Role given = Role(bound(role, 0, 2));
        _lock(TASK, Role.Worker, alice, 5);
        _lock(taskId, given, account, amount);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, alice), 5);
        vm.assertEq(vault.lockOf(taskId, given, account), amount);
        for (uint256 r; r < 3; ++r) {
            if (Role(r) != given) vm.assertEq(vault.lockOf(taskId, Role(r), account), 0);
        }
        _assertTotals(0, amount + 5, 0, 0, 0);
    }

    function testFuzz_slash__anyAmount__isCappedAndHalved(uint256 locked, uint256 amount, bool proven) external {
        locked = bound(locked, 1, type(uint128).max);
        _lock(TASK, Role.Worker, alice, locked);
        vm.prank(address(coordinator));
        uint256 taken = vault.slash(TASK, Role.Worker, alice, amount, proven ? bob : address(0));

        vm.assertEq(taken, amount < locked ? amount : locked);
        uint256 credited = proven ? taken / 2 : 0;
        vm.assertEq(vault.creditOf(bob), credited);
        vm.assertLe(credited, taken - credited, "no less than half is burned");
        _assertTotals(0, locked - taken, 0, credited, taken - credited);
    }

    function testFuzz_slash__inParts__takesNoMoreThanAtOnce(uint128 locked, uint256 first, uint256 second) external {
        locked = uint128(bound(locked, 1, type(uint128).max));
        _lock(TASK, Role.Worker, alice, locked);
        vm.startPrank(address(coordinator));
        uint256 taken = vault.slash(TASK, Role.Worker, alice, first, bob);
        taken += vault.slash(TASK, Role.Worker, alice, second, bob);
        vm.assertLe(taken, locked);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, alice), locked - taken);
    }

    function testFuzz_takeFee__anyAmount__isCapped(uint256 free, uint256 amount) external {
        free = bound(free, 0, type(uint128).max);
        if (free > 0) _deposit(alice, free);
        vm.prank(address(coordinator));
        uint256 taken = vault.takeFee(alice, amount);
        vm.assertEq(taken, amount < free ? amount : free);
        _assertTotals(free - taken, 0, 0, 0, taken);
    }

    function testFuzz_unlock__anyTime__opensAtEndOfUnbonding(uint40 endedAt, uint40 now_) external {
        _lock(TASK, Role.Worker, alice, 100);
        coordinator.setReleasableAt(TASK, endedAt);
        vm.warp(now_);
        uint256 end = vault.unlockableAt(TASK);
        bool open =
            endedAt == 0 || (endedAt != type(uint40).max && uint256(now_) >= uint256(endedAt) + uint256(UNBONDING));
        if (!open) vm.expectRevert(abi.encodeWithSelector(IStakeVault.StillBonded.selector, TASK, end));
        vault.unlock(TASK, Role.Worker, alice);
        vm.assertEq(vault.freeOf(alice), open ? 100 : 0);
        vm.assertEq(vault.lockOf(TASK, Role.Worker, alice), open ? 0 : 100);
    }

    function testFuzz_escrow__anyMoves__addUpToFunded(uint256 funded, uint256 paid, uint256 refunded, uint256 burned)
        external
    {
        funded = bound(funded, 1, type(uint128).max);
        paid = bound(paid, 0, funded);
        refunded = bound(refunded, 0, funded - paid);
        burned = bound(burned, 0, funded - paid - refunded);
        _fund(TASK, alice, funded);
        vm.startPrank(address(coordinator));
        vault.burnEscrow(TASK, burned);
        vault.pay(TASK, bob, paid);
        vault.refund(TASK, alice, refunded);
        vm.stopPrank();
        uint256 left = funded - paid - refunded - burned;
        _assertEscrow(TASK, left, paid, refunded, burned);
        _assertTotals(0, 0, left, paid + refunded, burned);
    }

    function testFuzz_pay__moreThanEscrow__reverts(uint256 funded, uint256 amount) external {
        funded = bound(funded, 1, type(uint128).max - 1);
        amount = bound(amount, funded + 1, type(uint256).max);
        _fund(TASK, alice, funded);
        _fund(TASK + 1, bob, type(uint128).max - funded);
        vm.prank(address(coordinator));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.EscrowTooLow.selector, TASK, funded, amount));
        vault.pay(TASK, bob, amount);
    }

    function testFuzz_coordinatorsSide__anyCaller__isRefused(address caller, uint256 amount) external {
        vm.assume(caller != address(coordinator));
        bytes memory refused = abi.encodeWithSelector(IStakeVault.NotCoordinator.selector, caller);
        vm.startPrank(caller);
        vm.expectRevert(refused);
        vault.lock(TASK, Role.Worker, alice, amount);
        vm.expectRevert(refused);
        vault.release(TASK, Role.Worker, alice, amount);
        vm.expectRevert(refused);
        vault.slash(TASK, Role.Worker, alice, amount, caller);
        vm.expectRevert(refused);
        vault.takeFee(alice, amount);
        vm.expectRevert(refused);
        vault.fund(TASK, alice, amount);
        vm.expectRevert(refused);
        vault.pay(TASK, caller, amount);
        vm.expectRevert(refused);
        vault.refund(TASK, caller, amount);
        vm.expectRevert(refused);
        vault.burnEscrow(TASK, amount);
    }
}
