{{/*
The spec of one Job. Argument: (dict "root" $ "name" "train" "settings" .Values.jobs.train …), with
  module       the module that `python -m` runs
  args         its arguments
  account      its ServiceAccount; the container gets the account's token
  access       list of destinations that its pod may reach: mlflow, postgresql, admin, inference, api, https
  database, adminToken, auditKey   true: the container reads that Secret
  databases    true: the container reads every URL of the database Secret
  data         true: the container reads the training data
  writesData   true: the container also writes to the data volume
  shards       number of pods of an Indexed Job, which run at the same time
  bare         true: the container reads no ConfigMap
  exportClaim  a claim that is mounted at /export
  backoffLimit, ttl   replace those of .Values.jobs; ttl "" keeps the finished Job
  verdictKey, waiverKey, publicKeys   true: the container mounts that Secret
  request      true: the container knows the id of the Job's request
  production   true: the container asks the pods which version serves
  steps        list of such dicts: init containers that run before the container, in their order. Each
               names what it reads for itself. They hand on through files in /hand-over.
Exit code 64 (bad settings) or 65 (a gate refused) ends the Job immediately. Any other, such as 75
(a store is unavailable), is retried.
*/}}
{{- define "fraudops.job" -}}
{{- $root := .root }}
{{- $jobs := $root.Values.jobs }}
{{- $image := include "fraudops.image" (dict "root" $root "image" $jobs.image) }}
{{- $reads := .data }}
{{- range .steps }}{{ $reads = or $reads .data }}{{ end }}
{{- $data := and $reads (ne $root.Values.data.source "sample") }}
{{- $schema := and $reads $root.Values.data.schema }}
backoffLimit: {{ .backoffLimit | default $jobs.backoffLimit | int64 }}
activeDeadlineSeconds: {{ .settings.activeDeadlineSeconds | int64 }}
{{- with .shards }}
completionMode: Indexed
completions: {{ . }}
parallelism: {{ . }}
{{- end }}
{{- if not (hasKey . "ttl") }}
ttlSecondsAfterFinished: {{ $jobs.ttlSecondsAfterFinished | int64 }}
{{- end }}
podFailurePolicy:
  rules:
    - {action: Ignore, onPodConditions: [{type: DisruptionTarget, status: "True"}]}
    - {action: FailJob, onExitCodes: {operator: In, values: [64, 65]}}
template:
  metadata:
    {{- with include "fraudops.requester.annotations" . }}
    {{- . | nindent 4 }}
    {{- end }}
    labels:
      {{- include "fraudops.selector" (dict "root" $root "component" .name) | nindent 6 }}
      {{- range .access }}
      fraudops.io/access-{{ . }}: "true"
      {{- end }}
      {{- if and $data (eq $root.Values.data.source "url") (not (has "https" .access)) }}
      fraudops.io/access-https: "true"
      {{- end }}
  spec:
    {{- include "fraudops.pod" (dict "root" $root "user" 10001 "placement" $jobs) | nindent 4 }}
    serviceAccountName: {{ .account | default "default" }}
    restartPolicy: Never
    terminationGracePeriodSeconds: 30
    {{- $fetch := and $data (eq $root.Values.data.source "url") }}
    {{- if or $fetch .steps }}
    initContainers:
      {{- if $fetch }}
      - name: fetch-data
        image: {{ $image }}
        imagePullPolicy: {{ $jobs.image.pullPolicy }}
        command: [python, -m, jobs.data, fetch]
        args: [--mirror, {{ $root.Values.data.url | quote }}, --sha256, {{ $root.Values.data.sha256 | quote }}, --out, {{ printf "/data/%s" $root.Values.data.file | quote }}]
        {{- include "fraudops.container" $root | nindent 8 }}
        env:
          - {name: FRAUDOPS_STATE, value: /tmp/fraudops}
          {{- with $jobs.extraEnv }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        resources: {{ toYaml .settings.resources | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: data, mountPath: /data}
      {{- end }}
      {{- range .steps }}
      {{- include "fraudops.job.container" (merge (dict "root" $root "settings" $.settings "handOver" "write") .) | nindent 6 }}
      {{- end }}
    {{- end }}
    containers:
      {{- include "fraudops.job.container" (merge (dict "handOver" (ternary "read" "" (not (empty .steps)))) .) | nindent 6 }}
    volumes:
      - {name: tmp, emptyDir: {sizeLimit: 2Gi}}
      {{- if $fetch }}
      - {name: data, emptyDir: {sizeLimit: {{ $root.Values.data.volume.size }}}}
      {{- else if $data }}
      - {name: data, persistentVolumeClaim: {claimName: {{ include "fraudops.dataClaim" $root }}}}
      {{- end }}
      {{- if $schema }}
      - {name: schema, configMap: {name: {{ include "fraudops.jobs" $root }}-schema}}
      {{- end }}
      {{- with .exportClaim }}
      - {name: export, persistentVolumeClaim: {claimName: {{ . }}}}
      {{- end }}
      {{- if .steps }}
      - {name: hand-over, emptyDir: {sizeLimit: 1Mi}}
      {{- end }}
      {{- range concat (.steps | default list) (list .) }}
      {{- include "fraudops.keyVolumes" (dict "root" $root "container" .) | nindent 6 }}
      {{- end }}
      {{- if .account }}
      {{- include "fraudops.tokenVolume" $root | nindent 6 }}
      {{- end }}
{{- end }}

{{/*
One container of a Job: its program, or a step before it. Argument: the dict of fraudops.job, or that of
a step, with "container" if its name is not that of the Job.
*/}}
{{- define "fraudops.job.container" -}}
{{- $root := .root }}
{{- $jobs := $root.Values.jobs }}
{{- $data := and .data (ne $root.Values.data.source "sample") }}
- name: {{ .container | default .name }}
  image: {{ include "fraudops.image" (dict "root" $root "image" $jobs.image) }}
  imagePullPolicy: {{ $jobs.image.pullPolicy }}
  command: [python, -m, {{ .module }}]
  {{- with .args }}
  args: {{ toJson . }}
  {{- end }}
  {{- include "fraudops.container" $root | nindent 2 }}
  {{- if not .bare }}
  envFrom:
    - configMapRef: {name: {{ include "fraudops.jobs" $root }}}
  {{- end }}
  {{- with include "fraudops.job.env" . | trim }}
  env:
    {{- . | nindent 4 }}
  {{- end }}
  resources: {{ toYaml .settings.resources | nindent 4 }}
  volumeMounts:
    {{- /* Steps share no writable folder but /hand-over: a file in /tmp could change what the next one runs. */}}
    - {name: tmp, mountPath: /tmp{{ if .handOver }}, subPath: {{ .container | default .name }}{{ end }}}
    {{- if $data }}
    - {name: data, mountPath: /data, readOnly: {{ not .writesData }}}
    {{- end }}
    {{- if and .data $root.Values.data.schema }}
    - {name: schema, mountPath: /etc/fraudops, readOnly: true}
    {{- end }}
    {{- if .exportClaim }}
    - {name: export, mountPath: /export}
    {{- end }}
    {{- with .handOver }}
    - {name: hand-over, mountPath: /hand-over, readOnly: {{ eq . "read" }}}
    {{- end }}
    {{- include "fraudops.keyMounts" . | nindent 4 }}
    {{- if .account }}
    {{- include "fraudops.tokenMount" $root | nindent 4 }}
    {{- end }}
{{- end }}

{{/* The variables of a Job's container in addition to the ConfigMap's. Argument: the dict of fraudops.job. */}}
{{- define "fraudops.job.env" -}}
{{- $root := .root }}
{{- $data := and .data (ne $root.Values.data.source "sample") }}
{{- if .account }}
{{- include "fraudops.env.namespace" $root | nindent 0 }}
{{- end }}
{{- if .database }}
{{- include "fraudops.env.database" $root | nindent 0 }}
{{- end }}
{{- if .databases }}
{{- range $variable, $key := dict "DATABASE_URL" "url" "MLFLOW_BACKEND_STORE_URI" "mlflowUrl" "DATABASE_ADMIN_URL" "adminUrl" }}
{{- if or $root.Values.mlflow.enabled (ne $key "mlflowUrl") }}
- {name: {{ $variable }}, valueFrom: {secretKeyRef: {name: {{ include "fraudops.databaseSecret" $root }}, key: {{ get $root.Values.postgresql.secretKeys $key }}, optional: {{ or (has "--if-set-up" $.args) (eq $key "adminUrl") }}}}}
{{- end }}
{{- end }}
{{- end }}
{{- if .adminToken }}
{{- include "fraudops.env.adminToken" $root | nindent 0 }}
{{- end }}
{{- if or .adminToken .request }}
{{- /* All retries of a Job have the same request id, so a promotion that was killed recognises its own commit and finishes it. */}}
- {name: FRAUDOPS_REQUEST_ID, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/controller-uid']"}}}
{{- include "fraudops.env.requester" $root | nindent 0 }}
{{- end }}
{{- if .auditKey }}
{{- with include "fraudops.env.auditKey" $root }}
{{- . | nindent 0 }}
{{- end }}
{{- end }}
{{- if .production }}
- {name: FRAUDOPS_PRODUCTION_URL, value: "http://{{ include "fraudops.inference" $root }}-admin:8001"}
{{- end }}
{{- include "fraudops.env.keys" . | nindent 0 }}
{{- if $data }}
- {name: FRAUDOPS_DATA, value: {{ printf "/data/%s" $root.Values.data.file | quote }}}
{{- end }}
{{- if and .data $root.Values.data.schema }}
- {name: FRAUDOPS_SCHEMA, value: /etc/fraudops/schema.yaml}
{{- end }}
{{- with $root.Values.jobs.extraEnv }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{/*
A CronJob with the same Job. Argument: the dict of fraudops.job, with "schedule" "17 * * * *". Without
a schedule the CronJob is suspended, and only a template for `kubectl create job --from=cronjob/…`
and `fraudops … --on-cluster`.
*/}}
{{- define "fraudops.cronjob" -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "fraudops.fullname" .root }}-{{ .name }}
  labels: {{ include "fraudops.labels" (dict "root" .root "component" .name) | nindent 4 }}
spec:
  schedule: {{ .schedule | default "0 0 1 1 *" | quote }}
  suspend: {{ not .schedule }}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 300
  successfulJobsHistoryLimit: {{ .history | default 3 }}
  failedJobsHistoryLimit: {{ .history | default 3 }}
  jobTemplate:
    metadata:
      {{- with include "fraudops.requester.annotations" . }}
      {{- . | nindent 6 }}
      {{- end }}
      labels: {{ include "fraudops.labels" (dict "root" .root "component" .name) | nindent 8 }}
    spec: {{ include "fraudops.job" . | nindent 6 }}
{{- end }}

{{/*
A Job that runs once per content. Its name has a hash of the spec, because Kubernetes allows no change
of an existing Job's spec. The Job stays until an upgrade replaces it, so it is not run again.
*/}}
{{- define "fraudops.onceJob" -}}
{{- $spec := include "fraudops.job" (merge (dict "ttl" "") .) }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "fraudops.fullname" .root }}-{{ .name }}-{{ $spec | sha256sum | trunc 8 }}
  labels: {{ include "fraudops.labels" (dict "root" .root "component" .name) | nindent 4 }}
spec: {{ $spec | nindent 2 }}
{{- end }}
