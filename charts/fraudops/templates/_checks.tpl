{{/* Checks across several values, which a schema cannot express. Included once, by the inference ConfigMap. */}}
{{- define "fraudops.checks" -}}
{{- if and .Values.bootstrap.enabled (eq .Values.environment "production") (eq .Values.data.source "sample") }}
{{- fail "\n\nbootstrap.enabled would promote a model of the packaged sample, and environment: production refuses such a model.\nSet data.source to your own data, or environment: development (as values-quickstart.yaml does).\n" }}
{{- end }}
{{- if and (not .Values.postgresql.enabled) (not .Values.postgresql.existingSecret) }}
{{- fail "\n\npostgresql.enabled is false: name in postgresql.existingSecret a Secret with the URL of your PostgreSQL (its keys: postgresql.secretKeys).\n" }}
{{- end }}
{{- if and (not .Values.mlflow.enabled) (not .Values.mlflow.url) }}
{{- fail "\n\nmlflow.enabled is false: set mlflow.url to your own MLflow server.\n" }}
{{- end }}
{{- if and .Values.mlflow.enabled (eq .Values.mlflow.artifacts.type "s3") (not (hasPrefix "s3://" .Values.mlflow.artifacts.s3.destination)) }}
{{- fail "\n\nmlflow.artifacts.type is s3: set mlflow.artifacts.s3.destination, such as s3://bucket/fraudops.\n" }}
{{- end }}
{{- if and (eq .Values.data.source "url") (not (and .Values.data.url .Values.data.sha256)) }}
{{- fail "\n\ndata.source is url: set data.url and data.sha256.\n" }}
{{- end }}
{{- if and .Values.prometheusRule.enabled (not .Values.serviceMonitor.enabled) }}
{{- fail "\n\nprometheusRule.enabled needs serviceMonitor.enabled: the alerts read the metrics that the ServiceMonitor scrapes.\n" }}
{{- end }}
{{- if and (ne .Values.audit.features "plain") (not .Values.audit.existingSecret) }}
{{- fail (printf "\n\naudit.features is %s: name in audit.existingSecret a Secret with the key (create one by `openssl rand -base64 32`).\n" .Values.audit.features) }}
{{- end }}
{{- $own := list .Values.signing.verdictKey.existingSecret .Values.signing.publicKeys.existingSecret }}
{{- if eq .Values.signing.waivers "allowed" }}{{ $own = append $own .Values.signing.waiverKey.existingSecret }}{{ end }}
{{- if and (has "" $own) (ne (without $own "" | len) 0) }}
{{- fail "\n\nsigning: name your own Secrets for all keys or for none. The setup Job may not write the public half of a key into your Secret, so set verdictKey.existingSecret, publicKeys.existingSecret, and waiverKey.existingSecret unless waivers is forbidden.\n" }}
{{- end }}
{{- include "fraudops.roomChecks" . }}
{{- include "fraudops.requester.checks" . }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "\n\nhttpRoute.enabled needs httpRoute.parentRefs: name the Gateway that accepts the route.\n" }}
{{- end }}
{{- end }}
