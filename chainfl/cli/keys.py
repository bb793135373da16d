"""`chainfl keys`: encrypted keystore files. A private key is never an argument, and never printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import json_option
from chainfl.cli.output import is_interactive, say, show, show_json, show_table
from chainfl.errors import KeyfileError

NO_PASSWORD_HINT = "there is no terminal to ask for a password on; set CHAINFL_KEY_PASSWORD"


@click.group()
def keys() -> None:
    """Make, import and list keys.

    Each is an encrypted file (v3 JSON) that other wallets read, too. For automation, CHAINFL_KEY_PASSWORD holds the
    password, or CHAINFL_PRIVATE_KEY the key itself.
    """


@keys.command(epilog="Example: chainfl keys new worker")
@click.argument("name")
@click.option("--no-password", is_flag=True, help="Empty password, quick to open: for a local chain only.")
@json_option
@pass_app
def new(app: App, name: str, no_password: bool, as_json: bool) -> None:
    """Make a key and store it encrypted under NAME."""
    from chainfl.chain.keys import Keystore

    keystore = Keystore(app.settings.keys_dir)
    _require_free(keystore.folder, name)
    password = "" if no_password else new_password()
    key = keystore.new(name, password, throwaway=no_password)
    _tell_stored(key.name, key.address, key.path, as_json)


@keys.command("import", epilog="Example: chainfl keys import worker   (asks for the private key)")
@click.argument("name")
@click.option(
    "--keyfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another wallet's encrypted file (v3 JSON) instead of a private key.",
)
@json_option
@pass_app
def import_(app: App, name: str, keyfile: Path | None, as_json: bool) -> None:
    """Store an existing key under NAME. The private key comes from a prompt, or from standard input."""
    from chainfl.chain.keys import Keystore

    keystore = Keystore(app.settings.keys_dir)
    _require_free(keystore.folder, name)
    if keyfile is not None:
        source_password = _ask(f"Password of {keyfile.name}")
        key = keystore.import_keyfile(name, keyfile, source_password, new_password())
    else:
        private_key = _read_private_key()
        key = keystore.import_key(name, private_key, new_password())
    _tell_stored(key.name, key.address, key.path, as_json)


@keys.command("list", epilog="Example: chainfl keys list --json")
@json_option
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List the keys by name and address; nothing is decrypted."""
    from chainfl.chain.keys import Keystore

    found = Keystore(app.settings.keys_dir).list()
    if as_json:
        show_json([{"name": key.name, "address": key.address, "path": str(key.path)} for key in found])
        return
    if not found:
        say(f"no keys in {app.settings.keys_dir}; make one with `chainfl keys new NAME`")
        return
    show_table(["name", "address"], [(key.name, key.address) for key in found])


def new_password() -> str:
    """A password for a new key: CHAINFL_KEY_PASSWORD, or asked twice. Raises KeyfileError without a terminal."""
    from chainfl.chain.keys import PASSWORD_VARIABLE

    given = os.environ.get(PASSWORD_VARIABLE)
    if given is not None:
        return given
    if not is_interactive():
        raise KeyfileError(NO_PASSWORD_HINT)
    password: str = click.prompt("New password", hide_input=True, confirmation_prompt="Again", err=True)
    return password


def _ask(question: str) -> str:
    if not is_interactive():
        raise KeyfileError(NO_PASSWORD_HINT)
    answer: str = click.prompt(question, hide_input=True, err=True)
    return answer


def _read_private_key() -> str:
    if is_interactive():
        return _ask("Private key (hexadecimal, not shown)")
    text = sys.stdin.readline().strip()
    if not text:
        raise KeyfileError("no private key on standard input")
    return text


def _require_free(folder: Path, name: str) -> None:
    """Told before anybody types a password. Raises KeyfileError."""
    if (folder / f"{name}.json").exists():
        raise KeyfileError(f"there is already a key {name} in {folder}", key=name)


def _tell_stored(name: str, address: str, path: Path, as_json: bool) -> None:
    if as_json:
        show_json({"name": name, "address": address, "path": str(path)})
        return
    show(address)
    say(f"key {name} in {path}; back this file up, and its password: nobody can restore them")
