"""A changed password of PostgreSQL, with `postgresql.secretAs: file`."""

import base64
import json
import secrets
from urllib.parse import quote

import pytest

from fraudops.database_url import read_database_url
from tests.cluster.release import Release
from tests.support.figures import PROOF
from tests.support.waiting import eventually

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'"
END = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'"


def starts(release: Release) -> dict[str, int]:
    """Return the pods of the service, with the restarts of their containers."""
    return {
        pod["metadata"]["name"]: sum(
            status["restartCount"]
            for kind in ("containerStatuses", "initContainerStatuses")
            for status in pod["status"].get(kind, [])
        )
        for pod in release.objects("pods", "inference")
        if "deletionTimestamp" not in pod["metadata"]
    }


def change_password(release: Release) -> str:
    """Change the audit's password in PostgreSQL and then in the Secret; return its role."""
    secret = f"secret/{release.name}-database"
    url = read_database_url(base64.b64decode(release.get(secret)["data"]["url"]).decode())
    password = secrets.token_hex(16)
    release.sql(f"ALTER ROLE \"{url.user}\" PASSWORD '{password}'")
    changed = f"postgresql://{quote(url.user)}:{password}@{url.host_list}/{url.database}"
    release.kubectl("patch", secret, "-p", json.dumps({"stringData": {"url": changed}}))
    return url.user


@pytest.mark.skipif(not PROOF, reason="waits for the kubelet, up to two minutes: PROOF=1")
def test_a_changed_password_reaches_running_pods_and_loses_nothing(release: Release) -> None:
    release.install("postgresql.secretAs=file")
    try:
        release.agreed()
        before = starts(release)
        with release.traffic() as seen:
            role = change_password(release)
            release.sql(END.format(role=role))

            def connected() -> None:
                assert int(release.sql(SESSIONS.format(role=role))) > 0

            # The kubelet updates the files of all pods within about a minute.
            eventually(connected, 180, 2.0)
        assert seen.failures == []
        release.assert_all_audited(seen.ids)
        assert starts(release) == before
    finally:
        # As variables again: the new pods read the new password.
        release.install()
    release.agreed()
