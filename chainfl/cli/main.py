"""The `chainfl` command: one click group whose commands are imported only when they are called.

`chainfl --help` must answer at once, so this module imports neither torch nor web3, and a command's module is named
here together with the line that the help shows for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

import click
from click.shell_completion import CompletionItem

from chainfl import __version__
from chainfl.cli.output import fail, say
from chainfl.errors import ChainflError, Interrupted

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("chainfl.cli.demo:demo", "Watch independent workers train one model on a local chain."),
    "simulate": ("chainfl.cli.simulate:simulate", "Try a strategy without a chain: partition, metrics, files."),
    "doctor": ("chainfl.cli.doctor:doctor", "Check chain, contracts, balance, stake, store and torch."),
    "init": ("chainfl.cli.setup:init", "Write a commented configuration file."),
    "keys": ("chainfl.cli.keys:keys", "Make, import and list keys."),
    "faucet": ("chainfl.cli.money:faucet", "Draw training tokens on a test network."),
    "deploy": ("chainfl.cli.deploy:deploy", "Deploy the contracts and record where they are."),
    "local": ("chainfl.cli.local:local", "Make a local chain, or start one again."),
    "task": ("chainfl.cli.task:task", "Create, list, show, watch and cancel tasks."),
    "worker": ("chainfl.cli.agents:worker", "Train: run a worker; leave or rejoin a task."),
    "validator": ("chainfl.cli.agents:validator", "Score updates: run a validator; leave or rejoin a task."),
    "aggregator": ("chainfl.cli.agents:aggregator", "Compute global models: run an aggregator; leave or rejoin."),
    "watch": ("chainfl.cli.watch:watch", "Keep models right: recompute what others claim, and dispute what is wrong."),
    "stake": ("chainfl.cli.money:stake", "Deposit, withdraw and look at stake."),
    "rewards": ("chainfl.cli.money:rewards", "Claim what was earned."),
    "model": ("chainfl.cli.model:model", "Ask the registry where a model came from, verify it, fetch it."),
    "round": ("chainfl.cli.round:round_", "Recompute a round from public data."),
    "data": ("chainfl.cli.data:data", "Publish data sets as shards, look at them, fetch them."),
    "store": ("chainfl.cli.store:store", "Add, fetch and identify content."),
    "completion": ("chainfl.cli.setup:completion", "Print the shell completion script."),
}

BROKEN_PIPE_EXIT = 141
"""128 + SIGPIPE, as a shell reports a program that was cut off by `| head`."""


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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click would import every command for its help line.
        names = [CompletionItem(n, help=line) for n, (_, line) in COMMANDS.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


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


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. returns: the exit code; every known error is told in one line with a hint.

    arguments: those after the program's name; None for the process's own.
    """
    try:
        code = cli.main(list(arguments) if arguments is not None else None, prog_name="chainfl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ChainflError as error:
        return fail(error)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("")
        return fail(Interrupted("interrupted"))
    except BrokenPipeError:
        # The reader went away. Python would complain once more when it flushes at exit.
        sys.stdout = None
        return BROKEN_PIPE_EXIT


def main() -> None:
    """The program's entry point."""
    sys.exit(run())


if __name__ == "__main__":
    main()
