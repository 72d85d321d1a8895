"""Signed waivers: permission to promote one version once although a gate failed.

A waiver names the promotion request that may use it, so that no later request can replay it. It is
signed by another key than a verdict, so that a pipeline that validates cannot waive.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from fraudops.signing.envelope import StatementKind, Subject, sign, verify
from fraudops.signing.keys import PrivateKey, PublicKeys
from fraudops.signing.verdicts import BUNDLE_FILE

WAIVERS_FORBIDDEN = (
    "this installation forbids waivers (FRAUDOPS_SIGNING__WAIVERS): promote a version with a "
    "passing verdict"
)


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """What the waiver allows: `request` may promote the version until `expires_at`.

    `digest` is that of the bundle. `who` asked for it. `at` is ISO 8601 in UTC.
    `signer` is the id of the key.
    """

    model_name: str
    version: str
    digest: str
    reason: str
    who: str
    request: str
    # A time without a zone could not be compared with the clock.
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]
    at: str
    signer: str = ""


_KIND = StatementKind(
    "waiver",
    "https://fraudops.io/waiver/v1",
    Waiver,
    "Promote again with `--force --reason TEXT`, which makes a new waiver",
)


def sign_waiver(waiver: Waiver, key: PrivateKey) -> str:
    """Sign a waiver and return the text of its sigstore bundle."""
    signed = msgspec.structs.replace(waiver, signer=key.public.id)
    return sign(_KIND, Subject(BUNDLE_FILE, {"sha256": waiver.digest}), signed, key)


def read_waiver(signed: str | None, version: str, digest: str, keys: PublicKeys) -> Waiver:
    """Return the waiver of a version after verifying its signature.

    An expired or used waiver is returned too: a version that serves has such a waiver.
    Raises SignatureRefusedError when it is unsigned, altered, of another version or bundle, or
    signed by a key that is not among `keys`.
    """
    if signed is None:
        raise _KIND.refused(f"version {version} has no signed waiver")
    statement = verify(_KIND, signed, keys)
    waiver = statement.predicate
    if (waiver.version, waiver.digest, statement.subject.sha256) != (version, digest, digest):
        raise _KIND.refused(
            f"it is for version {waiver.version} (bundle {waiver.digest[:12]}), "
            f"not for version {version} (bundle {digest[:12]})"
        )
    # The key that was verified, not what the text says of it.
    return msgspec.structs.replace(waiver, signer=statement.signer.id)


def check_waiver(
    signed: str | None, version: str, digest: str, request: str, now: datetime, keys: PublicKeys
) -> Waiver:
    """Return the waiver after verifying that it allows this request at `now`, a time with a zone.

    Raises SignatureRefusedError, also for a waiver of another request and for an expired one.
    """
    waiver = read_waiver(signed, version, digest, keys)
    if waiver.request != request:
        raise _KIND.refused(f"it is for the request {waiver.request}, not for {request}")
    if now >= waiver.expires_at:
        raise _KIND.refused(f"it expired at {waiver.expires_at.isoformat(timespec='seconds')}")
    return waiver
