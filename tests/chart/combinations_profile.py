"""Combinations of values with the strict security profile."""

from tests.chart.combinations import INFERENCE, Combination

PRODUCTION = ("k8s/values/production.yaml",)
TLS = "{enabled: true, host: fraud.example.com, tlsSecret: fraud-tls}"
ROUTE = "{enabled: true, parentRefs: [{name: public}]}"
ROUTES = ("Ingress fraudops-inference", "HTTPRoute fraudops-inference")

PROFILES = {
    "strict": Combination("", {INFERENCE: "READY_WITHOUT_MODEL"}, files=PRODUCTION),
    "strict with public routes": Combination(
        f"ingress: {TLS}\nhttpRoute: {ROUTE}",
        dict.fromkeys(ROUTES, '"/predict"'),
        dict.fromkeys(ROUTES, '"/docs"'),
        PRODUCTION,
    ),
    "default with public routes": Combination(
        f"ingress: {TLS}\nhttpRoute: {ROUTE}", dict.fromkeys(ROUTES, '"/docs"')
    ),
    "strict with public documentation": Combination(
        "ingress: {enabled: true, tlsSecret: fraud-tls, docs: true}\n"
        "security: {exceptions: [publicDocs]}",
        {ROUTES[0]: '"/docs"'},
        files=PRODUCTION,
    ),
    "strict behind a load balancer": Combination(
        "inference: {service: {type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8]}}\n"
        "security: {exceptions: [plainIngress, publicDocs]}",
        {"Service fraudops-inference": "LoadBalancer"},
        files=PRODUCTION,
    ),
    "ready only with a model": Combination(
        "inference: {readyWithoutModel: false}",
        {INFERENCE: '{"name": "FRAUDOPS_READY_WITHOUT_MODEL", "value": "false"}'},
    ),
    "bootstrap that is ready without a model": Combination(
        "environment: development\nbootstrap: {enabled: true}\n"
        "inference: {readyWithoutModel: true}",
        {INFERENCE: '{"name": "FRAUDOPS_READY_WITHOUT_MODEL", "value": "true"}'},
    ),
}
