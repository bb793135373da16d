"""The `chainfl` command: one click group whose commands are imported only when they are called.

`chainfl --help` must answer at once, so this module imports neither torch nor web3, and a command's module is named
here together with the line that the help shows for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

import click

from chainfl import __version__
from chainfl.cli.output import fail
from chainfl.errors import ChainflError, Interrupted

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("chainfl.cli.demo:demo", "Watch independent workers train one model on a local chain."),
    "doctor": ("chainfl.cli.doctor:doctor", "Check chain, contracts, balance, stake, store and torch."),
    "init": ("chainfl.cli.setup:init", "Write a commented configuration file."),
    "keys": ("chainfl.cli.keys:keys", "Make, import and list keys."),
    "faucet": ("chainfl.cli.money:faucet", "Draw training tokens on a test network."),
    "deploy": ("chainfl.cli.setup:deploy", "Deploy the contracts and record where they are."),
    "local": ("chainfl.cli.local:local", "Start the local chain of a demo folder again."),
    "task": ("chainfl.cli.task:task", "Create, list, show, watch and cancel tasks."),
    "worker": ("chainfl.cli.agents:worker", "Train: run a worker; leave or rejoin a task."),
    "validator": ("chainfl.cli.agents:validator", "Score updates: run a validator; leave or rejoin a task."),
    "aggregator": ("chainfl.cli.agents:aggregator", "Compute global models: run an aggregator; leave or rejoin."),
    "stake": ("chainfl.cli.money:stake", "Deposit, withdraw and look at stake."),
    "rewards": ("chainfl.cli.money:rewards", "Claim what was earned."),
    "model": ("chainfl.cli.model:model", "Ask the registry where a model came from, verify it, fetch it."),
    "round": ("chainfl.cli.model:round_", "Recompute a round from public data."),
    "store": ("chainfl.cli.store:store", "Add, fetch and identify content."),
    "completion": ("chainfl.cli.setup:completion", "Print the shell completion script."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules that are not imported until needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="chainfl")
@click.option("--config", type=click.Path(dir_okay=False), envvar="CHAINFL_CONFIG", help="Configuration file (TOML).")
@click.option("--network", help="Named network (local, sepolia, hoodi, base-sepolia, op-sepolia).")
@click.option("--rpc", help="URL of the chain's RPC endpoint.")
@click.option("--key", help="Name of the key to sign with (see `chainfl keys list`).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much agents say.")
@click.pass_context
def cli(ctx: click.Context, /, **flags: str | None) -> None:
    """Strangers train a model together; contracts hold them to it.

    Configuration comes from one TOML file (chainfl.toml, or --config), then CHAINFL_* variables, then flags.
    Results go to standard output, everything else to standard error.

    Start with `chainfl demo`.
    """
    ctx.obj = {name: value for name, value in flags.items() if value is not None}


def main() -> None:
    """Entry point: every known error ends in one line, a hint, and its own exit code."""
    try:
        cli.main(prog_name="chainfl", standalone_mode=False)
    except ChainflError as error:
        sys.exit(fail(error))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(fail(Interrupted("interrupted")))
