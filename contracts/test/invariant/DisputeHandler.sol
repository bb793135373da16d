// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import {
    Bounds,
    Demand,
    Game,
    Member,
    Outcome,
    Phase,
    Role,
    RoundView,
    Rule,
    ServerKind,
    Target,
    Verdict,
    Windows
} from "../../src/interfaces/Types.sol";
import { ChunkTree } from "../../src/libraries/ChunkTree.sol";
import { Disputed, Scene } from "../base/Disputed.sol";
import { Tree, Trees } from "../base/Trees.sol";

/// @notice Tasks of a few rounds that everybody disputes, under every rule and every server's step, and with groups. Posters claim
/// what is right or not, some of them without bytes; a rival challenges and asks for no reason, proves its own lies, and
/// gives its games up at will. Worker 1 lies in some tasks, and nobody has the bytes of worker 2 in some rounds, though
/// validators 1 and 2 vouch for them. Worker 0, validator 0, a watcher, and a holder of everybody else's bytes do what they
/// should. A call is made only where it is promised to work, so a revert is a finding.
contract DisputeHandler is Disputed {
    using Trees for Tree;

    uint256 private constant MAX_TASKS = 4;
    uint64 private constant SMALL = 40;
    uint64 private constant CHUNKS = 3;
    uint16 private constant WORKERS = 3;
    uint256 private constant VALIDATORS = 3;
    uint256 private constant AGGREGATORS = 3;
    uint16 private constant LIAR = 1;
    uint16 private constant WITHHOLDER = 2;
    uint256 private constant SLOT_SECONDS = 10;
    /// @dev The formula of docs/protocol.md for the windows of `_setting` and a depth of at most 8.
    uint256 private constant LONGEST_ROUND = 20 + 10 + 15 + 24 + 3 * (6 * 10 + 12 + 3 * 24 + 24);

    /// @dev What a posted claim is wrong about. `Nonsense` is the root of nothing.
    enum Lie {
        None,
        Model,
        State,
        Group,
        Nonsense
    }

    /// @dev What the handler knows of a task; the trees are built anew from the seed. isWithheld, hasAsked, isProven: of
    /// the round: worker 2's bytes, the watcher's demand for them, the proof against worker 1. lie to game: of the attempt;
    /// game is one more than its number. won, winner: the last proof that was right.
    struct Play {
        bytes32 seed;
        bool isWithheld;
        bool hasAsked;
        bool isProven;
        Lie lie;
        bool isHidden;
        uint8 at;
        uint40 committedAt;
        uint32 game;
        bytes won;
        address winner;
    }

    struct Challenged {
        uint256 id;
        address account;
        bytes32 commitment;
    }

    struct Asked {
        uint256 id;
        uint16 round;
        uint16 worker;
        uint64 chunk;
    }

    mapping(uint256 id => Play) private _plays;
    mapping(uint256 id => int256[]) private _models;
    mapping(uint256 id => int256[]) private _states;
    mapping(uint256 id => mapping(uint16 round => mapping(uint8 attempt => bool))) private _isLie;
    mapping(uint256 id => uint256) private _openedAt;
    mapping(uint256 id => uint256) private _progress;
    Challenged[] private _challenges;
    Asked[] private _asked;

    mapping(uint256 id => uint256) public funded;
    /// @dev The roots that honest rounds led to.
    mapping(uint256 id => bytes32) public modelRootOf;
    mapping(uint256 id => bytes32) public stateRootOf;
    mapping(bytes32 what => uint256) public calls;
    /// @dev What the watcher has put in. It can only gain.
    uint256 public watcherIn;
    bool public wentBack;
    bool public honestLost;
    bool public tookTooLong;

    address internal holder = vm.addr(0x401DE2);

    constructor() {
        setUp();
    }

    /// @dev (round, attempt, phase) of each task only grows, no right claim was refuted, and no round lasts too long.
    modifier observed() {
        _;
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            _observe(id, coordinator.roundOf(id));
        }
    }

    function _observe(uint256 id, RoundView memory r) private {
        uint256 progress = uint256(r.round) << 16 | uint256(r.attempt) << 8 | uint8(r.phase);
        if (progress < _progress[id]) wentBack = true;
        _progress[id] = progress;
        for (uint8 a = 1; a <= r.attempt; ++a) {
            bool isRefuted = coordinator.verdictOf(id, r.round, a) == Verdict.Refuted;
            if (isRefuted && !_isLie[id][r.round][a]) honestLost = true;
        }
        bool waits = r.phase != Phase.Settlement && r.phase != Phase.Completed;
        if (waits && _now() > _openedAt[id] + LONGEST_ROUND) tookTooLong = true;
    }

    function contracts() external view returns (TrainingToken, StakeVault, TaskCoordinator, ModelRegistry) {
        return (token, vault, coordinator, registry);
    }

    function honest() external view returns (address worker, address validator, address watcher_) {
        return (_worker(0), _validator(0), watcher);
    }

    function parties() public view returns (address[] memory all) {
        all = new address[](10);
        (all[0], all[1], all[2], all[3]) = (watcher, rival, holder, requester);
        for (uint256 i; i < 3; ++i) {
            (all[4 + i], all[7 + i]) = (_worker(i), _aggregator(i));
        }
    }

    /// @notice What the open records of a task say that an account has locked as a challenger.
    function bondsOf(uint256 id, address account) external view returns (uint256 sum) {
        for (uint32 i; i < coordinator.roundOf(id).numGames; ++i) {
            Game memory g = coordinator.gameOf(id, i);
            if (g.isOpen && g.challenger == account) sum += g.bond;
        }
        for (uint256 i; i < _challenges.length; ++i) {
            if (_challenges[i].id != id || _challenges[i].account != account) continue;
            (,, uint96 bond,) = coordinator.challengeOf(id, account, _challenges[i].commitment);
            sum += bond;
        }
        for (uint256 i; i < _asked.length; ++i) {
            Demand memory d = _demandAt(_asked[i]);
            if (_asked[i].id == id && d.isOpen && d.challenger == account) sum += d.fee;
        }
    }

    // --- scenes ----------------------------------------------------------------------------------------------------

    /// @dev What a task is created with: each under another rule than those before. A rule of 3 is the mean in groups of
    /// two.
    function _setting(bytes32 seed) private view returns (Scene memory s) {
        uint256 first = uint8((coordinator.numTasks() == 0 ? seed : _plays[1].seed)[0]);
        uint8 rule = uint8((first + coordinator.numTasks()) % 4);
        // Half of them without a state.
        ServerKind server = ServerKind(seed[1] & 0x01 == 0 ? 0 : 1 + uint8(seed[4]) % 5);
        s = _sceneOf(Rule(rule % 3), server, WORKERS, SMALL, seed);
        if (rule == 3) s.p.format.groupSize = 2;
        s.p.rounds = 1 + uint8(seed[2]) % 3;
        s.p.validators = Bounds(uint16(VALIDATORS), uint16(VALIDATORS));
        s.p.windows = Windows(20, 10, 15, 15, uint32(SLOT_SECONDS), 12, 24, 24);
    }

    function _roundSeed(uint256 id) private view returns (bytes32) {
        return keccak256(abi.encode(_plays[id].seed, _round(id)));
    }

    /// @dev The current round; from its tally on with what is right to claim.
    function _sceneAt(uint256 id) private view returns (Scene memory s) {
        (s.id, s.p.format) = (id, coordinator.taskOf(id).format);
        s.model = _tree(s, ChunkTree.MODEL, _models[id]);
        if (_stateLength(s) > 0) s.state = _tree(s, ChunkTree.STATE, _states[id]);
        (s.weights, s.updates) = (new uint16[](WORKERS), new Tree[](WORKERS));
        bytes32 seed = _roundSeed(id);
        bool isTallied = coordinator.roundOf(id).tallied > 0;
        for (uint16 i; i < WORKERS; ++i) {
            int256[] memory values = _values(seed, bytes32(uint256(i)), SMALL, 1 << 14);
            if (i == LIAR && _hasLiar(id)) values[3] = -32_768;
            s.updates[i] = _tree(s, ChunkTree.UPDATE, values);
            s.weights[i] = isTallied ? _weightOf(id, i) : uint16(1 + uint256(values[0] + 1 << 14) % 10_000);
        }
        if (isTallied && _accepted(s).length > 0) _claimHonestly(s);
    }

    /// @dev The same with what stands claimed.
    function _claimedAt(uint256 id) private view returns (Scene memory s) {
        s = _sceneAt(id);
        _lieInto(s);
    }

    function _lieInto(Scene memory s) private view {
        Play storage p = _plays[s.id];
        if (p.lie == Lie.Nonsense) s.nextModel.root = keccak256(abi.encode("nonsense", p.seed));
        if (p.lie == Lie.None || p.lie == Lie.Nonsense) return;
        (Target target, uint16 group) = _aimOf(s);
        (Tree memory t, uint256 i) = (_vector(s, target, group), _liesAt(s));
        t.values[i] += t.values[i] < 0 ? int256(1) : int256(-1);
        t = _tree(s, t.shape.kind, t.values);
        if (target == Target.Group) s.groups[group] = t;
        else if (target == Target.State) s.nextState = t;
        else s.nextModel = t;
    }

    /// @dev Which value of that vector: under an adaptive server one of the coordinate's two in the state.
    function _liesAt(Scene memory s) private view returns (uint256) {
        Play storage p = _plays[s.id];
        if (p.lie != Lie.State) return p.at;
        return _stateAt(s, p.at) + (_stateLength(s) > SMALL ? p.at % 2 : 0);
    }

    /// @dev Which vector is claimed wrongly.
    function _aimOf(Scene memory s) private view returns (Target, uint16) {
        Play storage p = _plays[s.id];
        if (p.lie == Lie.Group) return (Target.Group, uint16(p.at % s.groups.length));
        return (p.lie == Lie.State ? Target.State : Target.Model, 0);
    }

    function _vector(Scene memory s, Target target, uint16 group) private pure returns (Tree memory) {
        if (target == Target.Group) return s.groups[group];
        return target == Target.State ? s.nextState : s.nextModel;
    }

    function _proofOf(Scene memory s) private view returns (bytes memory) {
        (Target target, uint16 group) = _aimOf(s);
        if (target == Target.Group) return _groupProof(s, _plays[s.id].at, group);
        s.aim = target;
        return _coordinateProof(s, _plays[s.id].at);
    }

    function _hasLiar(uint256 id) private view returns (bool) {
        return uint8(_plays[id].seed[3]) % 3 == 0;
    }

    function _revealed(uint256 id, uint16 worker) private view returns (bool) {
        Member memory m = _member(id, Role.Worker, _worker(worker));
        return m.lastRound == _round(id) && m.revealed;
    }

    function _weightOf(uint256 id, uint16 worker) private view returns (uint16) {
        return _revealed(id, worker) ? _member(id, Role.Worker, _worker(worker)).weight : 0;
    }

    function _isActive(uint256 id, Role role, address account) private view returns (bool) {
        Member memory m = _member(id, role, account);
        return m.activeFrom <= _round(id) && _round(id) < m.activeUntil;
    }

    /// @dev Whether the round rests on bytes that nobody has.
    function _isUnknown(uint256 id) private view returns (bool) {
        return _plays[id].isWithheld && _weightOf(id, WITHHOLDER) > 0;
    }

    /// @dev Whether an aggregate is posted that can still fall.
    function _stands(uint256 id) private view returns (bool) {
        RoundView memory r = coordinator.roundOf(id);
        bool isLate = r.phase == Phase.Challenge || r.phase == Phase.Dispute;
        return isLate && r.postedAt > 0 && coordinator.verdictOf(id, r.round, r.attempt) == Verdict.Open;
    }

    // --- a round up to its aggregate -------------------------------------------------------------------------------

    function create(uint256 seed) external observed {
        if (coordinator.numTasks() == MAX_TASKS) return;
        bytes32 own = keccak256(abi.encode(seed));
        Scene memory s = _setting(own);
        uint256 id = _create(s.p);
        _enrolAll(id, WORKERS, VALIDATORS, AGGREGATORS);
        (_plays[id].seed, _openedAt[id], funded[id]) = (own, _now(), s.p.reward);
        (_models[id], modelRootOf[id]) = (s.model.values, s.model.root);
        if (_stateLength(s) > 0) (_states[id], stateRootOf[id]) = (s.state.values, s.state.root);
        ++calls["create"];
        _play(id);
    }

    function play(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Commit);
        if (_phase(id) == Phase.Commit) _play(id);
    }

    function _play(uint256 id) private {
        Play storage p = _plays[id];
        bytes32 seed = _roundSeed(id);
        (p.isWithheld, p.hasAsked, p.isProven) = (uint8(seed[0]) % 3 == 0, false, false);
        Scene memory s = _sceneAt(id);
        if (!_submit(s)) return;
        _disputeUpdates(s, seed);
        _score(s);
        while (_phase(id) == Phase.Answer) {
            _letPass(4);
        }
        _tallyAll(id);
        ++calls[_round(id) > 1 ? bytes32("later round") : bytes32("first round")];
    }

    /// @return whether anybody is left to submit something.
    function _submit(Scene memory s) private returns (bool) {
        uint16 round = _round(s.id);
        for (uint16 i; i < WORKERS; ++i) {
            if (!_isActive(s.id, Role.Worker, _worker(i))) continue;
            bytes32 commitment = _updateCommitment(s.id, round, _worker(i), _treeUpdate(s, i));
            vm.prank(_worker(i));
            coordinator.commitUpdate(s.id, round, commitment);
        }
        if (_phase(s.id) == Phase.Commit) return false;
        for (uint16 i; i < WORKERS; ++i) {
            if (_isActive(s.id, Role.Worker, _worker(i))) _revealUpdate(s.id, round, _worker(i), _treeUpdate(s, i));
        }
        return true;
    }

    /// @dev Before the scores: a demand that is answered, one that nobody can answer, and a proof.
    function _disputeUpdates(Scene memory s, bytes32 seed) private {
        if (uint8(seed[1]) % 4 == 0) _demandAs(rival, s.id, 0, 1);
        if (_plays[s.id].isWithheld && uint8(seed[2]) % 2 == 0) _ask(s.id);
        if (_hasLiar(s.id) && uint8(seed[3]) % 2 == 0) _refuteLiar(s);
    }

    /// @dev The honest validator does not vouch for what it could not fetch.
    function _score(Scene memory s) private {
        bytes[] memory votes = new bytes[](VALIDATORS);
        for (uint256 v; v < VALIDATORS; ++v) {
            if (!_isActive(s.id, Role.Validator, _validator(v))) continue;
            votes[v] = _votes(s);
            if (v > 0 || !_plays[s.id].isWithheld) continue;
            (votes[v][4 * WITHHOLDER], votes[v][4 * WITHHOLDER + 1]) = (0xff, 0xff);
            (votes[v][4 * WITHHOLDER + 2], votes[v][4 * WITHHOLDER + 3]) = (0, 0);
        }
        _scores(s.id, votes);
    }

    // --- posters ---------------------------------------------------------------------------------------------------

    function post(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Aggregate);
        if (_phase(id) != Phase.Aggregate) return;
        _mine(0);
        address poster = _posterAt(id, seed);
        if (poster == address(0)) return;
        Scene memory s = _sceneAt(id);
        _decide(s, seed);
        _lieInto(s);
        // In the open window a commitment comes first; in a slot it is not read.
        _commitClaim(id, poster, _claim(s), SALT);
        _mine(0);
        _postClaim(id, poster, _claim(s), SALT);
    }

    /// @dev The holder of the slot, or in the open window anybody who was not refuted in the round; 0 if there is none.
    function _posterAt(uint256 id, uint256 seed) private returns (address poster) {
        RoundView memory r = coordinator.roundOf(id);
        uint256 slot = (_now() - r.aggregateStart) / SLOT_SECONDS;
        if (slot >= r.numSlots) {
            poster = _aggregator((seed >> 24) % AGGREGATORS);
            if (coordinator.isExcluded(id, r.round, poster)) return address(0);
        } else {
            if (!r.orderDrawn) coordinator.drawOrder(id);
            r = coordinator.roundOf(id);
            if (!r.orderDrawn) return address(0);
            poster = r.order[slot];
        }
        uint256 bond = uint256(BOND) << (r.attempt - 1);
        if (poster != address(0) && vault.freeOf(poster) < bond) _fund(poster, bond);
    }

    /// @dev What the next claim is wrong about, and whether anybody gets its bytes.
    function _decide(Scene memory s, uint256 seed) private {
        Play storage p = _plays[s.id];
        uint256 lie = (seed >> 8) % 8;
        p.lie = lie < 5 ? Lie(lie) : lie == 5 ? Lie.Group : Lie.None;
        if (p.lie == Lie.State && _stateLength(s) == 0) p.lie = Lie.Group;
        if (p.lie == Lie.Group && s.groups.length == 0) {
            p.lie = _stateLength(s) > 0 ? Lie.State : Lie.Model;
        }
        p.isHidden = p.lie == Lie.Nonsense || (p.lie != Lie.None && seed >> 16 & 1 == 1);
        (p.at, p.committedAt, p.game) = (uint8((seed >> 32) % SMALL), 0, 0);
        RoundView memory r = coordinator.roundOf(s.id);
        _isLie[s.id][r.round][r.attempt] = p.lie != Lie.None;
        ++calls[p.lie == Lie.None ? bytes32("honest post") : bytes32("lying post")];
        if (r.attempt > 1) ++calls["next attempt"];
    }

    /// @dev A liar with the bytes answers when it likes, three times in four; one without cannot.
    function liarAnswers(uint256 seed) external observed {
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            Lie lie = _plays[id].lie;
            if (lie != Lie.None && lie != Lie.Nonsense) _answerGames(id, seed | seed >> 1);
        }
    }

    // --- the rival -------------------------------------------------------------------------------------------------

    /// @dev A proof of what is right, or of nothing: sent first, it takes nobody's place.
    function losingProof(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        if (_phase(id) != Phase.Challenge) return;
        bytes memory proof = abi.encode(seed);
        if (seed >> 8 & 1 == 0) {
            proof = _coordinateProof(_claimedAt(id), (_plays[id].at + 1 + (seed >> 16) % (SMALL - 1)) % SMALL);
        }
        if (_bondOf(id, rival, proof) > 0) return;
        _commitTo(id, rival, proof);
        _mine(0);
        _fails(rival, _proveCall(id, proof));
        ++calls["losing proof"];
    }

    /// @dev The cheater proves itself wrong, to keep half of its bond.
    function refuteOwnLie(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        Play storage p = _plays[id];
        if (_phase(id) != Phase.Challenge || p.lie == Lie.None || p.lie == Lie.Nonsense) return;
        bool isRace = p.committedAt == 0 && p.game == 0 && seed >> 8 & 1 == 1;
        if (isRace) _watch(id);
        bytes memory proof = _proofOf(_claimedAt(id));
        _commitTo(id, rival, proof);
        _mine(0);
        _prove(id, rival, proof);
        (p.won, p.winner) = (proof, rival);
        ++calls["own lie refuted"];
        if (p.committedAt > 0 || p.game > 0) ++calls["watcher came second"];
    }

    /// @dev A proof that won says nothing about the next attempt.
    function replay(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        Play storage p = _plays[id];
        // The very same lie may have been told again.
        if (p.won.length == 0 || !_stands(id) || _bondOf(id, p.winner, p.won) > 0) return;
        RoundView memory r = coordinator.roundOf(id);
        for (uint8 a = 1; a <= r.attempt; ++a) {
            _fails(p.winner, abi.encodeCall(coordinator.proveAggregate, (id, r.round, a, p.won, SALT)));
        }
        ++calls["replay"];
    }

    function uselessGame(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        if (_phase(id) != Phase.Challenge) return;
        Scene memory s = _claimedAt(id);
        (Target target, uint16 group) = (Target((seed >> 8) % 3), 0);
        if (target == Target.State && _stateLength(s) == 0) target = Target.Model;
        if (target == Target.Group && s.groups.length == 0) target = Target.Model;
        if (target == Target.Group) group = uint16((seed >> 16) % s.groups.length);
        // At times the first of a task is a flood: more at once than open for the bond alone.
        uint256 count = seed >> 24 & 3 == 0 && coordinator.roundOf(id).numGames == 0 ? 17 : 1;
        for (uint256 i; i < count; ++i) {
            _openGame(s, rival, target, group, keccak256(abi.encode(seed, i)));
        }
        ++calls[count == 1 ? bytes32("useless game") : bytes32("flood of games")];
    }

    /// @dev Sometimes the rival goes on with a game of its own; otherwise its silence loses.
    function pointSomewhere(uint256 seed) external observed {
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            for (uint32 i; i < coordinator.roundOf(id).numGames; ++i) {
                Game memory g = coordinator.gameOf(id, i);
                bool isDue = _isRunning(id, g) && !g.answersTurn && g.challenger == rival && g.height > 0;
                if (!isDue || seed >> (i % 200) & 1 == 0) continue;
                _point(_claimedAt(id), rival, i, (seed >> 40) % CHUNKS);
                ++calls["point"];
            }
        }
    }

    function demand(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Challenge);
        Phase phase = _phase(id);
        uint16 worker = uint16((seed >> 8) % WORKERS);
        if ((phase != Phase.Aggregate && phase != Phase.Challenge) || _weightOf(id, worker) == 0) return;
        _demandAs(rival, id, worker, uint64((seed >> 16) % CHUNKS));
    }

    // --- the honest ones: they act whenever time is about to pass --------------------------------------------------

    /// @dev One step of the watcher in a task, before anybody else moves.
    function watch(uint256 seed) external observed {
        _watch(_task(seed));
    }

    /// @dev The watcher recomputes; with the bytes it proves, without them it opens a game and plays it.
    function _watch(uint256 id) private {
        if (_plays[id].lie == Lie.None || !_stands(id) || _isUnknown(id)) return;
        if (_plays[id].isHidden) _playGame(id);
        else _challengeLie(id);
    }

    function _challengeLie(uint256 id) private {
        Play storage p = _plays[id];
        if (p.committedAt == vm.getBlockNumber()) return;
        Scene memory s = _claimedAt(id);
        bytes memory proof = _proofOf(s);
        if (p.committedAt == 0) {
            watcherIn += CHALLENGER_BOND;
            _commitTo(id, watcher, proof);
            p.committedAt = uint40(vm.getBlockNumber());
        } else {
            _prove(id, watcher, proof);
            (p.won, p.winner) = (proof, watcher);
            ++calls[_named(p.lie, "model proof", "state proof", "group proof")];
            if (p.lie == Lie.State && _stateLength(s) > SMALL) ++calls["proof of a moment"];
        }
    }

    function _playGame(uint256 id) private {
        Play storage p = _plays[id];
        if (p.game > 0) {
            _playOn(id, p.game - 1);
            return;
        }
        Scene memory s = _sceneAt(id);
        (Target target, uint16 group) = _aimOf(s);
        bytes32 own = _vector(s, target, group).root;
        _lieInto(s);
        watcherIn += _gameBond(coordinator.roundOf(id).games);
        p.game = 1 + _openGame(s, watcher, target, group, own);
        ++calls[_named(p.lie, "model game", "state game", "group game")];
    }

    function _playOn(uint256 id, uint32 gameId) private {
        Game memory g = coordinator.gameOf(id, gameId);
        if (!_isRunning(id, g) || g.answersTurn) return;
        Scene memory s = _claimedAt(id);
        if (g.height > 0) {
            _point(s, watcher, gameId, _liesAt(s) / CHUNK);
            return;
        }
        bytes memory proof = _proofOf(s);
        _announce(id, watcher, proof);
        vm.prank(watcher);
        coordinator.proveInGame(id, gameId, proof, SALT);
        ++calls["proof in game"];
    }

    function _named(Lie lie, bytes32 model, bytes32 state, bytes32 group) private pure returns (bytes32) {
        if (lie == Lie.State) return state;
        return lie == Lie.Group ? group : model;
    }

    /// @dev The watcher asks for what it cannot fetch: once a round, for a chunk that nobody else asked for.
    function _ask(uint256 id) private {
        Play storage p = _plays[id];
        for (uint64 c; c < CHUNKS && !p.hasAsked; ++c) {
            uint256 before = vault.lockOf(id, Role.Challenger, watcher);
            _demandAs(watcher, id, WITHHOLDER, c);
            p.hasAsked = vault.lockOf(id, Role.Challenger, watcher) > before;
        }
    }

    function _askLate(uint256 id) private {
        Phase phase = _phase(id);
        if ((phase == Phase.Aggregate || phase == Phase.Challenge) && _isUnknown(id)) _ask(id);
    }

    /// @dev Against worker 1, whenever it may come: before the tally it takes the weight, afterwards the stake alone.
    function refuteUpdate(uint256 seed) external observed {
        uint256 id = _task(seed);
        Phase phase = _phase(id);
        bool isTime = phase == Phase.Aggregate || phase == Phase.Challenge || phase == Phase.Dispute;
        if (isTime && _hasLiar(id)) _refuteLiar(_sceneAt(id));
    }

    function _refuteLiar(Scene memory s) private {
        if (_plays[s.id].isProven || !_revealed(s.id, LIAR)) return;
        _refuteUpdate(s.id, watcher, _updateProof(s, LIAR, 0));
        _plays[s.id].isProven = true;
        ++calls[s.nextModel.depth == 0 ? bytes32("update refuted early") : bytes32("update refuted late")];
    }

    function _answerGames(uint256 id, uint256 which) private {
        if (!_stands(id)) return;
        for (uint32 i; i < coordinator.roundOf(id).numGames; ++i) {
            Game memory g = coordinator.gameOf(id, i);
            if (!_isRunning(id, g) || !g.answersTurn || which >> (i % 200) & 1 == 0) continue;
            _answerGame(_claimedAt(id), holder, i);
            ++calls["answer"];
        }
    }

    /// @dev All but what nobody has.
    function _answerDemands() private {
        for (uint256 i; i < _asked.length; ++i) {
            Asked memory a = _asked[i];
            Demand memory d = _demandAt(a);
            RoundView memory r = coordinator.roundOf(a.id);
            bool isKnown = a.worker != WITHHOLDER || !_plays[a.id].isWithheld;
            bool isDue = d.isOpen && _now() < d.deadline && r.round == a.round && r.endedAt == 0;
            if (!isDue || !isKnown) continue;
            _answer(_sceneAt(a.id), holder, a.worker, a.chunk);
            ++calls["demand answered"];
        }
    }

    // --- what anybody may do ---------------------------------------------------------------------------------------

    function _closeGames(uint256 id) private {
        for (uint32 i; i < coordinator.roundOf(id).numGames; ++i) {
            Game memory g = coordinator.gameOf(id, i);
            if (!g.isOpen || _isRunning(id, g)) continue;
            bool isDecided = coordinator.verdictOf(id, g.round, g.attempt) != Verdict.Open;
            vm.prank(stranger);
            coordinator.closeGame(id, i);
            if (isDecided) ++calls["game over"];
            else ++calls[g.answersTurn ? bytes32("poster silent") : bytes32("challenger silent")];
        }
    }

    function _closeChallenges() private {
        for (uint256 i = _challenges.length; i > 0; --i) {
            Challenged memory c = _challenges[i - 1];
            (uint16 round, uint8 attempt, uint96 bond,) = coordinator.challengeOf(c.id, c.account, c.commitment);
            if (bond > 0 && coordinator.verdictOf(c.id, round, attempt) == Verdict.Open) continue;
            if (bond > 0) {
                vm.prank(stranger);
                coordinator.closeChallenge(c.id, c.account, c.commitment);
            }
            _challenges[i - 1] = _challenges[_challenges.length - 1];
            _challenges.pop();
        }
    }

    function _closeDemands() private {
        for (uint256 i = _asked.length; i > 0; --i) {
            Asked memory a = _asked[i - 1];
            Demand memory d = _demandAt(a);
            if (d.isOpen && _now() < d.deadline) continue;
            if (d.isOpen) {
                vm.prank(stranger);
                coordinator.closeDemand(a.id, a.round, a.worker, a.chunk);
                ++calls[d.isLate ? bytes32("late demand unanswered") : bytes32("early demand unanswered")];
            }
            _asked[i - 1] = _asked[_asked.length - 1];
            _asked.pop();
        }
    }

    function settle(uint256 seed) external observed {
        uint256 id = _taskIn(seed, Phase.Settlement);
        if (_phase(id) != Phase.Settlement) return;
        _settle(id);
        if (_phase(id) == Phase.Commit && seed >> 8 & 7 > 0) _play(id);
    }

    /// @dev Remembers the model that the round should have led to, if it led to another one at all.
    function _settle(uint256 id) private {
        RoundView memory r = coordinator.roundOf(id);
        Scene memory s = _sceneAt(id);
        vm.prank(stranger);
        coordinator.settle(id, WORKERS);
        _openedAt[id] = _now();
        RoundView memory after_ = coordinator.roundOf(id);
        if (after_.modelRoot == r.modelRoot && after_.stateRoot == r.stateRoot) {
            ++calls[r.outcome == Outcome.Withheld ? bytes32("withheld round") : bytes32("void round")];
            return;
        }
        (_models[id], modelRootOf[id]) = (s.nextModel.values, s.nextModel.root);
        if (_stateLength(s) > 0) (_states[id], stateRootOf[id]) = (s.nextState.values, s.nextState.root);
        ++calls["final round"];
    }

    /// @dev Time passes from clock to clock, so that nobody is late, and everybody acts before and after.
    function pass(uint256 seed) external observed {
        _letPass(1 + seed % 12);
        ++calls["pass"];
    }

    function _letPass(uint256 s) private {
        uint256 end = _now() + s;
        _everybodyActs();
        while (_now() < end) {
            _mineAt(_nextClock(end));
            _everybodyActs();
        }
    }

    function _everybodyActs() private {
        uint256 n = coordinator.numTasks();
        for (uint256 id = 1; id <= n; ++id) {
            _watch(id);
            _askLate(id);
            if (_plays[id].lie == Lie.None) _answerGames(id, type(uint256).max);
            _closeGames(id);
        }
        _answerDemands();
        _closeDemands();
        _closeChallenges();
    }

    /// @dev The first end of a phase, of a game's move or of a demand, but at most `end`.
    function _nextClock(uint256 end) private view returns (uint256 next) {
        next = end;
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            RoundView memory r = coordinator.roundOf(id);
            next = _earlier(next, r.phaseEnd);
            for (uint32 i; i < r.numGames; ++i) {
                Game memory g = coordinator.gameOf(id, i);
                if (g.isOpen) next = _earlier(next, g.deadline);
            }
        }
        for (uint256 i; i < _asked.length; ++i) {
            next = _earlier(next, _demandAt(_asked[i]).deadline);
        }
    }

    function _earlier(uint256 next, uint256 clock) private view returns (uint256) {
        return clock > _now() && clock < next ? clock : next;
    }

    /// @dev The way out of every state, for the end of a run: all tasks are over, and every record is closed.
    function leaveNothingBehind() external observed {
        for (uint256 id = 1; id <= coordinator.numTasks(); ++id) {
            for (uint256 i; _phase(id) != Phase.Completed; ++i) {
                vm.assertLt(i, 300);
                if (_phase(id) == Phase.Settlement) _settle(id);
                else this.pass(11);
            }
        }
        // The longest clock of all.
        _letPass(24);
    }

    // --- calls and records -----------------------------------------------------------------------------------------

    function _isRunning(uint256 id, Game memory g) private view returns (bool) {
        bool open = g.isOpen && coordinator.verdictOf(id, g.round, g.attempt) == Verdict.Open;
        return open && _now() < g.deadline;
    }

    function _demandAt(Asked memory a) private view returns (Demand memory) {
        return coordinator.demandOf(a.id, a.round, a.worker, a.chunk);
    }

    function _demandAs(address account, uint256 id, uint16 worker, uint64 c) private {
        uint16 round = _round(id);
        bool isTaken = coordinator.demandOf(id, round, worker, c).challenger != address(0);
        if (isTaken || !_revealed(id, worker)) return;
        if (account == watcher) watcherIn += 1000 * uint256(DEMAND_FEE);
        _demand(id, account, worker, c);
        _asked.push(Asked(id, round, worker, c));
        ++calls["demand"];
    }

    function _commitTo(uint256 id, address account, bytes memory proof) private {
        _challenges.push(Challenged(id, account, _challenge(id, account, proof)));
    }

    /// @dev Of a commitment to that proof against the attempt that stands; 0 if there is none.
    function _bondOf(uint256 id, address account, bytes memory proof) private view returns (uint96 bond) {
        (,, bond,) = coordinator.challengeOf(id, account, _challengeCommitment(id, account, proof));
    }

    function _fails(address caller, bytes memory call_) private {
        vm.prank(caller);
        (bool ok,) = address(coordinator).call(call_);
        vm.assertFalse(ok, "it worked");
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
