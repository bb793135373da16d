// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Cid, Demand, Game, Member, Outcome, Role, TaskView, Verdict } from "../interfaces/Types.sol";
import { Clock, Docket, Progress } from "./Phases.sol";

/// @dev Totals over a round's tally, in the units of `Member`.
struct Sums {
    uint128 stake;
    uint64 score;
    uint64 weight;
}

/// @dev The aggregate that stands posted. `stateRoot` is 0 if the server keeps no state, `groupsHash` without groups.
struct Posting {
    address aggregator;
    uint8 codec;
    uint8 floatCodec;
    bytes32 root;
    bytes32 stateRoot;
    bytes32 groupsHash;
    bytes32 digest;
    bytes32 floatDigest;
}

/// @dev A challenger's commitment to a proof against an attempt's aggregate.
struct Challenge {
    uint96 bond;
    uint16 round;
    uint8 attempt;
    uint40 blockNumber;
}

/// @dev How many chunks of an update were asked for in a round, and how many of those demands are open.
struct Book {
    uint8 asked;
    uint8 open;
}

/// @dev Holders of the exclusive slots. `knownFrom` is 0, or the time of the last roll of the seed block: no fee is
/// owed for a slot whose holder could not be known when it began.
struct Order {
    address[3] holders;
    uint40 knownFrom;
}

/// @dev A commitment to an aggregate for the open window, and the block that it came in.
struct AggregateCommitment {
    bytes32 commitment;
    uint256 blockNumber;
}

/// @dev A task and its current round; the next round overwrites it.
struct Task {
    Clock clock;
    Progress progress;
    Sums sums;
    Posting posting;
    Order order;
    Docket docket;
    bytes32 modelRoot;
    bytes32 stateRoot;
    bytes32 updatesHash;
    // Agreements of validator i in bits [16i, 16i + 16).
    uint256 agreements;
    uint128 carry;
    uint40 endedAt;
    bool cancelled;
    // Set only around the call that makes the registry pull the result.
    bool publishing;
    // How many of each role are active in the round after the current one.
    uint16 nextWorkers;
    uint8 nextValidators;
    uint8 nextAggregators;
    TaskView fixed_;
    bytes32 parentModel;
    Cid genesisCid;
    Cid genesisFloatCid;
    string licence;
    mapping(Role => address[]) lists;
    mapping(Role => mapping(address => Member)) members;
    mapping(address => bool) named;
    mapping(address => mapping(uint256 word => bytes32)) votes;
    mapping(address => AggregateCommitment) aggregateCommitments;
    // --- disputes; what belongs to a round is keyed by it, so that nothing survives into the next ---
    mapping(uint256 group => bytes32) acceptedHashes;
    mapping(uint256 attemptKey => Verdict) verdicts;
    mapping(address challenger => mapping(bytes32 commitment => Challenge)) challenges;
    mapping(address challenger => mapping(bytes32 commitment => uint256 blockNumber)) proofCommitments;
    mapping(uint32 gameId => Game) games;
    mapping(bytes32 demandKey => Demand) demands;
    mapping(uint256 workerKey => Book) books;
    // By worker's index: whose update does not count, and against whose a proof was brought.
    mapping(uint16 round => mapping(uint256 word => uint256 bits)) refuted;
    mapping(uint16 round => mapping(uint256 word => uint256 bits)) proven;
    // Slashed in the current round and still counted as stake, since votes and pay go by the stake of its opening.
    mapping(Role => mapping(address => uint96)) slashed;
    mapping(address => uint16 round) excluded;
    // Written only in a task that draws its workers by it.
    mapping(address worker => uint16) reputations;
}
