{{/*
What the admission policies of promotions share. Each policy is a file here. policy-bindings.yaml binds the
policies that this release renders.
*/}}

{{/* "true" if policies hold the accounts of promotions. */}}
{{- define "fraudops.policyEnabled" -}}{{ if or .Values.promotion.policy.enabled (include "fraudops.strict" .) }}true{{ end }}{{- end }}

{{/* "true" if they hold and this release renders them. Else the cluster's administrators apply them. */}}
{{- define "fraudops.policyInstalled" -}}
{{- if and (include "fraudops.policyEnabled" .) .Values.promotion.policy.install }}true{{ end }}
{{- end }}

{{/*
Which pods the promoting account may delete: none, inferencePods or anyPod. Only a policy can limit `delete`
to pods with a label.
*/}}
{{- define "fraudops.podDeletion" -}}
{{- .Values.promotion.podDeletion | default (ternary "inferencePods" "anyPod" (eq (include "fraudops.policyEnabled" .) "true")) }}
{{- end }}

{{- define "fraudops.rollout" -}}{{ include "fraudops.fullname" . }}-rollout{{- end }}
{{- define "fraudops.hasRollout" -}}{{ if has "rollout" .Values.promotion.strategies }}true{{ end }}{{- end }}

{{/* The user name of a ServiceAccount. Argument: (dict "root" $ "account" …). */}}
{{- define "fraudops.userName" -}}system:serviceaccount:{{ .root.Release.Namespace }}:{{ .account }}{{- end }}

{{/* The names of the policies of this release, as JSON. Each is the last part of the object's name. */}}
{{- define "fraudops.policies" -}}
{{- $names := list }}
{{- if include "fraudops.policyInstalled" . }}
{{- $names = list "jobs" "pods" "reconciler" }}
{{- if .Values.promotion.approval.required }}{{ $names = append $names "cronjobs" }}{{ end }}
{{- if include "fraudops.hasRollout" . }}{{ $names = append $names "rollout" }}{{ end }}
{{- end }}
{{- if and (eq (include "fraudops.podDeletion" .) "inferencePods") .Values.promotion.policy.install }}
{{- $names = append $names "deletion" }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{/*
The head of a policy. Argument: (dict "root" $ "name" "jobs" "group" "batch" "resources" (list …) "operations"
(list …)). The API server would add each empty selector and the default, and GitOps tools would then see a
difference for ever.
*/}}
{{- define "fraudops.policy" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" (printf "%s-%s" (include "fraudops.requester.policyName" .root) .name) "component" "promotion" "cluster" true) | nindent 2 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
      - {apiGroups: [{{ .group | quote }}], apiVersions: [v1], resources: {{ toJson .resources }}, operations: {{ toJson .operations }}, scope: "*"}
{{- end }}

{{/* A condition on the account of a pod. Argument: (dict "account" …). */}}
{{- define "fraudops.policy.ofPodsWith" -}}
- name: account
  expression: object.spec.?serviceAccountName.orValue("") == {{ .account | quote }}
{{- end }}

{{/* A condition on the users who ask. Argument: a list of their names. */}}
{{- define "fraudops.policy.ofUsers" -}}
- name: users
  expression: request.userInfo.username in {{ toJson . }}
{{- end }}

{{/* Rules for pods that may write the serving record: what runs in them never changes. */}}
{{- define "fraudops.policy.runningPods" -}}
# Kubernetes starts a container again when its image changes, also in a pod that has no restarts.
- expression: >-
    request.operation == "CREATE" ||
    (object.spec.containers.map(container, container.image) == oldObject.spec.containers.map(container, container.image) &&
    object.spec.?initContainers.orValue([]).map(container, container.image) ==
    oldObject.spec.?initContainers.orValue([]).map(container, container.image))
  reason: Forbidden
  message: the images of a promoting pod cannot change
- expression: object.spec.?ephemeralContainers.orValue([]).size() == 0
  reason: Forbidden
  message: no container may join a promoting pod
{{- end }}

{{/* The chart's image for Jobs without its tag or digest. */}}
{{- define "fraudops.policy.image" -}}
{{- $registry := include "fraudops.registry" (dict "root" . "image" .Values.jobs.image) }}
{{- print (ternary (print $registry "/") "" (ne $registry "")) .Values.jobs.image.repository }}
{{- end }}

{{/* Checks of the rights of a promotion, for _checks.tpl. */}}
{{- define "fraudops.rights.checks" -}}
{{- if and (eq (include "fraudops.podDeletion" .) "inferencePods") (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "\n\npromotion.podDeletion: inferencePods needs a policy of Kubernetes 1.30 or newer, and this cluster has %s: upgrade it, or set promotion.podDeletion=none.\n" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- end }}

{{/* Warnings about the rights of a promotion, as a JSON list, for NOTES.txt. */}}
{{- define "fraudops.rights.notes" -}}
{{- $warnings := list }}
{{- if and (eq (include "fraudops.podDeletion" .) "anyPod") (not .Values.promotion.podDeletion) }}
{{- $warnings = append $warnings "The account of promotions may delete every pod of the namespace. Set promotion.podDeletion to inferencePods (Kubernetes 1.30) or to none, which the next release does by default." }}
{{- end }}
{{- if and (eq (include "fraudops.podDeletion" .) "inferencePods") (not .Values.promotion.policy.install) (not (include "fraudops.strict" .)) }}
{{- $warnings = append $warnings "The account of promotions may delete every pod of the namespace, as with promotion.podDeletion=anyPod, until an administrator of the cluster applies the policies, because promotion.policy.install is false." }}
{{- end }}
{{- if and (include "fraudops.hasRollout" .) (not (include "fraudops.policyEnabled" .)) }}
{{- $warnings = append $warnings "The accounts of promotions and of the reconciler may change the Deployment of the inference pods, also its images. Set promotion.policy.enabled=true, or remove rollout from promotion.strategies." }}
{{- end }}
{{- $old := list }}
{{- range list "schedule" "activeDeadlineSeconds" "args" }}{{ if get $.Values.jobs.reconcile . }}{{ $old = append $old (print "jobs.reconcile." .) }}{{ end }}{{ end }}
{{- with $old }}
{{- $warnings = append $warnings (printf "The reconciler is a Deployment now and ignores %s. Remove what is set. The next release refuses it." (join ", " .)) }}
{{- end }}
{{- toJson $warnings }}
{{- end }}
