"""How many tasks of each pool may run at once; which pool a task uses is the plan's business."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nixkube_deploy.model.task import Pool

_DEFAULTS = {Pool.SSH: 64, Pool.COPY: 8, Pool.CLUSTER: 32, Pool.INSTALL: 8, Pool.WAIT: math.inf}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Capacities that differ from the defaults; whole numbers or infinity."""

    capacities: Mapping[Pool, float] = field(default_factory=dict)

    def of(self, pool: Pool) -> float:
        """The pool's capacity."""
        return self.capacities.get(pool, _DEFAULTS[pool])
