// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../../contracts/src/interfaces/IDisputes.sol";
import { Format, Rule } from "../../contracts/src/interfaces/Types.sol";
import { Demands } from "../../contracts/src/libraries/Demands.sol";
import { FixedPoint } from "../../contracts/src/libraries/FixedPoint.sol";
import { Openings } from "../../contracts/src/libraries/Openings.sol";
import { Proofs } from "../../contracts/src/libraries/Proofs.sol";
import { Task } from "../../contracts/src/libraries/TaskStorage.sol";

/// @dev Doors for tests/differential, which calls them with Python's input and compares every bit. Nothing deploys them.

/// @dev Every rule over many coordinates in one call. Packed, big-endian, a coordinate after the other.
contract RulesHarness {
    /// @dev Where the packed input lies in calldata.
    struct Input {
        uint256 updates;
        uint256 places;
        uint256 vectors;
    }

    /// @param updates for each coordinate an int16 of every update.
    /// @param places for each coordinate two uint16: the positions that a proof of an order rule names.
    /// @param vectors for each coordinate three int32: of the model, and what a server can keep of it.
    /// @return moved for each coordinate the same afterwards.
    function advance(
        Format memory f,
        uint16[] memory weights,
        bytes calldata updates,
        bytes calldata places,
        bytes calldata vectors
    ) external pure returns (int32[3][] memory moved) {
        moved = new int32[3][](vectors.length / 12);
        Input memory from = Input(_offset(updates), _offset(places), _offset(vectors));
        int16[] memory column = new int16[](weights.length);
        for (uint256 p; p < moved.length; ++p) {
            _readColumn(column, from.updates, p);
            (int256 sum, uint256 total) = _sum(f, column, weights, from.places + 4 * p);
            moved[p] = _step(f, from.vectors + 12 * p, sum, total);
        }
    }

    /// @return sums for each coordinate the int64 of the weighted sum.
    function weightedSums(uint16[] memory weights, bytes calldata updates) external pure returns (int64[] memory sums) {
        uint256 count = updates.length / 2 / weights.length;
        sums = new int64[](count);
        int16[] memory column = new int16[](weights.length);
        for (uint256 p; p < count; ++p) {
            _readColumn(column, _offset(updates), p);
            (int256 sum,) = FixedPoint.weightedSumOf(column, weights);
            require(sum == int64(sum), "beyond int64");
            sums[p] = int64(sum);
        }
    }

    /// @dev As `Proofs` does it.
    function _sum(Format memory f, int16[] memory column, uint16[] memory weights, uint256 places)
        private
        pure
        returns (int256, uint256)
    {
        if (f.rule == Rule.Mean) return FixedPoint.weightedSumOf(column, weights);
        (uint256 low, uint256 high) = (Openings.uint16At(places), Openings.uint16At(places + 2));
        if (f.rule == Rule.Median) return (FixedPoint.medianAt(column, low), 1);
        uint256 trim = column.length * f.trimNum / f.trimDen;
        return (FixedPoint.trimmedSum(column, trim, low, high), column.length - 2 * trim);
    }

    function _step(Format memory f, uint256 vectors, int256 sum, uint256 total)
        private
        pure
        returns (int32[3] memory)
    {
        FixedPoint.Coordinate memory at = FixedPoint.Coordinate(
            Openings.int32At(vectors, 0), Openings.int32At(vectors, 1), Openings.int32At(vectors, 2)
        );
        sum <<= f.modelScaleBits - f.updateScaleBits;
        FixedPoint.Coordinate memory next = FixedPoint.serverStep(f, at, sum, total);
        return [next.model, next.first, next.second];
    }

    /// @notice Reverts for what no task can have.
    function check(Format calldata f) external pure {
        FixedPoint.checkServer(f);
    }

    function _readColumn(int16[] memory column, uint256 updates, uint256 p) private pure {
        uint256 from = updates + 2 * column.length * p;
        for (uint256 i; i < column.length; ++i) {
            column[i] = Openings.int16At(from, i);
        }
    }

    function _offset(bytes calldata data) private pure returns (uint256 start) {
        assembly ("memory-safe") {
            start := data.offset
        }
    }
}

/// @dev Packed openings, read out of calldata as a proof is.
contract OpeningsHarness {
    function plain(uint64 numParams, uint32 chunkParams, uint8 kind, uint256 index, bytes calldata packed)
        external
        view
        returns (bytes32 root, uint256 length)
    {
        Openings.Place memory at = Openings.placeOf(numParams, chunkParams, index);
        uint256 start = _offset(packed);
        (bytes32 found,, uint256 next) = Openings.plain(at, kind, start);
        return (found, next - start);
    }

    function update(uint64 numParams, uint32 chunkParams, uint256 index, bytes calldata packed)
        external
        view
        returns (bytes32 root, uint64 leafSum, uint64 sum, bool adds, uint256 length)
    {
        Openings.Place memory at = Openings.placeOf(numParams, chunkParams, index);
        uint256 start = _offset(packed);
        Openings.Update memory u = Openings.update(at, start);
        return (u.root, u.leafSum, u.sum, u.adds, u.cursor - start);
    }

    function _offset(bytes calldata data) private pure returns (uint256 start) {
        assembly ("memory-safe") {
            start := data.offset
        }
    }
}

/// @dev The judge of proofs, over a round that is set up in the same call.
contract ProofsHarness {
    struct Round {
        Format format;
        uint16 accepted;
        uint64 totalWeight;
        bytes32 modelRoot;
        bytes32 stateRoot;
        bytes32 claimedRoot;
        bytes32 claimedStateRoot;
        bytes32[] groupRoots;
        bytes32[] acceptedHashes;
    }

    Task private _task;

    function check(Round calldata round, bytes calldata proof) external returns (bytes32 reason) {
        _task.fixed_.format = round.format;
        (_task.progress.accepted, _task.sums.weight) = (round.accepted, round.totalWeight);
        (_task.modelRoot, _task.stateRoot) = (round.modelRoot, round.stateRoot);
        (_task.posting.root, _task.posting.stateRoot) = (round.claimedRoot, round.claimedStateRoot);
        if (round.groupRoots.length > 0) _task.posting.groupsHash = keccak256(abi.encodePacked(round.groupRoots));
        for (uint256 g; g < round.acceptedHashes.length; ++g) {
            _task.acceptedHashes[g] = round.acceptedHashes[g];
        }
        return Proofs.check(_task, proof);
    }
}

/// @dev The judge of updates, over many openings in one call.
contract FaultsHarness {
    /// @dev revealedSum: what the worker revealed as its update's sum of squares.
    struct Case {
        uint64 index;
        uint64 revealedSum;
        bytes opening;
    }

    /// @return roots where each opening leads. @return reasons what is wrong with it; 0 for nothing.
    function judge(uint64 numParams, uint32 chunkParams, Case[] calldata cases)
        external
        view
        returns (bytes32[] memory roots, bytes32[] memory reasons)
    {
        (roots, reasons) = (new bytes32[](cases.length), new bytes32[](cases.length));
        for (uint256 i; i < cases.length; ++i) {
            Openings.Place memory at = Openings.placeOf(numParams, chunkParams, cases[i].index);
            (Openings.Update memory u,) = _read(at, cases[i].opening);
            roots[i] = u.root;
            try this.faultIn(at, cases[i]) returns (bytes32 reason) {
                reasons[i] = reason;
            } catch (bytes memory problem) {
                require(bytes4(problem) == IDisputes.NothingWrong.selector, "another error");
            }
        }
    }

    function faultIn(Openings.Place memory at, Case calldata one) external view returns (bytes32) {
        (Openings.Update memory u, bool isStated) = _read(at, one.opening);
        return Demands.faultIn(at, u, one.revealedSum, isStated);
    }

    function _read(Openings.Place memory at, bytes calldata opening)
        private
        view
        returns (Openings.Update memory u, bool isStated)
    {
        uint256 start;
        assembly ("memory-safe") {
            start := opening.offset
        }
        u = Openings.update(at, start);
        require(u.cursor == start + opening.length, "length");
        return (u, Openings.uint8At(start) == 1);
    }
}
