// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Deployed } from "./base/Deployed.sol";
import { Vm } from "./base/Test.sol";

contract GasSnapshotTest is Deployed {
    event Acc(uint256 reads, uint256 writes);
    event Gas(string what, uint64 total, int64 refund);

    /// forge-config: default.isolate = true
    function test_gas() external {
        uint256 id = _started(3, 3, 1);
        for (uint256 r; r < 2; ++r) {
            for (uint256 i; i < 3; ++i) { _commit(id, _worker(i)); _log("commit"); }
            for (uint256 i; i < 3; ++i) { _reveal(id, _worker(i)); _log("reveal"); }
            _scoresAlike(id, 3, _same(3, 10_000, 2000));
            _tallyAll(id); _log("tally");
            _mine(1);
            _post(id, _aggregator(0)); _log("post");
            _endPhase(id);
            _settleAll(id); _log("settle");
        }
    }
    function test_acc() external {
        uint256 id = _started(3, 3, 1);
        vm.record(); _commit(id, _worker(0)); _acc();
        _commit(id, _worker(1)); _acc();_commit(id, _worker(2)); _acc();
        vm.record(); _reveal(id, _worker(0)); _acc();
    }
    function _acc() private { (bytes32[] memory r, bytes32[] memory w) = vm.accesses(address(coordinator)); emit Acc(r.length, w.length); vm.record(); }
    function _log(string memory what) private {
        Vm.Gas memory g = vm.lastCallGas();
        emit Gas(what, g.gasTotalUsed, g.gasRefunded);
    }
}
