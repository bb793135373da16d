// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../interfaces/IDisputes.sol";
import { Format, Rule, ServerKind, Target, stateParams } from "../interfaces/Types.sol";
import { ChunkTree } from "./ChunkTree.sol";
import { FixedPoint } from "./FixedPoint.sol";
import { Openings } from "./Openings.sol";
import { Task } from "./TaskStorage.sol";

/// @title Whether a proof shows that a posted aggregate is wrong. Linked: `Disputes` delegates to it.
/// @notice One coordinate is recomputed from openings of everything that it is made of. Each is hashed up to a root that
/// the chain already holds, so that a proof can be refused, and never be believed wrongly.
library Proofs {
    uint8 private constant PADDING = 0;
    uint8 private constant COORDINATE = 1;
    uint8 private constant GROUP_COORDINATE = 2;

    /// @dev A proof while it is read.
    struct Reading {
        uint256 cursor;
        Openings.Place at;
        /// Position of the coordinate in its chunk.
        uint256 offset;
        /// The same in the server's state.
        Openings.Place stateAt;
        uint256 stateOffset;
        uint256 accepted;
        /// Positions of the values that decide; see IDisputes.
        uint256 low;
        uint256 high;
    }

    /// @notice The fault that the proof shows. Reverts if it shows none; see IDisputes.
    function check(Task storage t, bytes calldata proof) external view returns (bytes32 reason) {
        if (proof.length == 0) revert IDisputes.ProofLength(0, 1);
        uint8 kind = uint8(proof[0]);
        if (kind > GROUP_COORDINATE) revert IDisputes.UnknownProof(kind);
        Reading memory r;
        uint256 start;
        assembly ("memory-safe") {
            start := proof.offset
        }
        (r.cursor, r.accepted) = (start + 1, t.progress.accepted);
        bool isWrong;
        if (kind == PADDING) (isWrong, reason) = (_isPaddingWrong(t, r), "wrong padding");
        else if (kind == COORDINATE) (isWrong, reason) = (_isCoordinateWrong(t, r), "wrong coordinate");
        else (isWrong, reason) = (_isGroupWrong(t, r), "wrong group sum");
        if (r.cursor != start + proof.length) revert IDisputes.ProofLength(proof.length, r.cursor - start);
        if (!isWrong) revert IDisputes.NothingWrong();
    }

    // --- the three proofs -------------------------------------------------------------------------

    function _isCoordinateWrong(Task storage t, Reading memory r) private view returns (bool) {
        Format memory f = t.fixed_.format;
        bool isState = _readHead(f, r);
        uint256 groups = (r.accepted + f.groupSize - 1) / f.groupSize;
        bytes32[] memory groupRoots = groups == 1 ? new bytes32[](0) : _readGroupRoots(t, r, groups);
        // What the proof does not open stays 0: the model in one about the state, and moments that the server has not.
        FixedPoint.Coordinate memory at;
        FixedPoint.Coordinate memory claimed;
        if (!isState) at.model = _openInt32(r, t.modelRoot);
        if (f.server != ServerKind.Plain) (at.first, at.second) = _openState(f, r, t.stateRoot);
        if (isState) (claimed.first, claimed.second) = _openState(f, r, t.posting.stateRoot);
        else claimed.model = _openInt32(r, t.posting.root);

        (int256 sum, uint256 total) =
            groupRoots.length == 0 ? _ruleSum(t, f, r) : (_sumOfGroups(r, groupRoots), uint256(t.sums.weight));
        sum <<= f.modelScaleBits - f.updateScaleBits;
        FixedPoint.Coordinate memory next = FixedPoint.serverStep(f, at, sum, total);
        if (!isState) return claimed.model != next.model;
        return claimed.first != next.first || claimed.second != next.second;
    }

    function _isGroupWrong(Task storage t, Reading memory r) private view returns (bool) {
        Format memory f = t.fixed_.format;
        _readCoordinate(f, r);
        uint256 group = Openings.uint16At(r.cursor);
        r.cursor += 2;
        uint256 groups = _requireGroup(f, r, group);
        bytes32 root = _readGroupRoots(t, r, groups)[group];
        int256 claimed = _openInt64(r, root);
        uint256 from = group * f.groupSize;
        uint256 count = r.accepted - from < f.groupSize ? r.accepted - from : f.groupSize;
        (int16[] memory values, uint16[] memory weights) = _openUpdates(t, r, group, count);
        (int256 sum,) = FixedPoint.weightedSumOf(values, weights);
        return sum != claimed;
    }

    function _isPaddingWrong(Task storage t, Reading memory r) private view returns (bool isWrong) {
        Format memory f = t.fixed_.format;
        uint8 target = Openings.uint8At(r.cursor);
        uint16 group = Openings.uint16At(r.cursor + 1);
        uint256 index = Openings.uint64At(r.cursor + 3);
        r.cursor += 11;
        (uint8 kind, bytes32 root) = _target(t, f, r, target, group);
        uint64 numParams = kind == ChunkTree.STATE ? stateParams(f.server, f.numParams) : f.numParams;
        r.at = Openings.placeOf(numParams, f.chunkParams, index);
        (bytes32 opened, uint256 values, uint256 next) = Openings.plain(r.at, kind, r.cursor);
        if (opened != root) revert IDisputes.NotPosted(opened, root);
        uint256 width = kind == ChunkTree.GROUP_SUM ? 8 : 4;
        isWrong = !isClean(r.at, values, width) || !_arePathsClean(r.at, values + width * r.at.chunkParams);
        r.cursor = next;
    }

    // --- what is read -----------------------------------------------------------------------------

    /// @dev Which coordinate is meant, and which values decide. Returns whether it is one of the state.
    function _readHead(Format memory f, Reading memory r) private pure returns (bool isState) {
        uint8 target = Openings.uint8At(r.cursor++);
        isState = target == uint8(Target.State) && f.server != ServerKind.Plain;
        if (!isState && target != uint8(Target.Model)) revert IDisputes.InvalidTarget(target, 0);
        _placeState(f, r, _readCoordinate(f, r));
        (r.low, r.high) = (Openings.uint16At(r.cursor), Openings.uint16At(r.cursor + 2));
        r.cursor += 4;
    }

    function _readCoordinate(Format memory f, Reading memory r) private pure returns (uint64 coordinate) {
        coordinate = Openings.uint64At(r.cursor);
        if (coordinate >= f.numParams) revert IDisputes.CoordinateOutOfRange(coordinate, f.numParams);
        r.at = Openings.placeOf(f.numParams, f.chunkParams, coordinate / f.chunkParams);
        (r.offset, r.cursor) = (coordinate % f.chunkParams, r.cursor + 8);
    }

    /// @dev Where the state has what belongs to the coordinate: its own place, or two values at twice its number.
    function _placeState(Format memory f, Reading memory r, uint64 coordinate) private pure {
        if (f.server < ServerKind.Adagrad) {
            (r.stateAt, r.stateOffset) = (r.at, r.offset);
        } else {
            // INVARIANT: chunks have even numbers of values, so that both are in one.
            uint64 first = 2 * coordinate;
            r.stateAt = Openings.placeOf(stateParams(f.server, f.numParams), f.chunkParams, first / f.chunkParams);
            r.stateOffset = first % f.chunkParams;
        }
    }

    function _requireGroup(Format memory f, Reading memory r, uint256 group) private pure returns (uint256 groups) {
        groups = (r.accepted + f.groupSize - 1) / f.groupSize;
        if (groups == 1 || group >= groups) revert IDisputes.InvalidTarget(uint8(Target.Group), uint16(group));
    }

    /// @dev All group roots as they were posted.
    function _readGroupRoots(Task storage t, Reading memory r, uint256 groups)
        private
        view
        returns (bytes32[] memory roots)
    {
        roots = new bytes32[](groups);
        for (uint256 g; g < groups; ++g) {
            roots[g] = Openings.bytes32At(r.cursor + 32 * g);
        }
        r.cursor += 32 * groups;
        bytes32 hash = keccak256(abi.encodePacked(roots));
        if (hash != t.posting.groupsHash) revert IDisputes.NotPosted(hash, t.posting.groupsHash);
    }

    function _target(Task storage t, Format memory f, Reading memory r, uint8 target, uint16 group)
        private
        view
        returns (uint8 kind, bytes32 root)
    {
        if (target == uint8(Target.Group)) {
            return (ChunkTree.GROUP_SUM, _readGroupRoots(t, r, _requireGroup(f, r, group))[group]);
        }
        if (group != 0) revert IDisputes.InvalidTarget(target, group);
        if (target == uint8(Target.Model)) return (ChunkTree.MODEL, t.posting.root);
        if (target != uint8(Target.State) || f.server == ServerKind.Plain) {
            revert IDisputes.InvalidTarget(target, group);
        }
        return (ChunkTree.STATE, t.posting.stateRoot);
    }

    function _openInt32(Reading memory r, bytes32 expected) private view returns (int32) {
        return Openings.int32At(_open(r, r.at, ChunkTree.MODEL, expected), r.offset);
    }

    function _openInt64(Reading memory r, bytes32 expected) private view returns (int64) {
        return Openings.int64At(_open(r, r.at, ChunkTree.GROUP_SUM, expected), r.offset);
    }

    /// @dev The second moment's root is 0 without one.
    function _openState(Format memory f, Reading memory r, bytes32 expected)
        private
        view
        returns (int32 first, int32 second)
    {
        uint256 values = _open(r, r.stateAt, ChunkTree.STATE, expected);
        first = Openings.int32At(values, r.stateOffset);
        if (f.server >= ServerKind.Adagrad) second = Openings.int32At(values, r.stateOffset + 1);
    }

    /// @dev Where the chunk of an opening lies that leads to the expected root.
    function _open(Reading memory r, Openings.Place memory at, uint8 kind, bytes32 expected)
        private
        view
        returns (uint256 values)
    {
        bytes32 root;
        (root, values, r.cursor) = Openings.plain(at, kind, r.cursor);
        if (root != expected) revert IDisputes.NotPosted(root, expected);
    }

    /// @dev The coordinate in every update of a group. Roots and weights are chained as the tally did: none can be left
    /// out, added twice, or come in another order.
    function _openUpdates(Task storage t, Reading memory r, uint256 group, uint256 count)
        private
        view
        returns (int16[] memory values, uint16[] memory weights)
    {
        (values, weights) = (new int16[](count), new uint16[](count));
        bytes32 chained;
        uint256 cursor = r.cursor;
        for (uint256 i; i < count; ++i) {
            uint16 weight = Openings.uint16At(cursor);
            (bytes32 root, uint256 chunk, uint256 next) = Openings.updateRoot(r.at, cursor + 2);
            (values[i], weights[i], cursor) = (Openings.int16At(chunk, r.offset), weight, next);
            chained = Openings.link(chained, root, weight);
        }
        r.cursor = cursor;
        if (chained != t.acceptedHashes[group]) revert IDisputes.NotAccepted(chained, t.acceptedHashes[group]);
    }

    function _sumOfGroups(Reading memory r, bytes32[] memory roots) private view returns (int256 sum) {
        for (uint256 g; g < roots.length; ++g) {
            sum += _openInt64(r, roots[g]);
        }
    }

    function _ruleSum(Task storage t, Format memory f, Reading memory r)
        private
        view
        returns (int256 sum, uint256 total)
    {
        (int16[] memory values, uint16[] memory weights) = _openUpdates(t, r, 0, r.accepted);
        if (f.rule == Rule.Mean) return FixedPoint.weightedSumOf(values, weights);
        if (f.rule == Rule.Median) return (FixedPoint.medianAt(values, r.low), 1);
        uint256 trim = values.length * f.trimNum / f.trimDen;
        return (FixedPoint.trimmedSum(values, trim, r.low, r.high), values.length - 2 * trim);
    }

    // --- padding ----------------------------------------------------------------------------------

    /// @notice Whether the values after the last one are zero. values: where the chunk lies in calldata.
    function isClean(Openings.Place memory at, uint256 values, uint256 width) internal pure returns (bool) {
        uint256 used = at.numParams - uint256(at.index) * at.chunkParams;
        for (uint256 i = used; i < at.chunkParams; ++i) {
            if (uint256(Openings.bytes32At(values + width * i)) >> (256 - 8 * width) != 0) return false;
        }
        return true;
    }

    /// @dev Whether siblings that cover nothing but padding are their level's constant.
    function _arePathsClean(Openings.Place memory at, uint256 path) private pure returns (bool) {
        uint256 numChunks = ChunkTree.chunksOf(ChunkTree.Shape(ChunkTree.MODEL, at.numParams, at.chunkParams));
        bytes32 constantNode;
        for (uint256 h; h < at.depth; ++h) {
            bool isPadding = ((uint256(at.index) >> h) ^ 1) << h >= numChunks;
            if (isPadding && Openings.bytes32At(path + 32 * h) != constantNode) return false;
            constantNode = ChunkTree.node(constantNode, constantNode);
        }
        return true;
    }
}
