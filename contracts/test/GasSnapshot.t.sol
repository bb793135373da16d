// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Claim, Draw, DrawBy, Phase, Role, Rule, ServerKind, TaskParams, Verdict } from "../src/interfaces/Types.sol";
import { ChunkTree } from "../src/libraries/ChunkTree.sol";
import { Deployed } from "./base/Deployed.sol";
import { Trees } from "./base/Trees.sol";
import { Urn } from "./base/Urn.sol";

/// @notice Gas of every kind of transaction as it stands in a receipt (base fee, calldata, execution, less refunds), and
/// the size of every deployed code, against what is committed in contracts/snapshots.
/// @dev `CHAINFL_SNAPSHOTS=write` rewrites the files. Each transaction of the test is one of its own, so that nothing is
/// warm that would be cold.
contract GasSnapshotTest is Deployed {
    /// @dev How far a figure may be from the committed one, in basis points.
    uint256 private constant TOLERANCE_BPS = 100;
    /// @dev A worker's commit and reveal together, from its second round on.
    uint256 private constant TARGET = 90_000;
    string private constant FOLDER = "contracts/snapshots/";

    string[] private _names;
    uint256[] private _values;

    modifier optimised() {
        if (vm.isContext(2)) vm.skip(true);
        _;
    }

    /// @dev Keeps the gas of the call just made.
    function _keep(string memory name) private returns (uint256 gas) {
        gas = vm.lastCallGas().gasTotalUsed;
        _keep(name, gas);
    }

    function _keep(string memory name, uint256 value) private {
        _names.push(name);
        _values.push(value);
    }

    /// forge-config: default.isolate = true
    function test_gas__everyTransaction__isAsCommitted() external optimised {
        _keepEnrolment();
        uint256 id = _started(3, 3, 1);
        _keepUpdates(id, "first");
        _keepScores(id, "first");
        _keepRest(id, "first");
        uint256 sum = _keepUpdates(id, "later");
        vm.assertLe(sum, TARGET, "a worker's round costs more than promised");
        _keepScores(id, "later");
        _keepRest(id, "last");
        _keepVault(id);
        _compare("gas.json");
    }

    function _keepEnrolment() private {
        TaskParams memory p = _params(3, 1, 1);
        (p.workers.min, p.aggregators.min) = (1, 0);
        uint256 id = _create(p);
        _keep("createTask");
        _enrol(id, Role.Worker, _worker(9), WORKER_STAKE);
        _keep("enrol_worker");
        _enrol(id, Role.Validator, _validator(9), VALIDATOR_STAKE);
        _keep("enrol_validator");
        _enrol(id, Role.Aggregator, _aggregator(9), 0);
        _keep("enrol_aggregator");
        vm.prank(requester);
        coordinator.cancelTask(id);
        _keep("cancelTask");

        p.enrolmentEnd = uint40(_now() + 1);
        id = _create(p);
        _enrolAll(id, 1, 1, 0);
        _mineAt(p.enrolmentEnd);
        coordinator.startTask(id);
        _keep("startTask");
        vm.prank(_worker(0));
        coordinator.leave(id, Role.Worker);
        _keep("leave");
        vm.prank(_worker(0));
        coordinator.rejoin(id, Role.Worker);
        _keep("rejoin");
    }

    /// @dev Returns what the last of the workers pays for its commit and its reveal: it also ends both phases.
    function _keepUpdates(uint256 id, string memory which) private returns (uint256 sum) {
        _commit(id, _worker(0));
        _keep(string.concat("commitUpdate_", which));
        _commit(id, _worker(1));
        _commit(id, _worker(2));
        sum = _keep(string.concat("commitUpdate_", which, "_endsPhase"));
        _reveal(id, _worker(0));
        _keep(string.concat("revealUpdate_", which));
        _reveal(id, _worker(1));
        _reveal(id, _worker(2));
        sum += _keep(string.concat("revealUpdate_", which, "_endsPhase"));
    }

    function _keepScores(uint256 id, string memory which) private {
        bytes memory votes = _same(3, 10_000, 2000);
        for (uint256 i; i < 3; ++i) {
            _commitScores(id, _validator(i), votes);
            if (i == 0) _keep(string.concat("commitScores_", which));
        }
        for (uint256 i; i < 3; ++i) {
            _revealScores(id, _validator(i), votes);
            if (i == 0) _keep(string.concat("revealScores_", which));
        }
    }

    function _keepRest(uint256 id, string memory which) private {
        _tallyAll(id);
        _keep(string.concat("tally_", which));
        _commitAggregate(id, stranger, "s");
        _keep(string.concat("commitAggregate_", which));
        _mine(1);
        coordinator.drawOrder(id);
        _keep(string.concat("drawOrder_", which));
        _post(id, _aggregator(0));
        _keep(string.concat("postAggregate_", which));
        _endPhase(id);
        _settleAll(id);
        _keep(string.concat("settle_", which));
    }

    function _keepVault(uint256 id) private {
        vm.prank(_worker(0));
        vault.claim();
        _keep("claim");
        _mine(UNBONDING);
        vault.unlock(id, Role.Worker, _worker(0));
        _keep("unlock");
        vm.prank(_worker(0));
        vault.withdraw(1 ether);
        _keep("withdraw");
        vm.startPrank(_worker(0));
        token.approve(address(vault), 1 ether);
        vault.deposit(1 ether);
        _keep("deposit");
        vm.stopPrank();
        vm.prank(requester);
        registry.grantAccess(id, stranger);
        _keep("grantAccess");
    }

    /// @dev Neither the model's size nor the number of workers is in a worker's bill.
    /// forge-config: default.isolate = true
    function test_gas__commitAndReveal__growWithNothing() external optimised {
        (uint256 commit, uint256 reveal) = _secondRound(4, 10_000);
        (uint256 commit64, uint256 reveal64) = _secondRound(64, 100_000_000);
        (uint256 commitDrawn, uint256 revealDrawn) = _drawnRound();
        vm.assertLe(commitDrawn, commit + 100);
        vm.assertLe(revealDrawn, reveal + 100);
        // The calldata of another address and another hash differs by a few zero bytes.
        vm.assertLe(commit64, commit + 100);
        vm.assertLe(reveal64, reveal + 100);
    }

    function _secondRound(uint16 workers, uint64 numParams) private returns (uint256 commit, uint256 reveal) {
        TaskParams memory p = _params(workers, 1, 1);
        p.format.numParams = numParams;
        uint256 id = _create(p);
        _enrolAll(id, workers, 1, 1);
        _commit(id, _worker(0));
        _endPhase(id);
        _reveal(id, _worker(0));
        _scoresAlike(id, 1, _same(workers, 1, 1));
        _tallyAll(id);
        _finalise(id);
        _settleAll(id);
        _commit(id, _worker(0));
        commit = vm.lastCallGas().gasTotalUsed;
        _endPhase(id);
        _reveal(id, _worker(0));
        reveal = vm.lastCallGas().gasTotalUsed;
    }

    /// @dev Two of two workers, in the second round; neither ends the phase alone.
    function _drawnRound() private returns (uint256 commit, uint256 reveal) {
        TaskParams memory p = _params(2, 1, 1);
        p.draw = Draw(2, DrawBy.Stake);
        uint256 id = _create(p);
        _enrolAll(id, 2, 1, 1);
        for (uint256 round; round < 2; ++round) {
            _mine(1);
            coordinator.drawWorkers(id);
            _commit(id, _worker(0));
            commit = vm.lastCallGas().gasTotalUsed;
            _commit(id, _worker(1));
            _reveal(id, _worker(0));
            reveal = vm.lastCallGas().gasTotalUsed;
            _reveal(id, _worker(1));
            if (round == 1) return (commit, reveal);
            _scoresAlike(id, 1, _same(2, 1, 1));
            _tallyAll(id);
            _finalise(id);
            _settleAll(id);
        }
    }

    // --- draws -----------------------------------------------------------------------------------------------------

    /// @dev A transaction has at most 2^24 gas (EIP-7825).
    uint256 private constant MOST = 1 << 24;

    /// forge-config: default.isolate = true
    function test_gas__drawWorkers__isAsCommittedAndWithinATransaction() external optimised {
        Urn few = _urn(64);
        Urn many = _urn(1024);
        uint16[3] memory perRound = [uint16(5), 32, 64];
        for (uint256 i; i < 3; ++i) {
            _keepDraw(few, "of64_stake", perRound[i], DrawBy.Stake, 0);
            _keepDraw(many, "of1024_stake", perRound[i], DrawBy.Stake, 0);
        }
        _keepDraw(many, "of1024_uniform", 32, DrawBy.Uniform, 0);
        _keepDraw(many, "of1024_reputation", 32, DrawBy.Reputation, 5000);
        _keepDraw(many, "of1024_uniform", 1024, DrawBy.Uniform, 0);
        // Everybody at the floor, and one place less than there are workers: every trial is used, and then the list.
        _keepDraw(many, "of1024_reputationFloor", 1023, DrawBy.Reputation, 0);
        _compare("draws.json");
        for (uint256 i; i < _values.length; ++i) {
            vm.assertLe(_values[i], MOST, _names[i]);
        }
    }

    function _urn(uint256 workers) private returns (Urn urn) {
        urn = new Urn(Draw(1, DrawBy.Uniform), WORKER_STAKE);
        for (uint256 i; i < workers; ++i) {
            urn.add(WORKER_STAKE, 1, true);
        }
    }

    function _keepDraw(Urn urn, string memory what, uint16 perRound, DrawBy by, uint16 reputation) private {
        urn.refill(Draw(perRound, by), reputation);
        urn.open(1);
        _mine(1);
        urn.drawWorkers(1);
        _keep(string.concat(vm.toString(uint256(perRound)), what));
    }

    // --- disputes --------------------------------------------------------------------------------------------------

    uint256 private constant UPDATES = 32;
    uint64 private constant AT = 0x5a5a5;
    bytes32 private constant SALT = "salt";

    /// @dev The proof of a wrong coordinate, slashing included: 32 updates, 128 values a chunk, a depth of 20.
    /// forge-config: default.isolate = true
    function test_gas__wrongCoordinate__isAsCommittedAndWithinTheTarget() external optimised {
        vm.assertLe(_keepDispute("mean", Rule.Mean, ServerKind.Plain), 600_000, "mean");
        vm.assertLe(_keepDispute("median", Rule.Median, ServerKind.Plain), 700_000, "median");
        vm.assertLe(_keepDispute("trimmedMean", Rule.TrimmedMean, ServerKind.Plain), 700_000, "trimmed mean");
        vm.assertLe(_keepDispute("meanMomentum", Rule.Mean, ServerKind.Momentum), 600_000, "mean with momentum");
        vm.assertLe(_keepDispute("meanNesterov", Rule.Mean, ServerKind.Nesterov), 600_000, "mean with Nesterov's");
        vm.assertLe(_keepDispute("meanYogi", Rule.Mean, ServerKind.Yogi), 600_000, "mean with an adaptive step");
        _compare("disputes.json");
    }

    /// @dev Returns the execution alone: without the base fee and the calldata.
    function _keepDispute(string memory name, Rule rule, ServerKind server) private returns (uint256 execution) {
        TaskParams memory p = _params(uint16(UPDATES), 1, 1);
        (p.format.numParams, p.format.chunkParams, p.format.rule) = (128 << 20, 128, rule);
        if (rule == Rule.TrimmedMean) (p.format.trimNum, p.format.trimDen) = (1, 4);
        _serve(p, server);
        (bytes memory openings, Claim memory claim) = _vectors(p);
        uint256 id = _create(p);
        _enrolAll(id, UPDATES, 1, 1);
        (bytes memory updates, uint16 low, uint16 high) = _playUpdates(id, p);
        bytes memory proof = abi.encodePacked(uint8(1), uint8(0), AT * 128 + 7, low, high, openings, updates);
        _postClaim(id, _draw(id)[0], claim, 0);
        bytes memory data = _challenged(id, proof);
        _mine(1);
        vm.prank(stranger);
        (bool ok,) = address(coordinator).call(data);
        uint256 total = _keep(string.concat(name, "_total"));
        vm.assertTrue(ok, "refused");
        vm.assertEq(uint256(coordinator.verdictOf(id, 1, 1)), uint256(Verdict.Refuted));
        execution = total - 21_000 - _calldataGas(data);
        _keep(string.concat(name, "_execution"), execution);
        _keep(string.concat(name, "_calldataBytes"), data.length);
    }

    function _challenged(uint256 id, bytes memory proof) private returns (bytes memory data) {
        bytes32 hash = keccak256(proof);
        bytes32 commitment =
            keccak256(abi.encode(block.chainid, address(coordinator), id, uint16(1), uint8(1), stranger, hash, SALT));
        _fund(stranger, CHALLENGER_BOND);
        vm.prank(stranger);
        coordinator.commitChallenge(id, 1, 1, commitment);
        return abi.encodeCall(coordinator.proveAggregate, (id, 1, 1, proof, SALT));
    }

    function _calldataGas(bytes memory data) private pure returns (uint256 gas) {
        for (uint256 i; i < data.length; ++i) {
            gas += data[i] == 0 ? 4 : 16;
        }
    }

    /// @dev Model and state before, and the claimed model, which is anything but right.
    function _vectors(TaskParams memory p) private pure returns (bytes memory openings, Claim memory claim) {
        bytes memory before;
        ChunkTree.Shape memory shape = ChunkTree.Shape(ChunkTree.MODEL, p.format.numParams, p.format.chunkParams);
        (p.genesisRoot, before) = _vector(shape, AT, "model");
        (claim.modelRoot, openings) = _vector(shape, AT, "claimed");
        if (p.format.server == ServerKind.Plain) return (bytes.concat(before, openings), claim);
        bytes memory state;
        uint64 times = p.format.server < ServerKind.Adagrad ? 1 : 2;
        shape = ChunkTree.Shape(ChunkTree.STATE, times * p.format.numParams, p.format.chunkParams);
        (p.genesisStateRoot, state) = _vector(shape, times * AT, "state");
        before = bytes.concat(before, state);
        claim.stateRoot = keccak256("claimed state");
        return (bytes.concat(before, openings), claim);
    }

    function _vector(ChunkTree.Shape memory shape, uint64 index, bytes32 seed)
        private
        pure
        returns (bytes32, bytes memory)
    {
        return Trees.alone(shape, index, _chunk(512, seed), seed);
    }

    function _chunk(uint256 length, bytes32 seed) private pure returns (bytes memory chunk) {
        for (uint256 i; i < length / 32; ++i) {
            chunk = bytes.concat(chunk, keccak256(abi.encode(seed, i)));
        }
    }

    /// @dev All updates from Commit to Aggregate. Value 7 of the chunk of worker i is i, so that the ranks are plain.
    function _playUpdates(uint256 id, TaskParams memory p)
        private
        returns (bytes memory openings, uint16 low, uint16 high)
    {
        ChunkTree.Shape memory shape = ChunkTree.Shape(ChunkTree.UPDATE, p.format.numParams, p.format.chunkParams);
        Update[] memory updates = new Update[](UPDATES);
        for (uint256 i; i < UPDATES; ++i) {
            bytes memory chunk = _chunk(256, bytes32(i));
            (chunk[14], chunk[15]) = (0, bytes1(uint8(i)));
            bytes memory opening;
            updates[i] = _update(_worker(i), 1);
            (updates[i].root, updates[i].squaredNorm, opening) = Trees.aloneUpdate(shape, AT, chunk, 1, bytes32(i));
            openings = abi.encodePacked(openings, uint16(10_000), opening);
            bytes32 commitment = _updateCommitment(id, 1, _worker(i), updates[i]);
            vm.prank(_worker(i));
            coordinator.commitUpdate(id, 1, commitment);
        }
        for (uint256 i; i < UPDATES; ++i) {
            _revealUpdate(id, 1, _worker(i), updates[i]);
        }
        _scoresAlike(id, 1, _same(UPDATES, 10_000, 2000));
        _tallyAll(id);
        if (p.format.rule == Rule.Median) return (openings, 15, 0);
        return (openings, 8, 23);
    }

    function test_size__everyContract__isAsCommittedAndWithinTheLimit() external optimised {
        _keep("TaskCoordinator", address(coordinator).code.length);
        _keep("StakeVault", address(vault).code.length);
        _keep("ModelRegistry", address(registry).code.length);
        _keep("TrainingToken", address(token).code.length);
        _keep("Lifecycle", vm.getDeployedCode("Lifecycle.sol:Lifecycle").length);
        _keep("Tally", vm.getDeployedCode("Tally.sol:Tally").length);
        _keep("Aggregates", vm.getDeployedCode("Aggregates.sol:Aggregates").length);
        _keep("Settlement", vm.getDeployedCode("Settlement.sol:Settlement").length);
        _keep("Disputes", vm.getDeployedCode("Disputes.sol:Disputes").length);
        _keep("Proofs", vm.getDeployedCode("Proofs.sol:Proofs").length);
        _keep("Demands", vm.getDeployedCode("Demands.sol:Demands").length);
        _keep("Draws", vm.getDeployedCode("Draws.sol:Draws").length);
        for (uint256 i; i < _values.length; ++i) {
            vm.assertLe(_values[i], 24_576, _names[i]);
        }
        _compare("size.json");
    }

    function _compare(string memory file) private {
        string memory path = string.concat(FOLDER, file);
        if (keccak256(bytes(vm.envOr("CHAINFL_SNAPSHOTS", string("check")))) == keccak256("write")) {
            string memory written;
            for (uint256 i; i < _names.length; ++i) {
                written = vm.serializeUint(file, _names[i], _values[i]);
            }
            vm.writeJson(written, path);
        }
        string memory json = vm.readFile(path);
        for (uint256 i; i < _names.length; ++i) {
            uint256 committed = vm.parseJsonUint(json, string.concat(".", _names[i]));
            uint256 margin = committed * TOLERANCE_BPS / 10_000;
            vm.assertLe(_values[i], committed + margin, string.concat("more than committed: ", _names[i]));
            vm.assertGe(_values[i] + margin, committed, string.concat("less than committed: ", _names[i]));
        }
    }
}
