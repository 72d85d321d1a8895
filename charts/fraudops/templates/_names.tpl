{{/*
The prefix of every object's name; the programs' settings call it `release`. A name that is too long
fails, because a truncated name could be that of another release. A Service's name begins with a letter and
has no dots, and a release's name may have both.
*/}}
{{- define "fraudops.fullname" -}}
{{- $name := default "fraudops" .Values.nameOverride }}
{{- $full := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) }}
{{- if gt (len $full) 36 }}
{{- fail (printf "\n\nThe name %q has more than 36 characters, and names derived from it would be too long for Kubernetes. Set fullnameOverride.\n" $full) }}
{{- end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) }}
{{- fail (printf "\n\nThe name %q begins every object's name, so Kubernetes needs it to begin with a small letter, to end with a small letter or digit, and to have only small letters, digits and `-`. Set fullnameOverride.\n" $full) }}
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
{{- if .Values.mlflow.enabled }}http://{{ include "fraudops.mlflow" . }}:5000{{ else if not .Values.mlflow.existingSecret }}{{ .Values.mlflow.url }}{{ end }}
{{- end }}

{{/* registry/repository:tag, or @digest. Argument: (dict "root" $ "image" .Values.x.image). A tag that begins with sha256: is a digest. */}}
{{- define "fraudops.image" -}}
{{- $tag := .image.digest | default .image.tag | default .root.Chart.AppVersion }}
{{- with include "fraudops.registry" . }}{{ . }}/{{ end }}{{ .image.repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $tag) }}{{ $tag }}
{{- end }}
{{- define "fraudops.registry" -}}
{{- .image.registry | default .root.Values.imageRegistry | default .root.Values.global.imageRegistry }}
{{- end }}

{{/*
Labels of an object. Argument: (dict "root" $ "component" "inference"). `instance` is the prefix of the
names, and promotions find the pods by it.
*/}}
{{- define "fraudops.selector" -}}
app.kubernetes.io/name: fraudops
app.kubernetes.io/instance: {{ include "fraudops.fullname" .root | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- end }}
{{- define "fraudops.labels" -}}
{{ include "fraudops.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end }}

{{/*
The metadata of an object of the chart. Argument: (dict "root" $ "name" … "component" …), with
  labels, annotations   dicts of additional ones
  cluster               true: the object belongs to no namespace
The chart's own labels win over those of the values, because selectors and programs read them.
*/}}
{{- define "fraudops.metadata" -}}
{{- $values := .root.Values -}}
name: {{ .name | quote }}
{{- if not .cluster }}
namespace: {{ .root.Release.Namespace | quote }}
{{- end }}
labels: {{- merge (include "fraudops.labels" . | fromYaml) (.labels | default dict) $values.commonLabels | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) $values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
A claim outlives the release. Helm, Argo CD and Flux read one annotation each. Argument: (dict "root" $
"name" … "component" …).
*/}}
{{- define "fraudops.keptMetadata" -}}
{{- $kept := dict "helm.sh/resource-policy" "keep" "argocd.argoproj.io/sync-options" "Prune=false,Delete=false" "kustomize.toolkit.fluxcd.io/prune" "disabled" }}
{{- include "fraudops.metadata" (merge (dict "annotations" $kept "labels" (include "fraudops.releaseLabel" .root | fromYaml)) .) }}
{{- end }}

{{/* Argo CD up to 2.14 replaces the label `instance` of every object, but not of pods. This one stays. */}}
{{- define "fraudops.releaseLabel" -}}
fraudops.io/release: {{ include "fraudops.fullname" . | quote }}
{{- end }}

{{/* Selects all pods of the release, for network policies that apply to every component. */}}
{{- define "fraudops.releasePods" -}}
app.kubernetes.io/name: fraudops
app.kubernetes.io/instance: {{ include "fraudops.fullname" . | quote }}
{{- end }}
