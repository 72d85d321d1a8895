{{/*
The arguments of the setup Job: the objects that it creates if they are missing, and whose missing
keys it adds. An object that existingSecret or existingClaim names is not among them.
*/}}
{{- define "fraudops.setup.args" -}}
{{- $args := list "--release" (include "fraudops.fullname" .) "--record" (include "fraudops.record" .) "--lock" (include "fraudops.promotion" .) }}
{{- if not .Values.adminToken.existingSecret }}
{{- $args = concat $args (list "--admin-secret" (include "fraudops.adminSecret" .) "--admin-key" .Values.adminToken.secretKey) }}
{{- end }}
{{- if and .Values.postgresql.enabled (not .Values.postgresql.existingSecret) }}
{{- $args = concat $args (list "--database-secret" (include "fraudops.databaseSecret" .) "--database-host" (include "fraudops.postgresql" .)) }}
{{- end }}
{{- if and (eq .Values.data.source "volume") (not .Values.data.volume.existingClaim) }}
{{- $args = concat $args (list "--data-claim" (include "fraudops.dataClaim" .) "--data-size" .Values.data.volume.size) }}
{{- with .Values.data.volume.storageClass }}{{ $args = concat $args (list "--data-storage-class" .) }}{{ end }}
{{- end }}
{{- if not .Values.signing.verdictKey.existingSecret }}
{{- $args = concat $args (list "--verdict-key" (printf "%s=%s" (include "fraudops.verdictKeySecret" .) .Values.signing.verdictKey.secretKey)) }}
{{- end }}
{{- if and (eq .Values.signing.waivers "allowed") (not .Values.signing.waiverKey.existingSecret) }}
{{- $args = concat $args (list "--waiver-key" (printf "%s=%s" (include "fraudops.waiverKeySecret" .) .Values.signing.waiverKey.secretKey)) }}
{{- end }}
{{- if not .Values.signing.publicKeys.existingSecret }}
{{- $args = concat $args (list "--public-keys" (include "fraudops.publicKeysSecret" .)) }}
{{- end }}
{{- toJson $args }}
{{- end }}

{{- define "fraudops.setup.resources" -}}
{{- $args := include "fraudops.setup.args" . | fromJsonArray }}
{{- $resources := list "configmaps" }}
{{- if or (has "--admin-secret" $args) (has "--database-secret" $args) (has "--public-keys" $args) }}{{ $resources = append $resources "secrets" }}{{ end }}
{{- if has "--data-claim" $args }}{{ $resources = append $resources "persistentvolumeclaims" }}{{ end }}
{{- toJson $resources }}
{{- end }}

{{/* The names of the Secrets that the setup Job creates or completes. */}}
{{- define "fraudops.setup.secrets" -}}
{{- $args := include "fraudops.setup.args" . | fromJsonArray }}
{{- $secrets := list }}
{{- if has "--admin-secret" $args }}{{ $secrets = append $secrets (include "fraudops.adminSecret" .) }}{{ end }}
{{- if has "--database-secret" $args }}{{ $secrets = append $secrets (include "fraudops.databaseSecret" .) }}{{ end }}
{{- if has "--verdict-key" $args }}{{ $secrets = append $secrets (include "fraudops.verdictKeySecret" .) }}{{ end }}
{{- if has "--waiver-key" $args }}{{ $secrets = append $secrets (include "fraudops.waiverKeySecret" .) }}{{ end }}
{{- if has "--public-keys" $args }}{{ $secrets = append $secrets (include "fraudops.publicKeysSecret" .) }}{{ end }}
{{- toJson $secrets }}
{{- end }}
