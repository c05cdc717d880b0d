"""``deploy schema``."""

import json

import click


@click.command()
def command() -> None:
    """Print the JSON Schema of the inventory, for editors and CI.

    \b
    deploy schema > inventory.schema.json
    # first line of an inventory, for editors that speak yaml-language-server:
    # yaml-language-server: $schema=inventory.schema.json
    """
    from nixkube_deploy.inventory.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
