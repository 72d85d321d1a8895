{{/*
The values for which Pod Security `restricted` would refuse a pod, by their paths, as JSON. NOTES.txt shows them.
A key that is missing counts too, because a value may be null. One Job has the keys of `jobs` that it does not name.
*/}}
{{- define "fraudops.hardening.lost" -}}
{{- $lost := list }}
{{- range $path, $settings := include "fraudops.extended" . | fromJson }}
{{- $whole := not (hasSuffix ".pod" $path) }}
{{- $contexts := list (dict "path" (print $path ".containerSecurityContext") "context" $settings.containerSecurityContext "whole" $whole) }}
{{- if ne $path "inference.shipper" }}
{{- $contexts = append $contexts (dict "path" (print $path ".podSecurityContext") "context" $settings.podSecurityContext "whole" $whole "pod" true) }}
{{- end }}
{{- range $value := list "extraContainers" "extraInitContainers" }}
{{- range get $settings $value | default list }}
{{- $container := printf "%s.%s.%s" $path $value .name }}
{{- $contexts = append $contexts (dict "path" $container "context" .securityContext "whole" true) }}
{{- range .ports }}{{ if .hostPort }}{{ $lost = append $lost (print $container ".hostPort") }}{{ end }}{{ end }}
{{- end }}
{{- end }}
{{- range $contexts }}
{{- range include "fraudops.hardening.missing" . | fromJsonArray }}{{ $lost = append $lost . }}{{ end }}
{{- end }}
{{- range $settings.extraVolumes }}
{{- $kind := omit . "name" | keys | first }}
{{- if not (has $kind (list "configMap" "csi" "downwardAPI" "emptyDir" "ephemeral" "image" "persistentVolumeClaim" "projected" "secret")) }}
{{- $lost = append $lost (printf "%s.extraVolumes.%s (%s)" $path .name $kind) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $lost }}
{{- end }}

{{/*
The keys of one security context that weaken it, as JSON. Argument: (dict "path" … "context" … "whole" true if it
has no defaults), with "pod" true for that of a pod.
*/}}
{{- define "fraudops.hardening.missing" -}}
{{- $context := .context | default dict }}
{{- $capabilities := $context.capabilities | default dict }}
{{- $keys := list }}
{{- if eq (get $context "runAsUser" | toString) "0" }}{{ $keys = append $keys "runAsUser" }}{{ end }}
{{- if eq (get $context "runAsNonRoot" | toString) "false" }}{{ $keys = append $keys "runAsNonRoot" }}{{ end }}
{{- if eq (dig "seccompProfile" "type" "" $context) "Unconfined" }}{{ $keys = append $keys "seccompProfile" }}{{ end }}
{{- with $context.seLinuxOptions }}
{{- if or .user .role (not (has (.type | default "") (list "" "container_t" "container_init_t" "container_kvm_t"))) }}{{ $keys = append $keys "seLinuxOptions" }}{{ end }}
{{- end }}
{{- if .pod }}
{{- $safe := include "fraudops.hardening.sysctls" . | fromYamlArray }}
{{- $unsafe := false }}
{{- range $context.sysctls }}{{ if not (has .name $safe) }}{{ $unsafe = true }}{{ end }}{{ end }}
{{- if $unsafe }}{{ $keys = append $keys "sysctls" }}{{ end }}
{{- if .whole }}
{{- range list "runAsNonRoot" "seccompProfile" }}{{ if not (hasKey $context .) }}{{ $keys = append $keys . }}{{ end }}{{ end }}
{{- end }}
{{- else }}
{{- if ne ($context.procMount | default "Default") "Default" }}{{ $keys = append $keys "procMount" }}{{ end }}
{{- if $context.privileged }}{{ $keys = append $keys "privileged" }}{{ end }}
{{- if or $context.allowPrivilegeEscalation (and .whole (not (hasKey $context "allowPrivilegeEscalation"))) }}{{ $keys = append $keys "allowPrivilegeEscalation" }}{{ end }}
{{- if without ($capabilities.add | default list) "NET_BIND_SERVICE" }}{{ $keys = append $keys "capabilities.add" }}{{ end }}
{{- if and (or .whole (hasKey $capabilities "drop")) (not (has "ALL" ($capabilities.drop | default list))) }}{{ $keys = append $keys "capabilities.drop" }}{{ end }}
{{- end }}
{{- $paths := list }}
{{- range $keys }}{{ $paths = append $paths (printf "%s.%s" $.path .) }}{{ end }}
{{- toJson $paths }}
{{- end }}

{{/* The kernel parameters that Pod Security accepts on every Kubernetes that the chart supports. */}}
{{- define "fraudops.hardening.sysctls" -}}
- kernel.shm_rmid_forced
- net.ipv4.ip_local_port_range
- net.ipv4.ip_local_reserved_ports
- net.ipv4.ip_unprivileged_port_start
- net.ipv4.ping_group_range
- net.ipv4.tcp_fin_timeout
- net.ipv4.tcp_keepalive_intvl
- net.ipv4.tcp_keepalive_probes
- net.ipv4.tcp_keepalive_time
- net.ipv4.tcp_syncookies
{{- end }}
