{{/*
Settings of every pod. Argument: (dict "root" $ "user" 10001 "placement" .Values.inference). They meet Pod
Security `restricted`. A ServiceAccount's token is mounted only where a template asks for it.
*/}}
{{- define "fraudops.pod" -}}
enableServiceLinks: false
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .placement.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .placement.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .placement.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "fraudops.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
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
- {name: FRAUDOPS_ADMIN_TOKEN, valueFrom: {secretKeyRef: {name: {{ include "fraudops.adminSecret" . }}, key: {{ .Values.adminToken.secretKey }}}}}
{{- end }}
{{- define "fraudops.env.auditKey" -}}
{{- with .Values.audit.existingSecret -}}
- {name: FRAUDOPS_AUDIT__KEY, valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.audit.secretKey }}}}}
{{- end }}
{{- end }}
{{- define "fraudops.env.database" -}}
- {name: DATABASE_URL, valueFrom: {secretKeyRef: {name: {{ include "fraudops.databaseSecret" . }}, key: {{ .Values.postgresql.secretKeys.url }}}}}
{{- end }}
{{- define "fraudops.env.mlflowDatabase" -}}
- {name: MLFLOW_BACKEND_STORE_URI, valueFrom: {secretKeyRef: {name: {{ include "fraudops.databaseSecret" . }}, key: {{ .Values.postgresql.secretKeys.mlflowUrl }}}}}
{{- end }}

{{/*
A checksum of a ConfigMap. As an annotation it replaces the pods when the ConfigMap has changed. For a
Secret, whose content helm does not know, the numbers of secretRevisions do the same.
*/}}
{{- define "fraudops.checksum" -}}
checksum/settings: {{ get (include (print .root.Template.BasePath .file) .root | fromYaml) "data" | toJson | sha256sum }}
{{- end }}
