{{/*
One way, both ends, of (dict "root" $ "name" "mlflow" "component" "mlflow" "port" 5000 "from" extra peers): who carries the label may reach the component.
The label alone opens the door in the release's namespace: a notebook that wears it may read the registry.
*/}}
{{- define "fraudops.access" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "fraudops.fullname" .root }}-to-{{ .name }}
  labels: {{ include "fraudops.labels" (dict "root" .root "component" "network") | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{ include "fraudops.selector" (dict "root" .root "component" .component) | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector: {matchLabels: {fraudops.io/access-{{ .name }}: "true"}}
        {{- with .from }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports: [{port: {{ .port }}, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "fraudops.fullname" .root }}-from-{{ .name }}-clients
  labels: {{ include "fraudops.labels" (dict "root" .root "component" "network") | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "fraudops.releasePods" .root | nindent 6 }}
      fraudops.io/access-{{ .name }}: "true"
  policyTypes: [Egress]
  egress:
    - to:
        - podSelector:
            matchLabels: {{ include "fraudops.selector" (dict "root" .root "component" .component) | nindent 14 }}
      ports: [{port: {{ .port }}, protocol: TCP}]
{{- end }}

{{/* The way out, of (dict "root" $ "name" "https" "to" .Values.networkPolicy.https); none where no peer is named, since an empty list would mean all. */}}
{{- define "fraudops.way" -}}
{{- if or .to.cidrs .to.peers }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "fraudops.fullname" .root }}-from-{{ .name }}-clients
  labels: {{ include "fraudops.labels" (dict "root" .root "component" "network") | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "fraudops.releasePods" .root | nindent 6 }}
      fraudops.io/access-{{ .name }}: "true"
  policyTypes: [Egress]
  egress:
    - to:
        {{- range .to.cidrs }}
        - ipBlock: {cidr: {{ . }}}
        {{- end }}
        {{- with .to.peers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- range .to.ports }}
        - {port: {{ . | int64 }}, protocol: TCP}
        {{- end }}
{{- end }}
{{- end }}
