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

    /// @notice The root of an update that an opening leads to.
    /// @dev Reverts UnknownForm.
    function update(Place memory at, uint256 cursor) internal view returns (Update memory u) {
        uint8 form = uint8At(cursor);
        if (form > 1) revert UnknownForm(form);
        unchecked {
            // Places in calldata, of lengths that the task bounds.
            uint256 length = 2 * uint256(at.chunkParams);
            (u.values, cursor) = (cursor + 1, cursor + 1 + length);
            u.leafSum = uint64At(cursor);
            bytes32 top = leaf(at.index, u.values, length);
            (top, u.sum, u.adds) = climbSums(top, u.leafSum, at.index, at.depth, cursor + 8, form == 1);
            u.cursor = cursor + 8 + (40 + 8 * uint256(form)) * at.depth;
            u.root = _root(at, ChunkTree.UPDATE, 2, top, u.sum, true);
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
        assembly ("memory-safe") {
            let m := mload(0x40)
            mstore8(m, 1)
            let left := add(m, 1)
            let own := shl(5, and(index, 1))
            mstore(add(left, own), hash)
            for { let end := add(path, shl(5, depth)) } lt(path, end) { path := add(path, 32) } {
                mstore(add(left, xor(own, 32)), calldataload(path))
                index := shr(1, index)
                own := shl(5, and(index, 1))
                done := and(done, staticcall(gas(), 2, m, 65, add(left, own), 32))
            }
            hash := mload(add(left, own))
            top := hash
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
        if (stated) return _climbStated(hash, sum, index, path, path + 48 * depth);
        uint256 whole;
        (top, whole) = _climbAdding(hash, sum, index, path, path + 40 * depth);
        return (top, uint64(whole), whole >> 64 == 0);
    }

    /// @dev The sums added up, in more than 64 bits if they are more; what is hashed are the lower 64.
    function _climbAdding(bytes32 hash, uint256 sum, uint64 index, uint256 path, uint256 end)
        private
        view
        returns (bytes32, uint256)
    {
        bool done = true;
        assembly ("memory-safe") {
            // 0x02 ‖ left ‖ uint64 sumL ‖ right ‖ uint64 sumR: 81 bytes. `own` is 0 or 40: which of the two is ours. Our
            // sum is written as a word, and the sibling over what that leaves behind it; a hash goes to its next place.
            let m := mload(0x40)
            mstore8(m, 2)
            m := add(m, 1)
            let own := mul(40, and(index, 1))
            mstore(add(m, own), hash)
            for { } lt(path, end) { path := add(path, 40) } {
                mstore(add(add(m, own), 32), shl(192, sum))
                calldatacopy(add(m, sub(40, own)), path, 40)
                sum := add(sum, shr(192, calldataload(add(path, 32))))
                index := shr(1, index)
                own := mul(40, and(index, 1))
                done := and(done, staticcall(gas(), 2, sub(m, 1), 81, add(m, own), 32))
            }
            hash := mload(add(m, own))
        }
        if (!done) revert HashFailed();
        return (hash, sum);
    }

    /// @dev The sums as the tree states them.
    function _climbStated(bytes32 hash, uint64 sum, uint64 index, uint256 path, uint256 end)
        private
        view
        returns (bytes32, uint64, bool adds)
    {
        bool done = true;
        adds = true;
        assembly ("memory-safe") {
            let m := mload(0x40)
            mstore8(m, 2)
            m := add(m, 1)
            let own := mul(40, and(index, 1))
            mstore(add(m, own), hash)
            for { } lt(path, end) { path := add(path, 48) } {
                mstore(add(add(m, own), 32), shl(192, sum))
                calldatacopy(add(m, sub(40, own)), path, 40)
                let parent := shr(192, calldataload(add(path, 40)))
                adds := and(adds, eq(add(sum, shr(192, calldataload(add(path, 32)))), parent))
                sum := parent
                index := shr(1, index)
                own := mul(40, and(index, 1))
                done := and(done, staticcall(gas(), 2, sub(m, 1), 81, add(m, own), 32))
            }
            hash := mload(add(m, own))
        }
        if (!done) revert HashFailed();
        return (hash, sum, adds);
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
        return int16(uint16At(values + 2 * i));
    }

    function int32At(uint256 values, uint256 i) internal pure returns (int32) {
        return int32(uint32(uint256(_word(values + 4 * i)) >> 224));
    }

    function int64At(uint256 values, uint256 i) internal pure returns (int64) {
        return int64(uint64At(values + 8 * i));
    }

    function _word(uint256 cursor) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := calldataload(cursor)
        }
    }
}
