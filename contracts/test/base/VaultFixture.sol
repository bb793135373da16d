// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IERC20 } from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import { StakeVault } from "../../src/StakeVault.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Role } from "../../src/interfaces/Types.sol";
import { Test } from "./Test.sol";
import { HostileToken } from "./Tokens.sol";

/// @notice All that the vault asks of a coordinator: when stakes may begin to unbond. Tasks are not over until told.
contract ReleaseClock {
    mapping(uint256 taskId => uint40) private _endedAt;
    mapping(uint256 taskId => bool) private _over;

    function setReleasableAt(uint256 taskId, uint40 at) external {
        (_endedAt[taskId], _over[taskId]) = (at, true);
    }

    function releasableAt(uint256 taskId) external view returns (uint40) {
        return _over[taskId] ? _endedAt[taskId] : type(uint40).max;
    }

    /// @dev Lets a hostile token reach the coordinator's side of the vault in the middle of a deposit.
    function fund(address vault, uint256 taskId, address requester, uint256 amount) external {
        IStakeVault(vault).fund(taskId, requester, amount);
    }
}

/// @notice A vault over a token that behaves until told otherwise, and the moves that bring it into a state.
abstract contract VaultFixture is Test {
    uint40 internal constant UNBONDING = 7 days;
    uint256 internal constant TASK = 7;
    address internal constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    address internal alice = vm.addr(0xA11CE);
    address internal bob = vm.addr(0xB0B);
    address internal carol = vm.addr(0xCA401);

    HostileToken internal token;
    ReleaseClock internal coordinator;
    StakeVault internal vault;

    function setUp() public virtual {
        vm.warp(1_000_000);
        token = new HostileToken();
        coordinator = new ReleaseClock();
        vault = new StakeVault(IERC20(address(token)), address(coordinator), UNBONDING);
    }

    /// @dev Mints and approves, without depositing.
    function _endow(address account, uint256 amount) internal {
        token.mint(account, amount);
        vm.prank(account);
        token.approve(address(vault), amount);
    }

    function _deposit(address account, uint256 amount) internal {
        _endow(account, amount);
        vm.prank(account);
        vault.deposit(amount);
    }

    function _lock(uint256 taskId, Role role, address account, uint256 amount) internal {
        _deposit(account, amount);
        vm.prank(address(coordinator));
        vault.lock(taskId, role, account, amount);
    }

    function _fund(uint256 taskId, address requester, uint256 amount) internal {
        _deposit(requester, amount);
        vm.prank(address(coordinator));
        vault.fund(taskId, requester, amount);
    }

    /// @dev Credits an account out of a task of its own.
    function _credit(address account, uint256 amount) internal {
        _fund(1000, carol, amount);
        vm.prank(address(coordinator));
        vault.pay(1000, account, amount);
    }

    function _assertTotals(uint256 free, uint256 locked, uint256 escrow, uint256 credit, uint256 burnPending)
        internal
        view
    {
        (uint256 f, uint256 l, uint256 e, uint256 c, uint256 b) = vault.totals();
        vm.assertEq(f, free, "free");
        vm.assertEq(l, locked, "locked");
        vm.assertEq(e, escrow, "escrow");
        vm.assertEq(c, credit, "credit");
        vm.assertEq(b, burnPending, "burnPending");
        vm.assertEq(token.balanceOf(address(vault)), f + l + e + c + b, "balance");
    }

    function _assertEscrow(uint256 taskId, uint256 balance, uint256 paid, uint256 refunded, uint256 burned)
        internal
        view
    {
        IStakeVault.Escrow memory escrow = vault.escrowOf(taskId);
        vm.assertEq(escrow.balance, balance, "balance");
        vm.assertEq(escrow.paid, paid, "paid");
        vm.assertEq(escrow.refunded, refunded, "refunded");
        vm.assertEq(escrow.burned, burned, "burned");
    }
}
