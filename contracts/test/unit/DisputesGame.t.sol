// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../../src/interfaces/IDisputes.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Game, Phase, Role, RoundView, Rule, ServerKind, Target, Verdict } from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Disputed, Scene } from "../base/Disputed.sol";
import { Tree, Trees } from "../base/Trees.sol";

/// @notice Follows DisputesGame.tree: an aggregate whose bytes are withheld.
contract DisputesGameTest is Disputed {
    using Trees for Tree;

    uint256 private constant J = 103;
    uint256 private constant C = J / CHUNK;
    /// @dev 300 chunks of 16: a depth of 9, so that two answers of nodes come before the chunk.
    uint64 private constant DEEP = 4793;

    function _lie(Scene memory s, uint256 j) private pure {
        s.nextModel.values[j] += s.nextModel.values[j] < 0 ? int256(1) : int256(-1);
        s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
    }

    /// @dev A wrong model whose bytes nobody but its poster has; `own` is what it should be.
    function _withheld() private returns (Scene memory s, bytes32 own) {
        s = _scene(Rule.Mean, ServerKind.Plain, 3);
        own = s.nextModel.root;
        _lie(s, J);
        _toChallenge(s);
    }

    function _closeCall(Scene memory s, uint32 game) private view returns (bytes memory) {
        return abi.encodeCall(coordinator.closeGame, (s.id, game));
    }

    function _deadline(Scene memory s, uint32 game) private view returns (uint256) {
        return coordinator.gameOf(s.id, game).deadline;
    }

    // --- openGame --------------------------------------------------------------------------------------------------

    function test_openGame__inChallenge__locksTheBondAndEmits() external {
        (Scene memory s, bytes32 own) = _withheld();
        _fund(watcher, CHALLENGER_BOND);
        vm.expectEmit();
        emit IDisputes.GameOpened(s.id, 0, watcher, 1, 1, Target.Model, 0, own);
        vm.prank(watcher);
        uint32 game = coordinator.openGame(s.id, 1, 1, Target.Model, 0, new bytes32[](0), own);
        Game memory g = coordinator.gameOf(s.id, game);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), CHALLENGER_BOND);
        vm.assertEq(abi.encode(g.challenger, g.round, g.attempt), abi.encode(watcher, 1, 1));
        vm.assertEq(abi.encode(g.height, g.index, g.bond), abi.encode(4, 0, CHALLENGER_BOND));
        vm.assertTrue(g.answersTurn && g.isOpen && g.answerer == address(0));
        vm.assertEq(uint256(g.deadline), _now() + ANSWER);
        vm.assertEq(g.node, s.nextModel.root);
        vm.assertEq(g.ownRoot, own);
        RoundView memory r = coordinator.roundOf(s.id);
        vm.assertEq(abi.encode(r.games, r.numGames), abi.encode(1, 1));
        vm.assertEq(uint256(_openGame(s, rival, Target.Model, 0, own)), 1);
    }

    function _openCall(Scene memory s, Target target, uint16 group, bytes32[] memory roots, bytes32 own)
        private
        view
        returns (bytes memory)
    {
        return abi.encodeCall(coordinator.openGame, (s.id, 1, 1, target, group, roots, own));
    }

    function test_openGame__itsWindow__isHalfOpen() external {
        (Scene memory s, bytes32 own) = _withheld();
        (, uint40 end) = coordinator.phaseOf(s.id);
        uint256 state = vm.snapshotState();
        _mineAt(end - 1);
        _openGame(s, watcher, Target.Model, 0, own);
        _mineAt(end);
        _assertPhase(s.id, Phase.Dispute);
        vm.revertToState(state);
        _fund(watcher, CHALLENGER_BOND);
        for (uint256 late; late < 2; ++late) {
            _mineAt(uint256(end) + late);
            _refuses(
                watcher, _openCall(s, Target.Model, 0, new bytes32[](0), own), ITaskCoordinator.UnexpectedPhase.selector
            );
        }
    }

    function test_openGame__whatIsNotThere__reverts() external {
        (Scene memory s, bytes32 own) = _withheld();
        _fund(watcher, CHALLENGER_BOND);
        bytes32[] memory none = new bytes32[](0);
        bytes4 error_ = IDisputes.InvalidTarget.selector;
        _refuses(watcher, _openCall(s, Target.State, 0, none, own), error_);
        _refuses(watcher, _openCall(s, Target.Group, 0, none, own), error_);
        _refuses(watcher, _openCall(s, Target.Model, 1, none, own), error_);
        bytes memory same = abi.encodeWithSelector(IDisputes.SameRoot.selector, s.nextModel.root);
        _refuses(watcher, _openCall(s, Target.Model, 0, none, s.nextModel.root), same);
        _refuses(
            watcher,
            abi.encodeCall(coordinator.openGame, (s.id, 2, 1, Target.Model, 0, none, own)),
            ITaskCoordinator.UnexpectedRound.selector
        );
        _refuses(
            watcher,
            abi.encodeCall(coordinator.openGame, (s.id, 1, 2, Target.Model, 0, none, own)),
            IDisputes.UnexpectedAttempt.selector
        );
        _refuses(rival, _openCall(s, Target.Model, 0, none, own), IStakeVault.StakeTooLow.selector);
    }

    function test_openGame__groupRoots__mustBeThosePosted() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 4);
        s.p.format.groupSize = 2;
        _claimHonestly(s);
        _toChallenge(s);
        _fund(watcher, CHALLENGER_BOND);
        bytes32[] memory roots = _claim(s).groupRoots;
        _refuses(watcher, _openCall(s, Target.Group, 2, roots, "own"), IDisputes.InvalidTarget.selector);
        roots[0] = "other";
        _refuses(watcher, _openCall(s, Target.Group, 1, roots, "own"), IDisputes.NotPosted.selector);
        _refuses(watcher, _openCall(s, Target.Group, 0, new bytes32[](0), "own"), IDisputes.InvalidTarget.selector);
        _openGame(s, watcher, Target.Group, 1, "own");
    }

    // --- the bond --------------------------------------------------------------------------------------------------

    /// @dev Games of one challenger, opened at once. Each says another root.
    function _openGames(Scene memory s, address challenger, uint256 count) private {
        for (uint256 i; i < count; ++i) {
            _openGame(s, challenger, Target.Model, 0, keccak256(abi.encode(challenger, i)));
        }
    }

    function _bond(Scene memory s, uint32 game) private view returns (uint256) {
        return coordinator.gameOf(s.id, game).bond;
    }

    function test_openGame__eachSixteenThatAreOpen__doubleTheBond() external {
        (Scene memory s,) = _withheld();
        _openGames(s, rival, 50);
        uint256 locked;
        for (uint32 i; i < 50; ++i) {
            vm.assertEq(_bond(s, i), uint256(CHALLENGER_BOND) << (i / 16));
            locked += _bond(s, i);
        }
        vm.assertEq(locked, uint256(CHALLENGER_BOND) * (16 + 32 + 64 + 2 * 8));
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, rival), locked);
        _fund(watcher, 8 * uint256(CHALLENGER_BOND) - 1);
        bytes memory call_ = _openCall(s, Target.Model, 0, new bytes32[](0), "own");
        _refuses(watcher, call_, IStakeVault.StakeTooLow.selector);
    }

    function test_openGame__gamesClosedSince__doNotCount() external {
        (Scene memory s, bytes32 own) = _withheld();
        _openGames(s, rival, 17);
        for (uint32 i; i < 2; ++i) {
            _answerGame(s, stranger, i);
        }
        // In Challenge all the same. Those two are lost; nobody says that the others were not answered in time.
        _mineAt(_deadline(s, 0));
        coordinator.closeGame(s.id, 0);
        coordinator.closeGame(s.id, 1);
        vm.assertEq(_bond(s, _openGame(s, watcher, Target.Model, 0, own)), CHALLENGER_BOND);
        vm.assertEq(_bond(s, _openGame(s, watcher, Target.Model, 0, own)), 2 * uint256(CHALLENGER_BOND));
    }

    function test_openGame__nextAttempt__costsTheBondAgain() external {
        (Scene memory s, bytes32 own) = _withheld();
        _openGames(s, rival, 40);
        _mineAt(_deadline(s, 39));
        coordinator.closeGame(s.id, 0);
        _postScene(s);
        vm.assertEq(_bond(s, _openGame(s, watcher, Target.Model, 0, own)), CHALLENGER_BOND);
    }

    function test_openGame__asManyAsCanBeOpen__revertsTooManyGames() external {
        (Scene memory s, bytes32 own) = _withheld();
        _openGames(s, rival, 272);
        vm.assertEq(_bond(s, 271), uint256(CHALLENGER_BOND) << 16);
        bytes memory tooMany = abi.encodeWithSelector(IDisputes.TooManyGames.selector, s.id, uint32(272));
        _refuses(watcher, _openCall(s, Target.Model, 0, new bytes32[](0), own), tooMany);
    }

    /// @dev The sixteenth locks the bond, the seventeenth twice that; each is lost by its challenger's silence.
    function test_bonds__lostGames__costWhatEachLocked() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _toChallenge(s);
        _openGames(s, rival, 15);
        uint32 cheap = _openGame(s, watcher, Target.Model, 0, "own");
        uint32 dear = _openGame(s, watcher, Target.Model, 0, "own");
        for (uint32 i; i <= dear; ++i) {
            _answerGame(s, stranger, i);
        }
        _mineAt(_deadline(s, dear));
        coordinator.closeGame(s.id, dear);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), CHALLENGER_BOND);
        vm.assertEq(vault.creditOf(stranger), CHALLENGER_BOND);
        coordinator.closeGame(s.id, cheap);
        vm.assertEq(_wealth(s.id, watcher), 0);
        vm.assertEq(vault.creditOf(stranger), 3 * uint256(CHALLENGER_BOND) / 2);
        _closeAll(s);
        vm.assertEq(_wealth(s.id, rival), 0);
        _assertVerdict(s.id, 1, Verdict.Open);
    }

    function test_bonds__attemptFell__eachComesBack() external {
        (Scene memory s, bytes32 own) = _withheld();
        _openGames(s, rival, 33);
        uint256 wealth = _wealth(s.id, rival);
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        bytes memory proof = _coordinateProof(s, J);
        _announce(s.id, watcher, proof);
        vm.prank(watcher);
        coordinator.proveInGame(s.id, game, proof, SALT);
        vm.assertEq(_wealth(s.id, watcher), 4 * uint256(CHALLENGER_BOND) + BOND / 2);
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, watcher), 0);
        _closeAll(s);
        vm.assertEq(vault.freeOf(rival), wealth);
    }

    /// @dev Nobody has an update that counts: the round is void, and nothing that was posted is at fault.
    function test_bonds__voidRound__eachComesBack() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _toChallenge(s);
        _openGames(s, rival, 20);
        uint256 wealth = _wealth(s.id, rival);
        _demand(s.id, watcher, 1, 0);
        _mineAt(coordinator.demandOf(s.id, 1, 1, 0).deadline);
        coordinator.closeDemand(s.id, 1, 1, 0);
        _assertVerdict(s.id, 1, Verdict.Abandoned);
        _closeAll(s);
        vm.assertEq(vault.freeOf(rival), wealth);
    }

    /// @dev Closes what is open of the task's games, as anybody may.
    function _closeAll(Scene memory s) private {
        uint32 count = coordinator.roundOf(s.id).numGames;
        for (uint32 i; i < count; ++i) {
            if (!coordinator.gameOf(s.id, i).isOpen) continue;
            vm.prank(stranger);
            coordinator.closeGame(s.id, i);
            vm.assertFalse(coordinator.gameOf(s.id, i).isOpen);
        }
        vm.assertEq(vault.lockOf(s.id, Role.Challenger, rival), 0);
    }

    // --- silence loses ---------------------------------------------------------------------------------------------

    /// @dev The poster's silence at the nodes, and at the chunk; its aggregate falls at the deadline, not before.
    function test_silence__ofThePoster__refutes() external {
        for (uint256 answers; answers < 2; ++answers) {
            uint256 state = vm.snapshotState();
            (Scene memory s, bytes32 own) = _withheld();
            address poster = coordinator.roundOf(s.id).aggregator;
            uint32 game = _openGame(s, watcher, Target.Model, 0, own);
            if (answers > 0) {
                _answerGame(s, poster, game);
                _point(s, watcher, game, C);
            }
            _mineAt(_deadline(s, game) - 1);
            _refuses(stranger, _closeCall(s, game), IDisputes.StillOpen.selector);
            _mine(1);
            vm.expectEmit();
            emit IDisputes.AggregateRefuted(s.id, 1, poster, 1, watcher, "bytes withheld");
            vm.prank(stranger);
            coordinator.closeGame(s.id, game);
            _assertVerdict(s.id, 1, Verdict.Refuted);
            vm.assertEq(_wealth(s.id, watcher), CHALLENGER_BOND + BOND / 2);
            vm.revertToState(state);
        }
    }

    function test_silence__deepTree__atEachOfTheAnswers() external {
        Scene memory s = _sceneOf(Rule.Mean, ServerKind.Plain, 1, DEEP, "deep");
        bytes32 own = s.nextModel.root;
        uint256 j = 290 * CHUNK + 3;
        _lie(s, j);
        address poster = _toChallenge(s);
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        for (uint256 answers; answers < 4; ++answers) {
            uint256 state = vm.snapshotState();
            _mineAt(_deadline(s, game));
            coordinator.closeGame(s.id, game);
            bool isLost = coordinator.verdictOf(s.id, 1, 1) != Verdict.Refuted;
            vm.assertEq(isLost, answers == 3, "whose turn it was");
            vm.revertToState(state);
            if (answers == 3) break;
            _answerGame(s, poster, game);
            if (answers < 2) _point(s, watcher, game, j / CHUNK);
        }
        bytes memory proof = _coordinateProof(s, j);
        _announce(s.id, watcher, proof);
        vm.prank(watcher);
        coordinator.proveInGame(s.id, game, proof, SALT);
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    /// @dev The challenger's silence after the nodes, and after the chunk: half burned, half to who answered last.
    function test_silence__ofTheChallenger__losesItsBond() external {
        for (uint256 points; points < 2; ++points) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
            address poster = _toChallenge(s);
            uint256 wealth = _wealth(s.id, poster);
            uint32 game = _openGame(s, watcher, Target.Model, 0, "own");
            _answerGame(s, rival, game);
            if (points > 0) {
                _point(s, watcher, game, C);
                _answerGame(s, rival, game);
                vm.assertEq(_deadline(s, game), _now() + PROOF);
            }
            _mineAt(_deadline(s, game) - 1);
            _refuses(stranger, _closeCall(s, game), IDisputes.StillOpen.selector);
            _mine(1);
            (,,,, uint256 before) = vault.totals();
            vm.expectEmit();
            emit IDisputes.GameClosed(s.id, game, watcher, true);
            vm.prank(stranger);
            coordinator.closeGame(s.id, game);
            (,,,, uint256 burned) = vault.totals();
            vm.assertEq(burned - before, CHALLENGER_BOND / 2);
            vm.assertEq(vault.creditOf(rival), CHALLENGER_BOND / 2);
            vm.assertEq(_wealth(s.id, watcher), 0);
            vm.assertEq(_wealth(s.id, poster), wealth, "an honest poster loses nothing");
            _assertVerdict(s.id, 1, Verdict.Open);
            vm.revertToState(state);
        }
    }

    function test_dispute__openGame__holdsTheRoundUntilItIsClosed() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        _toChallenge(s);
        (, uint40 end) = coordinator.phaseOf(s.id);
        _mineAt(end - 1);
        uint32 game = _openGame(s, watcher, Target.Model, 0, "own");
        _answerGame(s, stranger, game);
        _mineAt(_deadline(s, game) + 100);
        _assertPhase(s.id, Phase.Dispute);
        coordinator.closeGame(s.id, game);
        _assertPhase(s.id, Phase.Settlement);
        _settleAll(s.id);
        vm.assertEq(coordinator.roundOf(s.id).modelRoot, s.nextModel.root);
    }

    // --- a lie that is answered ------------------------------------------------------------------------------------

    /// @dev Model, state and group sum: the answers lead to the chunk, and the chunk to the proof.
    function test_lie__answeredToTheLeaf__isProven() external {
        for (uint8 target; target < 3; ++target) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind.Momentum, 4);
            s.p.format.groupSize = 2;
            _claimHonestly(s);
            bytes32 own = _misstate(s, target);
            s.aim = Target(target);
            address poster = _toChallenge(s);
            uint32 game = _openGame(s, watcher, Target(target), target == 2 ? 1 : 0, own);
            _answerGame(s, poster, game);
            _point(s, watcher, game, C);
            _answerGame(s, poster, game);
            bytes memory proof = target == 2 ? _groupProof(s, J, 1) : _coordinateProof(s, J);
            _announce(s.id, watcher, proof);
            vm.prank(watcher);
            coordinator.proveInGame(s.id, game, proof, SALT);
            _assertVerdict(s.id, 1, Verdict.Refuted);
            vm.assertEq(_wealth(s.id, watcher), CHALLENGER_BOND + BOND / 2);
            vm.assertFalse(coordinator.gameOf(s.id, game).isOpen);
            vm.revertToState(state);
        }
    }

    function _misstate(Scene memory s, uint8 target) private pure returns (bytes32 own) {
        Tree memory t = target == 0 ? s.nextModel : target == 1 ? s.nextState : s.groups[1];
        own = t.root;
        t.values[J] += 1;
        Tree memory lie = _tree(s, t.shape.kind, t.values);
        if (target == 0) s.nextModel = lie;
        else if (target == 1) s.nextState = lie;
        else s.groups[1] = lie;
    }

    /// @dev A model of one chunk: the chunk is the first answer.
    function test_lie__oneChunk__isAnsweredAtOnce() external {
        Scene memory s = _sceneOf(Rule.Mean, ServerKind.Plain, 2, 10, "one");
        bytes32 own = s.nextModel.root;
        _lie(s, 7);
        address poster = _toChallenge(s);
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        _refuses(
            poster, abi.encodeCall(coordinator.answerNodes, (s.id, game, new bytes(32))), IDisputes.ProofLength.selector
        );
        _answerGame(s, poster, game);
        bytes memory proof = _coordinateProof(s, 7);
        _announce(s.id, watcher, proof);
        vm.prank(watcher);
        coordinator.proveInGame(s.id, game, proof, SALT);
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    /// @dev Padding that is not constant cannot be answered at all, and what cannot be answered loses.
    function test_lie__hiddenInPadding__cannotBeAnswered() external {
        for (uint256 height; height < 2; ++height) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 2);
            bytes32 own = s.nextModel.root;
            s.nextModel.replaceNode(height, height == 0 ? NUM_CHUNKS : 7, "hidden");
            address poster = _toChallenge(s);
            uint32 game = _openGame(s, watcher, Target.Model, 0, own);
            bytes memory nodes = s.nextModel.nodesBelow(4, 0, 0);
            _refuses(
                poster,
                abi.encodeCall(coordinator.answerNodes, (s.id, game, nodes)),
                height == 0 ? IDisputes.PaddingNotConstant.selector : IDisputes.NodeMismatch.selector
            );
            vm.revertToState(state);
        }
    }

    /// @dev A node where a leaf should be has no chunk: whoever put it there cannot answer.
    function test_lie__nodeInTheLeafsPlace__cannotBeAnswered() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 2);
        bytes32 own = s.nextModel.root;
        s.nextModel.replaceNode(0, C, ChunkTree.node("left", "right"));
        address poster = _toChallenge(s);
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        _answerGame(s, poster, game);
        _point(s, watcher, game, C);
        _refuses(
            poster,
            abi.encodeCall(
                coordinator.answerChunk, (s.id, game, abi.encodePacked("left", bytes28(0), "right", bytes27(0)))
            ),
            IDisputes.NodeMismatch.selector
        );
        _mineAt(_deadline(s, game));
        coordinator.closeGame(s.id, game);
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    // --- moves that are not ----------------------------------------------------------------------------------------

    function test_answerNodes__wrong__reverts() external {
        (Scene memory s, bytes32 own) = _withheld();
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        bytes memory nodes = s.nextModel.nodesBelow(4, 0, 0);
        bytes4 length = IDisputes.ProofLength.selector;
        _refuses(stranger, abi.encodeCall(coordinator.answerNodes, (s.id, game, bytes.concat(nodes, "x"))), length);
        _refuses(stranger, abi.encodeCall(coordinator.answerNodes, (s.id, game, "")), length);
        bytes memory higher = s.nextModel.nodesBelow(4, 0, 1);
        _refuses(stranger, abi.encodeCall(coordinator.answerNodes, (s.id, game, higher)), length);
        nodes[0] ^= 0x01;
        _refuses(
            stranger, abi.encodeCall(coordinator.answerNodes, (s.id, game, nodes)), IDisputes.NodeMismatch.selector
        );
        _refuses(stranger, abi.encodeCall(coordinator.answerNodes, (s.id, game + 1, nodes)), IDisputes.NoGame.selector);
        bytes memory chunk = s.nextModel.chunks[0];
        _refuses(stranger, abi.encodeCall(coordinator.answerChunk, (s.id, game, chunk)), length);
    }

    /// @dev In the last second it may still be answered, at the deadline no more, though nobody has closed it.
    function test_moves__atTheDeadline__revertTooLate() external {
        (Scene memory s, bytes32 own) = _withheld();
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        uint256 deadline = _deadline(s, game);
        uint256 state = vm.snapshotState();
        _mineAt(deadline - 1);
        _answerGame(s, stranger, game);
        deadline = _deadline(s, game);
        vm.assertEq(deadline, _now() + ANSWER);
        _mineAt(deadline - 1);
        _point(s, watcher, game, C);
        deadline = _deadline(s, game);
        _mineAt(deadline - 1);
        _answerGame(s, stranger, game);
        bytes memory proof = _coordinateProof(s, J);
        _announce(s.id, watcher, proof);
        deadline = _deadline(s, game);
        _mineAt(deadline);
        bytes4 late = IDisputes.TooLate.selector;
        _refuses(watcher, abi.encodeCall(coordinator.proveInGame, (s.id, game, proof, SALT)), late);
        vm.revertToState(state);
        for (uint256 k; k < 2; ++k) {
            _mineAt(uint256(_deadline(s, game)) + k);
            bytes memory nodes = s.nextModel.nodesBelow(4, 0, 0);
            _refuses(stranger, abi.encodeCall(coordinator.answerNodes, (s.id, game, nodes)), late);
        }
    }

    function test_pointAt__wrong__reverts() external {
        (Scene memory s, bytes32 own) = _withheld();
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        bytes32[] memory path = new bytes32[](4);
        for (uint256 h; h < 4; ++h) {
            path[h] = s.nextModel.nodes[h][(C >> h) ^ 1];
        }
        bytes32 leaf = s.nextModel.nodes[0][C];
        bytes memory right = abi.encodeCall(coordinator.pointAt, (s.id, game, uint8(C), leaf, path));
        _refuses(watcher, right, IDisputes.NotYourMove.selector);
        _answerGame(s, stranger, game);
        _refuses(rival, right, IDisputes.NotYourMove.selector);
        bytes4 mismatch = IDisputes.NodeMismatch.selector;
        _refuses(watcher, abi.encodeCall(coordinator.pointAt, (s.id, game, uint8(C), bytes32("x"), path)), mismatch);
        _refuses(watcher, abi.encodeCall(coordinator.pointAt, (s.id, game, uint8(C + 1), leaf, path)), mismatch);
        _refuses(
            watcher,
            abi.encodeCall(coordinator.pointAt, (s.id, game, uint8(C), leaf, new bytes32[](3))),
            IDisputes.ProofLength.selector
        );
        _refuses(
            watcher,
            abi.encodeCall(coordinator.pointAt, (s.id, game, uint8(C), leaf, new bytes32[](5))),
            IDisputes.ProofLength.selector
        );
        for (uint256 c = NUM_CHUNKS; c < 18; ++c) {
            _refuses(
                watcher,
                abi.encodeCall(coordinator.pointAt, (s.id, game, uint8(c), leaf, path)),
                ChunkTree.IndexOutOfRange.selector
            );
        }
        vm.prank(watcher);
        (bool ok,) = address(coordinator).call(right);
        vm.assertTrue(ok);
        _refuses(watcher, right, IDisputes.NotYourMove.selector);
        bytes memory other = s.nextModel.chunks[C + 1];
        _refuses(rival, abi.encodeCall(coordinator.answerChunk, (s.id, game, other)), mismatch);
    }

    function test_proveInGame__notItsChallengerOrNotAnnounced__reverts() external {
        (Scene memory s, bytes32 own) = _withheld();
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        bytes memory proof = _coordinateProof(s, J);
        bytes memory call_ = abi.encodeCall(coordinator.proveInGame, (s.id, game, proof, SALT));
        _announce(s.id, rival, proof);
        _refuses(rival, call_, IDisputes.NotYourMove.selector);
        _refuses(watcher, call_, IDisputes.NoChallenge.selector);
        bytes memory useless = _coordinateProof(s, J + 1);
        _announce(s.id, watcher, useless);
        _refuses(
            watcher,
            abi.encodeCall(coordinator.proveInGame, (s.id, game, useless, SALT)),
            IDisputes.NothingWrong.selector
        );
        // Whoever has the bytes after all need not wait for an answer.
        _announce(s.id, watcher, proof);
        vm.prank(watcher);
        coordinator.proveInGame(s.id, game, proof, SALT);
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    function test_proveInGame__inTheBlockOfTheAnnouncement__revertsCommitmentTooYoung() external {
        (Scene memory s, bytes32 own) = _withheld();
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        bytes memory proof = _coordinateProof(s, J);
        bytes32 hash = keccak256(proof);
        bytes32 commitment =
            keccak256(abi.encode(block.chainid, address(coordinator), s.id, uint16(1), watcher, hash, SALT));
        vm.prank(watcher);
        coordinator.commitProof(s.id, commitment);
        _refuses(
            watcher,
            abi.encodeCall(coordinator.proveInGame, (s.id, game, proof, SALT)),
            ITaskCoordinator.CommitmentTooYoung.selector
        );
    }

    function test_closeGame__unknownOrTwice__revertsNoGame() external {
        (Scene memory s, bytes32 own) = _withheld();
        _refuses(stranger, _closeCall(s, 0), IDisputes.NoGame.selector);
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        _mineAt(_deadline(s, game));
        coordinator.closeGame(s.id, game);
        _refuses(stranger, _closeCall(s, game), IDisputes.NoGame.selector);
    }

    /// @dev Two games on one attempt: when it falls, the other's bond comes back whoever's move it was.
    function test_closeGame__attemptFell__bondComesBack() external {
        (Scene memory s, bytes32 own) = _withheld();
        uint32 first = _openGame(s, watcher, Target.Model, 0, own);
        uint32 second = _openGame(s, rival, Target.Model, 0, "another");
        _answerGame(s, stranger, second);
        _mineAt(_deadline(s, first));
        coordinator.closeGame(s.id, first);
        _refuses(
            rival,
            abi.encodeCall(coordinator.pointAt, (s.id, second, 0, 0, new bytes32[](4))),
            IDisputes.NoGame.selector
        );
        _mine(10_000);
        coordinator.closeGame(s.id, second);
        vm.assertEq(_wealth(s.id, rival), CHALLENGER_BOND);
        vm.assertEq(uint256(coordinator.roundOf(s.id).games), 0);
    }

    /// @dev An adaptive server's state of twice as many values is one level deeper than the model: of 392 in 25 chunks the
    /// first answer shows 32 nodes, not 16.
    function test_state__deeperThanTheModel__isPlayedAtItsOwnDepth() external {
        Scene memory s = _sceneOf(Rule.Mean, ServerKind.Yogi, 2, 196, "deeper");
        bytes32 own = s.nextState.root;
        _lieInSecond(s, J);
        address poster = _toChallenge(s);
        uint32 game = _openGame(s, watcher, Target.State, 0, own);
        vm.assertEq(uint256(coordinator.gameOf(s.id, game).height), 5);
        bytes memory half = s.nextState.nodesBelow(5, 0, 1);
        bytes memory call_ = abi.encodeCall(coordinator.answerNodes, (s.id, game, half));
        _refuses(poster, call_, abi.encodeWithSelector(IDisputes.ProofLength.selector, 512, 1024));
        _answerGame(s, poster, game);
        // 25 to 31 are padding of the state; the model's begins at 13.
        call_ = abi.encodeCall(coordinator.pointAt, (s.id, game, 25, 0, new bytes32[](5)));
        _refuses(watcher, call_, abi.encodeWithSelector(ChunkTree.IndexOutOfRange.selector, 25, 25));
        _point(s, watcher, game, 2 * J / CHUNK);
        _answerGame(s, poster, game);
        _proveInGame(s, game, _coordinateProof(s, J));
    }

    /// @dev 2,100 values in 132 chunks are eight levels, 4,200 in 263 are nine: one answer of nodes more.
    function test_state__beyondEightLevels__takesAnAnswerMore() external {
        Scene memory s = _sceneOf(Rule.Mean, ServerKind.Adagrad, 1, 2100, "deep");
        vm.assertEq(s.nextModel.depth, 8);
        bytes32 own = s.nextState.root;
        uint256 j = 2098;
        _lieInSecond(s, j);
        address poster = _toChallenge(s);
        uint32 game = _openGame(s, watcher, Target.State, 0, own);
        vm.assertEq(uint256(coordinator.gameOf(s.id, game).height), 9);
        for (uint256 points; points < 2; ++points) {
            _answerGame(s, poster, game);
            _point(s, watcher, game, 2 * j / CHUNK);
        }
        _answerGame(s, poster, game);
        _proveInGame(s, game, _coordinateProof(s, j));
    }

    function test_state__hiddenInItsPadding__cannotBeAnswered() external {
        Scene memory s = _sceneOf(Rule.Mean, ServerKind.Adam, 2, 196, "deeper");
        bytes32 own = s.nextState.root;
        s.nextState.replaceNode(0, 25, "hidden");
        address poster = _toChallenge(s);
        uint32 game = _openGame(s, watcher, Target.State, 0, own);
        bytes memory call_ = abi.encodeCall(coordinator.answerNodes, (s.id, game, s.nextState.nodesBelow(5, 0, 0)));
        _refuses(poster, call_, abi.encodeWithSelector(IDisputes.PaddingNotConstant.selector, 25));
    }

    /// @dev The root of the coordinate's second moment is wrong.
    function _lieInSecond(Scene memory s, uint256 j) private pure {
        s.nextState.values[2 * j + 1] += 1;
        s.nextState = _tree(s, ChunkTree.STATE, s.nextState.values);
        s.aim = Target.State;
    }

    function _proveInGame(Scene memory s, uint32 game, bytes memory proof) private {
        _announce(s.id, watcher, proof);
        vm.prank(watcher);
        coordinator.proveInGame(s.id, game, proof, SALT);
        _assertVerdict(s.id, 1, Verdict.Refuted);
    }

    /// @dev With momentum, whoever withholds both has to answer for one of them: its chunk is enough.
    function test_momentum__bothWithheld__oneGameIsEnough() external {
        for (uint8 target; target < 2; ++target) {
            uint256 state = vm.snapshotState();
            Scene memory s = _scene(Rule.Mean, ServerKind.Momentum, 3);
            s.aim = Target(target);
            bytes32 own = target == 0 ? s.nextModel.root : s.nextState.root;
            s.nextState.values[J] += 1;
            s.nextState = _tree(s, ChunkTree.STATE, s.nextState.values);
            s.nextModel.values[J] += 1;
            s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
            address poster = _toChallenge(s);
            uint32 game = _openGame(s, watcher, Target(target), 0, own);
            _answerGame(s, poster, game);
            _point(s, watcher, game, C);
            _answerGame(s, poster, game);
            bytes memory proof = _coordinateProof(s, J);
            _announce(s.id, watcher, proof);
            vm.prank(watcher);
            coordinator.proveInGame(s.id, game, proof, SALT);
            _assertVerdict(s.id, 1, Verdict.Refuted);
            vm.revertToState(state);
        }
    }

    // --- the bound -------------------------------------------------------------------------------------------------

    /// @dev Every clock from Aggregate on used to its last second, three times over: the round ends within what task
    /// creation counts.
    function test_bound__everyClockToItsEnd__theRoundEndsInTime() external {
        Scene memory s = _scene(Rule.Mean, ServerKind.Plain, 3);
        bytes32 own = s.nextModel.root;
        _lie(s, J);
        _start(s);
        _toAggregate(s);
        uint256 begin = _now();
        for (uint256 attempt = 1; attempt <= 3; ++attempt) {
            address poster = _postLate(s);
            _mine(CHALLENGE - 1);
            _loseSlowly(s, poster, own);
        }
        _assertPhase(s.id, Phase.Settlement);
        uint256 bound_ = 3 * (6 * uint256(SLOT) + CHALLENGE + 3 * uint256(ANSWER) + PROOF);
        vm.assertLe(_now() - begin, bound_);
        // Each cheater that is out leaves a slot less.
        vm.assertGt(_now() - begin, bound_ - 3 * uint256(SLOT) - 30);
    }

    /// @dev In the last second of the open window.
    function _postLate(Scene memory s) private returns (address poster) {
        RoundView memory r = coordinator.roundOf(s.id);
        for (uint256 a; a == 0 || coordinator.isExcluded(s.id, 1, poster); ++a) {
            poster = _aggregator(a);
        }
        _commitClaim(s.id, poster, _claim(s), "late");
        _mineAt(uint256(r.aggregateStart) + (uint256(r.numSlots) + 3) * SLOT - 1);
        _postClaim(s.id, poster, _claim(s), "late");
    }

    function _loseSlowly(Scene memory s, address poster, bytes32 own) private {
        uint32 game = _openGame(s, watcher, Target.Model, 0, own);
        _mineAt(_deadline(s, game) - 1);
        _answerGame(s, poster, game);
        _mineAt(_deadline(s, game) - 1);
        _point(s, watcher, game, C);
        bytes memory proof = _coordinateProof(s, J);
        _announce(s.id, watcher, proof);
        _mineAt(_deadline(s, game) - 1);
        _answerGame(s, poster, game);
        _mineAt(_deadline(s, game) - 1);
        vm.prank(watcher);
        coordinator.proveInGame(s.id, game, proof, SALT);
    }
}
