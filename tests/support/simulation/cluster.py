"""Simulated pods: their life follows the pure rules that the real pods follow."""

import asyncio
from dataclasses import dataclass, field

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.promotion import pod_rules
from fraudops.promotion.pod_rules import Follow, PodState, Report
from fraudops.promotion.ports import PodRef
from fraudops.promotion.serving_record import ServingRecord, ServingTarget
from tests.support.simulation.world import SimulatedWorld

POLL_SECONDS = 2.0
# Kubernetes marks the pods of a node that does not answer after this time.
NODE_GRACE_SECONDS = 40.0
# Kubernetes deletes them after another while, and the deletion never ends.
EVICTION_SECONDS = 100.0
# A prepared version is dropped this long after the deadline of its prepare.
PREPARED_GRACE_SECONDS = 30.0
LOST = "its node does not answer"


class ContainerEndedError(FraudopsError):
    """The container of a coroutine has ended."""


@dataclass(eq=False)
class SimPod:
    """A pod. The fields `shown_*` are what the API says, some moments later.

    Until `blind_until` its reads of the record fail. No container starts before `back_off_until`.
    An `idle` pod is ready without a model, before the first promotion.
    `lost` is None, or how its node is lost: `dark` (nothing answers), `kept` (only clients on kept
    connections get answers), `kubelet` (everything answers, but the API cannot know that).
    """

    name: str
    slow: float = 0.0
    refuses: frozenset[str] = frozenset()
    template: ServingTarget | None = None
    born: float = 0.0
    state: PodState = field(default_factory=PodState)
    cache: set[str] = field(default_factory=set)
    up: bool = False
    ready: bool = False
    idle: bool = False
    shown_ready: bool = False
    shown_ready_since: float = 0.0
    shown_running: bool = False
    shown_restarting: bool = False
    has_clients: bool = False
    terminating: bool = False
    gone: bool = False
    lost: str | None = None
    lost_since: float = 0.0
    silent_until: float = 0.0
    blind_until: float = 0.0
    back_off_until: float = 0.0
    busy_until: float = 0.0
    container: int = 0
    awaited: ServingTarget | None = None
    fault: str | None = None
    prepared: dict[str, tuple[ServingTarget, float]] = field(default_factory=dict)
    prepared_epochs: dict[int, float] = field(default_factory=dict)
    refused_epochs: set[int] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def answers_clients(self) -> bool:
        """Whether a client may get an answer, which must be the promised one."""
        return self.up and self.has_clients and self.lost != "dark"

    @property
    def says_ready(self) -> bool:
        return self.ready or (self.idle and self.target is None)

    @property
    def target(self) -> ServingTarget | None:
        return self.state.target


class SimCluster:
    """The Deployment, its controller, and the pods."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world
        self.pods: list[SimPod] = []
        self.replicas = 0
        self.schedules_from = 0.0
        # When the set of ready pods has changed last.
        self.changed_at = 0.0

    # -- what the API says

    def ref(self, pod: SimPod) -> PodRef:
        away = pod.lost and self.world.clock - pod.lost_since > NODE_GRACE_SECONDS
        return PodRef(
            pod.name,
            ready=pod.shown_ready and not away,
            running=pod.shown_running,
            terminating=pod.terminating,
            lost=LOST if away else None,
            restarting=pod.shown_restarting and not pod.terminating,
        )

    def refs(self) -> tuple[PodRef, ...]:
        return tuple(self.ref(pod) for pod in self.pods if not pod.gone)

    @property
    def last_change(self) -> float:
        """When the set of pods that take connections has changed last."""
        now = self.world.clock
        away = (pod.lost_since + NODE_GRACE_SECONDS for pod in self.pods if pod.lost)
        return max([self.changed_at, *(at for at in away if at <= now)])

    def find(self, name: str) -> SimPod:
        return next(pod for pod in self.pods if pod.name == name)

    # -- the controller

    def create(self, **traits: object) -> SimPod:
        name = f"pod-{len(self.pods) + 1}"
        pod = SimPod(name, template=self.world.store.template, born=self.world.clock)
        for trait, value in traits.items():
            setattr(pod, trait, value)
        self.pods.append(pod)
        return pod

    def start(self, **traits: object) -> SimPod:
        pod = self.create(**traits)
        self.world.note(f"{pod.name} is created")
        if self.world.happens("new pod has no network yet", pod.name):
            seconds = self.world.choices.between(5, 50, "network", pod.name)
            pod.silent_until = self.world.clock + seconds
        self.world.spawn(self.live(pod))
        return pod

    async def control(self) -> None:
        """Act as the Deployment's controller: one pod above the wanted number, none below."""
        while True:
            await self.world.step(None, 1.0, "controller")
            living = [pod for pod in self.pods if not pod.gone and not pod.terminating]
            refs = {pod.name: self.ref(pod) for pod in living}
            old = [pod for pod in living if pod.template != self.world.store.template]
            unready = [pod for pod in old if not refs[pod.name].ready]
            new = len(living) - len(old)
            if new < self.replicas and len(living) < self.replicas + bool(old):
                self.start()
            elif evicted := [pod for pod in living if self._is_evicted(pod)]:
                self.world.spawn(self.end(evicted[0]))
            elif unready and len(living) > self.replicas:
                self.world.spawn(self.end(unready[0]))
            elif sum(ref.ready for ref in refs.values()) > self.replicas and living:
                self.world.spawn(self.end((old or living)[0]))

    def _is_evicted(self, pod: SimPod) -> bool:
        return pod.lost is not None and self.world.clock - pod.lost_since > EVICTION_SECONDS

    async def end(self, pod: SimPod) -> None:
        """End a pod gracefully. It answers while it drains, and is listed until it is gone."""
        pod.terminating, self.changed_at = True, self.world.clock
        self.world.note(f"{pod.name} begins to end")
        await self.world.step(
            None, self.world.choices.between(1, 7, "drain", pod.name), f"end of {pod.name}"
        )
        while pod.lost:  # its node cannot confirm the end
            await self.world.step(None, 5.0, f"end of {pod.name}")
        self.crash(pod)
        pod.gone = True
        self.world.note(f"{pod.name} is gone")

    # -- faults

    def crash(self, pod: SimPod) -> None:
        pod.container += 1
        pod.up = pod.ready = pod.idle = pod.has_clients = False
        pod.lock = asyncio.Lock()
        self._publish(pod)

    def end_a_container(self, who: str) -> None:
        """End the container of a pod. The network of the next one may come back later."""
        choices = self.world.choices
        living = [
            pod for pod in self.pods if pod.up and not (pod.gone or pod.terminating or pod.lost)
        ]
        if not living:
            return
        pod = choices.pick(living, "pod", who)
        self.world.note(f"the container of {pod.name} ends")
        self.crash(pod)
        if choices.number("back-off", who) < 0.3:
            pod.back_off_until = self.world.clock + choices.between(5, 60, "back-off for", who)
        back = max(self.world.clock, pod.back_off_until) + choices.between(5, 50, "silent", who)
        match choices.pick(("", "silent", "blind"), "network", who):
            case "silent":
                pod.silent_until = back
            case "blind":
                pod.blind_until = back

    def lose(self, pod: SimPod, how: str) -> None:
        pod.lost, pod.lost_since = how, self.world.clock
        self.world.note(f"the node of {pod.name} is lost ({how})")

    def fall_silent(self, who: str) -> None:
        """Let some pods answer no call for a while, and not read the record."""
        choices = self.world.choices
        for pod in self.pods:
            if not pod.gone and choices.number("falls silent", who) < 0.7:
                pod.silent_until = self.world.clock + choices.between(5, 90, "silence", who)
                self.world.note(f"{pod.name} is silent until {pod.silent_until:.0f} s")

    def bring_back(self, pod: SimPod) -> None:
        pod.lost, pod.shown_ready_since = None, self.world.clock
        self.world.note(f"the node of {pod.name} is back")
        self._publish(pod)
        self.world.checks.look_at(pod)

    # -- the life of a pod

    async def live(self, pod: SimPod, running: bool = False) -> None:
        world = self.world
        if not running:
            await world.step(None, world.choices.between(0.3, 3, "schedule", pod.name), pod.name)
        while not running and world.clock < self.schedules_from and not world.calm:
            await world.step(None, 1.0, pod.name)
        while not pod.gone:
            try:
                if not running:
                    await self._start_container(pod)
                running = False
                await self.poll(pod)
            except ContainerEndedError:
                await world.step(None, world.choices.between(1, 3, "restart", pod.name), pod.name)
                while world.clock < pod.back_off_until and not world.calm:
                    await world.step(None, 1.0, pod.name)

    async def _start_container(self, pod: SimPod) -> None:
        """Verify the cached bundle and take the state to begin with, as the pod's `settle`."""
        pod.up, container = True, pod.container
        pod.awaited = None
        pod.prepared.clear()
        self._publish(pod)
        try:
            record = await self.read(pod, container)
        except StoreDownError:
            record = None
        await self.pause(pod, container, 1.2)
        wanted = pod_rules.on_start(pod.state, record, pod.template)
        if wanted.digest in pod.cache and wanted.digest not in pod.refuses:
            self._serve(pod, wanted)
        else:
            pod.state = pod.state.without_model(pod.state.served)

    async def poll(self, pod: SimPod) -> None:
        container, seen = pod.container, -1
        while True:
            waiting = POLL_SECONDS * self.world.choices.between(0.8, 1.2, "poll", pod.name)
            unchanged = seen == self.world.store.token and pod.ready and pod.fault is None
            if not unchanged and (self.world.rules.pods_poll or not pod.ready):
                seen = self.world.store.token
                await self.look(pod)
            await self.pause(pod, container, waiting)

    async def look(self, pod: SimPod) -> None:
        """Read the record, follow it, and turn ready, as the pod's poller does."""
        container = pod.container
        try:
            record = await self.read(pod, container)
        except StoreDownError as error:
            pod.fault = str(error)
            self._wait_for_a_model(pod, None)
        else:
            pod.fault = await self._follow(pod, record)
            pod.awaited = pod_rules.awaited_target(pod.state, record, pod.template)
            self._wait_for_a_model(pod, record)
        await self._turn_ready(pod, container)

    def _wait_for_a_model(self, pod: SimPod, record: ServingRecord | None) -> None:
        """Turn ready before the first promotion, and not ready if that may have begun."""
        before = pod.says_ready
        pod.idle = self.world.rules.ready_without_model and pod_rules.is_ready_without_model(
            pod.state, pod.awaited, record
        )
        if pod.says_ready != before and not pod.terminating:
            self._publish(pod)

    async def _turn_ready(self, pod: SimPod, container: int) -> None:
        # A pod that drains never turns ready.
        if pod.ready or pod.terminating or not pod_rules.has_caught_up(pod.state, pod.awaited):
            return
        try:
            latest = await self.read(pod, container)
        except StoreDownError:
            latest = None
        else:
            # Without this, a pod whose next reads fail forgets that it is behind.
            pod.awaited = pod_rules.awaited_target(pod.state, latest, pod.template)
        if pod_rules.may_turn_ready(pod.state, latest):
            pod.ready = True
            self._publish(pod)

    async def _follow(self, pod: SimPod, record: ServingRecord) -> str | None:
        decision = pod_rules.on_record(pod.state, record, pod.template)
        if isinstance(decision, Report):
            return decision.reason
        if not isinstance(decision, Follow):
            return None
        container = pod.container
        try:
            await self.activate(pod)
        except (RefusedError, StoreDownError) as error:
            if decision.target != pod_rules.destination(record, None):
                await self._fall_back(pod, container)
            return str(error)
        return None

    async def _fall_back(self, pod: SimPod, container: int) -> None:
        try:
            async with pod.lock:
                record = await self.read(pod, container)
                if target := pod_rules.on_failed_template(pod.state, record):
                    await self._go(pod, target)
        except (RefusedError, StoreDownError):
            return

    async def activate(self, pod: SimPod, epoch: int = 0) -> int:
        """Read the record and serve what it names. Raises RefusedError, StoreDownError."""
        container = pod.container
        async with pod.lock:
            record = await self.read(pod, container)
            expected = ServingTarget(epoch, "", "")
            target = pod_rules.on_activate(pod.state, record, pod.template, expected)
            await self._go(pod, target)
        return pod.state.epoch

    async def prepare(self, pod: SimPod, target: ServingTarget, seconds: float) -> None:
        """Load the version next to the one that serves. Raises RefusedError, StoreDownError."""
        deadline = self.world.clock + seconds + PREPARED_GRACE_SECONDS
        async with pod.lock:
            pod_rules.check_prepare(pod.state, target)
            await self.load(pod, target)
            known = pod.prepared.get(target.digest)
            if known is None or pod_rules.replaces_prepared(target, known[0]):
                pod.prepared[target.digest] = (target, deadline)
            pod.prepared_epochs[target.epoch] = self.world.clock

    async def _go(self, pod: SimPod, target: ServingTarget) -> None:
        container = pod.container
        pod_rules.check_step(pod.state, target)
        if pod.state.is_behind(target.epoch):
            held = pod.prepared.get(target.digest)
            if held is None or held[1] < self.world.clock:
                await self.load(pod, target)
            await self.pause(pod, container, 0.0)
            self._serve(pod, pod.state.serving(target, "cache"))
        pod.prepared = {
            digest: held
            for digest, held in pod.prepared.items()
            if pod_rules.keeps_prepared(held[0], pod.state)
        }

    async def load(self, pod: SimPod, target: ServingTarget) -> None:
        """Fetch the bundle from the cache, a peer or MLflow, and open it."""
        container = pod.container
        await self.pause(pod, container, 0.1 + pod.slow)
        if self.world.clock < pod.busy_until and not self.world.calm:
            raise StoreDownError("MLflow does not answer")
        if target.digest in pod.refuses:
            raise RefusedError(f"version {target.version} scores unlike its pipeline")
        if target.digest not in pod.cache and not self._is_offered(target):
            if self.world.registry.is_down:
                raise StoreDownError("MLflow does not answer")
            if target.version not in self.world.registry.versions:
                raise RefusedError(f"the registry has no version {target.version}")
        pod.cache.add(target.digest)

    def _is_offered(self, target: ServingTarget) -> bool:
        peers = (peer for peer in self.pods if peer.up and not peer.lost)
        return any(target.digest in peer.cache for peer in peers)

    def can_load(self, pod: SimPod, target: ServingTarget) -> bool:
        known = target.version in self.world.registry.versions
        held = target.digest in pod.cache or self._is_offered(target)
        return target.digest not in pod.refuses and (known or held)

    def _serve(self, pod: SimPod, state: PodState) -> None:
        before, pod.state = pod.state, state
        if state.target:
            self.world.checks.on_serve(pod, before)
            pod.cache.add(state.digest or "")
            self.world.note(f"{pod.name} serves {_named(state.target)}")
        self.world.checks.look_at(pod)

    async def read(self, pod: SimPod, container: int) -> ServingRecord:
        """Return the record of one moment of this call. Raises StoreDownError."""
        world = self.world
        blind = world.clock < max(pod.silent_until, pod.blind_until) and not world.calm
        if blind or pod.lost in ("dark", "kept"):
            await self.pause(pod, container, 1.0)
            raise StoreDownError("the Kubernetes API does not answer")
        if world.clock < world.store.api_down_until or world.happens("pod cannot read", pod.name):
            await self.pause(pod, container, 0.5)
            raise StoreDownError("the Kubernetes API does not answer")
        record = world.store.record
        slow = world.happens("slow read", pod.name)
        seconds = 1 + 8 * world.choices.number("slow", pod.name) if slow else 0.0
        await self.pause(pod, container, seconds)
        return record

    async def pause(self, pod: SimPod, container: int, seconds: float) -> None:
        """Spend time in the pod. Raises ContainerEndedError when its container has ended."""
        await self.world.step(None, seconds, pod.name)
        while pod.lost == "dark" and not pod.gone:
            await self.world.step(None, 1.0, pod.name)
        if pod.container != container or pod.gone:
            raise ContainerEndedError

    def _publish(self, pod: SimPod) -> None:
        self.world.spawn(self._show(pod, pod.container, pod.up, pod.says_ready))

    async def _show(self, pod: SimPod, container: int, up: bool, ready: bool) -> None:
        """Tell the API, after a moment, how the pod is."""
        slow = self.world.happens("slow kubelet", pod.name)
        seconds = self.world.choices.between(0, 4 if slow else 0.8, "show", pod.name)
        await self.world.step(None, seconds, pod.name)
        if pod.lost or container != pod.container or (up, ready) != (pod.up, pod.says_ready):
            return
        if ready and not pod.shown_ready:
            pod.shown_ready_since = self.world.clock
            self.world.note(f"{pod.name} is ready")
        if ready != pod.shown_ready:
            self.changed_at = self.world.clock
        pod.shown_running, pod.shown_ready = up, ready
        pod.shown_restarting = container > 0 and not up
        # Without a model the pod answers its clients with 503.
        if ready and pod.ready:
            pod.has_clients = True
            self.world.checks.look_at(pod)


def _named(target: ServingTarget) -> str:
    return f"version {target.version} (epoch {target.epoch})"
