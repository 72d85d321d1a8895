"""Values about connections: addresses outside the release, and PostgreSQL's Secret and TLS."""

from collections.abc import Mapping

from tests.chart.combinations import INFERENCE, MLFLOW, TRAIN, Combination

OWN = "postgresql: {enabled: false, existingSecret: db"
TO_POSTGRESQL = "NetworkPolicy fraudops-from-postgresql-clients"
TO_API = "NetworkPolicy fraudops-from-api-clients"
CONNECTIONS: Mapping[str, Combination] = {
    "hosts with different ports": Combination(
        f"{OWN}}}\nnetworkPolicy: {{postgresql: {{egress: ["
        "{to: [{ipBlock: {cidr: 192.0.2.1/32}}], ports: [{port: 6432, protocol: TCP}]}, "
        "{to: [{ipBlock: {cidr: '2001:db8::1/128'}}], ports: [{port: 5432, protocol: TCP}]}]}}",
        {TO_POSTGRESQL: '"cidr": "2001:db8::1/128"'},
        {TO_POSTGRESQL: "0.0.0.0/0"},
    ),
    "rules for the API server": Combination(
        "networkPolicy: {apiServer: {egress: [{to: [{ipBlock: {cidr: 192.0.2.1/32}}], "
        "ports: [{port: 6443, protocol: TCP}]}]}}",
        {TO_API: '"port": 6443'},
        {TO_API: '"port": 443'},
    ),
    "ingress of a mesh": Combination(
        "networkPolicy: {extraIngress: {all: [{ports: [{port: 15008, protocol: TCP}]}], "
        "mlflow: [{from: [{podSelector: {}}]}]}}",
        {
            "NetworkPolicy fraudops-extra-ingress-all": '"policyTypes": ["Ingress"]',
            "NetworkPolicy fraudops-extra-ingress-mlflow": '["mlflow"]',
        },
    ),
    "database Secret as files": Combination(
        "postgresql: {secretAs: file}",
        {
            INFERENCE: '"value": "file:/secrets/database/url"',
            MLFLOW: '"value": "file:/secrets/database/mlflow-url"',
        },
        {INFERENCE: '"name": "DATABASE_URL", "valueFrom"', TRAIN: "/secrets/database"},
    ),
    "database Secret of an operator as files": Combination(
        "postgresql: {secretAs: file}",
        {INFERENCE: '{"key": "uri", "path": "url"}', MLFLOW: '{"key": "uri", "path": "mlflow-url"'},
        files=("k8s/values/cloudnativepg.yaml",),
    ),
    "TLS with a CA": Combination(
        f"{OWN}, tls: {{existingSecret: pg-tls, mode: verify-full}}}}",
        {
            INFERENCE: '"name": "PGSSLROOTCERT", "value": "/secrets/postgresql-tls/ca.crt"',
            MLFLOW: '"name": "PGSSLMODE", "value": "verify-full"',
        },
        {INFERENCE: "PGSSLKEY", TRAIN: "PGSSLMODE"},
    ),
    "TLS with a client certificate, as files": Combination(
        f"{OWN}, secretAs: file, tls: {{existingSecret: pg-tls, mode: verify-ca, caKey: '', "
        "certKey: crt, keyKey: key}}\ncaBundle: {configMap: company}",
        {
            INFERENCE: '"name": "PGSSLKEY", "value": "/secrets/postgresql-tls/tls.key"',
            MLFLOW: '"name": "PGSSLROOTCERT", "value": "/etc/ssl/fraudops/ca.crt"',
        },
        {MLFLOW: "/secrets/postgresql-tls/ca.crt"},
    ),
    "TLS without files": Combination(
        f"{OWN}, tls: {{mode: require}}}}",
        {INFERENCE: '"name": "PGSSLMODE", "value": "require"'},
        {INFERENCE: "postgresql-tls"},
    ),
}
