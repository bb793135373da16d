// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Cid,
    Claim,
    Demand,
    Game,
    Member,
    ModelResult,
    Outcome,
    Phase,
    Role,
    RoundView,
    Target,
    TaskParams,
    TaskView,
    Verdict
} from "./Types.sol";
import { IDisputes } from "./IDisputes.sol";

/// @title The round state machine of every task. Holds no tokens and has no administrator.
/// @notice Phases are derived: a window is half-open [start, end), ends early when everybody eligible has acted
/// (Challenge never does), and every phase has an exit that any address can trigger.
interface ITaskCoordinator is IDisputes {
    event TaskCreated(uint256 indexed taskId, address indexed requester, TaskParams params);
    event TaskCancelled(uint256 indexed taskId, uint256 refund);
    event TaskCompleted(uint256 indexed taskId, uint256 refund);
    event Enrolled(uint256 indexed taskId, Role indexed role, address indexed account, uint256 stake);
    event MemberLeft(uint256 indexed taskId, Role indexed role, address indexed account, uint16 fromRound);
    event MemberRejoined(uint256 indexed taskId, Role indexed role, address indexed account, uint16 fromRound);
    event RoundOpened(
        uint256 indexed taskId,
        uint16 indexed round,
        bytes32 modelRoot,
        uint16 eligibleWorkers,
        uint8 eligibleValidators
    );
    event WorkersDrawn(uint256 indexed taskId, uint16 indexed round, address[] workers);
    event ReputationChanged(uint256 indexed taskId, uint16 indexed round, address indexed worker, uint16 reputation);
    event UpdateCommitted(uint256 indexed taskId, uint16 indexed round, address indexed worker, bytes32 commitment);
    event UpdateRevealed(
        uint256 indexed taskId,
        uint16 indexed round,
        address indexed worker,
        bytes32 root,
        uint64 squaredNorm,
        uint32 numExamples,
        Cid cid
    );
    event ScoresCommitted(uint256 indexed taskId, uint16 indexed round, address indexed validator, bytes32 commitment);
    event ScoresRevealed(uint256 indexed taskId, uint16 indexed round, address indexed validator, bytes votes);
    event UpdateTallied(
        uint256 indexed taskId, uint16 indexed round, address indexed worker, bytes32 root, uint16 weight, uint16 score
    );
    event AggregateOpened(
        uint256 indexed taskId, uint16 indexed round, uint64 totalWeight, uint16 accepted, bytes32 updatesHash
    );
    event OrderDrawn(uint256 indexed taskId, uint16 indexed round, address[3] order, uint8 numSlots);
    event SeedRolled(uint256 indexed taskId, uint16 indexed round, uint40 seedBlock);
    event AggregateCommitted(
        uint256 indexed taskId, uint16 indexed round, address indexed aggregator, bytes32 commitment
    );
    event AggregatePosted(
        uint256 indexed taskId,
        uint16 indexed round,
        address indexed aggregator,
        uint8 attempt,
        Claim claim,
        Cid cid,
        Cid floatCid
    );
    event Paid(uint256 indexed taskId, uint16 indexed round, address indexed account, Role role, uint256 amount);
    event Slashed(
        uint256 indexed taskId, uint16 indexed round, address indexed account, Role role, uint256 amount, bytes32 reason
    );
    event RoundClosed(
        uint256 indexed taskId, uint16 indexed round, Outcome outcome, bytes32 modelRoot, uint256 burned, uint256 carry
    );

    error UnexpectedPhase(uint256 taskId, Phase current, Phase expected);
    error UnexpectedRound(uint256 taskId, uint16 current, uint16 given);
    error InvalidParams(bytes32 what);
    error NotRequester(uint256 taskId, address caller);
    error AlreadyEnrolled(uint256 taskId, address account);
    error RoleFull(uint256 taskId, Role role);
    error NotAdmitted(uint256 taskId, address account);
    error NotEnrolled(uint256 taskId, address account);
    error NotEligible(uint256 taskId, address account, uint16 round);
    error StakeBelowRequired(uint256 given, uint256 required);
    error EnrolmentOver(uint256 taskId, uint40 enrolmentEnd);
    error MinimaNotReached(uint256 taskId);
    error MinimaReached(uint256 taskId);
    error AlreadyCommitted(uint256 taskId, address account);
    error AlreadyRevealed(uint256 taskId, address account);
    error NothingCommitted(uint256 taskId, address account);
    error CommitmentMismatch(bytes32 committed, bytes32 revealed);
    error NormTooLarge(uint64 squaredNorm, uint64 maximum);
    error ZeroRoot();
    error InvalidCid(uint8 codec);
    error VotesLength(uint256 length, uint256 expected);
    error InvalidVote(uint256 index, uint16 weight, uint16 score);
    error NotYourSlot(address holder, address caller);
    error SeedNotReady(uint256 seedBlock);
    error SeedExpired(uint256 seedBlock);
    error OrderAlreadyDrawn(uint256 taskId);
    error NotDrawn(uint256 taskId);
    error AlreadyDrawn(uint256 taskId, uint16 round);
    error NobodyToDraw(uint256 taskId, uint16 round);
    error CommitmentTooYoung(uint256 committedBlock);
    error InvalidClaim(bytes32 what);
    error Excluded(uint256 taskId, address account);
    error NoResult(uint256 taskId);

    /// @notice Publishes a task and escrows its reward out of the caller's free balance in the vault.
    /// @dev Reverts InvalidParams with the name of the field, or what `FixedPoint` refuses the integer format with;
    /// StakeTooLow (vault) when the balance is short.
    /// The genesis model is registered as version 0.
    function createTask(TaskParams calldata params) external returns (uint256 taskId);

    /// @notice Enrols the caller and locks `stake` (at least the required one; an aggregator passes 0 and bonds when posting).
    /// @dev Phase: Enrolment, before its end (EnrolmentOver). The enrolment that reaches every maximum opens round 1. An account is worker or
    /// validator of a task, never both; the requester is never a validator.
    /// Reverts UnexpectedPhase, AlreadyEnrolled, RoleFull, NotAdmitted, StakeBelowRequired, StakeTooLow (vault).
    function enrol(uint256 taskId, Role role, uint96 stake) external;

    /// @notice Opens round 1 once enrolment has ended with every minimum reached. Anybody may call.
    /// @dev Reverts UnexpectedPhase, MinimaNotReached.
    function startTask(uint256 taskId) external;

    /// @notice Ends a task that has not started and refunds its escrow; stakes are free at once.
    /// @dev The requester until enrolment ends; afterwards anybody, unless the minima are reached (MinimaReached:
    /// anybody can start it then).
    function cancelTask(uint256 taskId) external;

    /// @notice The caller takes no part from the next round on. Its stake stays locked until the task is over.
    function leave(uint256 taskId, Role role) external;

    /// @notice The caller takes part again from the next round on.
    /// @dev In the round that it left in, this takes the departure back. Reverts NotEligible while it takes part, with less
    /// than half of the required stake, and in the round in which it missed the second in a row; after a round away its
    /// count of missed rounds begins anew.
    function rejoin(uint256 taskId, Role role) external;

    /// @notice Draws the workers of the round from the hash of the seed block, which is the block that the round opened
    /// in; or rolls the seed block forward when that hash is no longer known to the chain. Anybody may call, once a
    /// round. Whoever waits in the pool when the round opens can be drawn, also if it leaves meanwhile. Where nobody
    /// draws nobody commits.
    /// @dev Phase: Commit. Reverts UnexpectedPhase, NotDrawn (everybody takes part in this task), AlreadyDrawn,
    /// NobodyToDraw (the pool is empty), SeedNotReady in the seed block itself.
    function drawWorkers(uint256 taskId) external;

    /// @notice Commits the caller's update for the round. One a worker and round.
    /// @param commitment keccak256(abi.encode(chainid, coordinator, taskId, round, worker, root, cid.digest, cid.codec,
    /// squaredNorm, numExamples, salt)), with the types of `revealUpdate`.
    /// @dev Phase: Commit. Reverts UnexpectedPhase, UnexpectedRound, NotEligible, AlreadyCommitted. WARNING: who does
    /// not reveal after committing loses stake.
    function commitUpdate(uint256 taskId, uint16 round, bytes32 commitment) external;

    /// @notice Discloses what was committed. The bytes must be retrievable from now on.
    /// @param squaredNorm the sum of squares bound into `root`; over the task's bound it reverts NormTooLarge.
    /// @param numExamples for lineage and display; it weighs nowhere, since nobody can check it.
    /// @dev Phase: Reveal. Reverts UnexpectedPhase, UnexpectedRound, NothingCommitted, AlreadyRevealed,
    /// CommitmentMismatch, NormTooLarge, ZeroRoot, InvalidCid.
    function revealUpdate(
        uint256 taskId,
        uint16 round,
        bytes32 root,
        Cid calldata cid,
        uint64 squaredNorm,
        uint32 numExamples,
        bytes32 salt
    ) external;

    /// @notice Commits the caller's votes.
    /// @param commitment keccak256(abi.encode(chainid, coordinator, taskId, round, validator, keccak256(votes), salt)).
    /// @dev Phase: ScoreCommit.
    function commitScores(uint256 taskId, uint16 round, bytes32 commitment) external;

    /// @notice Discloses the votes: for every enrolled worker, in the order of `workersOf`, four bytes: uint16 weight
    /// (0 to 10,000; 65,535 abstains) and uint16 score; zero for a worker that revealed nothing.
    /// @dev Phase: ScoreReveal. Weight 0 goes with score 0 and only with it; an abstention has score 0.
    function revealScores(uint256 taskId, uint16 round, bytes calldata votes, bytes32 salt) external;

    /// @notice Settles the medians of up to `maxWorkers` further workers (rounded up to a multiple of 8). Anybody may
    /// call; the call that takes the last one opens Aggregate, or closes the round to Settlement.
    /// @dev Phase: Tally.
    function tally(uint256 taskId, uint16 maxWorkers) external;

    /// @notice Draws the order of the exclusive slots from the hash of the seed block, or rolls the seed block forward
    /// when that hash is no longer known to the chain. Anybody may call. `postAggregate` draws by itself.
    /// @dev Phase: Aggregate. Reverts OrderAlreadyDrawn, SeedNotReady in the seed block itself.
    function drawOrder(uint256 taskId) external;

    /// @notice Commits an aggregate for the open window, so that it cannot be copied from the mempool.
    /// @param commitment keccak256(abi.encode(chainid, coordinator, taskId, round, attempt, aggregator,
    /// keccak256(abi.encode(claim)), salt)).
    /// @dev Phase: Aggregate.
    function commitAggregate(uint256 taskId, uint16 round, bytes32 commitment) external;

    /// @notice Posts the next global model and locks the bond. In an exclusive slot only its holder; in the open
    /// window, and in a slot without a holder, anybody whose matching commitment is at least a block old.
    /// The bond doubles with every attempt; who posted a refuted aggregate in this round is excluded from it.
    /// @param claim see `Claim`; groupRoots has one entry for each `groupSize` accepted updates, in the order of the
    /// tally, or none if one group holds them all.
    /// @param salt of `commitAggregate`; ignored in an exclusive slot.
    /// @dev Phase: Aggregate. Reverts InvalidClaim, Excluded, NotYourSlot, SeedNotReady, SeedExpired (call `drawOrder`), CommitmentTooYoung, CommitmentMismatch,
    /// StakeTooLow (vault).
    function postAggregate(
        uint256 taskId,
        uint16 round,
        Claim calldata claim,
        Cid calldata cid,
        Cid calldata floatCid,
        bytes32 salt
    ) external;

    /// @notice Credits and slashes up to `maxWorkers` further workers of a round that is over. Anybody may call. The
    /// call that takes the last one pays validators and aggregator, makes the registry pull the lineage of a final
    /// round, and opens the next round or completes the task.
    /// @dev Phase: Settlement.
    function settle(uint256 taskId, uint16 maxWorkers) external;

    function vault() external view returns (address);
    function registry() external view returns (address);
    function version() external view returns (string memory);
    function numTasks() external view returns (uint256);
    function phaseOf(uint256 taskId) external view returns (Phase phase, uint40 phaseEnd);
    function taskOf(uint256 taskId) external view returns (TaskView memory);
    function roundOf(uint256 taskId) external view returns (RoundView memory);
    function memberOf(uint256 taskId, Role role, address account) external view returns (Member memory);
    function membersOf(uint256 taskId, Role role) external view returns (address[] memory);

    /// @notice What the worker's chance to be drawn goes by in a task that draws by reputation: 5,000 at enrolment, then
    /// floor((3 * reputation + weight) / 4) with every round that it was drawn for, with 0 for the weight of an update
    /// that was not revealed or was refuted; a round whose quorum was missed changes nothing. 0 in any other task.
    function workerReputationOf(uint256 taskId, address worker) external view returns (uint16);

    /// @notice When the account's stake for the task may begin to unbond; 0 at once, type(uint40).max not yet.
    function releasableAt(uint256 taskId) external view returns (uint40);

    /// @notice What the registry needs to open a task's line of models.
    function originOf(uint256 taskId)
        external
        view
        returns (address requester, bytes32 specHash, bytes32 parentModel, string memory licence);

    /// @notice The result that the registry records. Exists only within `createTask` and the last `settle` of a final round.
    /// @dev Reverts NoResult.
    function resultOf(uint256 taskId) external view returns (ModelResult memory);
}
