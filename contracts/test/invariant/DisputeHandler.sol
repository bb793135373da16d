// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { Demand, Game, Phase, Role, RoundView, Rule, Target, Verdict, Windows } from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Disputed, Scene } from "../base/Disputed.sol";
import { Tree, Trees } from "../base/Trees.sol";

/// @notice Tasks of one round that everybody disputes. Posters claim what is right or not, some of them without bytes; the
/// rival challenges and asks for no reason, and gives its games up or not; one watcher and one holder of the updates do
/// what they should, in time. A call is made only where it is promised to work, so a revert is a finding.
contract DisputeHandler is Disputed {
    using Trees for Tree;

    uint256 private constant MAX_TASKS = 8;
    uint64 private constant SMALL = 40;
    uint256 private constant WORKERS = 3;

    enum Lie {
        None,
        Coordinate,
        Hidden,
        Nonsense
    }

    /// @dev What the handler knows of a task. The trees are built anew from the seed.
    struct Play {
        bytes32 seed;
        bytes32 honestRoot;
        Lie lie;
        uint8 at;
        bool isWatched;
        uint32 game;
        bool hasLiar;
    }

    struct Record {
        uint256 id;
        address account;
        bytes32 commitment;
    }

    mapping(uint256 id => Play) private _plays;
    mapping(uint256 id => uint256) public funded;
    mapping(bytes32 what => uint256) public calls;
    mapping(uint256 id => uint256) private _progress;
    Record[] private _challenges;
    /// @dev What the watcher has put in. It can only gain.
    uint256 public watcherIn;
    bool public wentBack;
    bool public honestLost;

    address internal holder = vm.addr(0x401DE2);

    constructor() {
        setUp();
    }

    /// @dev (attempt, phase) of each task only grows, and nobody's right claim was refuted.
    modifier observed() {
        _;
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            RoundView memory r = coordinator.roundOf(id);
            uint256 progress = uint256(r.attempt) << 8 | uint8(r.phase);
            if (r.phase != Phase.Completed && progress < _progress[id]) wentBack = true;
            _progress[id] = progress;
        }
    }

    function contracts() external view returns (TrainingToken, StakeVault, TaskCoordinator, ModelRegistry) {
        return (token, vault, coordinator, registry);
    }

    function honestRootOf(uint256 id) external view returns (bytes32) {
        return _plays[id].honestRoot;
    }

    function genesisOf(uint256 id) external view returns (bytes32) {
        return coordinator.taskOf(id).genesisRoot;
    }

    function parties() public view returns (address[] memory all) {
        all = new address[](10);
        (all[0], all[1], all[2], all[3]) = (watcher, rival, holder, requester);
        for (uint256 i; i < 3; ++i) {
            (all[4 + i], all[7 + i]) = (_worker(i), _aggregator(i));
        }
    }

    // --- scenes ----------------------------------------------------------------------------------------------------

    function _sceneAt(uint256 id) private view returns (Scene memory s) {
        Play memory p = _plays[id];
        s = _base(p.seed);
        s.id = id;
        if (p.hasLiar) _spoil(s);
        for (uint256 i; i < WORKERS; ++i) {
            if (coordinator.roundOf(id).tallied > 0) s.weights[i] = _member(id, Role.Worker, _worker(i)).weight;
        }
        if (_accepted(s).length > 0) _claimHonestly(s);
    }

    function _base(bytes32 seed) private view returns (Scene memory s) {
        s = _sceneOf(Rule(uint8(seed[0]) % 3), uint8(seed[1]) % 2 == 1, uint16(WORKERS), SMALL, seed);
        s.p.rounds = 1;
        s.p.windows = Windows(20, 10, 15, 15, 10, 12, 24, 24);
    }

    function _spoil(Scene memory s) private pure {
        s.updates[1].values[3] = -32_768;
        s.updates[1] = _tree(s, ChunkTree.UPDATE, s.updates[1].values);
    }

    /// @dev What the poster claims: the truth, or another value at one coordinate.
    function _claimed(Scene memory s) private view {
        Play memory p = _plays[s.id];
        if (p.lie == Lie.None) return;
        s.nextModel.values[p.at] += s.nextModel.values[p.at] < 0 ? int256(1) : int256(-1);
        s.nextModel = _tree(s, ChunkTree.MODEL, s.nextModel.values);
        if (p.lie == Lie.Nonsense) s.nextModel.root = keccak256(abi.encode("nonsense", p.seed));
    }

    // --- a task up to its aggregate --------------------------------------------------------------------------------

    function create(uint256 seed) external observed {
        if (coordinator.numTasks() == MAX_TASKS) return;
        _letPass(0);
        Scene memory s = _base(keccak256(abi.encode(seed)));
        bool hasLiar = seed % 3 == 0;
        if (hasLiar) _spoil(s);
        _start(s);
        _plays[s.id].seed = keccak256(abi.encode(seed));
        _plays[s.id].hasLiar = hasLiar;
        funded[s.id] = s.p.reward;
        _toScoreCommit(s);
        if (seed % 5 == 0) {
            _demandAs(rival, s.id, 0, 1);
            if (seed % 2 == 0) _answer(s, holder, 0, 1);
        }
        if (hasLiar && seed % 2 == 0) {
            _refuteUpdate(s.id, watcher, _updateProof(s, 1, 0));
            ++calls["update refuted"];
        }
        _scoresAlike(s.id, 1, _votes(s));
        while (_phase(s.id) == Phase.Answer) {
            _letPass(4);
        }
        _tallyAll(s.id);
        _plays[s.id].honestRoot = _sceneAt(s.id).nextModel.root;
        ++calls["create"];
    }

    function post(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Aggregate);
        if (_phase(id) != Phase.Aggregate) return;
        Play storage p = _plays[id];
        uint256 lie = (seed >> 8) % 6;
        (p.lie, p.at, p.isWatched) = (lie < 4 ? Lie(lie) : Lie.None, uint8((seed >> 16) % SMALL), false);
        _mine(0);
        RoundView memory r = coordinator.roundOf(id);
        uint256 exclusive = uint256(r.aggregateStart) + 10 * uint256(r.numSlots);
        if (_now() >= exclusive) return;
        if (!r.orderDrawn) coordinator.drawOrder(id);
        address poster = coordinator.roundOf(id).order[(_now() - r.aggregateStart) / 10];
        if (poster == address(0)) return;
        Scene memory s = _sceneAt(id);
        _claimed(s);
        _postClaim(id, poster, _claim(s), 0);
        ++calls[p.lie == Lie.None ? bytes32("honest post") : bytes32("lying post")];
        _watch(id);
    }

    // --- the rival -------------------------------------------------------------------------------------------------

    function uselessChallenge(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        if (_phase(id) != Phase.Challenge) return;
        bytes memory proof = abi.encode(seed);
        if (_challengeOpen(id, rival, _challengeCommitment(id, rival, proof))) return;
        _challenges.push(Record(id, rival, _challenge(id, rival, proof)));
        ++calls["useless challenge"];
    }

    function _challengeOpen(uint256 id, address account, bytes32 commitment) private view returns (bool) {
        (,,, uint40 blockNumber) = coordinator.challengeOf(id, account, commitment);
        return blockNumber > 0;
    }

    function uselessGame(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        if (_phase(id) != Phase.Challenge) return;
        Scene memory s = _sceneAt(id);
        _claimed(s);
        _openGame(s, rival, Target.Model, 0, keccak256(abi.encode(seed)));
        ++calls["useless game"];
    }

    /// @dev Sometimes the rival goes on with a game of its own.
    function pointSomewhere(uint256 seed) external observed {
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            for (uint32 i; i < coordinator.roundOf(id).numGames; ++i) {
                Game memory g = coordinator.gameOf(id, i);
                bool isDue = _isRunning(id, g) && !g.answersTurn && g.challenger == rival && g.height > 0;
                if (!isDue || seed >> (i % 200) & 1 == 0) continue;
                Scene memory s = _sceneAt(id);
                _claimed(s);
                _point(s, rival, i, (seed >> 40) % 3);
                ++calls["point"];
            }
        }
    }

    function demand(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        Phase phase = _phase(id);
        if (phase != Phase.Aggregate && phase != Phase.Challenge) return;
        _demandAs(rival, id, uint16((seed >> 8) % WORKERS), uint64((seed >> 16) % 3));
    }

    function _demandAs(address account, uint256 id, uint16 worker, uint64 c) private {
        bool isLate = _phase(id) != Phase.ScoreCommit;
        if (isLate && _member(id, Role.Worker, _worker(worker)).weight == 0) return;
        if (coordinator.demandOf(id, 1, worker, c).challenger != address(0)) return;
        _demand(id, account, worker, c);
        ++calls["demand"];
    }

    /// @dev A liar with the bytes answers when it likes; one without cannot.
    function liarAnswers(uint256 seed) external observed {
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            if (_plays[id].lie == Lie.Hidden || _plays[id].lie == Lie.Coordinate) _answerAll(id, seed);
        }
    }

    // --- the honest ones: they act whenever time is about to pass --------------------------------------------------

    function _isRunning(uint256 id, Game memory g) private view returns (bool) {
        bool open = g.isOpen && coordinator.verdictOf(id, g.round, g.attempt) == Verdict.Open;
        return open && _now() < g.deadline;
    }

    function _honestAct(uint256 id) private {
        Phase phase = _phase(id);
        if (phase == Phase.Challenge || phase == Phase.Dispute) {
            if (_plays[id].lie == Lie.None) _answerAll(id, type(uint256).max);
            _watch(id);
        }
        // Early ones are left to the rival's fancy.
        if (phase > Phase.Tally) _answerDemands(id);
        _closeAll(id);
    }

    function _answerAll(uint256 id, uint256 which) private {
        Phase phase = _phase(id);
        if (phase != Phase.Challenge && phase != Phase.Dispute) return;
        Scene memory s = _sceneAt(id);
        _claimed(s);
        for (uint32 i; i < coordinator.roundOf(id).numGames; ++i) {
            Game memory g = coordinator.gameOf(id, i);
            if (!_isRunning(id, g) || !g.answersTurn || which >> (i % 200) & 1 == 0) continue;
            _answerGame(s, holder, i);
            ++calls["answer"];
        }
    }

    /// @dev The watcher recomputes; with the bytes it proves at once, without them it opens a game and plays it.
    function _watch(uint256 id) private {
        Play storage p = _plays[id];
        Phase phase = _phase(id);
        if (p.lie == Lie.None || (phase != Phase.Challenge && phase != Phase.Dispute)) return;
        Scene memory s = _sceneAt(id);
        bytes32 own = s.nextModel.root;
        _claimed(s);
        if (p.lie == Lie.Coordinate) {
            watcherIn += CHALLENGER_BOND;
            bytes memory proof = _coordinateProof(s, p.at);
            _challenge(id, watcher, proof);
            _mine(0);
            _prove(id, watcher, proof);
            ++calls["proof"];
        } else if (!p.isWatched) {
            watcherIn += CHALLENGER_BOND;
            (p.game, p.isWatched) = (_openGame(s, watcher, Target.Model, 0, own), true);
            ++calls["game"];
        } else {
            _playOn(s, p.game, p.at);
        }
    }

    function _playOn(Scene memory s, uint32 gameId, uint256 at) private {
        Game memory g = coordinator.gameOf(s.id, gameId);
        if (!_isRunning(s.id, g) || g.answersTurn) return;
        if (g.height > 0) {
            _point(s, watcher, gameId, at / CHUNK);
            return;
        }
        bytes memory proof = _coordinateProof(s, at);
        _announce(s.id, watcher, proof);
        vm.prank(watcher);
        coordinator.proveInGame(s.id, gameId, proof, SALT);
        ++calls["proof in game"];
    }

    function _answerDemands(uint256 id) private {
        for (uint16 w; w < WORKERS; ++w) {
            for (uint64 c; c < 3; ++c) {
                Demand memory d = coordinator.demandOf(id, 1, w, c);
                if (!d.isOpen || _now() >= d.deadline || coordinator.roundOf(id).endedAt > 0) continue;
                _answer(_sceneAt(id), holder, w, c);
                ++calls["answer demand"];
            }
        }
    }

    // --- what anybody may do ---------------------------------------------------------------------------------------

    function _closeAll(uint256 id) private {
        vm.startPrank(stranger);
        for (uint32 i; i < coordinator.roundOf(id).numGames; ++i) {
            Game memory g = coordinator.gameOf(id, i);
            if (!g.isOpen || _isRunning(id, g)) continue;
            if (coordinator.verdictOf(id, 1, g.attempt) == Verdict.Open && g.answersTurn) _noteFall(id);
            coordinator.closeGame(id, i);
            ++calls["close game"];
        }
        for (uint16 w; w < WORKERS; ++w) {
            for (uint64 c; c < 3; ++c) {
                Demand memory d = coordinator.demandOf(id, 1, w, c);
                if (d.isOpen && _now() >= d.deadline) coordinator.closeDemand(id, 1, w, c);
            }
        }
        for (uint256 i; i < _challenges.length; ++i) {
            Record memory r = _challenges[i];
            (, uint8 attempt, uint96 bond,) = coordinator.challengeOf(r.id, r.account, r.commitment);
            if (bond == 0 || coordinator.verdictOf(r.id, 1, attempt) == Verdict.Open) continue;
            coordinator.closeChallenge(r.id, r.account, r.commitment);
            ++calls["close challenge"];
        }
        vm.stopPrank();
    }

    /// @dev Silence is about to refute the claim: it must not be the right one.
    function _noteFall(uint256 id) private {
        if (_plays[id].lie == Lie.None) honestLost = true;
        else ++calls["silence"];
    }

    function settle(uint256 seed) external observed {
        _settle(_task(seed));
    }

    function _settle(uint256 id) private {
        if (_phase(id) != Phase.Settlement) return;
        vm.prank(stranger);
        coordinator.settle(id, 9);
        ++calls["settle"];
        _closeAll(id);
    }

    /// @dev Time passes a few seconds at a time, less than any clock, and the honest ones act before and after.
    function pass(uint256 seed) external observed {
        _letPass(1 + seed % 8);
        ++calls["pass"];
    }

    function _letPass(uint256 s) private {
        uint256 n = coordinator.numTasks();
        for (uint256 id = 1; id <= n; ++id) {
            _honestAct(id);
        }
        _mine(s);
        for (uint256 id = 1; id <= n; ++id) {
            _honestAct(id);
        }
    }

    /// @dev The way out of every state, for the end of a run: all tasks are over, and every record is closed.
    function leaveNothingBehind() external observed {
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            for (uint256 i; _phase(id) != Phase.Completed; ++i) {
                vm.assertLt(i, 400);
                _settle(id);
                this.pass(6);
            }
            _closeAll(id);
            _closeAll(id);
        }
    }

    /// @dev One that is in that phase, if there is one.
    function _taskIn(uint256 seed, Phase phase) private view returns (uint256 id) {
        uint256 n = coordinator.numTasks();
        for (uint256 i; i < n; ++i) {
            id = 1 + addmod(seed, i, n);
            if (_phase(id) == phase) return id;
        }
        return _task(seed);
    }

    function _task(uint256 seed) private view returns (uint256) {
        uint256 n = coordinator.numTasks();
        return n == 0 ? 1 : 1 + seed % n;
    }
}
