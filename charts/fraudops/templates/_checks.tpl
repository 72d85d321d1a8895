{{/* Checks across several values, which a schema cannot express. Included once, by the inference ConfigMap. */}}
{{- define "fraudops.checks" -}}
{{- include "fraudops.profile.checks" . }}
{{- if and .Values.bootstrap.enabled (eq .Values.environment "production") (eq .Values.data.source "sample") }}
{{- fail "\n\nbootstrap.enabled would promote a model of the packaged sample, and environment: production refuses such a model.\nSet data.source to your own data, or environment: development (as values-quickstart.yaml does).\n" }}
{{- end }}
{{- if and (not .Values.postgresql.enabled) (not .Values.postgresql.existingSecret) }}
{{- fail "\n\npostgresql.enabled is false: name in postgresql.existingSecret a Secret with the URL of your PostgreSQL (its keys: postgresql.secretKeys).\n" }}
{{- end }}
{{- if and (not .Values.mlflow.enabled) (not (or .Values.mlflow.url .Values.mlflow.existingSecret)) }}
{{- fail "\n\nmlflow.enabled is false: set mlflow.url to your own MLflow server, or name in mlflow.existingSecret a Secret with its URL.\n" }}
{{- end }}
{{- if and .Values.mlflow.existingSecret (or .Values.mlflow.enabled .Values.mlflow.url) }}
{{- fail "\n\nmlflow.existingSecret has the URL of your own MLflow server: set mlflow.enabled to false, and leave mlflow.url empty.\n" }}
{{- end }}
{{- /* Not in the schema, whose message would quote the password. */}}
{{- if or (contains "@" .Values.mlflow.url) (contains "?" .Values.mlflow.url) }}
{{- fail "\n\nmlflow.url has a user, a password or a query, and every reader of ConfigMaps would see it: write the URL into a Secret, name it in mlflow.existingSecret (its key: mlflow.secretKey), and leave mlflow.url empty.\n" }}
{{- end }}
{{- if contains "@" .Values.mlflow.artifacts.s3.endpointUrl }}
{{- fail "\n\nmlflow.artifacts.s3.endpointUrl has a user or a password, and every reader of ConfigMaps would see it: name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in mlflow.artifacts.s3.existingSecret.\n" }}
{{- end }}
{{- if and .Values.postgresql.enabled (not .Values.postgresql.existingSecret) }}
{{- range $key, $made := dict "url" "url" "mlflowUrl" "mlflow-url" "adminUrl" "admin-url" "password" "password" }}
{{- $wanted := get $.Values.postgresql.secretKeys $key }}
{{- if ne $wanted $made }}
{{- fail (printf "\n\npostgresql.secretKeys.%s is %q, but the setup Job makes the Secret, with the key %q: leave the keys at their defaults, or name your own Secret in postgresql.existingSecret.\n" $key $wanted $made) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.mlflow.enabled (eq .Values.mlflow.artifacts.type "s3") (not (hasPrefix "s3://" .Values.mlflow.artifacts.s3.destination)) }}
{{- fail "\n\nmlflow.artifacts.type is s3: set mlflow.artifacts.s3.destination, such as s3://bucket/fraudops.\n" }}
{{- end }}
{{- if and (eq .Values.data.source "url") (not (and (or .Values.data.url .Values.data.existingSecret) .Values.data.sha256)) }}
{{- fail "\n\ndata.source is url: set data.url and data.sha256. A URL with a signature or password belongs into a Secret: name it in data.existingSecret.\n" }}
{{- end }}
{{- if and .Values.data.url .Values.data.existingSecret }}
{{- fail "\n\ndata.existingSecret has the URL of the data: leave data.url empty.\n" }}
{{- end }}
{{- if and .Values.caBundle.configMap .Values.caBundle.secret }}
{{- fail "\n\ncaBundle: name a ConfigMap or a Secret, not both.\n" }}
{{- end }}
{{- with .Values.inference.autoscaling }}
{{- if and .enabled (gt (int64 .minReplicas) (int64 .maxReplicas)) }}
{{- fail (printf "\n\ninference.autoscaling.minReplicas (%d) is more than maxReplicas (%d).\n" (int64 .minReplicas) (int64 .maxReplicas)) }}
{{- end }}
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
{{- include "fraudops.reservedChecks" . }}
{{- include "fraudops.mountChecks" . }}
{{- include "fraudops.envChecks" . }}
{{- include "fraudops.accountChecks" . }}
{{- include "fraudops.serviceChecks" . }}
{{- include "fraudops.roomChecks" . }}
{{- include "fraudops.database.checks" . }}
{{- include "fraudops.requester.checks" . }}
{{- include "fraudops.rights.checks" . }}
{{- include "fraudops.backup.checks" . }}
{{- include "fraudops.clientAuth.checks" . }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "\n\nhttpRoute.enabled needs httpRoute.parentRefs: name the Gateway that accepts the route.\n" }}
{{- end }}
{{- end }}

{{/* Labels and annotations that selectors, policies and promotions read. Another value would not reach the pods. */}}
{{- define "fraudops.reservedChecks" -}}
{{- $labels := dict "commonLabels" .Values.commonLabels }}
{{- $annotations := dict "commonAnnotations" .Values.commonAnnotations }}
{{- range $path, $settings := include "fraudops.extended" . | fromJson }}
{{- $_ := set $labels (print $path ".podLabels") ($settings.podLabels | default dict) }}
{{- $_ := set $annotations (print $path ".podAnnotations") ($settings.podAnnotations | default dict) }}
{{- end }}
{{- range $path, $map := $labels }}
{{- range $label, $_ := $map }}
{{- if has $label (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component") }}
{{- fail (printf "\n\n%s: the label %s is the chart's, and its selectors need it. Remove it.\n" $path $label) }}
{{- end }}
{{- /* A network policy opens a way for the label fraudops.io/access-…, so a pod could open ways for itself. */}}
{{- if hasPrefix "fraudops.io/" $label }}
{{- fail (printf "\n\n%s: the label %s is the chart's, and its network policies may read it. Remove it.\n" $path $label) }}
{{- end }}
{{- if or (hasPrefix "batch.kubernetes.io/" $label) (has $label (list "job-name" "controller-uid")) }}
{{- fail (printf "\n\n%s: Kubernetes writes the label %s on the pods of Jobs, and creates no Job that has another value. Remove it.\n" $path $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $path, $map := $annotations }}
{{- range list "fraudops.io/serving" "fraudops.io/requested-by" "fraudops.io/approved-by" }}
{{- if hasKey $map . }}
{{- fail (printf "\n\n%s: promotions write the annotation %s. Remove it.\n" $path .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
