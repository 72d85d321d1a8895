"""What a pod offers to its bundle verifier to show that a target may serve, and what follows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from fraudops.errors import BundleError, RefusedError, SignatureRefusedError, StoreDownError
from fraudops.promotion.pod_rules import PodState, offered_credentials
from fraudops.promotion.serving_record import EMPTY, ServingEntry, ServingRecord, ServingTarget
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import kept_path
from fraudops.signing.verdicts import SignedVerdict
from fraudops.state import State
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.bundle_verifier import BundleRequest, VerificationOutcome
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import pod_state_path, write
from services.inference.pod.worker_channel import Ask, Reply, RunFolder
from services.inference.pod.workers import Workers
from tests.support.serving_records import record
from tests.support.signing import Signers

AT_4, AT_5 = ServingTarget(4, "1", "1" * 64), ServingTarget(5, "2", "2" * 64)
SIGNED = SignedVerdict(verdict="v", signature="s")
AGAIN = SignedVerdict(verdict="v2", signature="s2")
PROOF = Credentials(signed_verdict=SIGNED)
UNSIGNED = Credentials(unsigned=True)
UNREADABLE = StoreDownError("the API does not answer")


def entry(at: ServingTarget, credentials: Credentials) -> ServingEntry:
    found = record(at).current
    assert found is not None
    return msgspec.structs.replace(
        found,
        signed_verdict=credentials.signed_verdict,
        signed_waiver=credentials.signed_waiver,
        unsigned=credentials.unsigned,
    )


# The rule.


@pytest.mark.parametrize("place", ["reserved", "current", "previous", "stack"])
def test_credentials_are_offered_from_every_place_of_the_record(place: str) -> None:
    reserved = record(None, AT_5).reserved
    assert reserved is not None
    held = {
        "reserved": msgspec.structs.replace(reserved, signed_verdict=SIGNED),
        "stack": (entry(AT_5, PROOF),),
    }.get(place, entry(AT_5, PROOF))
    found = msgspec.structs.replace(EMPTY, **{place: held})
    assert offered_credentials(found, AT_5) == (PROOF,)
    # Those of another bundle, or of the same bundle under another number, do not count.
    assert offered_credentials(found, AT_4) == ()
    assert offered_credentials(found, ServingTarget(5, "9", AT_5.digest)) == ()
    assert offered_credentials(found, ServingTarget(5, AT_5.version, "9" * 64)) == ()
    # The epoch does not count: a rollback takes the model under a new one.
    assert offered_credentials(found, ServingTarget(9, AT_5.version, AT_5.digest)) == (PROOF,)


def test_a_reservation_without_credentials_leaves_those_of_an_entry() -> None:
    found = record(AT_4, AT_5)
    assert found.reserved is not None
    bare = msgspec.structs.replace(found.reserved, signed_verdict=None)
    found = msgspec.structs.replace(found, reserved=bare)
    assert offered_credentials(found, AT_5) == ()
    waived = Credentials(signed_verdict=SIGNED, signed_waiver="w")
    held = msgspec.structs.replace(found, stack=(entry(AT_5, waived),))
    assert offered_credentials(held, AT_5) == (waived,)


def test_each_of_several_credentials_is_offered_once_and_marks_come_last() -> None:
    again = Credentials(signed_verdict=AGAIN)
    stack = tuple(entry(AT_4, held) for held in (UNSIGNED, PROOF, again, PROOF))
    offered = offered_credentials(ServingRecord(stack=stack), AT_4)
    assert offered == (PROOF, again, UNSIGNED)


# The coordinator.


@dataclass
class Pod:
    """A coordinator whose bundle verifier answers with `outcome`, and one idle worker."""

    state: State
    run: RunFolder
    record: ServingRecord | Exception = EMPTY
    outcome: VerificationOutcome = field(
        default_factory=lambda: VerificationOutcome(source="registry")
    )
    # The answers of the worker to the next activations.
    faults: list[str] = field(default_factory=list)
    requests: list[BundleRequest] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def cache(self) -> BundleCache:
        return BundleCache(self.state.bundles, self.run, self.state.public_keys)

    def coordinator(self) -> PodCoordinator:
        return PodCoordinator(
            self.state,
            Workers(self.run, 1),
            self.cache,
            self.read,
            None,
            lambda reason: self.refusals.update([reason]),
        )

    def read(self) -> ServingRecord:
        if isinstance(self.record, Exception):
            raise self.record
        return self.record

    async def answer(self, ask: Ask) -> Reply:
        error = self.faults.pop(0) if ask.op == "activate" and self.faults else None
        return Reply(pid=1, target=ask.target, error=error)

    async def verify(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(msgspec.json.decode(await reader.readline(), type=BundleRequest))
        writer.write(msgspec.json.encode(self.outcome) + b"\n")
        writer.close()


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    state = State.at(tmp_path)
    for folder in (state.run, state.bundles):
        folder.mkdir()
    made = Pod(state, RunFolder(state.run))
    worker = await made.run.serve(made.answer)
    verifier = await asyncio.start_unix_server(
        made.verify, sock=made.run.listen_for_verifications()
    )
    yield made
    worker.close()
    verifier.close()


async def test_a_preparation_offers_the_records_credentials_to_the_verifier(pod: Pod) -> None:
    pod.record = msgspec.structs.replace(record(AT_4), stack=(entry(AT_5, PROOF),))
    await pod.coordinator().prepare(AT_5, 60.0)
    assert pod.requests == [BundleRequest(AT_5.version, AT_5.digest, credentials=(PROOF,))]


async def test_a_bundle_that_is_fetched_again_is_verified_by_the_records_credentials(
    pod: Pod,
) -> None:
    pod.record = ServingRecord(current=entry(AT_4, UNSIGNED))
    write(pod_state_path(pod.state), PodState().serving(AT_4, "peer"))
    pod.faults = ["its bundle cannot be read"]
    await pod.coordinator().finish()
    assert pod.requests == [BundleRequest(AT_4.version, AT_4.digest, credentials=(UNSIGNED,))]


async def test_without_the_record_the_kept_credentials_decide(pod: Pod) -> None:
    pod.record = UNREADABLE
    await pod.coordinator().prepare(AT_5, 60.0)
    assert pod.requests == [BundleRequest(AT_5.version, AT_5.digest, credentials=None)]


REFUSED_OUTCOME = VerificationOutcome(error="it is a forgery", exit_code=65, refused="signature")


async def test_a_refusal_without_the_record_is_temporary_and_not_counted(pod: Pod) -> None:
    pod.record, pod.outcome = UNREADABLE, REFUSED_OUTCOME
    with pytest.raises(StoreDownError, match=r"API does not answer; .*it is a forgery"):
        await pod.coordinator().prepare(AT_5, 60.0)
    assert pod.refusals == {}


@pytest.mark.parametrize(
    ("refused", "kind", "counted"),
    [
        ("signature", SignatureRefusedError, {"signature": 1}),
        ("bundle", BundleError, {"bundle": 1}),
        ("", RefusedError, {}),
    ],
)
async def test_a_refusal_is_counted_by_its_kind(
    pod: Pod, refused: str, kind: type[Exception], counted: dict[str, int]
) -> None:
    pod.outcome = msgspec.convert(
        {"error": "no", "exit_code": 65, "refused": refused}, VerificationOutcome
    )
    with pytest.raises(kind) as error:
        await pod.coordinator().prepare(AT_5, 60.0)
    assert type(error.value) is kind
    assert pod.refusals == counted


async def test_a_bundle_is_verified_again_once_the_public_keys_change(pod: Pod) -> None:
    signers = Signers.new()
    (pod.state.bundles / AT_5.digest).mkdir()
    folder = signers.write_public(pod.state.public_keys)
    await pod.coordinator().prepare(AT_5, 60.0)
    assert pod.cache.is_verified(AT_5)
    await pod.coordinator().prepare(AT_5, 60.0)
    assert len(pod.requests) == 1
    next(folder.glob("waiver*")).unlink()
    assert not pod.cache.is_verified(AT_5)
    await pod.coordinator().prepare(AT_5, 60.0)
    assert len(pod.requests) == 2


async def test_a_prune_removes_credentials_together_with_their_bundle(pod: Pod) -> None:
    bundles = pod.state.bundles
    for digest in (AT_4.digest, AT_5.digest):
        (bundles / digest).mkdir()
        kept_path(bundles, digest).touch()
    kept_path(bundles, "9" * 64).touch()
    (bundles / ".incoming-x").mkdir()
    pod.cache.prune({AT_5.digest})
    assert {path.name for path in bundles.iterdir()} == {
        AT_5.digest,
        kept_path(bundles, AT_5.digest).name,
        ".incoming-x",
    }
