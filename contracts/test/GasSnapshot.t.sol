// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Phase, Role, TaskParams } from "../src/interfaces/Types.sol";
import { Deployed } from "./base/Deployed.sol";

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
        (uint256 commit64, uint256 reveal64) = _secondRound(64, 1_000_000_000);
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

    function test_size__everyContract__isAsCommittedAndWithinTheLimit() external optimised {
        _keep("TaskCoordinator", address(coordinator).code.length);
        _keep("StakeVault", address(vault).code.length);
        _keep("ModelRegistry", address(registry).code.length);
        _keep("TrainingToken", address(token).code.length);
        _keep("Lifecycle", vm.getDeployedCode("Lifecycle.sol:Lifecycle").length);
        _keep("Tally", vm.getDeployedCode("Tally.sol:Tally").length);
        _keep("Aggregates", vm.getDeployedCode("Aggregates.sol:Aggregates").length);
        _keep("Settlement", vm.getDeployedCode("Settlement.sol:Settlement").length);
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
