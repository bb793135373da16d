// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IERC20 } from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { IDisputes } from "../../src/interfaces/IDisputes.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import {
    Bounds,
    Cid,
    Claim,
    Economics,
    Format,
    Phase,
    Role,
    Rule,
    ServerKind,
    Target,
    TaskParams,
    Windows
} from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Test } from "../base/Test.sol";

/// @notice What a hostile reader of the disputes tried. One worker, one validator, one aggregator, and updates of 17
/// chunks, so that a tree of depth 5 has padding. Each test says what must hold.
contract ReviewFindingsTest is Test {
    uint64 private constant NUM_PARAMS = 272;
    uint32 private constant CHUNK = 16;
    uint256 private constant DEPTH = 5;
    uint32 private constant ANSWER = 300;
    uint96 private constant DEMAND_FEE = 2 ether;
    uint96 private constant BOND = 200 ether;
    uint96 private constant CHALLENGER_BOND = 50 ether;
    /// @dev 16 values, the first of which is -32,768.
    bytes32 private constant OUT_OF_RANGE = bytes32(uint256(0x8000) << 240);

    address private requester = vm.addr(1);
    address private worker = vm.addr(2);
    address private validator = vm.addr(3);
    address private aggregator = vm.addr(4);
    address private friend = vm.addr(5);
    address private honest = vm.addr(6);

    TrainingToken private token;
    StakeVault private vault;
    TaskCoordinator private coordinator;
    uint256 private id;

    function setUp() public {
        vm.warp(1_000_000);
        vm.roll(1000);
        token = new TrainingToken(1e9 ether, 0, 1, 1);
        uint64 nonce = vm.getNonce(address(this));
        vault = new StakeVault(IERC20(address(token)), vm.computeCreateAddress(address(this), nonce + 1), 7 days);
        coordinator = new TaskCoordinator(address(vault), vm.computeCreateAddress(address(this), nonce + 2));
        new ModelRegistry(address(coordinator));
        address[6] memory cast = [requester, worker, validator, aggregator, friend, honest];
        for (uint256 i; i < cast.length; ++i) {
            token.transfer(cast[i], 200_000 ether);
            vm.startPrank(cast[i]);
            token.approve(address(vault), type(uint256).max);
            vault.deposit(200_000 ether);
            vm.stopPrank();
        }
    }

    // --- demands ------------------------------------------------------------------------------------

    /// @dev Half of an answered fee burns, so that a cheat that asks itself pays 65,535 times the first fee for all
    /// sixteen places, half of it to nobody.
    function test_demandChunk__workerAskedItself__costsHalfOfEveryFee() external {
        _start(_params());
        _revealUpdate(bytes32(0));
        uint256 before = _wealth(friend) + _wealth(worker);
        uint256 fees;
        for (uint64 i; i < 6; ++i) {
            vm.prank(friend);
            coordinator.demandChunk(id, 1, 0, i);
            vm.startPrank(worker);
            coordinator.answerDemand(id, 1, 0, i, _updateOpening(i, bytes32(0), 0));
            vm.stopPrank();
            fees += uint256(DEMAND_FEE) << i;
        }
        vm.assertEq(before - _wealth(friend) - _wealth(worker), fees / 2);
        vm.prank(honest);
        coordinator.demandChunk(id, 1, 0, 16);
    }

    /// @dev After the tally a refutation no longer moves weights, so it must not make the bytes undemandable either.
    function test_demandChunk__acceptedUpdateRefutedByItsOwnWorker__isStillAccepted() external {
        _start(_params());
        _revealUpdate(OUT_OF_RANGE);
        _score(10_000, 100);
        coordinator.tally(id, 8);
        _assertPhase(Phase.Aggregate);
        bytes memory proof = abi.encodePacked(uint16(0), uint64(0), _updateOpening(0, OUT_OF_RANGE, 1));
        _proveUpdate(friend, proof);
        vm.prank(honest);
        coordinator.demandChunk(id, 1, 0, 16);
    }

    /// @dev Tally and settlement in one block leave nobody the time to close the demand in between.
    function test_closeDemand__roundSettledInTheBlockOfTheTally__withholderIsSlashed() external {
        _start(_params());
        _revealUpdate(bytes32(0));
        vm.prank(honest);
        coordinator.demandChunk(id, 1, 0, 0);
        _score(10_000, 100);
        if (_phase() == Phase.Answer) _mine(ANSWER);
        coordinator.tally(id, 8);
        coordinator.settle(id, 8);
        coordinator.closeDemand(id, 1, 0, 0);
        vm.assertEq(vault.lockOf(id, Role.Worker, worker), 50 ether, "withheld, and kept its stake");
    }

    /// @dev Bytes that nobody serves are exactly why nobody can post an aggregate.
    function test_closeDemand__lateDemandExpiresAfterAggregate__vouchersAreSlashed() external {
        _start(_params());
        _revealUpdate(bytes32(0));
        _score(10_000, 100);
        coordinator.tally(id, 8);
        (, uint40 end) = coordinator.phaseOf(id);
        _mineAt(end - 1);
        vm.prank(honest);
        coordinator.demandChunk(id, 1, 0, 0);
        _mine(ANSWER);
        coordinator.closeDemand(id, 1, 0, 0);
        vm.assertEq(vault.lockOf(id, Role.Validator, validator), 150 ether, "vouched, and kept its stake");
    }

    /// @dev Being withheld costs half of what being out of range costs, half of which comes back to who asked itself.
    function test_proveUpdate__workerLetItsOwnDemandExpire__isSlashedInFull() external {
        _start(_params());
        _revealUpdate(OUT_OF_RANGE);
        vm.prank(friend);
        coordinator.demandChunk(id, 1, 0, 16);
        _mine(ANSWER);
        coordinator.closeDemand(id, 1, 0, 16);
        _proveUpdate(honest, abi.encodePacked(uint16(0), uint64(0), _updateOpening(0, OUT_OF_RANGE, 1)));
        vm.assertEq(vault.lockOf(id, Role.Worker, worker), 0, "out of range, and kept half of its stake");
    }

    /// @dev The fee of the k-th demand is shifted within 96 bits.
    function test_createTask__demandFeeThatOverflows__revertsInvalidParams() external {
        TaskParams memory p = _params();
        p.economics.demandFee = 1 << 95;
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.InvalidParams.selector, bytes32("demandFee")));
        vm.prank(requester);
        coordinator.createTask(p);
    }

    // --- aggregates ---------------------------------------------------------------------------------

    /// @dev A commitment made on one attempt for the next is never waited for, and its bond is free to go at any time.
    function test_proveAggregate__committedOnAnEarlierAttempt__revertsNoChallenge() external {
        _start(_params());
        _toPosted();
        bytes memory proof = hex"09";
        bytes32 commitment = _challengeCommitment(friend, 2, proof);
        vm.startPrank(friend);
        coordinator.commitChallenge(id, 1, 1, commitment);
        uint32 game = coordinator.openGame(id, 1, 1, Target.Model, 0, new bytes32[](0), bytes32(uint256(1)));
        vm.stopPrank();
        _mine(ANSWER);
        coordinator.closeGame(id, game);
        _post(honest, 2);
        vm.expectPartialRevert(IDisputes.NoChallenge.selector);
        vm.prank(friend);
        coordinator.proveAggregate(id, 1, 2, proof, 0);
    }

    /// @dev Games without merit against an honest aggregate: each that is answered costs its bond, half of it to
    /// whoever answered. (One that nobody answers refutes: see the threat model.)
    function test_closeGame__twentyFrivolousGamesAnswered__allCost() external {
        _start(_params());
        _toPosted();
        uint256 before = _wealth(friend);
        vm.startPrank(friend);
        for (uint256 i; i < 20; ++i) {
            coordinator.openGame(id, 1, 1, Target.Model, 0, new bytes32[](0), bytes32(i + 1));
        }
        vm.stopPrank();
        for (uint32 i; i < 20; ++i) {
            coordinator.answerNodes(id, i, _modelNodes());
        }
        _mine(ANSWER);
        for (uint32 i; i < 20; ++i) {
            coordinator.closeGame(id, i);
        }
        // Those after the sixteenth locked twice the bond.
        vm.assertEq(before - _wealth(friend), 24 * uint256(CHALLENGER_BOND));
        vm.assertEq(vault.creditOf(address(this)), 12 * uint256(CHALLENGER_BOND));
    }

    // --- the cast at work ---------------------------------------------------------------------------

    function _params() private view returns (TaskParams memory p) {
        (p.specHash, p.genesisRoot) = (keccak256("spec"), keccak256("genesis"));
        (p.genesisCid, p.genesisFloatCid) = (Cid(0, 0x55), Cid(0, 0x55));
        (p.rounds, p.reward, p.enrolmentEnd) = (1, 1000 ether, uint40(block.timestamp + 1 days));
        (p.workers, p.validators, p.aggregators) = (Bounds(1, 1), Bounds(1, 1), Bounds(1, 1));
        p.windows = Windows(600, 300, 600, 300, 300, 900, ANSWER, 600);
        p.format = Format({
            numParams: NUM_PARAMS,
            chunkParams: CHUNK,
            modelScaleBits: 20,
            updateScaleBits: 14,
            stepNum: 1,
            stepDen: 1,
            maxSquaredNorm: 1 << 40,
            groupSize: 64,
            rule: Rule.Mean,
            trimNum: 0,
            trimDen: 0,
            momentumNum: 0,
            momentumDen: 0,
            server: ServerKind.Plain,
            secondNum: 0,
            secondDen: 0,
            tau: 0
        });
        Economics memory e;
        (e.workerStake, e.validatorStake, e.aggregatorBond, e.slotFee) = (100 ether, 300 ether, BOND, 5 ether);
        (e.workersBps, e.validatorsBps, e.aggregatorBps, e.baseBps) = (7000, 2000, 1000, 3000);
        (e.workerSlashBps, e.validatorSlashBps) = (2000, 1000);
        (e.challengerBond, e.demandFee) = (CHALLENGER_BOND, DEMAND_FEE);
        (e.rangeSlashBps, e.withheldSlashBps, e.vouchSlashBps) = (10_000, 5000, 5000);
        p.economics = e;
    }

    function _start(TaskParams memory p) private {
        vm.prank(requester);
        id = coordinator.createTask(p);
        vm.prank(worker);
        coordinator.enrol(id, Role.Worker, 100 ether);
        vm.prank(validator);
        coordinator.enrol(id, Role.Validator, 300 ether);
        vm.prank(aggregator);
        coordinator.enrol(id, Role.Aggregator, 0);
    }

    /// @dev To ScoreCommit, with an update of zeros but for its first chunk.
    function _revealUpdate(bytes32 first) private {
        (bytes32 root, uint64 sum) = _updateRoot(first);
        Cid memory cid = Cid(root, 0x55);
        bytes memory head = abi.encode(block.chainid, address(coordinator), id, uint16(1), worker);
        bytes32 commitment = keccak256(bytes.concat(head, abi.encode(root, cid, sum, uint32(1), bytes32(0))));
        vm.startPrank(worker);
        coordinator.commitUpdate(id, 1, commitment);
        coordinator.revealUpdate(id, 1, root, cid, sum, 1, 0);
        vm.stopPrank();
        _assertPhase(Phase.ScoreCommit);
    }

    function _score(uint16 weight, uint16 score) private {
        bytes memory votes = abi.encodePacked(weight, score);
        bytes32 commitment = keccak256(
            abi.encode(block.chainid, address(coordinator), id, uint16(1), validator, keccak256(votes), bytes32(0))
        );
        vm.startPrank(validator);
        coordinator.commitScores(id, 1, commitment);
        coordinator.revealScores(id, 1, votes, 0);
        vm.stopPrank();
    }

    /// @dev To Challenge.
    function _toPosted() private {
        _revealUpdate(bytes32(0));
        _score(10_000, 100);
        coordinator.tally(id, 8);
        _mine(1);
        coordinator.drawOrder(id);
        // Before the prank, which its hashing would use up.
        Claim memory claim = _claim();
        vm.prank(aggregator);
        coordinator.postAggregate(id, 1, claim, Cid(0, 0x55), Cid(0, 0x55), 0);
        _assertPhase(Phase.Challenge);
    }

    /// @dev By a stranger, in the open window.
    function _post(address poster, uint8 attempt) private {
        bytes32 claimHash = keccak256(abi.encode(_claim()));
        vm.startPrank(poster);
        coordinator.commitAggregate(
            id,
            1,
            keccak256(
                abi.encode(block.chainid, address(coordinator), id, uint16(1), attempt, poster, claimHash, bytes32(0))
            )
        );
        _mine(1);
        coordinator.postAggregate(id, 1, _claim(), Cid(0, 0x55), Cid(0, 0x55), 0);
        vm.stopPrank();
    }

    function _proveUpdate(address challenger, bytes memory proof) private {
        bytes32 commitment = keccak256(
            abi.encode(block.chainid, address(coordinator), id, uint16(1), challenger, keccak256(proof), bytes32(0))
        );
        vm.startPrank(challenger);
        coordinator.commitProof(id, commitment);
        _mine(1);
        coordinator.proveUpdate(id, 1, proof, 0);
        vm.stopPrank();
    }

    function _challengeCommitment(address challenger, uint8 attempt, bytes memory proof)
        private
        view
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                block.chainid, address(coordinator), id, uint16(1), attempt, challenger, keccak256(proof), bytes32(0)
            )
        );
    }

    // --- trees --------------------------------------------------------------------------------------

    function _claim() private pure returns (Claim memory claim) {
        bytes memory nodes = _modelNodes();
        bytes32[] memory row = new bytes32[](32);
        for (uint256 i; i < 32; ++i) {
            bytes32 node;
            assembly ("memory-safe") {
                node := mload(add(add(nodes, 32), mul(32, i)))
            }
            row[i] = node;
        }
        for (uint256 count = 16; count > 0; count /= 2) {
            for (uint256 i; i < count; ++i) {
                row[i] = ChunkTree.node(row[2 * i], row[2 * i + 1]);
            }
        }
        claim.modelRoot = ChunkTree.rootOf(ChunkTree.Shape(ChunkTree.MODEL, NUM_PARAMS, CHUNK), row[0]);
    }

    /// @dev The leaves of a model of zeros.
    function _modelNodes() private pure returns (bytes memory nodes) {
        for (uint64 i; i < 32; ++i) {
            nodes = bytes.concat(nodes, i < 17 ? ChunkTree.leaf(i, new bytes(64)) : bytes32(0));
        }
    }

    function _updateRows(bytes32 first) private pure returns (bytes32[][] memory rows, uint64 sum) {
        sum = first == 0 ? 0 : 1 << 30;
        rows = new bytes32[][](DEPTH + 1);
        rows[0] = new bytes32[](32);
        for (uint64 i; i < 17; ++i) {
            rows[0][i] = ChunkTree.leaf(i, abi.encodePacked(i == 0 ? first : bytes32(0)));
        }
        for (uint256 h; h < DEPTH; ++h) {
            uint256 count = rows[h].length / 2;
            rows[h + 1] = new bytes32[](count);
            for (uint256 i; i < count; ++i) {
                rows[h + 1][i] = ChunkTree.sumNode(rows[h][2 * i], i == 0 ? sum : 0, rows[h][2 * i + 1], 0);
            }
        }
    }

    function _updateRoot(bytes32 first) private pure returns (bytes32 root, uint64 sum) {
        bytes32[][] memory rows;
        (rows, sum) = _updateRows(first);
        root = ChunkTree.rootOfSums(ChunkTree.Shape(ChunkTree.UPDATE, NUM_PARAMS, CHUNK), rows[DEPTH][0], sum);
    }

    function _updateOpening(uint64 index, bytes32 first, uint8 form) private pure returns (bytes memory opening) {
        (bytes32[][] memory rows, uint64 sum) = _updateRows(first);
        opening = abi.encodePacked(form, index == 0 ? first : bytes32(0), index == 0 ? sum : 0);
        for (uint256 h; h < DEPTH; ++h) {
            uint256 sibling = (index >> h) ^ 1;
            opening = abi.encodePacked(opening, rows[h][sibling], sibling == 0 ? sum : 0);
            if (form == 1) opening = abi.encodePacked(opening, index >> (h + 1) == 0 ? sum : 0);
        }
    }

    // --- time and money -----------------------------------------------------------------------------

    function _mine(uint256 s) private {
        _mineAt(vm.getBlockTimestamp() + s);
    }

    function _mineAt(uint256 timestamp) private {
        uint256 number = vm.getBlockNumber();
        vm.roll(number + 1);
        vm.setBlockhash(number, keccak256(abi.encode(number)));
        vm.warp(timestamp);
    }

    function _phase() private view returns (Phase phase) {
        (phase,) = coordinator.phaseOf(id);
    }

    function _assertPhase(Phase expected) private view {
        vm.assertEq(uint256(_phase()), uint256(expected), "phase");
    }

    /// @dev All that an account has in the vault, but its stake.
    function _wealth(address account) private view returns (uint256) {
        return vault.freeOf(account) + vault.creditOf(account) + vault.lockOf(id, Role.Challenger, account);
    }
}
