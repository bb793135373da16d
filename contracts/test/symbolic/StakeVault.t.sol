// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IERC20 } from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import { StakeVault } from "../../src/StakeVault.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { Role } from "../../src/interfaces/Types.sol";
import { ReleaseClock } from "../base/VaultFixture.sol";
import { SymbolicTest } from "./SymbolicTest.sol";

/// @notice The vault's solvency after any one call but `slash` from any state in which it holds: induction over calls.
/// @dev Storage of vault, token and clock is symbolic. What is assumed of it is the invariant itself, for the accounts
/// that a call can touch: each total covers the entries that it sums up, all ledgers are parts of what is held, and the
/// balance covers that. What is asserted: every total moves by what its entries move, all ledgers together by what
/// came in or went out, and the balance still covers them. `slash` is not here: the solver does not finish with what it
/// halves and burns; contracts/test/fuzz/StakeVault.t.sol and the invariant tests have it.
contract StakeVaultSymbolicTest is SymbolicTest {
    /// @dev Whose entries a call may touch.
    struct Case {
        uint256 taskId;
        Role role;
        address account;
        address other;
    }

    struct Books {
        uint256 free;
        uint256 locked;
        uint256 escrow;
        uint256 credit;
        uint256 burnPending;
        uint256 freeEntries;
        uint256 lockEntry;
        uint256 escrowEntry;
        uint256 creditEntries;
        uint256 balance;
    }

    TrainingToken private token;
    ReleaseClock private coordinator;
    StakeVault private vault;

    function setUp() public {
        token = new TrainingToken(1e9 ether, 0, 1, 1);
        coordinator = new ReleaseClock();
        vault = new StakeVault(IERC20(address(token)), address(coordinator), 7 days);
        svm.enableSymbolicStorage(address(token));
        svm.enableSymbolicStorage(address(coordinator));
        svm.enableSymbolicStorage(address(vault));
    }

    // --- by anybody -------------------------------------------------------------------------------

    function check_deposit(Case memory c, uint256 amount) external {
        Books memory before = _solvent(c);
        vm.prank(c.account);
        vault.deposit(amount);
        _assertSolvent(c, before);
    }

    function check_depositWithPermit(Case memory c, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
    {
        Books memory before = _solvent(c);
        vm.prank(c.account);
        vault.depositWithPermit(amount, deadline, v, r, s);
        _assertSolvent(c, before);
    }

    function check_withdraw(Case memory c, uint256 amount) external {
        Books memory before = _solvent(c);
        vm.prank(c.account);
        vault.withdraw(amount);
        _assertSolvent(c, before);
    }

    function check_claim(Case memory c) external {
        Books memory before = _solvent(c);
        vm.prank(c.account);
        vault.claim();
        _assertSolvent(c, before);
    }

    function check_flushBurn(Case memory c) external {
        Books memory before = _solvent(c);
        vault.flushBurn();
        _assertSolvent(c, before);
    }

    function check_unlock(Case memory c) external {
        Books memory before = _solvent(c);
        vault.unlock(c.taskId, c.role, c.account);
        vm.assertTrue(c.role != Role.Challenger, "a bond came free by waiting");
        _assertSolvent(c, before);
    }

    // --- by the coordinator -----------------------------------------------------------------------

    function check_lock(Case memory c, uint256 amount) external {
        Books memory before = _asCoordinator(c);
        vault.lock(c.taskId, c.role, c.account, amount);
        _assertSolvent(c, before);
    }

    function check_release(Case memory c, uint256 amount) external {
        Books memory before = _asCoordinator(c);
        vault.release(c.taskId, c.role, c.account, amount);
        _assertSolvent(c, before);
    }

    function check_takeFee(Case memory c, uint256 amount) external {
        Books memory before = _asCoordinator(c);
        vault.takeFee(c.account, amount);
        _assertSolvent(c, before);
    }

    function check_fund(Case memory c, uint256 amount) external {
        Books memory before = _asCoordinator(c);
        vault.fund(c.taskId, c.account, amount);
        _assertSolvent(c, before);
    }

    function check_pay(Case memory c, uint256 amount) external {
        Books memory before = _asCoordinator(c);
        vault.pay(c.taskId, c.account, amount);
        _assertSolvent(c, before);
    }

    function check_refund(Case memory c, uint256 amount) external {
        Books memory before = _asCoordinator(c);
        vault.refund(c.taskId, c.account, amount);
        _assertSolvent(c, before);
    }

    function check_burnEscrow(Case memory c, uint256 amount) external {
        Books memory before = _asCoordinator(c);
        vault.burnEscrow(c.taskId, amount);
        _assertSolvent(c, before);
    }

    /// @notice Nobody but the coordinator moves anything by those nine.
    function check_stranger__movesNothing(Case memory c, address stranger, uint256 amount, uint8 which) external {
        vm.assume(stranger != address(coordinator));
        vm.prank(stranger);
        (bool done,) = address(vault).call(_coordinatorsCall(c, amount, which));
        vm.assertFalse(done, "a stranger was obeyed");
    }

    // --- the invariant ----------------------------------------------------------------------------

    function _coordinatorsCall(Case memory c, uint256 amount, uint8 which) private view returns (bytes memory) {
        if (which == 0) return abi.encodeCall(vault.lock, (c.taskId, c.role, c.account, amount));
        if (which == 1) return abi.encodeCall(vault.release, (c.taskId, c.role, c.account, amount));
        if (which == 2) return abi.encodeCall(vault.slash, (c.taskId, c.role, c.account, amount, c.other));
        if (which == 3) return abi.encodeCall(vault.takeFee, (c.account, amount));
        if (which == 4) return abi.encodeCall(vault.fund, (c.taskId, c.account, amount));
        if (which == 5) return abi.encodeCall(vault.pay, (c.taskId, c.account, amount));
        if (which == 6) return abi.encodeCall(vault.refund, (c.taskId, c.account, amount));
        return abi.encodeCall(vault.burnEscrow, (c.taskId, amount));
    }

    function _asCoordinator(Case memory c) private returns (Books memory before) {
        before = _solvent(c);
        vm.prank(address(coordinator));
    }

    function _solvent(Case memory c) private view returns (Books memory b) {
        // The vault itself sends no transaction, and the burn address has no key.
        vm.assume(c.account != address(vault) && c.account != address(0xdEaD));
        b = _read(c);
        vm.assume(b.freeEntries <= b.free && b.lockEntry <= b.locked);
        vm.assume(b.escrowEntry <= b.escrow && b.creditEntries <= b.credit);
        vm.assume(_sum(b) <= type(uint128).max && _sum(b) <= b.balance);
        // No token has more than its supply, and this one's is below 2^128.
        vm.assume(b.balance <= type(uint128).max && token.balanceOf(c.account) <= type(uint128).max);
    }

    function _assertSolvent(Case memory c, Books memory before) private view {
        Books memory b = _read(c);
        unchecked {
            vm.assertEq(b.free - before.free, b.freeEntries - before.freeEntries, "free");
            vm.assertEq(b.locked - before.locked, b.lockEntry - before.lockEntry, "locked");
            vm.assertEq(b.escrow - before.escrow, b.escrowEntry - before.escrowEntry, "escrow");
            vm.assertEq(b.credit - before.credit, b.creditEntries - before.creditEntries, "credit");
            vm.assertEq(_sum(b) - _sum(before), b.balance - before.balance, "in minus out");
        }
        vm.assertLe(_sum(b), b.balance, "insolvent");
    }

    function _read(Case memory c) private view returns (Books memory b) {
        (b.free, b.locked, b.escrow, b.credit, b.burnPending) = vault.totals();
        (b.freeEntries, b.creditEntries) = (vault.freeOf(c.account), vault.creditOf(c.account));
        if (c.other != c.account) {
            b.freeEntries += vault.freeOf(c.other);
            b.creditEntries += vault.creditOf(c.other);
        }
        (b.lockEntry, b.escrowEntry) = (vault.lockOf(c.taskId, c.role, c.account), vault.escrowOf(c.taskId).balance);
        b.balance = token.balanceOf(address(vault));
    }

    function _sum(Books memory b) private pure returns (uint256) {
        return b.free + b.locked + b.escrow + b.credit + b.burnPending;
    }
}
