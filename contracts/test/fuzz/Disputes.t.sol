// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../../src/interfaces/IDisputes.sol";
import { Rule, ServerKind, Target } from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Openings } from "../../src/libraries/Openings.sol";
import { Disputed, Scene } from "../base/Disputed.sol";
import { Tree, Trees } from "../base/Trees.sol";

/// @notice What holds for every model, every rule and every fault: the proof of the faulty coordinate succeeds, that of
/// any other shows nothing.
contract DisputesFuzzTest is Disputed {
    uint64 private constant SMALL = 40;

    struct Fault {
        bytes32 seed;
        uint8 rule;
        uint8 workers;
        uint8 coordinate;
        int32 by;
        bool inSecond;
        uint8 server;
        bool inState;
        bool isExtreme;
    }

    /// forge-config: default.fuzz.runs = 24
    function testFuzz_coordinate__anyFault__onlyItsProofSucceeds(Fault memory f) external {
        Scene memory s = _random(f);
        uint256 faulty = f.coordinate % SMALL;
        bool hasState = _stateLength(s) > 0;
        bool inState = f.inState && hasState;
        Tree memory t = inState ? s.nextState : s.nextModel;
        uint256 at = inState ? _stateAt(s, faulty) : faulty;
        if (inState && f.inSecond && _stateLength(s) > SMALL) ++at;
        int256 value = int256(int32(int256(t.values[at]) ^ (f.by == 0 ? int256(1) : int256(f.by))));
        t.values[at] = value;
        t = _tree(s, t.shape.kind, t.values);
        if (inState) s.nextState = t;
        else s.nextModel = t;
        _toChallenge(s);
        for (uint256 j; j < SMALL; ++j) {
            s.aim = Target.Model;
            if (inState || j != faulty) _refusesProof(s.id, _coordinateProof(s, j), IDisputes.NothingWrong.selector);
            if (!hasState || (inState && j == faulty)) continue;
            s.aim = Target.State;
            _refusesProof(s.id, _coordinateProof(s, j), IDisputes.NothingWrong.selector);
        }
        s.aim = inState ? Target.State : Target.Model;
        _refute(s.id, watcher, _coordinateProof(s, faulty));
        vm.assertEq(uint256(coordinator.roundOf(s.id).attempt), 2);
    }

    function _random(Fault memory f) private view returns (Scene memory s) {
        uint16 n = uint16(1 + f.workers % 6);
        s = _sceneOf(Rule(f.rule % 3), ServerKind(f.server % 6), n, SMALL, f.seed);
        for (uint256 i; i < n; ++i) {
            uint256 r = uint256(keccak256(abi.encode(f.seed, "weights", i)));
            if (i > 0 && r % 4 == 0) s.weights[i] = 0;
            if (r % 4 == 1) s.weights[i] = 10_000;
            if (!f.isExtreme) continue;
            for (uint256 j; j < SMALL; ++j) {
                uint256 which = uint256(keccak256(abi.encode(f.seed, i, j))) % 4;
                s.updates[i].values[j] = [int256(32_767), -32_767, 0, -1][which];
            }
            s.updates[i] = _tree(s, ChunkTree.UPDATE, s.updates[i].values);
        }
        if (f.isExtreme) {
            for (uint256 j; j < SMALL; ++j) {
                s.model.values[j] = j % 2 == 0 ? int256(type(int32).max) : int256(type(int32).min);
            }
            s.model = _tree(s, ChunkTree.MODEL, s.model.values);
            s.p.genesisRoot = s.model.root;
            // Nobody checks that the first state is one of zeros.
            if (_stateLength(s) > 0) _startFrom(s, _values(f.seed, "state", _stateLength(s), type(int32).max));
        }
        _claimHonestly(s);
    }

    /// forge-config: default.fuzz.runs = 24
    function testFuzz_group__anyFault__onlyItsProofSucceeds(bytes32 seed, uint8 group, uint8 coordinate) external {
        Scene memory s = _sceneOf(Rule.Mean, ServerKind.Plain, 5, SMALL, seed);
        s.p.format.groupSize = 2;
        _claimHonestly(s);
        (uint256 g, uint256 faulty) = (group % 3, coordinate % SMALL);
        s.groups[g].values[faulty] += int256(uint256(seed) % 1000) + 1;
        s.groups[g] = _tree(s, ChunkTree.GROUP_SUM, s.groups[g].values);
        _toChallenge(s);
        for (uint256 k; k < 3; ++k) {
            for (uint256 j; j < SMALL; j += 3) {
                if (k == g && j == faulty) continue;
                _refusesProof(s.id, _groupProof(s, j, k), IDisputes.NothingWrong.selector);
            }
        }
        _refute(s.id, watcher, _groupProof(s, faulty, g));
    }
}

contract OpeningsHarness {
    /// @dev The root, and how many bytes the opening took.
    function plain(ChunkTree.Shape memory shape, uint64 index, bytes calldata opening)
        external
        view
        returns (bytes32 root, uint256 read)
    {
        uint256 start;
        assembly ("memory-safe") {
            start := opening.offset
        }
        Openings.Place memory at = Openings.placeOf(shape.numParams, shape.chunkParams, index);
        (root,, read) = Openings.plain(at, shape.kind, start);
        read -= start;
    }

    function update(ChunkTree.Shape memory shape, uint64 index, bytes calldata opening)
        external
        view
        returns (Openings.Update memory u)
    {
        uint256 start;
        assembly ("memory-safe") {
            start := opening.offset
        }
        u = Openings.update(Openings.placeOf(shape.numParams, shape.chunkParams, index), start);
        u.cursor -= start;
    }

    function reference_(ChunkTree.Shape memory shape, ChunkTree.Opening calldata o) external pure returns (bytes32) {
        return ChunkTree.rootOfOpening(shape, o);
    }

    function referenceSums(ChunkTree.Shape memory shape, ChunkTree.Opening calldata o)
        external
        pure
        returns (bytes32, uint64)
    {
        return ChunkTree.rootOfUpdateOpening(shape, o);
    }
}

/// @notice The assembly of `Openings` says what `ChunkTree` says in plain words.
contract OpeningsFuzzTest is Disputed {
    OpeningsHarness private _harness = new OpeningsHarness();

    function _random(uint8 kind, uint64 numParams, uint8 size, uint64 index, bytes32 seed)
        private
        pure
        returns (ChunkTree.Shape memory shape, ChunkTree.Opening memory o)
    {
        shape = ChunkTree.Shape(kind, uint64(bound(numParams, 1, 1 << 40)), 16 * uint32(bound(size, 1, 9)));
        o.index = uint64(bound(index, 0, ChunkTree.chunksOf(shape) - 1));
        uint256 depth = ChunkTree.depthOf(shape);
        for (uint256 i; i < shape.chunkParams * ChunkTree.widthOf(shape); i += 32) {
            o.chunk = bytes.concat(o.chunk, keccak256(abi.encode(seed, "chunk", i)));
        }
        o.path = new bytes32[](depth);
        if (kind == ChunkTree.UPDATE) o.sums = new uint64[](depth);
        for (uint256 h; h < depth; ++h) {
            o.path[h] = keccak256(abi.encode(seed, h));
            if (kind == ChunkTree.UPDATE) o.sums[h] = uint64(uint256(o.path[h])) >> 8;
        }
    }

    function testFuzz_plain__anyOpening__isTheTreesRoot(
        uint8 kind,
        uint64 numParams,
        uint8 size,
        uint64 index,
        bytes32 seed
    ) external view {
        kind = [ChunkTree.MODEL, ChunkTree.STATE, ChunkTree.GROUP_SUM][kind % 3];
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory o) = _random(kind, numParams, size, index, seed);
        bytes memory packed = bytes.concat(o.chunk, abi.encodePacked(o.path));
        (bytes32 root, uint256 read) = _harness.plain(shape, o.index, bytes.concat(packed, seed));
        vm.assertEq(root, _harness.reference_(shape, o));
        vm.assertEq(read, packed.length);
    }

    function testFuzz_update__anyOpening__isTheTreesRootAndSum(
        uint64 numParams,
        uint8 size,
        uint64 index,
        bytes32 seed,
        uint8 form
    ) external view {
        (ChunkTree.Shape memory shape, ChunkTree.Opening memory o) =
            _random(ChunkTree.UPDATE, numParams, size, index, seed);
        bytes memory packed = _packed(o, form % 2);
        Openings.Update memory u = _harness.update(shape, o.index, bytes.concat(packed, seed));
        (bytes32 expected, uint64 sum) = _harness.referenceSums(shape, o);
        vm.assertEq(u.root, expected);
        vm.assertEq(uint256(u.sum), uint256(sum));
        vm.assertEq(u.cursor, packed.length);
        vm.assertTrue(u.adds);
    }

    function _packed(ChunkTree.Opening memory o, uint8 form) private pure returns (bytes memory packed) {
        uint64 sum;
        for (uint256 i; i < o.chunk.length; i += 2) {
            int256 value = int16(uint16(bytes2(abi.encodePacked(o.chunk[i], o.chunk[i + 1]))));
            sum += uint64(uint256(value * value));
        }
        packed = abi.encodePacked(form, o.chunk, sum);
        for (uint256 h; h < o.path.length; ++h) {
            sum += o.sums[h];
            packed = abi.encodePacked(packed, o.path[h], o.sums[h]);
            if (form == 1) packed = abi.encodePacked(packed, sum);
        }
    }
}
