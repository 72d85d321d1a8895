{{/* Whole bytes of a quantity such as 20Gi, 1.5T or 1073741824. */}}
{{- define "fraudops.bytes" -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" (toString .) }}
{{- $unit := trimPrefix $number (toString .) }}
{{- $factors := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "m" 0.001 }}
{{- mulf (float64 $number) (get $factors $unit | float64) | floor | int64 }}
{{- end }}

{{/* Size of the pod's state: the spool is at most seven tenths of it, and 1 GiB is beside it for bundles; that alone where the spool lies elsewhere. */}}
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

{{/* With the mount and never without it, which the ConfigMap would give to pods of before. A folder of the release's own: on a claim of yours another release may have one too. */}}
{{- define "fraudops.env.spoolVolume" -}}
{{- if .Values.inference.spool.persistence.enabled -}}
- {name: FRAUDOPS_SPOOL_VOLUME, value: /var/spool/fraudops/{{ include "fraudops.fullname" . }}}
{{- end }}
{{- end }}

{{/* The pods that may have a spool at once, the one more of a rollout included. */}}
{{- define "fraudops.mostPods" -}}
{{- if .Values.inference.autoscaling.enabled }}{{ add1 (.Values.inference.autoscaling.maxReplicas | int64) }}
{{- else }}{{ add1 (.Values.inference.replicas | default 2 | int64) }}
{{- end }}
{{- end }}

{{/* A spool that fills its disk before its own bound does not refuse in time: a full emptyDir evicts the pod, spool included. */}}
{{- define "fraudops.roomChecks" -}}
{{- $spool := int64 .Values.audit.spoolMaxBytes }}
{{- $persistence := .Values.inference.spool.persistence }}
{{- if $persistence.enabled }}
{{- $all := mul $spool (include "fraudops.mostPods" . | int64) }}
{{- if gt (mul $all 10) (mul 7 (include "fraudops.bytes" $persistence.size | int64)) }}
{{- fail (printf "\n\nThe spools of %s pods, audit.spoolMaxBytes each, are more than seven tenths of inference.spool.persistence.size (%s).\nSet it to at least %dMi, or lower audit.spoolMaxBytes.\n" (include "fraudops.mostPods" .) $persistence.size (add 1 (div (div (mul $all 10) 7) 1048576))) }}
{{- end }}
{{- else if gt (mul $spool 10) (mul 7 (include "fraudops.bytes" (include "fraudops.stateSize" .) | int64)) }}
{{- fail (printf "\n\naudit.spoolMaxBytes (%d) is more than seven tenths of inference.state.size (%s).\nSet it to at least %dMi, or lower audit.spoolMaxBytes.\n" $spool .Values.inference.state.size (add 1 (div (div (mul $spool 10) 7) 1048576))) }}
{{- else if eq .Values.inference.state.type "emptyDir" }}
{{- $limit := 0 }}
{{- range list .Values.inference.resources .Values.inference.shipper.resources }}
{{- with get .limits "ephemeral-storage" }}{{ $limit = add $limit (include "fraudops.bytes" . | int64) }}{{ end }}
{{- end }}
{{- if and $limit (ge $spool $limit) }}
{{- fail (printf "\n\naudit.spoolMaxBytes (%d) is not below the pod's limit of ephemeral-storage (%d bytes): the kubelet would evict the pod, spool included.\nRaise limits.ephemeral-storage in inference.resources and inference.shipper.resources, or lower audit.spoolMaxBytes.\n" $spool $limit) }}
{{- end }}
{{- end }}
{{- end }}
