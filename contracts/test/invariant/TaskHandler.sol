// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { DrawBy, Member, Outcome, Phase, Role, RoundView, TaskParams, Windows } from "../../src/interfaces/Types.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Everybody at once: plays the requester, workers, validators, aggregators and strangers of a few tasks in any
/// order. A call is made only where the protocol promises that it works, so a revert is a finding.
contract TaskHandler is Deployed {
    uint256 private constant MAX_TASKS = 4;
    uint256 private constant WORKERS = 3;
    uint256 private constant VALIDATORS = 3;
    uint256 private constant AGGREGATORS = 2;

    /// @dev What the handler has seen; the coordinator's own memory is one round long.
    mapping(uint256 taskId => mapping(uint16 round => bool)) public wasFinal;
    mapping(uint256 taskId => uint256) public funded;
    mapping(uint256 taskId => uint16) public highestRound;
    mapping(uint256 taskId => Phase) public highestPhase;
    mapping(uint256 taskId => mapping(address => bytes)) private _voted;
    bool public wentBack;
    mapping(bytes32 what => uint256) public calls;

    constructor() {
        setUp();
    }

    /// @dev After every action: (round, phase) of each task has only grown.
    modifier observed() {
        _;
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            (uint16 round, Phase phase) = (_round(id), _phase(id));
            if (round < highestRound[id] || (round == highestRound[id] && phase < highestPhase[id])) wentBack = true;
            (highestRound[id], highestPhase[id]) = (round, phase);
        }
    }

    function contracts() external view returns (TrainingToken, StakeVault, TaskCoordinator, ModelRegistry) {
        return (token, vault, coordinator, registry);
    }

    function membersAt(uint256 i) external view returns (Role role, address account) {
        if (i < WORKERS) return (Role.Worker, _worker(i));
        if (i == WORKERS) return (Role.Worker, requester);
        i -= WORKERS + 1;
        if (i < VALIDATORS) return (Role.Validator, _validator(i));
        return (Role.Aggregator, _aggregator(i - VALIDATORS));
    }

    function numMembers() public pure returns (uint256) {
        return WORKERS + 1 + VALIDATORS + AGGREGATORS;
    }

    /// @dev A few steps of what is due in a task's phase, so that most sequences get somewhere.
    function advance(uint256 seed) external {
        for (uint256 i; i <= seed >> 248 & 7; ++i) {
            _advance(i == 0 ? seed : (uint256(keccak256(abi.encode(seed, i))) & ~uint256(0xff)) | (seed & 0xff));
        }
    }

    function _advance(uint256 seed) private {
        Phase phase = _phase(_task(seed));
        if (phase == Phase.None || phase == Phase.Completed || phase == Phase.Cancelled) this.createTask(seed);
        else if (phase == Phase.Enrolment) this.enrol(seed);
        else if (seed >> 232 & 15 == 0 || phase == Phase.Challenge) this.endPhase(seed);
        else if (phase == Phase.Commit && _awaitsDraw(_task(seed))) this.drawWorkers(seed);
        else if (phase == Phase.Commit || phase == Phase.Reveal) this.update(seed);
        else if (phase == Phase.ScoreCommit || phase == Phase.ScoreReveal) this.score(seed);
        else if (phase == Phase.Tally) this.tally(seed);
        else if (phase == Phase.Aggregate) this.post(seed);
        else this.settle(seed);
    }

    // --- a task's life ---------------------------------------------------------------------------------------------

    function createTask(uint256 seed) external observed {
        if (coordinator.numTasks() == MAX_TASKS) return;
        TaskParams memory p = _params(uint16(WORKERS + 1), uint16(VALIDATORS), uint16(AGGREGATORS));
        (p.workers.min, p.validators.min, p.aggregators.min) = (1, 1, 0);
        (p.rounds, p.reward) = (uint16(1 + seed % 4), uint128((seed >> 8) % REWARD));
        p.enrolmentEnd = uint40(_now() + 1 + (seed >> 136) % 1000);
        p.windows = Windows(20, 10, 15, 15, 10, 3, 5, 5);
        p.draw.clientsPerRound = uint16((seed >> 212) % (WORKERS + 2));
        if (p.draw.clientsPerRound > 0) p.draw.by = DrawBy((seed >> 220) % 3);
        p.economics.workerSlashBps = uint16((seed >> 180) % 10_001);
        p.economics.validatorSlashBps = uint16((seed >> 196) % 10_001);
        if (p.reward > 0) _fund(requester, p.reward);
        uint256 id = _create(p);
        funded[id] = p.reward;
        ++calls["create"];
    }

    function enrol(uint256 seed) external observed {
        uint256 id = _task(seed);
        if (_phase(id) != Phase.Enrolment || _now() >= coordinator.taskOf(id).enrolmentEnd) return;
        (Role role, address account) = this.membersAt((seed >> 8) % numMembers());
        if (_member(id, role, account).activeFrom > 0) return;
        uint96 stake = role == Role.Worker ? WORKER_STAKE : role == Role.Validator ? VALIDATOR_STAKE : 0;
        if (stake > 0) stake += uint96((seed >> 16) % 100 ether);
        _enrol(id, role, account, stake);
        ++calls["enrol"];
    }

    /// @dev At the end of enrolment one of the two always works.
    function startOrCancel(uint256 seed) external observed {
        uint256 id = _task(seed);
        if (_phase(id) != Phase.Enrolment || seed >> 8 & 3 > 0) return;
        if (_now() < coordinator.taskOf(id).enrolmentEnd) _endPhase(id);
        vm.startPrank(stranger);
        bool minima =
            coordinator.membersOf(id, Role.Worker).length > 0 && coordinator.membersOf(id, Role.Validator).length > 0;
        if (minima) coordinator.startTask(id);
        else coordinator.cancelTask(id);
        vm.stopPrank();
        ++calls[minima ? bytes32("start") : bytes32("cancel")];
    }

    function leaveOrRejoin(uint256 seed) external observed {
        uint256 id = _task(seed);
        uint16 round = _round(id);
        if (round == 0 || _phase(id) == Phase.Completed) return;
        (Role role, address account) = this.membersAt((seed >> 8) % numMembers());
        Member memory m = _member(id, role, account);
        if (m.activeFrom == 0) return;
        uint256 required = role == Role.Worker ? WORKER_STAKE : role == Role.Validator ? VALIDATOR_STAKE : 0;
        if (m.activeUntil > round + 1) {
            vm.prank(account);
            coordinator.leave(id, role);
        } else if (2 * uint256(m.stake) >= required && (m.activeUntil <= round || m.missed < 2)) {
            vm.prank(account);
            coordinator.rejoin(id, role);
        }
        ++calls["leave or rejoin"];
    }

    // --- updates and scores ----------------------------------------------------------------------------------------

    function drawWorkers(uint256 seed) external observed {
        uint256 id = _task(seed);
        if (_phase(id) != Phase.Commit || !_awaitsDraw(id)) return;
        if (vm.getBlockNumber() <= coordinator.roundOf(id).seedBlock) _mine(0);
        vm.prank(stranger);
        coordinator.drawWorkers(id);
        if (!_awaitsDraw(id)) ++calls["draw workers"];
    }

    function _awaitsDraw(uint256 id) private view returns (bool) {
        RoundView memory r = coordinator.roundOf(id);
        return r.pool > 0 && r.eligibleWorkers == 0;
    }

    /// @dev Most of the workers, in the order of the list, commit or reveal, whichever is due.
    function update(uint256 seed) external observed {
        uint256 id = _task(seed);
        address[] memory workers = coordinator.membersOf(id, Role.Worker);
        for (uint256 i; i < workers.length; ++i) {
            if (seed >> (16 + 3 * i) & 7 == 0) continue;
            Member memory m = _member(id, Role.Worker, workers[i]);
            uint16 round = _round(id);
            if (_phase(id) == Phase.Commit && _isActive(m, round) && m.lastRound != round) {
                _commit(id, workers[i]);
                ++calls["commit"];
            } else if (_phase(id) == Phase.Reveal && m.lastRound == round && !m.revealed) {
                _reveal(id, workers[i]);
                ++calls["reveal"];
            }
        }
    }

    function score(uint256 seed) external observed {
        uint256 id = _task(seed);
        address[] memory validators = coordinator.membersOf(id, Role.Validator);
        for (uint256 i; i < validators.length; ++i) {
            if (seed >> (16 + 3 * i) & 7 == 0) continue;
            Member memory m = _member(id, Role.Validator, validators[i]);
            uint16 round = _round(id);
            if (_phase(id) == Phase.ScoreCommit && _isActive(m, round) && m.lastRound != round) {
                _voted[id][validators[i]] = _votes(id, uint256(keccak256(abi.encode(seed, i))));
                _commitScores(id, validators[i], _voted[id][validators[i]]);
                ++calls["commit scores"];
            } else if (_phase(id) == Phase.ScoreReveal && m.lastRound == round && !m.revealed) {
                _revealScores(id, validators[i], _voted[id][validators[i]]);
                ++calls["reveal scores"];
            }
        }
    }

    function _votes(uint256 id, uint256 seed) private view returns (bytes memory) {
        Vote[] memory votes = new Vote[](coordinator.membersOf(id, Role.Worker).length);
        for (uint256 i; i < votes.length; ++i) {
            uint256 r = uint256(keccak256(abi.encode(seed, i)));
            if (r % 8 == 0 || seed % 4 == 0) votes[i] = Vote(0, 0);
            else if (r % 8 == 1) votes[i] = Vote(ABSTAIN, 0);
            else votes[i] = Vote(uint16(1 + (r >> 8) % 10_000), uint16(1 + (r >> 24) % 65_535));
        }
        return _pack(votes);
    }

    // --- from the tally to the next round --------------------------------------------------------------------------

    function tally(uint256 seed) external observed {
        uint256 id = _task(seed);
        if (_phase(id) != Phase.Tally) return;
        vm.prank(stranger);
        coordinator.tally(id, uint16(seed >> 8));
        ++calls["tally"];
    }

    /// @dev In its slot the holder posts; in the open window anybody, a block after committing.
    function post(uint256 seed) external observed {
        uint256 id = _task(seed);
        if (_phase(id) != Phase.Aggregate) return;
        address account = _aggregator((seed >> 8) % AGGREGATORS);
        if (vault.freeOf(account) < BOND) _fund(account, BOND);
        _commitAggregate(id, account, "salt");
        _mine(0);
        RoundView memory r = coordinator.roundOf(id);
        bool exclusive = _now() < uint256(r.aggregateStart) + 10 * r.numSlots;
        if (exclusive && !r.orderDrawn && !_tryDraw(id)) return;
        if (exclusive) {
            address holder = coordinator.roundOf(id).order[(_now() - r.aggregateStart) / 10];
            if (holder != address(0)) account = holder;
        }
        if (vault.freeOf(account) < BOND) return;
        _post(id, account, "salt");
        ++calls["post"];
    }

    function draw(uint256 seed) external observed {
        uint256 id = _task(seed);
        if (_phase(id) != Phase.Aggregate || coordinator.roundOf(id).orderDrawn) return;
        if (vm.getBlockNumber() > coordinator.roundOf(id).seedBlock) _tryDraw(id);
    }

    /// @dev False when the seed had to be rolled.
    function _tryDraw(uint256 id) private returns (bool) {
        if (vm.getBlockNumber() <= coordinator.roundOf(id).seedBlock) return false;
        vm.prank(stranger);
        coordinator.drawOrder(id);
        ++calls["draw"];
        return coordinator.roundOf(id).orderDrawn;
    }

    function settle(uint256 seed) external observed {
        uint256 id = _task(seed);
        if (_phase(id) != Phase.Settlement) return;
        RoundView memory before = coordinator.roundOf(id);
        vm.prank(stranger);
        coordinator.settle(id, uint16(seed >> 8));
        bool over = _round(id) > before.round || _phase(id) == Phase.Completed;
        if (over && before.outcome == Outcome.Final) wasFinal[id][before.round] = true;
        ++calls["settle"];
        if (over) ++calls[bytes32(uint256(before.outcome))];
    }

    // --- time and money ----------------------------------------------------------------------------------------------

    function pass(uint256 seed) external observed {
        _mine(seed % 12);
        ++calls["pass"];
    }

    function endPhase(uint256 seed) external observed {
        (, uint40 end) = coordinator.phaseOf(_task(seed));
        if (end > _now()) _mineAt(end);
    }

    /// @dev So many blocks that a seed is forgotten.
    function passBlocks(uint256 seed) external observed {
        if (seed % 4 == 0) vm.roll(vm.getBlockNumber() + 300);
    }

    function moveMoney(uint256 seed) external observed {
        (Role role, address account) = this.membersAt((seed >> 8) % numMembers());
        vm.startPrank(account);
        if (vault.creditOf(account) > 0) vault.claim();
        else if (vault.freeOf(account) > 0 && seed & 1 == 0) vault.withdraw(1 + (seed >> 16) % vault.freeOf(account));
        vm.stopPrank();
        uint256 id = _task(seed >> 4);
        if (_now() >= vault.unlockableAt(id) && vault.lockOf(id, role, account) > 0) vault.unlock(id, role, account);
        (,,,, uint256 burnPending) = vault.totals();
        if (burnPending > 0 && seed & 2 == 0) vault.flushBurn();
        ++calls["money"];
    }

    // --- the way out ---------------------------------------------------------------------------------------------------

    /// @dev What a stranger alone can do from any state: every task ends, and every stake is free.
    function leaveNothingBehind() external observed {
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            while (_phase(id) < Phase.Completed) {
                _push(id);
            }
        }
        vm.warp(_now() + UNBONDING);
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            for (uint256 i; i < numMembers(); ++i) {
                (Role role, address account) = this.membersAt(i);
                if (vault.lockOf(id, role, account) > 0) vault.unlock(id, role, account);
            }
        }
    }

    function _push(uint256 id) private {
        (Phase phase, uint40 end) = coordinator.phaseOf(id);
        vm.startPrank(stranger);
        if (phase == Phase.Tally) {
            coordinator.tally(id, 1);
        } else if (phase == Phase.Settlement) {
            coordinator.settle(id, 1);
        } else if (_now() < end) {
            _mineAt(end);
        } else if (
            coordinator.membersOf(id, Role.Worker).length > 0 && coordinator.membersOf(id, Role.Validator).length > 0
        ) {
            coordinator.startTask(id);
        } else {
            coordinator.cancelTask(id);
        }
        vm.stopPrank();
    }

    function _task(uint256 seed) private view returns (uint256) {
        uint256 n = coordinator.numTasks();
        return n == 0 ? 1 : 1 + seed % n;
    }

    function _isActive(Member memory m, uint16 round) private pure returns (bool) {
        return m.activeFrom <= round && round < m.activeUntil;
    }
}
