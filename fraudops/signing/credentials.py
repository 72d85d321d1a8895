"""What lets a bundle serve: a signed verdict, a signed waiver, or a mark of an earlier release.

A promotion, a rollback and every pod decide by the same function, from plain values.
"""

from dataclasses import dataclass
from datetime import datetime

from fraudops.errors import SignatureRefusedError
from fraudops.extensible import Extensible
from fraudops.signing.keys import PublicKeys
from fraudops.signing.verdicts import SignedVerdict, Verdict, check_verdict
from fraudops.signing.waivers import WAIVERS_FORBIDDEN, Waiver, check_waiver, read_waiver


class Credentials(Extensible, frozen=True, kw_only=True, omit_defaults=True):
    """The signed statements about one bundle, as the serving record and pods keep them.

    `unsigned` marks an entry that release 0.2.0 wrote. Only the serving record may set it.
    """

    signed_verdict: SignedVerdict | None = None
    signed_waiver: str | None = None
    unsigned: bool = False


@dataclass(frozen=True)
class PromotionTerms:
    """What a promotion requires in addition: the names to match, and what a waiver must allow.

    `now` has a time zone.
    """

    model_name: str
    request: str
    now: datetime
    waivers_allowed: bool


@dataclass(frozen=True)
class AcceptedStatements:
    """The statements that let a bundle serve. Both are None for an entry of release 0.2.0.

    `waiver` is None unless it was needed or, at a promotion, given.
    """

    verdict: Verdict | None = None
    waiver: Waiver | None = None

    @property
    def signer(self) -> str | None:
        """The id of the key that signed the verdict."""
        return self.verdict.signer if self.verdict else None


def accept(
    credentials: Credentials,
    version: str,
    digest: str,
    keys: PublicKeys,
    terms: PromotionTerms | None = None,
) -> AcceptedStatements:
    """Return the statements that let the bundle `digest` serve as `version`.

    With `terms` this is the gate of a promotion. Without, the bundle has been promoted already, so
    its waiver is used and may have expired.
    Raises SignatureRefusedError with the reason: no statement, one that is altered, by an unknown
    key, or about something else; a failed verdict without a waiver; a waiver that is forbidden.
    """
    if credentials.signed_waiver is not None and terms and not terms.waivers_allowed:
        raise SignatureRefusedError(WAIVERS_FORBIDDEN)
    if credentials.signed_verdict is None:
        if credentials.signed_waiver is not None:
            return AcceptedStatements(None, _waiver(credentials, version, digest, keys, terms))
        # No promotion: the mark says what served at the upgrade, and nothing about its quality.
        if credentials.unsigned and terms is None:
            return AcceptedStatements()
        raise SignatureRefusedError(
            f"version {version} has no signed verdict: run `fraudops validate --version {version}`"
        )
    # A wrong verdict is refused even with a waiver, because a file was changed by hand.
    verdict = check_verdict(credentials.signed_verdict, digest, keys)
    _check_names(verdict, version, terms)
    if verdict.passed and (terms is None or credentials.signed_waiver is None):
        return AcceptedStatements(verdict)
    if credentials.signed_waiver is None:
        raise SignatureRefusedError(_failed(verdict))
    return AcceptedStatements(verdict, _waiver(credentials, version, digest, keys, terms))


def needs_key(
    key_id: str, credentials: Credentials, version: str, digest: str, keys: PublicKeys
) -> bool:
    """Return whether the bundle may serve with `keys`, but not without the key of this id."""
    return _may_serve(credentials, version, digest, keys) and not _may_serve(
        credentials, version, digest, keys.without(key_id)
    )


def _may_serve(credentials: Credentials, version: str, digest: str, keys: PublicKeys) -> bool:
    try:
        accept(credentials, version, digest, keys)
    except SignatureRefusedError:
        return False
    return True


def _waiver(
    credentials: Credentials,
    version: str,
    digest: str,
    keys: PublicKeys,
    terms: PromotionTerms | None,
) -> Waiver:
    signed = credentials.signed_waiver
    if terms is None:
        return read_waiver(signed, version, digest, keys)
    waiver = check_waiver(signed, version, digest, terms.request, terms.now, keys)
    if waiver.model_name != terms.model_name:
        raise SignatureRefusedError(
            f"the waiver is refused: it is for the model {waiver.model_name}, "
            f"not for {terms.model_name}"
        )
    return waiver


def _check_names(verdict: Verdict, version: str, terms: PromotionTerms | None) -> None:
    """Refuse a verdict on the same bundle under another number, or in another model."""
    if verdict.version != version:
        raise SignatureRefusedError(
            f"the verdict is refused: it is about version {verdict.version}, not about version "
            f"{version}. Run `fraudops validate --version {version}`"
        )
    if terms and verdict.model_name != terms.model_name:
        raise SignatureRefusedError(
            f"the verdict is refused: it is about the model {verdict.model_name}, not about "
            f"{terms.model_name}. Run `fraudops validate --version {version}`"
        )


def _failed(verdict: Verdict) -> str:
    failed = ", ".join(str(gate.get("name")) for gate in verdict.gates if not gate.get("passed"))
    return (
        f"version {verdict.version} did not pass validation ({failed or 'see its verdict'}); "
        "`--force --reason …` waives the gates for one promotion"
    )
