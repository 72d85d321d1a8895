{{/*
Name of a ServiceAccount: that of the values, else that of the chart, else the namespace's `default`.
Argument: (dict "settings" .Values.mlflow.serviceAccount "name" the chart's name).
*/}}
{{- define "fraudops.account" -}}
{{- .settings.name | default (ternary .name "default" .settings.create) }}
{{- end }}
{{- define "fraudops.inferenceAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.inference.serviceAccount "name" (include "fraudops.inference" .)) }}{{- end }}
{{- define "fraudops.jobsAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.jobs.serviceAccount "name" (include "fraudops.jobs" .)) }}{{- end }}
{{- define "fraudops.promotionAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.promotion.serviceAccount "name" (include "fraudops.promotion" .)) }}{{- end }}
{{- define "fraudops.reconcileAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.jobs.reconcile.serviceAccount "name" (include "fraudops.reconcile" .)) }}{{- end }}
{{- define "fraudops.setupAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.jobs.setup.serviceAccount "name" (include "fraudops.setup" .)) }}{{- end }}
{{- define "fraudops.mlflowAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.mlflow.serviceAccount "name" (include "fraudops.mlflow" .)) }}{{- end }}
{{- define "fraudops.postgresqlAccount" -}}{{ include "fraudops.account" (dict "settings" .Values.postgresql.serviceAccount "name" (include "fraudops.postgresql" .)) }}{{- end }}

{{/* Argument: (dict "root" $ "settings" .Values.x.serviceAccount "name" its name "component" …). */}}
{{- define "fraudops.serviceAccount" -}}
{{- if .settings.create }}
apiVersion: v1
kind: ServiceAccount
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" .name "component" .component "labels" .settings.labels "annotations" .settings.annotations) | nindent 2 }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/*
Names the account of a pod in both fields. It is for a pod that has no own account in the release before, or
with other values. The API server copies the name from one field into the other. Helm removes only the fields that
it has set. With one field, `helm rollback` would leave the name of an account that it has deleted, and no pod
could start.
*/}}
{{- define "fraudops.podAccount" -}}
serviceAccountName: {{ . | quote }}
serviceAccount: {{ . | quote }}
{{- end }}

{{/*
Binds the Role of a name to an account, or to several in "accounts". Argument: (dict "root" $ "name" the Role
"account" … "component" …).
*/}}
{{- define "fraudops.roleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" .name "component" .component) | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name | quote }}}
subjects:
  {{- range .accounts | default (list .account) }}
  - {kind: ServiceAccount, name: {{ . | quote }}, namespace: {{ $.root.Release.Namespace | quote }}}
  {{- end }}
{{- end }}

{{/* Rules of a Role: write the serving record under the promotion lock, and create Events of acts. */}}
{{- define "fraudops.recordRules" -}}
- {apiGroups: [""], resources: [configmaps], resourceNames: [{{ include "fraudops.record" . | quote }}], verbs: [get, patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [{{ include "fraudops.promotion" . | quote }}], verbs: [get, patch]}
- {apiGroups: [""], resources: [events], verbs: [create]}
{{- end }}

{{/*
Checks for _checks.tpl. An account with a Role is no other component's account and not the namespace's
`default`, whose rights every pod would have.
*/}}
{{- define "fraudops.accountChecks" -}}
{{- include "fraudops.jobAccountChecks" . }}
{{- range $path, $settings := dict "mlflow" .Values.mlflow "postgresql" .Values.postgresql }}
{{- if and $settings.serviceAccount.create (eq $settings.serviceAccount.name "default") }}
{{- fail (printf "\n\n%s.serviceAccount: the account `default` exists already, and Helm cannot create it. Set create to false to use it.\n" $path) }}
{{- end }}
{{- end }}
{{- $names := list }}
{{- $values := dict "inference" .Values.inference "jobs" .Values.jobs "promotion" .Values.promotion "jobs.reconcile" .Values.jobs.reconcile "jobs.setup" .Values.jobs.setup "backup" .Values.backup }}
{{- range $path := list "inference" "jobs" "promotion" "jobs.reconcile" "jobs.setup" "backup" }}
{{- $settings := (get $values $path).serviceAccount }}
{{- if or (eq $settings.name "default") (not (or $settings.create $settings.name)) }}
{{- fail (printf "\n\n%s.serviceAccount: name an account of its own, because a Role is bound to it and every pod of the namespace may use `default`.\n" $path) }}
{{- end }}
{{- end }}
{{- range list (include "fraudops.inferenceAccount" .) (include "fraudops.jobsAccount" .) (include "fraudops.promotionAccount" .) (include "fraudops.reconcileAccount" .) (include "fraudops.setupAccount" .) (include "fraudops.backupAccount" .) (include "fraudops.mlflowAccount" .) (include "fraudops.postgresqlAccount" .) }}
{{- if and (has . $names) (ne . "default") }}
{{- fail (printf "\n\nThe ServiceAccount %q is that of two components. Give each its own serviceAccount.name, because one would have the rights of the other.\n" .) }}
{{- end }}
{{- $names = append $names . }}
{{- end }}
{{- end }}

{{/* Accounts of Jobs that need no right in the cluster: such a Job must not get those of another component. */}}
{{- define "fraudops.jobAccountChecks" -}}
{{- $bound := list (include "fraudops.inferenceAccount" .) (include "fraudops.jobsAccount" .) (include "fraudops.promotionAccount" .) (include "fraudops.reconcileAccount" .) (include "fraudops.setupAccount" .) (include "fraudops.backupAccount" .) }}
{{- range $path, $settings := include "fraudops.extended" . | fromJson }}
{{- if has ($settings.serviceAccountName | default "") $bound }}
{{- fail (printf "\n\n%s.serviceAccountName: the ServiceAccount %q has a Role, and is another component's. Name another one.\n" $path $settings.serviceAccountName) }}
{{- end }}
{{- end }}
{{- end }}
