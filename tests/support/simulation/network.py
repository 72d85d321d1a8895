"""Messages of actors to the stores: lost, slow, late, or without an answer."""

from collections.abc import Callable
from typing import TypeVar

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.ports import UnknownWriteError
from tests.support.simulation.world import Actor, SimulatedWorld

Answer = TypeVar("Answer")
# A client of the product gives up after some seconds; its message may still arrive.
PATIENCE = 5.0
LATEST = 25.0


async def get(
    world: SimulatedWorld, actor: Actor, read: Callable[[], Answer], down_until: float, what: str
) -> Answer:
    """Return what the store held at one moment of the call; the answer may come late."""
    await world.step(actor)
    if (world.clock < down_until and not world.calm) or world.happens("failing read", actor.name):
        await _give_up(world, actor)
        raise StoreDownError(f"{what} does not answer")
    value = read()
    slow = world.happens("slow read", actor.name)
    await _spend(world, actor, 1 + 8 * world.choices.number("slow", actor.name) if slow else 0.0)
    return value


async def put(
    world: SimulatedWorld, actor: Actor, apply: Callable[[], Answer], down_until: float, what: str
) -> Answer:
    """Apply a write. Raises UnknownWriteError when the actor does not learn the answer."""
    await world.step(actor)
    if world.clock < down_until and not world.calm:
        await _give_up(world, actor)
        raise StoreDownError(f"{what} refuses connections")
    if world.happens("lost write", actor.name):
        await _give_up(world, actor)
        raise UnknownWriteError(f"{what} does not answer")
    if world.happens("late write", actor.name):
        world.spawn(_apply_later(world, actor, apply))
        actor.troubled = True
        await _spend(world, actor, PATIENCE)
        raise UnknownWriteError(f"{what} does not answer")
    value = apply()
    await world.step(actor)
    if world.happens("lost answer", actor.name):
        await _give_up(world, actor)
        raise UnknownWriteError(f"{what} does not answer")
    return value


async def _apply_later(world: SimulatedWorld, actor: Actor, apply: Callable[[], Answer]) -> None:
    delay = LATEST * world.choices.number("late", actor.name)
    await world.step(None, delay, f"late message of {actor.name}")
    world.note(f"a late message of {actor.name} arrives")
    try:
        apply()
    except FraudopsError as error:
        world.note(f"it is refused: {error}")


async def _give_up(world: SimulatedWorld, actor: Actor) -> None:
    actor.troubled = True
    hangs = world.choices.number("hangs", actor.name) < 0.3
    await _spend(world, actor, PATIENCE if hangs else 0.1)


async def _spend(world: SimulatedWorld, actor: Actor, seconds: float) -> None:
    actor.delayed += seconds
    await world.step(actor, seconds)
