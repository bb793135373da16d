"""`chainfl local`: a chain of one's own in a folder, made anew, or started again from what it left."""

from __future__ import annotations

import fcntl
import shlex
import signal
import socket
import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from chainfl.cli.output import TOKEN_DECIMALS, say, show, show_json, show_table, tokens
from chainfl.errors import LocalChainError, UsageError
from chainfl.types import Address, Wei

if TYPE_CHECKING:
    from chainfl.chain.anvil import AnvilProcess
    from chainfl.chain.deployment import Deployment
    from chainfl.config import Settings

STATE_NAME: Final = "anvil-state.json"
ACCOUNTS_NAME: Final = "anvil-accounts.json"
WATCH_INTERVAL_S: Final = 0.5
SETUP_POLL_S: Final = 0.1
ALLOWANCE: Final = Wei(10_000 * 10**TOKEN_DECIMALS)
"""What each development account of a new chain gets: every role's stake, and rewards for tasks of its own."""

_FIRST_TASK: Final = (
    (1, "task create --preset digits --reward 1000 --workers 2 --validators 1 --aggregators 1 --yes"),
    (2, "worker run --task 1 --dataset digits --shard 1/3 --deposit --yes"),
    (3, "worker run --task 1 --dataset digits --shard 2/3 --deposit --yes"),
    (4, "validator run --task 1 --dataset digits --shard 3/3 --deposit --yes"),
    (5, "aggregator run --task 1 --deposit --yes"),
)
"""Commands for a first task, each with the number of the account that gives it."""


@dataclass(frozen=True, slots=True)
class ChainFolder:
    """A local chain's folder: its configuration, its deployment, and the folder with the chain's state."""

    folder: Path
    settings: Settings
    deployment: Deployment
    chain_folder: Path

    @classmethod
    def open(cls, folder: Path) -> ChainFolder:
        """Raises UsageError for a folder without a chain, ConfigError, DeploymentInvalid."""
        from chainfl.config import FILE_NAME

        places = _chain_folders(folder)
        if not places:
            raise UsageError(
                f"there is no local chain in {folder} ({FILE_NAME} and {STATE_NAME}): `chainfl local new` makes one, "
                "and `chainfl demo` leaves one"
            )
        return cls.at(folder, places[0])

    @classmethod
    def at(cls, folder: Path, chain_folder: Path) -> ChainFolder:
        """The same where the state need not be written yet. Raises ConfigError, DeploymentInvalid."""
        from chainfl.chain.deployment import Deployment
        from chainfl.config import FILE_NAME, load_settings

        # The environment is left out: a CHAINFL_RPC of another chain would move this one.
        settings = load_settings(config=folder / FILE_NAME, environment={})
        return cls(folder, settings, Deployment.load(settings.effective_deployment), chain_folder)

    @property
    def recorded_port(self) -> int:
        """Where the chain was before."""
        return urlsplit(self.settings.effective_rpc).port or 8545

    def environment(self, rpc_url: str) -> dict[str, str]:
        """What a command outside of the folder, or beside a busy port, needs."""
        return {"CHAINFL_CONFIG": str((self.folder / "chainfl.toml").resolve()), "CHAINFL_RPC": rpc_url}


@dataclass(frozen=True, slots=True)
class Account:
    """One of Anvil's development accounts. Its key is public, and worth nothing on any other chain."""

    address: Address
    private_key: str


@click.group()
def local() -> None:
    """Local chains for trying things out."""


# --- new -----------------------------------------------------------------------------------------


@local.command(epilog="Example: chainfl local new my-chain")
@click.argument("folder", type=click.Path(path_type=Path), default="chainfl-local")
@click.option("--json", "as_json", is_flag=True, help="Print where it listens and its keys as JSON, then run on.")
def new(folder: Path, as_json: bool) -> None:
    """Make a local chain in a new FOLDER (chainfl-local) and keep it running until Ctrl-C.

    The contracts are deployed there, and ten accounts with public keys hold ether and tokens: what a task of your own
    needs. A block comes every second, and one for each transaction at once. `chainfl local up FOLDER` starts it again.
    """
    from chainfl.chain.anvil import AnvilProcess, find_anvil

    find_anvil()  # a missing one is told before a folder is made
    chain_folder = _new_folder(folder) / "chain"
    chain_folder.mkdir()
    stop = threading.Event()
    # Ctrl-C during set-up stops a whole chain afterwards, not half of one.
    with _alone(chain_folder), _stopping(stop), AnvilProcess(chain_folder, keep_state=True) as anvil:
        accounts = _furnish(folder, anvil)
        made = ChainFolder.at(folder, chain_folder)
        if as_json:
            show_json({**_facts(made, anvil), "accounts": accounts})
        else:
            _tell_new(made, anvil, accounts)
        _await_stop(anvil, stop)
    say(f"stopped; its state is kept, and `chainfl local up {shlex.quote(str(folder))}` starts it again")


def _new_folder(folder: Path) -> Path:
    """Makes it, or takes an empty one. Raises UsageError for anything else that is there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = next(folder.iterdir(), None) is None
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}; name another folder", path=str(folder)) from error
    if _chain_folders(folder):
        command = f"chainfl local up {shlex.quote(str(folder))}"
        raise UsageError(f"there is a chain in {folder} already: `{command}` starts it; a new one needs a new folder")
    if not is_empty:
        raise UsageError(f"{folder} is not empty: name a new folder", path=str(folder))
    return folder


def _chain_folders(folder: Path) -> list[Path]:
    """Where in a folder the state of its chain is; none without a configuration beside it."""
    from chainfl.config import FILE_NAME

    if not (folder / FILE_NAME).is_file():
        return []
    return [place for place in (folder / "chain", folder) if (place / STATE_NAME).is_file()]


def _furnish(folder: Path, anvil: AnvilProcess) -> tuple[Account, ...]:
    """Contracts from the first account, tokens for the others, and the folder's configuration. returns: all accounts.

    Raises what deploying and sending raise.
    """
    from chainfl.chain.client import ChainClient
    from chainfl.chain.deployment import deploy
    from chainfl.chain.keys import Signer
    from chainfl.chain.networks import LOCAL
    from chainfl.chain.operator import Operator
    from chainfl.cli.spending import settled
    from chainfl.config import FILE_NAME, local_template

    say(f"deploying the contracts on a new chain in {folder}")
    client = ChainClient(anvil.rpc_url, expected_chain_id=anvil.chain_id, poll_interval_s=SETUP_POLL_S)
    deployer, *others = (Signer.from_private_key(key) for key in anvil.private_keys)
    deployment = deploy(client, deployer, unbonding_s=LOCAL.unbonding_s, path=folder / "deployment.json")
    bank = Operator(client, deployment, deployer)
    for other in others:
        settled(bank.transfer(other.address, ALLOWANCE))
    (folder / FILE_NAME).write_text(local_template(anvil.port, "chainfl local new"), encoding="utf-8")
    signers = (deployer, *others)
    return tuple(Account(s.address, key) for s, key in zip(signers, anvil.private_keys, strict=True))


def _tell_new(made: ChainFolder, anvil: AnvilProcess, accounts: tuple[Account, ...]) -> None:
    say(f"the chain of {made.folder} runs at {anvil.rpc_url} until Ctrl-C")
    say(
        f"{len(accounts)} accounts hold ether and {tokens(ALLOWANCE)} or more; their keys are public, so only for here:"
    )
    show_table(["", "account", "key"], [(i, a.address, a.private_key) for i, a in enumerate(accounts)])
    say("in other terminals, one for each command, all in that folder; the task starts once everybody is enrolled:")
    show(f"cd {shlex.quote(str(made.folder.resolve()))}")
    for number, command in _FIRST_TASK:
        show(f"CHAINFL_PRIVATE_KEY={accounts[number].private_key} chainfl {command}")


# --- up ------------------------------------------------------------------------------------------


@local.command(epilog="Example: chainfl local up chainfl-demo")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print where it listens as one JSON document, then run on.")
def up(folder: Path, as_json: bool) -> None:
    """Start the chain of FOLDER (this one) again, made by `local new` or a demo, and keep it running until Ctrl-C.

    It listens where it did before, or on a free port if that one is taken, and its state is kept for the next time.
    """
    opened = ChainFolder.open(folder)
    with _alone(opened.chain_folder):
        _run(opened, as_json)
    say("stopped; its state is kept")


def _run(opened: ChainFolder, as_json: bool) -> None:
    """Returns when asked to stop. Raises LocalChainError when the chain ends by itself."""
    port = opened.recorded_port if _is_free(opened.recorded_port) else 0
    stop = threading.Event()
    with _stopping(stop), _anvil(opened, port) as anvil:
        _check(opened, anvil)
        if as_json:
            show_json(_facts(opened, anvil))
        else:
            _tell(opened, anvil)
        _await_stop(anvil, stop)


def _anvil(opened: ChainFolder, port: int) -> AnvilProcess:
    from chainfl.chain.anvil import AnvilProcess

    return AnvilProcess(opened.chain_folder, chain_id=opened.deployment.chain_id, keep_state=True, port=port)


def _check(opened: ChainFolder, anvil: AnvilProcess) -> None:
    """The saved state has the contracts that the folder's deployment names. Raises NoContract and the like."""
    from chainfl.chain.client import ChainClient
    from chainfl.chain.deployment import check_deployment

    check_deployment(ChainClient(anvil.rpc_url, expected_chain_id=anvil.chain_id), opened.deployment)


def _tell(opened: ChainFolder, anvil: AnvilProcess) -> None:
    moved = anvil.port != opened.recorded_port
    say(f"the chain of {opened.folder} runs at {anvil.rpc_url} until Ctrl-C")
    say("in another terminal:")
    show(f"cd {shlex.quote(str(opened.folder.resolve()))}")
    if moved:
        say(f"(port {opened.recorded_port} is taken, so the commands there must be told the new one:)")
        show(f"export CHAINFL_RPC={anvil.rpc_url}")
    show("chainfl model list")
    say("or from any folder:")
    assignments = " ".join(f"{k}={shlex.quote(v)}" for k, v in opened.environment(anvil.rpc_url).items())
    show(f"{assignments} chainfl task list")
    say(f"keys of funded accounts are in {opened.chain_folder / ACCOUNTS_NAME}")


# --- what both do --------------------------------------------------------------------------------


def _facts(opened: ChainFolder, anvil: AnvilProcess) -> Mapping[str, Any]:
    """For programs: where it listens, its process, and what commands elsewhere need."""
    return {"rpc": anvil.rpc_url, "pid": anvil.pid, "environment": opened.environment(anvil.rpc_url)}


def _await_stop(anvil: AnvilProcess, stop: threading.Event) -> None:
    """Raises LocalChainError when the chain ends by itself."""
    while not stop.wait(WATCH_INTERVAL_S):
        if not anvil.is_running:
            raise LocalChainError("the local chain ended by itself", log=str(anvil.log_path))


@contextmanager
def _alone(chain_folder: Path) -> Iterator[None]:
    """Two chains would write one state file. Raises UsageError while another process holds the folder."""
    with (chain_folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"the chain in {chain_folder} runs already") from error
        yield


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Anvil binds it: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class _stopping:
    """SIGINT and SIGTERM set the event, so that the chain writes its state before the process ends."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        self._before = {n: signal.signal(n, self._set) for n in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number: int, frame: types.FrameType | None) -> None:
        self._stop.set()
