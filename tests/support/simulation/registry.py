"""The simulated registry: versions with their verdicts, and the aliases."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from fraudops.errors import StoreDownError, UnknownVersionError
from fraudops.promotion.ports import UnknownWriteError
from fraudops.registry import ModelVersion
from fraudops.signing.verdicts import SignedVerdict
from tests.support.signing import SIGNERS, Signers
from tests.support.simulation.network import get, put
from tests.support.simulation.world import Actor, SimulatedWorld

MLFLOW = "MLflow"


@dataclass(frozen=True)
class Kind:
    """What the checks know of a version: whether its own verdict admits it, and what it beats.

    The registry's tag says of each version that it passed, as after a forged call of MLflow.
    """

    schema: str = "columns"
    verdict: str = "passed"
    compared_to: str = "1"
    worse_than: frozenset[str] = frozenset()


FOREIGN = Signers.new()
# The kinds of verdicts that are no proof. No waiver replaces one that is there and is wrong.
WRONG = ("of another digest", "altered", "of a foreign key")
# Versions 1 to 3 may always serve. The others fail one rule of the gate each, or change the schema.
KINDS = {
    "1": Kind(),
    "2": Kind(),
    "3": Kind(),
    "4": Kind(verdict="failed"),
    "5": Kind(verdict="of another digest"),
    "6": Kind(verdict="none"),
    "7": Kind(schema="other columns"),
    "8": Kind(worse_than=frozenset({"2", "3"})),
    "9": Kind(verdict="altered"),
    "0": Kind(verdict="of a foreign key"),
}


def digest_of(version: str) -> str:
    return version * 64


class SimRegistry:
    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world
        self.versions = {version: _version(version, kind) for version, kind in KINDS.items()}
        self.aliases: dict[str, str] = {}
        self.moved_by_hand: set[str] = set()
        self.writers: dict[str, Actor] = {}
        self.down_until = 0.0
        # Signed waivers of earlier acts, which a user replays.
        self.used_waivers: dict[str, str] = {}

    def find(self, version: str) -> ModelVersion:
        if version not in self.versions:
            raise UnknownVersionError(f"the registry has no version {version}")
        return self.versions[version]

    def delete(self, version: str) -> None:
        self.versions.pop(version, None)
        self.aliases = {name: at for name, at in self.aliases.items() if at != version}

    @property
    def is_down(self) -> bool:
        return self.world.clock < self.down_until and not self.world.calm


def _version(version: str, kind: Kind) -> ModelVersion:
    return ModelVersion(
        version=version,
        run_id="",
        source="",
        digest=digest_of(version),
        schema_fingerprint=kind.schema,
        verdict={"digest": digest_of(version), "passed": True},
        aliases=(),
        created_at="",
        tags={},
    )


@cache
def signed_verdict_of(version: str) -> SignedVerdict | None:
    """Return what the registry holds as the version's signed verdict."""
    kind = KINDS[version]
    if kind.verdict == "none":
        return None
    signers = FOREIGN if kind.verdict == "of a foreign key" else SIGNERS
    signed = signers.signed_for(
        version,
        digest_of("e" if kind.verdict == "of another digest" else version),
        schema_fingerprint=kind.schema,
        passed=kind.verdict not in ("failed", "altered"),
        compared_to={"version": kind.compared_to, "digest": digest_of(kind.compared_to)},
    )
    if kind.verdict != "altered":
        return signed
    text = signed.verdict.replace('"passed":false', '"passed":true')
    return SignedVerdict(verdict=text, signature=signed.signature)


class SimAliases:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def get(self, alias: str) -> str | None:
        registry = self.world.registry
        return await get(
            self.world,
            self.actor,
            lambda: registry.aliases.get(alias),
            registry.down_until,
            MLFLOW,
        )

    async def exists(self, version: str) -> bool:
        registry = self.world.registry
        return await get(
            self.world,
            self.actor,
            lambda: version in registry.versions,
            registry.down_until,
            MLFLOW,
        )

    async def set(self, alias: str, version: str) -> None:
        def apply() -> None:
            self.world.registry.find(version)
            self._change(alias, version)

        await self._write(apply)

    async def drop(self, alias: str) -> None:
        await self._write(lambda: self._change(alias, None))

    def _change(self, alias: str, version: str | None) -> None:
        registry = self.world.registry
        registry.moved_by_hand.discard(alias)
        registry.writers[alias] = self.actor
        if registry.aliases.get(alias) == version:
            return
        self.world.note(f"{self.actor.name} sets alias {alias} to version {version}")
        registry.aliases.pop(alias, None)
        if version:
            registry.aliases[alias] = version

    async def _pause(self) -> None:
        """Let the promoter stop just before it writes, sometimes for longer than its Lease."""
        if self.world.happens("paused before an alias", self.actor.name):
            seconds = self.world.choices.between(5, 60, "before an alias", self.actor.name)
            self.world.block(self.actor, seconds, "is paused")
            await self.world.step(self.actor)

    async def _write(self, apply: Callable[[], None]) -> None:
        await self._pause()
        try:
            await put(self.world, self.actor, apply, self.world.registry.down_until, MLFLOW)
        except UnknownWriteError as error:
            raise StoreDownError(str(error)) from error
