"""Keys: encrypted keystore files (v3 JSON) in one folder, or an environment variable for automation.

A private key is never printed, never in a repr, never in a configuration file and never in an error message.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from eth_account import Account
from eth_account.signers.local import LocalAccount

from chainfl.errors import KeyfileError, WrongPassword
from chainfl.types import Address

PRIVATE_KEY_VARIABLE: Final = "CHAINFL_PRIVATE_KEY"
PASSWORD_VARIABLE: Final = "CHAINFL_KEY_PASSWORD"

MAX_KEYFILE_BYTES: Final = 16_384
THROWAWAY_SCRYPT_N: Final = 4_096
"""For keys of a local chain that dies with its folder: the standard 262,144 takes a second and 256 MB to open."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_PRIVATE_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}", re.ASCII)


class Signer:
    """Signs for one address. Shows nothing but the address, and can't be pickled."""

    __slots__ = ("_account", "address")

    def __init__(self, account: LocalAccount) -> None:
        self._account = account
        self.address = Address(account.address)

    @classmethod
    def from_private_key(cls, private_key: str) -> Signer:
        """From 32 bytes in hex, with or without 0x. Raises KeyfileError, which does not repeat what was given."""
        if not _PRIVATE_KEY.fullmatch(private_key.strip()):
            raise KeyfileError("a private key is 64 hexadecimal digits")
        try:
            return cls(Account.from_key(private_key.strip()))
        except Exception:  # noqa: BLE001 - whatever the curve says, the key must not travel along in the traceback
            raise KeyfileError("not a private key of secp256k1") from None

    def sign_transaction(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """The raw signed transaction and its hash in hex."""
        signed = self._account.sign_transaction(dict(transaction))
        return bytes(signed.raw_transaction), "0x" + signed.hash.hex().removeprefix("0x")

    def sign_typed_data(self, message: dict[str, Any]) -> tuple[int, bytes, bytes]:
        """An EIP-712 signature as (v, r, s)."""
        signed = self._account.sign_typed_data(full_message=message)
        return signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")

    def __repr__(self) -> str:
        return f"Signer({self.address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signer is not copied or pickled: it holds a private key")


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as the list shows it."""

    name: str
    address: Address
    path: Path


class Keystore:
    """The keystore files of one folder, one a key, readable by their owner alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self, name: str, password: str, *, throwaway: bool = False) -> KeyInfo:
        """Makes a key. throwaway: opens fast, protects little (local chains only). Raises KeyfileError."""
        return self._write(name, Account.create(), password, throwaway)

    def import_key(self, name: str, private_key: str, password: str, *, throwaway: bool = False) -> KeyInfo:
        """Stores an existing key. Raises KeyfileError when it is malformed or the name is taken."""
        signer = Signer.from_private_key(private_key)
        return self._write(name, signer._account, password, throwaway)

    def import_keyfile(self, name: str, source: Path, source_password: str, password: str) -> KeyInfo:
        """Stores a key from another wallet's v3 file. Raises KeyfileError, WrongPassword."""
        signer = _decrypt(_read(source), source, source_password)
        return self._write(name, signer._account, password, False)

    def list(self) -> tuple[KeyInfo, ...]:
        """The keys in the folder, by name; nothing is decrypted. Raises KeyfileError for a file that is no key."""
        paths = sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []
        return tuple(KeyInfo(path.stem, _address(_read(path), path), path) for path in paths)

    def find(self, name_or_address: str) -> KeyInfo:
        """The key of this name or address. Raises KeyfileError."""
        wanted = name_or_address.lower()
        for key in self.list():
            if key.name == name_or_address or key.address.lower() == wanted:
                return key
        raise KeyfileError(f"there is no key {name_or_address} in {self.folder}", key=name_or_address)

    def load(self, name_or_address: str, password: str) -> Signer:
        """Opens a key. Raises KeyfileError, WrongPassword."""
        path = self.find(name_or_address).path
        return _decrypt(_read(path), path, password)

    def _write(self, name: str, account: LocalAccount, password: str, throwaway: bool) -> KeyInfo:
        if not _NAME.fullmatch(name):
            raise KeyfileError(f"{name!r} is not a name for a key: letters, digits, dot, dash, underscore", key=name)
        path = self.folder / f"{name}.json"
        encrypted = account.encrypt(password, iterations=THROWAWAY_SCRYPT_N if throwaway else None)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_new(path, json.dumps(encrypted))
        except FileExistsError as error:
            raise KeyfileError(f"there is already a key {name} in {self.folder}", key=name) from error
        except OSError as error:
            raise KeyfileError(f"cannot write {path}: {error.strerror}", path=str(path)) from error
        return KeyInfo(name, Address(account.address), path)


def signer_from_environment(environment: Mapping[str, str] = os.environ) -> Signer | None:
    """The key in CHAINFL_PRIVATE_KEY, if there is one. Raises KeyfileError."""
    text = environment.get(PRIVATE_KEY_VARIABLE)
    if not text:
        return None
    try:
        return Signer.from_private_key(text)
    except KeyfileError as error:
        raise KeyfileError(f"{PRIVATE_KEY_VARIABLE}: {error}") from None


def open_signer(
    key: str | None,
    keys_dir: Path,
    ask_password: Callable[[KeyInfo], str],
    environment: Mapping[str, str] = os.environ,
) -> Signer:
    """The signer that the operator means.

    CHAINFL_PRIVATE_KEY first; then the keystore file named `key`, or the only one in the folder. Its password comes
    from CHAINFL_KEY_PASSWORD, or from `ask_password`. Raises KeyfileError, WrongPassword.
    """
    signer = signer_from_environment(environment)
    if signer is not None:
        return signer
    info = Keystore(keys_dir).find(key) if key else _only_key(Keystore(keys_dir))
    password = environment.get(PASSWORD_VARIABLE)
    return _decrypt(_read(info.path), info.path, ask_password(info) if password is None else password)


def _only_key(keystore: Keystore) -> KeyInfo:
    keys = keystore.list()
    if len(keys) == 1:
        return keys[0]
    if not keys:
        raise KeyfileError(f"there is no key in {keystore.folder}")
    raise KeyfileError(f"choose one of the keys {', '.join(key.name for key in keys)} with `key`")


def _write_new(path: Path, text: str) -> None:
    """Creates the file with mode 0600 from its first byte on; never replaces one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_KEYFILE_BYTES + 1)
    except OSError as error:
        raise KeyfileError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    try:
        document = json.loads(raw) if len(raw) <= MAX_KEYFILE_BYTES else None
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("version") != 3:
        raise KeyfileError(f"{path} is not a keystore file (v3 JSON)", path=str(path))
    return document


def _address(document: dict[str, Any], path: Path) -> Address:
    from eth_utils.address import is_address, to_checksum_address

    text = document.get("address")
    if not isinstance(text, str) or not is_address(text):
        raise KeyfileError(f"{path} does not say its address", path=str(path))
    return Address(to_checksum_address(text))


def _decrypt(document: dict[str, Any], path: Path, password: str) -> Signer:
    try:
        private_key = Account.decrypt(document, password)
    except ValueError as error:
        if "MAC mismatch" in str(error):
            raise WrongPassword(f"the password does not open {path.name}", path=str(path)) from None
        raise KeyfileError(f"{path} is damaged", path=str(path)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise KeyfileError(f"{path} is damaged", path=str(path)) from error
    return Signer(Account.from_key(private_key))
