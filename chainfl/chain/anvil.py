"""A local Anvil chain as a child process: a port that the system picks, readiness awaited, state kept, clean stop."""

from __future__ import annotations

import contextlib
import http.client
import json
import platform
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from chainfl.errors import LocalChainError, PrerequisiteMissing

LOCAL_CHAIN_ID: Final = 31_337
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 20.0
STATE_INTERVAL_S: Final = 10
"""How much of a chain a power cut may cost: the state file is also written at every clean stop."""

_LISTENING: Final = re.compile(rb"Listening on \S*:(\d+)")


def find_anvil(start: Path | None = None) -> Path:
    """The Anvil binary: of the repository that `start` (default: this package, then the current folder) lies in,
    or on PATH. Raises PrerequisiteMissing."""
    for root in [start] if start else [Path(__file__).resolve(), Path.cwd()]:
        for folder in (root, *root.parents):
            binary = _npm_binary(folder / "node_modules")
            if binary is not None:
                return binary
    on_path = shutil.which("anvil")
    if on_path is None:
        raise PrerequisiteMissing("Anvil is not installed: npm's @foundry-rs/anvil, or `anvil` on PATH")
    return Path(on_path)


def _npm_binary(node_modules: Path) -> Path | None:
    """The native binary itself, not npm's launcher: a signal must reach the chain and not a script in front of it."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"anvil-{platform.system().lower()}-{machine}"
    path = node_modules / "@foundry-rs" / name / "bin" / "anvil"
    return path if path.is_file() else None


class AnvilProcess:
    """One Anvil chain; use it as a context manager.

    folder: holds `anvil.log`, the accounts it made, and with `keep_state` the chain's state, from which the next
    start carries on. block_time_s: a block at least this often; with `mixed_mining` also one for each transaction at
    once. None: blocks for transactions only, so the chain's clock stands still while nobody sends. port: 0 for any.
    """

    def __init__(
        self,
        folder: Path,
        *,
        block_time_s: float | None = 1.0,
        mixed_mining: bool = True,
        chain_id: int = LOCAL_CHAIN_ID,
        accounts: int = 10,
        keep_state: bool = False,
        port: int = 0,
        binary: Path | None = None,
        extra_arguments: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.chain_id = chain_id
        self.log_path = folder / "anvil.log"
        self.state_path = folder / "anvil-state.json"
        self.port = port
        self._accounts_path = folder / "anvil-accounts.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._binary = binary
        self._arguments = [
            *_mining_arguments(block_time_s, mixed_mining),
            *("--chain-id", str(chain_id), "--accounts", str(accounts)),
            *(self._state_arguments() if keep_state else ()),
            *extra_arguments,
        ]

    def _state_arguments(self) -> tuple[str, ...]:
        return ("--state", str(self.state_path), "--state-interval", str(STATE_INTERVAL_S))

    @property
    def rpc_url(self) -> str:
        """Where it listens, once started."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def private_keys(self) -> tuple[str, ...]:
        """The public development keys that Anvil funded. Worth nothing on any other chain."""
        return tuple(json.loads(self._accounts_path.read_text(encoding="utf-8"))["private_keys"])

    def start(self) -> Self:
        """Starts it and waits until it answers. Raises PrerequisiteMissing, LocalChainError."""
        binary = self._binary or find_anvil()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._accounts_path.unlink(missing_ok=True)
        command = [str(binary), "--host", "127.0.0.1", "--port", str(self.port), *self._arguments]
        with self.log_path.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal must reach the agents before their chain is gone.
            self._process = subprocess.Popen(
                [*command, "--config-out", str(self._accounts_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends it and waits; the state is written first. Safe to call twice."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def rpc(self, method: str, *params: Any) -> Any:
        """One request to this chain (Anvil's own methods, too). Raises LocalChainError."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failure(f"the local chain does not answer {method}") from error
        finally:
            connection.close()
        if "error" in answer:
            raise self._failure(f"the local chain refused {method}: {answer['error'].get('message')}")
        return answer["result"]

    def advance(self, seconds: int) -> None:
        """Moves the chain's clock and mines a block there."""
        self.rpc("evm_increaseTime", seconds)
        self.rpc("evm_mine")

    def fund(self, address: str, wei: int) -> None:
        """Sets an account's native balance."""
        self.rpc("anvil_setBalance", address, hex(wei))

    def _await_ready(self) -> None:
        """Returns once the port is known and the chain says its id."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.is_running:
                raise self._failure(f"Anvil ended at once: {self._last_words()}")
            found = _LISTENING.search(self.log_path.read_bytes())
            if found is not None:
                self.port = int(found[1])
                with contextlib.suppress(LocalChainError):  # the socket may lag behind the line in the log
                    if int(self.rpc("eth_chainId"), 16) == self.chain_id and self._accounts_path.exists():
                        return
            time.sleep(0.02)
        raise self._failure(f"Anvil was not ready within {START_TIMEOUT_S:.0f} s")

    def _last_words(self) -> str:
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"

    def _failure(self, message: str) -> LocalChainError:
        return LocalChainError(message, log=str(self.log_path))


def _mining_arguments(block_time_s: float | None, mixed_mining: bool) -> list[str]:
    if block_time_s is None:
        return []
    return ["--block-time", f"{block_time_s:g}", *(["--mixed-mining"] if mixed_mining else [])]
