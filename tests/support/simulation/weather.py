"""The faults of one scenario: each kind has its own probability, and some seeds lack the kind."""

from collections.abc import Callable

from fraudops.promotion.serving_record import ServingTarget
from tests.support.simulation.choices import Choices
from tests.support.simulation.cluster import SimPod
from tests.support.simulation.registry import KINDS, digest_of
from tests.support.simulation.world import SimulatedWorld

# Faults of single messages and processes, with their probability at each occasion.
ODDS = {
    "failing read": 0.02,
    "slow read": 0.03,
    "pod cannot read": 0.03,
    "lost write": 0.02,
    "late write": 0.02,
    "lost answer": 0.03,
    "lost call": 0.03,
    "new pod has no network yet": 0.1,
    "slow kubelet": 0.1,
    "lost renewal": 0.1,
    "lost deletion": 0.2,
    "skewed clock": 0.5,
    "will be killed": 0.4,
    "will be paused": 0.3,
    "blocking gate": 0.15,
    "long gate": 0.15,
    "paused before an alias": 0.05,
    "pods fall silent after a commit": 0.3,
    "a container ends after a commit": 0.2,
    "storm": 1.0,
}
# Storms hit the cluster from time to time, with these weights.
STORMS = {
    "a pod ends": 4,
    "a container ends": 3,
    "the cluster is scaled": 3,
    "a pod is silent": 3,
    "all pods are silent": 1,
    "a pod cannot load": 3,
    "a node is lost": 3,
    "a node is back": 1,
    "the registry is away": 2,
    "the database is away": 2,
    "the API is away": 1,
    "the alias is moved by hand": 1,
    "the annotation is edited by hand": 1,
    "a version is deleted": 1,
    "all pods end and none is scheduled": 1,
}


def odds_of(choices: Choices, wanted: dict[str, float] | None = None) -> dict[str, float]:
    """Return this seed's odds: about half of the kinds, so that some seeds are nearly calm."""
    odds = {
        kind: probability if choices.number("climate", kind) < 0.6 else 0.0
        for kind, probability in (ODDS | dict.fromkeys(STORMS, 1.0)).items()
    }
    return odds | (wanted or {})


class Weather:
    """Sends storms until the world is calm."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world
        self.hits: dict[str, Callable[[str], None]] = {
            "a pod ends": self._end_a_pod,
            "a container ends": self._end_a_container,
            "the cluster is scaled": self._scale,
            "a pod is silent": self._silence_a_pod,
            "all pods are silent": self._silence_all,
            "a pod cannot load": self._make_busy,
            "a node is lost": self._lose_a_node,
            "a node is back": self._bring_a_node_back,
            "the registry is away": self._registry_away,
            "the database is away": self._database_away,
            "the API is away": self._api_away,
            "the alias is moved by hand": self._move_alias,
            "the annotation is edited by hand": self._edit_annotation,
            "a version is deleted": self._delete_version,
            "all pods end and none is scheduled": self._empty_the_cluster,
        }

    async def blow(self) -> None:
        kinds = [kind for kind, weight in STORMS.items() for _ in range(weight)]
        number = 0
        while not self.world.calm:
            number += 1
            who = f"storm {number}"
            await self.world.step(None, self._between(0, 12, "until", who), who)
            kind = self.world.choices.pick(kinds, "storm", who)
            if self.world.happens(kind, who):
                self.hits[kind](who)

    def _between(self, low: float, high: float, what: str, who: str) -> float:
        return self.world.choices.between(low, high, what, who)

    def _living(self, who: str) -> SimPod | None:
        pods = [
            pod
            for pod in self.world.cluster.pods
            if not (pod.gone or pod.terminating or pod.lost) and pod.up
        ]
        return self.world.choices.pick(pods, "pod", who) if pods else None

    def _end_a_pod(self, who: str) -> None:
        if pod := self._living(who):
            self.world.spawn(self.world.cluster.end(pod))

    def _end_a_container(self, who: str) -> None:
        self.world.cluster.end_a_container(who)

    def _scale(self, who: str) -> None:
        cluster = self.world.cluster
        change = self.world.choices.pick((-1, 1, 1), "replicas", who)
        cluster.replicas = max(1, min(5, cluster.replicas + change))
        self.world.note(f"the Deployment wants {cluster.replicas} pods")

    def _silence_a_pod(self, who: str) -> None:
        if pod := self._living(who):
            pod.silent_until = self.world.clock + self._between(1, 60, "silent", who)
            self.world.note(f"{pod.name} is silent until {pod.silent_until:.0f} s")

    def _silence_all(self, who: str) -> None:
        for pod in self.world.cluster.pods:
            pod.silent_until = self.world.clock + self._between(1, 50, "silent", pod.name)

    def _make_busy(self, who: str) -> None:
        if pod := self._living(who):
            pod.busy_until = self.world.clock + self._between(1, 30, "busy", who)
            self.world.note(f"{pod.name} cannot load until {pod.busy_until:.0f} s")

    def _lose_a_node(self, who: str) -> None:
        if pod := self._living(who):
            how = self.world.choices.pick(("dark", "kept", "kubelet"), "how", who)
            self.world.cluster.lose(pod, how)

    def _bring_a_node_back(self, who: str) -> None:
        lost = [pod for pod in self.world.cluster.pods if pod.lost and not pod.gone]
        if lost:
            self.world.cluster.bring_back(self.world.choices.pick(lost, "pod", who))

    def _registry_away(self, who: str) -> None:
        registry = self.world.registry
        registry.down_until = self.world.clock + self._between(1, 30, "away", who)

    def _database_away(self, who: str) -> None:
        store = self.world.store
        store.database_down_until = self.world.clock + self._between(1, 90, "away", who)

    def _api_away(self, who: str) -> None:
        store = self.world.store
        store.api_down_until = self.world.clock + self._between(1, 15, "away", who)

    def _move_alias(self, who: str) -> None:
        registry = self.world.registry
        alias = self.world.choices.pick(("production", "champion"), "alias", who)
        versions = sorted(registry.versions)
        if versions:
            registry.aliases[alias] = self.world.choices.pick(versions, "version", who)
            registry.moved_by_hand.add(alias)
            self.world.note(f"a user moves {alias} to version {registry.aliases[alias]}")

    def _edit_annotation(self, who: str) -> None:
        """Let a user write another target, sometimes one of a much later epoch, or remove it."""
        store, choices = self.world.store, self.world.choices
        epoch = store.record.epoch + choices.pick((0, 1, 2, 300), "epoch", who)
        version = choices.pick(("1", "2", "3"), "version", who)
        target = ServingTarget(epoch, version, digest_of(version))
        store.template = choices.pick((target, target, None), "edit", who)
        self.world.note(f"a user sets the annotation to {store.template}")

    def _delete_version(self, who: str) -> None:
        version = self.world.choices.pick(sorted(KINDS), "version", who)
        self.world.registry.delete(version)
        self.world.note(f"a user deletes version {version} from the registry")

    def _empty_the_cluster(self, who: str) -> None:
        cluster = self.world.cluster
        cluster.schedules_from = self.world.clock + self._between(5, 60, "unscheduled", who)
        for pod in cluster.pods:
            if not (pod.gone or pod.terminating):
                self.world.spawn(cluster.end(pod))
