{{- define "fraudops.backupAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.backup.serviceAccount "name" (printf "%s-backup" (include "fraudops.fullname" .))) }}{{- end }}

{{/* "true" if the models' files lie on a volume of the release. An object store has versions of its own. */}}
{{- define "fraudops.backup.artifacts" -}}{{ and .Values.mlflow.enabled (eq .Values.mlflow.artifacts.type "volume") }}{{- end }}

{{/* Checks for _checks.tpl. */}}
{{- define "fraudops.backup.checks" -}}
{{- if and .Values.backup.enabled (not .Values.backup.existingClaim) }}
{{- fail "\n\nbackup.enabled needs backup.existingClaim: create a claim for the backups, and name it. The chart makes none, because the backups must outlive the release.\n" }}
{{- end }}
{{- end }}
