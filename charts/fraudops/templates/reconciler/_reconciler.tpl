{{- define "fraudops.reconcile" -}}{{ include "fraudops.fullname" . }}-reconcile{{- end }}

{{/*
The probe's command, as JSON. The program touches the file before and after each pass, also while a store is
down. A pass ends within 600 s.
*/}}
{{- define "fraudops.reconciler.alive" -}}
{{- $seconds := add 660 (int64 .Values.jobs.reconcile.everySeconds) }}
{{- toJson (list "sh" "-c" (printf "test -n \"$(find /tmp/fraudops/run/reconcile-alive -newermt '-%d seconds')\"" $seconds)) }}
{{- end }}

{{/* The values that add to the reconciler's pod, by their path, as JSON. */}}
{{- define "fraudops.reconcilerPods" -}}
{{- toJson (dict "jobs" .Values.jobs "jobs.reconcile.pod" .Values.jobs.reconcile.pod) }}
{{- end }}
