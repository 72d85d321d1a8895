"""Values that Kubernetes would refuse, or that would leak or deny: Helm refuses them by name."""

import pytest

from tests.chart.rendering import Variant, helm_template, refusal

SHA = "0" * 64
# Each is a values file, with the words of the message that names the value and the remedy.
REFUSED = {
    "fullnameOverride: FraudOps": ["/fullnameOverride", "'FraudOps' does not match"],
    "fullnameOverride: 1fraud": ["/fullnameOverride"],
    "fullnameOverride: fraud.ops": ["/fullnameOverride"],
    "fullnameOverride: fraud-": ["/fullnameOverride"],
    "nameOverride: Fraud_Ops": ["/nameOverride"],
    "postgresql: {existingSecret: My_Secret}": ["/postgresql/existingSecret"],
    "adminToken: {existingSecret: a/b}": ["/adminToken/existingSecret"],
    "adminToken: {secretKey: 'a b'}": ["/adminToken/secretKey"],
    "adminToken: {secretKey: ''}": ["/adminToken/secretKey"],
    "audit: {existingSecret: '-a'}": ["/audit/existingSecret"],
    "ingress: {host: 'fraud example'}": ["/ingress/host"],
    "ingress: {host: 'https://a.example.com'}": ["/ingress/host"],
    "ingress: {className: Traefik}": ["/ingress/className"],
    "ingress: {tlsSecret: 'a b'}": ["/ingress/tlsSecret"],
    "ingress: {annotations: {a: 1}}": ["/ingress/annotations/a", "want string"],
    "inference: {podAnnotations: {a: true}}": ["/inference/podAnnotations/a", "want string"],
    "inference: {podLabels: {a: 'b c'}}": ["/inference/podLabels/a"],
    "inference: {podLabels: {'a b': c}}": ["/inference/podLabels", "'a b'"],
    "commonLabels: {a: 1}": ["/commonLabels/a"],
    "commonLabels: {app.kubernetes.io/name: x}": ["commonLabels", "the label app.kubernetes.io"],
    "mlflow: {podLabels: {app.kubernetes.io/component: x}}": ["mlflow.podLabels"],
    "jobs: {train: {pod: {podLabels: {app.kubernetes.io/instance: x}}}}": ["train.pod.podLabels"],
    "commonLabels: {fraudops.io/access-admin: 'true'}": ["commonLabels: the label fraudops.io/ac"],
    "jobs: {podLabels: {fraudops.io/access-postgresql: 'true'}}": ["jobs.podLabels: the label fr"],
    "mlflow: {podLabels: {fraudops.io/release: a}}": ["mlflow.podLabels: the label fraudops.io"],
    "bootstrap: {pod: {podLabels: {fraudops.io/x: a}}}": ["bootstrap.pod.podLabels: the label"],
    "jobs: {podLabels: {batch.kubernetes.io/job-name: a}}": ["jobs.podLabels: Kubernetes writes"],
    "commonLabels: {job-name: a}": ["commonLabels: Kubernetes writes the label job-name"],
    "inference: {podAnnotations: {fraudops.io/serving: '1'}}": ["promotions write", "serving"],
    "jobs: {podAnnotations: {fraudops.io/approved-by: me}}": ["jobs.podAnnotations"],
    "serviceMonitor: {labels: {a: b c}}": ["/serviceMonitor/labels/a"],
    "inference: {extraEnv: [{nam: A}]}": ["/inference/extraEnv/0", "nam"],
    "inference: {extraEnv: [{name: A, value: 1}]}": ["/inference/extraEnv/0/value"],
    "inference: {extraEnv: [{name: 1A, value: a}]}": ["/inference/extraEnv/0/name"],
    "jobs: {extraEnvFrom: [{secretRef: {nme: a}}]}": ["/jobs/extraEnvFrom/0/secretRef"],
    "mlflow: {extraVolumes: [{name: a, emptydir: {}}]}": ["/mlflow/extraVolumes/0", "emptydir"],
    "mlflow: {extraVolumes: [{name: a}]}": ["/mlflow/extraVolumes/0"],
    "mlflow: {extraVolumeMounts: [{name: a, mountPath: tmp}]}": ["extraVolumeMounts/0/mountPath"],
    "inference: {extraContainers: [{name: a}]}": ["/inference/extraContainers/0", "image"],
    "inference: {extraContainers: [{name: A, image: b}]}": ["/inference/extraContainers/0/name"],
    "jobs: {extraInitContainers: [{name: a, image: b, cmd: [c]}]}": ["extraInitContainers/0"],
    "inference: {podSecurityContext: {runAsUsr: 1}}": ["/inference/podSecurityContext", "runAsUsr"],
    "mlflow: {containerSecurityContext: {capabilities: {dorp: [A]}}}": ["capabilities", "dorp"],
    "jobs: {tolerations: [{operator: Exist}]}": ["/jobs/tolerations/0/operator"],
    "jobs: {affinity: {nodeAfinity: {}}}": ["/jobs/affinity", "nodeAfinity"],
    "jobs: {nodeSelector: {a: true}}": ["/jobs/nodeSelector/a"],
    "priorityClassName: High": ["/priorityClassName"],
    "jobs: {train: {pod: {nodeSelektor: {}}}}": ["/jobs/train/pod", "nodeSelektor"],
    "inference: {image: {digest: abc}}": ["/inference/image/digest"],
    "inference: {image: {tag: 'a b'}}": ["/inference/image/tag"],
    "inference: {image: {repository: Fraud Ops}}": ["/inference/image/repository"],
    "imageRegistry: 'https://r.example.com'": ["/imageRegistry"],
    "imagePullSecrets: [registry]": ["/imagePullSecrets/0"],
    "global: {imagePullSecrets: [{nam: a}]}": ["/global/imagePullSecrets/0"],
    "inference: {resources: {limits: {memory: 1 Gi}, requests: {memory: 1Gi}}}": ["limits/memory"],
    "inference: {state: {size: '1e9'}}": ["more than seven tenths of inference.state.size (1e9)"],
    # YAML writes a large number with an exponent.
    "inference: {resources: {requests: {memory: 1Gi}, limits: {memory: 1Gi, "
    "ephemeral-storage: 104857600}}}": ["limit of ephemeral-storage (104857600 bytes)"],
    "inference: {state: {size: .001Ti}}": ["more than seven tenths of inference.state.size"],
    "inference: {state: {size: 1gi}}": ["/inference/state/size"],
    "inference: {podDisruptionBudget: {maxUnavailable: some}}": ["maxUnavailable"],
    **{
        f"jobs: {{drift: {{schedule: '{schedule}'}}}}": ["/jobs/drift/schedule"]
        for schedule in (
            *("hourly", "CRON_TZ=UTC 0 2 * * *", "TZ=UTC @daily", "* * * *", "* * * * * *"),
            *("61 * * * *", "0 99 * * *", "0 0 0 * *", "0 0 32 * *", "0 0 1 13 *", "0 0 * * 7"),
            *("0-60 * * * *", "0,75 * * * *", "*/0 * * * *"),
        )
    },
    "inference: {podDisruptionBudget: {maxUnavailable: 150%}}": ["maxUnavailable"],
    "postgresql: {image: {tag: ''}}": ["postgresql.image needs a tag or a digest"],
    "networkPolicy: {apiServer: {cidrs: [10.0.0.1]}}": ["/networkPolicy/apiServer/cidrs/0"],
    "networkPolicy: {apiServer: {cidrs: ['::/129']}}": ["/networkPolicy/apiServer/cidrs/0"],
    "networkPolicy: {clients: [{ipblock: {}}]}": ["/networkPolicy/clients/0"],
    "networkPolicy: {dns: {ports: []}}": ["/networkPolicy/dns/ports"],
    "networkPolicy: {extraEgress: {all: [{}]}}": ["/networkPolicy/extraEgress/all/0"],
    "networkPolicy: {extraEgress: {other: []}}": ["/networkPolicy/extraEgress", "other"],
    "networkPolicy: {ingressNamespaces: [a.b]}": ["/networkPolicy/ingressNamespaces/0"],
    "dualStack: {ipFamilies: [IPv5]}": ["/dualStack/ipFamilies/0"],
    "dualStack: {ipFamilies: [IPv4, IPv4]}": ["/dualStack/ipFamilies"],
    "dualStack: {ipFamilyPolicy: Dual}": ["/dualStack/ipFamilyPolicy"],
    "caBundle: {configMap: a, secret: b}": ["caBundle", "not both"],
    "caBundle: {configMap: a, key: ''}": ["/caBundle/key"],
    "extraObjects: [{kind: ConfigMap}]": ["/extraObjects/0"],
    "httpRoute: {enabled: true, parentRefs: [{nam: a}]}": ["/httpRoute/parentRefs/0"],
    "httpRoute: {hostnames: [A_B]}": ["/httpRoute/hostnames/0"],
    "postgresql: {parameters: {'a b': 1}}": ["/postgresql/parameters"],
    "inference: {autoscaling: {enabled: true, minReplicas: 5, maxReplicas: 2}}": [
        "minReplicas (5) is more than maxReplicas (2)"
    ],
    "inference: {service: {type: LoadBalancer}}": [
        "inference.service.type is LoadBalancer, and the network policies deny its traffic",
        "cidrs: [203.0.113.0/24]",
    ],
    "inference: {service: {loadBalancerClass: a}}": ["need inference.service.type: LoadBalancer"],
    "inference: {service: {externalTrafficPolicy: Local}}": ["need inference.service.type"],
    "inference: {service: {nodePort: 30080}}": ["need inference.service.type"],
    "inference: {serviceAccount: {create: false}}": ["inference.serviceAccount: name an account"],
    "promotion: {serviceAccount: {name: default}}": ["promotion.serviceAccount: name an account"],
    "jobs: {setup: {serviceAccount: {create: false}}}": ["jobs.setup.serviceAccount: name"],
    "jobs: {serviceAccount: {name: fraudops-promotion}}": ["is that of two components"],
    "mlflow: {serviceAccount: {name: fraudops-setup}}": ["is that of two components"],
    "jobs: {promote: {pod: {serviceAccountName: x}}}": ["jobs.promote.pod.serviceAccountName"],
    **{
        f"jobs: {{{job}: {{pod: {{serviceAccountName: fraudops-{account}}}}}}}": [
            f'jobs.{job}.pod.serviceAccountName: the ServiceAccount "fraudops-{account}" has a Role'
        ]
        for job, account in (
            *(("train", "promotion"), ("train", "setup"), ("train", "inference")),
            *(("train", "reconcile"),),
            *(("train", "jobs"), ("validate", "promotion"), ("test", "promotion")),
        )
    },
    "promotion: {serviceAccount: {name: own}}\n"
    "jobs: {retention: {pod: {serviceAccountName: own}}}": ["jobs.retention.pod.serviceAcc"],
    "mlflow: {serviceAccount: {name: default}}": ["mlflow.serviceAccount: the account `default`"],
    "postgresql: {serviceAccount: {create: true, name: default}}": ["Set create to false"],
    "promotion: {policy: {enabled: true}}\njobs: {extraEnvFrom: [{secretRef: {name: a}}]}": [
        "promotion.policy.enabled refuses Jobs",
        "from jobs, or",
    ],
    "promotion: {policy: {enabled: true}}\n"
    "jobs: {pipeline: {pod: {extraInitContainers: [{name: a, image: b}]}}}": [
        "extraEnvFrom from jobs.pipeline.pod"
    ],
    "postgresql: {secretKeys: {url: uri}}": [
        'postgresql.secretKeys.url is "uri", but the setup Job makes the Secret',
        "postgresql.existingSecret",
    ],
    "mlflow: {existingSecret: a}": ["set mlflow.enabled to false"],
    "mlflow: {enabled: false, url: 'https://a', existingSecret: b}": ["leave mlflow.url empty"],
    "mlflow: {enabled: false, url: mlflow.example.com}": ["/mlflow/url"],
    f"data: {{source: url, existingSecret: a, url: 'https://a', sha256: '{SHA}'}}": [
        "leave data.url empty"
    ],
    "data: {source: url, existingSecret: a}": ["data.sha256"],
}
# Values next to the refused ones that a site may need.
ACCEPTED = (
    # Forms that Kubernetes accepts.
    "jobs: {drift: {schedule: '0  2 * * *'}}",
    *(
        f"jobs: {{drift: {{schedule: '{schedule}'}}}}"
        for schedule in (
            *(" 0 2 * * 1-5 ", "@every 1h30m", "@daily", "*/7,59 0-23/2 ? JAN-dec MON,sun"),
            *("00 09 31 12 6", "*/90 * * * *", "5/15 1,2 1-31 1-12 0-6"),
        )
    ),
    *(
        f"inference: {{podDisruptionBudget: {{maxUnavailable: {amount}}}}}"
        for amount in (150, "0%", "99%", "100%")
    ),
    f"postgresql: {{image: {{tag: '', digest: 'sha256:{SHA}'}}}}",
    "inference: {state: {size: .02Ti}}",
    "inference: {state: {size: '2e10'}}",
    "inference: {state: {size: 1Ei}}",
    "inference: {state: {size: 1E}}",
    "mlflow: {artifacts: {volume: {size: 1Pi}}}",
    "jobs: {train: {resources: {requests: {cpu: '1e-1', memory: 1E9}, limits: {memory: 8e9}}}}",
    "jobs: {train: {resources: {requests: {cpu: 500000u, memory: 1.}, limits: {memory: +1Gi}}}}",
    # The limits count only where autoscaling is on.
    "inference: {autoscaling: {minReplicas: 5, maxReplicas: 2}}",
    "mlflow: {serviceAccount: {create: false, name: default}}",
    "jobs: {train: {pod: {serviceAccountName: fraudops-mlflow}}}",
)


@pytest.mark.parametrize("values", REFUSED)
def test_a_value_is_refused_with_its_name(values: str) -> None:
    message = refusal(values=values)
    assert "unmarshal" not in message, "a template failed instead of a check"
    for words in REFUSED[values]:
        assert words in message


@pytest.mark.parametrize("values", ACCEPTED)
def test_a_value_is_not_refused_without_need(values: str) -> None:
    done = helm_template(Variant(values=values))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("url", ["https://user:hunter2@mlflow", "https://mlflow?token=hunter2"])
def test_a_password_of_mlflow_is_refused_and_not_shown(url: str) -> None:
    message = refusal("mlflow.enabled=false", f"mlflow.url={url}")
    assert "name it in mlflow.existingSecret" in message
    assert "hunter2" not in message


def test_a_password_of_the_artifacts_store_is_refused_and_not_shown() -> None:
    message = refusal("mlflow.artifacts.s3.endpointUrl=https://user:hunter2@s3.example.com")
    assert "mlflow.artifacts.s3.existingSecret" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("release", ["1fraud", "my.release", "x" * 40])
def test_a_release_whose_name_no_service_can_have_is_refused(release: str) -> None:
    done = helm_template(Variant(), release=release)
    assert done.returncode != 0
    assert "Set fullnameOverride" in done.stderr
    own = Variant(settings=("fullnameOverride=fraud",))
    assert helm_template(own, release=release).returncode == 0
