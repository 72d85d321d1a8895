{{/*
What values add to the pods of a component: variables, volumes, containers, labels. Argument of the
helpers here: the dict of a component's values, or that of fraudops.jobSettings.
*/}}

{{/*
A list of the chart with the entries of a value added. Kubernetes refuses two entries with one key.
Argument: (dict "own" the chart's list as YAML "extra" the value "key" "name" "value" "mlflow.extraVolumes").
*/}}
{{- define "fraudops.added" -}}
{{- $own := .own | fromYamlArray }}
{{- $taken := list }}
{{- $key := .key }}{{ $value := .value }}
{{- range $own }}{{ $taken = append $taken (get . $key) }}{{ end }}
{{- range .extra }}
{{- if has (get . $key) $taken }}
{{- fail (printf "\n\n%s: the %s %q is already taken, by the chart or by another entry. Choose another one.\n" $value $key (get . $key)) }}
{{- end }}
{{- $taken = append $taken (get . $key) }}
{{- end }}
{{- with concat $own (.extra | default list) }}{{ toYaml . }}{{ end }}
{{- end }}

{{/*
The extra containers of a pod, whose names no other container has. Argument: (dict "names" of the chart's
containers "others" a list of further containers "extra" the value "value" its name).
*/}}
{{- define "fraudops.extraContainers" -}}
{{- $own := .others | default list }}
{{- range .names }}{{ $own = append $own (dict "name" .) }}{{ end }}
{{- $_ := include "fraudops.added" (dict "own" (toYaml $own) "extra" .extra "key" "name" "value" .value) }}
{{- with .extra }}{{ toYaml . }}{{ end }}
{{- end }}

{{/*
The variables of a container. A variable of extraEnv replaces the chart's variable of its name, because
Kubernetes warns of a name that is there twice. Argument: (dict "root" $ "own" YAML "extra" .Values.x.extraEnv).
*/}}
{{- define "fraudops.env" -}}
{{- $names := list }}
{{- range .extra }}{{ $names = append $names .name }}{{ end }}
{{- $entries := list }}
{{- $own := list }}
{{- range .own | fromYamlArray }}
{{- if not (has .name $names) }}{{ $own = append $own . }}{{ end }}
{{- end }}
{{- range $own }}{{ $names = append $names .name }}{{ end }}
{{- /* The CA of PostgreSQL alone replaces the one of the bundle. */}}
{{- range include "fraudops.ca.env" .root | fromYamlArray }}
{{- if not (has .name $names) }}{{ $entries = append $entries . }}{{ end }}
{{- end }}
{{- $entries = concat $entries $own }}
{{- with concat $entries (.extra | default list) }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Argument: (dict "own" YAML "extra" .Values.x.extraEnvFrom). */}}
{{- define "fraudops.envFrom" -}}
{{- with concat (.own | default "[]" | fromYamlArray) (.extra | default list) }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Argument: (dict "root" $ "own" YAML "extra" .Values.x.extraVolumeMounts "value" its name). */}}
{{- define "fraudops.volumeMounts" -}}
{{- $own := printf "%s\n%s" (.own | default "" | trim) (include "fraudops.ca.mount" .root) }}
{{- with include "fraudops.added" (dict "own" $own "extra" .extra "key" "mountPath" "value" .value) -}}
volumeMounts: {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Argument: (dict "root" $ "own" YAML "extra" .Values.x.extraVolumes "value" its name). */}}
{{- define "fraudops.volumes" -}}
{{- $own := printf "%s\n%s" (.own | default "" | trim) (include "fraudops.ca.volume" .root) }}
{{- with include "fraudops.added" (dict "own" $own "extra" .extra "key" "name" "value" .value) -}}
volumes: {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
What a container has apart from its program and its probes. Argument: a dict with
  root, value       $, and the path of the settings, such as "mlflow"
  settings          the values with containerSecurityContext and the extras
  resources         its requests and limits
  env, from, mounts the chart's own entries, as YAML
*/}}
{{- define "fraudops.containerBody" -}}
{{- $extra := .settings }}
{{- $parts := list (include "fraudops.container" $extra)
  (include "fraudops.envFrom" (dict "own" .from "extra" $extra.extraEnvFrom))
  (include "fraudops.env" (dict "root" .root "own" .env "extra" $extra.extraEnv))
  (toYaml (dict "resources" .resources))
  (include "fraudops.volumeMounts" (dict "root" .root "own" .mounts "extra" $extra.extraVolumeMounts "value" (print .value ".extraVolumeMounts"))) }}
{{- $lines := list }}
{{- range $parts }}{{ with trim . }}{{ $lines = append $lines . }}{{ end }}{{ end }}
{{- join "\n" $lines }}
{{- end }}

{{/*
The labels of a pod. Those of the chart win: selectors, network policies and promotions read them.
Argument: (dict "root" $ "component" … "access" (list "mlflow") "labels" .Values.x.podLabels).
*/}}
{{- define "fraudops.podLabels" -}}
{{- $own := include "fraudops.selector" . | fromYaml }}
{{- range .access }}{{ $_ := set $own (printf "fraudops.io/access-%s" .) "true" }}{{ end }}
{{- merge $own .labels .root.Values.commonLabels | toYaml }}
{{- end }}

{{/* One file of certificates that every program trusts, instead of the system's. */}}
{{- define "fraudops.ca.volume" -}}
{{- $ca := .Values.caBundle }}
{{- if $ca.configMap }}
- {name: ca-bundle, configMap: {name: {{ $ca.configMap | quote }}, items: [{key: {{ $ca.key | quote }}, path: ca.crt}]}}
{{- else if $ca.secret }}
- {name: ca-bundle, secret: {secretName: {{ $ca.secret | quote }}, items: [{key: {{ $ca.key | quote }}, path: ca.crt}]}}
{{- end }}
{{- end }}
{{- define "fraudops.ca.mount" -}}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
- {name: ca-bundle, mountPath: /etc/ssl/fraudops, readOnly: true}
{{- end }}
{{- end }}
{{/* httpx and ssl, requests, boto3, and last libpq and asyncpg. */}}
{{- define "fraudops.ca.env" -}}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" "PGSSLROOTCERT" }}
- {name: {{ . | quote }}, value: /etc/ssl/fraudops/ca.crt}
{{- end }}
{{- end }}
{{- end }}
