"""Options and arguments that several commands share."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

import click

from chainfl.types import Address, Cid, CompressionName, ModelId, TaskId

COMPRESSIONS: Final = get_args(CompressionName)
"""What --compression takes."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


class _TaskId(click.ParamType):
    name = "TASK"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TaskId:
        text = str(value).removeprefix("#")
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**256:
            self.fail(f"{value!r} is not a task's number; see `chainfl task list`", param, ctx)
        return TaskId(int(text))


class _ModelIdType(click.ParamType):
    name = "MODEL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ModelId:
        if isinstance(value, bytes):
            return ModelId(value)
        text = str(value).removeprefix("0x")
        if not re.fullmatch("[0-9a-fA-F]{64}", text):
            self.fail(f"{value!r} is not a model's id (64 hexadecimal digits); see `chainfl model list`", param, ctx)
        return ModelId(bytes.fromhex(text))


class _AddressType(click.ParamType):
    name = "ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        # Not imported at the top: it pulls in the chain's libraries, and --help must stay quick.
        from eth_utils.address import is_checksum_formatted_address, to_checksum_address

        text = str(value)
        if not re.fullmatch("0x[0-9a-fA-F]{40}", text):
            self.fail(f"{text!r} is not an address", param, ctx)
        checked = to_checksum_address(text)
        if is_checksum_formatted_address(text) and text != checked:
            self.fail(f"{text} is not an address: its checksum is wrong, so it is mistyped", param, ctx)
        return Address(checked)


class _CidType(click.ParamType):
    name = "CID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Cid:
        from chainfl.storage.cid import parse_cid

        # Raises InvalidCid, which has an exit code and words of its own.
        return parse_cid(str(value))


TASK = _TaskId()
MODEL = _ModelIdType()
ADDRESS = _AddressType()
CID = _CidType()

account_option = click.option("--account", type=ADDRESS, help="Whose; default: the chosen key's.")
