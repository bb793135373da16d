// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Demand, Game, Role, Target, Verdict } from "./Types.sol";

/// @title How a wrong aggregate, a wrong update, and bytes that nobody serves are disputed.
/// @notice Anybody can be a challenger. Whoever proves a fault gets half of what it costs its author; the other half is
/// burned, so that accusing oneself never pays. Every clock has a winner, and every record can be closed by anybody.
///
/// **Openings** are packed, big-endian, without lengths, since the task fixes them all. With c values a chunk, b bytes
/// a value and depth d:
/// - of a model, a state (b = 4) or a group sum (b = 8): chunk (c * b) ‖ d siblings (32 each, the leaf's first);
/// - of an update (b = 2): form (1) ‖ chunk (2c) ‖ sum of the leaf (8) ‖ d times: sibling (32) ‖ its sum (8). Form 0: all
///   sums add up. Form 1: after each sibling's sum follows the sum that the tree states for their parent (8), so that
///   an update with wrong sums can be opened, too.
interface IDisputes {
    event ChallengeCommitted(
        uint256 indexed taskId, uint16 indexed round, address indexed challenger, uint8 attempt, bytes32 commitment
    );
    event ChallengeClosed(
        uint256 indexed taskId, address indexed challenger, bytes32 commitment, uint256 bond, bool isBurned
    );
    event AggregateRefuted(
        uint256 indexed taskId,
        uint16 indexed round,
        address indexed aggregator,
        uint8 attempt,
        address challenger,
        bytes32 reason
    );
    event AttemptOpened(uint256 indexed taskId, uint16 indexed round, uint8 attempt, uint256 bond);
    event GameOpened(
        uint256 indexed taskId,
        uint32 indexed gameId,
        address indexed challenger,
        uint16 round,
        uint8 attempt,
        Target target,
        uint16 group,
        bytes32 ownRoot
    );
    event NodesAnswered(uint256 indexed taskId, uint32 indexed gameId, address indexed answerer, bytes nodes);
    event NodePointed(uint256 indexed taskId, uint32 indexed gameId, uint8 height, uint64 index);
    event ChunkAnswered(uint256 indexed taskId, uint32 indexed gameId, address indexed answerer, bytes chunk);
    event GameClosed(uint256 indexed taskId, uint32 indexed gameId, address indexed challenger, bool isLost);
    event UpdateRefuted(
        uint256 indexed taskId, uint16 indexed round, address indexed worker, address challenger, bytes32 reason
    );
    event ChunkDemanded(
        uint256 indexed taskId,
        uint16 indexed round,
        address indexed worker,
        uint16 workerIndex,
        uint64 chunkIndex,
        address challenger,
        uint40 deadline,
        bool isLate
    );
    event DemandAnswered(
        uint256 indexed taskId,
        uint16 indexed round,
        address indexed worker,
        uint64 chunkIndex,
        address answerer,
        bytes opening
    );
    event DemandClosed(
        uint256 indexed taskId, uint16 indexed round, address indexed worker, uint64 chunkIndex, bool isUnanswered
    );

    error UnexpectedAttempt(uint256 taskId, uint8 current, uint8 given);
    error AlreadyChallenged(uint256 taskId, bytes32 commitment);
    error NoChallenge(uint256 taskId, address challenger, bytes32 commitment);
    error StillOpen(uint256 taskId, uint256 until);
    error ProofLength(uint256 length, uint256 expected);
    error UnknownProof(uint8 kind);
    error CoordinateOutOfRange(uint256 coordinate, uint256 numParams);
    error NotPosted(bytes32 opened, bytes32 posted);
    error NotAccepted(bytes32 opened, bytes32 accepted);
    error NotRevealed(address worker, bytes32 opened, bytes32 revealed);
    error NothingWrong();
    error AlreadyRefuted(uint256 taskId, address worker);
    error InvalidTarget(uint8 target, uint16 group);
    error SameRoot(bytes32 root);
    error TooManyGames(uint256 taskId, uint32 open);
    error NoGame(uint256 taskId, uint32 gameId);
    error NotYourMove(uint32 gameId);
    error TooLate(uint256 deadline);
    error PaddingNotConstant(uint256 node);
    error NodeMismatch(bytes32 found, bytes32 expected);
    error NotDemandable(uint256 taskId, uint16 workerIndex);
    error AlreadyDemanded(uint256 taskId, uint16 workerIndex, uint64 chunkIndex);
    error TooManyDemands(uint256 taskId, uint16 workerIndex);
    error NoDemand(uint256 taskId, uint16 workerIndex, uint64 chunkIndex);

    // --- a wrong aggregate ------------------------------------------------------------------------

    /// @notice Announces a proof against the posted aggregate, so that it cannot be stolen from the mempool, and locks
    /// the challenger's bond. Commitments do not exclude one another.
    /// @param commitment keccak256(abi.encode(chainid, coordinator, taskId, round, attempt, challenger,
    /// keccak256(proof), salt)).
    /// @dev Phase: Challenge. WARNING: a commitment that is not proven on an attempt that stands burns its bond.
    /// Reverts UnexpectedPhase, UnexpectedRound, UnexpectedAttempt, AlreadyChallenged, StakeTooLow (vault).
    function commitChallenge(uint256 taskId, uint16 round, uint8 attempt, bytes32 commitment) external;

    /// @notice Proves that the posted aggregate is wrong: its poster loses the bond, and the next attempt opens. The
    /// first proof included takes the reward; all other challenges of the attempt get their bonds back.
    /// @param proof one of three, by its first byte (positions as in the packed openings above):
    /// 0, padding: target (1) ‖ group (2) ‖ chunk index (8) ‖ [all group roots, for a group] ‖ opening of the target;
    /// 1, coordinate of the model or the state: target (1) ‖ coordinate (8) ‖ low (2) ‖ high (2) ‖ [all group roots, if
    ///    there are groups] ‖ openings of [previous model, for the model,] [previous state, if the server keeps one,] what
    ///    is claimed, and then of every accepted update in the order of the tally, each after its weight (2), or of
    ///    every group sum;
    /// 2, coordinate of a group's sum: coordinate (8) ‖ group (2) ‖ all group roots ‖ opening of the claimed sum ‖ the
    ///    group's updates as in 1.
    /// low and high are positions in that order of updates: the median's (low alone), or of the smallest and the
    /// largest value that the trimmed mean keeps; the mean ignores them.
    /// A coordinate is a parameter's number, also of the state. An adaptive server's state has two values a parameter, in
    /// one chunk: it is opened at the chunk that holds value 2 * coordinate, with a path of its own depth, and either of
    /// the two may be what is wrong. The chunk index of a padding proof counts the target's own chunks.
    /// @dev Phase: Challenge or Dispute, at least a block after the commitment, and before the proof window ends.
    /// Reverts NoChallenge, CommitmentTooYoung, ProofLength, UnknownProof, CoordinateOutOfRange, IndexOutOfRange,
    /// NotPosted, NotAccepted, InvalidRank, NothingWrong.
    function proveAggregate(uint256 taskId, uint16 round, uint8 attempt, bytes calldata proof, bytes32 salt) external;

    /// @notice Returns the bond of a challenge whose attempt fell, or burns that of one whose attempt stood. Anybody.
    /// @dev Reverts NoChallenge, StillOpen.
    function closeChallenge(uint256 taskId, address challenger, bytes32 commitment) external;

    // --- an aggregate whose bytes are withheld ----------------------------------------------------

    /// @notice Disputes the root of the model, the state or a group sum without having its bytes, and locks a bond: the
    /// task's challengerBond << (games of the attempt that are open / 16). So sixteen games cost an honest challenger what
    /// one does, and more of them at once than anybody can answer in time cost exponentially much.
    /// @param group which group sum; 0 for the others. @param groupRoots all of them, as posted; empty for the others.
    /// @param ownRoot what it should be: the honest root is a function of public data.
    /// @dev Phase: Challenge. The poster, or anybody for it, moves first. Reverts UnexpectedPhase, UnexpectedRound,
    /// UnexpectedAttempt, InvalidTarget, SameRoot, NotPosted, TooManyGames (272 are open), StakeTooLow (vault).
    function openGame(
        uint256 taskId,
        uint16 round,
        uint8 attempt,
        Target target,
        uint16 group,
        bytes32[] calldata groupRoots,
        bytes32 ownRoot
    ) external returns (uint32 gameId);

    /// @notice Answers with all nodes eight levels below the one in question (fewer where the tree ends). Anybody.
    /// @param nodes 32 bytes each, from left to right. Nodes of mere padding must be their level's constant.
    /// @dev Reverts NoGame, NotYourMove, TooLate, ProofLength, PaddingNotConstant, NodeMismatch.
    function answerNodes(uint256 taskId, uint32 gameId, bytes calldata nodes) external;

    /// @notice The challenger points at one of the nodes that were answered: that one is in question next.
    /// @param child its position among them. @param node itself. @param siblings its path to the node above.
    /// @dev Reverts NoGame, NotYourMove, TooLate, ProofLength, IndexOutOfRange, NodeMismatch.
    function pointAt(uint256 taskId, uint32 gameId, uint8 child, bytes32 node, bytes32[] calldata siblings) external;

    /// @notice Answers with the chunk of the leaf in question. Anybody. The challenger has the proof window from here.
    /// @dev Reverts NoGame, NotYourMove, TooLate, ProofLength, NodeMismatch.
    function answerChunk(uint256 taskId, uint32 gameId, bytes calldata chunk) external;

    /// @notice `proveAggregate` by the challenger of an open game, whose bond stands for the challenge's. The proof is
    /// announced by `commitProof`.
    /// @dev Reverts NoGame, NotYourMove (not its challenger), TooLate, and what `proveAggregate` reverts with.
    function proveInGame(uint256 taskId, uint32 gameId, bytes calldata proof, bytes32 salt) external;

    /// @notice Ends a game whose clock ran out, or whose attempt fell. Anybody. Silence of the poster refutes the
    /// aggregate; silence of the challenger costs its bond, half of it to whoever answered last.
    /// @dev Reverts NoGame, StillOpen.
    function closeGame(uint256 taskId, uint32 gameId) external;

    // --- a wrong update ---------------------------------------------------------------------------

    /// @notice Announces a proof against an update, or one in a game, so that it cannot be stolen from the mempool. It
    /// holds nothing up, so it needs no bond.
    /// @param commitment keccak256(abi.encode(chainid, coordinator, taskId, round, challenger, keccak256(proof), salt)).
    function commitProof(uint256 taskId, bytes32 commitment) external;

    /// @notice Proves that a revealed update has a value or padding out of range, or a sum that does not add up. Its
    /// worker is slashed; before the tally its weight becomes 0.
    /// @param proof worker index (2) ‖ chunk index (8) ‖ opening of the update in form 1.
    /// @dev Phase: Reveal to Dispute, but not between the batches of a tally. At least a block after the commitment.
    /// Reverts UnexpectedPhase, UnexpectedRound, NoChallenge, CommitmentTooYoung, ProofLength, IndexOutOfRange,
    /// NotRevealed, NothingWrong, AlreadyRefuted.
    function proveUpdate(uint256 taskId, uint16 round, bytes calldata proof, bytes32 salt) external;

    // --- an update that is withheld ---------------------------------------------------------------

    /// @notice Asks for a chunk of a revealed update. The fee is locked, and doubles with every further demand for
    /// the same update. Half of it is for whoever answers, half burns.
    /// @dev Early, in Reveal and ScoreCommit: unanswered, the worker is slashed and the update's weight becomes 0. Late,
    /// in Aggregate and Challenge, for updates of non-zero weight: unanswered, those who vouched for it are slashed and
    /// the round is void. Reverts UnexpectedPhase, UnexpectedRound, NotDemandable, AlreadyDemanded, TooManyDemands,
    /// IndexOutOfRange, StakeTooLow (vault).
    function demandChunk(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex) external;

    /// @notice Answers a demand. Anybody; half of the fee is the caller's, half burns.
    /// @dev Reverts NoDemand, TooLate, ProofLength, NotRevealed.
    function answerDemand(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex, bytes calldata opening)
        external;

    /// @notice Draws the consequences of a demand whose clock ran out. Anybody. The fee goes back.
    /// @dev Reverts NoDemand, StillOpen.
    function closeDemand(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex) external;

    function verdictOf(uint256 taskId, uint16 round, uint8 attempt) external view returns (Verdict);
    function challengeOf(uint256 taskId, address challenger, bytes32 commitment)
        external
        view
        returns (uint16 round, uint8 attempt, uint96 bond, uint40 blockNumber);
    function gameOf(uint256 taskId, uint32 gameId) external view returns (Game memory);
    function demandOf(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex)
        external
        view
        returns (Demand memory);

    /// @notice Whether the update of the worker at that index was refuted, or not delivered, in that round.
    function isRefuted(uint256 taskId, uint16 round, uint16 workerIndex) external view returns (bool);

    /// @notice Whether the account's aggregate was refuted in that round.
    function isExcluded(uint256 taskId, uint16 round, address account) external view returns (bool);

    /// @notice What the proofs chain the accepted updates of a group to: h = keccak256(h ‖ root ‖ uint16 weight).
    function acceptedHash(uint256 taskId, uint16 group) external view returns (bytes32);
}
