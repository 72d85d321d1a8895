"""The list of an installation's keys, which key may be retired, and what a refusal advises."""

import base64
import json

import pytest

from fraudops.errors import RefusedError, SettingsError, SignatureRefusedError
from fraudops.signing.credentials import Credentials, accept
from fraudops.signing.key_list import KeyEntry, entries, key_to_retire, public_keys
from fraudops.signing.keys import PublicKeys, new_key
from tests.support.signing import DIGEST, SIGNERS

OLD, NEW, WAIVER = new_key().public, new_key().public, new_key().public
VERDICT_ENTRY = KeyEntry("verdict", "aa11", "verdict-1.pem", False)
SIGNING_ENTRY = KeyEntry("verdict", "aa22", "verdict-2.pem", True)
WAIVER_ENTRY = KeyEntry("waiver", "bb33", "waiver-1.pem", False)
KNOWN = [VERDICT_ENTRY, SIGNING_ENTRY, WAIVER_ENTRY]


def test_the_list_has_each_public_key_and_says_which_one_signs() -> None:
    public = {"waiver-1.pem": WAIVER, "verdict-b.pem": NEW, "verdict-a.pem": OLD, "other.pem": OLD}
    assert entries(public, {"verdict": NEW, "waiver": WAIVER}) == [
        KeyEntry("verdict", OLD.id, "verdict-a.pem", False),
        KeyEntry("verdict", NEW.id, "verdict-b.pem", True),
        KeyEntry("waiver", WAIVER.id, "waiver-1.pem", True),
    ]


def test_a_key_that_signs_without_a_public_file_is_an_entry_without_a_file() -> None:
    # The public half of the key is there, but for the other purpose.
    public = {"verdict-a.pem": OLD, "waiver-1.pem": NEW}
    assert entries(public, {"verdict": NEW}) == [
        KeyEntry("verdict", OLD.id, "verdict-a.pem", False),
        KeyEntry("waiver", NEW.id, "waiver-1.pem", False),
        KeyEntry("verdict", NEW.id, "", True),
    ]
    assert entries({}, {}) == []


def test_a_file_counts_for_the_purpose_at_the_start_of_its_name() -> None:
    public = {"waiver-1.pem": WAIVER, "verdict-b.pem": NEW, "verdict-a.pem": OLD, "other.pem": OLD}
    assert public_keys(public) == PublicKeys((NEW, OLD), (WAIVER,))


@pytest.mark.parametrize("start", ["aa1", "AA11"])
def test_a_key_is_retired_by_the_start_of_its_id(start: str) -> None:
    assert key_to_retire(KNOWN, start) == [VERDICT_ENTRY]


def test_all_files_of_a_key_are_retired_together() -> None:
    copy = KeyEntry("verdict", "aa11", "verdict-copy.pem", False)
    assert key_to_retire([*KNOWN, copy], "aa11") == [VERDICT_ENTRY, copy]


@pytest.mark.parametrize(
    ("start", "reason"), [("aa", "several keys begin"), ("cc", "no key begins"), ("", "no key")]
)
def test_a_start_that_names_not_exactly_one_key_is_refused(start: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"{reason}.*: verdict aa11, verdict aa22, waiver bb33"):
        key_to_retire(KNOWN, start)


def test_without_a_start_even_the_only_key_is_not_retired() -> None:
    with pytest.raises(SettingsError, match="no key begins"):
        key_to_retire([VERDICT_ENTRY], "")


def test_a_key_without_a_public_file_cannot_be_retired() -> None:
    orphan = KeyEntry("verdict", "dd44", "", True)
    with pytest.raises(SettingsError, match=r"no key begins.*: none$"):
        key_to_retire([orphan], "dd")
    # Nor does it stand in the way of another key.
    valid = KeyEntry("waiver", "dd55", "waiver-2.pem", False)
    assert key_to_retire([orphan, valid], "dd") == [valid]


def test_the_key_that_signs_is_not_retired() -> None:
    # One of two files of the key that signs.
    copy = KeyEntry("verdict", "aa22", "verdict-copy.pem", False)
    with pytest.raises(RefusedError, match=r"verdict key aa22 signs now.*keys rotate verdict"):
        key_to_retire([copy, *KNOWN], "aa22")
    signing = KeyEntry("waiver", "bb33", "waiver-1.pem", True)
    with pytest.raises(RefusedError, match=r"waiver key bb33 signs now.*keys rotate waiver"):
        key_to_retire([VERDICT_ENTRY, signing], "bb")


def test_a_missing_verdict_is_refused_with_the_command_that_makes_it() -> None:
    with pytest.raises(SignatureRefusedError, match="fraudops validate --version 7"):
        accept(Credentials(), "7", DIGEST, SIGNERS.public)


def test_a_signed_waiver_names_the_key_that_signed_it() -> None:
    envelope = json.loads(SIGNERS.waiver_for("7", DIGEST))["dsseEnvelope"]
    signed = json.loads(base64.b64decode(envelope["payload"]))
    assert signed["predicate"]["signer"] == SIGNERS.waiver.public.id
