// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { Member, Outcome, Phase, Role, RoundView, TaskParams } from "../../src/interfaces/Types.sol";
import { Deployed } from "../base/Deployed.sol";

/// @notice Whole rounds with any stakes, votes and attendance, against a reference that knows only the protocol's text.
contract TaskCoordinatorFuzzTest is Deployed {
    uint256 private constant MAX_WORKERS = 10;
    uint256 private constant MAX_VALIDATORS = 4;

    /// @dev One round as it was played.
    struct Play {
        uint256 workers;
        uint256 validators;
        uint256[] workerStakes;
        uint256[] validatorStakes;
        bool[] revealed;
        bool[] voted;
        Vote[][] votes; // by validator, by worker
        bool posted;
    }

    /// @dev What the reference expects.
    struct Expected {
        Outcome outcome;
        uint256[] weights;
        uint256[] scores;
        uint256[] agreements;
        uint256 totalWeight;
        uint256[] workerPay;
        uint256[] validatorPay;
    }

    // --- playing -----------------------------------------------------------------------------------------------

    function _random(uint256 seed, string memory what, uint256 i, uint256 j) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, what, i, j)));
    }

    function _play(uint256 seed) private pure returns (Play memory p) {
        p.workers = 1 + _random(seed, "workers", 0, 0) % MAX_WORKERS;
        p.validators = 1 + _random(seed, "validators", 0, 0) % MAX_VALIDATORS;
        (p.workerStakes, p.revealed) = (new uint256[](p.workers), new bool[](p.workers));
        (p.validatorStakes, p.voted) = (new uint256[](p.validators), new bool[](p.validators));
        for (uint256 i; i < p.workers; ++i) {
            p.workerStakes[i] = WORKER_STAKE + _random(seed, "worker stake", i, 0) % (1000 ether);
            p.revealed[i] = _random(seed, "revealed", i, 0) % 6 > 0;
        }
        p.votes = new Vote[][](p.validators);
        for (uint256 v; v < p.validators; ++v) {
            p.validatorStakes[v] = VALIDATOR_STAKE + _random(seed, "validator stake", v, 0) % (1000 ether);
            p.voted[v] = _random(seed, "voted", v, 0) % 6 > 0;
            p.votes[v] = new Vote[](p.workers);
            for (uint256 i; i < p.workers; ++i) {
                p.votes[v][i] = _randomVote(_random(seed, "vote", v, i));
            }
        }
        p.posted = _random(seed, "posted", 0, 0) % 4 > 0;
    }

    function _randomVote(uint256 r) private pure returns (Vote memory) {
        if (r % 5 == 0) return Vote(0, 0);
        if (r % 7 == 0) return Vote(ABSTAIN, 0);
        return Vote(uint16(1 + (r >> 16) % 10_000), uint16(1 + (r >> 32) % type(uint16).max));
    }

    function _enrolPlay(Play memory p, uint128 reward) private returns (uint256 id) {
        TaskParams memory params = _params(uint16(p.workers), uint16(p.validators), 1);
        (params.rounds, params.reward) = (1, reward);
        id = _create(params);
        for (uint256 i; i < p.workers; ++i) {
            _enrol(id, Role.Worker, _worker(i), uint96(p.workerStakes[i]));
        }
        for (uint256 v; v < p.validators; ++v) {
            _enrol(id, Role.Validator, _validator(v), uint96(p.validatorStakes[v]));
        }
        _enrol(id, Role.Aggregator, _aggregator(0), 0);
    }

    /// @dev To Settlement.
    function _run(uint256 id, Play memory p, uint256 batch) private {
        _runUpdates(id, p);
        if (_phase(id) == Phase.ScoreCommit) _runScores(id, p);
        while (_phase(id) == Phase.Tally) {
            coordinator.tally(id, uint16(batch));
        }
        if (_phase(id) != Phase.Aggregate) return;
        if (p.posted) _post(id, _draw(id)[0]);
        _endPhase(id);
    }

    function _runUpdates(uint256 id, Play memory p) private {
        _commitAll(id, p.workers);
        for (uint256 i; i < p.workers; ++i) {
            if (p.revealed[i]) _reveal(id, _worker(i));
        }
        if (_phase(id) == Phase.Reveal) _endPhase(id);
    }

    function _runScores(uint256 id, Play memory p) private {
        bytes[] memory votes = new bytes[](p.validators);
        for (uint256 v; v < p.validators; ++v) {
            if (p.voted[v]) votes[v] = _pack(p.votes[v]);
        }
        _scores(id, votes);
    }

    // --- the reference -------------------------------------------------------------------------------------------

    /// @dev The smallest value that reaches half of the stake: by trying every value.
    function _median(uint256[] memory values, uint256[] memory stakes) private pure returns (uint256 best) {
        uint256 total;
        for (uint256 i; i < stakes.length; ++i) {
            total += stakes[i];
        }
        best = type(uint256).max;
        for (uint256 i; i < values.length; ++i) {
            if (stakes[i] == 0) continue;
            uint256 reached;
            for (uint256 j; j < values.length; ++j) {
                if (values[j] <= values[i]) reached += stakes[j];
            }
            if (2 * reached >= total && values[i] < best) best = values[i];
        }
    }

    function _expected(Play memory p, uint256 reward) private pure returns (Expected memory e) {
        (e.weights, e.scores) = (new uint256[](p.workers), new uint256[](p.workers));
        (e.agreements, e.validatorPay) = (new uint256[](p.validators), new uint256[](p.validators));
        e.workerPay = new uint256[](p.workers);
        bool any;
        for (uint256 i; i < p.workers; ++i) {
            any = any || p.revealed[i];
        }
        if (!any) {
            e.outcome = Outcome.NoUpdates;
            return e;
        }
        if (!_quorum(p)) {
            e.outcome = Outcome.QuorumMissed;
        } else {
            for (uint256 i; i < p.workers; ++i) {
                if (p.revealed[i]) _expectedVote(p, e, i);
            }
            e.outcome = e.totalWeight == 0 ? Outcome.NothingAccepted : p.posted ? Outcome.Final : Outcome.NoAggregate;
        }
        _expectedPay(p, e, reward);
    }

    function _quorum(Play memory p) private pure returns (bool) {
        (uint256 heard, uint256 all) = (0, 0);
        for (uint256 v; v < p.validators; ++v) {
            all += p.validatorStakes[v];
            if (p.voted[v]) heard += p.validatorStakes[v];
        }
        return 3 * heard >= 2 * all;
    }

    function _expectedVote(Play memory p, Expected memory e, uint256 i) private pure {
        uint256[] memory stakes = new uint256[](p.validators);
        uint256[] memory weights = new uint256[](p.validators);
        uint256[] memory scores = new uint256[](p.validators);
        (uint256 heard, uint256 all) = (0, 0);
        for (uint256 v; v < p.validators; ++v) {
            all += p.validatorStakes[v];
            (weights[v], scores[v]) = (p.votes[v][i].weight, p.votes[v][i].score);
            if (p.voted[v] && weights[v] != ABSTAIN) stakes[v] = p.validatorStakes[v];
            heard += stakes[v];
        }
        if (3 * heard < 2 * all) return;
        (e.weights[i], e.scores[i]) = (_median(weights, stakes), _median(scores, stakes));
        e.totalWeight += e.weights[i];
        for (uint256 v; v < p.validators; ++v) {
            if (stakes[v] == 0 || (weights[v] > 0) != (e.weights[i] > 0)) continue;
            uint256 apart = scores[v] > e.scores[i] ? scores[v] - e.scores[i] : e.scores[i] - scores[v];
            uint256 tolerance = e.scores[i] / 4 > 500 ? e.scores[i] / 4 : 500;
            if (apart <= tolerance) ++e.agreements[v];
        }
    }

    function _expectedPay(Play memory p, Expected memory e, uint256 reward) private pure {
        (uint256 stakes, uint256 scores, uint256 parts, uint256 agreements) = (0, 0, 0, 0);
        bool byStake = e.outcome == Outcome.QuorumMissed;
        for (uint256 i; i < p.workers; ++i) {
            if (!p.revealed[i] || (!byStake && e.weights[i] == 0)) continue;
            stakes += p.workerStakes[i];
            scores += e.scores[i];
        }
        uint256 pot = reward * 7 / 10;
        uint256 base = byStake ? pot : pot * 3 / 10;
        for (uint256 i; i < p.workers; ++i) {
            if (!p.revealed[i] || (!byStake && e.weights[i] == 0)) continue;
            e.workerPay[i] = base * p.workerStakes[i] / stakes;
            if (!byStake) e.workerPay[i] += (pot - base) * e.scores[i] / scores;
        }
        for (uint256 v; v < p.validators; ++v) {
            agreements += e.agreements[v];
        }
        uint256[] memory shares = new uint256[](p.validators);
        for (uint256 v; v < p.validators; ++v) {
            if (p.voted[v]) shares[v] = p.validatorStakes[v] * (agreements == 0 ? 1 : e.agreements[v]);
            parts += shares[v];
        }
        for (uint256 v; v < p.validators && parts > 0; ++v) {
            e.validatorPay[v] = reward / 5 * shares[v] / parts;
        }
    }

    // --- properties ------------------------------------------------------------------------------------------------

    /// forge-config: default.fuzz.runs = 96
    function testFuzz_round__anyStakesVotesAndAttendance__isWhatTheReferenceSays(
        uint256 seed,
        uint128 reward,
        uint8 batch
    ) external {
        reward = uint128(bound(reward, 0, REWARD));
        reward -= reward % 10; // The reference divides the pots without the contract's rounding of each share.
        Play memory p = _play(seed);
        Expected memory e = _expected(p, reward);
        uint256 id = _enrolPlay(p, reward);
        _run(id, p, batch);
        _assertVotes(id, p, e);
        while (_phase(id) == Phase.Settlement) {
            coordinator.settle(id, batch);
        }
        _assertPhase(id, Phase.Completed);
        _assertPay(id, p, e, reward);
        _assertSolvent();
    }

    function _assertVotes(uint256 id, Play memory p, Expected memory e) private view {
        RoundView memory r = coordinator.roundOf(id);
        vm.assertEq(uint256(r.outcome), uint256(e.outcome), "outcome");
        vm.assertEq(uint256(r.totalWeight), e.totalWeight, "total weight");
        for (uint256 i; i < p.workers; ++i) {
            Member memory m = _member(id, Role.Worker, _worker(i));
            vm.assertEq(uint256(m.weight), e.weights[i], "weight");
            vm.assertEq(uint256(m.score), e.scores[i], "score");
        }
    }

    function _assertPay(uint256 id, Play memory p, Expected memory e, uint256 reward) private view {
        uint256 paid;
        for (uint256 i; i < p.workers; ++i) {
            vm.assertEq(vault.creditOf(_worker(i)), e.workerPay[i], "worker's pay");
            paid += e.workerPay[i];
            uint256 lost = p.revealed[i] ? 0 : 20 ether;
            vm.assertEq(vault.lockOf(id, Role.Worker, _worker(i)), p.workerStakes[i] - lost, "worker's stake");
        }
        for (uint256 v; v < p.validators; ++v) {
            vm.assertEq(vault.creditOf(_validator(v)), e.validatorPay[v], "validator's pay");
            paid += e.validatorPay[v];
        }
        uint256 aggregator = e.outcome == Outcome.Final ? reward / 10 : 0;
        vm.assertEq(vault.creditOf(_aggregator(0)), aggregator, "aggregator's pay");
        IStakeVault.Escrow memory escrow = vault.escrowOf(id);
        vm.assertEq(uint256(escrow.balance), 0, "escrow left");
        vm.assertEq(uint256(escrow.paid), paid + aggregator, "paid");
        vm.assertEq(uint256(escrow.paid) + escrow.refunded + escrow.burned, reward, "to the wei");
        if (e.outcome == Outcome.NoUpdates) vm.assertEq(uint256(escrow.refunded), reward, "the whole budget");
        // A wei for each division that did not come out even.
        else vm.assertLe(uint256(escrow.refunded), 2 * p.workers + p.validators, "more than dust");
    }

    /// @dev Several rounds of any outcome: the carry and the dust find their way.
    /// forge-config: default.fuzz.runs = 64
    function testFuzz_task__anyOutcomes__escrowIsSpentToTheWei(uint256 seed, uint128 reward) external {
        TaskParams memory params = _params(2, 2, 1);
        (params.rounds, params.reward) = (5, uint128(bound(reward, 0, REWARD)));
        uint256 id = _create(params);
        _enrolAll(id, 2, 2, 1);
        for (uint256 round; _phase(id) != Phase.Completed; ++round) {
            _anyRound(id, _random(seed, "round", round, 0) % 5);
        }
        IStakeVault.Escrow memory e = vault.escrowOf(id);
        vm.assertEq(uint256(e.balance), 0);
        vm.assertEq(uint256(e.paid) + e.refunded + e.burned, params.reward);
        _assertSolvent();
    }

    function _anyRound(uint256 id, uint256 outcome) private {
        uint256 n = coordinator.roundOf(id).eligibleWorkers;
        uint256 m = coordinator.roundOf(id).eligibleValidators;
        if (outcome == 0 || n < 2) {
            _endPhase(id);
        } else {
            _updates(id, n);
            _scoresAlike(id, outcome == 1 ? 0 : m, _same(2, outcome == 2 ? 0 : 1, outcome == 2 ? 0 : 1));
            _tallyAll(id);
            if (_phase(id) == Phase.Aggregate && outcome == 4) _post(id, _draw(id)[0]);
            if (_phase(id) == Phase.Aggregate || _phase(id) == Phase.Challenge) _endPhase(id);
        }
        _settleAll(id);
    }

    /// @dev What a worker or an aggregator says of itself moves no money.
    function testFuzz_pay__whatThePayeeSays__changesNothing(
        bytes32 root,
        uint64 squaredNorm,
        uint32 numExamples,
        bytes32 modelRoot
    ) external {
        Update memory u = _update(_worker(0), 1);
        (u.root, u.numExamples) = (root == 0 ? bytes32(uint256(1)) : root, numExamples);
        u.squaredNorm = uint64(bound(squaredNorm, 0, _format().maxSquaredNorm));
        (uint256 worker, uint256 aggregator) = _paidFor(_update(_worker(0), 1), "model");
        (uint256 worker2, uint256 aggregator2) = _paidFor(u, modelRoot == 0 ? bytes32(uint256(1)) : modelRoot);
        vm.assertEq(worker, worker2);
        vm.assertEq(aggregator, aggregator2);
    }

    function _paidFor(Update memory u, bytes32 modelRoot) private returns (uint256, uint256) {
        uint256 worker = vault.creditOf(_worker(0));
        uint256 aggregator = vault.creditOf(_aggregator(0));
        uint256 id = _started(2, 1, 1);
        bytes32 commitment = _updateCommitment(id, 1, _worker(0), u);
        vm.prank(_worker(0));
        coordinator.commitUpdate(id, 1, commitment);
        _commit(id, _worker(1));
        _revealUpdate(id, 1, _worker(0), u);
        _reveal(id, _worker(1));
        _scoresAlike(id, 1, abi.encodePacked(uint16(7), uint16(300), uint16(9), uint16(100)));
        _tallyAll(id);
        _draw(id);
        vm.prank(_aggregator(0));
        coordinator.postAggregate(id, 1, _claimOf(modelRoot), _aggregateCid(1), _floatCid(1), 0);
        _endPhase(id);
        _settleAll(id);
        return (vault.creditOf(_worker(0)) - worker, vault.creditOf(_aggregator(0)) - aggregator);
    }

    /// @dev Whoever splits its stake over several accounts shares the base as before.
    function testFuzz_base__splitStake__gainsNothing(uint96 stake, uint96 other) external {
        stake = uint96(bound(stake, 2 * WORKER_STAKE, 1e6 ether));
        other = uint96(bound(other, WORKER_STAKE, 1e6 ether));
        uint256 whole = _basePay(stake, 0, other);
        uint256 parts = _basePay(stake / 2, stake - stake / 2, other);
        vm.assertLe(parts, whole);
        vm.assertLe(whole - parts, 1);
    }

    /// @dev What workers 0 and 1 earn together beside worker 2, when all is base.
    function _basePay(uint96 first, uint96 second, uint96 other) private returns (uint256 paid) {
        uint256 before = vault.creditOf(_worker(0)) + vault.creditOf(_worker(1));
        TaskParams memory p = _params(second == 0 ? 2 : 3, 1, 1);
        (p.rounds, p.economics.baseBps) = (1, 10_000);
        uint256 id = _create(p);
        address[] memory accounts = new address[](p.workers.max);
        (accounts[0], accounts[accounts.length - 1]) = (_worker(0), _worker(2));
        _enrol(id, Role.Worker, _worker(0), first);
        if (second > 0) {
            accounts[1] = _worker(1);
            _enrol(id, Role.Worker, _worker(1), second);
        }
        _enrol(id, Role.Worker, _worker(2), other);
        _enrolAll(id, 0, 1, 1);
        for (uint256 i; i < accounts.length; ++i) {
            _commit(id, accounts[i]);
        }
        for (uint256 i; i < accounts.length; ++i) {
            _reveal(id, accounts[i]);
        }
        _scoresAlike(id, 1, _same(accounts.length, 1, 1));
        _tallyAll(id);
        _finalise(id);
        _settleAll(id);
        return vault.creditOf(_worker(0)) + vault.creditOf(_worker(1)) - before;
    }
}
