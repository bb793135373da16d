// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Role } from "./Types.sol";

/// @title The only holder of tokens.
/// @notice Four ledgers, free balances, locks, escrows and credits, and what waits to be burned; their sum never
/// exceeds the token balance. Payments are pulled: the ledger is written before the token moves.
interface IStakeVault {
    /// @notice Where a task's escrow went: funded = balance + paid + refunded + burned, always.
    struct Escrow {
        uint128 balance;
        uint128 paid;
        uint128 refunded;
        uint128 burned;
    }

    event Deposited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, uint256 amount);
    event Claimed(address indexed account, uint256 amount);
    event Locked(uint256 indexed taskId, Role indexed role, address indexed account, uint256 amount);
    event Unlocked(uint256 indexed taskId, Role indexed role, address indexed account, uint256 amount);
    event Slashed(
        uint256 indexed taskId,
        Role indexed role,
        address indexed account,
        uint256 amount,
        address beneficiary,
        uint256 burned
    );
    event FeeTaken(address indexed account, uint256 amount);
    event EscrowFunded(uint256 indexed taskId, address indexed requester, uint256 amount);
    event EscrowPaid(uint256 indexed taskId, address indexed account, uint256 amount);
    event EscrowRefunded(uint256 indexed taskId, address indexed requester, uint256 amount);
    event EscrowBurned(uint256 indexed taskId, uint256 amount);
    event BurnFlushed(uint256 amount);

    error NotCoordinator(address caller);
    error StakeTooLow(address account, uint256 free, uint256 required);
    error EscrowTooLow(uint256 taskId, uint256 balance, uint256 required);
    error NothingToClaim(address account);
    error NothingLocked(uint256 taskId, Role role, address account);
    error LockTooLow(uint256 taskId, Role role, address account, uint256 locked, uint256 required);
    error StillBonded(uint256 taskId, uint256 releasableAt);
    error TransferShort(uint256 received, uint256 expected);
    error ZeroAmount();

    /// @notice Moves tokens from the caller into its free balance. Needs an allowance.
    /// @dev Reverts TransferShort for a token that takes a fee.
    function deposit(uint256 amount) external;

    /// @notice `deposit` with an EIP-2612 signature instead of an allowance. A permit that somebody else already
    /// submitted does no harm.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Moves free balance back to the caller.
    /// @dev Reverts StakeTooLow.
    function withdraw(uint256 amount) external;

    /// @notice Pays out the caller's whole credit.
    /// @dev Reverts NothingToClaim.
    function claim() external returns (uint256 amount);

    /// @notice Frees an account's stake of a task that is over, once unbonded. Anybody may call; the stake goes to the
    /// account's free balance.
    /// @dev Reverts NothingLocked (for a challenger, too: disputes free or burn its bonds), StillBonded. Until this is
    /// called the stake can still be slashed.
    function unlock(uint256 taskId, Role role, address account) external;

    /// @notice Sends what waits to be burned to the burn address. Anybody may call.
    function flushBurn() external;

    // The coordinator alone (NotCoordinator otherwise):

    /// @notice free → lock.
    function lock(uint256 taskId, Role role, address account, uint256 amount) external;
    /// @notice lock → free, at once (an aggregator's bond).
    function release(uint256 taskId, Role role, address account, uint256 amount) external;
    /// @notice Takes up to `amount` of a lock: half burned and half credited to `beneficiary`, all burned for address(0).
    function slash(uint256 taskId, Role role, address account, uint256 amount, address beneficiary)
        external
        returns (uint256 taken);
    /// @notice Takes up to `amount` of a free balance and burns it.
    function takeFee(address account, uint256 amount) external returns (uint256 taken);
    /// @notice free → escrow.
    function fund(uint256 taskId, address requester, uint256 amount) external;
    /// @notice escrow → credit of `account`.
    function pay(uint256 taskId, address account, uint256 amount) external;
    /// @notice escrow → credit of `requester`.
    function refund(uint256 taskId, address requester, uint256 amount) external;
    /// @notice escrow → burned.
    function burnEscrow(uint256 taskId, uint256 amount) external;

    function token() external view returns (address);
    function coordinator() external view returns (address);
    /// @notice Seconds between the end of a task and the release of its stakes.
    function unbonding() external view returns (uint40);
    function version() external view returns (string memory);
    function freeOf(address account) external view returns (uint256);
    function creditOf(address account) external view returns (uint256);
    function lockOf(uint256 taskId, Role role, address account) external view returns (uint256);
    function escrowOf(uint256 taskId) external view returns (Escrow memory);
    /// @notice Sums over all accounts and tasks, for solvency: the token balance covers them all.
    function totals()
        external
        view
        returns (uint256 free, uint256 locked, uint256 escrow, uint256 credit, uint256 burnPending);
    /// @notice When `unlock` will work for a task; type(uint256).max while it is not over.
    function unlockableAt(uint256 taskId) external view returns (uint256);
}
