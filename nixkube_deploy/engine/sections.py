"""Which hosts are unavailable, which sections wait, and whether there is room: the disruption budget as arithmetic.

It knows hosts, budgets, domains and waves; of single tasks and their verdicts it deliberately knows nothing.
"""

from collections import Counter, deque
from heapq import heappop, heappush

from nixkube_deploy.model.names import HostName, name_some
from nixkube_deploy.model.task import Budget, TaskGraph

Obstacle = Budget | str | int
"""What keeps a section from opening: a full budget, a spread domain that is not whole, a wave that is not done."""


class Sections:
    """Waiting sections queue by class: same wave, budgets and domain have the same room.

    So a place that becomes free costs a look at the head of each class, not at thousands of hosts.
    """

    def __init__(self, graph: TaskGraph) -> None:
        self._sections, self._rules = graph.sections, graph.rules
        self._rank = {host: rank for rank, host in enumerate(graph.sections)}
        self._unsettled = Counter(section.wave for section in graph.sections.values())
        self._waves = deque(sorted(self._unsettled))
        self._budgets: dict[HostName, tuple[int, ...]] = {}
        for index, budget in enumerate(graph.rules.budgets):
            for host in budget.members:
                self._budgets[host] = (*self._budgets.get(host, ()), index)
        self._used = [0] * len(graph.rules.budgets)
        self._domains: Counter[str] = Counter()
        self._waiting: dict[int, dict[object, list[tuple[int, HostName]]]] = {}
        self._stale = False
        self.closed = set(graph.sections)
        """Sections that are neither open, nor promised to a task about to start, nor refused, nor done."""
        self.open: set[HostName] = set()
        self._unavailable: set[HostName] = set()
        for host in graph.rules.unhealthy:
            self._mark(host, unavailable=True)

    def obstacle(self, host: HostName) -> Obstacle | None:
        """Why the host's section may not open now. A host that is unavailable already costs nothing more."""
        if self._sections[host].wave > self._waves[0]:
            return self._waves[0]
        cost = host not in self._unavailable
        for index in self._budgets.get(host, ()):
            if self._used[index] + cost > self._rules.budgets[index].limit:
                return self._rules.budgets[index]
        own = self._rules.domains.get(host)
        return None if own is None else next((domain for domain in self._domains if domain != own), None)

    def explain(self, obstacle: Obstacle) -> str:
        """The obstacle in words, naming who holds it."""
        if isinstance(obstacle, int):
            return f"waits until wave {obstacle} is done"
        if isinstance(obstacle, Budget):
            holders = name_some(self._unavailable & obstacle.members) or "it allows none"
            return f"no room in {obstacle.name} (unavailable: {holders})"
        holders = name_some(host for host in self._unavailable if self._rules.domains.get(host) == obstacle)
        return f"never two domains at once, and {obstacle} is not whole (unavailable: {holders})"

    def park(self, host: HostName) -> None:
        """Queue a section whose first task could start."""
        classes = self._waiting.setdefault(self._sections[host].wave, {})
        key = self._budgets.get(host), self._rules.domains.get(host), host in self._unavailable
        heappush(classes.setdefault(key, []), (self._rank[host], host))
        self._stale = True

    def admit(self) -> HostName | None:
        """Promise a place to the waiting section whose turn it is: the first, in the graph's order, that has room."""
        classes = self._waiting.get(self._waves[0], {}) if self._stale else {}
        with_room = [queue for queue in classes.values() if queue and self.obstacle(queue[0][1]) is None]
        self._stale = bool(with_room)
        if not with_room:
            return None
        _, host = heappop(min(with_room))
        self.closed.discard(host)
        self._mark(host, unavailable=True)
        return host

    def dismiss(self) -> list[HostName]:
        """Take one class of waiting sections off the queue, of the lowest wave first: others may wait for it."""
        waves = [wave for wave, classes in self._waiting.items() if any(classes.values())]
        queue = min(queue for queue in self._waiting[min(waves)].values() if queue)
        dismissed = [host for _, host in queue]
        self.closed.difference_update(dismissed)
        queue.clear()
        return dismissed

    def began(self, host: HostName) -> None:
        """A task of the section started: it is open, whatever the rules would say now."""
        self.closed.discard(host)
        self.open.add(host)
        self._mark(host, unavailable=True)

    def settled(self, host: HostName, *, went_well: bool, failed: bool) -> None:
        """All tasks of the section settled. It closes when it went well or never opened; else it stays open.

        A host that was unhealthy before counts as healthy only when, besides, nothing failed: a drain that was
        given up and undone proves no health.
        """
        self._unsettled[self._sections[host].wave] -= 1
        while self._waves and not self._unsettled[self._waves[0]]:
            self._waves.popleft()
        self._stale = True
        healthy = went_well and not failed if host in self._rules.unhealthy else went_well or host not in self.open
        if went_well:
            self.open.discard(host)
        if healthy:
            self._mark(host, unavailable=False)

    def _mark(self, host: HostName, *, unavailable: bool) -> None:
        if (host in self._unavailable) is unavailable:
            return
        self._unavailable ^= {host}
        for index in self._budgets.get(host, ()):
            self._used[index] += 1 if unavailable else -1
        if (domain := self._rules.domains.get(host)) is not None:
            self._domains[domain] += 1 if unavailable else -1
            self._domains += Counter()  # Keeps only domains that are not whole.
