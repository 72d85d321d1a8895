{{/*
Who asked for a promotion. `fraudops … --on-cluster` writes the caller's name on the Job and its pods, and
job-policy.yaml lets no other name pass. A program reads the annotation of its own pod.
*/}}
{{- define "fraudops.env.requester" -}}
- {name: FRAUDOPS_REQUESTED_BY, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['fraudops.io/requested-by']"}}}
- {name: FRAUDOPS_JOB, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}}
{{- end }}

{{/*
The name on a Job that the CronJob controller creates. The policy compares it too. Argument: the dict of
fraudops.job. Returns JSON.
*/}}
{{- define "fraudops.requester.annotations" -}}
{{- $annotations := dict }}
{{- if and (include "fraudops.policyEnabled" .root) (eq (.account | default "") (include "fraudops.promotionAccount" .root)) (not (hasKey . "ttl")) }}
{{- $_ := set $annotations "fraudops.io/requested-by" .root.Values.promotion.policy.cronJobController }}
{{- end }}
{{- toJson $annotations }}
{{- end }}

{{/*
The first part of the policies' names, which the whole cluster shares. Neither a namespace nor the release's
prefix has a dot. With `-` between them, `a` and `b-c` would give the name of `a-b` and `c`.
*/}}
{{- define "fraudops.requester.policyName" -}}{{ .Release.Namespace }}.{{ include "fraudops.promotion" . }}{{- end }}

{{/* Checks of promotion.policy and promotion.approval, for _checks.tpl. */}}
{{- define "fraudops.requester.checks" -}}
{{- $policy := .Values.promotion.policy }}
{{- $held := include "fraudops.policyEnabled" . }}
{{- $approval := .Values.promotion.approval }}
{{- if and $held (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "\n\npromotion.policy.enabled needs Kubernetes 1.30 or newer, and this cluster has %s: upgrade it, or set promotion.policy.enabled=false.\n" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if $held }}
{{- range $path, $pod := merge (include "fraudops.promotingPods" . | fromJson) (include "fraudops.reconcilerPods" . | fromJson) }}
{{- if or $pod.extraInitContainers $pod.extraEnvFrom }}
{{- fail (printf "\n\npromotion.policy.enabled refuses Jobs with other containers or variables than those of the chart: remove extraInitContainers and extraEnvFrom from %s, or give them to the pods of other Jobs only.\n" $path) }}
{{- end }}
{{- /* Such a variable wins over the ConfigMap's, so it could switch the approval off. */}}
{{- range $variable := $pod.extraEnv }}
{{- range list "FRAUDOPS_" "PYTHON" }}
{{- if hasPrefix . (upper $variable.name) }}
{{- fail (printf "\n\n%s.extraEnv: promotion.policy.enabled refuses Jobs that set %s, because variables that begin with %s change what a promotion does. Remove it, or give it to the pods of other Jobs only.\n" $path $variable.name .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $approval.required (not $held) }}
{{- fail "\n\npromotion.approval.required needs promotion.policy.enabled: without the policy any user can write another user's approval.\n" }}
{{- end }}
{{- if and $approval.required (ge (float64 $approval.expirySeconds) (float64 .Values.jobs.promote.activeDeadlineSeconds)) }}
{{- fail "\n\npromotion.approval.expirySeconds must be smaller than jobs.promote.activeDeadlineSeconds: Kubernetes would end the Job while it waits.\n" }}
{{- end }}
{{- if and $approval.required (not $policy.automation) }}
{{- fail "\n\npromotion.approval.required needs promotion.policy.automation: name the users that install the chart, because no other user may change its CronJobs then.\n" }}
{{- end }}
{{- end }}

{{/* The values that add to the pods of Jobs which promote, by their path, as JSON. */}}
{{- define "fraudops.promotingPods" -}}
{{- $jobs := .Values.jobs }}
{{- toJson (dict "jobs" $jobs "jobs.promote.pod" $jobs.promote.pod "jobs.pipeline.pod" $jobs.pipeline.pod "bootstrap.pod" .Values.bootstrap.pod) }}
{{- end }}
