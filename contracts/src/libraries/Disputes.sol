// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../interfaces/IDisputes.sol";
import { IStakeVault } from "../interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Format, Game, Phase, Role, Target, Verdict, stateParams } from "../interfaces/Types.sol";
import { Aggregates } from "./Aggregates.sol";
import { ChunkTree } from "./ChunkTree.sol";
import { Openings } from "./Openings.sol";
import { Clock } from "./Phases.sol";
import { Proofs } from "./Proofs.sol";
import { Rounds } from "./Rounds.sol";
import { Challenge, Task } from "./TaskStorage.sol";

/// @title A wrong aggregate: challenges in one shot, and games where its bytes are withheld. Linked: the coordinator
/// delegates to it; the promises are in IDisputes.
library Disputes {
    uint256 private constant LEVELS = 8;
    // So many games of an attempt can be open for the bond; each further so many cost twice as much.
    uint32 private constant GAMES_PER_DOUBLING = 16;
    uint32 private constant MAX_DOUBLINGS = 16;
    bytes32 private constant SILENCE = "bytes withheld";

    // --- one shot ---------------------------------------------------------------------------------

    function commitChallenge(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint8 attempt,
        bytes32 commitment,
        IStakeVault vault
    ) external {
        // Check
        Rounds.requirePhase(t, taskId, Phase.Challenge);
        _checkAttempt(t, taskId, round, attempt);
        Challenge storage ch = t.challenges[msg.sender][commitment];
        if (ch.blockNumber > 0) revert IDisputes.AlreadyChallenged(taskId, commitment);

        // Effect
        uint96 bond = t.fixed_.economics.challengerBond;
        (ch.bond, ch.round, ch.attempt, ch.blockNumber) = (bond, round, attempt, uint40(block.number));
        ++t.docket.challenges;
        emit IDisputes.ChallengeCommitted(taskId, round, msg.sender, attempt, commitment);

        // Interaction
        vault.lock(taskId, Role.Challenger, msg.sender, bond);
    }

    function proveAggregate(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint8 attempt,
        bytes calldata proof,
        bytes32 salt,
        IStakeVault vault
    ) external {
        // Check
        _requireDisputable(t, taskId);
        _checkAttempt(t, taskId, round, attempt);
        bytes32 commitment = keccak256(
            abi.encode(block.chainid, address(this), taskId, round, attempt, msg.sender, Openings.keccakOf(proof), salt)
        );
        Challenge memory ch = t.challenges[msg.sender][commitment];
        // INVARIANT: a bond counts for the attempt in which it was locked: only that one waits for it.
        bool isOfAttempt = ch.bond > 0 && ch.round == round && ch.attempt == attempt;
        // A late demand holds Dispute open beyond the third fall.
        isOfAttempt = isOfAttempt && t.verdicts[Rounds.keyOf(round, attempt)] == Verdict.Open;
        if (!isOfAttempt) revert IDisputes.NoChallenge(taskId, msg.sender, commitment);
        if (block.number <= ch.blockNumber) revert ITaskCoordinator.CommitmentTooYoung(ch.blockNumber);
        uint256 end = uint256(t.progress.postedAt) + t.fixed_.windows.challenge + t.fixed_.windows.proof;
        if (block.timestamp >= end) revert IDisputes.TooLate(end);
        bytes32 reason = Proofs.check(t, proof);

        // Effect
        t.challenges[msg.sender][commitment].bond = 0;
        emit IDisputes.ChallengeClosed(taskId, msg.sender, commitment, ch.bond, false);

        // Interaction
        vault.release(taskId, Role.Challenger, msg.sender, ch.bond);
        Aggregates.refute(t, taskId, vault, msg.sender, reason);
    }

    function closeChallenge(Task storage t, uint256 taskId, address challenger, bytes32 commitment, IStakeVault vault)
        external
    {
        // Check
        Challenge memory ch = t.challenges[challenger][commitment];
        if (ch.bond == 0) revert IDisputes.NoChallenge(taskId, challenger, commitment);
        Verdict verdict = t.verdicts[Rounds.keyOf(ch.round, ch.attempt)];
        if (verdict == Verdict.Open) revert IDisputes.StillOpen(taskId, 0);

        // Effect
        t.challenges[challenger][commitment].bond = 0;
        bool isBurned = verdict == Verdict.Stood;
        emit IDisputes.ChallengeClosed(taskId, challenger, commitment, ch.bond, isBurned);

        // Interaction
        if (isBurned) vault.slash(taskId, Role.Challenger, challenger, ch.bond, address(0));
        else vault.release(taskId, Role.Challenger, challenger, ch.bond);
    }

    // --- games ------------------------------------------------------------------------------------

    function openGame(
        Task storage t,
        uint256 taskId,
        uint16 round,
        uint8 attempt,
        Target target,
        uint16 group,
        bytes32[] calldata groupRoots,
        bytes32 ownRoot,
        IStakeVault vault
    ) external returns (uint32 gameId) {
        // Check
        Rounds.requirePhase(t, taskId, Phase.Challenge);
        _checkAttempt(t, taskId, round, attempt);
        bytes32 posted = _postedRoot(t, target, group, groupRoots);
        if (posted == ownRoot) revert IDisputes.SameRoot(ownRoot);
        uint96 bond = _nextBond(t, taskId);

        // Effect
        gameId = t.docket.numGames++;
        ++t.docket.games;
        Game storage g = t.games[gameId];
        (g.challenger, g.round, g.attempt, g.target, g.group) = (msg.sender, round, attempt, target, group);
        (g.answersTurn, g.isOpen, g.node, g.ownRoot) = (true, true, posted, ownRoot);
        (g.height, g.bond) = (uint8(ChunkTree.depthOf(_shape(t, target))), bond);
        g.deadline = uint40(block.timestamp) + t.fixed_.windows.answer;
        emit IDisputes.GameOpened(taskId, gameId, msg.sender, round, attempt, target, group, ownRoot);

        // Interaction
        vault.lock(taskId, Role.Challenger, msg.sender, bond);
    }

    function answerNodes(Task storage t, uint256 taskId, uint32 gameId, bytes calldata nodes) external {
        // Check
        Game storage g = _move(t, taskId, gameId, true);
        uint256 levels = g.height < LEVELS ? g.height : LEVELS;
        if (levels == 0 || nodes.length != 32 << levels) revert IDisputes.ProofLength(nodes.length, 32 << levels);
        ChunkTree.Shape memory shape = _shape(t, g.target);
        bytes32 top = _fold(shape, nodes, levels, g.height - levels, uint256(g.index) << levels);
        bytes32 found = g.answerer == address(0) ? ChunkTree.rootOf(shape, top) : top;
        if (found != g.node) revert IDisputes.NodeMismatch(found, g.node);

        // Effect
        (g.node, g.answerer, g.answersTurn) = (top, msg.sender, false);
        g.deadline = uint40(block.timestamp) + t.fixed_.windows.answer;
        emit IDisputes.NodesAnswered(taskId, gameId, msg.sender, nodes);
    }

    function pointAt(
        Task storage t,
        uint256 taskId,
        uint32 gameId,
        uint8 child,
        bytes32 node,
        bytes32[] calldata siblings
    ) external {
        // Check
        Game storage g = _move(t, taskId, gameId, false);
        uint256 levels = g.height < LEVELS ? g.height : LEVELS;
        if (levels == 0 || siblings.length != levels) revert IDisputes.ProofLength(siblings.length, levels);
        uint256 index = (uint256(g.index) << levels) + child;
        uint8 height = uint8(g.height - levels);
        uint256 numChunks = ChunkTree.chunksOf(_shape(t, g.target));
        if (child >> levels != 0 || index << height >= numChunks) revert ChunkTree.IndexOutOfRange(index, numChunks);
        bytes32 hash = node;
        for (uint256 h; h < levels; ++h) {
            hash = child >> h & 1 == 1 ? ChunkTree.node(siblings[h], hash) : ChunkTree.node(hash, siblings[h]);
        }
        if (hash != g.node) revert IDisputes.NodeMismatch(hash, g.node);

        // Effect
        (g.node, g.index, g.height, g.answersTurn) = (node, uint64(index), height, true);
        g.deadline = uint40(block.timestamp) + t.fixed_.windows.answer;
        emit IDisputes.NodePointed(taskId, gameId, height, uint64(index));
    }

    function answerChunk(Task storage t, uint256 taskId, uint32 gameId, bytes calldata chunk) external {
        // Check
        Game storage g = _move(t, taskId, gameId, true);
        ChunkTree.Shape memory shape = _shape(t, g.target);
        uint256 length = shape.chunkParams * ChunkTree.widthOf(shape);
        if (g.height > 0 || chunk.length != length) revert IDisputes.ProofLength(chunk.length, length);
        bytes32 leaf = ChunkTree.leaf(g.index, chunk);
        // A tree of one chunk: its leaf is the top, and nothing was answered before.
        bytes32 found = g.answerer == address(0) ? ChunkTree.rootOf(shape, leaf) : leaf;
        if (found != g.node) revert IDisputes.NodeMismatch(found, g.node);

        // Effect
        (g.node, g.answerer, g.answersTurn) = (leaf, msg.sender, false);
        g.deadline = uint40(block.timestamp) + t.fixed_.windows.proof;
        emit IDisputes.ChunkAnswered(taskId, gameId, msg.sender, chunk);
    }

    function proveInGame(
        Task storage t,
        uint256 taskId,
        uint32 gameId,
        bytes calldata proof,
        bytes32 salt,
        IStakeVault vault
    ) external {
        // Check
        _requireDisputable(t, taskId);
        Game storage g = _running(t, taskId, gameId);
        if (g.challenger != msg.sender) revert IDisputes.NotYourMove(gameId);
        Rounds.checkAnnounced(t, taskId, g.round, Openings.keccakOf(proof), salt);
        bytes32 reason = Proofs.check(t, proof);

        // Effect, Interaction
        _close(taskId, gameId, g, vault);
        Aggregates.refute(t, taskId, vault, msg.sender, reason);
    }

    function closeGame(Task storage t, uint256 taskId, uint32 gameId, IStakeVault vault) external {
        // Check
        Game storage g = t.games[gameId];
        if (!g.isOpen) revert IDisputes.NoGame(taskId, gameId);
        bool isOver = t.verdicts[Rounds.keyOf(g.round, g.attempt)] != Verdict.Open;
        if (!isOver && block.timestamp < g.deadline) revert IDisputes.StillOpen(taskId, g.deadline);

        // Effect, Interaction
        if (isOver || g.answersTurn) {
            address challenger = g.challenger;
            _close(taskId, gameId, g, vault);
            if (!isOver) Aggregates.refute(t, taskId, vault, challenger, SILENCE);
        } else {
            (g.isOpen, t.docket.games) = (false, t.docket.games - 1);
            emit IDisputes.GameClosed(taskId, gameId, g.challenger, true);
            vault.slash(taskId, Role.Challenger, g.challenger, g.bond, g.answerer);
        }
    }

    // --- checks -----------------------------------------------------------------------------------

    /// @dev What the attempt's next game locks, in wei. The docket counts those that are open.
    function _nextBond(Task storage t, uint256 taskId) private view returns (uint96) {
        uint32 open = t.docket.games;
        uint32 doublings = open / GAMES_PER_DOUBLING;
        if (doublings > MAX_DOUBLINGS) revert IDisputes.TooManyGames(taskId, open);
        return t.fixed_.economics.challengerBond << doublings;
    }

    /// @dev The game in which a move is due. `answers`: of whoever answers; otherwise the caller must be its challenger.
    function _move(Task storage t, uint256 taskId, uint32 gameId, bool answers) private view returns (Game storage g) {
        g = _running(t, taskId, gameId);
        if (block.timestamp >= g.deadline) revert IDisputes.TooLate(g.deadline);
        if (g.answersTurn != answers || (!answers && g.challenger != msg.sender)) revert IDisputes.NotYourMove(gameId);
    }

    /// @dev An open game of the attempt that stands posted.
    function _running(Task storage t, uint256 taskId, uint32 gameId) private view returns (Game storage g) {
        g = t.games[gameId];
        bool isOver = t.verdicts[Rounds.keyOf(g.round, g.attempt)] != Verdict.Open;
        if (!g.isOpen || isOver) revert IDisputes.NoGame(taskId, gameId);
        // INVARIANT: silence loses, whoever comes first to say so.
        if (block.timestamp >= g.deadline) revert IDisputes.TooLate(g.deadline);
    }

    function _close(uint256 taskId, uint32 gameId, Game storage g, IStakeVault vault) private {
        g.isOpen = false;
        emit IDisputes.GameClosed(taskId, gameId, g.challenger, false);
        vault.release(taskId, Role.Challenger, g.challenger, g.bond);
    }

    function _requireDisputable(Task storage t, uint256 taskId) private view {
        (Phase phase,) = Rounds.phase(t);
        if (phase != Phase.Challenge && phase != Phase.Dispute) {
            revert ITaskCoordinator.UnexpectedPhase(taskId, phase, Phase.Dispute);
        }
    }

    function _checkAttempt(Task storage t, uint256 taskId, uint16 round, uint8 attempt) private view {
        Clock storage c = t.clock;
        Rounds.checkRound(taskId, c.round, round);
        if (c.attempt != attempt) revert IDisputes.UnexpectedAttempt(taskId, c.attempt, attempt);
    }

    function _postedRoot(Task storage t, Target target, uint16 group, bytes32[] calldata groupRoots)
        private
        view
        returns (bytes32 root)
    {
        if (target == Target.Group) {
            bytes32 hash = keccak256(abi.encodePacked(groupRoots));
            if (group >= groupRoots.length) revert IDisputes.InvalidTarget(uint8(target), group);
            if (hash != t.posting.groupsHash) revert IDisputes.NotPosted(hash, t.posting.groupsHash);
            return groupRoots[group];
        }
        root = target == Target.Model ? t.posting.root : t.posting.stateRoot;
        if (group != 0 || root == 0) revert IDisputes.InvalidTarget(uint8(target), group);
    }

    function _shape(Task storage t, Target target) private view returns (ChunkTree.Shape memory) {
        Format storage f = t.fixed_.format;
        if (target == Target.State) {
            return ChunkTree.Shape(ChunkTree.STATE, stateParams(f.server, f.numParams), f.chunkParams);
        }
        uint8 kind = target == Target.Model ? ChunkTree.MODEL : ChunkTree.GROUP_SUM;
        return ChunkTree.Shape(kind, f.numParams, f.chunkParams);
    }

    /// @dev The node above `nodes`, which are all those `levels` below it; the first is number `first` of its level,
    /// with `height` levels below. Those of mere padding must be constants, so that nothing can hide in them.
    function _fold(ChunkTree.Shape memory shape, bytes calldata nodes, uint256 levels, uint256 height, uint256 first)
        private
        pure
        returns (bytes32)
    {
        bytes32 constantNode;
        for (uint256 h; h < height; ++h) {
            constantNode = ChunkTree.node(constantNode, constantNode);
        }
        uint256 numChunks = ChunkTree.chunksOf(shape);
        uint256 count = 1 << levels;
        bytes32[] memory row = new bytes32[](count);
        for (uint256 i; i < count; ++i) {
            row[i] = bytes32(nodes[32 * i:32 * i + 32]);
            bool isPadding = (first + i) << height >= numChunks;
            if (isPadding && row[i] != constantNode) revert IDisputes.PaddingNotConstant(first + i);
        }
        for (; count > 1; count /= 2) {
            for (uint256 i; i < count / 2; ++i) {
                row[i] = ChunkTree.node(row[2 * i], row[2 * i + 1]);
            }
        }
        return row[0];
    }
}
