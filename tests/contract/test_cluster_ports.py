"""The promotion's ports in a cluster, on the fake API server."""

from tests.support.cluster_pods import PodsContract
from tests.support.cluster_ports import ConfigMapContract, LeaseContract, RolloutsContract


class TestConfigMapRecords(ConfigMapContract):
    pass


class TestLeaseLock(LeaseContract):
    pass


class TestRollouts(RolloutsContract):
    pass


class TestPods(PodsContract):
    pass
