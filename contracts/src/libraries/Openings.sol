// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ChunkTree } from "./ChunkTree.sol";

/// @title Packed openings, read where they lie in calldata; the layout is in IDisputes.
/// @notice A proof hashes hundreds of nodes. In this file, and nowhere else, that is assembly: it costs half of what plain
/// Solidity does. `ChunkTree` says the same in plain words, and tests hold the two together.
library Openings {
    /// @dev What all openings of one chunk of a task have in common.
    struct Place {
        uint64 numParams;
        uint32 chunkParams;
        uint64 index;
        uint256 depth;
    }

    /// @dev An update's opening. cursor: where what follows it begins. values: where its chunk lies. sum: of the whole
    /// vector, as the tree states it. adds: whether every sum on the way is the sum of the two below it.
    struct Update {
        bytes32 root;
        uint256 cursor;
        uint256 values;
        uint64 leafSum;
        uint64 sum;
        bool adds;
    }

    error UnknownForm(uint8 form);
    error HashFailed();

    function placeOf(uint64 numParams, uint32 chunkParams, uint256 index) internal pure returns (Place memory at) {
        ChunkTree.Shape memory shape = ChunkTree.Shape(ChunkTree.MODEL, numParams, chunkParams);
        uint256 numChunks = ChunkTree.chunksOf(shape);
        if (index >= numChunks) revert ChunkTree.IndexOutOfRange(index, numChunks);
        return Place(numParams, chunkParams, uint64(index), ChunkTree.depthOf(shape));
    }

    /// @notice The root of a model, state or group sum that an opening leads to.
    /// @param cursor where the opening begins in calldata.
    /// @return root the root. @return values where its chunk lies. @return next where what follows begins.
    function plain(Place memory at, uint8 kind, uint256 cursor)
        internal
        view
        returns (bytes32 root, uint256 values, uint256 next)
    {
        uint256 width = kind == ChunkTree.GROUP_SUM ? 8 : 4;
        uint256 length = at.chunkParams * width;
        values = cursor;
        bytes32 top = climb(leaf(at.index, cursor, length), at.index, at.depth, cursor + length);
        (root, next) = (_root(at, kind, width, top, 0, false), cursor + length + 32 * at.depth);
    }

    /// @notice The root of an update that an opening leads to, and what its tree states.
    /// @dev Reverts UnknownForm.
    function update(Place memory at, uint256 cursor) internal view returns (Update memory u) {
        (u.root, u.values, u.cursor, u.leafSum, u.sum, u.adds) = _update(at, cursor);
    }

    /// @notice The same where sums do not matter.
    /// @return root the root. @return values where its chunk lies. @return next where what follows begins.
    function updateRoot(Place memory at, uint256 cursor)
        internal
        view
        returns (bytes32 root, uint256 values, uint256 next)
    {
        (root, values, next,,,) = _update(at, cursor);
    }

    function _update(Place memory at, uint256 cursor)
        private
        view
        returns (bytes32 root, uint256 values, uint256 next, uint64 leafSum, uint64 sum, bool adds)
    {
        uint8 form = uint8At(cursor);
        if (form > 1) revert UnknownForm(form);
        unchecked {
            // Places in calldata, of lengths that the task bounds.
            uint256 length = 2 * uint256(at.chunkParams);
            values = cursor + 1;
            next = values + length + 8;
            leafSum = uint64At(next - 8);
            bytes32 top = leaf(at.index, values, length);
            (top, sum, adds) = climbSums(top, leafSum, at.index, at.depth, next, form == 1);
            root = _root(at, ChunkTree.UPDATE, 2, top, sum, true);
            next += (40 + 8 * uint256(form)) * at.depth;
        }
    }

    /// @notice keccak256 of bytes in calldata, through memory that is free again afterwards: proofs are long.
    function keccakOf(bytes calldata data) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let m := mload(0x40)
            calldatacopy(m, data.offset, data.length)
            hash := keccak256(m, data.length)
        }
    }

    // --- hashing ----------------------------------------------------------------------------------

    /// @notice sha256(0x00 ‖ uint64 index ‖ chunk) of a chunk in calldata.
    function leaf(uint64 index, uint256 chunk, uint256 length) internal view returns (bytes32 hash) {
        bool done;
        assembly ("memory-safe") {
            let m := mload(0x40)
            mstore(m, shl(184, index))
            calldatacopy(add(m, 9), chunk, length)
            done := staticcall(gas(), 2, m, add(length, 9), 0, 32)
            hash := mload(0)
        }
        if (!done) revert HashFailed();
    }

    /// @notice The top of a tree without sums. `path` lies in calldata, 32 bytes a level.
    function climb(bytes32 hash, uint64 index, uint256 depth, uint256 path) internal view returns (bytes32 top) {
        bool done = true;
        uint256 way = _wayOf(index, depth);
        assembly ("memory-safe") {
            // 0x01 ‖ left ‖ right: 65 bytes. `own` is where our half begins; aligned, so that the other differs in a bit.
            let left := and(add(mload(0x40), 64), not(63))
            mstore8(sub(left, 1), 1)
            let own := or(left, shl(5, and(way, 1)))
            mstore(own, hash)
            for { } gt(way, 1) { path := add(path, 32) } {
                mstore(xor(own, 32), calldataload(path))
                way := shr(1, way)
                own := or(left, shl(5, and(way, 1)))
                done := and(done, staticcall(gas(), 2, sub(left, 1), 65, own, 32))
            }
            top := mload(own)
        }
        if (!done) revert HashFailed();
    }

    /// @notice The top of an update's tree and its sum. `path` lies in calldata: sibling and its sum, and the stated sum
    /// of their parent after each if `stated`.
    /// @return top the top. @return total its sum. @return adds whether each sum is that of the two below it.
    function climbSums(bytes32 hash, uint64 sum, uint64 index, uint256 depth, uint256 path, bool stated)
        internal
        view
        returns (bytes32 top, uint64 total, bool adds)
    {
        uint256 way = _wayOf(index, depth);
        if (stated) return _climbStated(hash, sum, way, path);
        uint256 whole;
        (top, whole) = _climbAdding(hash, sum, way, path);
        return (top, uint64(whole), whole >> 64 == 0);
    }

    /// @dev The sums added up, in more than 64 bits if they are more; what is hashed are the lower 64.
    function _climbAdding(bytes32 hash, uint256 sum, uint256 way, uint256 path)
        private
        view
        returns (bytes32, uint256)
    {
        bool done = true;
        assembly ("memory-safe") {
            // 0x02 ‖ left ‖ uint64 sumL ‖ right ‖ uint64 sumR: 81 bytes. `own` is where our half begins; aligned, so that
            // the other differs in two bits. Our sum is written as a word, and the sibling over what that leaves behind
            // it; a hash goes to where it is needed next.
            let left := and(add(mload(0x40), 64), not(63))
            mstore8(sub(left, 1), 2)
            let own := or(left, mul(40, and(way, 1)))
            mstore(own, hash)
            for { } gt(way, 1) { path := add(path, 40) } {
                mstore(add(own, 32), shl(192, sum))
                calldatacopy(xor(own, 40), path, 40)
                sum := add(sum, shr(192, calldataload(add(path, 32))))
                way := shr(1, way)
                own := or(left, mul(40, and(way, 1)))
                done := and(done, staticcall(gas(), 2, sub(left, 1), 81, own, 32))
            }
            hash := mload(own)
        }
        if (!done) revert HashFailed();
        return (hash, sum);
    }

    /// @dev The sums as the tree states them.
    function _climbStated(bytes32 hash, uint64 sum, uint256 way, uint256 path)
        private
        view
        returns (bytes32, uint64, bool adds)
    {
        bool done = true;
        adds = true;
        assembly ("memory-safe") {
            let left := and(add(mload(0x40), 64), not(63))
            mstore8(sub(left, 1), 2)
            let own := or(left, mul(40, and(way, 1)))
            mstore(own, hash)
            for { } gt(way, 1) { path := add(path, 48) } {
                mstore(add(own, 32), shl(192, sum))
                calldatacopy(xor(own, 40), path, 40)
                let parent := shr(192, calldataload(add(path, 40)))
                adds := and(adds, eq(add(sum, shr(192, calldataload(add(path, 32)))), parent))
                sum := parent
                way := shr(1, way)
                own := or(left, mul(40, and(way, 1)))
                done := and(done, staticcall(gas(), 2, sub(left, 1), 81, own, 32))
            }
            hash := mload(own)
        }
        if (!done) revert HashFailed();
        return (hash, sum, adds);
    }

    /// @dev For each level on the way up a bit, the lowest first: whether our node is the right one. A 1 ends them.
    /// The index is below 2^depth; `placeOf` has seen to it.
    function _wayOf(uint64 index, uint256 depth) private pure returns (uint256) {
        return uint256(index) | 1 << depth;
    }

    /// @notice keccak256(chained ‖ root ‖ uint16 weight): how the tally chains the accepted updates.
    function link(bytes32 chained, bytes32 root, uint16 weight) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let m := mload(0x40)
            mstore(m, chained)
            mstore(add(m, 32), root)
            mstore(add(m, 64), shl(240, weight))
            hash := keccak256(m, 66)
        }
    }

    /// @notice sha256(0x03 ‖ kind ‖ uint64 P ‖ uint32 c ‖ uint8 width ‖ top [‖ uint64 sum]).
    function _root(Place memory at, uint256 kind, uint256 width, bytes32 top, uint64 sum, bool hasSum)
        private
        view
        returns (bytes32 root)
    {
        uint256 head =
            3 << 248 | kind << 240 | uint256(at.numParams) << 176 | uint256(at.chunkParams) << 144 | width << 136;
        bool done;
        assembly ("memory-safe") {
            let m := mload(0x40)
            mstore(m, head)
            mstore(add(m, 15), top)
            mstore(add(m, 47), shl(192, sum))
            done := staticcall(gas(), 2, m, add(47, shl(3, hasSum)), 0, 32)
            root := mload(0)
        }
        if (!done) revert HashFailed();
    }

    // --- values -----------------------------------------------------------------------------------

    function uint8At(uint256 cursor) internal pure returns (uint8) {
        return uint8(uint256(_word(cursor)) >> 248);
    }

    function uint16At(uint256 cursor) internal pure returns (uint16) {
        return uint16(uint256(_word(cursor)) >> 240);
    }

    function uint64At(uint256 cursor) internal pure returns (uint64) {
        return uint64(uint256(_word(cursor)) >> 192);
    }

    function bytes32At(uint256 cursor) internal pure returns (bytes32) {
        return _word(cursor);
    }

    /// @notice Value `i` of the int16 values that begin at `values`.
    function int16At(uint256 values, uint256 i) internal pure returns (int16) {
        return int16(uint16At(_placed(values, i, 2)));
    }

    function int32At(uint256 values, uint256 i) internal pure returns (int32) {
        return int32(uint32(uint256(_word(_placed(values, i, 4))) >> 224));
    }

    function int64At(uint256 values, uint256 i) internal pure returns (int64) {
        return int64(uint64At(_placed(values, i, 8)));
    }

    /// @dev Where value `i` of that width lies.
    function _placed(uint256 values, uint256 i, uint256 width) private pure returns (uint256) {
        unchecked {
            // A place in calldata, and one in a chunk, whose length the task bounds.
            return values + width * i;
        }
    }

    function _word(uint256 cursor) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := calldataload(cursor)
        }
    }
}
