// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Test } from "../base/Test.sol";

/// @dev External doors to an internal library.
contract ChunkTreeHarness {
    function leaf(uint64 index, bytes calldata chunk) external pure returns (bytes32) {
        return ChunkTree.leaf(index, chunk);
    }

    function node(bytes32 left, bytes32 right) external pure returns (bytes32) {
        return ChunkTree.node(left, right);
    }

    function sumNode(bytes32 left, uint64 leftSum, bytes32 right, uint64 rightSum) external pure returns (bytes32) {
        return ChunkTree.sumNode(left, leftSum, right, rightSum);
    }

    function rootOf(ChunkTree.Shape calldata shape, bytes32 top) external pure returns (bytes32) {
        return ChunkTree.rootOf(shape, top);
    }

    function rootOfSums(ChunkTree.Shape calldata shape, bytes32 top, uint64 sum) external pure returns (bytes32) {
        return ChunkTree.rootOfSums(shape, top, sum);
    }

    function chunksOf(ChunkTree.Shape calldata shape) external pure returns (uint256) {
        return ChunkTree.chunksOf(shape);
    }

    function depthOf(ChunkTree.Shape calldata shape) external pure returns (uint256) {
        return ChunkTree.depthOf(shape);
    }

    function rootOfOpening(ChunkTree.Shape calldata shape, ChunkTree.Opening calldata opening)
        external
        pure
        returns (bytes32)
    {
        return ChunkTree.rootOfOpening(shape, opening);
    }

    function rootOfUpdateOpening(ChunkTree.Shape calldata shape, ChunkTree.Opening calldata opening)
        external
        pure
        returns (bytes32, uint64)
    {
        return ChunkTree.rootOfUpdateOpening(shape, opening);
    }

    function verify(bytes32 root, ChunkTree.Shape calldata shape, ChunkTree.Opening calldata opening)
        external
        pure
        returns (bool)
    {
        return ChunkTree.verify(root, shape, opening);
    }

    function verifyUpdate(bytes32 root, uint64 sum, ChunkTree.Shape calldata shape, ChunkTree.Opening calldata opening)
        external
        pure
        returns (bool)
    {
        return ChunkTree.verifyUpdate(root, sum, shape, opening);
    }

    function isPaddingClean(ChunkTree.Shape calldata shape, ChunkTree.Opening calldata opening)
        external
        pure
        returns (bool)
    {
        return ChunkTree.isPaddingClean(shape, opening);
    }

    function int16At(bytes calldata chunk, uint256 i) external pure returns (int16) {
        return ChunkTree.int16At(chunk, i);
    }

    function int32At(bytes calldata chunk, uint256 i) external pure returns (int32) {
        return ChunkTree.int32At(chunk, i);
    }

    function sumOfSquares(bytes calldata chunk) external pure returns (uint64) {
        return ChunkTree.sumOfSquares(chunk);
    }

    function addSums(uint64 left, uint64 right) external pure returns (uint64) {
        return ChunkTree.addSums(left, right);
    }
}

/// ChunkTree
/// ├── the four hashes: the bytes of docs/protocol.md, written out
/// ├── shape
/// │   ├── at one value, a full chunk and one value more: chunks and depth
/// │   └── given an unknown kind, no values, or chunks of 0 or 8 values: it reverts
/// ├── an opening of a model or of an update
/// │   ├── given the shared vectors: it leads to their roots and sums, and its padding is clean
/// │   ├── with one bit of the chunk, of a sibling or of a sum changed, or another index or sum: it does not
/// │   ├── with an index at and past the last chunk: only the first is accepted
/// │   ├── with a chunk one byte too short or too long: it reverts
/// │   ├── with a path or sums one too short or too long: it reverts
/// │   └── with sums that leave 64 bits together: it reverts
/// ├── padding
/// │   ├── given a last chunk whose padding is not zero: the hashes fit and the padding is not clean
/// │   ├── given a padding node that is not its level's constant: the hashes fit and the padding is not clean
/// │   └── given a padding node with a sum: likewise
/// └── values: at the ends of each type, and the sum of squares at its largest
contract ChunkTreeTest is Test {
    ChunkTreeHarness internal harness = new ChunkTreeHarness();
    string internal json = vm.readFile("tests/vectors/chunk_tree.json");

    uint8 internal constant MODEL = 1;
    uint8 internal constant UPDATE = 3;
    bytes32 internal constant LEFT = bytes32(uint256(0xaa));
    bytes32 internal constant RIGHT = bytes32(uint256(0xbb));

    // --- the four hashes -----------------------------------------------------------------------

    function test_leaf__anyChunk__prefixIndexAndChunk() public view {
        bytes memory preimage = hex"000000000000000102cafe";
        vm.assertEq(harness.leaf(0x0102, hex"cafe"), sha256(preimage));
    }

    function test_node__twoChildren__prefixAndBoth() public view {
        vm.assertEq(harness.node(LEFT, RIGHT), sha256(bytes.concat(hex"01", LEFT, RIGHT)));
    }

    function test_sumNode__twoChildren__prefixAndBothWithTheirSums() public view {
        bytes memory preimage = bytes.concat(hex"02", LEFT, hex"0000000000000005", RIGHT, hex"ffffffffffffffff");
        vm.assertEq(harness.sumNode(LEFT, 5, RIGHT, type(uint64).max), sha256(preimage));
    }

    function test_rootOf__model__bindsKindLengthChunkAndWidth() public view {
        bytes memory preimage = bytes.concat(hex"030100000000000000110000001004", LEFT);
        vm.assertEq(harness.rootOf(_shape(MODEL, 17, 16), LEFT), sha256(preimage));
    }

    function test_rootOfSums__update__bindsTheSumToo() public view {
        bytes memory preimage = bytes.concat(hex"030300000000000000110000001002", LEFT, hex"0000000000000007");
        vm.assertEq(harness.rootOfSums(_shape(UPDATE, 17, 16), LEFT, 7), sha256(preimage));
    }

    // --- shape ---------------------------------------------------------------------------------

    function test_shape__aroundChunkBoundaries__chunksAndDepth() public view {
        _assertShape(1, 1, 0);
        _assertShape(16, 1, 0);
        _assertShape(17, 2, 1);
        _assertShape(32, 2, 1);
        _assertShape(33, 3, 2);
        _assertShape(64, 4, 2);
        _assertShape(65, 5, 3);
        _assertShape(type(uint64).max, 1 << 60, 60);
    }

    function test_checkForm__impossibleShape__reverts() public {
        _expectInvalid(_shape(0, 16, 16));
        _expectInvalid(_shape(5, 16, 16));
        _expectInvalid(_shape(MODEL, 0, 16));
        _expectInvalid(_shape(MODEL, 16, 0));
        _expectInvalid(_shape(MODEL, 16, 8));
    }

    // --- openings ------------------------------------------------------------------------------

    function test_verify__sharedVectors__leadToTheirRootsWithCleanPadding() public view {
        uint256 count = 0;
        for (; vm.keyExistsJson(json, _at(count)); ++count) {
            string memory at = _at(count);
            for (uint256 i = 0; vm.keyExistsJson(json, _opening(at, i)); ++i) {
                _assertOpens(at, _readOpening(_opening(at, i)));
            }
        }
        vm.assertGt(count, 0);
    }

    function test_verify__modelChunkChanged__false() public view {
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root) = _modelOfTwo();
        vm.assertTrue(harness.verify(root, shape, opening));
        opening.chunk[63] ^= 0x01;
        vm.assertFalse(harness.verify(root, shape, opening));
    }

    function test_verify__modelSiblingChanged__false() public view {
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root) = _modelOfTwo();
        opening.path[0] ^= bytes32(uint256(1));
        vm.assertFalse(harness.verify(root, shape, opening));
    }

    function test_verify__otherIndex__false() public view {
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root) = _modelOfTwo();
        opening.index = 0;
        vm.assertFalse(harness.verify(root, shape, opening));
    }

    function test_verify__otherKindOrLength__false() public view {
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root) = _modelOfTwo();
        vm.assertFalse(harness.verify(root, _shape(2, 32, 16), opening));
        shape.numParams = 31;
        vm.assertFalse(harness.verify(root, shape, opening));
    }

    function test_verifyUpdate__siblingSumChanged__false() public view {
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root, uint64 sum) = _updateOfTwo();
        vm.assertTrue(harness.verifyUpdate(root, sum, shape, opening));
        opening.sums[0] += 1;
        vm.assertFalse(harness.verifyUpdate(root, sum, shape, opening));
        vm.assertFalse(harness.verifyUpdate(root, sum + 1, shape, opening));
    }

    function test_verifyUpdate__otherRevealedSum__false() public view {
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root, uint64 sum) = _updateOfTwo();
        vm.assertFalse(harness.verifyUpdate(root, sum + 1, shape, opening));
        vm.assertFalse(harness.verifyUpdate(root, sum - 1, shape, opening));
    }

    function test_verify__indexAtAndPastTheLastChunk__onlyTheSecondReverts() public {
        ChunkTree.Shape memory shape = _shape(MODEL, 33, 16); // three chunks in a tree of four leaves
        ChunkTree.Opening memory opening = _blank(64, 2, 0);
        opening.index = 2;
        harness.rootOfOpening(shape, opening);
        opening.index = 3;
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.IndexOutOfRange.selector, 3, 3));
        harness.rootOfOpening(shape, opening);
    }

    function test_verify__chunkOneByteOff__reverts() public {
        ChunkTree.Shape memory shape = _shape(MODEL, 16, 16);
        harness.rootOfOpening(shape, _blank(64, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.ChunkLengthMismatch.selector, 63, 64));
        harness.rootOfOpening(shape, _blank(63, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.ChunkLengthMismatch.selector, 65, 64));
        harness.rootOfOpening(shape, _blank(65, 0, 0));
    }

    function test_verify__pathOneOff__reverts() public {
        ChunkTree.Shape memory shape = _shape(MODEL, 33, 16);
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.PathLengthMismatch.selector, 1, 0, 2));
        harness.rootOfOpening(shape, _blank(64, 1, 0));
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.PathLengthMismatch.selector, 3, 0, 2));
        harness.rootOfOpening(shape, _blank(64, 3, 0));
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.PathLengthMismatch.selector, 2, 2, 2));
        harness.rootOfOpening(shape, _blank(64, 2, 2));
    }

    function test_verifyUpdate__sumsOneOff__reverts() public {
        ChunkTree.Shape memory shape = _shape(UPDATE, 33, 16);
        harness.rootOfUpdateOpening(shape, _blank(32, 2, 2));
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.PathLengthMismatch.selector, 2, 1, 2));
        harness.rootOfUpdateOpening(shape, _blank(32, 2, 1));
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.PathLengthMismatch.selector, 2, 3, 2));
        harness.rootOfUpdateOpening(shape, _blank(32, 2, 3));
    }

    function test_verifyUpdate__sumsUpToAndBeyond64Bits__onlyTheSecondReverts() public {
        ChunkTree.Shape memory shape = _shape(UPDATE, 32, 16);
        ChunkTree.Opening memory opening = _blank(32, 1, 1);
        opening.sums[0] = type(uint64).max;
        (, uint64 sum) = harness.rootOfUpdateOpening(shape, opening);
        vm.assertEq(sum, type(uint64).max);
        opening.chunk[31] = 0x01;
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.SumOverflow.selector, uint256(1) << 64));
        harness.rootOfUpdateOpening(shape, opening);
    }

    function test_addSums__atTheEnd__oneMoreReverts() public {
        vm.assertEq(harness.addSums(type(uint64).max - 1, 1), type(uint64).max);
        vm.expectRevert(abi.encodeWithSelector(ChunkTree.SumOverflow.selector, uint256(1) << 64));
        harness.addSums(type(uint64).max, 1);
    }

    // --- padding -------------------------------------------------------------------------------

    function test_isPaddingClean__valueAfterTheLast__false() public view {
        ChunkTree.Shape memory shape = _shape(MODEL, 15, 16);
        ChunkTree.Opening memory opening = _blank(64, 0, 0);
        opening.chunk[59] = 0x01; // the last value itself
        vm.assertTrue(harness.isPaddingClean(shape, opening));
        opening.chunk[60] = 0x01;
        vm.assertTrue(harness.verify(harness.rootOfOpening(shape, opening), shape, opening));
        vm.assertFalse(harness.isPaddingClean(shape, opening));
    }

    function test_isPaddingClean__paddingNodeNotTheConstant__false() public view {
        ChunkTree.Shape memory shape = _shape(MODEL, 65, 16); // five chunks: leaf 5 and the pair (6, 7) are padding
        ChunkTree.Opening memory opening = _blank(64, 3, 0);
        opening.index = 4;
        opening.path[1] = harness.node(0, 0);
        opening.path[2] = LEFT; // covers chunks 0 to 3: any node
        vm.assertTrue(harness.isPaddingClean(shape, opening));
        opening.path[1] = LEFT;
        vm.assertFalse(harness.isPaddingClean(shape, opening));
        (opening.path[0], opening.path[1]) = (LEFT, harness.node(0, 0));
        vm.assertFalse(harness.isPaddingClean(shape, opening));
    }

    function test_isPaddingClean__paddingNodeWithASum__false() public view {
        ChunkTree.Shape memory shape = _shape(UPDATE, 65, 16);
        ChunkTree.Opening memory opening = _blank(32, 3, 3);
        opening.index = 4;
        opening.path[1] = harness.sumNode(0, 0, 0, 0);
        opening.sums[2] = 9; // covers chunks 0 to 3: any sum
        vm.assertTrue(harness.isPaddingClean(shape, opening));
        opening.sums[1] = 1;
        vm.assertFalse(harness.isPaddingClean(shape, opening));
    }

    // --- values --------------------------------------------------------------------------------

    function test_int16At__endsOfTheType__signed() public view {
        bytes memory chunk = hex"7fff8000ffff0001";
        vm.assertEq(harness.int16At(chunk, 0), type(int16).max);
        vm.assertEq(harness.int16At(chunk, 1), type(int16).min);
        vm.assertEq(harness.int16At(chunk, 2), -1);
        vm.assertEq(harness.int16At(chunk, 3), 1);
    }

    function test_int32At__endsOfTheType__signed() public view {
        bytes memory chunk = hex"7fffffff80000000ffffffff";
        vm.assertEq(harness.int32At(chunk, 0), type(int32).max);
        vm.assertEq(harness.int32At(chunk, 1), type(int32).min);
        vm.assertEq(harness.int32At(chunk, 2), -1);
    }

    function test_valueAt__pastTheEnd__reverts() public {
        vm.expectRevert();
        harness.int16At(hex"0001", 1);
        vm.expectRevert();
        harness.int32At(hex"00010001", 1);
    }

    function test_sumOfSquares__endsOfTheRange__exact() public view {
        vm.assertEq(harness.sumOfSquares(hex""), 0);
        vm.assertEq(harness.sumOfSquares(hex"7fff80018000"), 2 * 32_767 ** 2 + 32_768 ** 2);
    }

    // --- building and reading openings ---------------------------------------------------------

    function _modelOfTwo()
        private
        view
        returns (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root)
    {
        shape = _shape(MODEL, 32, 16);
        opening = _blank(64, 1, 0);
        (opening.index, opening.path[0], opening.chunk[5]) = (1, LEFT, 0x77);
        root = harness.rootOf(shape, harness.node(LEFT, harness.leaf(1, opening.chunk)));
    }

    function _updateOfTwo()
        private
        view
        returns (ChunkTree.Shape memory shape, ChunkTree.Opening memory opening, bytes32 root, uint64 sum)
    {
        shape = _shape(UPDATE, 32, 16);
        opening = _blank(32, 1, 1);
        (opening.index, opening.path[0], opening.sums[0], opening.chunk[5]) = (1, LEFT, 100, 0x03);
        sum = 109;
        root = harness.rootOfSums(shape, harness.sumNode(LEFT, 100, harness.leaf(1, opening.chunk), 9), sum);
    }

    function _blank(uint256 chunkBytes, uint256 path, uint256 sums) private pure returns (ChunkTree.Opening memory) {
        return ChunkTree.Opening(0, new bytes(chunkBytes), new bytes32[](path), new uint64[](sums));
    }

    function _shape(uint8 kind, uint64 numParams, uint32 chunkParams) private pure returns (ChunkTree.Shape memory) {
        return ChunkTree.Shape(kind, numParams, chunkParams);
    }

    function _assertShape(uint64 numParams, uint256 chunks, uint256 depth) private view {
        vm.assertEq(harness.chunksOf(_shape(MODEL, numParams, 16)), chunks);
        vm.assertEq(harness.depthOf(_shape(MODEL, numParams, 16)), depth);
    }

    function _expectInvalid(ChunkTree.Shape memory shape) private {
        vm.expectRevert(
            abi.encodeWithSelector(ChunkTree.InvalidShape.selector, shape.kind, shape.numParams, shape.chunkParams)
        );
        harness.rootOfOpening(shape, _blank(64, 0, 0));
    }

    function _assertOpens(string memory at, ChunkTree.Opening memory opening) private view {
        ChunkTree.Shape memory shape = _shape(
            uint8(vm.parseJsonUint(json, string.concat(at, ".kind"))),
            uint64(vm.parseJsonUint(json, string.concat(at, ".num_params"))),
            uint32(vm.parseJsonUint(json, string.concat(at, ".chunk_params")))
        );
        bytes32 root = vm.parseJsonBytes32(json, string.concat(at, ".root"));
        uint64 sum = uint64(vm.parseJsonUint(json, string.concat(at, ".sum")));
        string memory name = vm.parseJsonString(json, string.concat(at, ".name"));
        bool opens = shape.kind == UPDATE
            ? harness.verifyUpdate(root, sum, shape, opening)
            : harness.verify(root, shape, opening);
        vm.assertTrue(opens, name);
        vm.assertTrue(harness.isPaddingClean(shape, opening), name);
    }

    function _readOpening(string memory at) private view returns (ChunkTree.Opening memory opening) {
        opening.index = uint64(vm.parseJsonUint(json, string.concat(at, ".index")));
        opening.chunk = vm.parseJsonBytes(json, string.concat(at, ".chunk"));
        opening.path = vm.parseJsonBytes32Array(json, string.concat(at, ".path"));
        uint256[] memory sums = vm.parseJsonUintArray(json, string.concat(at, ".sums"));
        opening.sums = new uint64[](sums.length);
        for (uint256 i = 0; i < sums.length; ++i) {
            opening.sums[i] = uint64(sums[i]);
        }
    }

    function _at(uint256 i) private pure returns (string memory) {
        return string.concat(".trees[", vm.toString(i), "]");
    }

    function _opening(string memory at, uint256 i) private pure returns (string memory) {
        return string.concat(at, ".openings[", vm.toString(i), "]");
    }
}
