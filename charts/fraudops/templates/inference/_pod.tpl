{{/* What the containers of the inference pod read and mount. */}}
{{- define "fraudops.shipper.env" -}}
- {name: FRAUDOPS_POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
{{- include "fraudops.database.env" (dict "root" . "keys" (list "url")) | nindent 0 }}
{{- include "fraudops.env.namespace" . | nindent 0 }}
{{- include "fraudops.env.adminToken" . | nindent 0 }}
{{- include "fraudops.env.spoolVolume" . | nindent 0 }}
{{- end }}

{{/* With bootstrap the release is ready only when its first model serves: that is what `helm --wait` waits for. */}}
{{- define "fraudops.readyWithoutModel" -}}
{{- $chosen := .Values.inference.readyWithoutModel }}
{{- ternary (not .Values.bootstrap.enabled) $chosen (kindIs "invalid" $chosen) }}
{{- end }}

{{- define "fraudops.inference.env" -}}
- {name: FRAUDOPS_POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
{{- /* Set by a promotion that rolls the pods out, never by the chart. */}}
- {name: FRAUDOPS_ROLLOUT, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['fraudops.io/serving']"}}}
- {name: FRAUDOPS_READY_WITHOUT_MODEL, value: {{ include "fraudops.readyWithoutModel" . | quote }}}
{{- include "fraudops.env.keys" (dict "publicKeys" true) | nindent 0 }}
{{- include "fraudops.env.namespace" . | nindent 0 }}
{{- include "fraudops.env.adminToken" . | nindent 0 }}
{{- include "fraudops.env.spoolVolume" . | nindent 0 }}
{{- include "fraudops.env.auditKey" . | nindent 0 }}
{{- include "fraudops.env.mlflowUrl" . | nindent 0 }}
{{- include "fraudops.env.http" . | nindent 0 }}
{{- include "fraudops.env.clientAuth" . | nindent 0 }}
{{- end }}

{{/*
Not in the ConfigMap: a pod of an earlier release whose container starts again during an upgrade reads the new
ConfigMap, and ends with 64 for a variable that it does not know.
*/}}
{{- define "fraudops.env.http" -}}
{{- with .Values.http }}
- {name: FRAUDOPS_HTTP__ACCESS_LOG, value: {{ .accessLog | quote }}}
{{- if .rootPath }}
- {name: FRAUDOPS_HTTP__ROOT_PATH, value: {{ .rootPath | quote }}}
{{- end }}
- {name: FRAUDOPS_HTTP__CORS_ORIGINS, value: {{ .corsOrigins | toJson | quote }}}
- {name: FRAUDOPS_HTTP__MAX_CONNECTIONS, value: {{ .maxConnections | int64 | quote }}}
- {name: FRAUDOPS_HTTP__HEAD_SECONDS, value: {{ .headSeconds | quote }}}
- {name: FRAUDOPS_HTTP__BODY_SECONDS, value: {{ .bodySeconds | quote }}}
- {name: FRAUDOPS_HTTP__IDLE_SECONDS, value: {{ .idleSeconds | quote }}}
- {name: FRAUDOPS_HTTP__BODY_BYTES_IN_FLIGHT, value: {{ .bodyBytesInFlight | int64 | quote }}}
{{- end }}
{{- end }}

{{- define "fraudops.shipper.mounts" -}}
- {name: state, mountPath: /var/lib/fraudops}
- {name: tmp, mountPath: /tmp, subPath: shipper}
{{- include "fraudops.database.mounts" (dict "root" . "keys" (list "url")) | nindent 0 }}
{{- include "fraudops.spoolMount" . | nindent 0 }}
{{- end }}

{{- define "fraudops.inference.mounts" -}}
- {name: state, mountPath: /var/lib/fraudops}
- {name: tmp, mountPath: /tmp, subPath: inference}
{{- include "fraudops.spoolMount" . | nindent 0 }}
{{- include "fraudops.keyMounts" (dict "publicKeys" true) | nindent 0 }}
{{- include "fraudops.clientAuth.mounts" . | nindent 0 }}
{{- include "fraudops.tokenMount" . | nindent 0 }}
{{- end }}

{{- define "fraudops.inference.volumes" -}}
- name: state
  {{- if eq .Values.inference.state.type "emptyDir" }}
  emptyDir: {sizeLimit: {{ include "fraudops.stateSize" . | quote }}}
  {{- else }}
  ephemeral:
    volumeClaimTemplate:
      metadata:
        labels: {{- include "fraudops.labels" (dict "root" . "component" "inference") | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.inference.state.storageClass }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources: {requests: {storage: {{ include "fraudops.stateSize" . | quote }}}}
  {{- end }}
{{- if .Values.inference.spool.persistence.enabled }}
- {name: spool, persistentVolumeClaim: {claimName: {{ include "fraudops.spoolClaim" . | quote }}}}
{{- end }}
- {name: tmp, emptyDir: {sizeLimit: 256Mi}}
{{- include "fraudops.database.volumes" (dict "root" . "keys" (list "url")) | nindent 0 }}
{{- include "fraudops.keyVolumes" (dict "root" . "container" (dict "publicKeys" true)) | nindent 0 }}
{{- include "fraudops.clientAuth.volumes" . | nindent 0 }}
{{- include "fraudops.tokenVolume" . | nindent 0 }}
{{- end }}
