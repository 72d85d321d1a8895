"""An upgrade from the previous release and the way back, under load, lose nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.cluster.earlier import Upgrade
from tests.cluster.observations import Promoted
from tests.cluster.release import Release, Repetitions, until
from tests.support.figures import Figures

BATCH = 1000
FILL = """
import json, sys, urllib.request
row = json.load(open("/clients/transaction.json"))
body = json.dumps({"transactions": [row] * %d}).encode()
headers = {"Content-Type": "application/json"}
for _ in range(int(sys.argv[2])):
    request = urllib.request.Request(sys.argv[1] + "/predict/batch", body, headers)
    urllib.request.urlopen(request, timeout=60).read()
"""


def test_an_upgrade_with_an_act_in_flight_loses_nothing(
    upgrade: Upgrade, counts: Repetitions, figures: Figures
) -> None:
    """The previous release's promoter rolls out a version while helm replaces the product."""
    before, after = upgrade.before, upgrade.after
    target = before.agreed()[0]
    # The next test goes back to a version that the previous release promoted.
    promoted_before = before.promote(before.new_version(11))
    assert promoted_before.exit_code == 0, promoted_before.output
    fill(before, counts.audited_rows)
    rows = int(before.sql("SELECT count(*) FROM predictions"))
    assert rows >= counts.audited_rows
    lease = uid_of_lock(before)
    with after.traffic() as seen, in_flight(before, target) as promoted:
        after.install()
    assert uid_of_lock(after) == lease
    assert seen.failures == []
    after.assert_all_audited(seen.ids)
    assert int(after.sql("SELECT count(*) FROM predictions")) == rows + seen.answered
    assert_ended(after, promoted, target)
    new = {f"fraudops-serving:{after.values['inference']['image']['tag']}"}
    until(
        lambda: {image_of(pod) for pod in after.objects("pods", "inference")} == new,
        90,
        "only pods of the new image",
    )
    figures.note(
        f"helm upgrade from release {upgrade.version} under load, with a rollout in flight",
        f"{rows} audited rows, all kept; {seen.answered} requests during it, "
        f"failed: {len(seen.failures)}; the rollout ended with exit code {promoted[0].exit_code}",
    )


def test_a_rollback_after_the_upgrade_reaches_an_unsigned_version(
    upgrade: Upgrade, figures: Figures
) -> None:
    """The way back that the previous release left has no signature. It stays open and is marked."""
    release = upgrade.after
    version, entry = release.serving()[0], release.record()["stack"][0]
    assert not entry.get("signed_verdict"), entry
    rolled_back = release.rollback()
    assert rolled_back.exit_code == 0, rolled_back.output
    assert f"version {entry['version']} is unsigned, from before" in rolled_back.output
    assert release.agreed()[0] == entry["version"] != version
    assert release.record()["current"]["unsigned"] is True
    shown = " ".join(release.fraudops("status", "--on-cluster").stdout.split())
    assert "unsigned, from before" in shown
    figures.note(
        f"rollback into the unsigned stack of release {upgrade.version}, after the upgrade",
        f"version {entry['version']} serves, marked `unsigned, from before`",
    )


def test_a_helm_rollback_with_an_act_in_flight_loses_nothing(
    upgrade: Upgrade, figures: Figures
) -> None:
    """This release's promoter rolls out a version while helm goes back to the previous release."""
    before, after = upgrade.before, upgrade.after
    target = "1" if after.serving()[0] != "1" else "2"
    assert_unsigned(after, target)
    rows = int(after.sql("SELECT count(*) FROM predictions"))
    lease = uid_of_lock(after)
    with before.traffic() as seen, in_flight(after, target) as promoted:
        before.roll_back_to(upgrade.first_revision)
    assert uid_of_lock(before) == lease
    assert seen.failures == []
    before.assert_all_audited(seen.ids)
    assert int(before.sql("SELECT count(*) FROM predictions")) == rows + seen.answered
    assert_ended(before, promoted, target)
    figures.note(
        f"helm rollback to release {upgrade.version} under load, with a rollout in flight",
        f"{rows} audited rows, all kept; failed requests: {len(seen.failures)}; "
        f"the rollout ended with exit code {promoted[0].exit_code}",
    )


def uid_of_lock(release: Release) -> str:
    """Return the UID of the promotion lock. A Lease that Helm made again would have no holder."""
    return str(release.get("lease", f"{release.name}-promotion")["metadata"]["uid"])


def assert_unsigned(release: Release, version: str) -> None:
    """What 0.2.0 promoted serves on, marked. Its verdict admits no promotion until it is signed."""
    status = release.fraudops("status", "--on-cluster").stdout
    assert "unsigned, from before" in " ".join(status.split()), release.record()
    refused = release.promote(version, "--strategy", "rollout")
    assert refused.exit_code == 65
    assert f"version {version} has no signed verdict" in refused.output
    release.fraudops("validate", "--on-cluster", "--version", version)


@contextmanager
def in_flight(release: Release, version: str) -> Iterator[list[Promoted]]:
    """Begin a rollout before the block, and wait for its end after the block."""
    ended: list[Promoted] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(release.promote, version, "--strategy", "rollout")
        until(
            lambda: running.done() or bool(release.record().get("reserved")),
            120,
            "the rollout has reserved its epoch",
        )
        assert not running.done(), running.result().output
        yield ended
        ended.append(running.result())


def assert_ended(release: Release, promoted: list[Promoted], target: str) -> None:
    """Record, alias and pods agree, and the row tells how the act ended."""
    version, epoch = release.agreed()
    latest = "SELECT outcome FROM promotions ORDER BY started_at DESC LIMIT 1"
    until(lambda: release.sql(latest) != "started", 120, "the row has an outcome")
    outcome = release.sql(latest)
    if promoted[0].exit_code == 0:
        assert (version, outcome) == (target, "done"), promoted[0].output
    else:
        assert outcome in ("refused", "failed", "overtaken", "unconfirmed"), promoted[0].output
        assert (version == target) == (outcome == "unconfirmed"), promoted[0].output
    row = f"SELECT to_version FROM promotions WHERE epoch = {epoch}"
    assert release.sql(row) in (version, ""), "the row of the epoch names another version"


def image_of(pod: dict[str, object]) -> str:
    spec: dict[str, list[dict[str, str]]] = pod["spec"]  # type: ignore[assignment]
    return spec["containers"][0]["image"]


def fill(release: Release, rows: int) -> None:
    """Send predictions by the thousand from a pod, and wait until all are in the table."""
    with release.client(["sleep", "3600"], {"fill.py": FILL % BATCH}) as pod:
        release.kubectl(
            "exec",
            pod,
            "--",
            "python",
            "/clients/fill.py",
            f"http://{release.name}-inference",
            str(rows // BATCH),
        )
    until(
        lambda: int(release.sql("SELECT count(*) FROM predictions")) >= rows,
        120,
        f"{rows} audit rows",
    )
