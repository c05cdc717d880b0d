"""The inventory's JSON Schema, for editors: the same description that the parser reads with, printed.

It knows shapes only. What needs the whole inventory (group cycles, duplicate addresses) is the parser's alone.
"""

from nixkube_deploy.inventory.grammar import INVENTORY
from nixkube_deploy.inventory.shape import Schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> Schema:
    """A complete schema, draft 2020-12."""
    defs: dict[str, Schema] = {}
    top = INVENTORY.schema(defs)
    return {"$schema": DIALECT, "title": "nixkube-deploy inventory", **top, "$defs": defs}
