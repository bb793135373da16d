"""Deploys with ape: `ape run deploy --network NETWORK --account ACCOUNT`.

The same contracts as `chainfl deploy`, from the same artifacts, signed by an account of ape's (a keyfile, a hardware
wallet, or TEST::0 on a local chain). Records the same deployment file, so chainfl and `ape console` work on it.
"""

from __future__ import annotations

from pathlib import Path

import click
from ape import networks
from ape.api import AccountAPI
from ape.cli import ConnectedProviderCommand, account_option
from ape.contracts import ContractContainer
from ape.types import ContractType

from chainfl.chain.artifacts import load_artifact
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import Deployment, Plan, TokenParams, check_deployment, plan_deployment
from chainfl.chain.networks import network_of_chain
from chainfl.types import Address


@click.command(cls=ConnectedProviderCommand)
@account_option()
@click.option("--token", help="An ERC-20 that exists; without it a TrainingToken is deployed.")
@click.option("--unbonding", "unbonding_s", type=int, help="Seconds; by default the network's own.")
@click.option("--out", type=click.Path(path_type=Path), help="The deployment file to write.")
def cli(account: AccountAPI, token: str | None, unbonding_s: int | None, out: Path | None) -> None:
    """Deploy chainfl's contracts and record where they are."""
    provider = networks.provider
    network = network_of_chain(provider.chain_id)
    path = out or Path("deployments") / f"{network.name}.json"
    if path.exists():
        raise click.ClickException(f"{path} already records a deployment; choose another with --out")
    plan = plan_deployment(
        chain_id=provider.chain_id,
        deployer=Address(str(account.address)),
        first_nonce=account.nonce,
        block=provider.get_block("latest").number or 0,
        unbonding_s=network.unbonding_s if unbonding_s is None else unbonding_s,
        token=TokenParams() if token is None else Address(token),
    )
    for name, address, arguments in plan.steps():
        _deploy_step(account, plan, name, address, arguments)
    _record(plan.deployment, str(provider.http_uri), path)


def _deploy_step(account: AccountAPI, plan: Plan, name: str, address: Address, arguments: tuple[object, ...]) -> None:
    """One contract to its predicted address."""
    artifact = load_artifact(name)
    code = "0x" + artifact.linked(plan.libraries()).hex()
    kind = ContractType.model_validate(
        {"contractName": name, "abi": list(artifact.abi), "deploymentBytecode": {"bytecode": code}}
    )
    instance = account.deploy(ContractContainer(kind), *arguments)
    if instance.address != address:
        raise click.ClickException(f"{name} went to {instance.address}, not to {address}: deploy again, alone")
    click.echo(f"{name:16} {address}")


def _record(deployment: Deployment, rpc: str, path: Path) -> None:
    check_deployment(ChainClient(rpc, expected_chain_id=deployment.chain_id), deployment)
    deployment.save(path)
    click.echo(f"recorded in {path}; use it with `chainfl --deployment {path}`")
