{{/*
The resources of a container, with a request for the node's disk. A node whose disk fills up evicts first
the pods that use more than they requested, and the audit spool of an evicted pod is lost. There is no
limit, because the kubelet evicts a pod that exceeds one. Argument: that of fraudops.containerBody, with
"disk" the MiB of the container's folders on that disk. Its log takes up to 50 MiB more.
*/}}
{{- define "fraudops.resources" -}}
{{- $resources := .resources }}
{{- $own := or (hasKey (.resources.requests | default dict) "ephemeral-storage") (hasKey (.resources.limits | default dict) "ephemeral-storage") }}
{{- if and (hasKey . "disk") (not $own) .root.Values.ephemeralStorage.requests }}
{{- $requests := merge (dict "ephemeral-storage" (printf "%dMi" (add (int64 .disk) 64))) (.resources.requests | default dict) }}
{{- $resources = merge (dict "requests" $requests) .resources }}
{{- end }}
{{- toYaml (dict "resources" $resources) }}
{{- end }}

{{/* MiB of a quantity, rounded up. */}}
{{- define "fraudops.mebibytes" -}}
{{- div (add (include "fraudops.bytes" . | int64) 1048575) 1048576 }}
{{- end }}

{{/* MiB that an inference pod writes to its node's disk: bundles and spool, unless a volume has them, and /tmp. */}}
{{- define "fraudops.inferenceDisk" -}}
{{- if eq .Values.inference.state.type "emptyDir" }}
{{- add 256 (include "fraudops.mebibytes" (include "fraudops.stateSize" .) | int64) }}
{{- else }}256
{{- end }}
{{- end }}

{{/*
MiB that a Job's container writes to its node's disk: usual content of /tmp, and the data that the pod fetches.
Argument: the dict of fraudops.job, or that of a step.
*/}}
{{- define "fraudops.jobDisk" -}}
{{- if and .data (eq .root.Values.data.source "url") }}
{{- add 256 (include "fraudops.mebibytes" .root.Values.data.volume.size | int64) }}
{{- else }}256
{{- end }}
{{- end }}
