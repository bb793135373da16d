// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @dev Plain values that cross contracts. Python reads them by component name from the ABI, never by position.

/// @notice What an account does in a task. The order is part of the ABI. Nobody enrols as a challenger: whoever disputes
/// or demands something is one, and its bonds and fees are locked under that role.
enum Role {
    Worker,
    Validator,
    Aggregator,
    Challenger
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
    Answer,
    Tally,
    Aggregate,
    Challenge,
    Dispute,
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
    NoAggregate,
    Refuted,
    Withheld
}

/// @notice What became of an attempt at a round's aggregate. `Open`: nothing yet.
enum Verdict {
    Open,
    Stood,
    Refuted,
    Abandoned
}

/// @notice How the updates of a round become one step. The order is part of the ABI.
enum Rule {
    Mean,
    TrimmedMean,
    Median
}

/// @notice How the server moves the model by a round's step: FedAvg, with momentum as it is or in Nesterov's form, or by
/// FedAdagrad, FedAdam and FedYogi. The order is part of the ABI.
enum ServerKind {
    Plain,
    Momentum,
    Nesterov,
    Adagrad,
    Adam,
    Yogi
}

/// @notice Which vector of a posted aggregate is meant.
enum Target {
    Model,
    State,
    Group
}

/// @notice By what the workers of a round are drawn. The order is part of the ABI.
enum DrawBy {
    Uniform,
    Stake,
    Reputation
}

/// @notice Who takes part in a round: `clientsPerRound` workers, drawn anew for each; 0: everybody, and then `by` is
/// Uniform.
struct Draw {
    uint16 clientsPerRound;
    DrawBy by;
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

/// @notice Lengths in seconds. Public networks: 600, 300, 600, 300, 300, 900, 300, 600.
/// `answer` is the clock of every demand and of every move in a dispute about withheld bytes; `proof` is what a committed
/// challenger has after Challenge.
struct Windows {
    uint32 commit;
    uint32 reveal;
    uint32 scoreCommit;
    uint32 scoreReveal;
    uint32 slot;
    uint32 challenge;
    uint32 answer;
    uint32 proof;
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
    /// A challenger's bond, which every sixteen games that are open at once double, and the fee of the first demand for a
    /// worker's chunk in a round; each further one doubles it.
    uint96 challengerBond;
    uint96 demandFee;
    /// Of the worker's stake: an update proven out of range or with a wrong sum; an update withheld.
    uint16 rangeSlashBps;
    uint16 withheldSlashBps;
    /// Of the validator's stake: it vouched for bytes that nobody has.
    uint16 vouchSlashBps;
}

/// @notice The integer format of a task; see docs/protocol.md, Numbers and Commitments.
struct Format {
    uint64 numParams;
    uint32 chunkParams;
    uint8 modelScaleBits;
    uint8 updateScaleBits;
    /// Of the rule's mean the part that the model moves by; the learning rate of the adaptive servers.
    uint32 stepNum;
    uint32 stepDen;
    uint64 maxSquaredNorm;
    /// Above so many accepted updates the mean is a sum of group sums.
    uint16 groupSize;
    Rule rule;
    /// Trimmed mean: floor(N * trimNum / trimDen) values are dropped at each end. 0 and 0 for the other rules.
    uint16 trimNum;
    uint16 trimDen;
    /// How much of the first moment a round keeps: the momentum, or the adaptive servers' beta_1; 0 and 0 for the plain
    /// step.
    uint32 momentumNum;
    uint32 momentumDen;
    ServerKind server;
    /// How much of the second moment a round keeps, Adam's and Yogi's beta_2; 0 and 0 for the others.
    uint32 secondNum;
    uint32 secondDen;
    /// What is added to the root of the second moment, in units of 2^-(modelScaleBits + 4); above 0 for the adaptive
    /// servers alone.
    uint32 tau;
}

/// @notice How many values the server's state has: none, one for each parameter, or for the adaptive servers two, the
/// first moment of parameter i at 2i and the root of its second moment at 2i + 1.
function stateParams(ServerKind server, uint64 numParams) pure returns (uint64) {
    if (server == ServerKind.Plain) return 0;
    return server < ServerKind.Adagrad ? numParams : 2 * numParams;
}

/// @notice What an aggregator claims: the next model, the next server state (0 if it keeps none), and the sum of each
/// group (empty unless more than `groupSize` updates were accepted).
struct Claim {
    bytes32 modelRoot;
    bytes32 stateRoot;
    bytes32[] groupRoots;
}

/// @notice Everything that `createTask` takes.
/// `specHash` is the SHA-256 of the specification's bytes and so also the digest of its raw CID.
struct TaskParams {
    bytes32 specHash;
    bytes32 genesisRoot;
    /// Of a state of zeros; 0 if the server keeps none.
    bytes32 genesisStateRoot;
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
    Draw draw;
}

/// @notice The fixed part of a task, as it was created.
struct TaskView {
    address requester;
    bytes32 specHash;
    bytes32 genesisRoot;
    bytes32 genesisStateRoot;
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
    Draw draw;
}

/// @notice The moving part of a task: all that an agent needs to decide what to do next.
struct RoundView {
    Phase phase;
    /// When the phase ends by itself (0 when only an action ends it).
    uint40 phaseEnd;
    uint16 round;
    uint8 attempt;
    uint40 openedBlock;
    /// In a task that draws its workers: 0 until they are drawn.
    uint16 eligibleWorkers;
    uint16 committed;
    uint16 revealed;
    uint8 eligibleValidators;
    uint8 scoresCommitted;
    uint8 scoresRevealed;
    uint16 numWorkers;
    uint16 numValidators;
    uint16 numAggregators;
    /// The model that the round starts from, and the server's state (0 if it keeps none).
    bytes32 modelRoot;
    bytes32 stateRoot;
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
    bytes32 aggregateStateRoot;
    Cid aggregateCid;
    Cid aggregateFloatCid;
    Outcome outcome;
    /// The worker's pot carried over from rounds in which nobody payable was accepted, in wei.
    uint128 carry;
    uint40 endedAt;
    /// Of the current attempt: commitments that are not proven, open games; and open demands for updates.
    uint32 challenges;
    uint32 games;
    uint32 demands;
    /// The games opened in the task so far; the next one's number.
    uint32 numGames;
    /// Out of how many the round's workers are drawn; 0 in a task that draws none.
    uint16 pool;
}

/// @notice A dispute about an aggregate whose bytes are withheld: somebody asks for nodes, somebody answers.
struct Game {
    address challenger;
    uint16 round;
    uint8 attempt;
    Target target;
    uint16 group;
    /// How many levels are below the node in question, and which one of its level it is.
    uint8 height;
    uint64 index;
    /// Whose move is awaited until `deadline`. Who does not move loses.
    bool answersTurn;
    bool isOpen;
    uint40 deadline;
    /// The posted root until the first answer, then the node in question.
    bytes32 node;
    /// Who answered last; 0 before the first answer.
    address answerer;
    /// What it locked when it was opened: that much is released or slashed when it closes.
    uint96 bond;
    bytes32 ownRoot;
}

/// @notice Somebody asked for a chunk of a worker's update.
struct Demand {
    address challenger;
    uint96 fee;
    uint16 round;
    uint16 workerIndex;
    uint64 chunkIndex;
    uint40 deadline;
    bool isLate;
    bool isOpen;
}

/// @notice One account's part in a task. One storage slot, and one for `commitment`.
/// `commitment` is the commitment until the reveal, then the update's root (worker) or the votes' hash (validator).
struct Member {
    uint96 stake;
    uint64 squaredNorm;
    /// In a task that draws its workers: the round that a worker is drawn for, else type(uint16).max - 1.
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
