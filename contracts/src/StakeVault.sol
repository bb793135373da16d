// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IERC20 } from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import { IERC20Permit } from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import { SafeERC20 } from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import { ReentrancyGuardTransient } from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import { Math } from "@openzeppelin/contracts/utils/math/Math.sol";
import { SafeCast } from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import { IStakeVault } from "./interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "./interfaces/ITaskCoordinator.sol";
import { Role } from "./interfaces/Types.sol";

/// @title The only holder of tokens. See IStakeVault for what each function promises.
/// @dev Every amount that is here entered through `deposit`, which keeps `_held` within uint128. Every ledger is a
/// part of `_held`, and an amount moves only after a check against the ledger that it leaves. So no sum below can
/// overflow, no difference underflow, and no cast truncate; that is what the unchecked blocks rest on.
contract StakeVault is IStakeVault, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    /// @dev One slot: a claim and a deposit of the same account touch the same one.
    struct Account {
        uint128 free;
        uint128 credit;
    }

    string public constant version = "chainfl-2";

    /// @dev Nobody has its key. Not address(0), which OpenZeppelin's tokens refuse.
    address internal constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    address public immutable token;
    address public immutable coordinator;
    uint40 public immutable unbonding;

    mapping(address account => Account) private _accounts;
    mapping(uint256 taskId => mapping(Role => mapping(address account => uint128))) private _locks;
    mapping(uint256 taskId => Escrow) private _escrows;

    /// @dev All ledgers together. What is free is what is held and in none of the four below, so that moves between
    /// free balances and another ledger write one total only.
    uint128 private _held;
    uint128 private _locked;
    uint128 private _escrow;
    uint128 private _credit;
    uint128 private _burnPending;

    modifier onlyCoordinator() {
        if (msg.sender != coordinator) revert NotCoordinator(msg.sender);
        _;
    }

    /// @param token_ any ERC-20 whose balances change by transfers alone.
    /// @param coordinator_ the predicted address of the coordinator, which is deployed later.
    /// @param unbonding_ seconds between the end of a task and the release of its stakes.
    constructor(IERC20 token_, address coordinator_, uint40 unbonding_) {
        token = address(token_);
        coordinator = coordinator_;
        unbonding = unbonding_;
    }

    /// @inheritdoc IStakeVault
    function deposit(uint256 amount) external nonReentrant {
        _deposit(amount);
    }

    /// @inheritdoc IStakeVault
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        // Interaction
        // A failed permit is not the end: who copied it from the mempool and sent it first has set the allowance all
        // the same. Without one, the transfer reverts.
        try IERC20Permit(token).permit(msg.sender, address(this), amount, deadline, v, r, s) { } catch { }
        _deposit(amount);
    }

    /// @inheritdoc IStakeVault
    function withdraw(uint256 amount) external nonReentrant {
        // Check
        if (amount == 0) revert ZeroAmount();

        // Effect
        uint128 moved = _takeFree(msg.sender, amount);
        unchecked {
            _held -= moved;
        }
        emit Withdrawn(msg.sender, amount);

        // Interaction
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStakeVault
    function claim() external nonReentrant returns (uint256 amount) {
        // Check
        uint128 credit = _accounts[msg.sender].credit;
        if (credit == 0) revert NothingToClaim(msg.sender);
        amount = credit;

        // Effect
        _accounts[msg.sender].credit = 0;
        unchecked {
            _credit -= credit;
            _held -= credit;
        }
        emit Claimed(msg.sender, amount);

        // Interaction
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStakeVault
    function flushBurn() external nonReentrant {
        // Check
        uint128 amount = _burnPending;
        if (amount == 0) revert ZeroAmount();

        // Effect
        _burnPending = 0;
        unchecked {
            _held -= amount;
        }
        emit BurnFlushed(amount);

        // Interaction
        IERC20(token).safeTransfer(BURN_ADDRESS, amount);
    }

    /// @inheritdoc IStakeVault
    function unlock(uint256 taskId, Role role, address account) external {
        // Check
        uint128 amount = _locks[taskId][role][account];
        // INVARIANT: a bond that is to burn must not come free by waiting.
        if (amount == 0 || role == Role.Challenger) revert NothingLocked(taskId, role, account);
        uint256 unlockable = unlockableAt(taskId);
        if (block.timestamp < unlockable) revert StillBonded(taskId, unlockable);

        // Effect
        _unlock(taskId, role, account, amount);
    }

    /// @inheritdoc IStakeVault
    function lock(uint256 taskId, Role role, address account, uint256 amount) external onlyCoordinator {
        if (amount == 0) return;
        // Effect
        uint128 moved = _takeFree(account, amount);
        unchecked {
            _locks[taskId][role][account] += moved;
            _locked += moved;
        }
        emit Locked(taskId, role, account, amount);
    }

    /// @inheritdoc IStakeVault
    function release(uint256 taskId, Role role, address account, uint256 amount) external onlyCoordinator {
        if (amount == 0) return;
        // Check
        uint128 locked = _locks[taskId][role][account];
        if (amount > locked) revert LockTooLow(taskId, role, account, locked, amount);

        // Effect
        _unlock(taskId, role, account, _narrow(amount));
    }

    /// @inheritdoc IStakeVault
    function slash(uint256 taskId, Role role, address account, uint256 amount, address beneficiary)
        external
        onlyCoordinator
        returns (uint256 taken)
    {
        uint128 locked = _locks[taskId][role][account];
        uint128 lost = _narrow(Math.min(amount, locked));
        if (lost == 0) return 0;

        // Effect
        uint128 credited = beneficiary == address(0) ? 0 : lost / 2;
        unchecked {
            _locks[taskId][role][account] = locked - lost;
            _locked -= lost;
            _burnPending += lost - credited;
            emit Slashed(taskId, role, account, lost, beneficiary, lost - credited);
        }
        if (credited > 0) _addCredit(beneficiary, credited);
        return lost;
    }

    /// @inheritdoc IStakeVault
    function takeFee(address account, uint256 amount) external onlyCoordinator returns (uint256 taken) {
        uint128 fee = _narrow(Math.min(amount, _accounts[account].free));
        if (fee == 0) return 0;

        // Effect
        unchecked {
            _accounts[account].free -= fee;
            _burnPending += fee;
        }
        emit FeeTaken(account, fee);
        return fee;
    }

    /// @inheritdoc IStakeVault
    function fund(uint256 taskId, address requester, uint256 amount) external onlyCoordinator {
        if (amount == 0) return;
        // Effect
        uint128 moved = _takeFree(requester, amount);
        unchecked {
            _escrows[taskId].balance += moved;
            _escrow += moved;
        }
        emit EscrowFunded(taskId, requester, amount);
    }

    /// @inheritdoc IStakeVault
    function pay(uint256 taskId, address account, uint256 amount) external onlyCoordinator {
        if (amount == 0) return;
        // Effect
        (Escrow storage escrow, uint128 moved) = _takeEscrow(taskId, amount);
        unchecked {
            escrow.paid += moved;
        }
        _addCredit(account, moved);
        emit EscrowPaid(taskId, account, amount);
    }

    /// @inheritdoc IStakeVault
    function refund(uint256 taskId, address requester, uint256 amount) external onlyCoordinator {
        if (amount == 0) return;
        // Effect
        (Escrow storage escrow, uint128 moved) = _takeEscrow(taskId, amount);
        unchecked {
            escrow.refunded += moved;
        }
        _addCredit(requester, moved);
        emit EscrowRefunded(taskId, requester, amount);
    }

    /// @inheritdoc IStakeVault
    function burnEscrow(uint256 taskId, uint256 amount) external onlyCoordinator {
        if (amount == 0) return;
        // Effect
        (Escrow storage escrow, uint128 moved) = _takeEscrow(taskId, amount);
        unchecked {
            escrow.burned += moved;
            _burnPending += moved;
        }
        emit EscrowBurned(taskId, amount);
    }

    /// @inheritdoc IStakeVault
    function freeOf(address account) external view returns (uint256) {
        return _accounts[account].free;
    }

    /// @inheritdoc IStakeVault
    function creditOf(address account) external view returns (uint256) {
        return _accounts[account].credit;
    }

    /// @inheritdoc IStakeVault
    function lockOf(uint256 taskId, Role role, address account) external view returns (uint256) {
        return _locks[taskId][role][account];
    }

    /// @inheritdoc IStakeVault
    function escrowOf(uint256 taskId) external view returns (Escrow memory) {
        return _escrows[taskId];
    }

    /// @inheritdoc IStakeVault
    function totals()
        external
        view
        returns (uint256 free, uint256 locked, uint256 escrow, uint256 credit, uint256 burnPending)
    {
        (locked, escrow, credit, burnPending) = (_locked, _escrow, _credit, _burnPending);
        free = _held - locked - escrow - credit - burnPending;
    }

    /// @inheritdoc IStakeVault
    function unlockableAt(uint256 taskId) public view returns (uint256) {
        uint40 releasable = ITaskCoordinator(coordinator).releasableAt(taskId);
        if (releasable == 0) return 0;
        if (releasable == type(uint40).max) return type(uint256).max;
        return uint256(releasable) + unbonding;
    }

    function _deposit(uint256 amount) private {
        // Check
        if (amount == 0) revert ZeroAmount();

        // Effect
        // INVARIANT: checked arithmetic. That `_held` fits is what lets every other sum go unchecked.
        uint128 amount128 = amount.toUint128();
        _held += amount128;
        unchecked {
            _accounts[msg.sender].free += amount128;
        }
        emit Deposited(msg.sender, amount);

        // Interaction
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);

        // Check
        // INVARIANT: the ledgers never exceed the balance, so what did not arrive undoes the whole call.
        uint256 received = Math.saturatingSub(IERC20(token).balanceOf(address(this)), before);
        if (received < amount) revert TransferShort(received, amount);
    }

    /// @dev Lowers a free balance; the caller puts what was taken into another ledger, or lowers `_held`.
    function _takeFree(address account, uint256 amount) private returns (uint128 taken) {
        uint128 free = _accounts[account].free;
        if (amount > free) revert StakeTooLow(account, free, amount);
        taken = _narrow(amount);
        unchecked {
            _accounts[account].free = free - taken;
        }
    }

    /// @dev Lowers an escrow and its total; the caller says where it went.
    function _takeEscrow(uint256 taskId, uint256 amount) private returns (Escrow storage escrow, uint128 taken) {
        escrow = _escrows[taskId];
        uint128 balance = escrow.balance;
        if (amount > balance) revert EscrowTooLow(taskId, balance, amount);
        taken = _narrow(amount);
        unchecked {
            escrow.balance = balance - taken;
            _escrow -= taken;
        }
    }

    function _addCredit(address account, uint128 amount) private {
        unchecked {
            _accounts[account].credit += amount;
            _credit += amount;
        }
    }

    /// @dev lock → free. The caller has checked that `amount` is locked.
    function _unlock(uint256 taskId, Role role, address account, uint128 amount) private {
        unchecked {
            _locks[taskId][role][account] -= amount;
            _locked -= amount;
            _accounts[account].free += amount;
        }
        emit Unlocked(taskId, role, account, amount);
    }

    /// @dev For an amount that was compared with a ledger already, and so is one.
    function _narrow(uint256 amount) private pure returns (uint128) {
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint128(amount);
    }
}
