"""Values that a site combines, and what must then be in which object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.chart.rendering import Variant

DIGEST = "sha256:" + "6c3c624b" * 8
INFERENCE, MLFLOW = "Deployment fraudops-inference", "Deployment fraudops-mlflow"
POSTGRESQL, TRAIN = "StatefulSet fraudops-postgresql", "CronJob fraudops-train"
SERVICE, POLICY = "Service fraudops-inference", "NetworkPolicy fraudops-to-inference"
RULES, PROMOTER = "PrometheusRule fraudops-inference", "CronJob fraudops-promote"


@dataclass(frozen=True)
class Combination:
    """Values as YAML; `has` and `lacks` map an object's title to fragments of its JSON."""

    values: str
    has: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def variant(self) -> Variant:
        return Variant(self.files, values=self.values)

    def parsed(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.values) or {})


IMAGES = {
    "digest": Combination(
        f"mlflow: {{image: {{digest: '{DIGEST}', tag: '1'}}}}",
        {MLFLOW: f'"fraudops-mlflow@{DIGEST}"'},
    ),
    "digest and registry": Combination(
        f"imageRegistry: r.example.com:5000/a\npostgresql: {{image: {{digest: '{DIGEST}'}}}}",
        {POSTGRESQL: f'"r.example.com:5000/a/postgres@{DIGEST}"'},
    ),
    "digest and policy": Combination(
        f"jobs: {{image: {{digest: '{DIGEST}'}}}}\npromotion: {{policy: {{enabled: true}}}}",
        {
            PROMOTER: f'"fraudops-jobs@{DIGEST}"',
            "ValidatingAdmissionPolicy fraud.fraudops-promotion-jobs": 'fraudops-jobs\\"',
        },
    ),
    "global registry": Combination(
        "global: {imageRegistry: global.example.com}",
        {MLFLOW: '"global.example.com/fraudops-mlflow:', POSTGRESQL: "global.example.com/postgres"},
    ),
    "global registry and own": Combination(
        "global: {imageRegistry: g.example.com}\nimageRegistry: own.example.com\n"
        "mlflow: {image: {registry: third.example.com}}",
        {MLFLOW: '"third.example.com/fraud', POSTGRESQL: '"own.example.com/postgres'},
    ),
    "global registry and policy": Combination(
        "global: {imageRegistry: g.example.com}\npromotion: {policy: {enabled: true}}",
        {"ValidatingAdmissionPolicy fraud.fraudops-promotion-jobs": "g.example.com/fraudops-jobs"},
    ),
    "pull secrets of all kinds": Combination(
        "global: {imagePullSecrets: [a, {name: b}]}\nimagePullSecrets: [{name: a}, {name: c}]",
        {MLFLOW: '"imagePullSecrets": [{"name": "a"}, {"name": "c"}, {"name": "b"}]'},
    ),
    "values of a parent chart": Combination(
        "global: {clusterDomain: a, other: {b: 1}, imageRegistry: g.example.com}",
        {MLFLOW: "g.example.com"},
    ),
}
ACCOUNTS = {
    "IRSA": Combination(
        "mlflow: {serviceAccount: {annotations: {eks.amazonaws.com/role-arn: 'arn:aws:iam::1:r/m'}"
        "}, artifacts: {type: s3, s3: {destination: 's3://a/b'}}}",
        {
            "ServiceAccount fraudops-mlflow": '"eks.amazonaws.com/role-arn": "arn:aws:iam::1:r/m"',
            MLFLOW: '"serviceAccountName": "fraudops-mlflow"',
        },
        {MLFLOW: "secretRef"},
    ),
    "Workload Identity": Combination(
        "mlflow: {podLabels: {azure.workload.identity/use: 'true'}, serviceAccount: "
        "{labels: {azure.workload.identity/use: 'true'}, annotations: {a: b}}}",
        {
            MLFLOW: '"azure.workload.identity/use": "true"',
            "ServiceAccount fraudops-mlflow": '"azure.workload.identity/use": "true"',
        },
    ),
    "own name": Combination(
        "inference: {serviceAccount: {name: scoring}}",
        {
            INFERENCE: '"serviceAccountName": "scoring"',
            "RoleBinding fraudops-inference": '"name": "scoring"',
            "ServiceAccount scoring": "inference",
        },
    ),
    "existing account": Combination(
        "jobs: {serviceAccount: {create: false, name: batch}, setup: {serviceAccount: "
        "{create: false, name: installer}}}",
        {
            "CronJob fraudops-drift": '"serviceAccountName": "batch"',
            "RoleBinding fraudops-setup": '"name": "installer"',
        },
    ),
    "promoting account of the policy": Combination(
        "promotion: {serviceAccount: {name: promoter}, policy: {enabled: true, automation: [x]},"
        " approval: {required: true}}",
        {
            PROMOTER: '"serviceAccountName": "promoter"',
            "ValidatingAdmissionPolicy fraud.fraudops-promotion-pods": '== \\"promoter\\"',
            "ValidatingAdmissionPolicy fraud.fraudops-promotion-jobs": '== \\"promoter\\"',
            "ValidatingAdmissionPolicy fraud.fraudops-promotion-cronjobs": '== \\"promoter\\"',
            "RoleBinding fraudops-promotion": '"name": "promoter"',
        },
    ),
    "MLflow without an account": Combination(
        "mlflow: {serviceAccount: {create: false}}", {MLFLOW: '"serviceAccountName": "default"'}
    ),
    "PostgreSQL with an account": Combination(
        "postgresql: {serviceAccount: {create: true, annotations: {a: b}}}",
        {
            POSTGRESQL: '"serviceAccountName": "fraudops-postgresql"',
            "ServiceAccount fraudops-postgresql": '"automountServiceAccountToken": false',
        },
    ),
    "training with an account": Combination(
        "jobs: {train: {pod: {serviceAccountName: trainer}}}",
        {TRAIN: '"serviceAccountName": "trainer"'},
        {TRAIN: "api-token"},
    ),
}
ADDRESSES = {
    "IPv6 only": Combination(
        "dualStack: {ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]}",
        {
            "ConfigMap fraudops-inference": '"FRAUDOPS_HOST": "::"',
            MLFLOW: '"services.mlflow.server", "", "5000"',
            "Service fraudops-postgresql": '"ipFamilies": ["IPv6"]',
            "NetworkPolicy fraudops-from-api-clients": '"cidr": "::/0"',
        },
    ),
    "dual stack": Combination(
        "dualStack: {ipFamilyPolicy: RequireDualStack}",
        {
            "Service fraudops-inference-admin": '"ipFamilyPolicy": "RequireDualStack"',
            "ConfigMap fraudops-inference": '"FRAUDOPS_HOST": "::"',
        },
        {"Service fraudops-inference-admin": "ipFamilies"},
    ),
    "dual stack in an order": Combination(
        "dualStack: {ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4]}",
        {"Service fraudops-mlflow": '["IPv6", "IPv4"]'},
    ),
    "IPv4 only": Combination(
        "dualStack: {ipFamilyPolicy: SingleStack, ipFamilies: [IPv4]}",
        {"ConfigMap fraudops-inference": '"FRAUDOPS_HOST": "0.0.0.0"'},
        {"NetworkPolicy fraudops-from-api-clients": "::/0"},
    ),
    "dual stack of the public Service only": Combination(
        "inference: {service: {ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6]}}",
        {SERVICE: '["IPv4", "IPv6"]', "ConfigMap fraudops-inference": '"FRAUDOPS_HOST": "::"'},
        {"Service fraudops-mlflow": "ipFamilies"},
    ),
    "any address of IPv6": Combination(
        "networkPolicy: {apiServer: {cidrs: ['::/0']}}",
        {"NetworkPolicy fraudops-from-api-clients": '{"cidr": "::/0"}'},
    ),
    "addresses of both families": Combination(
        "networkPolicy: {https: {cidrs: ['2001:db8::/32', 10.0.0.0/8]}}\n"
        "mlflow: {artifacts: {type: s3, s3: {destination: 's3://a/b'}}}",
        {"NetworkPolicy fraudops-from-https-clients": '"2001:db8::/32"'},
    ),
}
BALANCER = "inference: {service: {type: LoadBalancer"
NETWORK = {
    "load balancer with ranges": Combination(
        f"{BALANCER}, loadBalancerSourceRanges: [203.0.113.0/24]}}}}",
        {
            SERVICE: '"loadBalancerSourceRanges": ["203.0.113.0/24"]',
            POLICY: '"cidr": "203.0.113.0/24"',
        },
    ),
    "load balancer behind nodes": Combination(
        f"{BALANCER}, loadBalancerSourceRanges: [203.0.113.0/24]}}}}\n"
        "networkPolicy: {loadBalancer: {cidrs: [10.0.0.0/16]}}",
        {POLICY: '"cidr": "10.0.0.0/16"'},
        {POLICY: "203.0.113"},
    ),
    "load balancer with a class": Combination(
        f"{BALANCER}, loadBalancerClass: service.k8s.aws/nlb, externalTrafficPolicy: Local}}}}\n"
        "networkPolicy: {loadBalancer: {cidrs: [0.0.0.0/0, '::/0']}}",
        {SERVICE: '"loadBalancerClass": "service.k8s.aws/nlb"', POLICY: '"cidr": "::/0"'},
    ),
    "load balancer with clients": Combination(
        f"{BALANCER}}}}}\nnetworkPolicy: {{clients: [{{ipBlock: {{cidr: 10.0.0.0/8}}}}]}}",
        {SERVICE: '"type": "LoadBalancer"'},
    ),
    "load balancer without policies": Combination(
        f"{BALANCER}, nodePort: 30080}}}}\nnetworkPolicy: {{enabled: false}}",
        {SERVICE: '"nodePort": 30080'},
    ),
    "load balancer of both families": Combination(
        f"{BALANCER}, ipFamilyPolicy: RequireDualStack, loadBalancerSourceRanges: ['2001:db8::/32']"
        "}}",
        {POLICY: '"cidr": "2001:db8::/32"'},
    ),
    "node port": Combination(
        "inference: {service: {type: NodePort, nodePort: 30080, externalTrafficPolicy: Local}}\n"
        "networkPolicy: {loadBalancer: {cidrs: [10.0.0.0/16]}}",
        {SERVICE: '"nodePort": 30080', POLICY: '"cidr": "10.0.0.0/16"'},
    ),
    "DNS of OpenShift": Combination(
        "networkPolicy: {dns: {ports: [53, 5353], peers: [{namespaceSelector: {matchLabels: "
        "{kubernetes.io/metadata.name: openshift-dns}}}]}}",
        {"NetworkPolicy fraudops-default-deny": '"openshift-dns"'},
    ),
    "DNS of a node": Combination(
        "networkPolicy: {dns: {peers: [{ipBlock: {cidr: 169.254.20.10/32}}]}}",
        {"NetworkPolicy fraudops-default-deny": '"169.254.20.10/32"'},
    ),
    "extra egress of all": Combination(
        "networkPolicy: {extraEgress: {all: [{to: [{namespaceSelector: {matchLabels: "
        "{kubernetes.io/metadata.name: istio-system}}}], ports: [{port: 15012, protocol: TCP}]}]}}",
        {"NetworkPolicy fraudops-extra-egress-all": '"port": 15012'},
    ),
    "extra egress of parts": Combination(
        "networkPolicy: {extraEgress: {jobs: [{ports: [{port: 8125, protocol: UDP}]}], inference: "
        "[{to: [{ipBlock: {cidr: 10.0.0.1/32}}]}]}}",
        {
            "NetworkPolicy fraudops-extra-egress-jobs": '"operator": "NotIn"',
            "NetworkPolicy fraudops-extra-egress-inference": '["inference"]',
        },
    ),
}
SECRETS = {
    "URL of MLflow in a Secret": Combination(
        "mlflow: {enabled: false, existingSecret: registry, secretKey: uri}",
        {INFERENCE: '"name": "MLFLOW_TRACKING_URI"', TRAIN: '"name": "MLFLOW_TRACKING_URI"'},
        {
            "ConfigMap fraudops-inference": "MLFLOW_TRACKING_URI",
            "ConfigMap fraudops-jobs": "MLFLOW_TRACKING_URI",
            "CronJob fraudops-promote": "secret-revision",
        },
    ),
    "revision of that Secret": Combination(
        "mlflow: {enabled: false, existingSecret: registry}\nsecretRevisions: {mlflowUrl: 3}",
        {INFERENCE: '"secret-revision/mlflow-url": "3"'},
    ),
    "URL of the data in a Secret": Combination(
        f"data: {{source: url, existingSecret: presigned, sha256: '{'0' * 64}'}}",
        {TRAIN: '"secretKeyRef": {"key": "url", "name": "presigned"}'},
        {TRAIN: "--mirror"},
    ),
    "URL of the data and policy": Combination(
        f"data: {{source: url, url: 'https://a/b', sha256: '{'0' * 64}'}}\n"
        "promotion: {policy: {enabled: true}}",
        {
            TRAIN: '"value": "https://a/b"',
            "ValidatingAdmissionPolicy fraud.fraudops-promotion-jobs": "FRAUDOPS_DATA_URL",
        },
        {TRAIN: "--mirror"},
    ),
    "CA and its revision": Combination(
        "caBundle: {configMap: company}\nsecretRevisions: {caBundle: 2}",
        {
            INFERENCE: '"secret-revision/ca-bundle": "2"',
            "Pod fraudops-test-prediction": "SSL_CERT_FILE",
        },
    ),
    "CA and own variable": Combination(
        "caBundle: {secret: company, key: tls.crt}\n"
        "mlflow: {extraEnv: [{name: PGSSLROOTCERT, value: /db.crt}]}",
        {MLFLOW: '{"name": "PGSSLROOTCERT", "value": "/db.crt"}', INFERENCE: '"tls.crt"'},
    ),
    "keys of an own database": Combination(
        "postgresql: {enabled: false, existingSecret: db, secretKeys: {url: 'on', mlflowUrl: '1'}}",
        {MLFLOW: '"key": "1"', "CronJob fraudops-retention": '"key": "on"'},
    ),
}
REST = {
    "priority of all and of one": Combination(
        "priorityClassName: low\ninference: {priorityClassName: high}",
        {INFERENCE: '"priorityClassName": "high"', TRAIN: '"priorityClassName": "low"'},
    ),
    "OpenShift": Combination("", {SERVICE: "http"}, files=("k8s/values/openshift.yaml",)),
    "OpenShift with everything": Combination(
        "openshift: {enabled: true}",
        {INFERENCE: '"fsGroupChangePolicy"'},
        {INFERENCE: "runAsUser", MLFLOW: 'fsGroup"', POSTGRESQL: "runAsGroup"},
        files=("charts/fraudops/ci/everything-values.yaml",),
    ),
    "user of OpenShift": Combination(
        "jobs: {podSecurityContext: {runAsUser: 1000660000, fsGroup: 1000660000}}",
        {TRAIN: '"runAsUser": 1000660000'},
    ),
    "IPv6 with everything": Combination(
        "", files=("charts/fraudops/ci/everything-values.yaml", "k8s/values/ipv6.yaml")
    ),
    "sidecars with fetch and steps": Combination(
        f"data: {{source: url, url: 'https://a/b', sha256: '{'0' * 64}'}}\n"
        "jobs: {extraInitContainers: [{name: proxy, image: 'p:1', restartPolicy: Always}]}",
        {"CronJob fraudops-pipeline": '"name": "proxy"'},
    ),
    "init containers of PostgreSQL": Combination(
        "postgresql: {extraInitContainers: [{name: chown, image: 'b:1'}], extraContainers: "
        "[{name: exporter, image: 'e:1'}]}",
        {POSTGRESQL: '"initContainers": [{"image": "b:1"'},
    ),
    "large parameter": Combination(
        "postgresql: {parameters: {max_wal_size: 1073741824, fsync: 'on', checkpoint_timeout: 5}}",
        {POSTGRESQL: '"max_wal_size=1073741824"'},
    ),
    "objects of the site": Combination(
        "extraObjects:\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-x'}}\n"
        "- |\n  apiVersion: v1\n  kind: Service\n  metadata: {name: own}\n"
        '  spec: {ports: [{port: 1}], selector: {{ dict "a" "b" | toJson }}}',
        {"ConfigMap fraudops-x": "metadata", "Service own": '"a": "b"'},
    ),
    "common labels and stateful claims": Combination(
        "commonLabels: {team: fraud}\ninference: {state: {type: ephemeral}}",
        {INFERENCE: '"team": "fraud"'},
    ),
    "percentage of pods": Combination(
        "inference: {podDisruptionBudget: {maxUnavailable: '25%'}}",
        {"PodDisruptionBudget fraudops-inference": '"maxUnavailable": "25%"'},
    ),
    "number of pods as a string": Combination(
        "inference: {podDisruptionBudget: {maxUnavailable: '2'}}",
        {"PodDisruptionBudget fraudops-inference": '"maxUnavailable": 2'},
    ),
    "alerts of Jobs": Combination(
        "serviceMonitor: {enabled: true}\nprometheusRule: {enabled: true, kubeStateMetrics: true}",
        {RULES: "fraudops-(setup|migrate"},
    ),
    "name of numbers and words": Combination(
        "fullnameOverride: 'on'", {"Deployment on-inference": '"app.kubernetes.io/instance": "on"'}
    ),
}
COMBINATIONS: Mapping[str, Combination] = {
    **IMAGES, **ACCOUNTS, **ADDRESSES, **NETWORK, **SECRETS, **REST
}  # fmt: skip
