// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import {
    Bounds,
    Cid,
    Draw,
    DrawBy,
    Economics,
    Format,
    Rule,
    ServerKind,
    TaskParams,
    TaskView,
    Windows,
    stateParams
} from "../interfaces/Types.sol";
import { ChunkTree } from "./ChunkTree.sol";
import { FixedPoint } from "./FixedPoint.sol";

/// @title What a task may ask for. Everything that could lock money for ever, overflow, or exceed a block is refused
/// here, before anybody enrols.
library TaskRules {
    uint256 internal constant MAX_WORKERS = 1024;
    // Agreements are packed sixteen to a word, and every tally reads every validator.
    uint256 internal constant MAX_VALIDATORS = 16;
    uint256 internal constant MAX_AGGREGATORS = 16;
    uint256 internal constant MAX_ENROLMENT = 90 days;
    uint256 internal constant MAX_WINDOW = 7 days;
    // All rounds together, each with every window used to its end: how long a stake can be locked.
    uint256 internal constant MAX_DURATION = 365 days;
    // Nodes refuse transactions above 128 KB.
    uint256 internal constant MAX_PROOF_BYTES = 100_000;
    uint256 internal constant MAX_ATTEMPTS = 3;
    uint256 internal constant MAX_LICENCE = 128;
    uint256 internal constant BPS = 10_000;

    /// @notice Reverts InvalidParams with the name of the first field that is wrong.
    function check(TaskParams calldata p) internal view {
        _require(p.specHash != 0, "specHash");
        _require(p.genesisRoot != 0, "genesisRoot");
        _checkCid(p.genesisCid, "genesisCid");
        _checkCid(p.genesisFloatCid, "genesisFloatCid");
        _require(p.rounds > 0 && p.rounds < type(uint16).max - 1, "rounds");
        _require(p.enrolmentEnd > block.timestamp && p.enrolmentEnd <= block.timestamp + MAX_ENROLMENT, "enrolmentEnd");
        _require(bytes(p.licence).length <= MAX_LICENCE, "licence");
        _checkBounds(p.workers, 1, MAX_WORKERS, "workers");
        _checkBounds(p.validators, 1, MAX_VALIDATORS, "validators");
        _checkBounds(p.aggregators, 0, MAX_AGGREGATORS, "aggregators");
        uint256 named = p.namedValidators.length;
        _require(named == 0 || (named >= p.validators.min && named <= MAX_VALIDATORS), "namedValidators");
        _checkDraw(p.draw, p.workers.max);
        // No round has more updates than workers are drawn for it.
        uint256 perRound = p.draw.clientsPerRound;
        _checkFormat(p.format, perRound == 0 ? p.workers.max : perRound);
        _checkWindows(p.windows);
        _require((p.genesisStateRoot == 0) == (p.format.server == ServerKind.Plain), "genesisStateRoot");
        _require(p.rounds * _longestRound(p.windows, p.format) <= MAX_DURATION, "duration");
        _checkEconomics(p.economics);
    }

    function toView(TaskParams calldata p) internal view returns (TaskView memory v) {
        v.requester = msg.sender;
        (v.specHash, v.genesisRoot, v.genesisStateRoot) = (p.specHash, p.genesisRoot, p.genesisStateRoot);
        (v.rounds, v.enrolmentEnd, v.reward) = (p.rounds, p.enrolmentEnd, p.reward);
        (v.createdAt, v.createdBlock) = (uint40(block.timestamp), uint40(block.number));
        v.validatorsNamed = p.namedValidators.length > 0;
        (v.workers, v.validators, v.aggregators) = (p.workers, p.validators, p.aggregators);
        (v.format, v.windows, v.economics) = (p.format, p.windows, p.economics);
        v.draw = p.draw;
    }

    function _checkDraw(Draw calldata d, uint256 maxWorkers) private pure {
        _require(d.clientsPerRound <= maxWorkers, "draw");
        _require(d.clientsPerRound > 0 || d.by == DrawBy.Uniform, "draw");
    }

    function _checkFormat(Format calldata f, uint256 maxWorkers) private pure {
        _require(f.numParams > 0 && f.numParams <= 1 << 40, "numParams");
        _require(f.chunkParams > 0 && f.chunkParams % 16 == 0 && f.chunkParams <= 1 << 16, "chunkParams");
        _require(f.maxSquaredNorm > 0, "maxSquaredNorm");
        FixedPoint.checkWidths(f.stepNum, f.stepDen, uint32(maxWorkers), f.modelScaleBits, f.updateScaleBits);
        FixedPoint.checkServer(f);
        _checkRule(f, maxWorkers);
        _require(largestProof(f, maxWorkers) <= MAX_PROOF_BYTES, "proofs too large");
    }

    function _checkRule(Format calldata f, uint256 maxWorkers) private pure {
        if (f.rule == Rule.TrimmedMean) _require(f.trimDen > 0 && 2 * uint256(f.trimNum) < f.trimDen, "trim");
        else _require(f.trimNum == 0 && f.trimDen == 0, "trim");
        // A median of medians is not the median.
        _require(f.groupSize > 0 && (f.rule == Rule.Mean || maxWorkers <= f.groupSize), "groupSize");
    }

    /// @notice Bytes of the largest proof of a wrong coordinate; see IDisputes for the layout.
    /// @dev Every update in form 1, since the sums of all may lie.
    function largestProof(Format calldata f, uint256 maxWorkers) internal pure returns (uint256) {
        uint256 depth = _depth(f, f.numParams);
        uint256 groups = (maxWorkers + f.groupSize - 1) / f.groupSize;
        uint256 updates =
            (maxWorkers < f.groupSize ? maxWorkers : f.groupSize) * (11 + 2 * uint256(f.chunkParams) + 48 * depth);
        uint256 vector = 4 * uint256(f.chunkParams) + 32 * depth;
        // Of the model, what it was and what is claimed, and of the state what it was: a proof about the state is smaller.
        uint256 steps = 14 + 2 * vector;
        if (f.server != ServerKind.Plain) steps += 4 * uint256(f.chunkParams) + 32 * _deepest(f);
        if (groups == 1) return steps + updates;
        uint256 sum = 8 * uint256(f.chunkParams) + 32 * depth;
        uint256 ofSums = steps + groups * (32 + sum);
        uint256 ofGroup = 11 + 32 * groups + sum + updates;
        return ofSums > ofGroup ? ofSums : ofGroup;
    }

    function _checkWindows(Windows calldata w) private pure {
        _requireWindow(w.commit, "windows.commit");
        _requireWindow(w.reveal, "windows.reveal");
        _requireWindow(w.scoreCommit, "windows.scoreCommit");
        _requireWindow(w.scoreReveal, "windows.scoreReveal");
        _requireWindow(w.slot, "windows.slot");
        _requireWindow(w.challenge, "windows.challenge");
        _requireWindow(w.answer, "windows.answer");
        _requireWindow(w.proof, "windows.proof");
    }

    /// @notice How long a round can last, whatever is disputed in it.
    /// @dev Up to three attempts, each with up to three exclusive slots and an open window as long, then Challenge, then
    /// the longest of what `Dispute` waits for.
    function _longestRound(Windows calldata w, Format calldata f) private pure returns (uint256) {
        uint256 scored =
            uint256(w.commit) + w.reveal + w.scoreCommit + (w.scoreReveal > w.answer ? w.scoreReveal : w.answer);
        return scored + MAX_ATTEMPTS * (6 * uint256(w.slot) + w.challenge + longestGame(w, f));
    }

    /// @dev The depth of the deepest tree of a task: the state's, if there is one. Values of a group sum are as many as the
    /// model's.
    function _deepest(Format calldata f) private pure returns (uint256) {
        if (f.server == ServerKind.Plain) return _depth(f, f.numParams);
        return _depth(f, stateParams(f.server, f.numParams));
    }

    function _depth(Format calldata f, uint64 numParams) private pure returns (uint256) {
        return ChunkTree.depthOf(ChunkTree.Shape(ChunkTree.MODEL, numParams, f.chunkParams));
    }

    /// @notice How long a game can last: an answer and a pointer for every eight levels, the leaf, and the proof.
    /// @dev At least an answer and a proof, so that no demand and no committed proof takes longer.
    function longestGame(Windows calldata w, Format calldata f) internal pure returns (uint256) {
        uint256 depth = _deepest(f);
        return (2 * ((depth + 7) / 8) + 1) * uint256(w.answer) + w.proof;
    }

    function _checkEconomics(Economics calldata e) private pure {
        // A member without stake would have no vote and no loss.
        _require(e.workerStake > 0, "workerStake");
        _require(e.validatorStake > 0, "validatorStake");
        _require(e.aggregatorBond > 0, "aggregatorBond");
        // The fee is taken from a free balance: it must not reach beyond what posting would have put at stake.
        _require(e.slotFee <= e.aggregatorBond, "slotFee");
        _require(uint256(e.workersBps) + e.validatorsBps + e.aggregatorBps == BPS, "shares");
        _require(e.baseBps <= BPS, "baseBps");
        _require(e.workerSlashBps <= BPS && e.validatorSlashBps <= BPS, "slashBps");
        _require(e.rangeSlashBps <= BPS && e.withheldSlashBps <= BPS && e.vouchSlashBps <= BPS, "slashBps");
        // Who holds a round up must pay for it, but not put up more than who lies in it: a task must not be able to place
        // its aggregates, or its updates, beyond dispute.
        _require(e.challengerBond > 0 && e.challengerBond <= e.aggregatorBond, "challengerBond");
        _require(e.demandFee > 0 && e.demandFee <= e.workerStake, "demandFee");
        // Both double up to sixteen times.
        _require(e.challengerBond <= type(uint96).max >> 16, "challengerBond");
        _require(e.demandFee <= type(uint96).max >> 16, "demandFee");
    }

    function _checkBounds(Bounds calldata b, uint256 least, uint256 most, bytes32 what) private pure {
        _require(b.min >= least && b.min <= b.max && b.max >= 1 && b.max <= most, what);
    }

    function _checkCid(Cid calldata cid, bytes32 what) private pure {
        _require(cid.codec == 0x55 || cid.codec == 0x70, what);
    }

    function _requireWindow(uint32 window, bytes32 what) private pure {
        _require(window > 0 && window <= MAX_WINDOW, what);
    }

    function _require(bool condition, bytes32 what) private pure {
        if (!condition) revert ITaskCoordinator.InvalidParams(what);
    }
}
