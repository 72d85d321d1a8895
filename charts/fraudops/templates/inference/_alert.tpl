{{/*
One alert. Argument: (dict "root" $ "name" … "severity" … "for" "5m" "expr" … "summary" …). Its runbook is
the section of RUNBOOKS.md with its name.
*/}}
{{- define "fraudops.alert" -}}
- alert: {{ .name | quote }}
  expr: {{ .expr | squote }}
  for: {{ .for | quote }}
  labels: {severity: {{ .severity | quote }}}
  annotations:
    summary: {{ .summary | quote }}
    runbook_url: {{ printf "%s#%s" .root.Values.prometheusRule.runbookUrl (lower .name) | quote }}
{{- end }}
