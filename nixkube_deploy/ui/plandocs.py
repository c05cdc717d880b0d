"""The documentation of a plan as data, written from the types themselves, so that it cannot be wrong.

It deliberately knows nothing about planning; a test keeps ``docs/plan.md`` equal to what it returns.
"""

from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.graph_codec import PLAN_VERSION
from nixkube_deploy.model.packages import SharedChanges
from nixkube_deploy.model.rollout import HostPlan
from nixkube_deploy.ui.typedocs import values

_HEAD = f"""# A plan as data

`deploy plan INVENTORY --json` prints it, `-o PLAN.json` saves it, and `deploy apply PLAN.json` runs exactly that.

With `--diff` the plan also says what changes inside the closures: `hosts[].sizes` and `differences`. Finding that out
takes one query to the store of this machine and one round trip to each host that changes; without `--diff` nobody is
asked, and both are empty.

This is version {PLAN_VERSION}. New fields may come at any time: skip what you do not know. A field that changes its
meaning or goes away raises the version, and `apply` refuses a saved plan of another version.

This page is written from the types in `nixkube_deploy/model`; a test keeps both equal.

| field | type | meaning |
|---|---|---|
| `version` | integer | {PLAN_VERSION} |
| `inventory` | string | Absolute path of the inventory. |
| `digest` | string | SHA-256 of the inventory's text. |
| `flake` | [FlakeState](#flakestate) | Which flake was evaluated. |
| `hosts` | list of [HostPlan](#hostplan)s | Every host, in the inventory's order. |
| `notes` | list of strings | What holds for the whole run. |
| `differences` | list of [SharedChanges](#sharedchanges)s | What changes inside the closures; empty without `--diff`. |
| `mode`, `strategy`, `graph`, `fingerprint` | | For `apply` alone: tasks, sections, rules. Not to be edited. |

## Types
"""


def plan_markdown() -> str:
    """The whole page, with a newline at the end."""
    nested: dict[str, type] = {kind.__name__: kind for kind in (HostPlan, FlakeState, SharedChanges)}
    return "\n".join([_HEAD, *values(nested)])
