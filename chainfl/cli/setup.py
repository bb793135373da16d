"""`chainfl init` and `chainfl completion`."""

from __future__ import annotations

from pathlib import Path

import click

from chainfl.cli.options import json_option
from chainfl.cli.output import say, show, show_json
from chainfl.errors import ConfigError, UsageError

SHELLS = ("bash", "zsh", "fish")

_WHERE = {
    "bash": 'eval "$(chainfl completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(chainfl completion zsh)"   in ~/.zshrc',
    "fish": "chainfl completion fish > ~/.config/fish/completions/chainfl.fish",
}


@click.command(epilog="Example: chainfl --network sepolia --rpc https://… init")
@click.option(
    "--path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("chainfl.toml"),
    show_default=True,
    help="Where to write it.",
)
@click.option("--user", is_flag=True, help="Write the user's own configuration, used where a folder has none.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@json_option
@click.pass_context
def init(ctx: click.Context, path: Path, user: bool, force: bool, as_json: bool) -> None:
    """Write a commented configuration file: every setting, its default and what it means.

    --network and --rpc before `init` are written into it. Without --force an existing file stays as it is.
    """
    from chainfl.config import FILE_NAME, commented_template, config_home, load_settings

    given = ctx.find_object(dict) or {}
    flags = {name: given[name] for name in ("network", "rpc") if name in given}
    target = config_home() / FILE_NAME if user else path
    if target.exists() and not force:
        raise UsageError(f"{target} is already there; replace it with --force", path=str(target))
    if flags:
        load_settings(flags=flags, environment={}, folder=Path("/"))  # a wrong network or URL is told, not written
    _write(target, commented_template(flags.get("network", "local"), rpc=flags.get("rpc")))
    if as_json:
        show_json({"path": str(target)})
        return
    show(str(target))
    say("next: `chainfl keys new NAME`, then `chainfl doctor`")


@click.command(epilog='Example: eval "$(chainfl completion bash)"')
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    from chainfl.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that are named here"
    maker = kind(cli, {}, "chainfl", "_CHAINFL_COMPLETE")
    # Not `source()`: it starts a bash to look at its version.
    show(maker.source_template % maker.source_vars())
    say(f"to have it always: {_WHERE[shell]}")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", path=str(path)) from error
