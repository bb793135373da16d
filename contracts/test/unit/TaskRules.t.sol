// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
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
    Windows
} from "../../src/interfaces/Types.sol";
import { FixedPoint } from "../../src/libraries/FixedPoint.sol";
import { TaskRules } from "../../src/libraries/TaskRules.sol";
import { Test } from "../base/Test.sol";

contract TaskRulesHarness {
    function check(TaskParams calldata p) external view {
        TaskRules.check(p);
    }

    function toView(TaskParams calldata p) external view returns (TaskView memory) {
        return TaskRules.toView(p);
    }
}

/// @notice Follows TaskRules.tree: each field at its least, its most, and one beyond either.
contract TaskRulesTest is Test {
    uint256 private constant NOW = 1_000_000;

    TaskRulesHarness private _rules;

    function setUp() external {
        vm.warp(NOW);
        _rules = new TaskRulesHarness();
    }

    function _good() private pure returns (TaskParams memory p) {
        (p.specHash, p.genesisRoot) = ("spec", "genesis");
        (p.genesisCid, p.genesisFloatCid) = (Cid("cid", 0x55), Cid("float", 0x70));
        (p.rounds, p.enrolmentEnd, p.reward) = (10, uint40(NOW + 1 days), 1000 ether);
        (p.workers, p.validators, p.aggregators) = (Bounds(3, 5), Bounds(2, 3), Bounds(1, 1));
        p.format = Format(10_000, 256, 20, 14, 1, 1, 1e12, 64, Rule.Mean, 0, 0, 0, 0, ServerKind.Plain, 0, 0, 0);
        p.windows = Windows(600, 300, 600, 300, 300, 900, 300, 600);
        p.economics = Economics(
            100 ether,
            300 ether,
            200 ether,
            5 ether,
            7000,
            2000,
            1000,
            3000,
            2000,
            1000,
            50 ether,
            2 ether,
            10_000,
            5000,
            5000
        );
        p.licence = "Apache-2.0";
    }

    function _refuses(TaskParams memory p, bytes32 what) private {
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.InvalidParams.selector, what));
        _rules.check(p);
    }

    function test_check__good__passes() external view {
        _rules.check(_good());
    }

    function test_toView__everyField__isCopied() external {
        TaskParams memory p = _good();
        p.draw = Draw(3, DrawBy.Stake);
        vm.roll(77);
        TaskView memory v = _rules.toView(p);
        vm.assertEq(v.requester, address(this));
        vm.assertEq(v.specHash, p.specHash);
        vm.assertEq(v.genesisRoot, p.genesisRoot);
        vm.assertEq(abi.encode(v.rounds, v.enrolmentEnd, v.reward), abi.encode(p.rounds, p.enrolmentEnd, p.reward));
        vm.assertEq(abi.encode(v.createdAt, v.createdBlock), abi.encode(NOW, 77));
        vm.assertEq(abi.encode(v.format, v.windows), abi.encode(p.format, p.windows));
        vm.assertEq(abi.encode(v.economics, v.workers), abi.encode(p.economics, p.workers));
        vm.assertEq(abi.encode(v.draw), abi.encode(p.draw));
        vm.assertEq(abi.encode(v.validators, v.aggregators), abi.encode(p.validators, p.aggregators));
        vm.assertFalse(v.validatorsNamed);
        p.namedValidators = new address[](2);
        vm.assertTrue(_rules.toView(p).validatorsNamed);
    }

    function test_hashes__zero__areRefused() external {
        TaskParams memory p = _good();
        p.specHash = 0;
        _refuses(p, "specHash");
        p = _good();
        p.genesisRoot = 0;
        _refuses(p, "genesisRoot");
    }

    function test_cids__codecs__onlyRawAndDagPb() external {
        uint8[6] memory bad = [uint8(0), 0x54, 0x56, 0x6f, 0x71, 0xff];
        for (uint256 i; i < bad.length; ++i) {
            TaskParams memory p = _good();
            p.genesisCid.codec = bad[i];
            _refuses(p, "genesisCid");
            p = _good();
            p.genesisFloatCid.codec = bad[i];
            _refuses(p, "genesisFloatCid");
        }
        TaskParams memory q = _good();
        (q.genesisCid.codec, q.genesisFloatCid.codec) = (0x70, 0x55);
        _rules.check(q);
    }

    function test_rounds__edges() external {
        TaskParams memory p = _good();
        p.windows = Windows(1, 1, 1, 1, 1, 1, 1, 1);
        p.rounds = 0;
        _refuses(p, "rounds");
        p.rounds = 1;
        _rules.check(p);
        p.rounds = 65_533;
        _rules.check(p);
        // The round after the last is still a number, and not the one that stands for ever.
        p.rounds = 65_534;
        _refuses(p, "rounds");
        p.rounds = 65_535;
        _refuses(p, "rounds");
    }

    function test_enrolmentEnd__edges() external {
        TaskParams memory p = _good();
        p.enrolmentEnd = uint40(NOW);
        _refuses(p, "enrolmentEnd");
        p.enrolmentEnd = uint40(NOW + 1);
        _rules.check(p);
        p.enrolmentEnd = uint40(NOW + 90 days);
        _rules.check(p);
        p.enrolmentEnd = uint40(NOW + 90 days + 1);
        _refuses(p, "enrolmentEnd");
    }

    function test_licence__length__atMost128() external {
        TaskParams memory p = _good();
        p.licence = "";
        _rules.check(p);
        p.licence = string(new bytes(128));
        _rules.check(p);
        p.licence = string(new bytes(129));
        _refuses(p, "licence");
    }

    function test_workers__bounds__edges() external {
        TaskParams memory p = _good();
        p.workers = Bounds(0, 5);
        _refuses(p, "workers");
        p.workers = Bounds(6, 5);
        _refuses(p, "workers");
        p.workers = Bounds(1, 1);
        _rules.check(p);
        p.workers = Bounds(1024, 1024);
        _rules.check(p);
        p.workers = Bounds(1, 1025);
        _refuses(p, "workers");
    }

    function test_draw__edges() external {
        TaskParams memory p = _good();
        p.draw = Draw(0, DrawBy.Stake);
        _refuses(p, "draw");
        p.draw = Draw(0, DrawBy.Reputation);
        _refuses(p, "draw");
        p.draw = Draw(6, DrawBy.Uniform);
        _refuses(p, "draw");
        for (uint8 by; by < 3; ++by) {
            p.draw = Draw(1, DrawBy(by));
            _rules.check(p);
            p.draw = Draw(5, DrawBy(by));
            _rules.check(p);
        }
    }

    /// @dev What a round can have counts, and not who may enrol.
    function test_draw__proofsAndGroups__areOfSoMany() external {
        TaskParams memory p = _good();
        (p.workers, p.format.rule) = (Bounds(1, 1024), Rule.Median);
        _refuses(p, "groupSize");
        p.draw.clientsPerRound = 65;
        _refuses(p, "groupSize");
        p.draw.clientsPerRound = 64;
        _rules.check(p);
        (p.format.rule, p.format.groupSize, p.draw.clientsPerRound) = (Rule.Mean, 1024, 0);
        _refuses(p, "proofs too large");
        p.draw.clientsPerRound = 64;
        _rules.check(p);
    }

    function test_validators__bounds__edges() external {
        TaskParams memory p = _good();
        p.validators = Bounds(0, 3);
        _refuses(p, "validators");
        p.validators = Bounds(16, 16);
        _rules.check(p);
        p.validators = Bounds(1, 17);
        _refuses(p, "validators");
    }

    function test_aggregators__bounds__edges() external {
        TaskParams memory p = _good();
        p.aggregators = Bounds(0, 0);
        _refuses(p, "aggregators");
        p.aggregators = Bounds(0, 1);
        _rules.check(p);
        p.aggregators = Bounds(16, 16);
        _rules.check(p);
        p.aggregators = Bounds(0, 17);
        _refuses(p, "aggregators");
    }

    function test_namedValidators__number__edges() external {
        TaskParams memory p = _good();
        p.namedValidators = new address[](1);
        _refuses(p, "namedValidators");
        p.namedValidators = new address[](2);
        _rules.check(p);
        p.namedValidators = new address[](16);
        _rules.check(p);
        p.namedValidators = new address[](17);
        _refuses(p, "namedValidators");
    }

    /// @dev 600 + 300 + 600 + 300 up to the scores, then three attempts of 6 · 300 + 900 and a game of three moves of
    /// 300 and the proof's 600: 14,400 seconds, and 365 days are 2,190 of them.
    function test_duration__edges() external {
        TaskParams memory p = _good();
        p.rounds = 2190;
        _rules.check(p);
        p.rounds = 2191;
        _refuses(p, "duration");
        (p.rounds, p.windows.answer) = (2190, 301);
        _refuses(p, "duration");
        p = _good();
        (p.rounds, p.windows.slot) = (65_533, 7 days);
        _refuses(p, "duration");
    }

    /// @dev 256 chunks are eight levels, which one answer shows; the state of an adaptive server has nine, and a game about
    /// it an answer and a pointer more: 3 · 2 · 300 seconds a round.
    function test_duration__deeperState__countsItsMoves() external {
        TaskParams memory p = _served(ServerKind.Yogi);
        (p.genesisStateRoot, p.format.numParams) = ("state", 128 * 256);
        p.rounds = 2190;
        _rules.check(p);
        p.format.numParams += 1;
        _refuses(p, "duration");
        // 365 days are 1,946 rounds of 16,200 seconds.
        p.rounds = 1946;
        _rules.check(p);
        ++p.rounds;
        _refuses(p, "duration");
        (p.format, p.rounds) = (_served(ServerKind.Nesterov).format, 2190);
        p.format.numParams = 256 * 256;
        _rules.check(p);
    }

    function test_slotFee__aboveTheBond__isRefused() external {
        TaskParams memory p = _good();
        p.economics.slotFee = p.economics.aggregatorBond;
        _rules.check(p);
        ++p.economics.slotFee;
        _refuses(p, "slotFee");
        p.economics.slotFee = type(uint96).max;
        _refuses(p, "slotFee");
    }

    function test_numParams__edges() external {
        TaskParams memory p = _good();
        p.format.numParams = 0;
        _refuses(p, "numParams");
        p.format.numParams = 1;
        _rules.check(p);
        p.format.numParams = 1 << 40;
        _rules.check(p);
        p.format.numParams = (1 << 40) + 1;
        _refuses(p, "numParams");
    }

    function test_chunkParams__edges() external {
        TaskParams memory p = _good();
        uint32[5] memory bad = [uint32(0), 8, 15, 17, 65_552];
        for (uint256 i; i < bad.length; ++i) {
            p.format.chunkParams = bad[i];
            _refuses(p, "chunkParams");
        }
        p.format.chunkParams = 16;
        _rules.check(p);
        // The proof of one update is too large long before that.
        p.format.chunkParams = 65_536;
        _refuses(p, "proofs too large");
    }

    function test_maxSquaredNorm__zero__isRefused() external {
        TaskParams memory p = _good();
        p.format.maxSquaredNorm = 0;
        _refuses(p, "maxSquaredNorm");
        p.format.maxSquaredNorm = type(uint64).max;
        _rules.check(p);
    }

    function test_step__zero__isRefused() external {
        TaskParams memory p = _good();
        p.format.stepNum = 0;
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidStep.selector, 0, 1));
        _rules.check(p);
        (p.format.stepNum, p.format.stepDen) = (1, 0);
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidStep.selector, 1, 0));
        _rules.check(p);
    }

    /// @dev The maximum of workers is what the widths are checked for, not the minimum.
    function test_widths__maximumOfWorkers__decides() external {
        TaskParams memory p = _good();
        p.workers = Bounds(1, 1024);
        // 2 · num · 1024 · 10000 · 32768 · 2^6 < 2^63 up to num = 214,746; the den adds 10,240,000.
        p.format.stepNum = 214_000;
        _rules.check(p);
        p.format.stepNum = 215_000;
        vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
        _rules.check(p);
        p.workers = Bounds(1, 1000);
        _rules.check(p);
    }

    function test_scaleBits__updateFinerThanModel__isRefused() external {
        TaskParams memory p = _good();
        p.format.updateScaleBits = 21;
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidScaleBits.selector, 20, 21));
        _rules.check(p);
    }

    function _withWindow(uint256 which, uint32 value) private pure returns (TaskParams memory p) {
        p = _good();
        p.rounds = 1;
        if (which == 0) p.windows.commit = value;
        if (which == 1) p.windows.reveal = value;
        if (which == 2) p.windows.scoreCommit = value;
        if (which == 3) p.windows.scoreReveal = value;
        if (which == 4) p.windows.slot = value;
        if (which == 5) p.windows.challenge = value;
        if (which == 6) p.windows.answer = value;
        if (which == 7) p.windows.proof = value;
    }

    function test_windows__edges() external {
        bytes32[8] memory names = [
            bytes32("windows.commit"),
            "windows.reveal",
            "windows.scoreCommit",
            "windows.scoreReveal",
            "windows.slot",
            "windows.challenge",
            "windows.answer",
            "windows.proof"
        ];
        for (uint256 i; i < 8; ++i) {
            _refuses(_withWindow(i, 0), names[i]);
            _rules.check(_withWindow(i, 1));
            _rules.check(_withWindow(i, 7 days));
            _refuses(_withWindow(i, 7 days + 1), names[i]);
            _refuses(_withWindow(i, type(uint32).max), names[i]);
        }
    }

    // --- what disputes need -----------------------------------------------------------------------------------------

    function test_groupSize__edges() external {
        TaskParams memory p = _good();
        p.format.groupSize = 0;
        _refuses(p, "groupSize");
        p.format.groupSize = 1;
        _rules.check(p);
        p.format.groupSize = type(uint16).max;
        _rules.check(p);
    }

    /// @dev A median of medians is not the median.
    function test_groupSize__orderRuleAboveIt__isRefused() external {
        TaskParams memory p = _good();
        (p.format.groupSize, p.format.rule) = (4, Rule.Median);
        _refuses(p, "groupSize");
        p.format.groupSize = 5;
        _rules.check(p);
        p.format.groupSize = 4;
        (p.format.rule, p.format.trimNum, p.format.trimDen) = (Rule.TrimmedMean, 1, 4);
        _refuses(p, "groupSize");
    }

    function test_trim__edges() external {
        TaskParams memory p = _good();
        p.format.trimDen = 1;
        _refuses(p, "trim");
        (p.format.trimNum, p.format.trimDen) = (1, 0);
        _refuses(p, "trim");
        p.format.rule = Rule.TrimmedMean;
        _refuses(p, "trim");
        p.format.trimDen = 2;
        _refuses(p, "trim");
        p.format.trimDen = 3;
        _rules.check(p);
        p.format.trimNum = 0;
        _rules.check(p);
        p.format.rule = Rule.Median;
        _refuses(p, "trim");
    }

    function test_momentum__edges() external {
        TaskParams memory p = _good();
        p.genesisStateRoot = "state";
        _refuses(p, "genesisStateRoot");
        (p.format.server, p.format.momentumNum, p.format.momentumDen) = (ServerKind.Momentum, 9, 10);
        _rules.check(p);
        p.format.momentumNum = 10;
        _rules.check(p);
        p.format.momentumNum = 11;
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidMomentum.selector, 11, 10));
        _rules.check(p);
        p.format.momentumNum = 0;
        _rules.check(p);
        p.genesisStateRoot = 0;
        _refuses(p, "genesisStateRoot");
        (p.format.momentumNum, p.format.momentumDen) = (1, 0);
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidMomentum.selector, 1, 0));
        _rules.check(p);
    }

    function test_server__everyKind__hasARootOfItsStateIfItKeepsOne() external {
        for (uint8 kind; kind < 6; ++kind) {
            TaskParams memory p = _served(ServerKind(kind));
            p.genesisStateRoot = kind == 0 ? bytes32(0) : bytes32("state");
            _rules.check(p);
            p.genesisStateRoot = kind == 0 ? bytes32("state") : bytes32(0);
            _refuses(p, "genesisStateRoot");
        }
    }

    /// @dev What FixedPoint refuses of a server's parameters, a task may not ask for.
    function test_server__parametersOfAnotherKind__areRefused() external {
        TaskParams memory p = _served(ServerKind.Plain);
        (p.format.momentumNum, p.format.momentumDen) = (9, 10);
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidMomentum.selector, 9, 10));
        _rules.check(p);
        p = _served(ServerKind.Adagrad);
        (p.format.secondNum, p.format.secondDen) = (99, 100);
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidSecondMoment.selector, 99, 100));
        _rules.check(p);
        p = _served(ServerKind.Nesterov);
        p.format.tau = 1;
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.InvalidTau.selector, 1));
        _rules.check(p);
    }

    function _served(ServerKind kind) private pure returns (TaskParams memory p) {
        p = _good();
        p.format.server = kind;
        if (kind != ServerKind.Plain) (p.format.momentumNum, p.format.momentumDen) = (9, 10);
        if (kind > ServerKind.Adagrad) (p.format.secondNum, p.format.secondDen) = (99, 100);
        if (kind >= ServerKind.Adagrad) p.format.tau = 16_777;
    }

    /// @dev 2^32·num + 2·den stays below 2^63.
    function test_momentum__widths__edges() external {
        TaskParams memory p = _good();
        p.genesisStateRoot = "state";
        p.format.server = ServerKind.Momentum;
        (p.format.momentumNum, p.format.momentumDen) = ((1 << 31) - 1, (1 << 31) - 1);
        _rules.check(p);
        (p.format.momentumNum, p.format.momentumDen) = (1 << 31, 1 << 31);
        vm.expectPartialRevert(FixedPoint.WidthOverflow.selector);
        _rules.check(p);
    }

    /// @dev By hand from the layout in IDisputes: 65 updates of depth 20 and 256 values, in form 1, are the most.
    function test_proofBytes__mostUpdates__edges() external {
        TaskParams memory p = _good();
        (p.format.numParams, p.format.chunkParams, p.format.groupSize) = (uint64(1 << 20) * 256, 256, 1024);
        uint256 fixed_ = 14 + 2 * (1024 + 640);
        uint256 most = (100_000 - fixed_) / (11 + 512 + 960);
        p.workers = Bounds(1, uint16(most));
        _rules.check(p);
        p.workers.max += 1;
        _refuses(p, "proofs too large");
        // In groups more fit.
        p.format.groupSize = 32;
        _rules.check(p);
        p.workers.max = 1024;
        _rules.check(p);
        p.format.groupSize = 16;
        _refuses(p, "proofs too large");
    }

    /// @dev By hand: 70 updates of depth 28, and three vectors as deep, are 99,984 bytes; an adaptive server's state is one
    /// level deeper, and 32 bytes more are too much.
    function test_proofBytes__deeperState__edges() external {
        for (uint8 kind; kind < 6; ++kind) {
            TaskParams memory p = _served(ServerKind(kind));
            if (kind > 0) p.genesisStateRoot = "state";
            (p.format.numParams, p.format.chunkParams, p.format.groupSize) = (16 << 28, 16, 1024);
            p.workers = Bounds(1, kind < 3 ? 70 : 69);
            _rules.check(p);
            if (kind == 0) continue;
            p.workers.max += 1;
            _refuses(p, "proofs too large");
        }
    }

    function test_challengerBond__aboveTheAggregators__isRefused() external {
        TaskParams memory p = _good();
        p.economics.challengerBond = p.economics.aggregatorBond;
        _rules.check(p);
        ++p.economics.challengerBond;
        _refuses(p, "challengerBond");
        p.economics.challengerBond = type(uint96).max;
        _refuses(p, "challengerBond");
        // The last games that can be open lock 2^16 times as much.
        (p.economics.aggregatorBond, p.economics.challengerBond) = (type(uint96).max, type(uint96).max >> 16);
        _rules.check(p);
        ++p.economics.challengerBond;
        _refuses(p, "challengerBond");
    }

    function test_demandFee__aboveTheWorkersStake__isRefused() external {
        TaskParams memory p = _good();
        p.economics.demandFee = p.economics.workerStake;
        _rules.check(p);
        ++p.economics.demandFee;
        _refuses(p, "demandFee");
    }

    function test_disputeEconomics__zeroOrAboveTheWhole__areRefused() external {
        TaskParams memory p = _good();
        p.economics.challengerBond = 0;
        _refuses(p, "challengerBond");
        p = _good();
        p.economics.demandFee = 0;
        _refuses(p, "demandFee");
        // The sixteenth is 2^15 times the first.
        (p.economics.workerStake, p.economics.demandFee) = (type(uint96).max, type(uint96).max >> 16);
        _rules.check(p);
        ++p.economics.demandFee;
        _refuses(p, "demandFee");
        p = _good();
        p.economics.rangeSlashBps = 10_001;
        _refuses(p, "slashBps");
        p = _good();
        p.economics.withheldSlashBps = 10_001;
        _refuses(p, "slashBps");
        p = _good();
        p.economics.vouchSlashBps = 10_001;
        _refuses(p, "slashBps");
        p.economics.vouchSlashBps = 0;
        _rules.check(p);
    }

    function test_stakes__zero__areRefused() external {
        TaskParams memory p = _good();
        p.economics.workerStake = 0;
        _refuses(p, "workerStake");
        p = _good();
        p.economics.validatorStake = 0;
        _refuses(p, "validatorStake");
        p = _good();
        p.economics.aggregatorBond = 0;
        _refuses(p, "aggregatorBond");
        p = _good();
        p.economics.slotFee = 0;
        _rules.check(p);
    }

    function test_shares__sum__isExactlyTheWhole() external {
        TaskParams memory p = _good();
        p.economics.aggregatorBps = 999;
        _refuses(p, "shares");
        p.economics.aggregatorBps = 1001;
        _refuses(p, "shares");
        (p.economics.workersBps, p.economics.validatorsBps, p.economics.aggregatorBps) = (10_000, 0, 0);
        _rules.check(p);
        // 65,535 + 2 + 9,999 is the whole in sixteen bits only.
        (p.economics.workersBps, p.economics.validatorsBps, p.economics.aggregatorBps) = (65_535, 2, 9999);
        _refuses(p, "shares");
    }

    function test_baseAndSlashes__atMostTheWhole() external {
        TaskParams memory p = _good();
        p.economics.baseBps = 10_001;
        _refuses(p, "baseBps");
        p = _good();
        p.economics.workerSlashBps = 10_001;
        _refuses(p, "slashBps");
        p = _good();
        p.economics.validatorSlashBps = 10_001;
        _refuses(p, "slashBps");
        p = _good();
        (p.economics.baseBps, p.economics.workerSlashBps, p.economics.validatorSlashBps) = (10_000, 10_000, 10_000);
        _rules.check(p);
        (p.economics.baseBps, p.economics.workerSlashBps, p.economics.validatorSlashBps) = (0, 0, 0);
        _rules.check(p);
    }
}
