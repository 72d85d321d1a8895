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
{{- with include "fraudops.wayRules" . | fromJsonArray }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "fraudops.metadata" (dict "root" $.root "name" (printf "%s-from-%s-clients" (include "fraudops.fullname" $.root) $.name) "component" "network") | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "fraudops.releasePods" $.root | nindent 6 }}
      fraudops.io/access-{{ $.name }}: "true"
  policyTypes: [Egress]
  egress: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* The egress rules of a way, as JSON: its own, or one of its addresses, peers and ports. Argument as above. */}}
{{- define "fraudops.wayRules" -}}
{{- $to := .to.peers | default list }}
{{- $cidrs := .to.cidrs | default list }}
{{- /* 0.0.0.0/0 has no address of IPv6, and it stands for "any". */}}
{{- if and (eq (include "fraudops.ipv6" .root) "true") (has "0.0.0.0/0" $cidrs) }}{{ $cidrs = append $cidrs "::/0" | uniq }}{{ end }}
{{- range reverse $cidrs }}{{ $to = prepend $to (dict "ipBlock" (dict "cidr" .)) }}{{ end }}
{{- $ports := list }}
{{- range .to.ports }}{{ $ports = append $ports (dict "port" (int64 .) "protocol" "TCP") }}{{ end }}
{{- if .to.egress }}{{ toJson .to.egress }}
{{- else if $to }}{{ list (dict "to" $to "ports" $ports) | toJson }}
{{- else }}[]
{{- end }}
{{- end }}

{{/*
Additional rules of the values. Argument: (dict "root" $ "direction" "Egress" "rules" .Values.networkPolicy.extraEgress).
The part `jobs` means every pod that is of no other part.
*/}}
{{- define "fraudops.extraRules" -}}
{{- $label := "app.kubernetes.io/component" }}
{{- $parts := list "inference" "mlflow" "postgresql" }}
{{- $direction := lower .direction }}
{{- range $part, $rules := .rules }}
{{- if $rules }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "fraudops.metadata" (dict "root" $.root "name" (printf "%s-extra-%s-%s" (include "fraudops.fullname" $.root) $direction $part) "component" "network") | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- include "fraudops.releasePods" $.root | nindent 6 }}
    {{- if ne $part "all" }}
    matchExpressions:
      {{- if eq $part "jobs" }}
      - {key: {{ $label | quote }}, operator: NotIn, values: {{ toJson $parts }}}
      {{- else }}
      - {key: {{ $label | quote }}, operator: In, values: [{{ $part | quote }}]}
      {{- end }}
    {{- end }}
  policyTypes: [{{ $.direction }}]
  {{ $direction }}: {{- toYaml $rules | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The values that let a pod reach any address, as a JSON list of their paths. Only ways that are rendered
count, and without policies there are none: look at networkPolicy.enabled yourself.
*/}}
{{- define "fraudops.openWays" -}}
{{- $policy := .Values.networkPolicy }}
{{- $rules := dict "dns" (list (dict "to" ($policy.dns.peers | default list))) }}
{{- $ways := list "apiServer" }}
{{- if eq (include "fraudops.fetches" .) "true" }}{{ $ways = append $ways "https" }}{{ end }}
{{- range list "postgresql" "mlflow" }}
{{- if not (get $.Values .).enabled }}{{ $ways = append $ways . }}{{ end }}
{{- end }}
{{- range $ways }}
{{- $_ := set $rules . (include "fraudops.wayRules" (dict "root" $ "to" (get $policy .)) | fromJsonArray) }}
{{- end }}
{{- range $part, $extra := $policy.extraEgress }}
{{- $_ := set $rules (printf "extraEgress.%s" $part) ($extra | default list) }}
{{- end }}
{{- $open := list }}
{{- if $policy.enabled }}
{{- range $way, $each := $rules }}
{{- if eq (include "fraudops.anyAddress" $each) "true" }}{{ $open = append $open (printf "networkPolicy.%s" $way) }}{{ end }}
{{- end }}
{{- end }}
{{- toJson $open }}
{{- end }}

{{/* The values that let any address call the inference pods, as a JSON list. Pods of the cluster do not count. */}}
{{- define "fraudops.openCallers" -}}
{{- $policy := .Values.networkPolicy }}
{{- $rules := dict "clients" list }}
{{- with $policy.clients }}{{ $_ := set $rules "clients" (list (dict "from" .)) }}{{ end }}
{{- range list "all" "inference" }}
{{- $_ := set $rules (print "extraIngress." .) (get $policy.extraIngress . | default list) }}
{{- end }}
{{- $open := list }}
{{- if $policy.enabled }}
{{- range $value, $each := $rules }}
{{- if eq (include "fraudops.anyAddress" $each) "true" }}{{ $open = append $open (printf "networkPolicy.%s" $value) }}{{ end }}
{{- end }}
{{- end }}
{{- toJson $open }}
{{- end }}

{{/*
Whether rules allow any address, in either family, or have no peers. Two halves are as open as the whole, so
a length of at most 7 counts. For egress, all pods of all namespaces count too. Argument: a list of rules.
*/}}
{{- define "fraudops.anyAddress" -}}
{{- $any := false }}
{{- range . }}
{{- if not (or .to .from) }}{{ $any = true }}{{ end }}
{{- range concat (.to | default list) (.from | default list) }}
{{- if regexMatch "/0*[0-7]$" (dig "ipBlock" "cidr" "" . | toString) }}{{ $any = true }}{{ end }}
{{- end }}
{{- range .to }}
{{- $namespaces := .namespaceSelector | default dict }}
{{- $pods := .podSelector | default dict }}
{{- $limits := list $namespaces.matchLabels $namespaces.matchExpressions $pods.matchLabels $pods.matchExpressions | compact }}
{{- if and (hasKey . "namespaceSelector") (not $limits) }}{{ $any = true }}{{ end }}
{{- end }}
{{- end }}
{{- $any }}
{{- end }}

{{/* Whether a pod calls a server by HTTPS outside the release: for the data, the artifacts, or the tokens' keys. */}}
{{- define "fraudops.fetches" -}}
{{- or (eq .Values.data.source "url") (eq .Values.mlflow.artifacts.type "s3") (ne .Values.clientAuth.jwksUrl "") }}
{{- end }}

{{/* Warnings for NOTES.txt, as a JSON list. */}}
{{- define "fraudops.network.notes" -}}
{{- $notes := list }}
{{- with include "fraudops.openWays" . | fromJsonArray }}
{{- $notes = append $notes (printf "%s: pods may reach any address, or a very wide range, on these ports. Name the addresses, as docs/operations/network.md explains." (join ", " .)) }}
{{- end }}
{{- toJson $notes }}
{{- end }}
