// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../../src/interfaces/IDisputes.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import {
    Claim,
    Outcome,
    Phase,
    Role,
    RoundView,
    Rule,
    ServerKind,
    Target,
    Verdict
} from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { FixedPoint } from "../../src/libraries/FixedPoint.sol";
import { Openings } from "../../src/libraries/Openings.sol";
import { Disputed, Scene } from "../base/Disputed.sol";
import { Tree, Trees } from "../base/Trees.sol";

/// @notice Follows DisputesAggregate.tree: challenges in one shot.
contract DisputesAggregateTest is Disputed {
    using Trees for Tree;

    /// @dev The last coordinate, whose chunk is half padding, and one in the middle.
    uint256 private constant LAST = NUM_PARAMS - 1;
    uint256 private constant MIDDLE = 103;

    /// @dev The claimed model is wrong at one coordinate, by one.
    function _lie(Scene memory s, uint256 j) private pure {
        s.nextModel.values[j] += s.nextModel.values[j] < 0 ? int256(1) : int256(-1);
        s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
    }

    /// @dev The claimed state is wrong at one value: of a coordinate, or of an adaptive server's coordinate the first.
    function _lieInState(Scene memory s, uint256 j) private pure {
        _lieInMoment(s, j, 0);
    }

    /// @dev moment: 0 for the first, 1 for the root of the second.
    function _lieInMoment(Scene memory s, uint256 j, uint256 moment) private pure {
        s.nextState.values[_stateAt(s, j) + moment] += 1;
        s.nextState = _tree(s, ChunkTree.STATE, s.nextState.values);
        s.aim = Target.State;
    }

    function _lieInGroup(Scene memory s, uint256 g, uint256 j) private pure {
        s.groups[g].values[j] += 1;
        s.groups[g] = _tree(s, ChunkTree.GROUP_SUM, s.groups[g].values);
    }

    /// @dev Five updates in groups of two: 2, 2 and 1.
    function _grouped() private view returns (Scene memory s) {
        s = _scene(Rule.Mean, ServerKind.Plain, 5);
        s.p.format.groupSize = 2;
        _claimHonestly(s);
    }

    function _assertRefuted(Scene memory s, bytes memory proof) private {
        _refute(s.id, watcher, proof);
        _assertVerdict(s.id, 1, Verdict.Refuted);
        _assertPhase(s.id, Phase.Aggregate);
        vm.assertEq(uint256(coordinator.roundOf(s.id).attempt), 2);
        _assertSolvent();
    }

    // --- the dishonest one can never win ---------------------------------------------------------------------------

    function test_cheat__wrongCoordinate__everyRuleAndStep() external {
        for (uint8 rule; rule < 3; ++rule) {
            for (uint8 kind; kind < 6; ++kind) {
                uint256 state = vm.snapshotState();
                Scene memory s = _scene(Rule(rule), ServerKind(kind), 6);
                _lie(s, MIDDLE);
                _toChallenge(s);
                _refusesProof(s.id, _coordinateProof(s, MIDDLE - 1), IDisputes.NothingWrong.selector);
                _assertRefuted(s, _coordinateProof(s, MIDDLE));
                vm.revertToState(state);
            }
        }
    }

    function test_cheat__lastCoordinate__isProvable() external {
        Scene memory s = _scene(Rule.Median, ServerKind.Plain, 4);
        _lie(s, LAST);
        _toChallenge(s);
        _assertRefuted(s, _coordinateProof(s, LAST));
    }

    function test_cheat__wrongState__isProvable() external {
        for (uint8 rule; rule < 3; ++rule) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule(rule), ServerKind.Momentum, 5);
            _lieInState(s, MIDDLE);
            _toChallenge(s);
            _assertRefuted(s, _coordinateProof(s, MIDDLE));
            vm.revertToState(state);
        }
    }

    /// @dev Either of the two values alone, for every server that keeps two; the model and every other coordinate are right.
    function test_cheat__wrongMoment__isProvable() external {
        for (uint256 k; k < 6; ++k) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind(3 + k / 2), 4);
            _lieInMoment(s, MIDDLE, k % 2);
            _toChallenge(s);
            for (uint256 j = MIDDLE - 1; j < MIDDLE + 2; j += 2) {
                _refusesProof(s.id, _coordinateProof(s, j), IDisputes.NothingWrong.selector);
            }
            s.aim = Target.Model;
            _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NothingWrong.selector);
            s.aim = Target.State;
            _assertRefuted(s, _coordinateProof(s, MIDDLE));
            vm.revertToState(state);
        }
    }

    function test_cheat__wrongMomentAtTheLastCoordinate__isProvable() external {
        for (uint256 moment; moment < 2; ++moment) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.TrimmedMean, ServerKind.Yogi, 4);
            _lieInMoment(s, LAST, moment);
            _toChallenge(s);
            _assertRefuted(s, _coordinateProof(s, LAST));
            vm.revertToState(state);
        }
    }

    /// @dev A first state that no round could have led to: the requester's own, with roots below zero and beyond their
    /// largest. What follows from it is one thing all the same, and a lie about it is provable.
    function test_cheat__hostileFirstState__isProvable() external {
        for (uint256 k; k < 9; ++k) {
            uint256 state = vm.snapshotState();
            Scene memory s = _hostile(ServerKind(3 + k / 3));
            if (k % 3 == 0) _lie(s, MIDDLE);
            else _lieInMoment(s, MIDDLE, k % 3 - 1);
            _toChallenge(s);
            _assertRefuted(s, _coordinateProof(s, MIDDLE));
            vm.revertToState(state);
        }
    }

    function _hostile(ServerKind server) private view returns (Scene memory s) {
        s = _scene(Rule.Mean, server, 3);
        int256[] memory values = _values("hostile", "state", _stateLength(s), type(int32).max);
        int256[6] memory ends = [type(int32).min, -1, type(int32).max, int256(1) << 24, -1 << 24, (1 << 24) - 1];
        for (uint256 i; i < 36; ++i) {
            (values[2 * i], values[2 * i + 1]) = (ends[i / 6], ends[i % 6]);
        }
        (values[2 * MIDDLE], values[2 * MIDDLE + 1]) = (type(int32).max, type(int32).min);
        _startFrom(s, values);
        _claimHonestly(s);
    }

    /// @dev A model that fits its own wrong state.
    function test_cheat__wrongStateAndModelThatFitsIt__isProvable() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Momentum, 5);
        _lieInState(s, MIDDLE);
        s.nextModel.values[MIDDLE] += 1;
        s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
        _toChallenge(s);
        _assertRefuted(s, _coordinateProof(s, MIDDLE));
    }

    function test_cheat__updateOfZeroWeight__isInNoProof() external {
        for (uint8 rule; rule < 3; ++rule) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule(rule), ServerKind.Plain, 6);
            (s.weights[0], s.weights[3]) = (0, 0);
            _claimHonestly(s);
            _lie(s, MIDDLE);
            _toChallenge(s);
            _assertRefuted(s, _coordinateProof(s, MIDDLE));
            vm.revertToState(state);
        }
    }

    function test_cheat__wrongGroupSum__isProvable() external {
        for (uint256 g; g < 3; ++g) {
            uint256 state = vm.snapshotState();
            Scene memory s = _grouped();
            _lieInGroup(s, g, LAST);
            _toChallenge(s);
            _refusesProof(s.id, _groupProof(s, LAST, (g + 1) % 3), IDisputes.NothingWrong.selector);
            _assertRefuted(s, _groupProof(s, LAST, g));
            vm.revertToState(state);
        }
    }

    function test_cheat__wrongModelOverRightGroups__isProvable() external {
        Scene memory s = _grouped();
        _lie(s, MIDDLE);
        _toChallenge(s);
        _assertRefuted(s, _coordinateProof(s, MIDDLE));
    }

    function test_cheat__groupsWithAState__areProvable() external {
        for (uint8 kind = 1; kind < 6; ++kind) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind(kind), 5);
            s.p.format.groupSize = 2;
            _claimHonestly(s);
            _lieInState(s, MIDDLE);
            _toChallenge(s);
            _assertRefuted(s, _coordinateProof(s, MIDDLE));
            vm.revertToState(state);
        }
    }

    function test_cheat__paddingValues__areProvable() external {
        for (uint8 target; target < 3; ++target) {
            uint256 state = vm.snapshotState();
            Scene memory s = _paddable();
            int256[] memory values = _withPadding(_targeted(s, target).values);
            _replace(s, target, _tree(s, _kindOf(target), values));
            _toChallenge(s);
            _assertRefuted(s, _paddingProof(s, Target(target), target == 2 ? 1 : 0, uint64(NUM_CHUNKS - 1)));
            vm.revertToState(state);
        }
    }

    /// @dev A leaf, and a node of the level above, that are not what mere padding hashes to.
    function test_cheat__paddingNodes__areProvable() external {
        for (uint256 k; k < 6; ++k) {
            uint256 state = vm.snapshotState();
            Scene memory s = _paddable();
            uint8 target = uint8(k / 2);
            (uint256 height, uint256 index) = k % 2 == 0 ? (0, NUM_CHUNKS) : (1, 7);
            _targeted(s, target).replaceNode(height, index, keccak256("hidden"));
            _toChallenge(s);
            _assertRefuted(s, _paddingProof(s, Target(target), target == 2 ? 1 : 0, uint64(NUM_CHUNKS - 1)));
            vm.revertToState(state);
        }
    }

    /// @dev 196 values in 13 chunks, and 392 in 25: the state's tree is one deeper than the model's, and has padding where
    /// that has values.
    function _deeper() private view returns (Scene memory s) {
        s = _sceneOf(Rule.Mean, ServerKind.Adam, 3, 196, "deeper");
        vm.assertEq(s.nextModel.depth, 4);
        vm.assertEq(s.nextState.depth, 5);
    }

    function test_cheat__paddingOfADeeperState__isProvable() external {
        for (uint256 k; k < 4; ++k) {
            uint256 state = vm.snapshotState();
            Scene memory s = _deeper();
            if (k == 0) _replace(s, 1, _tree(s, ChunkTree.STATE, _withPadding(s.nextState.values)));
            if (k == 1) s.nextState.replaceNode(0, 25, keccak256("hidden"));
            if (k == 2) s.nextState.replaceNode(1, 13, keccak256("hidden"));
            if (k == 3) s.nextState.replaceNode(2, 7, keccak256("hidden"));
            _toChallenge(s);
            _assertRefuted(s, _paddingProof(s, Target.State, 0, 24));
            vm.revertToState(state);
        }
    }

    function test_honest__paddingOfADeeperState__revertsNothingWrong() external {
        Scene memory s = _deeper();
        _toChallenge(s);
        for (uint64 c; c < 25; c += 6) {
            _refusesProof(s.id, _paddingProof(s, Target.State, 0, c), IDisputes.NothingWrong.selector);
        }
        bytes memory head = abi.encodePacked(uint8(0), uint8(1), uint16(0), uint64(25));
        _refusesProof(s.id, bytes.concat(head, s.nextState.open(24)), ChunkTree.IndexOutOfRange.selector);
        // The state's chunks are not the model's.
        head = abi.encodePacked(uint8(0), uint8(0), uint16(0), uint64(13));
        _refusesProof(s.id, bytes.concat(head, s.nextModel.open(12)), ChunkTree.IndexOutOfRange.selector);
    }

    function _paddable() private view returns (Scene memory s) {
        s = _scene(Rule.Mean, ServerKind.Momentum, 4);
        s.p.format.groupSize = 2;
        _claimHonestly(s);
    }

    function _kindOf(uint8 target) private pure returns (uint8) {
        return target == 0 ? ChunkTree.MODEL : target == 1 ? ChunkTree.STATE : ChunkTree.GROUP_SUM;
    }

    function _targeted(Scene memory s, uint8 target) private pure returns (Tree memory) {
        return target == 0 ? s.nextModel : target == 1 ? s.nextState : s.groups[1];
    }

    function _replace(Scene memory s, uint8 target, Tree memory t) private pure {
        if (target == 0) s.nextModel = t;
        else if (target == 1) s.nextState = t;
        else s.groups[1] = t;
    }

    function _withPadding(int256[] memory values) private pure returns (int256[] memory) {
        values[values.length - 1] = 1;
        return values;
    }

    // --- the honest one can never lose -----------------------------------------------------------------------------

    /// @dev Every chunk, every kind: nothing is wrong with the truth.
    function test_honest__everyProof__revertsNothingWrong() external {
        Scene memory s = _paddable();
        _toChallenge(s);
        for (uint256 j; j < NUM_PARAMS; j += 37) {
            s.aim = j % 2 == 0 ? Target.Model : Target.State;
            _refusesProof(s.id, _coordinateProof(s, j), IDisputes.NothingWrong.selector);
            _refusesProof(s.id, _groupProof(s, j, 1), IDisputes.NothingWrong.selector);
        }
        for (uint64 c; c < NUM_CHUNKS; c += 3) {
            _refusesProof(s.id, _paddingProof(s, Target.Model, 0, c), IDisputes.NothingWrong.selector);
            _refusesProof(s.id, _paddingProof(s, Target.State, 0, c), IDisputes.NothingWrong.selector);
            _refusesProof(s.id, _paddingProof(s, Target.Group, 1, c), IDisputes.NothingWrong.selector);
        }
    }

    /// @dev Every coordinate, of zeros and of a hostile first state: what the contract finds is what the reference says.
    function test_honest__everyServer__everyCoordinateRevertsNothingWrong() external {
        for (uint256 k = 1; k < 9; ++k) {
            uint256 state = vm.snapshotState();
            Scene memory s = k < 6 ? _scene(Rule.Mean, ServerKind(k), 2) : _hostile(ServerKind(k - 3));
            _toChallenge(s);
            for (uint256 j = k % 3; j < NUM_PARAMS; j += k < 6 ? 13 : 5) {
                s.aim = j % 2 == 0 ? Target.Model : Target.State;
                _refusesProof(s.id, _coordinateProof(s, j), IDisputes.NothingWrong.selector);
            }
            vm.revertToState(state);
        }
    }

    /// @dev A coordinate of an adaptive server's state is a parameter's number, and its values have one place.
    function test_honest__stateOpenedElsewhere__reverts() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Adagrad, 3);
        _toChallenge(s);
        s.aim = Target.State;
        (bytes memory head, bytes memory parts) = (_coordinateHead(s, MIDDLE), _parts(s, MIDDLE));
        for (uint256 c; c < 25; c += 6) {
            // 206 / 16 = 12 is its chunk; 103 / 16 = 6 is the model's.
            bytes memory proof = bytes.concat(head, s.state.open(c), s.nextState.open(c), parts);
            _refusesProof(s.id, proof, c == 12 ? IDisputes.NothingWrong.selector : IDisputes.NotPosted.selector);
        }
        head = abi.encodePacked(uint8(1), uint8(1), uint64(NUM_PARAMS), uint32(0));
        bytes memory beyond = bytes.concat(head, s.state.open(24), s.nextState.open(24), parts);
        _refusesProof(s.id, beyond, IDisputes.CoordinateOutOfRange.selector);
    }

    function _honest(uint16 n) private returns (Scene memory s) {
        s = _scene(Rule.Median, ServerKind.Plain, n);
        _toChallenge(s);
    }

    function test_honest__ranksThatAreNot__revertInvalidRank() external {
        Scene memory s = _honest(5);
        (uint16 right,) = _ranks(s, MIDDLE);
        bytes memory rest = bytes.concat(_vectors(s, MIDDLE), _parts(s, MIDDLE));
        for (uint16 low; low < 7; ++low) {
            if (low == right) continue;
            bytes memory proof =
                bytes.concat(abi.encodePacked(uint8(1), uint8(s.aim), uint64(MIDDLE), low, uint16(0)), rest);
            _refusesProof(s.id, proof, FixedPoint.InvalidRank.selector);
        }
    }

    function test_honest__trimRanksThatAreNot__revertInvalidRank() external {
        Scene memory s = _scene(Rule.TrimmedMean, ServerKind.Plain, 5);
        _toChallenge(s);
        (uint16 low, uint16 high) = _ranks(s, MIDDLE);
        bytes memory rest = bytes.concat(_vectors(s, MIDDLE), _parts(s, MIDDLE));
        bytes memory head = abi.encodePacked(uint8(1), uint8(s.aim), uint64(MIDDLE));
        bytes memory swapped = bytes.concat(head, abi.encodePacked(high, low), rest);
        _refusesProof(s.id, swapped, FixedPoint.InvalidRank.selector);
        bytes memory narrow = bytes.concat(head, abi.encodePacked(low, low), rest);
        _refusesProof(s.id, narrow, FixedPoint.InvalidRank.selector);
        bytes memory beyond = bytes.concat(head, abi.encodePacked(low, uint16(5)), rest);
        _refusesProof(s.id, beyond, FixedPoint.InvalidRank.selector);
    }

    function test_honest__updatesReordered__revertsNotAccepted() external {
        Scene memory s = _honest(4);
        uint256[] memory order = _accepted(s);
        (order[1], order[2]) = (order[2], order[1]);
        _refusesProof(s.id, _withUpdates(s, order), IDisputes.NotAccepted.selector);
    }

    function test_honest__updateTwice__revertsNotAccepted() external {
        Scene memory s = _honest(4);
        uint256[] memory order = _accepted(s);
        order[2] = order[1];
        _refusesProof(s.id, _withUpdates(s, order), IDisputes.NotAccepted.selector);
    }

    /// @dev One left out, and one added: what follows does not fit, or is too much.
    function test_honest__updateLeftOutOrAdded__reverts() external {
        Scene memory s = _honest(4);
        uint256[] memory fewer = new uint256[](3);
        (fewer[0], fewer[1], fewer[2]) = (0, 1, 3);
        bytes memory proof = _withUpdates(s, fewer);
        _challenge(s.id, watcher, proof);
        _mine(1);
        vm.prank(watcher);
        (bool ok,) = address(coordinator).call(_proveCall(s.id, proof));
        vm.assertFalse(ok);

        uint256[] memory more = new uint256[](5);
        (more[1], more[2], more[3], more[4]) = (1, 2, 3, 3);
        _refusesProof(s.id, _withUpdates(s, more), IDisputes.ProofLength.selector);
    }

    function test_honest__updateOfZeroWeightAdded__revertsNotAccepted() external {
        Scene memory s = _scene(Rule.Median, ServerKind.Plain, 4);
        s.weights[1] = 0;
        _claimHonestly(s);
        _toChallenge(s);
        uint256[] memory order = new uint256[](3);
        (order[0], order[1], order[2]) = (0, 1, 2);
        _refusesProof(s.id, _withUpdates(s, order), IDisputes.NotAccepted.selector);
    }

    function test_honest__otherWeight__revertsNotAccepted() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _toChallenge(s);
        s.weights[1] += 1;
        _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NotAccepted.selector);
    }

    function _withUpdates(Scene memory s, uint256[] memory order) private pure returns (bytes memory) {
        uint256 c = MIDDLE / CHUNK;
        return bytes.concat(_coordinateHead(s, MIDDLE), _vectors(s, MIDDLE), _openUpdates(s, order, c));
    }

    /// @dev A chunk of another place, with its own path, and with the path of the right one.
    function test_honest__swappedChunk__revertsNotPosted() external {
        Scene memory s = _honest(3);
        bytes memory head = _coordinateHead(s, MIDDLE);
        bytes memory other = bytes.concat(s.model.open(5), s.nextModel.open(6), _parts(s, MIDDLE));
        _refusesProof(s.id, bytes.concat(head, other), IDisputes.NotPosted.selector);
        s.nextModel.chunks[6] = s.nextModel.chunks[5];
        _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NotPosted.selector);
    }

    function test_honest__modelInTheClaimsPlace__revertsNotPosted() external {
        Scene memory s = _honest(3);
        s.nextModel = s.model;
        _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NotPosted.selector);
    }

    function test_honest__siblingsSwapped__revertsNotPosted() external {
        Scene memory s = _honest(3);
        (s.model.nodes[0][6], s.model.nodes[0][7]) = (s.model.nodes[0][7], s.model.nodes[0][6]);
        _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NotPosted.selector);
    }

    /// @dev A node's two children as if they were values: they are hashed as a leaf, and so are another thing.
    function test_honest__nodePassedAsLeaf__revertsNotPosted() external {
        Scene memory s = _honest(3);
        bytes memory chunk = bytes.concat(s.nextModel.nodes[0][6], s.nextModel.nodes[0][7]);
        s.nextModel.chunks[6] = chunk;
        _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NotPosted.selector);
    }

    function test_honest__pathExtendedOrTruncated__reverts() external {
        Scene memory s = _honest(3);
        bytes memory head = _coordinateHead(s, MIDDLE);
        bytes memory model = s.model.open(6);
        bytes memory claimed = s.nextModel.open(6);
        bytes memory parts = _parts(s, MIDDLE);
        bytes memory longer = bytes.concat(head, model, s.model.nodes[4][0], claimed, parts);
        _refusesProof(s.id, longer, IDisputes.NotPosted.selector);
        bytes memory shorter = bytes.concat(head, model, _slice(claimed, 0, claimed.length - 32), parts);
        _refusesProof(s.id, shorter, IDisputes.NotPosted.selector);
    }

    function _slice(bytes memory data, uint256 from, uint256 to) private pure returns (bytes memory part) {
        part = new bytes(to - from);
        for (uint256 i = from; i < to; ++i) {
            part[i - from] = data[i];
        }
    }

    function test_honest__otherLengths__revert() external {
        Scene memory s = _honest(3);
        bytes memory proof = _coordinateProof(s, MIDDLE);
        _refusesProof(s.id, bytes.concat(proof, hex"00"), IDisputes.ProofLength.selector);
        _refusesProof(s.id, "", IDisputes.ProofLength.selector);
        // Read past its end: the last sibling's sum is no longer what it was.
        _refusesProof(s.id, _slice(proof, 0, proof.length - 1), IDisputes.NotAccepted.selector);
        _refusesProof(s.id, abi.encodePacked(uint8(3), proof), IDisputes.UnknownProof.selector);
        _refusesProof(s.id, abi.encodePacked(uint8(255)), IDisputes.UnknownProof.selector);
    }

    /// @dev An update's root says so in form 2, too, if one could invent forms.
    function test_honest__unknownForm__reverts() external {
        Scene memory s = _honest(3);
        bytes memory head = bytes.concat(_coordinateHead(s, MIDDLE), _vectors(s, MIDDLE));
        bytes memory part = abi.encodePacked(s.weights[0], s.updates[0].openUpdate(MIDDLE / CHUNK, 0));
        part[2] = 0x02;
        _refusesProof(s.id, bytes.concat(head, part), Openings.UnknownForm.selector);
    }

    function test_honest__coordinatePastTheEnd__reverts() external {
        Scene memory s = _honest(3);
        bytes memory rest = bytes.concat(_vectors(s, LAST), _parts(s, LAST));
        bytes memory proof = bytes.concat(abi.encodePacked(uint8(1), uint8(s.aim), uint64(NUM_PARAMS), uint32(0)), rest);
        _refusesProof(s.id, proof, IDisputes.CoordinateOutOfRange.selector);
        proof = bytes.concat(abi.encodePacked(uint8(1), uint8(0), type(uint64).max, uint32(0)), rest);
        _refusesProof(s.id, proof, IDisputes.CoordinateOutOfRange.selector);
    }

    /// @dev Leaves 13 to 15 hold nothing but padding, and have no place in a proof.
    function test_honest__paddingLeaf__revertsIndexOutOfRange() external {
        Scene memory s = _honest(3);
        bytes memory opening = s.nextModel.open(NUM_CHUNKS - 1);
        for (uint64 c = uint64(NUM_CHUNKS); c < 18; ++c) {
            bytes memory proof = bytes.concat(abi.encodePacked(uint8(0), uint8(0), uint16(0), c), opening);
            _refusesProof(s.id, proof, ChunkTree.IndexOutOfRange.selector);
        }
    }

    function test_honest__targetsThatAreNot__revertInvalidTarget() external {
        Scene memory s = _honest(3);
        bytes memory opening = s.nextModel.open(0);
        bytes4 error_ = IDisputes.InvalidTarget.selector;
        _refusesProof(s.id, bytes.concat(abi.encodePacked(uint8(0), uint8(1), uint16(0), uint64(0)), opening), error_);
        _refusesProof(s.id, bytes.concat(abi.encodePacked(uint8(0), uint8(2), uint16(0), uint64(0)), opening), error_);
        _refusesProof(s.id, bytes.concat(abi.encodePacked(uint8(0), uint8(3), uint16(0), uint64(0)), opening), error_);
        _refusesProof(s.id, bytes.concat(abi.encodePacked(uint8(0), uint8(0), uint16(1), uint64(0)), opening), error_);
        _refusesProof(s.id, bytes.concat(abi.encodePacked(uint8(2), uint64(0), uint16(0)), opening), error_);
        bytes memory proof = _coordinateProof(s, MIDDLE);
        for (uint8 target = 1; target < 5; ++target) {
            proof[1] = bytes1(target);
            _refusesProof(s.id, proof, error_);
        }
    }

    function test_honest__groupThatIsNot__revertsInvalidTarget() external {
        Scene memory s = _grouped();
        _toChallenge(s);
        bytes memory roots = _groupRoots(s);
        bytes memory proof = bytes.concat(abi.encodePacked(uint8(2), uint64(0), uint16(3)), roots, s.groups[2].open(0));
        _refusesProof(s.id, proof, IDisputes.InvalidTarget.selector);
        proof = bytes.concat(abi.encodePacked(uint8(0), uint8(2), uint16(3), uint64(0)), roots, s.groups[2].open(0));
        _refusesProof(s.id, proof, IDisputes.InvalidTarget.selector);
    }

    function test_honest__otherGroupRoots__revertNotPosted() external {
        Scene memory s = _grouped();
        _toChallenge(s);
        _lieInGroup(s, 1, MIDDLE);
        _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NotPosted.selector);
        _refusesProof(s.id, _groupProof(s, MIDDLE, 1), IDisputes.NotPosted.selector);
    }

    function test_honest__updatesOfAnotherGroup__revertNotAccepted() external {
        Scene memory s = _grouped();
        _toChallenge(s);
        bytes memory head = abi.encodePacked(uint8(2), uint64(MIDDLE), uint16(1), _groupRoots(s));
        bytes memory proof = bytes.concat(head, s.groups[1].open(6), _openUpdates(s, _membersOf(s, 0), MIDDLE / CHUNK));
        _refusesProof(s.id, proof, IDisputes.NotAccepted.selector);
    }

    /// @dev What was wrong in the last round, and in another task, says nothing of this one.
    function test_honest__proofOfAnotherTask__reverts() external {
        Scene memory lie = _sceneOf(Rule.Mean, ServerKind.Plain, 3, NUM_PARAMS, "another");
        _lie(lie, MIDDLE);
        bytes memory proof = _coordinateProof(lie, MIDDLE);
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _toChallenge(s);
        _refusesProof(s.id, proof, IDisputes.NotPosted.selector);
    }

    function test_honest__commitmentToAnotherTaskRoundOrAttempt__revertsNoChallenge() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, MIDDLE);
        _toChallenge(s);
        bytes memory proof = _coordinateProof(s, MIDDLE);
        uint256 state = vm.snapshotState();
        for (uint256 k; k < 4; ++k) {
            bytes32 commitment = keccak256(
                abi.encode(
                    block.chainid,
                    address(coordinator),
                    s.id + (k == 0 ? 1 : 0),
                    uint16(k == 1 ? 2 : 1),
                    uint8(k == 2 ? 2 : 1),
                    k == 3 ? rival : watcher,
                    keccak256(proof),
                    SALT
                )
            );
            _fund(watcher, CHALLENGER_BOND);
            vm.prank(watcher);
            coordinator.commitChallenge(s.id, 1, 1, commitment);
            _mine(1);
            _refuses(watcher, _proveCall(s.id, proof), IDisputes.NoChallenge.selector);
            vm.revertToState(state);
        }
    }

    // --- commitChallenge -------------------------------------------------------------------------------------------

    function test_commitChallenge__inChallenge__locksTheBondAndEmits() external {
        Scene memory s = _honest(2);
        _fund(watcher, CHALLENGER_BOND);
        vm.expectEmit();
        emit IDisputes.ChallengeCommitted(s.id, 1, watcher, 1, "c");
        vm.prank(watcher);
        coordinator.commitChallenge(s.id, 1, 1, "c");
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), CHALLENGER_BOND);
        (uint16 round, uint8 attempt, uint96 bond, uint40 blockNumber) = coordinator.challengeOf(s.id, watcher, "c");
        vm.assertEq(abi.encode(round, attempt, bond), abi.encode(1, 1, CHALLENGER_BOND));
        vm.assertEq(uint256(blockNumber), vm.getBlockNumber());
        vm.assertEq(uint256(coordinator.roundOf(s.id).challenges), 1);
    }

    function _commitCall(uint256 id, uint16 round, uint8 attempt, bytes32 what) private view returns (bytes memory) {
        return abi.encodeCall(coordinator.commitChallenge, (id, round, attempt, what));
    }

    function test_commitChallenge__itsWindow__isHalfOpen() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 2);
        _start(s);
        _toAggregate(s);
        _fund(watcher, 10 * uint256(CHALLENGER_BOND));
        bytes4 unexpected = ITaskCoordinator.UnexpectedPhase.selector;
        _refuses(watcher, _commitCall(s.id, 1, 1, "0"), unexpected);
        _postScene(s);
        vm.prank(watcher);
        coordinator.commitChallenge(s.id, 1, 1, "1");
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        vm.prank(watcher);
        coordinator.commitChallenge(s.id, 1, 1, "2");
        _mineAt(end);
        _refuses(watcher, _commitCall(s.id, 1, 1, "3"), unexpected);
        _mineAt(end + 1);
        _refuses(watcher, _commitCall(s.id, 1, 1, "4"), unexpected);
    }

    function test_commitChallenge__wrongRoundAttemptTwiceOrPoor__reverts() external {
        Scene memory s = _honest(2);
        bytes memory poor = abi.encodeWithSelector(
            IStakeVault.StakeTooLow.selector, watcher, uint256(CHALLENGER_BOND) - 1, uint256(CHALLENGER_BOND)
        );
        _fund(watcher, CHALLENGER_BOND - 1);
        _refuses(watcher, _commitCall(s.id, 1, 1, "c"), poor);
        _fund(watcher, 5 * uint256(CHALLENGER_BOND));
        _refuses(
            watcher,
            _commitCall(s.id, 2, 1, "c"),
            abi.encodeWithSelector(ITaskCoordinator.UnexpectedRound.selector, s.id, 1, 2)
        );
        _refuses(
            watcher,
            _commitCall(s.id, 1, 2, "c"),
            abi.encodeWithSelector(IDisputes.UnexpectedAttempt.selector, s.id, 1, 2)
        );
        vm.prank(watcher);
        coordinator.commitChallenge(s.id, 1, 1, "c");
        _refuses(
            watcher,
            _commitCall(s.id, 1, 1, "c"),
            abi.encodeWithSelector(IDisputes.AlreadyChallenged.selector, s.id, bytes32("c"))
        );
    }

    // --- proveAggregate --------------------------------------------------------------------------------------------

    function _lyingScene() private returns (Scene memory s, bytes memory proof) {
        s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, MIDDLE);
        _toChallenge(s);
        proof = _coordinateProof(s, MIDDLE);
    }

    function test_prove__inTheBlockOfTheCommitment__revertsCommitmentTooYoung() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        _challenge(s.id, watcher, proof);
        _refuses(
            watcher,
            _proveCall(s.id, proof),
            abi.encodeWithSelector(ITaskCoordinator.CommitmentTooYoung.selector, vm.getBlockNumber())
        );
        _mine(0);
        _prove(s.id, watcher, proof);
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    /// @dev Committed in Challenge's last second, proven in the proof window's.
    function test_prove__itsWindow__isHalfOpen() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        _challenge(s.id, watcher, proof);
        _mineAt(uint256(end) + PROOF - 1);
        _assertPhase(s.id, Phase.Dispute);
        uint256 state = vm.snapshotState();
        _prove(s.id, watcher, proof);
        _assertVerdict(s.id, 1, Verdict.Refuted);
        vm.revertToState(state);
        for (uint256 late; late < 2; ++late) {
            _mineAt(uint256(end) + PROOF + late);
            _assertPhase(s.id, Phase.Settlement);
            _refuses(watcher, _proveCall(s.id, proof), ITaskCoordinator.UnexpectedPhase.selector);
        }
    }

    /// @dev A game keeps Dispute open; the window of the committed proofs is over all the same.
    function test_prove__afterItsWindowInDispute__revertsTooLate() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        _challenge(s.id, watcher, proof);
        _openGame(s, rival, Target.Model, 0, "own");
        _mineAt(uint256(end) + PROOF);
        _assertPhase(s.id, Phase.Dispute);
        _refuses(
            watcher, _proveCall(s.id, proof), abi.encodeWithSelector(IDisputes.TooLate.selector, uint256(end) + PROOF)
        );
    }

    function test_prove__copiedFromTheMempool__revertsNoChallenge() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        bytes32 commitment = _challenge(s.id, watcher, proof);
        _mine(1);
        // By another sender, with nothing, with the copied commitment, and with one of its own in the same block.
        _refuses(rival, _proveCall(s.id, proof), IDisputes.NoChallenge.selector);
        _fund(rival, CHALLENGER_BOND);
        vm.prank(rival);
        coordinator.commitChallenge(s.id, 1, 1, commitment);
        _refuses(rival, _proveCall(s.id, proof), IDisputes.NoChallenge.selector);
        _challenge(s.id, rival, proof);
        _refuses(rival, _proveCall(s.id, proof), ITaskCoordinator.CommitmentTooYoung.selector);
        _prove(s.id, watcher, proof);
        vm.assertEq(vault.creditOf(watcher), BOND / 2);
    }

    function test_prove__copiedBySenderWithAnOpenGame__reverts() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        uint32 game = _openGame(s, rival, Target.Model, 0, "own");
        _challenge(s.id, watcher, proof);
        _mine(1);
        _refuses(
            rival, abi.encodeCall(coordinator.proveInGame, (s.id, game, proof, SALT)), IDisputes.NoChallenge.selector
        );
        _prove(s.id, watcher, proof);
        _refuses(
            rival,
            abi.encodeCall(coordinator.proveInGame, (s.id, game, proof, SALT)),
            ITaskCoordinator.UnexpectedPhase.selector
        );
        coordinator.closeGame(s.id, game);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, rival), 0);
        vm.assertEq(vault.freeOf(rival), CHALLENGER_BOND);
    }

    /// @dev A proof that shows nothing, sent first by the cheater itself, uses up nobody's slot.
    function test_prove__cheaterSendsALosingProofFirst__theGoodOneStillWins() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        address poster = coordinator.roundOf(s.id).aggregator;
        bytes memory useless = _coordinateProof(s, MIDDLE + 1);
        _challenge(s.id, poster, useless);
        _challenge(s.id, watcher, proof);
        _mine(1);
        _refuses(poster, _proveCall(s.id, useless), IDisputes.NothingWrong.selector);
        _prove(s.id, watcher, proof);
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    function test_prove__firstOfTwo__takesTheRewardAndTheOtherItsBond() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        bytes32 other = _challenge(s.id, rival, proof);
        _challenge(s.id, watcher, proof);
        _mine(1);
        _prove(s.id, watcher, proof);
        vm.assertEq(vault.creditOf(watcher), BOND / 2);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), 0);
        _refuses(
            rival,
            abi.encodeCall(coordinator.proveAggregate, (s.id, 1, 1, proof, SALT)),
            ITaskCoordinator.UnexpectedPhase.selector
        );
        vm.expectEmit();
        emit IDisputes.ChallengeClosed(s.id, rival, other, CHALLENGER_BOND, false);
        vm.prank(stranger);
        coordinator.closeChallenge(s.id, rival, other);
        vm.assertEq(vault.freeOf(rival), CHALLENGER_BOND);
    }

    function test_prove__twice__reverts() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        _refute(s.id, watcher, proof);
        _refuses(
            watcher,
            abi.encodeCall(coordinator.proveAggregate, (s.id, 1, 1, proof, SALT)),
            ITaskCoordinator.UnexpectedPhase.selector
        );
        // The next attempt is another aggregate: the old proof is for nothing there.
        _claimHonestly(s);
        _postScene(s);
        _refuses(
            watcher,
            abi.encodeCall(coordinator.proveAggregate, (s.id, 1, 1, proof, SALT)),
            IDisputes.UnexpectedAttempt.selector
        );
        _refusesProof(s.id, proof, IDisputes.NotPosted.selector);
        _refusesProof(s.id, _coordinateProof(s, MIDDLE), IDisputes.NothingWrong.selector);
    }

    // --- closeChallenge --------------------------------------------------------------------------------------------

    function test_close__neverProvenAndStood__burnsTheBond() external {
        Scene memory s = _honest(2);
        bytes32 commitment = _challenge(s.id, watcher, "nothing");
        bytes memory call_ = abi.encodeCall(coordinator.closeChallenge, (s.id, watcher, commitment));
        _refuses(stranger, call_, abi.encodeWithSelector(IDisputes.StillOpen.selector, s.id, 0));
        _endPhase(s.id);
        _assertPhase(s.id, Phase.Dispute);
        _refuses(stranger, call_, IDisputes.StillOpen.selector);
        _endPhase(s.id);
        _assertPhase(s.id, Phase.Settlement);
        _settleAll(s.id);
        vm.assertEq(uint256(coordinator.verdictOf(s.id, 1, 1)), uint256(Verdict.Stood));
        (,,,, uint256 before) = vault.totals();
        vm.expectEmit();
        emit IDisputes.ChallengeClosed(s.id, watcher, commitment, CHALLENGER_BOND, true);
        coordinator.closeChallenge(s.id, watcher, commitment);
        (,,,, uint256 burned) = vault.totals();
        vm.assertEq(burned - before, CHALLENGER_BOND);
        vm.assertEq(_wealth(s.id, watcher), 0);
        _refuses(stranger, call_, IDisputes.NoChallenge.selector);
    }

    /// @dev A bond that is to burn does not come free by waiting for the end of the task.
    function test_close__afterTheTask__stillBurns() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 2);
        s.p.rounds = 1;
        _toChallenge(s);
        bytes32 commitment = _challenge(s.id, watcher, "nothing");
        _endPhase(s.id);
        _endPhase(s.id);
        _settleAll(s.id);
        _assertPhase(s.id, Phase.Completed);
        _mine(UNBONDING);
        vm.expectPartialRevert(IStakeVault.NothingLocked.selector);
        vault.unlock(s.id, Role.Challenger, watcher);
        coordinator.closeChallenge(s.id, watcher, commitment);
        vm.assertEq(_wealth(s.id, watcher), 0);
    }

    function test_close__unknown__revertsNoChallenge() external {
        Scene memory s = _honest(2);
        _refuses(
            stranger,
            abi.encodeCall(coordinator.closeChallenge, (s.id, watcher, "none")),
            abi.encodeWithSelector(IDisputes.NoChallenge.selector, s.id, watcher, bytes32("none"))
        );
    }

    // --- attempts and money ----------------------------------------------------------------------------------------

    function test_refuted__slash__halfBurnedHalfToTheChallenger() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        address poster = coordinator.roundOf(s.id).aggregator;
        uint256 wealth = _wealth(s.id, poster);
        (,,,, uint256 before) = vault.totals();
        _challenge(s.id, watcher, proof);
        _mine(1);
        vm.expectEmit();
        emit IDisputes.AggregateRefuted(s.id, 1, poster, 1, watcher, "wrong coordinate");
        vm.expectEmit();
        emit IDisputes.AttemptOpened(s.id, 1, 2, 2 * uint256(BOND));
        _prove(s.id, watcher, proof);
        (,,,, uint256 burned) = vault.totals();
        vm.assertEq(wealth - _wealth(s.id, poster), BOND);
        vm.assertEq(burned - before, BOND / 2);
        vm.assertEq(_wealth(s.id, watcher), CHALLENGER_BOND + BOND / 2);
        vm.assertTrue(coordinator.isExcluded(s.id, 1, poster));
        vm.assertFalse(coordinator.isExcluded(s.id, 2, poster));
    }

    /// @dev Challenging oneself loses half.
    function test_refuted__byItself__losesHalfOfTheBond() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        address poster = coordinator.roundOf(s.id).aggregator;
        uint256 wealth = _wealth(s.id, poster);
        _refute(s.id, poster, proof);
        vm.assertEq(wealth + CHALLENGER_BOND - _wealth(s.id, poster), BOND / 2);
    }

    function test_reopened__cheater__isOutOfTheOrderAndOfTheOpenWindow() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        address poster = coordinator.roundOf(s.id).aggregator;
        _refute(s.id, watcher, proof);
        _claimHonestly(s);
        RoundView memory r = coordinator.roundOf(s.id);
        vm.assertEq(uint256(r.numSlots), 2);
        address[3] memory order = _draw(s.id);
        vm.assertTrue(order[0] != poster && order[1] != poster && order[2] == address(0));
        _commitClaim(s.id, poster, _claim(s), "salt");
        _mineAt(uint256(r.aggregateStart) + 2 * SLOT);
        bytes memory call_ =
            abi.encodeCall(coordinator.postAggregate, (s.id, 1, _claim(s), _aggregateCid(1), _floatCid(1), "salt"));
        _refuses(poster, call_, abi.encodeWithSelector(ITaskCoordinator.Excluded.selector, s.id, poster));
        // It is back in the next round.
        _endPhase(s.id);
        _settleAll(s.id);
        vm.assertEq(uint256(coordinator.roundOf(s.id).numSlots), 3);
    }

    function test_reopened__bond__doublesAndComesBack() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        _refute(s.id, watcher, proof);
        _claimHonestly(s);
        address poster = _postScene(s);
        vm.assertEq(vault.lockOf(s.id, Role.Aggregator, poster), 2 * uint256(BOND));
        _endPhase(s.id);
        _settleAll(s.id);
        vm.assertEq(vault.lockOf(s.id, Role.Aggregator, poster), 0);
        vm.assertEq(coordinator.roundOf(s.id).modelRoot, s.nextModel.root);
    }

    /// @dev Three cheaters in a row: 200, 400 and 800, then Void, with workers and validators paid all the same.
    function test_threeAttempts__void__workersAndValidatorsArePaid() external {
        (Scene memory s,) = _lyingScene();
        (uint16 before, uint256 worker) = (1, vault.creditOf(_worker(0)));
        for (uint8 attempt = 1; attempt <= 3; ++attempt) {
            if (attempt > 1) _postScene(s);
            address poster = coordinator.roundOf(s.id).aggregator;
            vm.assertEq(vault.lockOf(s.id, Role.Aggregator, poster), uint256(BOND) << (attempt - 1));
            _refute(s.id, watcher, _coordinateProof(s, MIDDLE));
            _assertVerdict(s.id, attempt, Verdict.Refuted);
            vm.assertEq(vault.lockOf(s.id, Role.Aggregator, poster), 0);
            if (attempt < 3) vm.assertEq(uint256(coordinator.roundOf(s.id).attempt), attempt + 1);
        }
        _assertPhase(s.id, Phase.Settlement);
        vm.assertEq(vault.creditOf(watcher), BOND / 2 * 7);
        vm.expectEmit();
        emit ITaskCoordinator.RoundClosed(s.id, 1, Outcome.Refuted, s.model.root, REWARD / 2 / 10, 0);
        _settleAll(s.id);
        vm.assertGt(vault.creditOf(_worker(0)), worker);
        vm.assertEq(vault.creditOf(_validator(0)), REWARD / 2 / 5);
        vm.assertEq(uint256(coordinator.roundOf(s.id).round), before + 1);
        vm.assertFalse(registry.exists(registry.modelIdOf(s.id, 1)));
        _assertSolvent();
    }

    /// @dev The round that was reopened is disputed again, with bonds of its own.
    function test_reopened__disputedAgain__honestPosterKeepsItsBond() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        bytes32 first = _challenge(s.id, rival, "first");
        _refute(s.id, watcher, proof);
        _claimHonestly(s);
        address poster = _postScene(s);
        bytes32 second = _challenge(s.id, rival, "second");
        coordinator.closeChallenge(s.id, rival, first);
        vm.assertEq(uint256(coordinator.roundOf(s.id).challenges), 1, "the first attempt's are over");
        _endPhase(s.id);
        _assertPhase(s.id, Phase.Dispute);
        _endPhase(s.id);
        _settleAll(s.id);
        coordinator.closeChallenge(s.id, rival, second);
        vm.assertEq(_wealth(s.id, rival), CHALLENGER_BOND, "one bond back, one burned");
        vm.assertEq(vault.lockOf(s.id, Role.Aggregator, poster), 0);
        vm.assertEq(uint256(coordinator.verdictOf(s.id, 1, 1)), uint256(Verdict.Refuted));
        vm.assertEq(uint256(coordinator.verdictOf(s.id, 1, 2)), uint256(Verdict.Stood));
    }

    function test_claim__statesAndGroupsThatDoNotFit__revertInvalidClaim() external {
        Scene memory s = _grouped();
        _start(s);
        _toAggregate(s);
        address poster = _draw(s.id)[0];
        Claim memory claim = _claim(s);
        claim.stateRoot = "state";
        _refusesClaim(s.id, poster, claim, "stateRoot");
        claim = _claim(s);
        claim.groupRoots = new bytes32[](0);
        _refusesClaim(s.id, poster, claim, "groupRoots");
        claim.groupRoots = new bytes32[](4);
        _refusesClaim(s.id, poster, claim, "groupRoots");
        _postClaim(s.id, poster, _claim(s), 0);
    }

    function _refusesClaim(uint256 id, address poster, Claim memory claim, bytes32 what) private {
        bytes memory call_ =
            abi.encodeCall(coordinator.postAggregate, (id, 1, claim, _aggregateCid(1), _floatCid(1), 0));
        _refuses(poster, call_, abi.encodeWithSelector(ITaskCoordinator.InvalidClaim.selector, what));
    }

    /// @dev The second round starts from the state, too, and its proof opens that one.
    function test_state__secondRound__provesAgainstTheStateOfTheFirst() external {
        for (uint8 kind = 1; kind < 6; ++kind) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind(kind), 3);
            _toChallenge(s);
            _endPhase(s.id);
            _settleAll(s.id);
            vm.assertEq(coordinator.roundOf(s.id).stateRoot, s.nextState.root);
            (s.model, s.state) = (s.nextModel, s.nextState);
            _claimHonestly(s);
            _lieInState(s, MIDDLE);
            _toAggregate(s);
            _postScene(s);
            _refusesProof(s.id, _coordinateProof(s, MIDDLE + 1), IDisputes.NothingWrong.selector);
            _assertRefuted(s, _coordinateProof(s, MIDDLE));
            vm.revertToState(state);
        }
    }

    function test_claim__withoutTheStateThatTheServerKeeps__revertsInvalidClaim() external {
        for (uint8 kind = 1; kind < 6; ++kind) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind(kind), 2);
            _start(s);
            _toAggregate(s);
            address poster = _draw(s.id)[0];
            Claim memory claim = _claim(s);
            claim.stateRoot = 0;
            _refusesClaim(s.id, poster, claim, "stateRoot");
            _postClaim(s.id, poster, _claim(s), 0);
            vm.revertToState(state);
        }
    }
}
