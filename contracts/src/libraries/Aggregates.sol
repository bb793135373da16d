// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { IDisputes } from "../interfaces/IDisputes.sol";
import { IStakeVault } from "../interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "../interfaces/ITaskCoordinator.sol";
import { Cid, Claim, Format, Outcome, Phase, Role, ServerKind, Verdict, Windows } from "../interfaces/Types.sol";
import { Members } from "./Members.sol";
import { Clock, Phases, Progress } from "./Phases.sol";
import { Rounds } from "./Rounds.sol";
import { AggregateCommitment, Posting, Task } from "./TaskStorage.sol";

/// @title Who posts the next global model. Linked: the coordinator delegates to it.
library Aggregates {
    using Phases for Progress;

    uint8 private constant MAX_ATTEMPTS = 3;

    function drawOrder(Task storage t, uint256 taskId, IStakeVault vault) external {
        Rounds.requirePhase(t, taskId, Phase.Aggregate);
        Progress memory p = t.progress;
        if (p.orderDrawn) revert ITaskCoordinator.OrderAlreadyDrawn(taskId);
        if (block.number <= p.seedBlock) revert ITaskCoordinator.SeedNotReady(p.seedBlock);
        bytes32 seed = blockhash(p.seedBlock);
        if (seed == 0) {
            // More than 256 blocks old. The clock goes on: rolling must not keep a round open.
            p.seedBlock = uint40(block.number);
            t.order.knownFrom = uint40(block.timestamp);
            emit ITaskCoordinator.SeedRolled(taskId, t.clock.round, p.seedBlock);
        } else {
            _draw(t, taskId, p, seed, vault);
        }
        t.progress = p;
    }

    function commitAggregate(Task storage t, uint256 taskId, uint16 round, bytes32 commitment) external {
        Rounds.requirePhase(t, taskId, Phase.Aggregate);
        Rounds.checkRound(taskId, t.clock.round, round);
        t.aggregateCommitments[msg.sender] = AggregateCommitment(commitment, block.number);
        emit ITaskCoordinator.AggregateCommitted(taskId, round, msg.sender, commitment);
    }

    function postAggregate(
        Task storage t,
        uint256 taskId,
        uint16 round,
        Claim calldata claim,
        Cid calldata cid,
        Cid calldata floatCid,
        bytes32 salt,
        IStakeVault vault
    ) external {
        // Check
        Rounds.requirePhase(t, taskId, Phase.Aggregate);
        Clock memory c = t.clock;
        Rounds.checkRound(taskId, c.round, round);
        Rounds.checkCid(cid);
        Rounds.checkCid(floatCid);
        Progress memory p = t.progress;
        _checkClaim(t, p, claim);
        if (t.excluded[msg.sender] == round) revert ITaskCoordinator.Excluded(taskId, msg.sender);
        _checkTurn(t, taskId, c, p, keccak256(abi.encode(claim)), salt, vault);

        // Effect
        p.postedAt = uint40(block.timestamp);
        t.progress = p;
        _store(t, claim, cid, floatCid);
        emit ITaskCoordinator.AggregatePosted(taskId, round, msg.sender, c.attempt, claim, cid, floatCid);

        // Interaction
        vault.lock(taskId, Role.Aggregator, msg.sender, Rounds.bondOf(t, c.attempt));
    }

    /// @notice The posted aggregate is wrong: its poster loses the bond to the challenger and the fire, and the round
    /// goes on with the next attempt, or ends void.
    function refute(Task storage t, uint256 taskId, IStakeVault vault, address challenger, bytes32 reason) internal {
        Clock memory c = t.clock;
        Progress memory p = t.progress;
        address poster = t.posting.aggregator;

        // Effect
        t.verdicts[Rounds.keyOf(c.round, c.attempt)] = Verdict.Refuted;
        t.excluded[poster] = c.round;
        (t.docket.challenges, t.docket.games) = (0, 0);
        emit IDisputes.AggregateRefuted(taskId, c.round, poster, c.attempt, challenger, reason);
        if (c.attempt == MAX_ATTEMPTS) p.outcome = Outcome.Refuted;
        else _reopen(t, taskId, c, p);
        t.progress = p;

        // Interaction
        uint256 taken = vault.slash(taskId, Role.Aggregator, poster, Rounds.bondOf(t, c.attempt), challenger);
        emit ITaskCoordinator.Slashed(taskId, c.round, poster, Role.Aggregator, taken, reason);
    }

    function _reopen(Task storage t, uint256 taskId, Clock memory c, Progress memory p) private {
        uint8 next = c.attempt + 1;
        t.clock.attempt = next;
        (p.postedAt, p.aggregateStart, p.orderDrawn) = (0, uint40(block.timestamp), false);
        // The hash of this very block, which the challenger cannot know.
        p.seedBlock = uint40(block.number);
        (, uint256 count) = _candidates(t);
        p.numSlots = uint8(count < Phases.MAX_SLOTS ? count : Phases.MAX_SLOTS);
        t.order.knownFrom = 0;
        emit IDisputes.AttemptOpened(taskId, c.round, next, Rounds.bondOf(t, next));
    }

    function _checkClaim(Task storage t, Progress memory p, Claim calldata claim) private view {
        Format memory f = t.fixed_.format;
        if (claim.modelRoot == 0) revert ITaskCoordinator.ZeroRoot();
        if ((claim.stateRoot == 0) != (f.server == ServerKind.Plain)) {
            revert ITaskCoordinator.InvalidClaim("stateRoot");
        }
        uint256 groups = (uint256(p.accepted) + f.groupSize - 1) / f.groupSize;
        if (claim.groupRoots.length != (groups == 1 ? 0 : groups)) revert ITaskCoordinator.InvalidClaim("groupRoots");
    }

    function _store(Task storage t, Claim calldata claim, Cid calldata cid, Cid calldata floatCid) private {
        Posting storage a = t.posting;
        (a.aggregator, a.codec, a.floatCodec) = (msg.sender, cid.codec, floatCid.codec);
        (a.root, a.digest, a.floatDigest) = (claim.modelRoot, cid.digest, floatCid.digest);
        // Written only where there is one, now or before: most tasks have neither.
        if (a.stateRoot != claim.stateRoot) a.stateRoot = claim.stateRoot;
        bytes32 groups = claim.groupRoots.length == 0 ? bytes32(0) : keccak256(abi.encodePacked(claim.groupRoots));
        if (a.groupsHash != groups) a.groupsHash = groups;
    }

    /// @dev In an exclusive slot its holder; afterwards anybody with a commitment at least a block old.
    function _checkTurn(
        Task storage t,
        uint256 taskId,
        Clock memory c,
        Progress memory p,
        bytes32 claimHash,
        bytes32 salt,
        IStakeVault vault
    ) private {
        Windows memory w = t.fixed_.windows;
        if (block.timestamp < p.exclusiveEnd(w)) {
            if (!p.orderDrawn) _drawNow(t, taskId, p, vault);
            address holder = t.order.holders[(block.timestamp - p.aggregateStart) / w.slot];
            if (holder == msg.sender) return;
            // A slot that nobody holds, since too few have the bond, is open like those after it.
            if (holder != address(0)) revert ITaskCoordinator.NotYourSlot(holder, msg.sender);
        }
        AggregateCommitment memory committed = t.aggregateCommitments[msg.sender];
        bytes32 opened = keccak256(
            abi.encode(block.chainid, address(this), taskId, c.round, c.attempt, msg.sender, claimHash, salt)
        );
        if (committed.commitment != opened) revert ITaskCoordinator.CommitmentMismatch(committed.commitment, opened);
        if (block.number <= committed.blockNumber) revert ITaskCoordinator.CommitmentTooYoung(committed.blockNumber);
    }

    function _drawNow(Task storage t, uint256 taskId, Progress memory p, IStakeVault vault) private {
        if (block.number <= p.seedBlock) revert ITaskCoordinator.SeedNotReady(p.seedBlock);
        bytes32 seed = blockhash(p.seedBlock);
        if (seed == 0) revert ITaskCoordinator.SeedExpired(p.seedBlock);
        _draw(t, taskId, p, seed, vault);
    }

    /// @dev A uniform order of the round's aggregators; the first that have the bond hold the slots. The order follows
    /// from the seed alone: by moving money one can give up a slot, but not move the others.
    function _draw(Task storage t, uint256 taskId, Progress memory p, bytes32 seed, IStakeVault vault) private {
        (address[] memory candidates, uint256 count) = _candidates(t);
        uint256 bond = Rounds.bondOf(t, t.clock.attempt);
        address[3] memory holders;
        uint256 held;
        for (uint256 i; i < count && held < p.numSlots; ++i) {
            uint256 j = i + uint256(keccak256(abi.encode(seed, taskId, t.clock.round, i))) % (count - i);
            (candidates[i], candidates[j]) = (candidates[j], candidates[i]);
            if (vault.freeOf(candidates[i]) >= bond) holders[held++] = candidates[i];
        }
        t.order.holders = holders;
        p.orderDrawn = true;
        emit ITaskCoordinator.OrderDrawn(taskId, t.clock.round, holders, uint8(held));
    }

    /// @dev The round's aggregators but those who were refuted in it: the first `count` entries.
    function _candidates(Task storage t) private view returns (address[] memory candidates, uint256 count) {
        candidates = t.lists[Role.Aggregator];
        uint16 round = t.clock.round;
        for (uint256 i; i < candidates.length; ++i) {
            address a = candidates[i];
            if (t.excluded[a] == round) continue;
            if (Members.isActive(t.members[Role.Aggregator][a], round)) candidates[count++] = a;
        }
    }
}
