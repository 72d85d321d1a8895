{{/*
Two policies that let pods with the label fraudops.io/access-NAME reach a component: its ingress and
their egress. Argument: (dict "root" $ "name" "mlflow" "component" "mlflow" "port" 5000 "from" extra peers).
The ingress accepts any pod of the release's namespace with the label, for example a notebook.
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

{{/*
The egress of pods with the label to addresses outside the release. Argument:
(dict "root" $ "name" "https" "to" .Values.networkPolicy.https). Without any peer there is no policy, because
an empty list would allow every address.
*/}}
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
