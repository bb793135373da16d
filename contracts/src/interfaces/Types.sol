// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @dev Plain values that cross contracts. Python reads them by component name from the ABI, never by position.

/// @notice What an account does in a task. The order is part of the ABI.
enum Role {
    Worker,
    Validator,
    Aggregator
}

/// @notice Where a task stands. Derived from stored facts and the block time; nobody sets it.
/// Within a round the order below is the order in time; `Settlement` leads to the next round's `Commit` or to `Completed`.
enum Phase {
    None,
    Enrolment,
    Commit,
    Reveal,
    ScoreCommit,
    ScoreReveal,
    Tally,
    Aggregate,
    Challenge,
    Settlement,
    Completed,
    Cancelled
}

/// @notice How a round ended. Everything but `Final` is a void round: the model stays as it was.
enum Outcome {
    Pending,
    Final,
    NoUpdates,
    QuorumMissed,
    NothingAccepted,
    NoAggregate
}

/// @notice Where bytes can be found: a CIDv1 with a SHA-256 multihash. `codec` is 0x55 (raw) or 0x70 (dag-pb).
/// @dev A CID is a hint where to look. What the bytes must be is said by a root.
struct Cid {
    bytes32 digest;
    uint8 codec;
}

/// @notice How many accounts of a role a task needs and takes.
struct Bounds {
    uint16 min;
    uint16 max;
}

/// @notice Lengths in seconds. Public networks: 600, 300, 600, 300, 300, 900.
struct Windows {
    uint32 commit;
    uint32 reveal;
    uint32 scoreCommit;
    uint32 scoreReveal;
    uint32 slot;
    uint32 challenge;
}

/// @notice What a task asks and pays. Token amounts in wei, shares in basis points.
struct Economics {
    uint96 workerStake;
    uint96 validatorStake;
    uint96 aggregatorBond;
    uint96 slotFee;
    uint16 workersBps;
    uint16 validatorsBps;
    uint16 aggregatorBps;
    uint16 baseBps;
    uint16 workerSlashBps;
    uint16 validatorSlashBps;
}

/// @notice The integer format of a task; see docs/protocol.md, Numbers and Commitments.
struct Format {
    uint64 numParams;
    uint32 chunkParams;
    uint8 modelScaleBits;
    uint8 updateScaleBits;
    uint32 stepNum;
    uint32 stepDen;
    uint64 maxSquaredNorm;
}

/// @notice Everything that `createTask` takes.
/// `specHash` is the SHA-256 of the specification's bytes and so also the digest of its raw CID.
struct TaskParams {
    bytes32 specHash;
    bytes32 genesisRoot;
    Cid genesisCid;
    Cid genesisFloatCid;
    bytes32 parentModel;
    uint16 rounds;
    uint40 enrolmentEnd;
    uint128 reward;
    Bounds workers;
    Bounds validators;
    Bounds aggregators;
    Format format;
    Windows windows;
    Economics economics;
    address[] namedValidators;
    string licence;
}

/// @notice The fixed part of a task, as it was created.
struct TaskView {
    address requester;
    bytes32 specHash;
    bytes32 genesisRoot;
    uint16 rounds;
    uint40 enrolmentEnd;
    uint40 createdAt;
    uint40 createdBlock;
    uint128 reward;
    bool validatorsNamed;
    Bounds workers;
    Bounds validators;
    Bounds aggregators;
    Format format;
    Windows windows;
    Economics economics;
}

/// @notice The moving part of a task: all that an agent needs to decide what to do next.
struct RoundView {
    Phase phase;
    /// When the phase ends by itself (0 when only an action ends it).
    uint40 phaseEnd;
    uint16 round;
    uint8 attempt;
    uint40 openedBlock;
    uint16 eligibleWorkers;
    uint16 committed;
    uint16 revealed;
    uint8 eligibleValidators;
    uint8 scoresCommitted;
    uint8 scoresRevealed;
    uint16 numWorkers;
    uint16 numValidators;
    uint16 numAggregators;
    /// The model that the round starts from.
    bytes32 modelRoot;
    uint16 tallied;
    uint16 settled;
    uint40 aggregateStart;
    /// Number of exclusive slots, and their holders in order once drawn: the zero address where too few have the bond.
    uint8 numSlots;
    bool orderDrawn;
    address[3] order;
    uint40 seedBlock;
    uint16 accepted;
    uint64 totalWeight;
    address aggregator;
    uint40 postedAt;
    bytes32 aggregateRoot;
    Cid aggregateCid;
    Cid aggregateFloatCid;
    Outcome outcome;
    /// The worker's pot carried over from rounds in which nobody payable was accepted, in wei.
    uint128 carry;
    uint40 endedAt;
}

/// @notice One account's part in a task. One storage slot, and one for `commitment`.
/// `commitment` is the commitment until the reveal, then the update's root (worker) or the votes' hash (validator).
struct Member {
    uint96 stake;
    uint64 squaredNorm;
    uint16 activeFrom;
    uint16 activeUntil;
    uint16 lastRound;
    bool revealed;
    uint8 missed;
    uint16 weight;
    uint16 score;
    bytes32 commitment;
}

/// @notice What the registry pulls for one version of a model.
struct ModelResult {
    uint16 round;
    uint8 attempt;
    uint16 accepted;
    uint40 openedBlock;
    address aggregator;
    bytes32 modelRoot;
    bytes32 updatesHash;
    Cid cid;
    Cid floatCid;
}
