{{/*
security.profile. What strict refuses has the name of an exception, and security.exceptions may list it.
docs/operations/security-profile.md has the same names.
*/}}

{{/* "true" in the strict profile. */}}
{{- define "fraudops.strict" -}}{{ if eq .Values.security.profile "strict" }}true{{ end }}{{- end }}

{{/* "true" if a route shows /docs: the value, else the profile. Argument: (dict "root" $ "docs" .Values.ingress.docs). */}}
{{- define "fraudops.docs" -}}
{{- if ternary (ne (include "fraudops.strict" .root) "true") .docs (kindIs "invalid" .docs) }}true{{ end }}
{{- end }}

{{/* "true" if the URL of the data has a password or a signature that is known. For the notes of the default profile. */}}
{{- define "fraudops.dataUrlIsSecret" -}}
{{- if regexMatch "(?i)//[^/]*@|[?&](x-amz-signature|x-goog-signature|signature|sig|token|access_token|awsaccesskeyid)=" .Values.data.url }}true{{ end }}
{{- end }}

{{/* What the values leave open, as a JSON map from the name of the exception to the reasons. */}}
{{- define "fraudops.profile.open" -}}
{{- $type := .Values.inference.service.type }}
{{- $published := ne $type "ClusterIP" }}
{{- $ways := include "fraudops.openWays" . | fromJsonArray }}
{{- $callers := include "fraudops.openCallers" . | fromJsonArray }}
{{- $routes := list }}
{{- range list "ingress" "httpRoute" }}
{{- $route := get $.Values . }}
{{- if and $route.enabled $route.docs }}{{ $routes = append $routes (print . ".docs") }}{{ end }}
{{- end }}
{{- $rows := list
  (list "anyPodDeletion" (eq (toString .Values.promotion.podDeletion) "anyPod") "promotion.podDeletion is anyPod: a promotion may delete every pod of the namespace. Remove the value.")
  (list "bundledPostgresql" .Values.postgresql.enabled "postgresql.enabled: the PostgreSQL of the chart is one pod without backups. Use your own, as k8s/values/external-postgres.yaml does.")
  (list "openClients" (ne .Values.clientAuth.mode "required") (printf "clientAuth.mode is %s: every caller who reaches the pods may score and send labels without a key. Set it to required, as docs/authentication.md explains." .Values.clientAuth.mode))
  (list "openEgress" (not .Values.networkPolicy.enabled) "networkPolicy.enabled is false: every pod may reach any address.")
  (list "openEgress" $ways (printf "%s: pods may reach any address, or a very wide range. Name the addresses, as docs/operations/network.md explains." (join ", " $ways)))
  (list "plainIngress" (and .Values.ingress.enabled (not .Values.ingress.tlsSecret)) "ingress.tlsSecret is empty: transactions would cross the network in plain text. Name the Secret of the certificate.")
  (list "plainIngress" $published (printf "inference.service.type is %s: transactions would cross the network in plain text. Use an Ingress or an HTTPRoute with TLS." $type))
  (list "plainIngress" $callers (printf "%s: any address, or a very wide range, may call the pods in plain text. Name the addresses." (join ", " $callers)))
  (list "policyElsewhere" (eq (toString .Values.promotion.policy.install) "false") "promotion.policy.install is false: the policies hold only if the cluster's administrators have installed them.")
  (list "publicDocs" $routes (printf "%s: everyone would see /docs. Remove the value." (join ", " $routes)))
  (list "publicDocs" $published (printf "inference.service.type is %s: everyone would see /docs, which only an Ingress or an HTTPRoute can hide." $type))
  (list "publicDocs" $callers (printf "%s: any address, or a very wide range, would see /docs. Name the addresses." (join ", " $callers)))
  (list "waivers" (eq .Values.signing.waivers "allowed") "signing.waivers is allowed: one person could promote a version that failed its validation. Set it to forbidden.")
}}
{{- $open := dict }}
{{- range $rows }}
{{- if index . 1 }}{{ $_ := set $open (index . 0) (append (get $open (index . 0) | default list) (index . 2)) }}{{ end }}
{{- end }}
{{- toJson $open }}
{{- end }}

{{/* Checks of the profile for _checks.tpl. One message names everything that strict refuses. */}}
{{- define "fraudops.profile.checks" -}}
{{- $named := .Values.security.exceptions }}
{{- if not (include "fraudops.strict" .) }}
{{- if $named }}
{{- fail "\n\nsecurity.exceptions are those of security.profile: strict, and the profile is default. Set the profile, or remove the exceptions.\n" }}
{{- end }}
{{- else }}
{{- if semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version }}
{{- fail (printf "\n\nsecurity.profile: strict needs Kubernetes 1.30 or newer, and this cluster has %s: upgrade it, or set security.profile=default.\n" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- $refused := list }}
{{- /* A list of words would miss some secrets, such as ?apikey=. */}}
{{- if or (contains "@" .Values.data.url) (contains "?" .Values.data.url) }}
{{- $refused = append $refused "data.url has a user, a password or a query, which every reader of Jobs sees: write the URL into a Secret, and name it in data.existingSecret." }}
{{- end }}
{{- $open := include "fraudops.profile.open" . | fromJson }}
{{- range $name, $reasons := $open }}
{{- if not (has $name $named) }}
{{- range $reasons }}{{ $refused = append $refused (printf "%s (exception: %s)" . $name) }}{{ end }}
{{- end }}
{{- end }}
{{- with $refused }}
{{- fail (printf "\n\nsecurity.profile: strict refuses these values. Change each, or name its exception in security.exceptions.\n  - %s\n" (join "\n  - " .)) }}
{{- end }}
{{- range $named }}
{{- if not (hasKey $open .) }}
{{- fail (printf "\n\nsecurity.exceptions: nothing needs %s. Remove it, or it would hide what comes later.\n" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Warnings for NOTES.txt, as a JSON list. */}}
{{- define "fraudops.profile.notes" -}}
{{- $notes := list }}
{{- $open := include "fraudops.profile.open" . | fromJson }}
{{- if include "fraudops.strict" . }}
{{- range $name, $reasons := $open }}
{{- $notes = append $notes (printf "security.exceptions allows %s: %s" $name (join " " $reasons)) }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- $notes = append $notes "The chart cannot see whether the Gateways of httpRoute.parentRefs end TLS: check it." }}
{{- end }}
{{- else }}
{{- if ne .Values.clientAuth.mode "required" }}
{{- $notes = append $notes (printf "clientAuth.mode is %s: clients need no key, so let only your own reach the pods. docs/authentication.md explains keys and tokens." .Values.clientAuth.mode) }}
{{- end }}
{{- $notes = append $notes (printf "security.profile is default. For production, strict adds the policies for promotions and hides /docs.%s" (ternary (printf " It would refuse %s." (keys $open | sortAlpha | join ", ")) "" (ne (len $open) 0))) }}
{{- end }}
{{- toJson $notes }}
{{- end }}
