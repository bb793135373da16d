// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ChunkTree } from "../../src/libraries/ChunkTree.sol";

/// @dev A whole vector's tree. nodes[h][i] and sums[h][i] have h levels below them; values include the padding.
/// `sums` are what the tree states, which in a dishonest one is not what its values add up to; 0 but for updates.
struct Tree {
    ChunkTree.Shape shape;
    uint256 depth;
    int256[] values;
    bytes[] chunks;
    bytes32[][] nodes;
    uint64[][] sums;
    bytes32 root;
}

/// @notice Builds the trees of small vectors, honest and dishonest ones, and the packed openings of IDisputes, in plain
/// Solidity upon `ChunkTree`.
library Trees {
    /// @param values numParams of them; what is given beyond is padding, which an honest vector does not give.
    function build(uint8 kind, uint64 numParams, uint32 chunkParams, int256[] memory values)
        internal
        pure
        returns (Tree memory t)
    {
        t.shape = ChunkTree.Shape(kind, numParams, chunkParams);
        t.depth = ChunkTree.depthOf(t.shape);
        uint256 numChunks = ChunkTree.chunksOf(t.shape);
        t.values = new int256[](numChunks * chunkParams);
        for (uint256 i; i < values.length; ++i) {
            t.values[i] = values[i];
        }
        (t.nodes, t.sums) = (new bytes32[][](t.depth + 1), new uint64[][](t.depth + 1));
        for (uint256 h; h <= t.depth; ++h) {
            (t.nodes[h], t.sums[h]) = (new bytes32[](1 << (t.depth - h)), new uint64[](1 << (t.depth - h)));
        }
        t.chunks = new bytes[](numChunks);
        for (uint256 c; c < numChunks; ++c) {
            t.chunks[c] = chunkOf(t, c);
            t.nodes[0][c] = ChunkTree.leaf(uint64(c), t.chunks[c]);
            if (kind == ChunkTree.UPDATE) t.sums[0][c] = _squares(t, c);
        }
        rehash(t, 0);
    }

    /// @notice Hashes anew all that is above level `from`, after somebody lied there.
    function rehash(Tree memory t, uint256 from) internal pure {
        bool hasSums = t.shape.kind == ChunkTree.UPDATE;
        for (uint256 h = from + 1; h <= t.depth; ++h) {
            for (uint256 i; i < t.nodes[h].length; ++i) {
                (bytes32 left, bytes32 right) = (t.nodes[h - 1][2 * i], t.nodes[h - 1][2 * i + 1]);
                (uint64 l, uint64 r) = (t.sums[h - 1][2 * i], t.sums[h - 1][2 * i + 1]);
                t.nodes[h][i] = hasSums ? ChunkTree.sumNode(left, l, right, r) : ChunkTree.node(left, right);
                unchecked {
                    t.sums[h][i] = l + r;
                }
            }
        }
        seal(t);
    }

    /// @notice The root over the top and the sum that the tree states for it.
    function seal(Tree memory t) internal pure {
        (bytes32 top, uint64 sum) = (t.nodes[t.depth][0], t.sums[t.depth][0]);
        t.root =
            t.shape.kind == ChunkTree.UPDATE ? ChunkTree.rootOfSums(t.shape, top, sum) : ChunkTree.rootOf(t.shape, top);
    }

    function sumOf(Tree memory t) internal pure returns (uint64) {
        return t.sums[t.depth][0];
    }

    // --- lies ------------------------------------------------------------------------------------------------------

    /// @notice A sum that is not what lies below it, at any level; what is above adds up with it.
    function misstate(Tree memory t, uint256 height, uint256 index, int256 by) internal pure {
        t.sums[height][index] = uint64(uint256(int256(uint256(t.sums[height][index])) + by));
        if (height == t.depth) seal(t);
        else rehash(t, height);
    }

    /// @notice Another node than what lies below it hashes to, or than the constant of mere padding.
    function replaceNode(Tree memory t, uint256 height, uint256 index, bytes32 node) internal pure {
        t.nodes[height][index] = node;
        if (height == t.depth) seal(t);
        else rehash(t, height);
    }

    // --- openings --------------------------------------------------------------------------------------------------

    /// @notice Of a model, a state or a group sum: chunk ‖ siblings.
    function open(Tree memory t, uint256 index) internal pure returns (bytes memory packed) {
        packed = t.chunks[index];
        for (uint256 h; h < t.depth; ++h) {
            packed = bytes.concat(packed, t.nodes[h][(index >> h) ^ 1]);
        }
    }

    /// @notice Of an update: form ‖ chunk ‖ its sum ‖ siblings with their sums, in form 1 with the parents' sums.
    function openUpdate(Tree memory t, uint256 index, uint8 form) internal pure returns (bytes memory packed) {
        packed = abi.encodePacked(form, t.chunks[index], t.sums[0][index]);
        for (uint256 h; h < t.depth; ++h) {
            uint256 sibling = (index >> h) ^ 1;
            packed = abi.encodePacked(packed, t.nodes[h][sibling], t.sums[h][sibling]);
            if (form == 1) packed = abi.encodePacked(packed, t.sums[h + 1][index >> (h + 1)]);
        }
    }

    /// @notice What `answerNodes` takes: all nodes of level `height` below node `index` of level `above`.
    function nodesBelow(Tree memory t, uint256 above, uint256 index, uint256 height)
        internal
        pure
        returns (bytes memory packed)
    {
        uint256 count = 1 << (above - height);
        for (uint256 i; i < count; ++i) {
            packed = bytes.concat(packed, t.nodes[height][index * count + i]);
        }
    }

    /// @notice The `c`th chunk of the values, big-endian two's complement.
    function chunkOf(Tree memory t, uint256 c) internal pure returns (bytes memory) {
        (uint256 width, uint256 count) = (ChunkTree.widthOf(t.shape), t.shape.chunkParams);
        // A chunk fills whole words, since it has a multiple of 16 values.
        uint256 perWord = 32 / width;
        bytes32[] memory words = new bytes32[](count / perWord);
        for (uint256 i; i < count; ++i) {
            uint256 value = uint256(t.values[c * count + i]) << (256 - 8 * width);
            words[i / perWord] |= bytes32(value >> (8 * width * (i % perWord)));
        }
        return abi.encodePacked(words);
    }

    function _squares(Tree memory t, uint256 c) private pure returns (uint64 sum) {
        for (uint256 i; i < t.shape.chunkParams; ++i) {
            int256 value = t.values[c * t.shape.chunkParams + i];
            sum += uint64(uint256(value * value));
        }
    }

    // --- one chunk of a large vector -------------------------------------------------------------------------------

    /// @notice A root and its opening at one chunk, when nothing else of the vector matters: its siblings are anything.
    function alone(ChunkTree.Shape memory shape, uint64 index, bytes memory chunk, bytes32 seed)
        internal
        pure
        returns (bytes32 root, bytes memory opening)
    {
        uint256 depth = ChunkTree.depthOf(shape);
        (root, opening) = (ChunkTree.leaf(index, chunk), chunk);
        for (uint256 h; h < depth; ++h) {
            bytes32 sibling = keccak256(abi.encode(seed, h));
            root = index >> h & 1 == 1 ? ChunkTree.node(sibling, root) : ChunkTree.node(root, sibling);
            opening = bytes.concat(opening, sibling);
        }
        root = ChunkTree.rootOf(shape, root);
    }

    /// @notice The same of an update, whose chunk has the sum of squares `sum`, and every sibling that of 1000.
    function aloneUpdate(ChunkTree.Shape memory shape, uint64 index, bytes memory chunk, uint64 sum, bytes32 seed)
        internal
        pure
        returns (bytes32 root, uint64 total, bytes memory opening)
    {
        uint256 depth = ChunkTree.depthOf(shape);
        (root, total) = (ChunkTree.leaf(index, chunk), sum);
        opening = abi.encodePacked(uint8(0), chunk, sum);
        for (uint256 h; h < depth; ++h) {
            bytes32 sibling = keccak256(abi.encode(seed, h));
            root = index >> h & 1 == 1
                ? ChunkTree.sumNode(sibling, 1000, root, total)
                : ChunkTree.sumNode(root, total, sibling, 1000);
            opening = abi.encodePacked(opening, sibling, uint64(1000));
            total += 1000;
        }
        root = ChunkTree.rootOfSums(shape, root, total);
    }
}
