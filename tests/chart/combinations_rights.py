"""Values about what a promotion may do in the cluster."""

from collections.abc import Mapping

from tests.chart.combinations import Combination

PROMOTION, RECONCILER = "Role fraudops-promotion", "Deployment fraudops-reconcile"
POLICY = "ValidatingAdmissionPolicy fraud.fraudops-promotion-"
RIGHTS: Mapping[str, Combination] = {
    "no deletion and no rollout": Combination(
        "promotion: {podDeletion: none, strategies: [broadcast]}",
        {PROMOTION: '"verbs": ["list"]', "ConfigMap fraudops-jobs": '"[\\"broadcast\\"]"'},
        {PROMOTION: '"delete"'},
    ),
    "deletion of inference pods without other policies": Combination(
        "promotion: {podDeletion: inferencePods}\nfullnameOverride: scoring",
        {
            "ValidatingAdmissionPolicy fraud.scoring-promotion-deletion": "scoring-inference-",
            "ValidatingAdmissionPolicyBinding fraud.scoring-promotion-deletion": '"Deny"',
        },
    ),
    "every policy": Combination(
        "promotion: {policy: {enabled: true, automation: [x], replicaSetController: "
        "'system:kube-controller-manager'}, approval: {required: true}}\n"
        "jobs: {reconcile: {everySeconds: 30}}",
        {
            f"{POLICY}rollout": "fraudops.io/serving",
            f"{POLICY}deletion": "DELETE",
            f"{POLICY}reconciler": '== \\"system:kube-controller-manager\\"',
            RECONCILER: '"30"',
        },
    ),
    "policies of an administrator": Combination(
        "promotion: {policy: {enabled: true, install: false}}",
        {"ConfigMap fraudops-jobs": '"FRAUDOPS_PROMOTION__AUTHENTICATED": "true"'},
    ),
    "account and pod of the reconciler": Combination(
        "jobs: {reconcile: {serviceAccount: {name: follower, annotations: {a: b}}, "
        "pod: {podLabels: {sidecar.istio.io/inject: 'false'}, extraInitContainers: "
        "[{name: proxy, image: 'p:1', restartPolicy: Always}]}}}",
        {
            RECONCILER: '"serviceAccountName": "follower"',
            "ServiceAccount follower": '"a": "b"',
            "RoleBinding fraudops-rollout": '"name": "follower"',
        },
    ),
}
