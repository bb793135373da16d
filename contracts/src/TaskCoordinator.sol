// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "./interfaces/IDisputes.sol";
import { IModelRegistry } from "./interfaces/IModelRegistry.sol";
import { IStakeVault } from "./interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "./interfaces/ITaskCoordinator.sol";
import {
    Cid,
    Claim,
    Demand,
    Game,
    Member,
    ModelResult,
    Phase,
    Role,
    RoundView,
    Target,
    TaskParams,
    TaskView,
    Verdict
} from "./interfaces/Types.sol";
import { Aggregates } from "./libraries/Aggregates.sol";
import { Demands } from "./libraries/Demands.sol";
import { Disputes } from "./libraries/Disputes.sol";
import { Draws } from "./libraries/Draws.sol";
import { Lifecycle } from "./libraries/Lifecycle.sol";
import { Members } from "./libraries/Members.sol";
import { Clock, Docket, Phases, Progress } from "./libraries/Phases.sol";
import { Rounds } from "./libraries/Rounds.sol";
import { Settlement } from "./libraries/Settlement.sol";
import { Tally } from "./libraries/Tally.sol";
import { Challenge, Posting, Task } from "./libraries/TaskStorage.sol";

/// @title The round state machine of every task; see ITaskCoordinator for the promises.
/// @dev What workers and validators call every round is here; what is called once a round, or once a task, is in eight
/// linked libraries (a contract's code is limited to 24,576 bytes). A task keeps one round at a time and overwrites it
/// with the next: what has passed is in the events and in the registry. Every call ends in the vault or the registry,
/// which are wired for good; neither calls a stranger.
contract TaskCoordinator is ITaskCoordinator {
    using Phases for Clock;

    uint16 private constant MAX_WEIGHT = 10_000;
    uint16 private constant ABSTAIN = type(uint16).max;

    IStakeVault private immutable _VAULT;
    IModelRegistry private immutable _REGISTRY;

    uint256 public override numTasks;

    mapping(uint256 taskId => Task) private _tasks;

    constructor(address vault_, address registry_) {
        _VAULT = IStakeVault(vault_);
        _REGISTRY = IModelRegistry(registry_);
    }

    // ---------------------------------------------------------------------------------------------
    // A task before its first round, and who joins and leaves it
    // ---------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskCoordinator
    function createTask(TaskParams calldata params) external returns (uint256 taskId) {
        taskId = ++numTasks;
        Lifecycle.createTask(_tasks[taskId], taskId, params, _VAULT, _REGISTRY);
    }

    /// @inheritdoc ITaskCoordinator
    function enrol(uint256 taskId, Role role, uint96 stake) external {
        Lifecycle.enrol(_tasks[taskId], taskId, role, stake, _VAULT);
    }

    /// @inheritdoc ITaskCoordinator
    function startTask(uint256 taskId) external {
        Lifecycle.startTask(_tasks[taskId], taskId);
    }

    /// @inheritdoc ITaskCoordinator
    function cancelTask(uint256 taskId) external {
        Lifecycle.cancelTask(_tasks[taskId], taskId, _VAULT);
    }

    /// @inheritdoc ITaskCoordinator
    function leave(uint256 taskId, Role role) external {
        Lifecycle.leave(_tasks[taskId], taskId, role);
    }

    /// @inheritdoc ITaskCoordinator
    function rejoin(uint256 taskId, Role role) external {
        Lifecycle.rejoin(_tasks[taskId], taskId, role);
    }

    // ---------------------------------------------------------------------------------------------
    // Updates and scores
    // ---------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskCoordinator
    function drawWorkers(uint256 taskId) external {
        Draws.drawWorkers(_tasks[taskId], taskId);
    }

    /// @inheritdoc ITaskCoordinator
    function commitUpdate(uint256 taskId, uint16 round, bytes32 commitment) external {
        // Check
        Task storage t = _tasks[taskId];
        Clock storage c = t.clock;
        if (!c.inCommit()) Rounds.unexpected(t, taskId, Phase.Commit);
        Rounds.checkRound(taskId, c.round, round);
        Member storage m = t.members[Role.Worker][msg.sender];
        _checkActive(taskId, m, round);

        // Effect
        (m.lastRound, m.revealed, m.commitment) = (round, false, commitment);
        if (++c.committed == c.eligibleWorkers) c.endCommit();
        emit UpdateCommitted(taskId, round, msg.sender, commitment);
    }

    /// @inheritdoc ITaskCoordinator
    function revealUpdate(
        uint256 taskId,
        uint16 round,
        bytes32 root,
        Cid calldata cid,
        uint64 squaredNorm,
        uint32 numExamples,
        bytes32 salt
    ) external {
        // Check
        bytes32 opened = _openedUpdate(taskId, round, root, cid, squaredNorm, numExamples, salt);
        Task storage t = _tasks[taskId];
        Clock storage c = t.clock;
        if (!c.inReveal()) Rounds.unexpected(t, taskId, Phase.Reveal);
        Rounds.checkRound(taskId, c.round, round);
        Member storage m = t.members[Role.Worker][msg.sender];
        _checkOpening(taskId, m, round, opened);
        uint64 maximum = t.fixed_.format.maxSquaredNorm;
        if (squaredNorm > maximum) revert NormTooLarge(squaredNorm, maximum);
        if (root == 0) revert ZeroRoot();
        Rounds.checkCid(cid);

        // Effect
        (m.squaredNorm, m.revealed, m.weight, m.score, m.commitment) = (squaredNorm, true, 0, 0, root);
        if (++c.revealed == c.committed) c.endReveal();
        emit UpdateRevealed(taskId, round, msg.sender, root, squaredNorm, numExamples, cid);
    }

    /// @inheritdoc ITaskCoordinator
    function commitScores(uint256 taskId, uint16 round, bytes32 commitment) external {
        // Check
        Task storage t = _tasks[taskId];
        Clock storage c = t.clock;
        if (!c.inScoreCommit()) Rounds.unexpected(t, taskId, Phase.ScoreCommit);
        Rounds.checkRound(taskId, c.round, round);
        Member storage m = t.members[Role.Validator][msg.sender];
        _checkActive(taskId, m, round);

        // Effect
        (m.lastRound, m.revealed, m.commitment) = (round, false, commitment);
        if (++c.scoresCommitted == c.eligibleValidators) c.endScoreCommit();
        emit ScoresCommitted(taskId, round, msg.sender, commitment);
    }

    /// @inheritdoc ITaskCoordinator
    function revealScores(uint256 taskId, uint16 round, bytes calldata votes, bytes32 salt) external {
        // Check
        Task storage t = _tasks[taskId];
        Clock storage c = t.clock;
        if (!c.inScoreReveal()) Rounds.unexpected(t, taskId, Phase.ScoreReveal);
        Rounds.checkRound(taskId, c.round, round);
        Member storage m = t.members[Role.Validator][msg.sender];
        bytes32 votesHash = keccak256(votes);
        _checkOpening(
            taskId,
            m,
            round,
            keccak256(abi.encode(block.chainid, address(this), taskId, round, msg.sender, votesHash, salt))
        );
        _checkVotes(votes, t.lists[Role.Worker].length);

        // Effect
        for (uint256 i; i < votes.length; i += 32) {
            t.votes[msg.sender][i / 32] = _word(votes, i);
        }
        (m.revealed, m.commitment) = (true, votesHash);
        if (++c.scoresRevealed == c.scoresCommitted) c.endScoreReveal();
        emit ScoresRevealed(taskId, round, msg.sender, votes);
    }

    // ---------------------------------------------------------------------------------------------
    // Tally, aggregate, settlement
    // ---------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskCoordinator
    function tally(uint256 taskId, uint16 maxWorkers) external {
        Tally.tally(_tasks[taskId], taskId, maxWorkers);
    }

    /// @inheritdoc ITaskCoordinator
    function drawOrder(uint256 taskId) external {
        Aggregates.drawOrder(_tasks[taskId], taskId, _VAULT);
    }

    /// @inheritdoc ITaskCoordinator
    function commitAggregate(uint256 taskId, uint16 round, bytes32 commitment) external {
        Aggregates.commitAggregate(_tasks[taskId], taskId, round, commitment);
    }

    /// @inheritdoc ITaskCoordinator
    function postAggregate(
        uint256 taskId,
        uint16 round,
        Claim calldata claim,
        Cid calldata cid,
        Cid calldata floatCid,
        bytes32 salt
    ) external {
        Aggregates.postAggregate(_tasks[taskId], taskId, round, claim, cid, floatCid, salt, _VAULT);
    }

    /// @inheritdoc ITaskCoordinator
    function settle(uint256 taskId, uint16 maxWorkers) external {
        Settlement.settle(_tasks[taskId], taskId, maxWorkers, _VAULT, _REGISTRY);
    }

    // ---------------------------------------------------------------------------------------------
    // Disputes
    // ---------------------------------------------------------------------------------------------

    /// @inheritdoc IDisputes
    function commitChallenge(uint256 taskId, uint16 round, uint8 attempt, bytes32 commitment) external {
        Disputes.commitChallenge(_tasks[taskId], taskId, round, attempt, commitment, _VAULT);
    }

    /// @inheritdoc IDisputes
    function proveAggregate(uint256 taskId, uint16 round, uint8 attempt, bytes calldata proof, bytes32 salt) external {
        Disputes.proveAggregate(_tasks[taskId], taskId, round, attempt, proof, salt, _VAULT);
    }

    /// @inheritdoc IDisputes
    function closeChallenge(uint256 taskId, address challenger, bytes32 commitment) external {
        Disputes.closeChallenge(_tasks[taskId], taskId, challenger, commitment, _VAULT);
    }

    /// @inheritdoc IDisputes
    function openGame(
        uint256 taskId,
        uint16 round,
        uint8 attempt,
        Target target,
        uint16 group,
        bytes32[] calldata groupRoots,
        bytes32 ownRoot
    ) external returns (uint32 gameId) {
        Task storage t = _tasks[taskId];
        return Disputes.openGame(t, taskId, round, attempt, target, group, groupRoots, ownRoot, _VAULT);
    }

    /// @inheritdoc IDisputes
    function answerNodes(uint256 taskId, uint32 gameId, bytes calldata nodes) external {
        Disputes.answerNodes(_tasks[taskId], taskId, gameId, nodes);
    }

    /// @inheritdoc IDisputes
    function pointAt(uint256 taskId, uint32 gameId, uint8 child, bytes32 node, bytes32[] calldata siblings) external {
        Disputes.pointAt(_tasks[taskId], taskId, gameId, child, node, siblings);
    }

    /// @inheritdoc IDisputes
    function answerChunk(uint256 taskId, uint32 gameId, bytes calldata chunk) external {
        Disputes.answerChunk(_tasks[taskId], taskId, gameId, chunk);
    }

    /// @inheritdoc IDisputes
    function proveInGame(uint256 taskId, uint32 gameId, bytes calldata proof, bytes32 salt) external {
        Disputes.proveInGame(_tasks[taskId], taskId, gameId, proof, salt, _VAULT);
    }

    /// @inheritdoc IDisputes
    function closeGame(uint256 taskId, uint32 gameId) external {
        Disputes.closeGame(_tasks[taskId], taskId, gameId, _VAULT);
    }

    /// @inheritdoc IDisputes
    function commitProof(uint256 taskId, bytes32 commitment) external {
        Demands.commitProof(_tasks[taskId], commitment);
    }

    /// @inheritdoc IDisputes
    function proveUpdate(uint256 taskId, uint16 round, bytes calldata proof, bytes32 salt) external {
        Demands.proveUpdate(_tasks[taskId], taskId, round, proof, salt, _VAULT);
    }

    /// @inheritdoc IDisputes
    function demandChunk(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex) external {
        Demands.demandChunk(_tasks[taskId], taskId, round, workerIndex, chunkIndex, _VAULT);
    }

    /// @inheritdoc IDisputes
    function answerDemand(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex, bytes calldata opening)
        external
    {
        Demands.answerDemand(_tasks[taskId], taskId, round, workerIndex, chunkIndex, opening, _VAULT);
    }

    /// @inheritdoc IDisputes
    function closeDemand(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex) external {
        Demands.closeDemand(_tasks[taskId], taskId, round, workerIndex, chunkIndex, _VAULT);
    }

    // ---------------------------------------------------------------------------------------------
    // Checks
    // ---------------------------------------------------------------------------------------------

    function _checkActive(uint256 taskId, Member storage m, uint16 round) private view {
        if (!Members.isActive(m, round)) revert NotEligible(taskId, msg.sender, round);
        if (m.lastRound == round) revert AlreadyCommitted(taskId, msg.sender);
    }

    function _checkOpening(uint256 taskId, Member storage m, uint16 round, bytes32 opened) private view {
        if (m.lastRound != round) revert NothingCommitted(taskId, msg.sender);
        if (m.revealed) revert AlreadyRevealed(taskId, msg.sender);
        if (m.commitment != opened) revert CommitmentMismatch(m.commitment, opened);
    }

    /// @dev The commitment that a reveal opens. In two halves, one word a value: the stack does not hold all at once.
    function _openedUpdate(
        uint256 taskId,
        uint16 round,
        bytes32 root,
        Cid calldata cid,
        uint64 squaredNorm,
        uint32 numExamples,
        bytes32 salt
    ) private view returns (bytes32) {
        bytes memory head = abi.encode(block.chainid, address(this), taskId, round, msg.sender);
        return keccak256(bytes.concat(head, abi.encode(root, cid, squaredNorm, numExamples, salt)));
    }

    function _checkVotes(bytes calldata votes, uint256 numWorkers) private pure {
        if (votes.length != 4 * numWorkers) revert VotesLength(votes.length, 4 * numWorkers);
        for (uint256 i; i < numWorkers; ++i) {
            uint256 vote = uint256(_word(votes, 32 * (i / 8))) >> (224 - 32 * (i % 8)) & 0xffffffff;
            (uint16 weight, uint16 score) = (uint16(vote >> 16), uint16(vote));
            bool abstains = weight == ABSTAIN;
            if ((!abstains && weight > MAX_WEIGHT) || (weight == 0 || abstains) != (score == 0)) {
                revert InvalidVote(i, weight, score);
            }
        }
    }

    /// @dev 32 bytes of calldata from `offset`, padded with zeros past the end.
    function _word(bytes calldata data, uint256 offset) private pure returns (bytes32) {
        uint256 end = data.length < offset + 32 ? data.length : offset + 32;
        return bytes32(data[offset:end]);
    }

    // ---------------------------------------------------------------------------------------------
    // Views
    // ---------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskCoordinator
    function vault() external view returns (address) {
        return address(_VAULT);
    }

    /// @inheritdoc ITaskCoordinator
    function registry() external view returns (address) {
        return address(_REGISTRY);
    }

    /// @inheritdoc ITaskCoordinator
    function version() external pure returns (string memory) {
        return "chainfl-2";
    }

    /// @inheritdoc ITaskCoordinator
    function phaseOf(uint256 taskId) external view returns (Phase phase, uint40 phaseEnd) {
        return Rounds.phase(_tasks[taskId]);
    }

    /// @inheritdoc ITaskCoordinator
    function taskOf(uint256 taskId) external view returns (TaskView memory) {
        return _tasks[taskId].fixed_;
    }

    /// @inheritdoc ITaskCoordinator
    function memberOf(uint256 taskId, Role role, address account) external view returns (Member memory) {
        return _tasks[taskId].members[role][account];
    }

    /// @inheritdoc ITaskCoordinator
    function membersOf(uint256 taskId, Role role) external view returns (address[] memory) {
        return _tasks[taskId].lists[role];
    }

    /// @inheritdoc ITaskCoordinator
    function workerReputationOf(uint256 taskId, address worker) external view returns (uint16) {
        return _tasks[taskId].reputations[worker];
    }

    /// @inheritdoc ITaskCoordinator
    function roundOf(uint256 taskId) external view returns (RoundView memory r) {
        Task storage t = _tasks[taskId];
        (r.phase, r.phaseEnd) = Rounds.phase(t);
        _viewClock(r, t.clock);
        _viewProgress(r, t.progress);
        r.numWorkers = uint16(t.lists[Role.Worker].length);
        r.numValidators = uint16(t.lists[Role.Validator].length);
        r.numAggregators = uint16(t.lists[Role.Aggregator].length);
        (r.modelRoot, r.stateRoot) = (t.modelRoot, t.stateRoot);
        _viewDocket(r, t.docket);
        if (r.tallied > 0) r.totalWeight = t.sums.weight;
        (r.carry, r.endedAt) = (t.carry, t.endedAt);
        if (r.orderDrawn) r.order = t.order.holders;
        if (r.postedAt > 0) _viewPosting(r, t.posting);
        if (r.phase == Phase.Settlement) r.outcome = t.clock.outcome(t.progress);
    }

    function _viewClock(RoundView memory r, Clock memory c) private pure {
        (r.round, r.attempt) = (c.round, c.attempt);
        (r.eligibleWorkers, r.committed, r.revealed) = (c.eligibleWorkers, c.committed, c.revealed);
        (r.eligibleValidators, r.scoresCommitted, r.scoresRevealed) =
        (c.eligibleValidators, c.scoresCommitted, c.scoresRevealed);
    }

    function _viewProgress(RoundView memory r, Progress memory p) private pure {
        (r.tallied, r.settled, r.accepted) = (p.tallied, p.settled, p.accepted);
        (r.openedBlock, r.aggregateStart, r.postedAt, r.seedBlock) =
        (p.openedBlock, p.aggregateStart, p.postedAt, p.seedBlock);
        (r.numSlots, r.orderDrawn, r.outcome, r.pool) = (p.numSlots, p.orderDrawn, p.outcome, p.pool);
    }

    function _viewDocket(RoundView memory r, Docket memory d) private pure {
        (r.challenges, r.games, r.demands, r.numGames) = (d.challenges, d.games, d.demands, d.numGames);
    }

    function _viewPosting(RoundView memory r, Posting memory a) private pure {
        (r.aggregator, r.aggregateRoot, r.aggregateStateRoot) = (a.aggregator, a.root, a.stateRoot);
        r.aggregateCid = Cid(a.digest, a.codec);
        r.aggregateFloatCid = Cid(a.floatDigest, a.floatCodec);
    }

    /// @inheritdoc IDisputes
    function verdictOf(uint256 taskId, uint16 round, uint8 attempt) external view returns (Verdict) {
        return _tasks[taskId].verdicts[Rounds.keyOf(round, attempt)];
    }

    /// @inheritdoc IDisputes
    function challengeOf(uint256 taskId, address challenger, bytes32 commitment)
        external
        view
        returns (uint16 round, uint8 attempt, uint96 bond, uint40 blockNumber)
    {
        Challenge memory ch = _tasks[taskId].challenges[challenger][commitment];
        return (ch.round, ch.attempt, ch.bond, ch.blockNumber);
    }

    /// @inheritdoc IDisputes
    function gameOf(uint256 taskId, uint32 gameId) external view returns (Game memory) {
        return _tasks[taskId].games[gameId];
    }

    /// @inheritdoc IDisputes
    function demandOf(uint256 taskId, uint16 round, uint16 workerIndex, uint64 chunkIndex)
        external
        view
        returns (Demand memory)
    {
        return _tasks[taskId].demands[Demands.keyOf(round, workerIndex, chunkIndex)];
    }

    /// @inheritdoc IDisputes
    function isRefuted(uint256 taskId, uint16 round, uint16 workerIndex) external view returns (bool) {
        return Rounds.isRefuted(_tasks[taskId], round, workerIndex);
    }

    /// @inheritdoc IDisputes
    function isExcluded(uint256 taskId, uint16 round, address account) external view returns (bool) {
        return round > 0 && _tasks[taskId].excluded[account] == round;
    }

    /// @inheritdoc IDisputes
    function acceptedHash(uint256 taskId, uint16 group) external view returns (bytes32) {
        return _tasks[taskId].acceptedHashes[group];
    }

    /// @inheritdoc ITaskCoordinator
    function releasableAt(uint256 taskId) external view returns (uint40) {
        Task storage t = _tasks[taskId];
        if (t.cancelled) return 0;
        return t.endedAt == 0 ? type(uint40).max : t.endedAt;
    }

    /// @inheritdoc ITaskCoordinator
    function originOf(uint256 taskId)
        external
        view
        returns (address requester, bytes32 specHash, bytes32 parentModel, string memory licence)
    {
        Task storage t = _tasks[taskId];
        return (t.fixed_.requester, t.fixed_.specHash, t.parentModel, t.licence);
    }

    /// @inheritdoc ITaskCoordinator
    function resultOf(uint256 taskId) external view returns (ModelResult memory result) {
        Task storage t = _tasks[taskId];
        if (!t.publishing) revert NoResult(taskId);
        result.modelRoot = t.modelRoot;
        result.round = t.clock.round;
        if (result.round == 0) {
            result.openedBlock = t.fixed_.createdBlock;
            (result.cid, result.floatCid) = (t.genesisCid, t.genesisFloatCid);
            return result;
        }
        Posting memory a = t.posting;
        (result.attempt, result.accepted) = (t.clock.attempt, t.progress.accepted);
        (result.openedBlock, result.updatesHash) = (t.progress.openedBlock, t.updatesHash);
        (result.aggregator, result.cid) = (a.aggregator, Cid(a.digest, a.codec));
        result.floatCid = Cid(a.floatDigest, a.floatCodec);
    }
}
