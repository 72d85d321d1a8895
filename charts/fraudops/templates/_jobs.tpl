{{/*
The spec of one Job. Argument: (dict "root" $ "name" "train" "settings" .Values.jobs.train …), with
  module       the module that `python -m` runs
  args         its arguments
  account      its ServiceAccount; the container gets the account's token, unless withoutToken is true
  access       list of destinations that its pod may reach: mlflow, postgresql, admin, inference, api, https
  database, adminToken, auditKey   true: the container reads that Secret
  databases    true: the container reads every URL of the database Secret
  dumps        true: the container reads the URLs of the databases, without the administrator's
  data         true: the container reads the training data
  writesData   true: the container also writes to the data volume
  shards       number of pods of an Indexed Job, which run at the same time
  bare         true: the container reads no ConfigMap
  exportClaim  a claim that is mounted at /export
  labelDays    true: the container knows for how long labels are kept
  backoffLimit, ttl   replace those of .Values.jobs; ttl "" keeps the finished Job
  verdictKey, waiverKey, publicKeys   true: the container mounts that Secret
  request      true: the container knows the id of the Job's request
  production   true: the container asks the pods which version serves
  image, pullPolicy, command   replace those of the Jobs, for a program of another image
  mounts       more mounts of the container, as YAML
  volumes      more volumes of the pod, as YAML
  steps        list of such dicts: init containers that run before the container, in their order. Each
               names what it reads for itself. They hand on through files in /hand-over.
Exit code 64 (bad settings) or 65 (a gate refused) ends the Job immediately. Any other, such as 75
(a store is unavailable), is retried.
*/}}
{{- define "fraudops.job" -}}
{{- $root := .root }}
{{- $jobs := $root.Values.jobs }}
{{- $pod := include "fraudops.jobSettings" . | fromJson }}
{{- $value := ternary (print .name ".pod") (printf "jobs.%s.pod" .name) (has .name (list "bootstrap" "backup")) }}
{{- if .steps }}{{ include "fraudops.stepMountChecks" (dict "settings" $pod "value" $value) }}{{ end }}
{{- $image := include "fraudops.image" (dict "root" $root "image" $jobs.image) }}
{{- $reads := .data }}
{{- range .steps }}{{ $reads = or $reads .data }}{{ end }}
{{- $data := and $reads (ne $root.Values.data.source "sample") }}
{{- $schema := and $reads $root.Values.data.schema }}
backoffLimit: {{ .backoffLimit | default $jobs.backoffLimit | int64 }}
activeDeadlineSeconds: {{ .settings.activeDeadlineSeconds | int64 }}
{{- with .shards }}
completionMode: Indexed
completions: {{ int64 . }}
parallelism: {{ int64 . }}
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
    {{- with merge (include "fraudops.requester.annotations" . | fromJson) $pod.podAnnotations }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- $fetch := and $data (eq $root.Values.data.source "url") }}
    labels: {{- include "fraudops.podLabels" (dict "root" $root "component" .name "access" (ternary (append .access "https") .access (not (empty $fetch))) "labels" $pod.podLabels) | nindent 6 }}
  spec:
    {{- include "fraudops.pod" (dict "root" $root "settings" $pod) | nindent 4 }}
    serviceAccountName: {{ .account | default $pod.serviceAccountName | default "default" | quote }}
    restartPolicy: Never
    terminationGracePeriodSeconds: 30
    {{- $names := list "fetch-data" (.container | default .name) }}
    {{- range .steps }}{{ $names = append $names .name }}{{ end }}
    {{- $extra := include "fraudops.extraContainers" (dict "names" $names "extra" $pod.extraInitContainers "value" (print $value ".extraInitContainers")) }}
    {{- if or $fetch .steps $extra }}
    initContainers:
      {{- with $extra }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if $fetch }}
      - name: fetch-data
        image: {{ $image | quote }}
        imagePullPolicy: {{ $jobs.image.pullPolicy | quote }}
        command: [python, -m, jobs.data, fetch]
        {{- /* The URL may be presigned, so it is no argument: every process of the node sees those. */}}
        args: [--sha256, {{ $root.Values.data.sha256 | quote }}, --out, {{ printf "/data/%s" $root.Values.data.file | quote }}]
        {{- include "fraudops.containerBody" (dict "root" $root "settings" $pod "value" $value "resources" .settings.resources "disk" (include "fraudops.jobDisk" (dict "root" $root "data" true) | trim)
          "env" (include "fraudops.job.fetchEnv" $root) "mounts" "- {name: tmp, mountPath: /tmp}\n- {name: data, mountPath: /data}") | nindent 8 }}
      {{- end }}
      {{- range .steps }}
      {{- include "fraudops.job.container" (merge (dict "root" $root "settings" $.settings "pod" $pod "value" $value "handOver" "write") .) | nindent 6 }}
      {{- end }}
    {{- end }}
    containers:
      {{- include "fraudops.job.container" (merge (dict "pod" $pod "value" $value "handOver" (ternary "read" "" (not (empty .steps)))) .) | nindent 6 }}
    {{- $volumes := include "fraudops.job.volumes" (merge (dict "fetches" $fetch "readsData" $data "readsSchema" $schema) .) }}
    {{- include "fraudops.volumes" (dict "root" $root "own" $volumes "extra" $pod.extraVolumes "value" (print $value ".extraVolumes")) | nindent 4 }}
{{- end }}

{{- define "fraudops.job.volumes" -}}
{{- $root := .root }}
- {name: tmp, emptyDir: {sizeLimit: 2Gi}}
{{- if .fetches }}
- {name: data, emptyDir: {sizeLimit: {{ $root.Values.data.volume.size | quote }}}}
{{- else if .readsData }}
- {name: data, persistentVolumeClaim: {claimName: {{ include "fraudops.dataClaim" $root | quote }}}}
{{- end }}
{{- if .readsSchema }}
- {name: schema, configMap: {name: {{ printf "%s-schema" (include "fraudops.jobs" $root) | quote }}}}
{{- end }}
{{- with .exportClaim }}
- {name: export, persistentVolumeClaim: {claimName: {{ . | quote }}}}
{{- end }}
{{- with .volumes }}
{{- . | nindent 0 }}
{{- end }}
{{- if .steps }}
- {name: hand-over, emptyDir: {sizeLimit: 1Mi}}
{{- end }}
{{- range concat (.steps | default list) (list .) }}
{{- include "fraudops.keyVolumes" (dict "root" $root "container" .) | nindent 0 }}
{{- end }}
{{- /* All containers of a Job that read the database Secret read the same keys. */}}
{{- $reads := . }}
{{- range .steps }}{{ if or .database .dumps }}{{ $reads = . }}{{ end }}{{ end }}
{{- include "fraudops.database.volumes" (include "fraudops.job.database" (merge (dict "root" $root) $reads) | fromJson | merge (dict "root" $root)) | nindent 0 }}
{{- if .account }}
{{- include "fraudops.tokenVolume" $root | nindent 0 }}
{{- end }}
{{- end }}

{{- define "fraudops.job.fetchEnv" -}}
- {name: FRAUDOPS_STATE, value: /tmp/fraudops}
{{- if .Values.data.existingSecret }}
- {name: FRAUDOPS_DATA_URL, valueFrom: {secretKeyRef: {name: {{ .Values.data.existingSecret | quote }}, key: {{ .Values.data.secretKey | quote }}}}}
{{- else }}
- {name: FRAUDOPS_DATA_URL, value: {{ .Values.data.url | quote }}}
{{- end }}
{{- end }}

{{/*
What the values add to the pods of one Job: those of `jobs` for all, and `pod` of the Job. Lists are
joined, and an entry of `pod` replaces one of its name or path. Of the rest, `pod` wins. Argument: the dict of
fraudops.job.
*/}}
{{- define "fraudops.jobSettings" -}}
{{- $jobs := .root.Values.jobs }}
{{- $own := .settings.pod | default dict }}
{{- $settings := pick $own "serviceAccountName" }}
{{- range $name, $key := dict "extraEnv" "name" "extraVolumes" "name" "extraVolumeMounts" "mountPath" "extraInitContainers" "name" "extraEnvFrom" "" "tolerations" "" }}
{{- $mine := get $own $name | default list }}
{{- $keys := list }}
{{- if $key }}{{ range $mine }}{{ $keys = append $keys (get . $key) }}{{ end }}{{ end }}
{{- $entries := list }}
{{- range get $jobs $name }}
{{- if not (and $key (has (get . $key) $keys)) }}{{ $entries = append $entries . }}{{ end }}
{{- end }}
{{- $_ := set $settings $name (concat $entries $mine) }}
{{- end }}
{{- range list "podLabels" "podAnnotations" "podSecurityContext" "containerSecurityContext" "nodeSelector" }}
{{- $_ := set $settings . (merge (dict) (get $own . | default dict) (get $jobs .)) }}
{{- end }}
{{- range list "affinity" "priorityClassName" }}
{{- $_ := set $settings . (get $own . | default (get $jobs .)) }}
{{- end }}
{{- if and .account $settings.serviceAccountName }}
{{- fail (printf "\n\njobs.%s.pod.serviceAccountName: this Job calls the Kubernetes API with the account %q. Name another one in the serviceAccount of that component.\n" .name .account) }}
{{- end }}
{{- toJson $settings }}
{{- end }}

{{/*
One container of a Job: its program, or a step before it. Argument: the dict of fraudops.job, or that of
a step, with "pod" of fraudops.jobSettings and its name in "value", and with "container" if its name is not
that of the Job.
*/}}
{{- define "fraudops.job.container" -}}
{{- $root := .root }}
{{- $jobs := $root.Values.jobs -}}
- name: {{ .container | default .name | quote }}
  image: {{ .image | default (include "fraudops.image" (dict "root" $root "image" $jobs.image)) | quote }}
  imagePullPolicy: {{ .pullPolicy | default $jobs.image.pullPolicy | quote }}
  {{- if .command }}
  command: {{ toJson .command }}
  {{- else }}
  command: [python, -m, {{ .module | quote }}]
  {{- end }}
  {{- with .args }}
  args: {{ toJson . }}
  {{- end }}
  {{- $from := printf "- configMapRef: {name: %s}" (include "fraudops.jobs" $root | quote) }}
  {{- include "fraudops.containerBody" (dict "root" $root "settings" .pod "value" .value "resources" .settings.resources "disk" (include "fraudops.jobDisk" . | trim)
    "from" (ternary "[]" $from (not (empty .bare))) "env" (include "fraudops.job.env" .) "mounts" (include "fraudops.job.mounts" .)) | nindent 2 }}
{{- end }}

{{- define "fraudops.job.mounts" -}}
{{- $root := .root }}
{{- /* Steps share no writable folder but /hand-over: a file in /tmp could change what the next one runs. */}}
- {name: tmp, mountPath: /tmp{{ if .handOver }}, subPath: {{ .container | default .name | quote }}{{ end }}}
{{- if and .data (ne $root.Values.data.source "sample") }}
- {name: data, mountPath: /data, readOnly: {{ not .writesData }}}
{{- end }}
{{- if and .data $root.Values.data.schema }}
- {name: schema, mountPath: /etc/fraudops, readOnly: true}
{{- end }}
{{- if .exportClaim }}
- {name: export, mountPath: /export}
{{- end }}
{{- with .mounts }}
{{- . | nindent 0 }}
{{- end }}
{{- with .handOver }}
- {name: hand-over, mountPath: /hand-over, readOnly: {{ eq . "read" }}}
{{- end }}
{{- include "fraudops.keyMounts" . | nindent 0 }}
{{- include "fraudops.database.mounts" (include "fraudops.job.database" . | fromJson | merge (dict "root" $root)) | nindent 0 }}
{{- if and .account (not .withoutToken) }}
{{- include "fraudops.tokenMount" $root | nindent 0 }}
{{- end }}
{{- end }}

{{/* The keys of the database Secret that a Job's container reads, as JSON. Argument: the dict of fraudops.job. */}}
{{- define "fraudops.job.database" -}}
{{- if .databases }}
{{- $keys := ternary (list "adminUrl" "url" "mlflowUrl") (list "adminUrl" "url") .root.Values.mlflow.enabled }}
{{- toJson (dict "keys" $keys "optional" (ternary $keys (list "adminUrl") (has "--if-set-up" .args))) }}
{{- else if .dumps }}
{{- toJson (dict "keys" (ternary (list "url" "mlflowUrl") (list "url") .root.Values.mlflow.enabled)) }}
{{- else }}
{{- toJson (dict "keys" (ternary (list "url") list (not (empty .database)))) }}
{{- end }}
{{- end }}

{{/* The variables of a Job's container in addition to the ConfigMap's. Argument: the dict of fraudops.job. */}}
{{- define "fraudops.job.env" -}}
{{- $root := .root }}
{{- $data := and .data (ne $root.Values.data.source "sample") }}
{{- if and .account (not .withoutToken) }}
{{- include "fraudops.env.namespace" $root | nindent 0 }}
{{- end }}
{{- if or .database .databases .dumps }}
{{- include "fraudops.database.env" (include "fraudops.job.database" . | fromJson | merge (dict "root" $root)) | nindent 0 }}
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
{{- /* Not in the ConfigMap: a pod of release 0.2.0 that starts during an upgrade would refuse the variable. */}}
{{- if and .labelDays (not (kindIs "invalid" $root.Values.retention.labelDays)) }}
- {name: FRAUDOPS_RETENTION__LABEL_DAYS, value: {{ $root.Values.retention.labelDays | int64 | quote }}}
{{- end }}
{{- if .production }}
- {name: FRAUDOPS_PRODUCTION_URL, value: {{ printf "http://%s-admin:8001" (include "fraudops.inference" $root) | quote }}}
{{- end }}
{{- if not .bare }}
{{- with include "fraudops.env.mlflowUrl" $root }}
{{- . | nindent 0 }}
{{- end }}
{{- end }}
{{- include "fraudops.env.keys" . | nindent 0 }}
{{- if $data }}
- {name: FRAUDOPS_DATA, value: {{ printf "/data/%s" $root.Values.data.file | quote }}}
{{- end }}
{{- if and .data $root.Values.data.schema }}
- {name: FRAUDOPS_SCHEMA, value: /etc/fraudops/schema.yaml}
{{- end }}
{{- end }}

{{/*
A CronJob with the same Job. Argument: the dict of fraudops.job, with "schedule" "17 * * * *". Without
a schedule the CronJob is suspended, and only a template for `kubectl create job --from=cronjob/…`
and `fraudops … --on-cluster`.
*/}}
{{- define "fraudops.cronjob" -}}
{{- /* Some versions of Argo CD report an Application with a suspended CronJob as suspended. */}}
{{- $annotations := ternary dict (dict "argocd.argoproj.io/ignore-healthcheck" "true") (not (empty .schedule)) }}
apiVersion: batch/v1
kind: CronJob
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" (printf "%s-%s" (include "fraudops.fullname" .root) .name) "component" .name "annotations" $annotations) | nindent 2 }}
spec:
  schedule: {{ .schedule | default "0 0 1 1 *" | quote }}
  suspend: {{ not .schedule }}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 300
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    metadata:
      {{- with merge (include "fraudops.requester.annotations" . | fromJson) .root.Values.commonAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
      labels: {{- merge (include "fraudops.labels" (dict "root" .root "component" .name) | fromYaml) .root.Values.commonLabels | toYaml | nindent 8 }}
    spec: {{- include "fraudops.job" . | trim | nindent 6 }}
{{- end }}

{{/*
A Job that runs once per content. Its name has a hash of what the spec says, because Kubernetes allows no
change of an existing Job's spec. The Job stays until an upgrade replaces it, so it is not run again.
*/}}
{{- define "fraudops.onceJob" -}}
{{- $spec := include "fraudops.job" (merge (dict "ttl" "") .) | trim }}
apiVersion: batch/v1
kind: Job
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" (printf "%s-%s-%s" (include "fraudops.fullname" .root) .name ($spec | fromYaml | toJson | sha256sum | trunc 8)) "component" .name) | nindent 2 }}
spec: {{- $spec | nindent 2 }}
{{- end }}
