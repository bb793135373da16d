// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IERC20 } from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { StakeVault } from "../../src/StakeVault.sol";
import { TaskCoordinator } from "../../src/TaskCoordinator.sol";
import { TrainingToken } from "../../src/TrainingToken.sol";
import { IStakeVault } from "../../src/interfaces/IStakeVault.sol";
import {
    Bounds,
    Cid,
    Claim,
    Economics,
    Format,
    Member,
    Phase,
    Role,
    RoundView,
    Rule,
    ServerKind,
    TaskParams,
    Windows
} from "../../src/interfaces/Types.sol";
import { Test } from "./Test.sol";

/// @notice The four contracts, deployed to predicted addresses as a deployment does it, with the parameters of the
/// protocol's defaults and a cast of funded accounts.
abstract contract Deployed is Test {
    uint40 internal constant UNBONDING = 7 days;
    uint256 internal constant START = 1_000_000;
    uint96 internal constant WORKER_STAKE = 100 ether;
    uint96 internal constant VALIDATOR_STAKE = 300 ether;
    uint96 internal constant BOND = 200 ether;
    uint96 internal constant SLOT_FEE = 5 ether;
    uint96 internal constant CHALLENGER_BOND = 50 ether;
    uint96 internal constant DEMAND_FEE = 2 ether;
    uint128 internal constant REWARD = 1000 ether;

    uint32 internal constant COMMIT = 600;
    uint32 internal constant REVEAL = 300;
    uint32 internal constant SCORE_COMMIT = 601;
    uint32 internal constant SCORE_REVEAL = 301;
    uint32 internal constant SLOT = 302;
    uint32 internal constant CHALLENGE = 900;
    uint32 internal constant ANSWER = 303;
    uint32 internal constant PROOF = 602;

    bytes32 internal constant GENESIS = keccak256("genesis");
    address internal constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    address internal requester = vm.addr(0xABC);
    address internal stranger = vm.addr(0xDEF);

    TrainingToken internal token;
    StakeVault internal vault;
    TaskCoordinator internal coordinator;
    ModelRegistry internal registry;

    function setUp() public virtual {
        vm.warp(START);
        vm.roll(1000);
        token = new TrainingToken(1e9 ether, 0, 1, 1);
        uint64 nonce = vm.getNonce(address(this));
        address predicted = vm.computeCreateAddress(address(this), nonce + 1);
        vault = new StakeVault(IERC20(address(token)), predicted, UNBONDING);
        coordinator = new TaskCoordinator(address(vault), vm.computeCreateAddress(address(this), nonce + 2));
        registry = new ModelRegistry(address(coordinator));
        _fund(requester, 10 * uint256(REWARD));
    }

    // ---------------------------------------------------------------------------------------------
    // The cast
    // ---------------------------------------------------------------------------------------------

    function _worker(uint256 i) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("worker", i)))));
    }

    function _validator(uint256 i) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("validator", i)))));
    }

    function _aggregator(uint256 i) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("aggregator", i)))));
    }

    /// @dev Adds to an account's free balance.
    function _fund(address account, uint256 amount) internal {
        token.transfer(account, amount);
        vm.startPrank(account);
        token.approve(address(vault), amount);
        vault.deposit(amount);
        vm.stopPrank();
    }

    // ---------------------------------------------------------------------------------------------
    // Time
    // ---------------------------------------------------------------------------------------------

    function _now() internal view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    /// @dev The next block, at a given time.
    function _mineAt(uint256 timestamp) internal {
        uint256 number = vm.getBlockNumber();
        vm.roll(number + 1);
        vm.setBlockhash(number, keccak256(abi.encode("block", number)));
        vm.warp(timestamp);
    }

    /// @dev The next block, some seconds later.
    function _mine(uint256 s) internal {
        _mineAt(_now() + s);
    }

    /// @dev To the very second in which the current phase is over.
    function _endPhase(uint256 id) internal {
        (, uint40 end) = coordinator.phaseOf(id);
        _mineAt(end);
    }

    // ---------------------------------------------------------------------------------------------
    // Tasks
    // ---------------------------------------------------------------------------------------------

    function _windows() internal pure returns (Windows memory) {
        return Windows(COMMIT, REVEAL, SCORE_COMMIT, SCORE_REVEAL, SLOT, CHALLENGE, ANSWER, PROOF);
    }

    function _economics() internal pure returns (Economics memory e) {
        (e.workerStake, e.validatorStake, e.aggregatorBond, e.slotFee) = (WORKER_STAKE, VALIDATOR_STAKE, BOND, SLOT_FEE);
        (e.workersBps, e.validatorsBps, e.aggregatorBps, e.baseBps) = (7000, 2000, 1000, 3000);
        (e.workerSlashBps, e.validatorSlashBps) = (2000, 1000);
        (e.challengerBond, e.demandFee) = (CHALLENGER_BOND, DEMAND_FEE);
        (e.rangeSlashBps, e.withheldSlashBps, e.vouchSlashBps) = (10_000, 5000, 5000);
    }

    function _format() internal pure returns (Format memory) {
        return Format({
            numParams: 10_000,
            chunkParams: 256,
            modelScaleBits: 20,
            updateScaleBits: 14,
            stepNum: 1,
            stepDen: 1,
            maxSquaredNorm: 1e12,
            groupSize: 64,
            rule: Rule.Mean,
            trimNum: 0,
            trimDen: 0,
            momentumNum: 0,
            momentumDen: 0,
            server: ServerKind.Plain,
            secondNum: 0,
            secondDen: 0,
            tau: 0
        });
    }

    /// @dev The usual parameters of that kind of server.
    function _serve(TaskParams memory p, ServerKind server) internal pure {
        Format memory f = p.format;
        f.server = server;
        if (server != ServerKind.Plain) (f.momentumNum, f.momentumDen) = (9, 10);
        if (server == ServerKind.Adam || server == ServerKind.Yogi) (f.secondNum, f.secondDen) = (99, 100);
        if (server >= ServerKind.Adagrad) (f.stepNum, f.stepDen, f.tau) = (1, 10, 16_777);
    }

    /// @dev A task of two rounds for exactly as many members as given.
    function _params(uint16 workers, uint16 validators, uint16 aggregators)
        internal
        view
        returns (TaskParams memory p)
    {
        p.specHash = keccak256("spec");
        p.genesisRoot = GENESIS;
        p.genesisCid = Cid(keccak256("genesis cid"), 0x55);
        p.genesisFloatCid = Cid(keccak256("genesis float cid"), 0x70);
        p.rounds = 2;
        p.enrolmentEnd = uint40(_now() + 1 days);
        p.reward = REWARD;
        p.workers = Bounds(workers, workers);
        p.validators = Bounds(validators, validators);
        p.aggregators = Bounds(aggregators, aggregators);
        (p.format, p.windows, p.economics) = (_format(), _windows(), _economics());
        p.licence = "Apache-2.0";
    }

    function _create(TaskParams memory p) internal returns (uint256) {
        vm.prank(requester);
        return coordinator.createTask(p);
    }

    function _enrol(uint256 id, Role role, address account, uint96 stake) internal {
        _fund(account, role == Role.Aggregator ? BOND : stake);
        vm.prank(account);
        coordinator.enrol(id, role, stake);
    }

    /// @dev Members 0 to n-1 of each role, with the required stakes.
    function _enrolAll(uint256 id, uint256 workers, uint256 validators, uint256 aggregators) internal {
        for (uint256 i; i < workers; ++i) {
            _enrol(id, Role.Worker, _worker(i), WORKER_STAKE);
        }
        for (uint256 i; i < validators; ++i) {
            _enrol(id, Role.Validator, _validator(i), VALIDATOR_STAKE);
        }
        for (uint256 i; i < aggregators; ++i) {
            _enrol(id, Role.Aggregator, _aggregator(i), 0);
        }
    }

    /// @dev A task whose first round is open.
    function _started(uint16 workers, uint16 validators, uint16 aggregators) internal returns (uint256 id) {
        id = _create(_params(workers, validators, aggregators));
        _enrolAll(id, workers, validators, aggregators);
    }

    // ---------------------------------------------------------------------------------------------
    // Updates
    // ---------------------------------------------------------------------------------------------

    struct Update {
        bytes32 root;
        Cid cid;
        uint64 squaredNorm;
        uint32 numExamples;
        bytes32 salt;
    }

    function _update(address worker, uint16 round) internal pure returns (Update memory) {
        bytes32 seed = keccak256(abi.encode("update", worker, round));
        return
            Update(seed, Cid(keccak256(abi.encode(seed, "cid")), 0x55), 1e6, 128, keccak256(abi.encode(seed, "salt")));
    }

    function _updateCommitment(uint256 id, uint16 round, address worker, Update memory u)
        internal
        view
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                block.chainid,
                address(coordinator),
                id,
                round,
                worker,
                u.root,
                u.cid.digest,
                u.cid.codec,
                u.squaredNorm,
                u.numExamples,
                u.salt
            )
        );
    }

    function _round(uint256 id) internal view returns (uint16) {
        return coordinator.roundOf(id).round;
    }

    function _commit(uint256 id, address worker) internal {
        uint16 round = _round(id);
        bytes32 commitment = _updateCommitment(id, round, worker, _update(worker, round));
        vm.prank(worker);
        coordinator.commitUpdate(id, round, commitment);
    }

    function _reveal(uint256 id, address worker) internal {
        uint16 round = _round(id);
        _revealUpdate(id, round, worker, _update(worker, round));
    }

    function _revealUpdate(uint256 id, uint16 round, address worker, Update memory u) internal {
        vm.prank(worker);
        coordinator.revealUpdate(id, round, u.root, u.cid, u.squaredNorm, u.numExamples, u.salt);
    }

    /// @dev Workers 0 to n-1; Commit ends early when they are all that are eligible.
    function _commitAll(uint256 id, uint256 n) internal {
        for (uint256 i; i < n; ++i) {
            _commit(id, _worker(i));
        }
    }

    function _revealAll(uint256 id, uint256 n) internal {
        for (uint256 i; i < n; ++i) {
            _reveal(id, _worker(i));
        }
    }

    /// @dev From Commit to ScoreCommit: workers 0 to n-1 commit and reveal, whoever else there is does not.
    function _updates(uint256 id, uint256 n) internal {
        _commitAll(id, n);
        if (_phase(id) == Phase.Commit) _endPhase(id);
        _revealAll(id, n);
        if (_phase(id) == Phase.Reveal) _endPhase(id);
    }

    // ---------------------------------------------------------------------------------------------
    // Scores
    // ---------------------------------------------------------------------------------------------

    uint16 internal constant ABSTAIN = type(uint16).max;

    struct Vote {
        uint16 weight;
        uint16 score;
    }

    function _pack(Vote[] memory votes) internal pure returns (bytes memory packed) {
        for (uint256 i; i < votes.length; ++i) {
            packed = abi.encodePacked(packed, votes[i].weight, votes[i].score);
        }
    }

    /// @dev The same vote for n workers.
    function _same(uint256 n, uint16 weight, uint16 score) internal pure returns (bytes memory) {
        Vote[] memory votes = new Vote[](n);
        for (uint256 i; i < n; ++i) {
            votes[i] = Vote(weight, score);
        }
        return _pack(votes);
    }

    function _scoreSalt(address validator, uint16 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("score salt", validator, round));
    }

    function _scoresCommitment(uint256 id, uint16 round, address validator, bytes memory votes)
        internal
        view
        returns (bytes32)
    {
        bytes32 salt = _scoreSalt(validator, round);
        return keccak256(abi.encode(block.chainid, address(coordinator), id, round, validator, keccak256(votes), salt));
    }

    function _commitScores(uint256 id, address validator, bytes memory votes) internal {
        uint16 round = _round(id);
        bytes32 commitment = _scoresCommitment(id, round, validator, votes);
        vm.prank(validator);
        coordinator.commitScores(id, round, commitment);
    }

    function _revealScores(uint256 id, address validator, bytes memory votes) internal {
        uint16 round = _round(id);
        vm.prank(validator);
        coordinator.revealScores(id, round, votes, _scoreSalt(validator, round));
    }

    /// @dev From ScoreCommit to Tally: validator i votes `votes[i]`; an empty entry does nothing.
    function _scores(uint256 id, bytes[] memory votes) internal {
        for (uint256 i; i < votes.length; ++i) {
            if (votes[i].length > 0) _commitScores(id, _validator(i), votes[i]);
        }
        if (_phase(id) == Phase.ScoreCommit) _endPhase(id);
        for (uint256 i; i < votes.length; ++i) {
            if (votes[i].length > 0) _revealScores(id, _validator(i), votes[i]);
        }
        if (_phase(id) == Phase.ScoreReveal) _endPhase(id);
    }

    /// @dev Validators 0 to n-1 vote alike.
    function _scoresAlike(uint256 id, uint256 n, bytes memory votes) internal {
        bytes[] memory all = new bytes[](n);
        for (uint256 i; i < n; ++i) {
            all[i] = votes;
        }
        _scores(id, all);
    }

    /// @dev From Commit to Aggregate: n workers accepted in full by m validators.
    function _toAggregate(uint256 id, uint256 n, uint256 m) internal {
        _updates(id, n);
        _scoresAlike(id, m, _same(coordinator.roundOf(id).numWorkers, 10_000, 2000));
        _tallyAll(id);
    }

    // ---------------------------------------------------------------------------------------------
    // Tally, aggregate, settlement
    // ---------------------------------------------------------------------------------------------

    function _phase(uint256 id) internal view returns (Phase phase) {
        (phase,) = coordinator.phaseOf(id);
    }

    function _assertPhase(uint256 id, Phase expected) internal view {
        vm.assertEq(uint256(_phase(id)), uint256(expected), "phase");
    }

    function _tallyAll(uint256 id) internal {
        coordinator.tally(id, type(uint16).max);
    }

    function _settleAll(uint256 id) internal {
        coordinator.settle(id, type(uint16).max);
    }

    function _modelRoot(uint16 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("model", round));
    }

    /// @dev Without state and groups.
    function _claimOf(bytes32 modelRoot) internal pure returns (Claim memory claim) {
        claim.modelRoot = modelRoot;
    }

    function _aggregateCid(uint16 round) internal pure returns (Cid memory) {
        return Cid(keccak256(abi.encode("model cid", round)), 0x70);
    }

    function _floatCid(uint16 round) internal pure returns (Cid memory) {
        return Cid(keccak256(abi.encode("float cid", round)), 0x55);
    }

    function _post(uint256 id, address aggregator) internal {
        _post(id, aggregator, 0);
    }

    function _post(uint256 id, address aggregator, bytes32 salt) internal {
        _postClaim(id, aggregator, _claimOf(_modelRoot(_round(id))), salt);
    }

    function _postClaim(uint256 id, address aggregator, Claim memory claim, bytes32 salt) internal {
        uint16 round = _round(id);
        vm.prank(aggregator);
        coordinator.postAggregate(id, round, claim, _aggregateCid(round), _floatCid(round), salt);
    }

    function _aggregateCommitment(uint256 id, uint16 round, address aggregator, bytes32 salt)
        internal
        view
        returns (bytes32)
    {
        return _claimCommitment(id, round, aggregator, _claimOf(_modelRoot(round)), salt);
    }

    /// @dev For the attempt that is current.
    function _claimCommitment(uint256 id, uint16 round, address aggregator, Claim memory claim, bytes32 salt)
        internal
        view
        returns (bytes32)
    {
        bytes32 claimHash = keccak256(abi.encode(claim));
        uint8 attempt = coordinator.roundOf(id).attempt;
        return
            keccak256(abi.encode(block.chainid, address(coordinator), id, round, attempt, aggregator, claimHash, salt));
    }

    function _commitAggregate(uint256 id, address aggregator, bytes32 salt) internal {
        _commitClaim(id, aggregator, _claimOf(_modelRoot(_round(id))), salt);
    }

    function _commitClaim(uint256 id, address aggregator, Claim memory claim, bytes32 salt) internal {
        uint16 round = _round(id);
        bytes32 commitment = _claimCommitment(id, round, aggregator, claim, salt);
        vm.prank(aggregator);
        coordinator.commitAggregate(id, round, commitment);
    }

    /// @dev Draws the order and gives it.
    function _draw(uint256 id) internal returns (address[3] memory) {
        _mine(1);
        coordinator.drawOrder(id);
        return coordinator.roundOf(id).order;
    }

    /// @dev From Aggregate to Settlement: the first slot's holder posts.
    function _finalise(uint256 id) internal {
        _post(id, _draw(id)[0]);
        _endPhase(id);
    }

    /// @dev A whole final round with n workers and m validators.
    function _finalRound(uint256 id, uint256 n, uint256 m) internal {
        _toAggregate(id, n, m);
        _finalise(id);
        _settleAll(id);
    }

    // ---------------------------------------------------------------------------------------------
    // What must hold
    // ---------------------------------------------------------------------------------------------

    function _member(uint256 id, Role role, address account) internal view returns (Member memory) {
        return coordinator.memberOf(id, role, account);
    }

    /// @dev paid + refunded + burned = escrow, to the wei, and nothing is left.
    function _assertEscrowSpent(uint256 id, uint256 paid, uint256 refunded, uint256 burned) internal view {
        IStakeVault.Escrow memory e = vault.escrowOf(id);
        vm.assertEq(e.balance, 0, "escrow left");
        vm.assertEq(e.paid, paid, "paid");
        vm.assertEq(e.refunded, refunded, "refunded");
        vm.assertEq(e.burned, burned, "burned");
    }

    function _assertSolvent() internal view {
        (uint256 free, uint256 locked, uint256 escrow, uint256 credit, uint256 burnPending) = vault.totals();
        vm.assertEq(token.balanceOf(address(vault)), free + locked + escrow + credit + burnPending, "solvent");
    }
}
