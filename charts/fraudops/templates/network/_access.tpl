{{/*
Two policies that let pods with the label fraudops.io/access-NAME reach a component: its ingress and
their egress. Argument: (dict "root" $ "name" "mlflow" "component" "mlflow" "port" 5000 "from" extra peers).
The ingress accepts any pod of the release's namespace with the label, for example a notebook.
*/}}
{{- define "fraudops.access" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" (printf "%s-to-%s" (include "fraudops.fullname" .root) .name) "component" "network") | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- include "fraudops.selector" (dict "root" .root "component" .component) | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector: {matchLabels: {fraudops.io/access-{{ .name }}: "true"}}
        {{- with .from }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports: [{port: {{ int64 .port }}, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" (printf "%s-from-%s-clients" (include "fraudops.fullname" .root) .name) "component" "network") | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "fraudops.releasePods" .root | nindent 6 }}
      fraudops.io/access-{{ .name }}: "true"
  policyTypes: [Egress]
  egress:
    - to:
        - podSelector:
            matchLabels: {{- include "fraudops.selector" (dict "root" .root "component" .component) | nindent 14 }}
      ports: [{port: {{ int64 .port }}, protocol: TCP}]
{{- end }}

{{/*
The egress of pods with the label to addresses outside the release. Argument:
(dict "root" $ "name" "https" "to" .Values.networkPolicy.https). Without any peer there is no policy, because
an empty list would allow every address.
*/}}
{{- define "fraudops.way" -}}
{{- $cidrs := .to.cidrs }}
{{- /* 0.0.0.0/0 has no address of IPv6, and it stands for "any". */}}
{{- if and (eq (include "fraudops.ipv6" .root) "true") (has "0.0.0.0/0" $cidrs) }}{{ $cidrs = append $cidrs "::/0" | uniq }}{{ end }}
{{- if or $cidrs .to.peers }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "fraudops.metadata" (dict "root" .root "name" (printf "%s-from-%s-clients" (include "fraudops.fullname" .root) .name) "component" "network") | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "fraudops.releasePods" .root | nindent 6 }}
      fraudops.io/access-{{ .name }}: "true"
  policyTypes: [Egress]
  egress:
    - to:
        {{- range $cidrs }}
        - ipBlock: {cidr: {{ . | quote }}}
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
