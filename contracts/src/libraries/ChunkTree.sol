// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Math } from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title The Merkle tree over a vector's chunks, as `chainfl/encoding/chunk_tree.py` builds it.
/// @notice SHA-256 throughout: hardware runs it off chain and a precompile on chain. The first byte of what is
/// hashed says what it is (0 leaf, 1 node, 2 node with sums, 3 root), so none passes for another. Formats:
/// docs/protocol.md, Commitments. Both sides are driven by tests/vectors/chunk_tree.json.
library ChunkTree {
    uint8 internal constant MODEL = 1;
    uint8 internal constant STATE = 2;
    uint8 internal constant UPDATE = 3;
    uint8 internal constant GROUP_SUM = 4;

    /// @dev What is known of a vector before any of its values: part of its root.
    /// kind: one of the constants above. numParams: its length. chunkParams: values a chunk, a multiple of 16.
    struct Shape {
        uint8 kind;
        uint64 numParams;
        uint32 chunkParams;
    }

    /// @dev One chunk and its path. chunk: chunkParams big-endian values. path: the sibling at each level, the
    /// leaf's first. sums: the siblings' sums of squares for an update, empty for the other kinds.
    struct Opening {
        uint64 index;
        bytes chunk;
        bytes32[] path;
        uint64[] sums;
    }

    error InvalidShape(uint8 kind, uint64 numParams, uint32 chunkParams);
    error IndexOutOfRange(uint256 index, uint256 numChunks);
    error ChunkLengthMismatch(uint256 length, uint256 expected);
    error PathLengthMismatch(uint256 path, uint256 sums, uint256 depth);
    error SumOverflow(uint256 sum);

    // --- the four hashes -----------------------------------------------------------------------

    function leaf(uint64 index, bytes memory chunk) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(uint8(0), index, chunk));
    }

    function node(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(uint8(1), left, right));
    }

    function sumNode(bytes32 left, uint64 leftSum, bytes32 right, uint64 rightSum) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(uint8(2), left, leftSum, right, rightSum));
    }

    /// @notice The root of a vector without sums, from the top of its tree.
    function rootOf(Shape memory shape, bytes32 top) internal pure returns (bytes32) {
        return sha256(
            abi.encodePacked(uint8(3), shape.kind, shape.numParams, shape.chunkParams, uint8(widthOf(shape)), top)
        );
    }

    /// @notice The root of an update, which binds the sum of squares of all of its values.
    function rootOfSums(Shape memory shape, bytes32 top, uint64 sum) internal pure returns (bytes32) {
        return sha256(
            abi.encodePacked(uint8(3), shape.kind, shape.numParams, shape.chunkParams, uint8(widthOf(shape)), top, sum)
        );
    }

    // --- shape ---------------------------------------------------------------------------------

    /// @dev Reverts InvalidShape for an unknown kind, no values, or chunks that are no multiple of 16 values.
    function checkShape(Shape memory shape) internal pure {
        bool valid = shape.kind >= MODEL && shape.kind <= GROUP_SUM && shape.numParams != 0 && shape.chunkParams != 0
            && shape.chunkParams % 16 == 0;
        if (!valid) revert InvalidShape(shape.kind, shape.numParams, shape.chunkParams);
    }

    /// @notice Bytes a value.
    function widthOf(Shape memory shape) internal pure returns (uint256) {
        if (shape.kind == UPDATE) return 2;
        return shape.kind == GROUP_SUM ? 8 : 4;
    }

    /// @notice The leaves that hold values; the tree pads their number to a power of two.
    function chunksOf(Shape memory shape) internal pure returns (uint256) {
        return (uint256(shape.numParams) + shape.chunkParams - 1) / shape.chunkParams;
    }

    /// @notice The length of a path; 0 for one chunk, which is its own root.
    function depthOf(Shape memory shape) internal pure returns (uint256) {
        uint256 last = chunksOf(shape) - 1;
        return last == 0 ? 0 : Math.log2(last) + 1;
    }

    // --- openings ------------------------------------------------------------------------------

    /// @notice The root that an opening of a vector without sums leads to.
    /// @dev Reverts InvalidShape, IndexOutOfRange, ChunkLengthMismatch, PathLengthMismatch.
    function rootOfOpening(Shape memory shape, Opening calldata opening) internal pure returns (bytes32) {
        checkForm(shape, opening);
        bytes32 hash = leaf(opening.index, opening.chunk);
        for (uint256 height = 0; height < opening.path.length; ++height) {
            bytes32 sibling = opening.path[height];
            hash = _isRight(opening.index, height) ? node(sibling, hash) : node(hash, sibling);
        }
        return rootOf(shape, hash);
    }

    /// @notice The root and the sum of squares that an update's opening leads to. The chunk's own sum is computed.
    /// @dev Reverts as `rootOfOpening`, and SumOverflow if a sum leaves 64 bits.
    function rootOfUpdateOpening(Shape memory shape, Opening calldata opening)
        internal
        pure
        returns (bytes32 root, uint64 sum)
    {
        checkForm(shape, opening);
        bytes32 hash = leaf(opening.index, opening.chunk);
        sum = sumOfSquares(opening.chunk);
        for (uint256 height = 0; height < opening.path.length; ++height) {
            (bytes32 sibling, uint64 siblingSum) = (opening.path[height], opening.sums[height]);
            hash = _isRight(opening.index, height)
                ? sumNode(sibling, siblingSum, hash, sum)
                : sumNode(hash, sum, sibling, siblingSum);
            sum = addSums(sum, siblingSum);
        }
        root = rootOfSums(shape, hash, sum);
    }

    /// @notice Whether the opening leads to the root of a model, a state or a group sum.
    /// @dev Padding is not looked at; see `isPaddingClean`. Reverts as `rootOfOpening`.
    function verify(bytes32 root, Shape memory shape, Opening calldata opening) internal pure returns (bool) {
        return rootOfOpening(shape, opening) == root;
    }

    /// @notice Whether the opening leads to the root of an update and to the sum that was revealed with it.
    /// @dev Padding is not looked at; see `isPaddingClean`. Reverts as `rootOfUpdateOpening`.
    function verifyUpdate(bytes32 root, uint64 sum, Shape memory shape, Opening calldata opening)
        internal
        pure
        returns (bool)
    {
        (bytes32 seenRoot, uint64 seenSum) = rootOfUpdateOpening(shape, opening);
        return seenRoot == root && seenSum == sum;
    }

    /// @notice Whether all padding that the opening shows is what padding must be: zero values after the last one,
    /// and above them the constant of each level. Otherwise a posted root is wrong and an update out of range.
    /// @dev Reverts InvalidShape, IndexOutOfRange, ChunkLengthMismatch, PathLengthMismatch.
    function isPaddingClean(Shape memory shape, Opening calldata opening) internal pure returns (bool) {
        checkForm(shape, opening);
        uint256 used = (shape.numParams - uint256(opening.index) * shape.chunkParams) * widthOf(shape);
        for (uint256 i = used; i < opening.chunk.length; ++i) {
            if (opening.chunk[i] != 0) return false;
        }
        bool hasSums = shape.kind == UPDATE;
        uint256 numChunks = chunksOf(shape);
        bytes32 constantNode = bytes32(0);
        for (uint256 height = 0; height < opening.path.length; ++height) {
            if (((uint256(opening.index) >> height) ^ 1) << height >= numChunks) {
                if (opening.path[height] != constantNode || (hasSums && opening.sums[height] != 0)) return false;
            }
            constantNode = hasSums ? sumNode(constantNode, 0, constantNode, 0) : node(constantNode, constantNode);
        }
        return true;
    }

    /// @dev Reverts InvalidShape, IndexOutOfRange, ChunkLengthMismatch, PathLengthMismatch.
    function checkForm(Shape memory shape, Opening calldata opening) internal pure {
        checkShape(shape);
        uint256 numChunks = chunksOf(shape);
        if (opening.index >= numChunks) revert IndexOutOfRange(opening.index, numChunks);
        uint256 length = shape.chunkParams * widthOf(shape);
        if (opening.chunk.length != length) revert ChunkLengthMismatch(opening.chunk.length, length);
        uint256 depth = depthOf(shape);
        if (opening.path.length != depth || opening.sums.length != (shape.kind == UPDATE ? depth : 0)) {
            revert PathLengthMismatch(opening.path.length, opening.sums.length, depth);
        }
    }

    // --- values --------------------------------------------------------------------------------

    /// @notice Value `i` of a chunk of int16 values.
    function int16At(bytes calldata chunk, uint256 i) internal pure returns (int16) {
        return int16(uint16(bytes2(chunk[2 * i:2 * i + 2])));
    }

    /// @notice Value `i` of a chunk of int32 values.
    function int32At(bytes calldata chunk, uint256 i) internal pure returns (int32) {
        return int32(uint32(bytes4(chunk[4 * i:4 * i + 4])));
    }

    /// @notice The sum of squares of a chunk of int16 values.
    /// @dev Reverts SumOverflow, which takes a chunk of more than 2^34 values.
    function sumOfSquares(bytes calldata chunk) internal pure returns (uint64) {
        uint256 sum = 0;
        for (uint256 i = 0; i < chunk.length / 2; ++i) {
            int256 value = int16At(chunk, i);
            // forge-lint: disable-next-line(unsafe-typecast) a square is not negative
            sum += uint256(value * value);
        }
        return _toSum(sum);
    }

    /// @notice The sum of two nodes. @dev Reverts SumOverflow.
    function addSums(uint64 left, uint64 right) internal pure returns (uint64) {
        return _toSum(uint256(left) + right);
    }

    function _toSum(uint256 sum) private pure returns (uint64) {
        if (sum > type(uint64).max) revert SumOverflow(sum);
        // forge-lint: disable-next-line(unsafe-typecast) checked on the line above
        return uint64(sum);
    }

    function _isRight(uint64 index, uint256 height) private pure returns (bool) {
        return (index >> height) & 1 == 1;
    }
}
