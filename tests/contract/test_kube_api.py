"""The fake Kubernetes API server behaves as a real one where the adapters rely on it."""

from tests.support.kube_api_contract import KubeApiContract


class TestFakeApi(KubeApiContract):
    pass
