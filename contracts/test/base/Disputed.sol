// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Claim,
    Demand,
    Game,
    Role,
    RoundView,
    Rule,
    ServerKind,
    Target,
    TaskParams,
    Verdict
} from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Deployed } from "./Deployed.sol";
import { ServerReference } from "./ServerReference.sol";
import { Tree, Trees } from "./Trees.sol";

/// @dev A task with the trees of everything in its round. `updates` are by worker; `nextModel`, `nextState` and `groups`
/// are what is claimed: at first what is right, until a test says otherwise.
struct Scene {
    uint256 id;
    TaskParams p;
    uint16[] weights;
    Tree[] updates;
    Tree model;
    Tree state;
    Tree nextModel;
    Tree nextState;
    /// Of proofs of a wrong coordinate: the model or the state.
    Target aim;
    Tree[] groups;
}

/// @notice Small tasks with real trees: 200 values in 13 chunks of 16, so that the last chunk is half padding, a node of
/// the first level above the leaves is mere padding, and a path is 4 long. And the proofs about them.
abstract contract Disputed is Deployed {
    using Trees for Tree;

    uint64 internal constant NUM_PARAMS = 200;
    uint32 internal constant CHUNK = 16;
    uint256 internal constant NUM_CHUNKS = 13;
    bytes32 internal constant SALT = "proof salt";

    address internal watcher = vm.addr(0x0A7C4E6);
    address internal rival = vm.addr(0x21BA1);

    // ---------------------------------------------------------------------------------------------
    // Scenes
    // ---------------------------------------------------------------------------------------------

    /// @dev n workers, one validator, three aggregators; nobody has enrolled yet.
    function _scene(Rule rule, ServerKind server, uint16 n) internal view returns (Scene memory s) {
        return _sceneOf(rule, server, n, NUM_PARAMS, "seed");
    }

    function _sceneOf(Rule rule, ServerKind server, uint16 n, uint64 numParams, bytes32 seed)
        internal
        view
        returns (Scene memory s)
    {
        s.p = _params(n, 1, 3);
        (s.p.format.numParams, s.p.format.chunkParams, s.p.format.rule) = (numParams, CHUNK, rule);
        (s.p.format.stepNum, s.p.format.stepDen) = (3, 2);
        if (rule == Rule.TrimmedMean) (s.p.format.trimNum, s.p.format.trimDen) = (1, 4);
        _serve(s.p, server);
        s.model = _tree(s, ChunkTree.MODEL, _values(seed, "model", numParams, 1 << 24));
        s.p.genesisRoot = s.model.root;
        if (server != ServerKind.Plain) _startFrom(s, new int256[](_stateLength(s)));
        (s.weights, s.updates) = (new uint16[](n), new Tree[](n));
        for (uint256 i; i < n; ++i) {
            s.weights[i] = uint16(1 + uint256(keccak256(abi.encode(seed, "weight", i))) % 10_000);
            s.updates[i] = _tree(s, ChunkTree.UPDATE, _values(seed, bytes32(i), numParams, 1 << 14));
        }
        _claimHonestly(s);
    }

    function _stateLength(Scene memory s) internal pure returns (uint64) {
        return ServerReference.stateLength(s.p.format, s.p.format.numParams);
    }

    /// @dev Another state than zeros, which the requester says is the first one.
    function _startFrom(Scene memory s, int256[] memory values) internal pure {
        s.state = _tree(s, ChunkTree.STATE, values);
        s.p.genesisStateRoot = s.state.root;
    }

    function _tree(Scene memory s, uint8 kind, int256[] memory values) internal pure returns (Tree memory) {
        uint64 length = kind == ChunkTree.STATE ? _stateLength(s) : s.p.format.numParams;
        return Trees.build(kind, length, s.p.format.chunkParams, values);
    }

    /// @dev Anything between -most and most.
    function _values(bytes32 seed, bytes32 what, uint256 count, int256 most)
        internal
        pure
        returns (int256[] memory values)
    {
        values = new int256[](count);
        for (uint256 i; i < count; ++i) {
            values[i] = int256(uint256(keccak256(abi.encode(seed, what, i))) % uint256(2 * most + 1)) - most;
        }
    }

    /// @dev Puts an update that was changed into the claim, too.
    function _claimHonestly(Scene memory s) internal pure {
        uint256 n = s.p.format.numParams;
        (int256[] memory models, int256[] memory states) = (new int256[](n), new int256[](_stateLength(s)));
        for (uint256 j; j < n; ++j) {
            int256[3] memory next = _next(s, j);
            models[j] = next[0];
            for (uint256 i; i < states.length / n; ++i) {
                states[_stateAt(s, j) + i] = next[1 + i];
            }
        }
        s.nextModel = _tree(s, ChunkTree.MODEL, models);
        if (states.length > 0) s.nextState = _tree(s, ChunkTree.STATE, states);
        uint256 groups = _numGroups(s);
        s.groups = new Tree[](groups == 1 ? 0 : groups);
        for (uint256 g; g < s.groups.length; ++g) {
            s.groups[g] = _tree(s, ChunkTree.GROUP_SUM, _groupSums(s, g));
        }
    }

    // ---------------------------------------------------------------------------------------------
    // What is right, from docs/protocol.md alone
    // ---------------------------------------------------------------------------------------------

    /// @dev Workers of non-zero weight, in their order.
    function _accepted(Scene memory s) internal pure returns (uint256[] memory indices) {
        uint256 count;
        for (uint256 i; i < s.weights.length; ++i) {
            if (s.weights[i] > 0) ++count;
        }
        indices = new uint256[](count);
        count = 0;
        for (uint256 i; i < s.weights.length; ++i) {
            if (s.weights[i] > 0) indices[count++] = i;
        }
    }

    function _numGroups(Scene memory s) internal pure returns (uint256) {
        return (_accepted(s).length + s.p.format.groupSize - 1) / s.p.format.groupSize;
    }

    function _groupSums(Scene memory s, uint256 group) internal pure returns (int256[] memory sums) {
        uint256[] memory accepted = _accepted(s);
        sums = new int256[](s.p.format.numParams);
        uint256 from = group * s.p.format.groupSize;
        for (uint256 k = from; k < accepted.length && k < from + s.p.format.groupSize; ++k) {
            for (uint256 j; j < sums.length; ++j) {
                sums[j] += s.updates[accepted[k]].values[j] * int256(uint256(s.weights[accepted[k]]));
            }
        }
    }

    /// @dev Of the model, and of the state as much as it has.
    function _next(Scene memory s, uint256 j) internal pure returns (int256[3] memory) {
        (int256 sum, int256 total) = _ruleOf(s, j);
        sum *= int256(1 << (s.p.format.modelScaleBits - s.p.format.updateScaleBits));
        int256[3] memory at = [s.model.values[j], 0, 0];
        if (_stateLength(s) > 0) at[1] = s.state.values[_stateAt(s, j)];
        if (ServerReference.isAdaptive(s.p.format)) at[2] = s.state.values[_stateAt(s, j) + 1];
        return ServerReference.next(s.p.format, at, sum, total);
    }

    /// @dev Where in the state what belongs to a coordinate begins.
    function _stateAt(Scene memory s, uint256 j) internal pure returns (uint256) {
        return ServerReference.isAdaptive(s.p.format) ? 2 * j : j;
    }

    function _ruleOf(Scene memory s, uint256 j) internal pure returns (int256 sum, int256 total) {
        if (s.p.format.rule == Rule.Mean) {
            for (uint256 i; i < s.weights.length; ++i) {
                sum += s.updates[i].values[j] * int256(uint256(s.weights[i]));
                total += int256(uint256(s.weights[i]));
            }
            return (sum, total);
        }
        uint256[] memory order = _sorted(s, j);
        uint256[] memory accepted = _accepted(s);
        if (s.p.format.rule == Rule.Median) {
            return (s.updates[accepted[order[(order.length - 1) / 2]]].values[j], 1);
        }
        uint256 trim = order.length * s.p.format.trimNum / s.p.format.trimDen;
        for (uint256 k = trim; k < order.length - trim; ++k) {
            sum += s.updates[accepted[order[k]]].values[j];
            ++total;
        }
    }

    /// @dev Positions among the accepted updates in ascending order of the coordinate.
    function _sorted(Scene memory s, uint256 j) internal pure returns (uint256[] memory order) {
        uint256[] memory accepted = _accepted(s);
        order = new uint256[](accepted.length);
        for (uint256 k; k < order.length; ++k) {
            uint256 at = k;
            for (; at > 0 && _valueAt(s, accepted, order[at - 1], j) > _valueAt(s, accepted, k, j); --at) {
                order[at] = order[at - 1];
            }
            order[at] = k;
        }
    }

    function _valueAt(Scene memory s, uint256[] memory accepted, uint256 k, uint256 j) private pure returns (int256) {
        return s.updates[accepted[k]].values[j];
    }

    // ---------------------------------------------------------------------------------------------
    // Proofs
    // ---------------------------------------------------------------------------------------------

    /// @dev Positions of the values that decide: the median's, or the smallest and the largest that are kept.
    function _ranks(Scene memory s, uint256 j) internal pure returns (uint16 low, uint16 high) {
        if (s.p.format.rule == Rule.Mean) return (0, 0);
        uint256[] memory order = _sorted(s, j);
        if (s.p.format.rule == Rule.Median) return (uint16(order[(order.length - 1) / 2]), 0);
        uint256 trim = order.length * s.p.format.trimNum / s.p.format.trimDen;
        return (uint16(order[trim]), uint16(order[order.length - 1 - trim]));
    }

    /// @dev Kind 1: that a coordinate of model or state is wrong.
    function _coordinateProof(Scene memory s, uint256 j) internal pure returns (bytes memory) {
        return bytes.concat(_coordinateHead(s, j), _vectors(s, j), _parts(s, j));
    }

    function _coordinateHead(Scene memory s, uint256 j) internal pure returns (bytes memory) {
        (uint16 low, uint16 high) = _ranks(s, j);
        return bytes.concat(abi.encodePacked(uint8(1), uint8(s.aim), uint64(j), low, high), _groupRoots(s));
    }

    /// @dev Openings of what the round started from, and of the vector that the proof aims at.
    function _vectors(Scene memory s, uint256 j) internal pure returns (bytes memory) {
        (uint256 c, uint256 sc) = (j / s.p.format.chunkParams, _stateAt(s, j) / s.p.format.chunkParams);
        if (_stateLength(s) == 0) return bytes.concat(s.model.open(c), s.nextModel.open(c));
        if (s.aim == Target.State) return bytes.concat(s.state.open(sc), s.nextState.open(sc));
        return bytes.concat(s.model.open(c), s.state.open(sc), s.nextModel.open(c));
    }

    /// @dev Openings of the updates, or of the group sums.
    function _parts(Scene memory s, uint256 j) internal pure returns (bytes memory packed) {
        uint256 c = j / s.p.format.chunkParams;
        if (s.groups.length == 0) return _openUpdates(s, _accepted(s), c);
        for (uint256 g; g < s.groups.length; ++g) {
            packed = bytes.concat(packed, s.groups[g].open(c));
        }
    }

    function _openUpdates(Scene memory s, uint256[] memory indices, uint256 c)
        internal
        pure
        returns (bytes memory packed)
    {
        for (uint256 k; k < indices.length; ++k) {
            packed = bytes.concat(packed, _openOne(s, indices[k], c));
        }
    }

    /// @dev weight ‖ opening, as it stands in a proof.
    function _openOne(Scene memory s, uint256 worker, uint256 c) internal pure returns (bytes memory) {
        return abi.encodePacked(s.weights[worker], s.updates[worker].openUpdate(c, 0));
    }

    function _groupRoots(Scene memory s) internal pure returns (bytes memory packed) {
        for (uint256 g; g < s.groups.length; ++g) {
            packed = abi.encodePacked(packed, s.groups[g].root);
        }
    }

    /// @dev Kind 2: that a coordinate of a group's sum is wrong.
    function _groupProof(Scene memory s, uint256 j, uint256 group) internal pure returns (bytes memory) {
        uint256 c = j / s.p.format.chunkParams;
        bytes memory head = abi.encodePacked(uint8(2), uint64(j), uint16(group), _groupRoots(s));
        return bytes.concat(head, s.groups[group].open(c), _openUpdates(s, _membersOf(s, group), c));
    }

    function _membersOf(Scene memory s, uint256 group) internal pure returns (uint256[] memory members) {
        uint256[] memory accepted = _accepted(s);
        uint256 from = group * s.p.format.groupSize;
        uint256 left = accepted.length - from;
        members = new uint256[](left < s.p.format.groupSize ? left : s.p.format.groupSize);
        for (uint256 k; k < members.length; ++k) {
            members[k] = accepted[from + k];
        }
    }

    /// @dev Kind 0: that the padding in a chunk, or beside its path, is wrong.
    function _paddingProof(Scene memory s, Target target, uint16 group, uint64 c) internal pure returns (bytes memory) {
        bytes memory head = abi.encodePacked(uint8(0), uint8(target), group, c);
        if (target == Target.Group) return bytes.concat(head, _groupRoots(s), s.groups[group].open(c));
        return bytes.concat(head, target == Target.Model ? s.nextModel.open(c) : s.nextState.open(c));
    }

    /// @dev That an update is wrong.
    function _updateProof(Scene memory s, uint16 worker, uint64 c) internal pure returns (bytes memory) {
        return abi.encodePacked(worker, c, s.updates[worker].openUpdate(c, 1));
    }

    // ---------------------------------------------------------------------------------------------
    // Play
    // ---------------------------------------------------------------------------------------------

    /// @dev Creates the task, enrols everybody with enough for three attempts, and opens round 1.
    function _start(Scene memory s) internal {
        s.id = _create(s.p);
        _enrolAll(s.id, s.weights.length, 1, 3);
        for (uint256 a; a < 3; ++a) {
            _fund(_aggregator(a), 7 * uint256(BOND));
        }
    }

    /// @dev From Commit on: every worker reveals the root of its tree, with the sum that the tree states.
    function _toScoreCommit(Scene memory s) internal {
        uint16 round = _round(s.id);
        for (uint256 i; i < s.updates.length; ++i) {
            bytes32 commitment = _updateCommitment(s.id, round, _worker(i), _treeUpdate(s, i));
            vm.prank(_worker(i));
            coordinator.commitUpdate(s.id, round, commitment);
        }
        for (uint256 i; i < s.updates.length; ++i) {
            _revealUpdate(s.id, round, _worker(i), _treeUpdate(s, i));
        }
    }

    function _treeUpdate(Scene memory s, uint256 i) internal view returns (Update memory u) {
        u = _update(_worker(i), _round(s.id));
        (u.root, u.squaredNorm) = (s.updates[i].root, s.updates[i].sumOf());
    }

    function _votes(Scene memory s) internal pure returns (bytes memory packed) {
        for (uint256 i; i < s.weights.length; ++i) {
            packed = abi.encodePacked(packed, s.weights[i], s.weights[i] == 0 ? uint16(0) : uint16(1000));
        }
    }

    function _toAggregate(Scene memory s) internal {
        _toScoreCommit(s);
        _scoresAlike(s.id, 1, _votes(s));
        _tallyAll(s.id);
    }

    function _claim(Scene memory s) internal pure returns (Claim memory claim) {
        (claim.modelRoot, claim.groupRoots) = (s.nextModel.root, new bytes32[](s.groups.length));
        if (_stateLength(s) > 0) claim.stateRoot = s.nextState.root;
        for (uint256 g; g < s.groups.length; ++g) {
            claim.groupRoots[g] = s.groups[g].root;
        }
    }

    /// @dev The holder of the first slot of the attempt posts what the scene claims.
    function _postScene(Scene memory s) internal returns (address poster) {
        poster = _draw(s.id)[0];
        _postClaim(s.id, poster, _claim(s), 0);
    }

    /// @dev The whole of it: the first round's Challenge.
    function _toChallenge(Scene memory s) internal returns (address poster) {
        _start(s);
        _toAggregate(s);
        return _postScene(s);
    }

    function _challengeCommitment(uint256 id, address challenger, bytes memory proof) internal view returns (bytes32) {
        RoundView memory r = coordinator.roundOf(id);
        bytes32 hash = keccak256(proof);
        return
            keccak256(abi.encode(block.chainid, address(coordinator), id, r.round, r.attempt, challenger, hash, SALT));
    }

    /// @dev Commits to a proof against the attempt that is posted.
    function _challenge(uint256 id, address challenger, bytes memory proof) internal returns (bytes32 commitment) {
        RoundView memory r = coordinator.roundOf(id);
        commitment = _challengeCommitment(id, challenger, proof);
        _fund(challenger, CHALLENGER_BOND);
        vm.prank(challenger);
        coordinator.commitChallenge(id, r.round, r.attempt, commitment);
    }

    function _prove(uint256 id, address challenger, bytes memory proof) internal {
        RoundView memory r = coordinator.roundOf(id);
        vm.prank(challenger);
        coordinator.proveAggregate(id, r.round, r.attempt, proof, SALT);
    }

    /// @dev Commits, waits a block, and proves.
    function _refute(uint256 id, address challenger, bytes memory proof) internal {
        _challenge(id, challenger, proof);
        _mine(1);
        _prove(id, challenger, proof);
    }

    /// @dev Announces a proof against an update, or one in a game, and waits a block.
    function _announce(uint256 id, address challenger, bytes memory proof) internal {
        uint16 round = _round(id);
        bytes32 hash = keccak256(proof);
        bytes32 commitment =
            keccak256(abi.encode(block.chainid, address(coordinator), id, round, challenger, hash, SALT));
        vm.prank(challenger);
        coordinator.commitProof(id, commitment);
        _mine(0);
    }

    function _refuteUpdate(uint256 id, address challenger, bytes memory proof) internal {
        _announce(id, challenger, proof);
        uint16 round = _round(id);
        vm.prank(challenger);
        coordinator.proveUpdate(id, round, proof, SALT);
    }

    function _demand(uint256 id, address challenger, uint16 worker, uint64 c) internal returns (uint256 fee) {
        uint16 round = _round(id);
        _fund(challenger, 1000 * uint256(DEMAND_FEE));
        vm.prank(challenger);
        coordinator.demandChunk(id, round, worker, c);
        return coordinator.demandOf(id, round, worker, c).fee;
    }

    function _answer(Scene memory s, address answerer, uint16 worker, uint64 c) internal {
        uint16 round = _round(s.id);
        bytes memory opening = s.updates[worker].openUpdate(c, 0);
        vm.prank(answerer);
        coordinator.answerDemand(s.id, round, worker, c, opening);
    }

    // --- games -----------------------------------------------------------------------------------------------------

    /// @dev What a game locks while `open` others of the attempt are open.
    function _gameBond(uint256 open) internal pure returns (uint256) {
        return uint256(CHALLENGER_BOND) * 2 ** (open / 16);
    }

    /// @dev Disputes a root without its bytes. `own` is what the challenger says that it should be.
    function _openGame(Scene memory s, address challenger, Target target, uint16 group, bytes32 own)
        internal
        returns (uint32)
    {
        RoundView memory r = coordinator.roundOf(s.id);
        bytes32[] memory roots = target == Target.Group ? _claim(s).groupRoots : new bytes32[](0);
        _fund(challenger, _gameBond(r.games));
        vm.prank(challenger);
        return coordinator.openGame(s.id, r.round, r.attempt, target, group, roots, own);
    }

    function _vectorOf(Scene memory s, Game memory g) internal pure returns (Tree memory) {
        if (g.target == Target.Group) return s.groups[g.group];
        return g.target == Target.Model ? s.nextModel : s.nextState;
    }

    function _levels(Game memory g) internal pure returns (uint256) {
        return g.height < 8 ? g.height : 8;
    }

    /// @dev The next answer from the claimed vector: nodes, or the chunk.
    function _answerGame(Scene memory s, address answerer, uint32 gameId) internal {
        Game memory g = coordinator.gameOf(s.id, gameId);
        Tree memory t = _vectorOf(s, g);
        if (g.height == 0) {
            vm.prank(answerer);
            coordinator.answerChunk(s.id, gameId, t.chunks[g.index]);
            return;
        }
        bytes memory nodes = t.nodesBelow(g.height, g.index, g.height - _levels(g));
        vm.prank(answerer);
        coordinator.answerNodes(s.id, gameId, nodes);
    }

    /// @dev The challenger points at the way to chunk `c`.
    function _point(Scene memory s, address challenger, uint32 gameId, uint256 c) internal {
        Game memory g = coordinator.gameOf(s.id, gameId);
        Tree memory t = _vectorOf(s, g);
        uint256 below = g.height - _levels(g);
        uint256 index = c >> below;
        bytes32[] memory siblings = new bytes32[](_levels(g));
        for (uint256 h; h < siblings.length; ++h) {
            siblings[h] = t.nodes[below + h][(index >> h) ^ 1];
        }
        uint8 child = uint8(index - (uint256(g.index) << _levels(g)));
        bytes32 node = t.nodes[below][index];
        vm.prank(challenger);
        coordinator.pointAt(s.id, gameId, child, node, siblings);
    }

    // --- refusals --------------------------------------------------------------------------------------------------

    function _proveCall(uint256 id, bytes memory proof) internal view returns (bytes memory) {
        RoundView memory r = coordinator.roundOf(id);
        return abi.encodeCall(coordinator.proveAggregate, (id, r.round, r.attempt, proof, SALT));
    }

    /// @dev The call reverts with exactly that error.
    function _refuses(address caller, bytes memory call_, bytes memory error_) internal {
        vm.prank(caller);
        (bool ok, bytes memory answer) = address(coordinator).call(call_);
        vm.assertFalse(ok, "it worked");
        vm.assertEq(answer, error_);
    }

    /// @dev The call reverts with that error, whatever its evidence.
    function _refuses(address caller, bytes memory call_, bytes4 selector) internal {
        vm.prank(caller);
        (bool ok, bytes memory answer) = address(coordinator).call(call_);
        vm.assertFalse(ok, "it worked");
        vm.assertEq(bytes32(bytes4(answer)), bytes32(selector));
    }

    /// @dev A committed proof is refused with that error, and the attempt still stands.
    function _refusesProof(uint256 id, bytes memory proof, bytes4 selector) internal {
        uint256 state = vm.snapshotState();
        _challenge(id, watcher, proof);
        _mine(1);
        _refuses(watcher, _proveCall(id, proof), selector);
        _assertVerdict(id, coordinator.roundOf(id).attempt, Verdict.Open);
        vm.revertToState(state);
    }

    // --- what must hold --------------------------------------------------------------------------------------------

    function _assertVerdict(uint256 id, uint8 attempt, Verdict expected) internal view {
        vm.assertEq(uint256(coordinator.verdictOf(id, _round(id), attempt)), uint256(expected), "verdict");
    }

    /// @dev What an account owns anywhere: in the vault, in this task's locks, and outside.
    function _wealth(uint256 id, address account) internal view returns (uint256 sum) {
        sum = token.balanceOf(account) + vault.freeOf(account) + vault.creditOf(account);
        for (uint8 r; r < 4; ++r) {
            sum += vault.lockOf(id, Role(r), account);
        }
    }
}
