"""Build the parts of a promotion from settings.

If the settings name a release, the parts work in the cluster. Otherwise they work on the state
folder of this machine.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fraudops import endpoints
from fraudops.errors import SettingsError
from fraudops.progress import Say
from fraudops.promotion.admin_client import LocalPods
from fraudops.promotion.approval import Approvals
from fraudops.promotion.journal import DatabaseJournal
from fraudops.promotion.local import FileLock, FileRecordStore, LocalRecords, SystemClock
from fraudops.promotion.ports import Deadlines, PromotionPorts
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import Registry
from fraudops.settings import ClusterSettings, PromoteJobSettings
from fraudops.state import State

if TYPE_CHECKING:
    from fraudops.cluster.api import Cluster

# Timeout of a call that reads or writes an alias. The alias only follows the record, so a promotion
# must not wait for a registry that is down. The reconciler writes the alias later.
ALIAS_SECONDS = 3.0


class RegistryAliases:
    """The registry as the protocol's port for aliases.

    The registry's calls block, so they run in a thread.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def get(self, alias: str) -> str | None:
        return await asyncio.to_thread(self.registry.alias, alias)

    async def set(self, alias: str, version: str) -> None:
        await asyncio.to_thread(self.registry.set_alias, alias, version)

    async def drop(self, alias: str) -> None:
        await asyncio.to_thread(self.registry.delete_alias, alias)

    async def exists(self, version: str) -> bool:
        return await asyncio.to_thread(self.registry.exists, version)


@dataclass(frozen=True)
class PromotionContext:
    """What promotions, rollbacks and the reconciler need.

    The gate reads `registry`. `rows` is the table `promotions` without Kubernetes Events.
    `approvals` is None outside of a Job.
    """

    ports: PromotionPorts
    registry: Registry
    rows: DatabaseJournal
    approvals: Approvals | None = None

    def promoter(self) -> Promoter:
        return Promoter(self.ports)


@asynccontextmanager
async def open_promotion_context(
    settings: PromoteJobSettings,
    state: State,
    say: Say,
    wait_seconds: float = 120.0,
    *,
    calls_pods: bool = True,
) -> AsyncIterator[PromotionContext]:
    """Yield the dependencies, and close their connections after the block.

    Without `calls_pods` a program in the cluster needs no admin token.

    Raises SettingsError when a setting is missing or no running product is found, and
    StoreDownError when the cluster does not answer.
    """
    registry = Registry(endpoints.mlflow_url(state), settings.model_name)
    rows = DatabaseJournal(endpoints.database_url(state), settings.model_name)
    if settings.cluster.release is None:
        yield PromotionContext(
            _local_ports(settings, state, rows, say, wait_seconds), registry, rows
        )
        return
    # Imported here, because a program on one machine does not need the Kubernetes client.
    from fraudops.cluster.api import Cluster

    async with Cluster.connect(settings.cluster.namespace) as cluster:
        # Without the token the pods would refuse every call.
        admin = _cluster_admin(settings) if calls_pods else ("", 0)
        ports = _cluster_ports(settings, state, cluster, admin, rows, say, wait_seconds)
        yield PromotionContext(ports, registry, rows, _approvals(settings, cluster))


def _approvals(settings: PromoteJobSettings, cluster: "Cluster") -> Approvals | None:
    from fraudops.cluster.identity import JobApprovals

    if settings.job is None or settings.request_id is None:
        return None
    return JobApprovals(cluster, settings.job, settings.request_id)


def _local_ports(
    settings: PromoteJobSettings,
    state: State,
    rows: DatabaseJournal,
    say: Say,
    wait_seconds: float,
) -> PromotionPorts:
    return PromotionPorts(
        records=LocalRecords(FileRecordStore(state.serving_record)),
        lock=FileLock(state.locks / "promotion.lock", wait_seconds),
        aliases=_aliases(settings, state),
        pods=LocalPods(endpoints.inference_url(state), _local_token(state)),
        journal=rows,
        clock=SystemClock(),
        deadlines=_deadlines(settings),
        say=say,
    )


def _cluster_ports(
    settings: PromoteJobSettings,
    state: State,
    cluster: "Cluster",
    admin: tuple[str, int],
    rows: DatabaseJournal,
    say: Say,
    wait_seconds: float,
) -> PromotionPorts:
    from fraudops.cluster.events import EventJournal
    from fraudops.cluster.lease import LeaseLock
    from fraudops.cluster.pods import ClusterPods
    from fraudops.cluster.records import ConfigMapRecords
    from fraudops.cluster.rollout import DeploymentRollouts

    release = settings.cluster.release
    assert release is not None
    # A shell may export HOSTNAME, and the Lease lets its holder take it again. Without the
    # process two promoters on one machine would both have the lock.
    identity = f"{socket.gethostname()}, process {os.getpid()}"
    records = ConfigMapRecords(cluster, release)
    return PromotionPorts(
        records=records,
        lock=LeaseLock(cluster, release, identity, say, wait_seconds),
        aliases=_aliases(settings, state),
        pods=ClusterPods(cluster, release, *admin),
        journal=EventJournal(rows, cluster, release, say),
        clock=SystemClock(),
        rollouts=DeploymentRollouts(cluster, release),
        adopt=records.adopt,
        deadlines=_deadlines(settings),
        say=say,
    )


def _aliases(settings: PromoteJobSettings, state: State) -> RegistryAliases:
    return RegistryAliases(
        Registry(endpoints.mlflow_url(state), settings.model_name, ALIAS_SECONDS)
    )


def _deadlines(settings: PromoteJobSettings) -> Deadlines:
    given = settings.promotion
    return Deadlines(
        prepare=given.prepare_seconds,
        activate=given.activate_seconds,
        retry=given.second_seconds,
        rollout=given.rollout_seconds,
        starting=settings.record_poll_seconds + 1,
    )


def _cluster_admin(settings: PromoteJobSettings) -> tuple[str, int]:
    """Return the token and the port of the pods' admin calls. Raises SettingsError."""
    if settings.admin_token is None:
        raise SettingsError(
            "FRAUDOPS_ADMIN_TOKEN is not set: the pods refuse admin calls without their token"
        )
    if settings.admin_port is None:
        raise SettingsError(
            "FRAUDOPS_ADMIN_PORT is not set: set it to the port of the pods' admin calls"
        )
    return settings.admin_token.get_secret_value(), settings.admin_port


def read_record(settings: ClusterSettings, state: State) -> ServingRecord:
    """Return the serving record of the named release, or else of the state folder.

    It starts an event loop, so do not call it from inside one. Raises StoreDownError.
    """
    if settings.release is None:
        return FileRecordStore(state.serving_record).read()[0]
    return asyncio.run(_from_cluster(settings.release, settings.namespace))


async def _from_cluster(release: str, namespace: str | None) -> ServingRecord:
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.records import ConfigMapRecords

    async with Cluster.connect(namespace) as cluster:
        return (await ConfigMapRecords(cluster, release).read())[0]


def _local_token(state: State) -> str:
    try:
        return state.admin_token.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"{state.admin_token} cannot be read ({error.strerror}): "
            "run `fraudops up --detach` or give --state FOLDER"
        ) from error
