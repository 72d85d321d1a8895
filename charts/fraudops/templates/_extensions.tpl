{{/*
What values add to the pods of a component: variables, volumes, containers, labels. Argument of the
helpers here: the dict of a component's values, or that of fraudops.jobSettings.
*/}}

{{/* The values of each component that adds to its pods or containers, by their path, as JSON. */}}
{{- define "fraudops.extended" -}}
{{- $values := .Values }}
{{- $found := dict "inference.shipper" $values.inference.shipper "bootstrap.pod" $values.bootstrap.pod "backup.pod" $values.backup.pod }}
{{- range list "inference" "mlflow" "postgresql" "jobs" }}{{ $_ := set $found . (get $values .) }}{{ end }}
{{- range $name, $job := $values.jobs }}
{{- if and (kindIs "map" $job) (hasKey $job "pod") }}{{ $_ := set $found (printf "jobs.%s.pod" $name) $job.pod }}{{ end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/*
A list of the chart with the entries of a value added. Kubernetes refuses two entries with one key.
Argument: (dict "own" the chart's list as YAML "extra" the value "key" "name" "value" "mlflow.extraVolumes").
*/}}
{{- define "fraudops.added" -}}
{{- $own := .own | fromYamlArray }}
{{- $taken := list }}
{{- $key := .key }}{{ $value := .value }}
{{- range $own }}{{ $taken = append $taken (get . $key | clean) }}{{ end }}
{{- range .extra }}
{{- /* /tmp/ is the folder /tmp. A name has no slash, so it stays as it is. */}}
{{- if has (get . $key | clean) $taken }}
{{- fail (printf "\n\n%s: the %s %q is already taken, by the chart or by another entry. Choose another one.\n" $value $key (get . $key)) }}
{{- end }}
{{- $taken = append $taken (get . $key | clean) }}
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

{{/*
For _checks.tpl. Refuses two kinds of variables. The first is what Kubernetes says of a pod, such as its name or
its request, and the paths of keys: with one value for all pods, two promotions would look like one, or two pods
would write to one spool. The second is a secret as a literal value, which every reader of pods would see.
*/}}
{{- define "fraudops.envChecks" -}}
{{- $own := list "FRAUDOPS_POD" "FRAUDOPS_ROLLOUT" "FRAUDOPS_JOB" "FRAUDOPS_REQUEST_ID" "FRAUDOPS_REQUESTED_BY" "FRAUDOPS_CLUSTER__NAMESPACE" "FRAUDOPS_WAIVER" }}
{{- $urls := list "DATABASE_URL" "DATABASE_ADMIN_URL" "MLFLOW_BACKEND_STORE_URI" }}
{{- $secrets := concat $urls (list "FRAUDOPS_ADMIN_TOKEN" "FRAUDOPS_API_KEY" "FRAUDOPS_AUDIT__KEY") }}
{{- range $path, $settings := include "fraudops.extended" . | fromJson }}
{{- /* The service and its shipper must have the same folders. */}}
{{- $folders := ternary (list "FRAUDOPS_STATE" "FRAUDOPS_SPOOL_VOLUME") list (hasPrefix "inference" $path) }}
{{- range $settings.extraEnv }}
{{- /* A second value would replace that of clientAuth, which the strict profile looks at. */}}
{{- $group := or (hasPrefix "FRAUDOPS_SIGNING__" (upper .name)) (hasPrefix "FRAUDOPS_CLIENT_AUTH__" (upper .name)) }}
{{- if or (has (upper .name) (concat $own $folders)) $group }}
{{- fail (printf "\n\n%s.extraEnv: the chart sets %s for each container by itself, and the programs trust it. Remove it.\n" $path .name) }}
{{- end }}
{{- /* file:PATH only names a file with the URL. */}}
{{- $names := and (has (upper .name) $urls) (hasPrefix "file:" (.value | default "")) }}
{{- if and .value (has (upper .name) $secrets) (not $names) }}
{{- fail (printf "\n\n%s.extraEnv: %s is a secret, and every reader of pods would see its value. Write it into a Secret, and set valueFrom with secretKeyRef instead of value.\n" $path .name) }}
{{- end }}
{{- end }}
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

{{/*
For _checks.tpl. The chart mounts each of these volumes into one container of a pod: the others must not
have the token or the key. tests/chart/test_extra_mounts.py holds the list.
*/}}
{{- define "fraudops.mountChecks" -}}
{{- $own := list "api-token" "verdict-key" "waiver-key" "public-keys" "database" "postgresql-tls" }}
{{- range $path, $settings := include "fraudops.extended" . | fromJson }}
{{- $mounts := dict "extraVolumeMounts" ($settings.extraVolumeMounts | default list) }}
{{- range $value := list "extraContainers" "extraInitContainers" }}
{{- range get $settings $value | default list }}{{ $_ := set $mounts $value (concat (get $mounts $value | default list) (.volumeMounts | default list)) }}{{ end }}
{{- end }}
{{- range $value, $entries := $mounts }}
{{- range $entries }}
{{- if has .name $own }}
{{- fail (printf "\n\n%s.%s: the volume %q is the chart's, and holds what only some containers may have. Mount a volume of extraVolumes.\n" $path $value .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Steps of one pod share no folder that they may write: a file of one step could change what the next one
runs. Volumes of the four kinds are always read-only. Argument: (dict "settings" those of
fraudops.jobSettings "value" "jobs.promote.pod").
*/}}
{{- define "fraudops.stepMountChecks" -}}
{{- $value := .value }}
{{- $fixed := list }}
{{- range $volume := .settings.extraVolumes }}
{{- range list "configMap" "secret" "projected" "downwardAPI" }}
{{- if hasKey $volume . }}{{ $fixed = append $fixed $volume.name }}{{ end }}
{{- end }}
{{- end }}
{{- range .settings.extraVolumeMounts }}
{{- if not (or .readOnly (has .name $fixed)) }}
{{- fail (printf "\n\nextraVolumeMounts of jobs or %s: the steps of this Job may share no writable folder, and %s is one. Set readOnly: true, or mount it with extraVolumeMounts of other Jobs, such as jobs.train.pod.\n" $value .mountPath) }}
{{- end }}
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
  disk              MiB that it writes to the node's disk, for fraudops.resources
  env, from, mounts the chart's own entries, as YAML
*/}}
{{- define "fraudops.containerBody" -}}
{{- $extra := .settings }}
{{- $parts := list (include "fraudops.container" $extra)
  (include "fraudops.envFrom" (dict "own" .from "extra" $extra.extraEnvFrom))
  (include "fraudops.env" (dict "root" .root "own" .env "extra" $extra.extraEnv))
  (include "fraudops.resources" .)
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
