// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Test } from "../base/Test.sol";
import { ChunkTreeHarness } from "../unit/ChunkTree.t.sol";

/// @dev Builds whole trees of one-chunk-size 16 here, level by level, and opens them through the library.
contract ChunkTreeFuzzTest is Test {
    ChunkTreeHarness internal harness = new ChunkTreeHarness();

    function testFuzz_verify__everyChunkOfAModel__leadsToTheRoot(uint256 seed, uint8 size) public view {
        ChunkTree.Shape memory shape = ChunkTree.Shape(1, uint64(bound(size, 1, 200)), 16);
        (bytes32[][] memory levels,) = _build(shape, seed);
        bytes32 root = harness.rootOf(shape, levels[levels.length - 1][0]);
        for (uint64 i = 0; i < harness.chunksOf(shape); ++i) {
            ChunkTree.Opening memory opening = _open(shape, seed, levels, new uint64[][](0), i);
            vm.assertTrue(harness.verify(root, shape, opening));
            vm.assertTrue(harness.isPaddingClean(shape, opening));
        }
    }

    function testFuzz_verifyUpdate__everyChunk__leadsToTheRootAndTheSum(uint256 seed, uint8 size) public view {
        ChunkTree.Shape memory shape = ChunkTree.Shape(3, uint64(bound(size, 1, 200)), 16);
        (bytes32[][] memory levels, uint64[][] memory sums) = _build(shape, seed);
        uint64 sum = sums[sums.length - 1][0];
        bytes32 root = harness.rootOfSums(shape, levels[levels.length - 1][0], sum);
        for (uint64 i = 0; i < harness.chunksOf(shape); ++i) {
            ChunkTree.Opening memory opening = _open(shape, seed, levels, sums, i);
            vm.assertTrue(harness.verifyUpdate(root, sum, shape, opening));
            vm.assertTrue(harness.isPaddingClean(shape, opening));
        }
    }

    function testFuzz_verifyUpdate__anyBitFlipped__isNoOpening(uint256 seed, uint8 size, uint64 at, uint8 what)
        public
        view
    {
        ChunkTree.Shape memory shape = ChunkTree.Shape(3, uint64(bound(size, 17, 200)), 16);
        (bytes32[][] memory levels, uint64[][] memory sums) = _build(shape, seed);
        uint64 sum = sums[sums.length - 1][0];
        bytes32 root = harness.rootOfSums(shape, levels[levels.length - 1][0], sum);
        uint64 index = uint64(at % harness.chunksOf(shape));
        ChunkTree.Opening memory opening = _open(shape, seed, levels, sums, index);
        if (what % 3 == 0) opening.chunk[at % 32] ^= bytes1(uint8(1) << (what % 8));
        else if (what % 3 == 1) opening.path[at % opening.path.length] ^= bytes32(uint256(1) << what);
        else opening.sums[at % opening.sums.length] ^= uint64(1) << (what % 40);
        vm.assertFalse(harness.verifyUpdate(root, sum, shape, opening));
    }

    function testFuzz_depthOf__anyShape__smallestPowerOfTwoThatHoldsAllChunks(uint64 numParams, uint16 sixteens)
        public
        view
    {
        ChunkTree.Shape memory shape =
            ChunkTree.Shape(1, uint64(bound(numParams, 1, type(uint64).max)), 16 * (uint32(sixteens) + 1));
        uint256 chunks = harness.chunksOf(shape);
        uint256 depth = harness.depthOf(shape);
        vm.assertTrue(chunks * shape.chunkParams >= shape.numParams);
        vm.assertTrue((chunks - 1) * shape.chunkParams < shape.numParams);
        vm.assertTrue(chunks <= 1 << depth && (depth == 0 || chunks > 1 << (depth - 1)));
    }

    function testFuzz_int16At__anyValues__roundTrip(int16[16] memory values) public view {
        bytes memory chunk;
        uint256 sum = 0;
        for (uint256 i = 0; i < 16; ++i) {
            chunk = bytes.concat(chunk, bytes2(uint16(values[i])));
            sum += uint256(int256(values[i]) * values[i]);
        }
        for (uint256 i = 0; i < 16; ++i) {
            vm.assertEq(harness.int16At(chunk, i), values[i]);
        }
        vm.assertEq(harness.sumOfSquares(chunk), sum);
    }

    function testFuzz_int32At__anyValue__roundTrip(int32 first, int32 second) public view {
        bytes memory chunk = bytes.concat(bytes4(uint32(first)), bytes4(uint32(second)));
        vm.assertEq(harness.int32At(chunk, 0), first);
        vm.assertEq(harness.int32At(chunk, 1), second);
    }

    // --- a second spelling of the tree ---------------------------------------------------------

    function _chunk(ChunkTree.Shape memory shape, uint256 seed, uint64 index)
        private
        pure
        returns (bytes memory chunk)
    {
        uint256 width = shape.kind == 3 ? 2 : 4;
        chunk = new bytes(16 * width);
        for (uint256 i = 0; i < chunk.length; ++i) {
            bool isPadding = index * 16 + i / width >= shape.numParams;
            if (!isPadding) chunk[i] = bytes1(uint8(uint256(keccak256(abi.encode(seed, index, i)))));
        }
    }

    function _build(ChunkTree.Shape memory shape, uint256 seed)
        private
        view
        returns (bytes32[][] memory levels, uint64[][] memory sums)
    {
        uint256 depth = harness.depthOf(shape);
        (levels, sums) = (new bytes32[][](depth + 1), new uint64[][](depth + 1));
        (levels[0], sums[0]) = (new bytes32[](1 << depth), new uint64[](1 << depth));
        for (uint64 i = 0; i < harness.chunksOf(shape); ++i) {
            bytes memory chunk = _chunk(shape, seed, i);
            (levels[0][i], sums[0][i]) = (harness.leaf(i, chunk), harness.sumOfSquares(chunk));
        }
        for (uint256 height = 1; height <= depth; ++height) {
            (levels[height], sums[height]) = _above(shape.kind == 3, levels[height - 1], sums[height - 1]);
        }
    }

    function _above(bool hasSums, bytes32[] memory nodes, uint64[] memory below)
        private
        view
        returns (bytes32[] memory level, uint64[] memory sums)
    {
        (level, sums) = (new bytes32[](nodes.length / 2), new uint64[](nodes.length / 2));
        for (uint256 i = 0; i < level.length; ++i) {
            (bytes32 left, bytes32 right) = (nodes[2 * i], nodes[2 * i + 1]);
            level[i] =
                hasSums ? harness.sumNode(left, below[2 * i], right, below[2 * i + 1]) : harness.node(left, right);
            sums[i] = below[2 * i] + below[2 * i + 1];
        }
    }

    function _open(
        ChunkTree.Shape memory shape,
        uint256 seed,
        bytes32[][] memory levels,
        uint64[][] memory sums,
        uint64 index
    ) private pure returns (ChunkTree.Opening memory opening) {
        uint256 depth = levels.length - 1;
        opening = ChunkTree.Opening(
            index, _chunk(shape, seed, index), new bytes32[](depth), new uint64[](sums.length == 0 ? 0 : depth)
        );
        for (uint256 height = 0; height < depth; ++height) {
            uint256 sibling = (uint256(index) >> height) ^ 1;
            opening.path[height] = levels[height][sibling];
            if (sums.length != 0) opening.sums[height] = sums[height][sibling];
        }
    }
}
