// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../../src/interfaces/IDisputes.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Outcome, Phase, Role, Rule, ServerKind, Target, TaskParams, Verdict } from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Disputed, Scene } from "../base/Disputed.sol";
import { Tree, Trees } from "../base/Trees.sol";

/// @notice Flaws found in published systems, replayed here by name. Follows PublishedFlaws.tree.
contract PublishedFlawsTest is Disputed {
    using Trees for Tree;

    /// @dev Reverts whatever it is called with.
    bytes private constant REVERTS = hex"5f5ffd";
    /// @dev Writes to its storage whatever it is called with.
    bytes private constant RECORDS = hex"60015f55";

    function _lyingScene() private returns (Scene memory s, bytes memory proof) {
        s = _scene(Rule.Mean, ServerKind.Plain, 3);
        s.nextModel.values[3] += 1;
        s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
        _toChallenge(s);
        proof = _coordinateProof(s, 3);
    }

    function test_flaw__rewardTakenBeforeOthersReveal__nothingIsCreditedBeforeTheSettlement() external {
        uint256 id = _started(2, 1, 1);
        _commitAll(id, 2);
        _reveal(id, _worker(0));
        bytes memory settle = abi.encodeCall(coordinator.settle, (id, 9));
        _refuses(_worker(0), settle, ITaskCoordinator.UnexpectedPhase.selector);
        _reveal(id, _worker(1));
        _refuses(_worker(0), settle, ITaskCoordinator.UnexpectedPhase.selector);
        _scoresAlike(id, 1, _same(2, 1, 1));
        _tallyAll(id);
        _refuses(_worker(0), settle, ITaskCoordinator.UnexpectedPhase.selector);
        vm.assertEq(vault.creditOf(_worker(0)), 0);
        vm.prank(_worker(0));
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.NothingToClaim.selector, _worker(0)));
        vault.claim();
    }

    function test_flaw__namingOneselfEvaluator__isNotAdmitted() external {
        TaskParams memory p = _params(2, 2, 1);
        p.namedValidators = new address[](3);
        (p.namedValidators[0], p.namedValidators[1], p.namedValidators[2]) = (requester, _worker(0), _validator(0));
        uint256 id = _create(p);
        _fund(stranger, VALIDATOR_STAKE);
        bytes memory enrol = abi.encodeCall(coordinator.enrol, (id, Role.Validator, VALIDATOR_STAKE));
        _refuses(stranger, enrol, ITaskCoordinator.NotAdmitted.selector);
        _refuses(requester, enrol, ITaskCoordinator.NotAdmitted.selector);
        _enrol(id, Role.Worker, _worker(0), WORKER_STAKE);
        _fund(_worker(0), VALIDATOR_STAKE);
        _refuses(_worker(0), enrol, ITaskCoordinator.AlreadyEnrolled.selector);
        enrol = abi.encodeCall(coordinator.enrol, (id, Role.Challenger, VALIDATOR_STAKE));
        _refuses(stranger, enrol, ITaskCoordinator.NotAdmitted.selector);
    }

    /// @dev Votes are by worker. A commitment copied is worthless, and an id copied after the reveal comes too late.
    function test_flaw__copiedContentId__earnsNothing() external {
        uint256 id = _started(2, 1, 1);
        Update memory u = _update(_worker(0), 1);
        bytes32 commitment = _updateCommitment(id, 1, _worker(0), u);
        for (uint256 i; i < 2; ++i) {
            vm.prank(_worker(i));
            coordinator.commitUpdate(id, 1, commitment);
        }
        _revealUpdate(id, 1, _worker(0), u);
        _refuses(
            _worker(1),
            abi.encodeCall(coordinator.revealUpdate, (id, 1, u.root, u.cid, u.squaredNorm, u.numExamples, u.salt)),
            ITaskCoordinator.CommitmentMismatch.selector
        );
        _endPhase(id);
        _scoresAlike(id, 1, bytes.concat(_same(1, 10_000, 100), bytes4(0)));
        _tallyAll(id);
        _finalise(id);
        _settleAll(id);
        vm.assertEq(vault.creditOf(_worker(1)), 0);
        vm.assertEq(vault.creditOf(_worker(0)), uint256(REWARD) / 2 * 7 / 10);
    }

    /// @dev Nothing that a caller names is ever called: the challenger, the answerer and the payee are numbers.
    function test_flaw__callerSuppliedVerifier__nobodysCodeIsCalled() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        address poster = coordinator.roundOf(s.id).aggregator;
        vm.etch(watcher, RECORDS);
        vm.etch(poster, RECORDS);
        _refute(s.id, watcher, proof);
        _claimHonestly(s);
        _postScene(s);
        uint32 game = _openGame(s, watcher, Target.Model, 0, "own");
        _answerGame(s, poster, game);
        _mineAt(coordinator.gameOf(s.id, game).deadline);
        coordinator.closeGame(s.id, game);
        vm.assertEq(vm.load(watcher, 0), 0);
        vm.assertEq(vm.load(poster, 0), 0);
    }

    function test_flaw__revertingPayee__blocksNobodysPay() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        vm.etch(_worker(0), REVERTS);
        vm.etch(_validator(0), REVERTS);
        vm.etch(coordinator.roundOf(s.id).aggregator, REVERTS);
        vm.etch(requester, REVERTS);
        _refute(s.id, watcher, proof);
        _claimHonestly(s);
        vm.etch(_postScene(s), REVERTS);
        _endPhase(s.id);
        _settleAll(s.id);
        uint256 credit = vault.creditOf(_worker(1));
        vm.assertGt(credit, 0);
        vm.prank(_worker(1));
        vault.claim();
        vm.assertEq(token.balanceOf(_worker(1)), credit);
    }

    function test_flaw__slashStrandsMaturedStake__theRestIsFree() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        s.p.rounds = 1;
        _start(s);
        _toScoreCommit(s);
        _demand(s.id, watcher, 1, 0);
        _mine(ANSWER);
        coordinator.closeDemand(s.id, 1, 1, 0);
        _scoresAlike(s.id, 1, _votes(s));
        _tallyAll(s.id);
        s.weights[1] = 0;
        _claimHonestly(s);
        _postScene(s);
        _endPhase(s.id);
        _settleAll(s.id);
        _mine(UNBONDING);
        for (uint256 i; i < 3; ++i) {
            vault.unlock(s.id, Role.Worker, _worker(i));
            vm.assertEq(vault.lockOf(s.id, Role.Worker, _worker(i)), 0);
            vm.assertEq(vault.freeOf(_worker(i)), i == 1 ? WORKER_STAKE / 2 : WORKER_STAKE);
        }
    }

    function test_flaw__eventLogsADeletedValue__theBondIsInTheEvent() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        bytes32 commitment = _challenge(s.id, watcher, proof);
        _mine(1);
        vm.expectEmit();
        emit IDisputes.ChallengeClosed(s.id, watcher, commitment, CHALLENGER_BOND, false);
        _prove(s.id, watcher, proof);
        (,, uint96 bond,) = coordinator.challengeOf(s.id, watcher, commitment);
        vm.assertEq(uint256(bond), 0);
    }

    /// @dev What is kept by round, attempt and worker does not outlive them.
    function test_flaw__bitmapSurvivesAReplacedRoot__nothingDoes() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        s.updates[1].values[0] = -32_768;
        s.updates[1] = _tree(s, ChunkTree.UPDATE, s.updates[1].values);
        _claimHonestly(s);
        _start(s);
        _toScoreCommit(s);
        _demand(s.id, watcher, 0, 0);
        _answer(s, stranger, 0, 0);
        s.p.economics.rangeSlashBps = 0;
        _refuteUpdate(s.id, watcher, _updateProof(s, 1, 0));
        _scoresAlike(s.id, 1, _votes(s));
        _tallyAll(s.id);
        s.weights[1] = 0;
        _claimHonestly(s);
        _postScene(s);
        bytes32 commitment = _challenge(s.id, rival, "same");
        _mine(CHALLENGE);
        _endPhase(s.id);
        _settleAll(s.id);
        vm.assertTrue(coordinator.isRefuted(s.id, 1, 1));
        vm.assertFalse(coordinator.isRefuted(s.id, 2, 1));
        _assertVerdict(s.id, 1, Verdict.Open);
        coordinator.closeChallenge(s.id, rival, commitment);
        _commit(s.id, _worker(0));
        _commit(s.id, _worker(2));
        _reveal(s.id, _worker(0));
        // The same chunk of the same worker may be asked for again, at the first price.
        vm.assertEq(_demand(s.id, watcher, 0, 0), DEMAND_FEE);
    }

    function test_flaw__phaseThatOnlyTheOwnerAdvances__aStrangerDoes() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        _refute(s.id, watcher, proof);
        vm.startPrank(stranger);
        while (_phase(s.id) != Phase.Completed) {
            (Phase phase, uint40 end) = coordinator.phaseOf(s.id);
            if (phase == Phase.Settlement) coordinator.settle(s.id, 9);
            else _mineAt(end);
        }
        vm.stopPrank();
        (,, uint256 escrow,,) = vault.totals();
        vm.assertEq(escrow, 0);
    }

    function test_flaw__indexOfTheCallerNotCheckedAgainstTheSender__isChecked() external {
        (Scene memory s, bytes memory proof) = _lyingScene();
        uint32 game = _openGame(s, watcher, Target.Model, 0, "own");
        _announce(s.id, rival, proof);
        _refuses(
            rival, abi.encodeCall(coordinator.proveInGame, (s.id, game, proof, SALT)), IDisputes.NotYourMove.selector
        );
        _answerGame(s, stranger, game);
        _refuses(
            rival,
            abi.encodeCall(coordinator.pointAt, (s.id, game, 0, 0, new bytes32[](4))),
            IDisputes.NotYourMove.selector
        );
        bytes memory other = abi.encodePacked(uint16(0), uint64(0), s.updates[1].openUpdate(0, 1));
        _announce(s.id, rival, other);
        _refuses(rival, abi.encodeCall(coordinator.proveUpdate, (s.id, 1, other, SALT)), IDisputes.NotRevealed.selector);
    }

    /// @dev The requester does nothing any more, and nobody posts or answers: everybody gets its due all the same.
    function test_flaw__publisherSilentForEver__everybodyIsPaid() external {
        (Scene memory s,) = _lyingScene();
        uint32 game = _openGame(s, watcher, Target.Model, 0, "own");
        _mineAt(coordinator.gameOf(s.id, game).deadline);
        coordinator.closeGame(s.id, game);
        _endPhase(s.id);
        vm.assertEq(uint256(coordinator.roundOf(s.id).outcome), uint256(Outcome.NoAggregate));
        _settleAll(s.id);
        for (uint256 i; i < 3; ++i) {
            vm.assertGt(vault.creditOf(_worker(i)), 0);
        }
        vm.assertEq(vault.creditOf(_validator(0)), REWARD / 2 / 5);
        vm.assertEq(vault.creditOf(watcher), BOND / 2);
    }

    /// @dev Every demand costs its whole fee, and each more than the last: there is nothing to be had by the wei.
    function test_flaw__feeGriefedOneWeiAtATime__feesAreWholeAndDouble() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _start(s);
        _toScoreCommit(s);
        _fund(rival, DEMAND_FEE - 1);
        bytes memory call_ = abi.encodeCall(coordinator.demandChunk, (s.id, 1, 1, 0));
        _refuses(rival, call_, IStakeVault.StakeTooLow.selector);
        vm.prank(rival);
        vm.expectRevert(IStakeVault.ZeroAmount.selector);
        vault.deposit(0);
        uint256 paid;
        for (uint64 c; c < 5; ++c) {
            vm.assertEq(_demand(s.id, watcher, 1, c), uint256(DEMAND_FEE) << c);
            paid += uint256(DEMAND_FEE) << c;
            _answer(s, _worker(1), 1, c);
            vm.assertEq(vault.creditOf(_worker(1)), paid / 2, "and half of it burns");
        }
    }
}
