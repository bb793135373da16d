"""The command as a whole: quick help, lazy imports, exit codes and hints."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_fakes import isolate

from chainfl.cli import main
from chainfl.cli.main import COMMANDS, cli, run
from chainfl.errors import ChainflError, Interrupted, RpcUnreachable, StakeTooLow

HELP_BUDGET_S = 0.5
HEAVY = ("torch", "web3", "sklearn", "matplotlib", "eth_account")
LOADED = f"import sys; print(sorted(set(sys.modules) & set({HEAVY!r})))"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help__fresh_process__takes_less_than_half_a_second_of_processor():
    # Processor time and not wall time: a busy machine is not the command's fault.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "chainfl.cli.main", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert b"chainfl demo" in done.stdout
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < HELP_BUDGET_S


def test_help__fresh_process__imports_nothing_heavy():
    assert python(f"from chainfl.cli.main import run; run(['--help']); {LOADED}").strip().endswith("[]")


def test_commands__imported__bring_nothing_heavy_along():
    modules = {target.partition(":")[0] for target, _ in COMMANDS.values()}
    assert python("".join(f"import {name}\n" for name in sorted(modules)) + LOADED).strip() == "[]"


def test_version__asked__is_the_packages(capsys):
    assert run(["--version"]) == 0
    assert re.search(r"chainfl.*\d+\.\d+", capsys.readouterr().out)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


@pytest.mark.parametrize(
    ("path", "command"), commands(cli), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_help__every_command__has_a_line_and_an_example(path, command, capsys):
    assert run([*path, "--help"]) == 0
    assert command.help
    assert "Example: " in (command.epilog or ""), path
    assert f"chainfl {' '.join(path)}" in command.epilog or path[0] in command.epilog


@pytest.mark.parametrize(
    "path",
    [
        "doctor", "init", "faucet", "deploy", "demo", "local new", "local up", "completion",
        "keys new", "keys import", "keys list",
        "task create", "task list", "task show", "task watch", "task cancel",
        *(f"{role} {verb}" for role in ("worker", "validator", "aggregator") for verb in ("run", "leave", "rejoin")),
        "stake deposit", "stake withdraw", "stake status", "rewards claim",
        *(f"model {verb}" for verb in ("list", "show", "lineage", "verify", "pull", "grant")),
        "round replay", "store add", "store get", "store cid",
    ],
)  # fmt: skip
def test_commands__that_people_are_told_of__exist(path):
    assert tuple(path.split()) in dict(commands(cli))


READING = ["doctor", "keys list", "task list", "task show", "task watch", "stake status", "model list", "model show",
           "model lineage", "model verify", "round replay", "store add", "store cid"]  # fmt: skip
SPENDING = ["faucet", "deploy", "task create", "task cancel", "stake deposit", "stake withdraw", "rewards claim",
            "model grant", "worker leave", "worker rejoin", "validator leave", "aggregator rejoin"]  # fmt: skip


@pytest.mark.parametrize("path", READING)
def test_reading_commands__all__have_json(path):
    assert "--json" in options_of(path)


@pytest.mark.parametrize("path", SPENDING)
def test_spending_commands__all__have_dry_run_and_yes(path):
    assert {"--dry-run", "--yes"} <= options_of(path)


def options_of(path: str) -> set[str]:
    command = dict(commands(cli))[tuple(path.split())]
    return {option for parameter in command.params for option in parameter.opts}


def raising(error: BaseException):
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RpcUnreachable("no answer", tx_hash="0xabc"), 21, "transaction: 0xabc"),
        (RpcUnreachable("no answer"), 21, "hint: Check the `rpc` setting"),
        (StakeTooLow("too little", missing=5 * 10**17), 32, "hint: Top up with `chainfl stake deposit 0.5`."),
        (ChainflError("something"), 1, "error: something"),
        (Interrupted("stopped; nothing is at risk"), 130, "stopped; nothing is at risk"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.UsageError("no such thing"), 2, "no such thing"),
    ],
)
def test_run__an_error__ends_in_its_line_its_hint_and_its_exit_code(error, code, told, monkeypatch, capsys):
    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: raising(error))
    assert run(["doctor"]) == code
    assert told in capsys.readouterr().err


def test_run__stopped_by_request__is_not_told_as_an_error(monkeypatch, capsys):
    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: raising(Interrupted("stopped")))
    run(["doctor"])
    assert "error" not in capsys.readouterr().err


def test_run__no_such_command__is_a_usage_error(capsys):
    assert run(["teleport"]) == 2
    assert "teleport" in capsys.readouterr().err


def test_run__reader_gone__ends_quietly(monkeypatch):
    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: raising(BrokenPipeError()))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert run(["doctor"]) == main.BROKEN_PIPE_EXIT


def test_run__several_problems_of_configuration__are_all_told(monkeypatch, capsys, tmp_path: Path):
    isolate(monkeypatch, tmp_path)
    (tmp_path / "chainfl.toml").write_text('network = "mars"\nkubo_api = "x"\nsuprise = 1\n')
    assert run(["keys", "list"]) == 10
    told = capsys.readouterr().err
    assert all(word in told for word in ("network", "kubo_api", "suprise"))


def test_shell_complete__names__imports_no_command(monkeypatch):
    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: pytest.fail("a command was imported"))
    found = cli.shell_complete(click.Context(cli), "st")
    assert [item.value for item in found] == ["stake", "store"]
