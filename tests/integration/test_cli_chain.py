"""The command line against a real chain: every way in which an operator's set-up can be wrong, and the way through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anvil import LocalChain, expect_sent, task_params

from chainfl.agents.requester import publish_task
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import TOKEN, Deployment, deploy
from chainfl.chain.keys import Keystore, Signer
from chainfl.chain.networks import LOCAL
from chainfl.cli.main import run
from chainfl.cli.output import Money
from chainfl.cli.task_file import draft_of, task_file
from chainfl.storage.embedded import EmbeddedStore
from chainfl.types import Address

KEY = "0x" + "42" * 32
ELSEWHERE = Address("0x" + "5" * 40)


class Operator:
    """One operator's folder and key. Runs `chainfl` in this process; out, err: of the last command."""

    def __init__(self, chain: LocalChain, folder: Path, monkeypatch, capsys, private_key: str) -> None:
        self.chain, self.folder, self._capsys, self._monkeypatch = chain, folder, capsys, monkeypatch
        for name in [name for name in os.environ if name.startswith("CHAINFL_")]:
            monkeypatch.delenv(name)
        for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HOME"):
            monkeypatch.setenv(name, str(folder))
        monkeypatch.chdir(folder)
        monkeypatch.setenv("CHAINFL_PRIVATE_KEY", private_key)
        self.signer = Signer.from_private_key(private_key)
        self.record(chain.deployment)
        self.configure()
        self.out = self.err = ""

    def record(self, deployment: Deployment) -> None:
        """What the deployment file says from here on."""
        deployment.save(self.folder / "deployment.json")

    def configure(self, **changes: object) -> None:
        """What chainfl.toml says from here on."""
        settings = {"rpc": self.chain.anvil.rpc_url, "deployment": "deployment.json", "store_dir": "store", **changes}
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        (self.folder / "chainfl.toml").write_text(text)

    def __call__(self, *arguments: str) -> int:
        self._capsys.readouterr()
        code = run(arguments)
        self.out, self.err = self._capsys.readouterr()
        return code

    def act_as(self, signer_key: str) -> None:
        """Another key from here on."""
        self._monkeypatch.setenv("CHAINFL_PRIVATE_KEY", signer_key)


@pytest.fixture
def operator(chain: LocalChain, tmp_path, monkeypatch, capsys) -> Operator:
    """An operator with ether and no tokens."""
    made = Operator(chain, tmp_path, monkeypatch, capsys, "0x" + os.urandom(32).hex())
    chain.anvil.fund(made.signer.address, 10**19)
    return made


def rich(operator: Operator, tokens: int) -> Operator:
    """The same with tokens in its wallet."""
    bank = operator.chain.open(operator.chain.deployer)
    expect_sent(bank.transfer(operator.signer.address, tokens * TOKEN))
    return operator


# --- what can be wrong -----------------------------------------------------------------------------


def test_rpc__nobody_answers__has_its_exit_code(operator):
    operator.configure(rpc="http://127.0.0.1:9")
    assert operator("task", "list") == 21
    assert "`rpc`" in operator.err


def test_chain_id__another__has_its_exit_code(operator):
    operator.configure(chain_id=31_338)
    assert operator("task", "list") == 22
    assert "31338" in operator.err


def test_deployment__on_another_chain__has_its_exit_code(operator):
    operator.record(replace(operator.chain.deployment, chain_id=5))
    assert operator("task", "list") == 22


def test_deployment__no_file__says_how_to_get_one(operator):
    (operator.folder / "deployment.json").unlink()
    assert operator("task", "list") == 23
    assert "chainfl deploy" in operator.err


def test_contract__no_code_at_the_address__has_its_exit_code(operator):
    operator.record(replace(operator.chain.deployment, coordinator=ELSEWHERE))
    assert operator("task", "list") == 23
    assert ELSEWHERE in operator.err


def test_contract__something_else_at_the_address__has_its_exit_code(operator):
    operator.record(replace(operator.chain.deployment, coordinator=operator.chain.deployment.token))
    assert operator("task", "list") == 24


def test_contracts__of_two_deployments__do_not_pass(operator):
    other = deploy(operator.chain.client, operator.chain.deployer, unbonding_s=60)
    operator.record(replace(operator.chain.deployment, vault=other.vault))
    assert operator("stake", "status") == 36


def test_balance__no_ether__has_its_exit_code(operator):
    rich(operator, 5)
    operator.chain.anvil.fund(operator.signer.address, 0)
    assert operator("stake", "deposit", "1", "--yes") == 25
    assert operator.signer.address in operator.err


def test_balance__no_tokens__has_its_exit_code(operator):
    assert operator("stake", "deposit", "1", "--yes") == 26


def test_stake__more_than_is_free__has_its_exit_code(operator):
    assert operator("stake", "withdraw", "1", "--yes") == 32


def test_key__wrong_password__has_its_exit_code(operator, monkeypatch):
    Keystore(operator.folder / "chainfl" / "keys").import_key("bob", KEY, "right", throwaway=True)
    monkeypatch.delenv("CHAINFL_PRIVATE_KEY")
    monkeypatch.setenv("CHAINFL_KEY_PASSWORD", "wrong")
    assert operator("faucet", "--yes") == 13
    assert "42424242" not in operator.err


def published(operator: Operator, **changes: object) -> str:
    """A task whose specification is in the operator's store; on chain, `changes` make it another."""
    reader = operator.chain.operator(stake=100)
    file = task_file({}, {"preset": "digits", "reward": "10"})
    draft = draft_of(file, now=operator.chain.now(), windows=LOCAL.windows, money=Money())
    spec = publish_task(draft, EmbeddedStore(operator.folder / "store"))
    return str(reader.created_task(expect_sent(reader.create_task(replace(spec.to_params(), **changes)))))


def test_task__contradicts_its_specification__is_shown_as_such_and_not_run(operator):
    task_id = published(operator, rounds=3)
    assert operator("task", "show", task_id) == 0
    assert (
        "cannot be shown: the specification contradicts the task on chain: rounds: 10 here, 3 on chain" in operator.out
    )
    assert operator("worker", "run", "--task", task_id, "--dataset", "digits", "--shard", "1/2") == 41
    assert "Do not take part" in operator.err
    assert operator("model", "verify", task_id) == 81
    assert operator("model", "pull", task_id) == 41


def test_task__specification_is_nowhere__has_its_exit_code(operator):
    chain = operator.chain
    requester = chain.operator(stake=1_000)
    task_id = str(requester.created_task(expect_sent(requester.create_task(task_params(chain)))))
    assert operator("task", "show", task_id) == 0
    assert "cannot be shown" in operator.out
    assert operator("model", "pull", task_id) == 63


def test_worker__no_stake_for_the_task__has_its_exit_code(operator):
    task_id = published(operator)
    assert operator("worker", "run", "--task", task_id, "--dataset", "digits", "--shard", "1/2") == 32
    assert "chainfl stake deposit 100`" in operator.err


def test_worker__data_that_are_not_there__has_its_exit_code(operator):
    assert operator("worker", "run", "--data", "nothing") == 71
    assert operator("worker", "run", "--dataset", "digits", "--shard", "3/2") == 11


def test_worker__leaves_a_task_that_has_not_started__is_told_the_phase(operator):
    assert operator("worker", "leave", published(operator), "--yes") == 31
    assert "task show" in operator.err


def test_task__unknown__has_its_exit_code(operator):
    assert operator("task", "show", "9999") == 11
    assert operator("task", "watch", "9999") == 11
    assert operator("model", "show", "ab" * 32) == 80


def test_doctor__contracts_missing__checks_the_rest_and_fails(operator):
    operator.record(replace(operator.chain.deployment, coordinator=ELSEWHERE))
    assert operator("doctor", "--json") == 1
    found = {check["what"]: check["ok"] for check in json.loads(operator.out)["checks"]}
    assert found["contracts"] is False
    assert found["tokens and stake"] is None
    assert found["store"]
    assert found["balance for gas"]


# --- the way through -------------------------------------------------------------------------------


def test_doctor__everything_there__passes(operator):
    rich(operator, 5)
    assert operator("doctor") == 0
    assert "✗" not in operator.out


def test_money__faucet_deposit_withdraw__end_where_they_began(operator):
    assert operator("faucet", "--yes") == 0
    assert operator("faucet", "--yes") == 34
    assert operator("stake", "deposit", "100", "--dry-run") == 0
    assert operator("stake", "deposit", "100", "--yes", "--json") == 0
    assert len(json.loads(operator.out)["transactions"]) == 1, "the permit needs no approval"
    assert operator("stake", "withdraw", "--all", "--yes") == 0
    assert operator("stake", "status", "--json") == 0
    assert json.loads(operator.out)["stake"]["token_balance"] == 1_000 * TOKEN


def test_task__created_and_cancelled__refunds_all_of_it(operator):
    rich(operator, 100)
    create = ("task", "create", "--preset", "digits", "--reward", "60", "--workers", "2", "--enrolment", "1h")
    assert operator(*create, "--dry-run") == 0
    assert operator(*create, "--yes", "--json") == 0
    task_id = str(json.loads(operator.out)["task_id"])
    assert operator("task", "show", task_id, "--json") == 0
    shown = json.loads(operator.out)
    assert shown["specification"]["dataset"]["name"] == "digits"
    assert shown["task"]["reward"] == 60 * TOKEN
    assert operator("model", "verify", task_id, "--json") == 0
    assert operator("model", "pull", task_id, "--out", "m.safetensors") == 0
    assert operator("model", "restrict", task_id, "--yes") == 0
    assert operator("model", "grant", task_id, ELSEWHERE, "--yes") == 0
    assert operator("model", "show", task_id, "--account", ELSEWHERE, "--json") == 0
    assert json.loads(operator.out)["has_access"] is True
    assert operator("task", "cancel", task_id, "--yes") == 0
    assert operator("task", "watch", task_id) == 0
    assert "cancelled; 60 CFL refunded" in operator.out
    assert operator("rewards", "claim", "--yes") == 0
    assert operator("stake", "status", "--json") == 0
    assert json.loads(operator.out)["stake"]["token_balance"] == 100 * TOKEN


def test_pull__float32__is_an_ordinary_safetensors_file(operator):
    from safetensors.numpy import load_file

    rich(operator, 10)
    assert operator("task", "create", "--preset", "digits", "--reward", "10", "--yes", "--json") == 0
    task_id = str(json.loads(operator.out)["task_id"])
    assert operator("model", "pull", task_id, "--out", "m.safetensors") == 0
    tensors = load_file(operator.folder / "m.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    damaged = next(path for path in (operator.folder / "store" / "objects").rglob("b*") if path.stat().st_size > 10**5)
    damaged.chmod(0o600)
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    codes = {operator("model", "pull", task_id, "--out", f"n{n}", *flags) for n, flags in enumerate([(), ("--exact",)])}
    assert codes <= {0, 62}


def test_deploy__fresh_path__records_what_works(operator):
    assert operator("deploy", "--out", "new.json", "--dry-run") == 0
    assert not (operator.folder / "new.json").exists()
    assert operator("deploy", "--out", "new.json", "--yes", "--json") == 0
    assert json.loads(operator.out)["deployment"]["deployer"] == operator.signer.address
    operator.configure(deployment="new.json")
    assert operator("task", "list") == 0
    assert operator("deploy", "--out", "new.json", "--yes") == 11, "a recorded deployment is never replaced"


def test_deploy__no_ether__sends_nothing(operator):
    operator.chain.anvil.fund(operator.signer.address, 10**12)
    assert operator("deploy", "--out", "new.json", "--yes") == 25
    assert not (operator.folder / "new.json").exists()


# --- local chains: a demo's, started again ---------------------------------------------------------


@contextmanager
def local_chain(*arguments: str) -> Iterator[dict[str, Any]]:
    """`chainfl local …` until it is stopped by a signal; what its JSON says."""
    command = [sys.executable, "-m", "chainfl.cli.main", "local", *arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture
def demo(tmp_path) -> Path:
    """What `chainfl demo` leaves, as far as its chain goes."""
    folder = tmp_path / "demo"
    with AnvilProcess(folder / "chain", block_time_s=None, keep_state=True) as anvil:
        deployer = Signer.from_private_key(anvil.private_keys[0])
        deploy(ChainClient(anvil.rpc_url), deployer, unbonding_s=60, path=folder / "deployment.json")
        (folder / "chainfl.toml").write_text(f'rpc = "{anvil.rpc_url}"\ndeployment = "deployment.json"\n')
    return folder


def test_local_up__until_a_signal__serves_the_saved_chain(demo, monkeypatch, capsys):
    with local_chain("up", str(demo)) as told:
        for name, value in told["environment"].items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        assert run(["task", "list", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []
        assert run(["local", "up", str(demo)]) == 11, "one chain a folder"


# --- a chain of one's own --------------------------------------------------------------------------


def test_local_new__then_up__is_one_chain_with_contracts_and_accounts_that_can_stake(tmp_path, monkeypatch, capsys):
    def told(*arguments: str) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def stake(account: dict[str, str]) -> dict[str, Any]:
        return told("stake", "status", "--account", account["address"])["stake"]

    folder = tmp_path / "parent" / "mine"
    with local_chain("new", str(folder)) as made:
        accounts = made["accounts"]
        assert len(accounts) == 10
        for name, value in (made["environment"] | {"CHAINFL_PRIVATE_KEY": accounts[1]["private_key"]}).items():
            monkeypatch.setenv(name, value)
        assert told("task", "list") == []
        assert run(["stake", "deposit", "300", "--yes"]) == 0
        assert run(["local", "new", str(folder)]) == 11, "a folder with a chain is left alone"
        wallets = [stake(account)["token_balance"] for account in accounts]
        assert wallets[1:] == [9_700 * TOKEN] + [10_000 * TOKEN] * 8
        assert wallets[0] >= 10_000 * TOKEN
    with local_chain("up", str(folder)) as again:
        monkeypatch.setenv("CHAINFL_RPC", again["rpc"])
        assert again["environment"]["CHAINFL_CONFIG"] == made["environment"]["CHAINFL_CONFIG"]
        assert (stake(accounts[1])["free"], stake(accounts[1])["token_balance"]) == (300 * TOKEN, 9_700 * TOKEN)
        assert run(["stake", "deposit", "5", "--yes"]) == 0, "there is ether for gas, and blocks come"


def test_local_new__then_a_task__needs_no_flags_in_the_folder(tmp_path, monkeypatch):
    with local_chain("new", str(tmp_path / "mine")) as made:
        for name in [name for name in os.environ if name.startswith("CHAINFL_")]:
            monkeypatch.delenv(name)
        monkeypatch.chdir(tmp_path / "mine")
        monkeypatch.setenv("CHAINFL_PRIVATE_KEY", made["accounts"][1]["private_key"])
        assert run(["task", "create", "--preset", "digits", "--reward", "1000", "--yes"]) == 0
        assert (tmp_path / "mine" / "store").is_dir()
