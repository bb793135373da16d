// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IERC20 } from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import { StakeVault } from "../../src/StakeVault.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Role } from "../../src/interfaces/Types.sol";
import { Test } from "../base/Test.sol";
import { MintableToken } from "../base/Tokens.sol";
import { ReleaseClock } from "../base/VaultFixture.sol";

/// @notice Every move that accounts and the coordinator can make, with arguments folded into what is possible, so
/// that none ever reverts: a revert is a finding.
contract VaultHandler is Test {
    uint256 public constant ACTORS = 4;
    uint256 public constant TASKS = 3;
    uint256 public constant ROLES = 3;
    address public constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    StakeVault public immutable vault;
    MintableToken public immutable token;
    ReleaseClock public immutable clock;

    uint256 public minted;
    uint256 public donated;
    uint256 public burned;
    mapping(uint256 taskId => uint256) public funded;

    constructor(StakeVault vault_, MintableToken token_, ReleaseClock clock_) {
        (vault, token, clock) = (vault_, token_, clock_);
    }

    function actor(uint256 i) public pure returns (address) {
        return address(uint160(0xACC0 + i % ACTORS));
    }

    // --- accounts ------------------------------------------------------------------------------------

    function deposit(uint256 who, uint256 amount) external {
        amount = bound(amount, 1, 1e24);
        minted += amount;
        token.mint(actor(who), amount);
        vm.startPrank(actor(who));
        token.approve(address(vault), amount);
        vault.deposit(amount);
        vm.stopPrank();
    }

    function withdraw(uint256 who, uint256 amount) external {
        uint256 free = vault.freeOf(actor(who));
        if (free == 0) return;
        vm.prank(actor(who));
        vault.withdraw(bound(amount, 1, free));
    }

    function claim(uint256 who) external {
        if (vault.creditOf(actor(who)) == 0) return;
        vm.prank(actor(who));
        vault.claim();
    }

    /// @dev Waits for the end of the unbonding, unless the task is not over.
    function unlock(uint256 seed) external {
        (bool found, address account, uint256 taskId, Role role) = _someLock(seed);
        if (!found) return;
        uint256 unlockable = vault.unlockableAt(taskId);
        if (unlockable == type(uint256).max) return;
        if (block.timestamp < unlockable) vm.warp(unlockable);
        vault.unlock(taskId, role, account);
    }

    function flushBurn() external {
        (,,,, uint256 pending) = vault.totals();
        if (pending == 0) return;
        vault.flushBurn();
    }

    function donate(uint256 amount) external {
        amount = bound(amount, 1, 1e24);
        minted += amount;
        donated += amount;
        token.mint(address(vault), amount);
    }

    // --- the coordinator -----------------------------------------------------------------------------

    function lock(uint256 who, uint256 task, uint256 role, uint256 amount) external {
        amount = bound(amount, 0, vault.freeOf(actor(who)));
        vm.prank(address(clock));
        vault.lock(task % TASKS, Role(role % ROLES), actor(who), amount);
    }

    function release(uint256 seed, uint256 amount) external {
        (bool found, address account, uint256 taskId, Role role) = _someLock(seed);
        if (!found) return;
        amount = bound(amount, 0, vault.lockOf(taskId, role, account));
        vm.prank(address(clock));
        vault.release(taskId, role, account, amount);
    }

    /// @dev Amounts beyond the lock on purpose: a slash never reverts for lack of balance.
    function slash(uint256 seed, uint256 amount, uint256 finder, bool proven) external {
        (, address account, uint256 taskId, Role role) = _someLock(seed);
        address beneficiary = proven ? actor(finder) : address(0);
        vm.prank(address(clock));
        uint256 taken = vault.slash(taskId, role, account, bound(amount, 0, 1e24), beneficiary);
        burned += proven ? taken - taken / 2 : taken;
    }

    function takeFee(uint256 who, uint256 amount) external {
        vm.prank(address(clock));
        burned += vault.takeFee(actor(who), bound(amount, 0, 1e24));
    }

    function fund(uint256 who, uint256 task, uint256 amount) external {
        amount = bound(amount, 0, vault.freeOf(actor(who)));
        vm.prank(address(clock));
        vault.fund(task % TASKS, actor(who), amount);
        funded[task % TASKS] += amount;
    }

    function pay(uint256 who, uint256 task, uint256 amount) external {
        uint256 taskId = task % TASKS;
        amount = bound(amount, 0, vault.escrowOf(taskId).balance);
        vm.prank(address(clock));
        vault.pay(taskId, actor(who), amount);
    }

    function refund(uint256 who, uint256 task, uint256 amount) external {
        uint256 taskId = task % TASKS;
        amount = bound(amount, 0, vault.escrowOf(taskId).balance);
        vm.prank(address(clock));
        vault.refund(taskId, actor(who), amount);
    }

    function burnEscrow(uint256 task, uint256 amount) external {
        uint256 taskId = task % TASKS;
        amount = bound(amount, 0, vault.escrowOf(taskId).balance);
        vm.prank(address(clock));
        vault.burnEscrow(taskId, amount);
        burned += amount;
    }

    // --- time ----------------------------------------------------------------------------------------

    function passTime(uint256 seconds_) external {
        vm.warp(block.timestamp + bound(seconds_, 1, 3 days));
    }

    function endTask(uint256 task) external {
        clock.setReleasableAt(task % TASKS, uint40(block.timestamp));
    }

    function cancelTask(uint256 task) external {
        clock.setReleasableAt(task % TASKS, 0);
    }

    // --- the end -------------------------------------------------------------------------------------

    /// @notice Ends every task, waits, and takes everything out that belongs to anybody.
    function leaveAll() external {
        for (uint256 t; t < TASKS; ++t) {
            clock.setReleasableAt(t, uint40(block.timestamp));
            uint256 rest = vault.escrowOf(t).balance;
            vm.prank(address(clock));
            vault.refund(t, actor(0), rest);
        }
        vm.warp(block.timestamp + vault.unbonding());
        for (uint256 a; a < ACTORS; ++a) {
            _leave(actor(a));
        }
        (,,,, uint256 pending) = vault.totals();
        if (pending > 0) vault.flushBurn();
    }

    /// @dev The first lock from a random place on; without any, the place itself.
    function _someLock(uint256 seed) private view returns (bool found, address account, uint256 taskId, Role role) {
        for (uint256 i; i < ACTORS * TASKS * ROLES && !found; ++i) {
            uint256 at = (seed % (ACTORS * TASKS * ROLES) + i) % (ACTORS * TASKS * ROLES);
            (account, taskId, role) = (actor(at), at / ACTORS % TASKS, Role(at / ACTORS / TASKS));
            found = vault.lockOf(taskId, role, account) > 0;
        }
    }

    function _leave(address account) private {
        for (uint256 i; i < TASKS * ROLES; ++i) {
            (uint256 t, Role r) = (i / ROLES, Role(i % ROLES));
            if (vault.lockOf(t, r, account) > 0) vault.unlock(t, r, account);
        }
        vm.startPrank(account);
        uint256 free = vault.freeOf(account);
        if (free > 0) vault.withdraw(free);
        if (vault.creditOf(account) > 0) vault.claim();
        vm.stopPrank();
    }
}

/// @notice The vault after any sequence of moves. The same list, in words, is in INVARIANTS.md.
contract StakeVaultInvariant is Test {
    VaultHandler internal handler;
    StakeVault internal vault;
    MintableToken internal token;

    function setUp() external {
        vm.warp(1_000_000);
        token = new MintableToken();
        ReleaseClock clock = new ReleaseClock();
        vault = new StakeVault(IERC20(address(token)), address(clock), 2 days);
        handler = new VaultHandler(vault, token, clock);
        target(address(handler), _selectors());
    }

    /// @dev One invariant, since forge repeats the same runs for each. The parts bear the names.
    function invariant_vault__keepsItsBooks() external view {
        _assertBalanceIsLedgersAndDonations();
        _assertAccountsAddUpToTotals();
        _assertFundedIsBalancePaidRefundedBurned();
        _assertBurnWaitsOrIsBurned();
        _assertEveryTokenIsSomewhere();
    }

    /// @dev Every lock can be freed and every balance taken out: after each run all leave, and only donations stay.
    function afterInvariant() external {
        handler.leaveAll();
        vm.assertEq(_ledgers(), 0, "nothing is stuck");
        vm.assertEq(token.balanceOf(address(vault)), handler.donated());
        vm.assertEq(token.balanceOf(handler.BURN_ADDRESS()), handler.burned());
    }

    /// @dev Covered, and covered exactly: what is above the ledgers was sent without a deposit.
    function _assertBalanceIsLedgersAndDonations() private view {
        vm.assertEq(token.balanceOf(address(vault)), _ledgers() + handler.donated());
    }

    function _assertAccountsAddUpToTotals() private view {
        (uint256 free, uint256 locked,, uint256 credit,) = vault.totals();
        (uint256 freeSum, uint256 creditSum, uint256 lockSum) = (0, 0, 0);
        for (uint256 a; a < handler.ACTORS(); ++a) {
            address account = handler.actor(a);
            freeSum += vault.freeOf(account);
            creditSum += vault.creditOf(account);
            lockSum += _locksOf(account);
        }
        vm.assertEq(freeSum, free, "free");
        vm.assertEq(creditSum, credit, "credit");
        vm.assertEq(lockSum, locked, "locked");
    }

    function _assertFundedIsBalancePaidRefundedBurned() private view {
        (,, uint256 escrow,,) = vault.totals();
        uint256 balances;
        for (uint256 t; t < handler.TASKS(); ++t) {
            IStakeVault.Escrow memory e = vault.escrowOf(t);
            balances += e.balance;
            uint256 sum = uint256(e.balance) + e.paid + e.refunded + e.burned;
            vm.assertEq(sum, handler.funded(t), "funded");
        }
        vm.assertEq(balances, escrow, "escrow");
    }

    function _assertBurnWaitsOrIsBurned() private view {
        (,,,, uint256 pending) = vault.totals();
        vm.assertEq(pending + token.balanceOf(handler.BURN_ADDRESS()), handler.burned());
    }

    function _assertEveryTokenIsSomewhere() private view {
        uint256 sum = token.balanceOf(address(vault)) + token.balanceOf(handler.BURN_ADDRESS());
        for (uint256 a; a < handler.ACTORS(); ++a) {
            sum += token.balanceOf(handler.actor(a));
        }
        vm.assertEq(sum, handler.minted());
        vm.assertEq(sum, token.totalSupply());
    }

    function _ledgers() private view returns (uint256) {
        (uint256 free, uint256 locked, uint256 escrow, uint256 credit, uint256 pending) = vault.totals();
        return free + locked + escrow + credit + pending;
    }

    function _locksOf(address account) private view returns (uint256 sum) {
        for (uint256 i; i < handler.TASKS() * handler.ROLES(); ++i) {
            sum += vault.lockOf(i / handler.ROLES(), Role(i % handler.ROLES()), account);
        }
    }

    /// @dev Deposits twice, so that runs have something to move.
    function _selectors() private pure returns (bytes4[] memory list) {
        list = new bytes4[](18);
        list[0] = VaultHandler.deposit.selector;
        list[1] = VaultHandler.withdraw.selector;
        list[2] = VaultHandler.claim.selector;
        list[3] = VaultHandler.unlock.selector;
        list[4] = VaultHandler.flushBurn.selector;
        list[5] = VaultHandler.donate.selector;
        list[6] = VaultHandler.lock.selector;
        list[7] = VaultHandler.release.selector;
        list[8] = VaultHandler.slash.selector;
        list[9] = VaultHandler.takeFee.selector;
        list[10] = VaultHandler.fund.selector;
        list[11] = VaultHandler.pay.selector;
        list[12] = VaultHandler.refund.selector;
        list[13] = VaultHandler.burnEscrow.selector;
        list[14] = VaultHandler.passTime.selector;
        list[15] = VaultHandler.endTask.selector;
        list[16] = VaultHandler.cancelTask.selector;
        list[17] = VaultHandler.deposit.selector;
    }
}
