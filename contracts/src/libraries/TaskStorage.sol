// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Cid, Member, Outcome, Role, TaskView } from "../interfaces/Types.sol";
import { Clock, Progress } from "./Phases.sol";

/// @dev Totals over a round's tally, in the units of `Member`.
struct Sums {
    uint128 stake;
    uint64 score;
    uint64 weight;
}

/// @dev The aggregate that stands posted.
struct Posting {
    address aggregator;
    uint8 codec;
    uint8 floatCodec;
    bytes32 root;
    bytes32 digest;
    bytes32 floatDigest;
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
    bytes32 modelRoot;
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
}
