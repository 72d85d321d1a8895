{{/* Bytes of a quantity such as 20Gi, 1.5T, 2e9 or 1073741824, rounded down. */}}
{{- define "fraudops.bytes" -}}
{{- $number := regexFind "^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)" (toString .) }}
{{- $unit := trimPrefix $number (toString .) }}
{{- /* E alone is a unit, and E with digits an exponent. YAML gives a large number the second form. */}}
{{- if regexMatch "^[eE][+-]?[0-9]+$" $unit }}{{ $number = toString . }}{{ $unit = "" }}{{ end }}
{{- $factors := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "m" 1e-3 "u" 1e-6 "n" 1e-9
  "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 }}
{{- mulf (float64 $number) (get $factors $unit | float64) | floor | int64 }}
{{- end }}

{{/*
Size of the pod's state. The spool takes at most seven tenths of it, and at least 1 GiB is left for
bundles. If the spool is on its own volume, the size is 1 GiB.
*/}}
{{- define "fraudops.stateSize" -}}
{{- if .Values.inference.state.size }}{{ .Values.inference.state.size }}
{{- else if .Values.inference.spool.persistence.enabled }}1024Mi
{{- else }}
{{- $spool := div (add (int64 .Values.audit.spoolMaxBytes) 1048575) 1048576 }}
{{- printf "%dMi" (max (add $spool 1024) (div (add (mul $spool 10) 6) 7)) }}
{{- end }}
{{- end }}

{{- define "fraudops.spoolMount" -}}
{{- if .Values.inference.spool.persistence.enabled -}}
- {name: spool, mountPath: /var/spool/fraudops}
{{- end }}
{{- end }}

{{/*
The spool's folder. It is not in the ConfigMap, because a pod from before an upgrade that restarts its
container would read the new variable there, but has no such mount. Each release has its own folder:
several releases may share an existing claim.
*/}}
{{- define "fraudops.env.spoolVolume" -}}
{{- if .Values.inference.spool.persistence.enabled -}}
- {name: FRAUDOPS_SPOOL_VOLUME, value: {{ printf "/var/spool/fraudops/%s" (include "fraudops.fullname" .) | quote }}}
{{- end }}
{{- end }}

{{/* The largest number of pods that have a spool at the same time, including the extra pod of a rollout. */}}
{{- define "fraudops.mostPods" -}}
{{- if .Values.inference.autoscaling.enabled }}{{ add1 (.Values.inference.autoscaling.maxReplicas | int64) }}
{{- else }}{{ add1 (.Values.inference.replicas | default 2 | int64) }}
{{- end }}
{{- end }}

{{/*
Checks that the spool reaches its own limit before it fills the disk. Only the limit makes the service
refuse requests in time. A full emptyDir evicts the pod, and the spool is lost with it.
*/}}
{{- define "fraudops.roomChecks" -}}
{{- $spool := int64 .Values.audit.spoolMaxBytes }}
{{- $persistence := .Values.inference.spool.persistence }}
{{- if $persistence.enabled }}
{{- $all := mul $spool (include "fraudops.mostPods" . | int64) }}
{{- if gt (mul $all 10) (mul 7 (include "fraudops.bytes" $persistence.size | int64)) }}
{{- fail (printf "\n\nThe spools of %s pods (audit.spoolMaxBytes each) take more than seven tenths of inference.spool.persistence.size (%s).\nSet it to at least %dMi, or lower audit.spoolMaxBytes.\n" (include "fraudops.mostPods" .) $persistence.size (add 1 (div (div (mul $all 10) 7) 1048576))) }}
{{- end }}
{{- else if gt (mul $spool 10) (mul 7 (include "fraudops.bytes" (include "fraudops.stateSize" .) | int64)) }}
{{- fail (printf "\n\naudit.spoolMaxBytes (%d) is more than seven tenths of inference.state.size (%s).\nSet it to at least %dMi, or lower audit.spoolMaxBytes.\n" $spool .Values.inference.state.size (add 1 (div (div (mul $spool 10) 7) 1048576))) }}
{{- else if eq .Values.inference.state.type "emptyDir" }}
{{- $limit := 0 }}
{{- range list .Values.inference.resources .Values.inference.shipper.resources }}
{{- with get .limits "ephemeral-storage" }}{{ $limit = add $limit (include "fraudops.bytes" . | int64) }}{{ end }}
{{- end }}
{{- if and $limit (ge $spool $limit) }}
{{- fail (printf "\n\naudit.spoolMaxBytes (%d) is not below the pod's limit of ephemeral-storage (%d bytes): the kubelet would evict the pod, and its spool would be lost.\nRaise limits.ephemeral-storage in inference.resources and inference.shipper.resources, or lower audit.spoolMaxBytes.\n" $spool $limit) }}
{{- end }}
{{- end }}
{{- end }}
