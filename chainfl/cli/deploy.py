"""`chainfl deploy`: one set of contracts on a chain, recorded in a file."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import ADDRESS
from chainfl.cli.output import Money, say, show, show_facts, show_json
from chainfl.cli.spending import Consent, Quote, Spending, agree, spending_options, tell
from chainfl.errors import InsufficientFunds, UsageError
from chainfl.types import Address

if TYPE_CHECKING:
    from chainfl.chain.client import ChainClient
    from chainfl.chain.deployment import Deployment, Plan

_CREATION_GAS = 53_000
_GAS_A_BYTE_OF_CODE = 200
_GAS_A_BYTE_OF_CALLDATA = 16
_CONSTRUCTOR_GAS = 150_000
"""A generous bound for what a constructor stores, where it can't be simulated."""


@click.command(epilog="Example: chainfl --network sepolia --rpc https://… --key deployer deploy --dry-run")
@click.option("--token", type=ADDRESS, help="An ERC-20 that is there already; default: deploy a training token.")
@click.option("--unbonding", metavar="TIME", help="How long stake unbonds; default: 60 s locally, 7 d elsewhere.")
@click.option("--previous", type=ADDRESS, help="Coordinator of the deployment that this one follows, for the record.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to record it; default: where the configuration looks for it.",
)
@spending_options
@pass_app
def deploy(
    app: App, consent: Consent, token: Address | None, unbonding: str | None, previous: Address | None, out: Path | None
) -> None:
    """Deploy the contracts and record where they are.

    They know one another by immutables and have no administrator. A deployment that was cut off carries on when the
    command is run again.
    """
    from chainfl.chain.deployment import TokenParams
    from chainfl.chain.deployment import deploy as send_contracts

    path = out or app.settings.effective_deployment
    if path.exists():
        raise UsageError(f"{path} already records a deployment; move it away, or choose another file with --out")
    unbonding_s = _unbonding(app, unbonding)
    plan = _plan(app, token, unbonding_s, previous)
    if not _agreed(app, plan, consent):
        return
    deployment = send_contracts(
        app.client,
        app.signer,
        unbonding_s=unbonding_s,
        token=token or TokenParams(),
        path=path,
        commit=source_commit(),
        previous=previous,
        progress=lambda name, address: say(f"{name} at {address}"),
    )
    _report(app, deployment, path, consent)


def source_commit() -> str | None:
    """The commit of the checkout that this package lies in; None where there is none, or no git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def estimated_creation_gas(code: bytes) -> int:
    """Gas of creating a contract that can't be simulated yet, from above. code: with constructor arguments."""
    return _CREATION_GAS + _CONSTRUCTOR_GAS + (_GAS_A_BYTE_OF_CODE + _GAS_A_BYTE_OF_CALLDATA) * len(code)


def _unbonding(app: App, text: str | None) -> int:
    from chainfl.cli.task_file import seconds_of

    return seconds_of(text) if text else app.settings.effective_network.unbonding_s


def _plan(app: App, token: Address | None, unbonding_s: int, previous: Address | None) -> Plan:
    from chainfl.chain.deployment import TokenParams, plan_deployment

    client, deployer = app.client, app.signer.address
    return plan_deployment(
        chain_id=client.chain_id,
        deployer=deployer,
        first_nonce=int(client.request("eth_getTransactionCount", [deployer, "pending"]), 16),
        block=client.block_number(),
        unbonding_s=unbonding_s,
        token=token or TokenParams(),
        previous=previous,
    )


def _agreed(app: App, plan: Plan, consent: Consent) -> bool:
    """Shows what it costs and asks. False after a dry run. Raises InsufficientFunds."""
    deployer = plan.deployment.deployer
    quote = _quote(app.client, plan)
    addresses = [f"{name}: {address}" for name, address, _ in plan.steps()]
    contracts = f"Deploy {len(addresses)} contracts on chain {plan.deployment.chain_id} from {deployer}"
    if consent.json and consent.dry_run:
        show_json({"dry_run": True, "what": contracts, "deployment": plan.deployment, "gas": quote})
        return False
    tell(Spending(contracts, (), notes=["they would be at:", *addresses]), quote, Money().show)
    if quote.native_before < quote.cost_wei:
        raise InsufficientFunds(
            f"{deployer} holds {quote.native_before} wei, and deploying may cost {quote.cost_wei}",
            account=deployer,
            balance=quote.native_before,
            required=quote.cost_wei,
        )
    if consent.dry_run:
        show("dry run: nothing was sent")
        return False
    agree(consent)
    return True


def _quote(client: ChainClient, plan: Plan) -> Quote:
    """A later contract refuses to be simulated without the earlier ones; its gas is bounded by its size."""
    from chainfl.chain.abi import contract_abi
    from chainfl.chain.artifacts import load_artifact
    from chainfl.chain.transactions import offer_fees

    deployer = plan.deployment.deployer
    codes = [
        load_artifact(name).bytecode + contract_abi(name).encode_constructor(*arguments)
        for name, _, arguments in plan.steps()
    ]
    messages = [{"from": deployer, "data": "0x" + code.hex()} for code in codes]
    answers = client.try_batch([("eth_estimateGas", [message, "latest"]) for message in messages])
    gas = sum(
        int(answer, 16) if isinstance(answer, str) else estimated_creation_gas(code)
        for code, answer in zip(codes, answers, strict=True)
    )
    fees = offer_fees(client.header(), client.try_request("eth_maxPriorityFeePerGas"))
    return Quote(gas, gas * fees.max_fee_wei, client.balance(deployer), 0)


def _report(app: App, deployment: Deployment, path: Path, consent: Consent) -> None:
    if consent.json:
        show_json({"path": str(path), "deployment": deployment})
        return
    show_facts(
        [
            ("coordinator", deployment.coordinator),
            ("vault", deployment.vault),
            ("registry", deployment.registry),
            ("token", deployment.token),
            ("recorded in", path),
        ]
    )
    if path != app.settings.effective_deployment:
        say(f'next: put `deployment = "{path}"` into chainfl.toml, then `chainfl doctor`')
    else:
        say("next: `chainfl doctor`, `chainfl faucet`, `chainfl task create --preset digits --reward 1000`")
