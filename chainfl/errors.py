"""The one tree of errors.

Every error that a user can meet carries what was seen (`evidence`), a hint that says what to do next, and
the exit code that the command line ends with. `assert` is for our own bugs; these are for the world's.
"""

from __future__ import annotations

from typing import Any, ClassVar


class _Evidence(dict[str, Any]):
    """Leaves a placeholder standing when the evidence for it is missing, so that a hint never fails."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


class ChainflError(Exception):
    """Base of all errors with an exit code and a hint.

    message: one line, what happened. evidence: the values behind it, which also fill the hint.
    """

    exit_code: ClassVar[int] = 1
    hint_template: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **evidence: Any) -> None:
        super().__init__(message)
        self.evidence = evidence

    @property
    def hint(self) -> str:
        """What the user can do next; empty when there is nothing better than the message."""
        return self.hint_template.format_map(_Evidence(self.evidence))


# --- 10..19: what the operator wrote -------------------------------------------------------------


class ConfigError(ChainflError):
    """The configuration is wrong; the message lists every problem found, not just the first."""

    exit_code = 10
    hint_template = "Run `chainfl init` to see a commented configuration."


class UsageError(ChainflError):
    """The arguments contradict one another or name something that does not exist."""

    exit_code = 11
    hint_template = "See what it takes with --help, or in Python with help(), such as help(chainfl.simulate)."


class KeyfileError(ChainflError):
    """A key is missing, unreadable or already there."""

    exit_code = 12
    hint_template = "List keys with `chainfl keys list`, make one with `chainfl keys new`."


class WrongPassword(KeyfileError):
    """The keystore file did not open with the password given."""

    exit_code = 13
    hint_template = "Try again, or import the key again with `chainfl keys import`."


class PrerequisiteMissing(ChainflError):
    """A tool outside the package is missing (Anvil, ape, a Kubo daemon)."""

    exit_code = 14
    hint_template = "Run `make setup` in the repository, then `chainfl doctor`."


class JournalDamaged(ChainflError):
    """A file of an agent's journal is not what the agent wrote."""

    exit_code = 15
    hint_template = "Restore {path} from a backup; without it a committed update cannot be revealed."


class ExperimentDiffers(UsageError):
    """The folder holds an experiment that is not the one asked for; the message lists every difference."""

    exit_code = 17
    hint_template = "Give `out` another folder, or make the call that began {path} again."


class ExperimentDamaged(UsageError):
    """A file of an experiment's folder is not what chainfl wrote there."""

    exit_code = 18
    hint_template = "Delete {path} and start the experiment again."


class AppUnusable(UsageError):
    """What --app names cannot be loaded, fails, or does not fit the task; the message says what to change."""

    exit_code = 19
    hint_template = "docs/learning.md shows an app of ten lines, under From an experiment to a task."


class TokenMissing(KeyfileError):
    """The access token of a pinning service is nowhere, or is none."""

    exit_code = 16
    hint_template = "Set {variable}, or write the token into {path} and `chmod 600` it."


# --- 20..39: the chain ---------------------------------------------------------------------------


class ChainError(ChainflError):
    """Anything that went wrong between us and the chain."""

    exit_code = 20
    hint_template = "Run `chainfl doctor`: it looks at the endpoint and the contracts, and says what to do about them."


class RpcUnreachable(ChainError):
    """No answer from the RPC endpoint, at the start or half-way."""

    exit_code = 21
    retryable = True
    hint_template = "Check the `rpc` setting and that the node runs; nothing was lost, start again to carry on."


class WrongChainId(ChainError):
    """The endpoint serves another chain than the configuration names."""

    exit_code = 22
    hint_template = "Point `rpc` at chain {expected}, or choose the network that this endpoint serves."


class NoContract(ChainError):
    """There is no code at the address."""

    exit_code = 23
    hint_template = "Check the deployment file, or deploy with `chainfl deploy`."


class WrongContractVersion(ChainError):
    """The contract at the address is another version than this package speaks."""

    exit_code = 24
    hint_template = "Use the deployment made with this version, or deploy again with `chainfl deploy`."


class InsufficientFunds(ChainError):
    """The account cannot pay for the gas."""

    exit_code = 25
    hint_template = "Send native currency to {account}."


class InsufficientTokens(ChainError):
    """The account holds fewer tokens than the call needs."""

    exit_code = 26
    hint_template = "Get tokens (on a test network: `chainfl faucet`)."


class InsufficientAllowance(ChainError):
    """The vault may not take as many tokens as the call needs."""

    exit_code = 27
    hint_template = "Deposit with `chainfl stake deposit`, which approves exactly what it takes."


class GasBudgetExhausted(ChainError):
    """The next transaction would exceed --max-gas-wei."""

    exit_code = 28
    hint_template = "Start again with a larger --max-gas-wei to carry on."


class TransactionTimedOut(ChainError):
    """Sent, but no receipt came in time; it may still be mined."""

    exit_code = 29
    retryable = True
    hint_template = "Look the transaction up before you send again: {tx_hash}."


class TransactionReverted(ChainError):
    """A call reverted with an error that has no class of its own."""

    exit_code = 30
    hint_template = "Nothing changed on chain; see `chainfl task show` and `chainfl stake status` for what it went by."


class UnexpectedPhase(ChainError):
    """The task is in another phase than the call needs (for example, an update revealed late)."""

    exit_code = 31
    hint_template = "See `chainfl task show {task_id}` for the phase and its deadline."


class StakeTooLow(ChainError):
    """The vault holds less free stake for the account than the call locks."""

    exit_code = 32
    hint_template = "Top up with `chainfl stake deposit {missing}`."


class NotEligible(ChainError):
    """The account is not enrolled for the task, has left it, or holds too little stake there."""

    exit_code = 33
    hint_template = (
        "See `chainfl task show {task_id}`; a participant that left comes back with `rejoin`, after two missed rounds "
        "once the next one is open."
    )


class AlreadyDone(ChainError):
    """The call was already made for this round; nothing is lost."""

    exit_code = 34
    hint_template = "Nothing is lost: wait, or go on with what comes next."


class RpcRefused(ChainError):
    """The endpoint answered, with an error that is not a revert (a limit, an unknown method, a transaction refused)."""

    exit_code = 35
    hint_template = "Check that the endpoint in `rpc` serves a full node of this chain."


class DeploymentInvalid(ChainError):
    """A deployment file is malformed, or the contracts that it names do not know one another."""

    exit_code = 36
    hint_template = "Use the file that `chainfl deploy` wrote, or deploy again."


class LocalChainError(ChainError):
    """The local Anvil chain did not start, or ended by itself."""

    exit_code = 37
    hint_template = "See its log: {log}."


class NodeBehind(ChainError):
    """The node does not show yet what it has already counted (its log index lags behind its state)."""

    exit_code = 38
    retryable = True
    hint_template = "Try again, or use an RPC endpoint whose logs keep up with its blocks."


class ProofRefused(ChainError):
    """The contract does not take what a dispute opened: it proves nothing wrong, does not fit, or comes too late."""

    exit_code = 39
    hint_template = "Recompute with `chainfl round audit TASK ROUND`; a proof that is refused costs nothing but gas."


# --- 40..49: tasks -------------------------------------------------------------------------------


class SpecificationError(ChainflError):
    """A task specification is malformed; the message lists every problem found."""

    exit_code = 40
    hint_template = (
        "See The task file in docs/operating.md for the settings, or print them with `chainfl task template`; "
        "docs/protocol.md says what they mean on chain."
    )


class SpecificationMismatch(SpecificationError):
    """The specification's bytes do not hash to what the task committed to, or contradict the task on chain."""

    exit_code = 41
    hint_template = "Do not take part in this task: its requester published something else than it committed to."


# --- 50..59: integers and payloads ---------------------------------------------------------------


class EncodingError(ChainflError):
    """Values that cannot become integers (not finite, wrong shape, wrong type)."""

    exit_code = 50
    hint_template = (
        "Look at the model or the vector that the message names: values are finite, and names and shapes those of the "
        "task (Numbers in docs/protocol.md)."
    )


class PayloadError(EncodingError):
    """A payload from somebody else is not what it must be. It counts as not delivered."""

    exit_code = 51
    hint_template = "Nothing of it was used. Ask another store for it, or go on without: it counts as not delivered."


class PayloadTruncated(PayloadError):
    """Shorter than its own header says, or too short to have one."""

    exit_code = 52


class PayloadTooLarge(PayloadError):
    """Larger, or with a header that claims more, than the task allows."""

    exit_code = 53


class PayloadDtypeMismatch(PayloadError):
    """The tensor has another type than the task's format."""

    exit_code = 54


class PayloadShapeMismatch(PayloadError):
    """The tensor has another number of values than the task's model."""

    exit_code = 55


class PayloadBindingMismatch(PayloadError):
    """The payload names another task, round, worker or base model."""

    exit_code = 56


class ValueOutOfRange(PayloadError):
    """A value is outside of what the format allows (−32768 in an update, non-zero padding)."""

    exit_code = 57


class PayloadFormMismatch(PayloadError):
    """Plain where the task's payloads are compressed, the other way round, or compressed in another form."""


class RootMismatch(PayloadError):
    """The bytes do not hash to the root that was committed on chain."""

    exit_code = 58


class AggregationError(ChainflError):
    """An aggregation was asked for that has no result (zero total weight, widths that could overflow)."""

    exit_code = 59
    hint_template = "Change the weights, the rule or the server step as the message says (Numbers in docs/protocol.md)."


# --- 60..69: storage -----------------------------------------------------------------------------


class StorageError(ChainflError):
    """Anything that went wrong between us and the bytes."""

    exit_code = 60
    hint_template = "Run `chainfl doctor`: it looks at every store by itself and says what to do about it."


class StoreUnusable(StorageError):
    """The system takes no files there: it is below a file, or in a folder of the system's own."""

    hint_template = "Choose a folder of your own that can hold files: `store_dir` for the store, --out for one file."


class InvalidCid(StorageError):
    """Not a CID, or one of a version, codec or hash that is not supported."""

    exit_code = 61
    hint_template = "Give a CID as `chainfl store add` prints it: bafkrei… or bafybei…, 59 characters and nothing else."


class CidMismatch(StorageError):
    """The bytes that came back do not match the CID that was asked for."""

    exit_code = 62
    hint_template = "The store is damaged or lies; the bytes were not used. Remove the block, or ask another store."


class ContentDamaged(CidMismatch):
    """What a store of one's own has on its disk is not what was put there. Putting it again is the way out."""

    hint_template = "The bytes were not used. {repair}"


class BlobNotFound(StorageError):
    """The store does not have the content."""

    exit_code = 63
    retryable = True
    hint_template = "Whoever published {cid} may be offline; try again, or ask another store."


class StillFetching(StorageError):
    """The content is on its way; other work goes on meanwhile."""

    retryable = True
    hint_template = "Wait a little, or ask a store that is nearer to whoever published it."


class StoreFull(StorageError):
    """No space left where the store lives; nothing half-written stays visible."""

    exit_code = 64
    hint_template = "Free space on the disk that holds {path}, or choose another folder with `store_dir`."


class TemporaryFull(StoreFull):
    """No space left among the system's temporary files."""

    hint_template = "Free space on the disk that holds {path}, or name a folder on another one with TMPDIR."


class StoreReadOnly(StorageError):
    """The store's folder cannot be written."""

    exit_code = 65
    hint_template = "Make {path} writable for this user, or choose another folder with `store_dir`."


class NoStoreWrites(StoreReadOnly):
    """None of the stores that are configured takes content."""

    hint_template = 'Add "embedded" or "kubo" to `storage`: gateways only read.'


class StoreUnreachable(StorageError):
    """The storage daemon, gateway or pinning service does not answer."""

    exit_code = 66
    retryable = True
    hint_template = "Start it (a Kubo daemon: `ipfs daemon`), or check what `kubo_api`, `gateways` or `pinning` says."


class MalformedDag(InvalidCid):
    """The blocks match their CIDs, but they are not a file under unixfs-v1-2025 (a directory, lying sizes, a bomb)."""

    exit_code = 67
    hint_template = "Whoever published {cid} must add it again as one file under unixfs-v1-2025."


class NotPublished(StorageError):
    """Fewer places confirmed the content than `publish_quorum` asks for. What some of them took stays there."""

    exit_code = 68
    retryable = True
    hint_template = "Did not confirm: {refused}. Put it again once they do, or lower `publish_quorum`."


class StoreUnsupported(StorageError):
    """The storage daemon is of a version that cannot give content the CIDs that chainfl writes."""

    exit_code = 69
    hint_template = "Install Kubo {needed} or newer."


class ServiceUnreachable(StoreUnreachable):
    """An HTTP service (a gateway, a pinning service) does not answer, or not as it must."""

    hint_template = "Check that {service} is up and that its address is right; what was fetched is kept."


class GatewayLied(ServiceUnreachable):
    """A gateway gave other bytes than were asked for, or is no gateway."""

    hint_template = "Take {service} out of `gateways`: it costs time, and no byte of it is used."


class PinNotServed(BlobNotFound):
    """A pinning service, or a node of one's own, says that it keeps what nobody gives."""

    hint_template = (
        "Look where it is with `chainfl store status {cid}`; put it there again with `chainfl store add FILE`, or give "
        "it up with `chainfl store unpin {cid}`."
    )


class ServiceRefused(StorageError):
    """A pinning service answers, and will not: the token, the account's funds, or what was asked."""

    hint_template = "Check the account at {service} and its token ({variable})."


# --- 70..79: data and training -------------------------------------------------------------------


class DatasetError(ChainflError):
    """Data cannot be used: a folder, a set of one's own, or the parts that it is to be cut into."""

    exit_code = 70
    hint_template = "Correct the data, or how they are shared out, as the message says; see Data in docs/learning.md."


class DatasetMissing(DatasetError):
    """A file of the dataset is not there."""

    exit_code = 71
    hint_template = (
        "Put {file} into {folder}, plain or as .gz; Data in docs/learning.md says where to get MNIST and CIFAR-10."
    )


class DatasetCorrupt(DatasetError):
    """A file of the dataset is cut, or its contents are not what its name says (images swapped with labels)."""

    exit_code = 72
    hint_template = "Fetch {file} again from where it was published."


class ArraysUnfit(DatasetCorrupt):
    """An .npz file is no labelled set; the message says what is wrong with its arrays."""

    hint_template = (
        "Whoever made {file} saves it again: `features` (n, …) of uint8 or finite floats, `labels` (n,) of integers "
        "from 0; see `--data` in docs/operating.md."
    )


class TrainingError(ChainflError):
    """Training cannot give an update (unknown model, a loss that is not finite)."""

    exit_code = 73
    hint_template = "Change the model or its training as the message says; see What can be chosen in docs/learning.md."


class TrainingDiverged(TrainingError):
    """The loss or a parameter is not finite; the update is withheld."""

    exit_code = 74
    hint_template = "Lower the learning rate in the task's specification."


class TrainingStopped(TrainingError):
    """Nobody wants the result any more: the round went on, or starts from another model."""

    exit_code = 97
    hint_template = "Nothing is lost: the next training starts from the model that stands."


class ProgramRefused(TrainingError):
    """A file cannot be a task's model: no readable `torch.export` archive, or it uses what is not allowed there."""

    exit_code = 75
    hint_template = (
        "`chainfl task create --help` shows how to export a module; docs/operating.md, Bringing your own model, "
        "says what it may use."
    )


class DescriptionInvalid(DatasetError):
    """A data set's description is not Croissant, or not of shards that chainfl can read; the message says where."""

    exit_code = 78
    hint_template = "Whoever published it makes a right one with `chainfl data publish`."


class NoShards(DatasetError):
    """The task names no shards for its workers."""

    exit_code = 77
    hint_template = "Bring data of your own: --data DIR, or --dataset NAME with --shard I/N."


# --- 80..89: the registry ------------------------------------------------------------------------


class RegistryError(ChainflError):
    """The registry does not have what was asked for."""

    exit_code = 80
    hint_template = "See `chainfl model list`."


class LineageBroken(RegistryError):
    """A link of a model's history does not re-derive from the stored bytes."""

    exit_code = 81
    hint_template = "Do not use this model; the message names the first link that fails."


class AuditFailed(RegistryError):
    """Something in a round is wrong that went into the model, or still may."""

    exit_code = 82
    hint_template = (
        "Look at the lines with ✗. While a round runs, `chainfl watch --task {task_id}` disputes what is wrong; "
        "do not use a model that was made of it."
    )


class Interrupted(ChainflError):
    """Stopped by a signal at a safe point."""

    exit_code = 130
    hint_template = "Start the same command again to carry on."
