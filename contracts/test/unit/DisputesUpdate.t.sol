// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../../src/interfaces/IDisputes.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import {
    Demand,
    Member,
    Outcome,
    Phase,
    Role,
    RoundView,
    Rule,
    ServerKind,
    Target,
    Verdict
} from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Openings } from "../../src/libraries/Openings.sol";
import { Disputed, Scene } from "../base/Disputed.sol";
import { Tree, Trees } from "../base/Trees.sol";

/// @notice Follows DisputesUpdate.tree: updates that are wrong, and those whose bytes are withheld.
contract DisputesUpdateTest is Disputed {
    using Trees for Tree;

    uint64 private constant LAST = uint64(NUM_CHUNKS - 1);

    /// @dev In ScoreCommit, with three workers.
    function _revealed() private returns (Scene memory s) {
        s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _start(s);
        _toScoreCommit(s);
    }

    function _assertRefuted(Scene memory s, bytes memory proof, bytes32 reason) private {
        address worker = _worker(1);
        (uint256 wealth, uint256 watcherBefore) = (_wealth(s.id, worker), _wealth(s.id, watcher));
        (,,,, uint256 before) = vault.totals();
        _announce(s.id, watcher, proof);
        vm.expectEmit();
        emit IDisputes.UpdateRefuted(s.id, 1, worker, watcher, reason);
        vm.prank(watcher);
        coordinator.proveUpdate(s.id, 1, proof, SALT);
        (,,,, uint256 burned) = vault.totals();
        vm.assertTrue(coordinator.isRefuted(s.id, 1, 1));
        vm.assertEq(wealth - _wealth(s.id, worker), WORKER_STAKE);
        vm.assertEq(burned - before, WORKER_STAKE / 2);
        vm.assertEq(_wealth(s.id, watcher) - watcherBefore, WORKER_STAKE / 2);
        _assertSolvent();
    }

    // --- proveUpdate: the dishonest one can never win --------------------------------------------------------------

    /// @dev The worker at index 1 is the liar.
    function _lying(uint256 how) private pure returns (bytes32 reason, uint64 c) {
        bytes32 sum = "wrong sum";
        if (how == 0) return ("value out of range", 4);
        if (how == 1) return ("wrong padding", LAST);
        return how < 6 ? (sum, uint64(4)) : (bytes32("wrong padding"), LAST);
    }

    function _lie(Scene memory s, uint256 how) private pure {
        Tree memory u = s.updates[1];
        if (how == 0) u.values[4 * CHUNK + 5] = -32_768;
        if (how == 1) u.values[NUM_PARAMS] = 1;
        if (how < 2) s.updates[1] = _tree(s, ChunkTree.UPDATE, u.values);
        if (how == 2) u.misstate(0, 4, -1);
        if (how == 3) u.misstate(1, 2, 7);
        if (how == 4) u.misstate(3, 0, -1000);
        if (how == 5) u.misstate(4, 0, -1000);
        if (how == 6) u.replaceNode(0, NUM_CHUNKS, "hidden");
        if (how == 7) u.replaceNode(1, 7, "hidden");
        if (how == 8) u.misstate(0, NUM_CHUNKS, 5);
        if (how == 9) u.misstate(1, 7, 5);
    }

    function test_cheat__everyLie__isProvable() external {
        for (uint256 how; how < 10; ++how) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
            _lie(s, how);
            (bytes32 reason, uint64 c) = _lying(how);
            _start(s);
            _toScoreCommit(s);
            _assertRefuted(s, _updateProof(s, 1, c), reason);
            vm.revertToState(state);
        }
    }

    /// @dev The tree is right, and the number that was revealed beside it is smaller.
    function test_cheat__revealedAnotherSum__isProvable() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _start(s);
        for (uint256 i; i < 3; ++i) {
            Update memory u = _treeUpdate(s, i);
            if (i == 1) u.squaredNorm = 1;
            bytes32 commitment = _updateCommitment(s.id, 1, _worker(i), u);
            vm.prank(_worker(i));
            coordinator.commitUpdate(s.id, 1, commitment);
        }
        for (uint256 i; i < 3; ++i) {
            Update memory u = _treeUpdate(s, i);
            if (i == 1) u.squaredNorm = 1;
            _revealUpdate(s.id, 1, _worker(i), u);
        }
        _assertRefuted(s, _updateProof(s, 1, 0), "wrong sum");
    }

    /// @dev Sums that add up only in 64 bits: the total is small, and so is the norm that was revealed.
    function test_cheat__sumThatWraps__isProvable() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        Tree memory u = s.updates[1];
        u.sums[0][2] = type(uint64).max - 4;
        u.rehash(0);
        _start(s);
        _toScoreCommit(s);
        _assertRefuted(s, _updateProof(s, 1, 3), "wrong sum");
    }

    function test_cheat__oneChunk__isProvable() external {
        for (uint256 how; how < 3; ++how) {
            uint256 state = vm.snapshotState();
            Scene memory s = _sceneOf(Rule.Mean, ServerKind.Plain, 3, 10, "one");
            Tree memory u = s.updates[1];
            if (how == 0) u.values[3] = -32_768;
            if (how == 1) u.values[10] = 1;
            s.updates[1] = _tree(s, ChunkTree.UPDATE, u.values);
            if (how == 2) s.updates[1].misstate(0, 0, -1);
            _start(s);
            _toScoreCommit(s);
            bytes32 reason =
                how == 0 ? bytes32("value out of range") : how == 1 ? bytes32("wrong padding") : bytes32("wrong sum");
            _assertRefuted(s, _updateProof(s, 1, 0), reason);
            vm.revertToState(state);
        }
    }

    /// @dev Weight 0 before the tally, and nobody's agreement; afterwards the weight stays, and the slash comes.
    function test_proveUpdate__beforeTheTally__weightIsZero() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 0);
        _start(s);
        _toScoreCommit(s);
        _refuteUpdate(s.id, watcher, _updateProof(s, 1, 4));
        _scoresAlike(s.id, 1, _votes(s));
        _tallyAll(s.id);
        vm.assertEq(uint256(_member(s.id, Role.Worker, _worker(1)).weight), 0);
        vm.assertEq(uint256(coordinator.roundOf(s.id).accepted), 2);
        _finalise(s.id);
        _settleAll(s.id);
        vm.assertEq(_wealth(s.id, _worker(1)), 0);
        vm.assertEq(vault.creditOf(_validator(0)), REWARD / 2 / 5, "the vote for it costs the validator nothing");
        Member memory m = _member(s.id, Role.Worker, _worker(1));
        vm.assertEq(uint256(m.stake), 0);
        vm.assertEq(uint256(m.activeUntil), 2);
    }

    function test_proveUpdate__afterTheTally__weightStays() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 0);
        _claimHonestly(s);
        _start(s);
        _toAggregate(s);
        _postScene(s);
        _assertRefuted(s, _updateProof(s, 1, 4), "value out of range");
        vm.assertEq(uint256(_member(s.id, Role.Worker, _worker(1)).weight), s.weights[1]);
        _refusesProof(s.id, _coordinateProof(s, 4 * CHUNK + 5), IDisputes.NothingWrong.selector);
        _endPhase(s.id);
        _settleAll(s.id);
        vm.assertEq(uint256(_member(s.id, Role.Worker, _worker(1)).stake), 0);
        vm.assertEq(uint256(coordinator.roundOf(s.id).eligibleWorkers), 2);
    }

    /// @dev From Reveal to Dispute; not before, not between two batches of the tally, and not in Settlement.
    function test_proveUpdate__phases__edges() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 9);
        _lie(s, 0);
        _claimHonestly(s);
        _start(s);
        bytes memory proof = _updateProof(s, 1, 4);
        bytes memory call_ = abi.encodeCall(coordinator.proveUpdate, (s.id, 1, proof, SALT));
        _announce(s.id, watcher, proof);
        bytes4 phase = ITaskCoordinator.UnexpectedPhase.selector;
        _refuses(watcher, call_, phase);
        _toScoreCommit(s);
        _worksHere(watcher, call_);
        _endPhase(s.id);
        uint256 state = vm.snapshotState();
        _assertPhase(s.id, Phase.Tally);
        coordinator.tally(s.id, 8);
        _refuses(watcher, call_, phase);
        coordinator.tally(s.id, 8);
        _assertPhase(s.id, Phase.Settlement);
        _refuses(watcher, call_, phase);
        vm.revertToState(state);
        _worksHere(watcher, call_);
    }

    function test_proveUpdate__laterPhases__work() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 0);
        _claimHonestly(s);
        _start(s);
        _toAggregate(s);
        bytes memory proof = _updateProof(s, 1, 4);
        bytes memory call_ = abi.encodeCall(coordinator.proveUpdate, (s.id, 1, proof, SALT));
        _announce(s.id, watcher, proof);
        _worksHere(watcher, call_);
        _postScene(s);
        _worksHere(watcher, call_);
        _openGame(s, rival, 0);
        _endPhase(s.id);
        _assertPhase(s.id, Phase.Dispute);
        _worksHere(watcher, call_);
        coordinator.closeGame(s.id, 0);
        _endPhase(s.id);
    }

    function _openGame(Scene memory s, address challenger, uint256) private {
        RoundView memory r = coordinator.roundOf(s.id);
        bytes32 commitment = _challengeCommitment(s.id, challenger, "nothing");
        _fund(challenger, 2 * uint256(CHALLENGER_BOND));
        vm.startPrank(challenger);
        coordinator.commitChallenge(s.id, r.round, r.attempt, commitment);
        coordinator.openGame(s.id, r.round, r.attempt, Target.Model, 0, new bytes32[](0), "own");
        vm.stopPrank();
        bytes memory nodes = s.nextModel.nodesBelow(4, 0, 0);
        coordinator.answerNodes(s.id, 0, nodes);
        _mineAt(coordinator.gameOf(s.id, 0).deadline);
    }

    function _worksHere(address caller, bytes memory call_) private {
        uint256 state = vm.snapshotState();
        vm.prank(caller);
        (bool ok,) = address(coordinator).call(call_);
        vm.assertTrue(ok, "refused");
        vm.revertToState(state);
    }

    // --- proveUpdate: the honest one can never lose ----------------------------------------------------------------

    function _refusesUpdateProof(Scene memory s, bytes memory proof, bytes4 error_) private {
        uint256 state = vm.snapshotState();
        _announce(s.id, watcher, proof);
        _refuses(watcher, abi.encodeCall(coordinator.proveUpdate, (s.id, 1, proof, SALT)), error_);
        vm.revertToState(state);
    }

    function test_honest__everyChunkAndForm__revertsNothingWrong() external {
        Scene memory s = _revealed();
        for (uint64 c; c < NUM_CHUNKS; ++c) {
            for (uint8 form; form < 2; ++form) {
                bytes memory proof = abi.encodePacked(uint16(1), c, s.updates[1].openUpdate(c, form));
                _refusesUpdateProof(s, proof, IDisputes.NothingWrong.selector);
            }
        }
    }

    function test_honest__extremesAndZeros__areInRange() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        for (uint256 j; j < NUM_PARAMS; ++j) {
            s.updates[1].values[j] = j % 3 == 0 ? int256(0) : j % 3 == 1 ? int256(32_767) : int256(-32_767);
        }
        s.updates[1] = _tree(s, ChunkTree.UPDATE, s.updates[1].values);
        _start(s);
        _toScoreCommit(s);
        for (uint64 c; c < NUM_CHUNKS; ++c) {
            _refusesUpdateProof(s, _updateProof(s, 1, c), IDisputes.NothingWrong.selector);
        }
    }

    function test_honest__malformedProofs__revert() external {
        Scene memory s = _revealed();
        bytes4 other = IDisputes.NotRevealed.selector;
        Tree memory u = s.updates[1];
        bytes memory opening = u.openUpdate(4, 1);
        // Of another worker, of none, of another chunk.
        _refusesUpdateProof(s, abi.encodePacked(uint16(0), uint64(4), opening), other);
        _refusesUpdateProof(s, abi.encodePacked(uint16(3), uint64(4), opening), other);
        _refusesUpdateProof(s, abi.encodePacked(type(uint16).max, uint64(4), opening), other);
        _refusesUpdateProof(s, abi.encodePacked(uint16(1), uint64(5), opening), other);
        // A padding leaf, and past the end.
        bytes4 index = ChunkTree.IndexOutOfRange.selector;
        _refusesUpdateProof(s, abi.encodePacked(uint16(1), LAST + 1, opening), index);
        _refusesUpdateProof(s, abi.encodePacked(uint16(1), type(uint64).max, opening), index);
        // Another length, another form, another sum, a node as a leaf.
        bytes memory longer = abi.encodePacked(uint16(1), uint64(4), opening, "x");
        _refusesUpdateProof(s, longer, IDisputes.ProofLength.selector);
        bytes memory unknown = abi.encodePacked(uint16(1), uint64(4), opening);
        unknown[10] = 0x02;
        _refusesUpdateProof(s, unknown, Openings.UnknownForm.selector);
        u.sums[0][4] += 1;
        _refusesUpdateProof(s, _updateProof(s, 1, 4), other);
        u.sums[0][4] -= 1;
        u.sums[1][2] += 1;
        _refusesUpdateProof(s, _updateProof(s, 1, 4), other);
        u.sums[1][2] -= 1;
        u.chunks[4] = u.chunks[3];
        _refusesUpdateProof(s, _updateProof(s, 1, 4), other);
        u.chunks[4] = abi.encodePacked(u.nodes[0][4]);
        _refusesUpdateProof(s, _updateProof(s, 1, 4), other);
    }

    function test_proveUpdate__unannouncedYoungOtherRoundTwice__reverts() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 0);
        _start(s);
        _toScoreCommit(s);
        bytes memory proof = _updateProof(s, 1, 4);
        bytes memory call_ = abi.encodeCall(coordinator.proveUpdate, (s.id, 1, proof, SALT));
        _refuses(watcher, call_, IDisputes.NoChallenge.selector);
        bytes32 hash = keccak256(proof);
        bytes32 commitment =
            keccak256(abi.encode(block.chainid, address(coordinator), s.id, uint16(1), watcher, hash, SALT));
        vm.prank(watcher);
        coordinator.commitProof(s.id, commitment);
        _refuses(watcher, call_, ITaskCoordinator.CommitmentTooYoung.selector);
        // A copy, with the copied commitment, and with one of its own.
        vm.prank(rival);
        coordinator.commitProof(s.id, commitment);
        _mine(1);
        _refuses(rival, call_, IDisputes.NoChallenge.selector);
        _refuses(
            watcher,
            abi.encodeCall(coordinator.proveUpdate, (s.id, 2, proof, SALT)),
            ITaskCoordinator.UnexpectedRound.selector
        );
        vm.prank(watcher);
        coordinator.proveUpdate(s.id, 1, proof, SALT);
        _refuses(watcher, call_, abi.encodeWithSelector(IDisputes.AlreadyRefuted.selector, s.id, _worker(1)));
    }

    /// @dev What was revealed in the last round is not what is revealed in this one.
    function test_proveUpdate__ofTheLastRound__revertsNotRevealed() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 0);
        _claimHonestly(s);
        bytes memory proof = _updateProof(s, 1, 4);
        _toChallenge(s);
        _endPhase(s.id);
        _settleAll(s.id);
        _announce(s.id, watcher, proof);
        for (uint256 i; i < 3; ++i) {
            if (i != 1) _commit(s.id, _worker(i));
        }
        _endPhase(s.id);
        _refuses(
            watcher, abi.encodeCall(coordinator.proveUpdate, (s.id, 2, proof, SALT)), IDisputes.NotRevealed.selector
        );
    }

    // --- demandChunk -----------------------------------------------------------------------------------------------

    function _demandCall(Scene memory s, uint16 worker, uint64 c) private view returns (bytes memory) {
        return abi.encodeCall(coordinator.demandChunk, (s.id, 1, worker, c));
    }

    function _closeCall(Scene memory s, uint16 worker, uint64 c) private view returns (bytes memory) {
        return abi.encodeCall(coordinator.closeDemand, (s.id, 1, worker, c));
    }

    function _close(Scene memory s, uint16 worker, uint64 c) private {
        vm.prank(stranger);
        coordinator.closeDemand(s.id, 1, worker, c);
    }

    function test_demand__early__locksTheFeeAndEmits() external {
        Scene memory s = _revealed();
        _fund(watcher, DEMAND_FEE);
        uint40 deadline = uint40(_now() + ANSWER);
        vm.expectEmit();
        emit IDisputes.ChunkDemanded(s.id, 1, _worker(1), 1, 4, watcher, deadline, false);
        vm.prank(watcher);
        coordinator.demandChunk(s.id, 1, 1, 4);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), DEMAND_FEE);
        Demand memory d = coordinator.demandOf(s.id, 1, 1, 4);
        vm.assertEq(abi.encode(d), abi.encode(Demand(watcher, DEMAND_FEE, 1, 1, 4, deadline, false, true)));
        vm.assertEq(uint256(coordinator.roundOf(s.id).demands), 1);
    }

    /// @dev Each further one for the same update costs twice as much; sixteen, and no more.
    function test_demand__serial__feesDouble() external {
        Scene memory s = _sceneOf(Rule.Mean, ServerKind.Plain, 3, 20 * CHUNK, "many");
        _start(s);
        _toScoreCommit(s);
        _fund(watcher, uint256(DEMAND_FEE) << 16);
        for (uint64 c; c < 16; ++c) {
            vm.prank(watcher);
            coordinator.demandChunk(s.id, 1, 1, c);
            vm.assertEq(uint256(coordinator.demandOf(s.id, 1, 1, c).fee), uint256(DEMAND_FEE) << c);
        }
        _refuses(watcher, _demandCall(s, 1, 16), IDisputes.TooManyDemands.selector);
        vm.assertEq(_demand(s.id, watcher, 2, 0), DEMAND_FEE, "another update's are its own");
    }

    function test_demand__whatIsNotDemandable__reverts() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 4);
        s.weights[2] = 0;
        _lie(s, 0);
        _claimHonestly(s);
        _start(s);
        _fund(watcher, 100 ether);
        _refuses(watcher, _demandCall(s, 0, 0), ITaskCoordinator.UnexpectedPhase.selector);
        _toScoreCommit(s);
        _refuses(watcher, _demandCall(s, 4, 0), IDisputes.NotDemandable.selector);
        _refuses(watcher, _demandCall(s, 0, LAST + 1), ChunkTree.IndexOutOfRange.selector);
        _refuses(
            watcher, abi.encodeCall(coordinator.demandChunk, (s.id, 2, 0, 0)), ITaskCoordinator.UnexpectedRound.selector
        );
        _refuses(rival, _demandCall(s, 0, 0), IStakeVault.StakeTooLow.selector);
        _refuteUpdate(s.id, watcher, _updateProof(s, 1, 4));
        _refuses(watcher, _demandCall(s, 1, 0), IDisputes.NotDemandable.selector);
        vm.prank(watcher);
        coordinator.demandChunk(s.id, 1, 0, 0);
        _refuses(watcher, _demandCall(s, 0, 0), IDisputes.AlreadyDemanded.selector);
        _answer(s, stranger, 0, 0);
        _refuses(watcher, _demandCall(s, 0, 0), IDisputes.AlreadyDemanded.selector);
        _scoresAlike(s.id, 1, _votes(s));
        _tallyAll(s.id);
        _refuses(watcher, _demandCall(s, 2, 0), IDisputes.NotDemandable.selector);
        vm.prank(watcher);
        coordinator.demandChunk(s.id, 1, 3, 0);
        vm.assertTrue(coordinator.demandOf(s.id, 1, 3, 0).isLate);
    }

    function test_demand__phases__revealScoreCommitAggregateChallenge() external {
        Scene memory s = _revealed();
        _fund(watcher, 100 ether);
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        _worksHere(watcher, _demandCall(s, 1, 0));
        bytes memory votes = _votes(s);
        _commitScores(s.id, _validator(0), votes);
        _assertPhase(s.id, Phase.ScoreReveal);
        _refuses(watcher, _demandCall(s, 1, 0), ITaskCoordinator.UnexpectedPhase.selector);
        _revealScores(s.id, _validator(0), votes);
        _refuses(watcher, _demandCall(s, 1, 0), ITaskCoordinator.UnexpectedPhase.selector);
        _tallyAll(s.id);
        _worksHere(watcher, _demandCall(s, 1, 0));
        _postScene(s);
        (, end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        _worksHere(watcher, _demandCall(s, 1, 0));
        _mineAt(end);
        _refuses(watcher, _demandCall(s, 1, 0), ITaskCoordinator.UnexpectedPhase.selector);
    }

    // --- answerDemand ----------------------------------------------------------------------------------------------

    function test_answer__anybody__takesTheFee() external {
        Scene memory s = _revealed();
        _demand(s.id, watcher, 1, 4);
        bytes memory opening = s.updates[1].openUpdate(4, 0);
        vm.expectEmit();
        emit IDisputes.DemandAnswered(s.id, 1, _worker(1), 4, stranger, opening);
        _answer(s, stranger, 1, 4);
        vm.assertEq(vault.creditOf(stranger), DEMAND_FEE / 2, "half of it burns");
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), 0);
        vm.assertEq(uint256(coordinator.roundOf(s.id).demands), 0);
        vm.assertFalse(coordinator.demandOf(s.id, 1, 1, 4).isOpen);
    }

    /// @dev An update with wrong sums can be delivered, too: that is another fault.
    function test_answer__wrongSumsInForm1__isAnAnswer() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 3);
        _start(s);
        _toScoreCommit(s);
        _demand(s.id, watcher, 1, 4);
        bytes memory opening = s.updates[1].openUpdate(4, 1);
        coordinator.answerDemand(s.id, 1, 1, 4, opening);
        vm.assertFalse(coordinator.isRefuted(s.id, 1, 1));
    }

    function _answerCall(Scene memory s, uint16 worker, uint64 c, bytes memory opening)
        private
        view
        returns (bytes memory)
    {
        return abi.encodeCall(coordinator.answerDemand, (s.id, 1, worker, c, opening));
    }

    function test_answer__wrong__reverts() external {
        Scene memory s = _revealed();
        _demand(s.id, watcher, 1, 4);
        bytes memory opening = s.updates[1].openUpdate(4, 0);
        _refuses(stranger, _answerCall(s, 1, 5, opening), IDisputes.NoDemand.selector);
        _refuses(stranger, _answerCall(s, 0, 4, opening), IDisputes.NoDemand.selector);
        bytes memory other = s.updates[1].openUpdate(5, 0);
        _refuses(stranger, _answerCall(s, 1, 4, other), IDisputes.NotRevealed.selector);
        _refuses(stranger, _answerCall(s, 1, 4, s.updates[0].openUpdate(4, 0)), IDisputes.NotRevealed.selector);
        _refuses(stranger, _answerCall(s, 1, 4, bytes.concat(opening, "x")), IDisputes.ProofLength.selector);
        _answer(s, stranger, 1, 4);
        _refuses(stranger, _answerCall(s, 1, 4, opening), IDisputes.NoDemand.selector);
    }

    function test_answer__deadline__isHalfOpen() external {
        Scene memory s = _revealed();
        _demand(s.id, watcher, 1, 4);
        uint256 deadline = _now() + ANSWER;
        bytes memory opening = s.updates[1].openUpdate(4, 0);
        _mineAt(deadline - 1);
        _worksHere(stranger, _answerCall(s, 1, 4, opening));
        _refuses(stranger, _closeCall(s, 1, 4), IDisputes.StillOpen.selector);
        for (uint256 late; late < 2; ++late) {
            _mineAt(deadline + late);
            bytes memory error_ = abi.encodeWithSelector(IDisputes.TooLate.selector, deadline);
            _refuses(stranger, _answerCall(s, 1, 4, opening), error_);
            _worksHere(stranger, _closeCall(s, 1, 4));
        }
    }

    // --- closeDemand: early ----------------------------------------------------------------------------------------

    function test_early__unanswered__weightZeroAndSlash() external {
        Scene memory s = _revealed();
        _demand(s.id, watcher, 1, 4);
        uint256 wealth = _wealth(s.id, watcher);
        _mineAt(_now() + ANSWER);
        vm.expectEmit();
        emit IDisputes.UpdateRefuted(s.id, 1, _worker(1), watcher, "withheld");
        _close(s, 1, 4);
        vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(1)), WORKER_STAKE / 2);
        vm.assertEq(_wealth(s.id, watcher) - wealth, WORKER_STAKE / 4);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), 0, "the fee comes back");
        _scoresAlike(s.id, 1, _votes(s));
        _tallyAll(s.id);
        vm.assertEq(uint256(coordinator.roundOf(s.id).accepted), 2);
    }

    /// @dev Asked in ScoreCommit's last second, it keeps its whole clock: the tally waits in Answer.
    function test_early__lastSecond__tallyWaitsAndSeesItByItself() external {
        Scene memory s = _revealed();
        bytes memory votes = _votes(s);
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        _demand(s.id, watcher, 1, 4);
        uint256 deadline = _now() + ANSWER;
        _commitScores(s.id, _validator(0), votes);
        _revealScores(s.id, _validator(0), votes);
        (Phase phase, uint40 phaseEnd) = coordinator.phaseOf(s.id);
        vm.assertEq(uint256(phase), uint256(Phase.Answer));
        vm.assertEq(uint256(phaseEnd), deadline);
        _refuses(stranger, abi.encodeCall(coordinator.tally, (s.id, 9)), ITaskCoordinator.UnexpectedPhase.selector);
        uint256 state = vm.snapshotState();
        _answer(s, stranger, 1, 4);
        _assertPhase(s.id, Phase.Tally);
        vm.revertToState(state);
        _mineAt(deadline - 1);
        _assertPhase(s.id, Phase.Answer);
        _mineAt(deadline);
        _tallyAll(s.id);
        vm.assertTrue(coordinator.isRefuted(s.id, 1, 1));
        vm.assertEq(uint256(coordinator.roundOf(s.id).accepted), 2);
        // Whoever closes it now still brings the slash, once.
        _close(s, 1, 4);
        vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(1)), WORKER_STAKE / 2);
    }

    function test_early__severalChunks__slashOnce() external {
        Scene memory s = _revealed();
        for (uint64 c; c < 3; ++c) {
            _demand(s.id, watcher, 1, c);
        }
        _mineAt(_now() + ANSWER);
        for (uint64 c; c < 3; ++c) {
            _close(s, 1, c);
        }
        vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(1)), WORKER_STAKE / 2);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), 0);
        _refuses(stranger, _closeCall(s, 1, 0), IDisputes.NoDemand.selector);
    }

    /// @dev After the round is over a forgotten record is closed all the same, and who did not deliver still pays.
    function test_early__closedAfterTheRound__feeComesBackAndTheSlashComes() external {
        Scene memory s = _revealed();
        _demand(s.id, watcher, 1, 4);
        _mineAt(_now() + ANSWER);
        _scoresAlike(s.id, 1, _votes(s));
        _tallyAll(s.id);
        _finalise(s.id);
        _settleAll(s.id);
        _close(s, 1, 4);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), 0);
        vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(1)), WORKER_STAKE / 2);
        vm.assertEq(uint256(coordinator.roundOf(s.id).demands), 0);
        vm.assertFalse(coordinator.isRefuted(s.id, 2, 1), "this round's update is another");
    }

    /// @dev Half of the stake for withholding, by a demand of its own friend's, is no shield against the whole.
    function test_early__withheldAndOutOfRange__isSlashedForBoth() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 0);
        _start(s);
        _toScoreCommit(s);
        _demand(s.id, rival, 1, 0);
        _mineAt(_now() + ANSWER);
        _close(s, 1, 0);
        vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(1)), WORKER_STAKE / 2);
        _refuteUpdate(s.id, watcher, _updateProof(s, 1, 4));
        vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(1)), 0);
    }

    // --- closeDemand: late -----------------------------------------------------------------------------------------

    /// @dev Those who vouched are slashed, the round is void, everybody is paid, and the poster's bond is free.
    function test_late__unanswered__vouchersPayAndTheRoundIsVoid() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        address poster = _toChallenge(s);
        uint256 wealth = _wealth(s.id, poster);
        bytes32 commitment = _challenge(s.id, rival, "nothing");
        _demand(s.id, watcher, 1, 4);
        uint256 watcherBefore = _wealth(s.id, watcher);
        _mineAt(_now() + ANSWER);
        vm.expectEmit();
        emit ITaskCoordinator.Slashed(s.id, 1, _validator(0), Role.Validator, VALIDATOR_STAKE / 2, "vouched, not held");
        _close(s, 1, 4);
        _assertPhase(s.id, Phase.Settlement);
        vm.assertEq(uint256(coordinator.roundOf(s.id).outcome), uint256(Outcome.Withheld));
        vm.assertEq(vault.lockOf(s.id, Role.Validator, _validator(0)), VALIDATOR_STAKE / 2);
        vm.assertEq(_wealth(s.id, watcher) - watcherBefore, VALIDATOR_STAKE / 4);
        vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(1)), WORKER_STAKE, "the worker is not at fault");
        vm.assertEq(vault.lockOf(s.id, Role.Aggregator, poster), 0);
        vm.assertEq(_wealth(s.id, poster), wealth);
        _assertVerdict(s.id, 1, Verdict.Abandoned);
        coordinator.closeChallenge(s.id, rival, commitment);
        vm.assertEq(_wealth(s.id, rival), CHALLENGER_BOND, "an abandoned attempt gives bonds back");
        _settleAll(s.id);
        vm.assertGt(vault.creditOf(_worker(1)), 0);
        vm.assertEq(vault.creditOf(_validator(0)), REWARD / 2 / 5);
        vm.assertEq(uint256(_member(s.id, Role.Validator, _validator(0)).stake), VALIDATOR_STAKE / 2);
        vm.assertFalse(registry.exists(registry.modelIdOf(s.id, 1)));
        _assertSolvent();
    }

    function test_late__beforeAnyAggregate__theRoundIsVoid() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _start(s);
        _toAggregate(s);
        _demand(s.id, watcher, 1, 4);
        _mineAt(_now() + ANSWER);
        _assertPhase(s.id, Phase.Aggregate);
        _close(s, 1, 4);
        vm.assertEq(uint256(coordinator.roundOf(s.id).outcome), uint256(Outcome.Withheld));
        _settleAll(s.id);
        _assertPhase(s.id, Phase.Commit);
    }

    /// @dev Nobody could post what nobody could fetch: the demand outlives Aggregate, and those who vouched still pay.
    function test_late__aggregateEndsMeanwhile__vouchersStillPay() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _start(s);
        _toAggregate(s);
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        _demand(s.id, watcher, 1, 4);
        _mineAt(end);
        _assertPhase(s.id, Phase.Dispute);
        _refuses(stranger, abi.encodeCall(coordinator.settle, (s.id, 9)), ITaskCoordinator.UnexpectedPhase.selector);
        _mineAt(uint256(end) - 1 + ANSWER);
        _close(s, 1, 4);
        vm.assertEq(vault.lockOf(s.id, Role.Validator, _validator(0)), VALIDATOR_STAKE / 2);
        _settleAll(s.id);
    }

    /// @dev The third attempt has fallen, and a late demand is open: nothing can be refuted twice meanwhile.
    function test_late__thirdAttemptFell__noProofRefutesItAgain() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        s.nextModel.values[3] += 1;
        s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
        _toChallenge(s);
        bytes memory proof = _coordinateProof(s, 3);
        for (uint256 attempt = 1; attempt < 3; ++attempt) {
            _refute(s.id, watcher, proof);
            _postScene(s);
        }
        bytes32 other = _challenge(s.id, rival, proof);
        _demand(s.id, watcher, 1, 4);
        uint256 deadline = _now() + ANSWER;
        _refute(s.id, watcher, proof);
        _assertPhase(s.id, Phase.Dispute);
        _refuses(rival, _proveCall(s.id, proof), IDisputes.NoChallenge.selector);
        coordinator.closeChallenge(s.id, rival, other);
        vm.assertEq(_wealth(s.id, rival), CHALLENGER_BOND);
        _mineAt(deadline);
        _close(s, 1, 4);
        _assertPhase(s.id, Phase.Settlement);
        _assertVerdict(s.id, 3, Verdict.Refuted);
        _settleAll(s.id);
    }

    /// @dev Only those who voted a weight for it vouched.
    function test_late__whoRejectedOrAbstained__isNotSlashed() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 2);
        s.p.validators.min = s.p.validators.max = 4;
        s.id = _create(s.p);
        _enrolAll(s.id, 2, 4, 3);
        _toScoreCommit(s);
        bytes[] memory votes = new bytes[](4);
        (votes[0], votes[1]) = (_votes(s), _votes(s));
        votes[2] = abi.encodePacked(uint32(0), uint16(9), uint16(9));
        votes[3] = abi.encodePacked(ABSTAIN, uint16(0), uint16(9), uint16(9));
        _scores(s.id, votes);
        _tallyAll(s.id);
        _demand(s.id, watcher, 0, 4);
        _mineAt(_now() + ANSWER);
        _close(s, 0, 4);
        for (uint256 v; v < 4; ++v) {
            uint256 left = v < 2 ? VALIDATOR_STAKE / 2 : VALIDATOR_STAKE;
            vm.assertEq(vault.lockOf(s.id, Role.Validator, _validator(v)), left);
        }
    }

    /// @dev Serial demands in Challenge's last second: their clocks run in parallel, and the round waits for one.
    function test_late__manyInTheLastSecond__oneClock() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _toChallenge(s);
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        for (uint16 w; w < 3; ++w) {
            for (uint64 c; c < 5; ++c) {
                _demand(s.id, watcher, w, c);
            }
        }
        _mineAt(end);
        _assertPhase(s.id, Phase.Dispute);
        _mineAt(uint256(end) + ANSWER - 2);
        for (uint16 w; w < 3; ++w) {
            for (uint64 c; c < 5; ++c) {
                _answer(s, _validator(0), w, c);
            }
        }
        _assertPhase(s.id, Phase.Settlement);
        vm.assertEq(vault.creditOf(_validator(0)), 3 * 31 * uint256(DEMAND_FEE) / 2);
        _settleAll(s.id);
        vm.assertEq(coordinator.roundOf(s.id).modelRoot, s.nextModel.root);
    }

    /// @dev A refuted attempt does not end a demand: in the next one it still voids the round.
    function test_late__attemptFalls__theClockRunsOn() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        s.nextModel.values[3] += 1;
        s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
        _toChallenge(s);
        _demand(s.id, watcher, 1, 4);
        uint256 deadline = _now() + ANSWER;
        _refute(s.id, watcher, _coordinateProof(s, 3));
        vm.assertEq(uint256(coordinator.roundOf(s.id).demands), 1);
        _mineAt(deadline);
        _close(s, 1, 4);
        vm.assertEq(uint256(coordinator.roundOf(s.id).outcome), uint256(Outcome.Withheld));
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    /// @dev Weights are fixed: an update that was refuted late still counts, and so its bytes are still owed. Otherwise
    /// a worker would give up its stake to hide them, and nobody could check the aggregate.
    function test_late__updateRefutedAfterTheTally__canStillBeDemanded() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _lie(s, 0);
        _claimHonestly(s);
        _start(s);
        _toAggregate(s);
        _refuteUpdate(s.id, _worker(1), _updateProof(s, 1, 4));
        _demand(s.id, watcher, 1, 7);
        _mineAt(_now() + ANSWER);
        _close(s, 1, 7);
        vm.assertEq(uint256(coordinator.roundOf(s.id).outcome), uint256(Outcome.Withheld));
    }
}
