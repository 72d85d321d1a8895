{{/*
The prefix of every object's name; the programs' settings call it `release`. A name that is too long
fails, because a truncated name could be that of another release.
*/}}
{{- define "fraudops.fullname" -}}
{{- $name := default "fraudops" .Values.nameOverride }}
{{- $full := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) }}
{{- if gt (len $full) 36 }}
{{- fail (printf "\n\nThe name %q has more than 36 characters, and names derived from it would be too long for Kubernetes. Set fullnameOverride.\n" $full) }}
{{- end }}
{{- $full }}
{{- end }}

{{- define "fraudops.inference" -}}{{ include "fraudops.fullname" . }}-inference{{- end }}
{{- define "fraudops.mlflow" -}}{{ include "fraudops.fullname" . }}-mlflow{{- end }}
{{- define "fraudops.postgresql" -}}{{ include "fraudops.fullname" . }}-postgresql{{- end }}
{{- define "fraudops.jobs" -}}{{ include "fraudops.fullname" . }}-jobs{{- end }}
{{- define "fraudops.promotion" -}}{{ include "fraudops.fullname" . }}-promotion{{- end }}
{{- define "fraudops.setup" -}}{{ include "fraudops.fullname" . }}-setup{{- end }}
{{/* Not objects of the chart. The setup Job creates them once, and they outlive the release. */}}
{{- define "fraudops.record" -}}{{ include "fraudops.fullname" . }}-serving{{- end }}
{{- define "fraudops.adminSecret" -}}{{ .Values.adminToken.existingSecret | default (printf "%s-admin" (include "fraudops.fullname" .)) }}{{- end }}
{{- define "fraudops.databaseSecret" -}}{{ .Values.postgresql.existingSecret | default (printf "%s-database" (include "fraudops.fullname" .)) }}{{- end }}
{{- define "fraudops.dataClaim" -}}{{ .Values.data.volume.existingClaim | default (printf "%s-data" (include "fraudops.fullname" .)) }}{{- end }}
{{- define "fraudops.spoolClaim" -}}{{ .Values.inference.spool.persistence.existingClaim | default (printf "%s-spool" (include "fraudops.inference" .)) }}{{- end }}
{{- define "fraudops.artifactsClaim" -}}{{ .Values.mlflow.artifacts.volume.existingClaim | default (printf "%s-artifacts" (include "fraudops.mlflow" .)) }}{{- end }}

{{- define "fraudops.mlflowUrl" -}}
{{- if .Values.mlflow.enabled }}http://{{ include "fraudops.mlflow" . }}:5000{{ else }}{{ .Values.mlflow.url }}{{ end }}
{{- end }}

{{/* registry/repository:tag. Argument: (dict "root" $ "image" .Values.x.image). A tag that begins with sha256: is a digest. */}}
{{- define "fraudops.image" -}}
{{- $registry := .image.registry | default .root.Values.imageRegistry }}
{{- $tag := .image.tag | default .root.Chart.AppVersion }}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $tag) }}{{ $tag }}
{{- end }}

{{/*
Labels of an object. Argument: (dict "root" $ "component" "inference"). `instance` is the prefix of the
names, and promotions find the pods by it.
*/}}
{{- define "fraudops.selector" -}}
app.kubernetes.io/name: fraudops
app.kubernetes.io/instance: {{ include "fraudops.fullname" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}
{{- define "fraudops.labels" -}}
{{ include "fraudops.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* Selects all pods of the release, for network policies that apply to every component. */}}
{{- define "fraudops.releasePods" -}}
app.kubernetes.io/name: fraudops
app.kubernetes.io/instance: {{ include "fraudops.fullname" . }}
{{- end }}
