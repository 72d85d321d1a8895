{{/*
The paths of the public API, as JSON lists for the Ingress and the HTTPRoute. Argument: (dict "docs" true).
A path that is not listed here is not reachable from outside.
*/}}
{{- define "fraudops.exactPaths" -}}
{{- $paths := list "/predict" "/predict/batch" "/feedback" "/health" "/ready" "/model_info" "/v2" }}
{{- if .docs }}{{ $paths = concat $paths (list "/docs" "/redoc" "/openapi.json") }}{{ end }}
{{- toJson $paths }}
{{- end }}
{{- define "fraudops.prefixPaths" -}}["/v2/"]{{- end }}
