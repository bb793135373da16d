// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Draw, Member, Role } from "../../src/interfaces/Types.sol";
import { Draws } from "../../src/libraries/Draws.sol";
import { Members } from "../../src/libraries/Members.sol";
import { Task } from "../../src/libraries/TaskStorage.sol";

/// @notice A task of which there is nothing but its workers, to be drawn from again and again.
contract Urn {
    Task private _t;

    constructor(Draw memory draw_, uint96 workerStake) {
        (_t.fixed_.draw, _t.fixed_.economics.workerStake) = (draw_, workerStake);
    }

    /// @dev Worker i has the address i + 1.
    function add(uint96 stake, uint16 reputation, bool waits) external {
        address[] storage workers = _t.lists[Role.Worker];
        address worker = address(uint160(workers.length + 1));
        workers.push(worker);
        Member storage m = _t.members[Role.Worker][worker];
        (m.stake, m.activeFrom) = (stake, Members.IDLE);
        if (waits) (m.activeUntil, _t.progress.pool) = (Members.FOR_EVER, _t.progress.pool + 1);
        _t.reputations[worker] = reputation;
    }

    /// @dev Returns positions in the list, in the order in which they were drawn.
    function draw(bytes32 seed, uint256 taskId, uint16 round) external returns (uint256[] memory drawn) {
        _t.clock.round = round;
        address[] memory workers = Draws.draw(_t, taskId, seed);
        drawn = new uint256[](workers.length);
        for (uint256 i; i < workers.length; ++i) {
            drawn[i] = uint160(workers[i]) - 1;
        }
    }

    /// @dev As the settlement does it.
    function putBack(uint256[] calldata drawn) external {
        for (uint256 i; i < drawn.length; ++i) {
            _t.members[Role.Worker][address(uint160(drawn[i] + 1))].activeFrom = Members.IDLE;
        }
    }

    /// @dev All of them, with another draw to come.
    function refill(Draw calldata draw_, uint16 reputation) external {
        _t.fixed_.draw = draw_;
        address[] storage workers = _t.lists[Role.Worker];
        for (uint256 i; i < workers.length; ++i) {
            _t.members[Role.Worker][workers[i]].activeFrom = Members.IDLE;
            _t.reputations[workers[i]] = reputation;
        }
    }

    /// @dev A round whose Commit lasts.
    function open(uint16 round) external {
        _t.fixed_.requester = msg.sender;
        (_t.clock.round, _t.clock.commitEnd, _t.clock.eligibleWorkers) = (round, type(uint40).max, 0);
        (_t.progress.openedBlock, _t.progress.seedBlock) = (uint40(block.number), uint40(block.number));
    }

    /// @dev As the coordinator does it.
    function drawWorkers(uint256 taskId) external {
        Draws.drawWorkers(_t, taskId);
    }

    function activeFrom(uint256 i) external view returns (uint16) {
        return _t.members[Role.Worker][address(uint160(i + 1))].activeFrom;
    }
}
