"""`chainfl local`: the chain of a demo folder, started again from what it left."""

from __future__ import annotations

import fcntl
import shlex
import signal
import socket
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from chainfl.cli.output import say, show, show_json
from chainfl.errors import LocalChainError, UsageError

if TYPE_CHECKING:
    from chainfl.chain.anvil import AnvilProcess
    from chainfl.chain.deployment import Deployment
    from chainfl.config import Settings

STATE_NAME: Final = "anvil-state.json"
WATCH_INTERVAL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """What a demo left: its configuration, its deployment, and the folder with its chain's state."""

    folder: Path
    settings: Settings
    deployment: Deployment
    chain_folder: Path

    @classmethod
    def open(cls, folder: Path) -> DemoFolder:
        """Raises UsageError for a folder without a chain, ConfigError, DeploymentInvalid."""
        from chainfl.chain.deployment import Deployment
        from chainfl.config import FILE_NAME, load_settings

        config = folder / FILE_NAME
        places = [place for place in (folder / "chain", folder) if (place / STATE_NAME).is_file()]
        if not config.is_file() or not places:
            raise UsageError(f"{folder} is not a folder that `chainfl demo` left ({FILE_NAME} and {STATE_NAME})")
        # The environment is left out: a CHAINFL_RPC of another chain would move this one.
        settings = load_settings(config=config, environment={})
        return cls(folder, settings, Deployment.load(settings.effective_deployment), places[0])

    @property
    def recorded_port(self) -> int:
        """Where the chain was before."""
        return urlsplit(self.settings.effective_rpc).port or 8545

    def environment(self, rpc_url: str) -> dict[str, str]:
        """What a command outside of the folder, or beside a busy port, needs."""
        return {"CHAINFL_CONFIG": str((self.folder / "chainfl.toml").resolve()), "CHAINFL_RPC": rpc_url}


@click.group()
def local() -> None:
    """Local chains for trying things out."""


@local.command(epilog="Example: chainfl local up chainfl-demo")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print where it listens as one JSON document, then run on.")
def up(folder: Path, as_json: bool) -> None:
    """Start the chain of a demo folder again and keep it running until Ctrl-C.

    It listens where it did before, or on a free port if that one is taken, and its state is kept for the next time.
    """
    demo = DemoFolder.open(folder)
    with _alone(demo.chain_folder):
        _run(demo, as_json)
    say("stopped; its state is kept")


def _run(demo: DemoFolder, as_json: bool) -> None:
    """Returns when asked to stop. Raises LocalChainError when the chain ends by itself."""
    port = demo.recorded_port if _is_free(demo.recorded_port) else 0
    stop = threading.Event()
    with _stopping(stop), _anvil(demo, port) as anvil:
        _check(demo, anvil)
        if as_json:
            show_json({"rpc": anvil.rpc_url, "pid": anvil.pid, "environment": demo.environment(anvil.rpc_url)})
        else:
            _tell(demo, anvil)
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


def _anvil(demo: DemoFolder, port: int) -> AnvilProcess:
    from chainfl.chain.anvil import AnvilProcess

    return AnvilProcess(demo.chain_folder, chain_id=demo.deployment.chain_id, keep_state=True, port=port)


def _check(demo: DemoFolder, anvil: AnvilProcess) -> None:
    """The saved state has the contracts that the folder's deployment names. Raises NoContract and the like."""
    from chainfl.chain.client import ChainClient
    from chainfl.chain.deployment import check_deployment

    check_deployment(ChainClient(anvil.rpc_url, expected_chain_id=anvil.chain_id), demo.deployment)


def _tell(demo: DemoFolder, anvil: AnvilProcess) -> None:
    moved = anvil.port != demo.recorded_port
    say(f"the chain of {demo.folder} runs at {anvil.rpc_url} until Ctrl-C")
    say("in another terminal:")
    show(f"cd {shlex.quote(str(demo.folder.resolve()))}")
    if moved:
        say(f"(port {demo.recorded_port} is taken, so the commands there must be told the new one:)")
        show(f"export CHAINFL_RPC={anvil.rpc_url}")
    show("chainfl model list")
    say("or from any folder:")
    assignments = " ".join(f"{k}={shlex.quote(v)}" for k, v in demo.environment(anvil.rpc_url).items())
    show(f"{assignments} chainfl task list")


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
