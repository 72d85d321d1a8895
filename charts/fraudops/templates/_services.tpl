{{/* Whether the programs listen on IPv6 too: the values ask for it. */}}
{{- define "fraudops.ipv6" -}}
{{- $families := concat .Values.dualStack.ipFamilies .Values.inference.service.ipFamilies }}
{{- $policies := list .Values.dualStack.ipFamilyPolicy .Values.inference.service.ipFamilyPolicy }}
{{- or (has "IPv6" $families) (has "PreferDualStack" $policies) (has "RequireDualStack" $policies) }}
{{- end }}

{{/* The IP families of a Service. Argument: (dict "root" $ "settings" .Values.inference.service), or an empty dict. */}}
{{- define "fraudops.ipFamilies" -}}
{{- $dual := .root.Values.dualStack }}
{{- $fields := dict }}
{{- with .settings.ipFamilyPolicy | default $dual.ipFamilyPolicy }}{{ $_ := set $fields "ipFamilyPolicy" . }}{{ end }}
{{- with .settings.ipFamilies | default $dual.ipFamilies }}{{ $_ := set $fields "ipFamilies" . }}{{ end }}
{{- with $fields }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* A number, or a percentage. A string of digits is a number for helm's --set, and Kubernetes refuses it. */}}
{{- define "fraudops.intOrPercent" -}}
{{- $text := toString . }}
{{- if hasSuffix "%" $text }}{{ $text | quote }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}

{{/* Checks of the public Service for _checks.tpl. */}}
{{- define "fraudops.serviceChecks" -}}
{{- $service := .Values.inference.service }}
{{- $policy := .Values.networkPolicy }}
{{- if and (ne $service.type "LoadBalancer") (or $service.loadBalancerClass $service.loadBalancerSourceRanges) }}
{{- fail (printf "\n\ninference.service.loadBalancerClass and loadBalancerSourceRanges need inference.service.type: LoadBalancer, and it is %s.\n" $service.type) }}
{{- end }}
{{- if and (eq $service.type "ClusterIP") (or $service.externalTrafficPolicy $service.nodePort) }}
{{- fail "\n\ninference.service.externalTrafficPolicy and nodePort need inference.service.type: NodePort or LoadBalancer.\n" }}
{{- end }}
{{- if and (eq $service.type "LoadBalancer") $policy.enabled (not (include "fraudops.loadBalancerCidrs" . | fromJsonArray)) (not $policy.clients) }}
{{- fail "\n\ninference.service.type is LoadBalancer, and the network policies deny its traffic. Admit the addresses from which it reaches the pods:\n  networkPolicy:\n    loadBalancer:\n      cidrs: [203.0.113.0/24]\nThese are the clients' addresses with inference.service.externalTrafficPolicy: Local, else those of your nodes or of the load balancer. Without cidrs, inference.service.loadBalancerSourceRanges are admitted.\n" }}
{{- end }}
{{- end }}

{{/* The addresses that reach the public port through a load balancer or a node's port, as JSON. */}}
{{- define "fraudops.loadBalancerCidrs" -}}
{{- $service := .Values.inference.service }}
{{- if eq $service.type "ClusterIP" }}[]
{{- else }}{{ .Values.networkPolicy.loadBalancer.cidrs | default $service.loadBalancerSourceRanges | toJson }}
{{- end }}
{{- end }}
