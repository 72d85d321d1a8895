{{/*
Settings of every pod. Argument: (dict "root" $ "settings" .Values.inference). By default they meet Pod
Security `restricted`. A ServiceAccount's token is mounted only where a template asks for it.
*/}}
{{- define "fraudops.pod" -}}
{{- $values := .root.Values -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- $security := .settings.podSecurityContext }}
{{- /* OpenShift's restricted-v2 sets the three, and refuses any other user. */}}
{{- if $values.openshift.enabled }}{{ $security = omit $security "runAsUser" "runAsGroup" "fsGroup" }}{{ end }}
securityContext: {{- toYaml $security | nindent 2 }}
{{- $secrets := list }}
{{- range concat $values.imagePullSecrets ($values.global.imagePullSecrets | default list) }}
{{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) }}
{{- end }}
{{- with $secrets | uniq }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.priorityClassName | default $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Argument: the values with containerSecurityContext. */}}
{{- define "fraudops.container" -}}
securityContext: {{- toYaml .containerSecurityContext | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* The ServiceAccount's token for one container instead of all containers of the pod. */}}
{{- define "fraudops.tokenVolume" -}}
- name: api-token
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
{{- end }}
{{- define "fraudops.tokenMount" -}}
- {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "fraudops.env.namespace" -}}
- {name: FRAUDOPS_CLUSTER__NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
{{- end }}
{{- define "fraudops.env.adminToken" -}}
- {name: FRAUDOPS_ADMIN_TOKEN, valueFrom: {secretKeyRef: {name: {{ include "fraudops.adminSecret" . | quote }}, key: {{ .Values.adminToken.secretKey | quote }}}}}
{{- end }}
{{- define "fraudops.env.auditKey" -}}
{{- with .Values.audit.existingSecret -}}
- {name: FRAUDOPS_AUDIT__KEY, valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: {{ $.Values.audit.secretKey | quote }}}}}
{{- end }}
{{- end }}
{{/* A registry's URL with a password. One without is in the ConfigMaps. */}}
{{- define "fraudops.env.mlflowUrl" -}}
{{- with .Values.mlflow.existingSecret -}}
- {name: MLFLOW_TRACKING_URI, valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: {{ $.Values.mlflow.secretKey | quote }}}}}
{{- end }}
{{- end }}

{{/*
A checksum of a ConfigMap. As an annotation it replaces the pods when the ConfigMap has changed. For a
Secret, whose content helm does not know, the numbers of secretRevisions do the same. Argument:
(dict "root" $ "file" "/mlflow/configmap.yaml" "secrets" (dict "database" "database") "extra" .Values.x.podAnnotations),
where `secrets` has for each Secret of the pod the word in the annotation and that in secretRevisions.
*/}}
{{- define "fraudops.podAnnotations" -}}
{{- $own := dict "checksum/settings" (get (include (print .root.Template.BasePath .file) .root | fromYaml) "data" | toJson | sha256sum) }}
{{- $values := .root.Values -}}
{{- range $word, $name := .secrets }}
{{- $_ := set $own (printf "secret-revision/%s" $word) (get $values.secretRevisions $name | int64 | toString) }}
{{- end }}
{{- if or $values.caBundle.configMap $values.caBundle.secret }}
{{- $_ := set $own "secret-revision/ca-bundle" ($values.secretRevisions.caBundle | int64 | toString) }}
{{- end }}
{{- merge $own .extra | toYaml }}
{{- end }}
