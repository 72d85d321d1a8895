{{/*
The keys that sign and verify verdicts and waivers. A container gets a key only if its dict asks for it, and
tests/chart/test_keys.py holds the whole table.
*/}}
{{- define "fraudops.verdictKeySecret" -}}{{ .Values.signing.verdictKey.existingSecret | default (printf "%s-verdict-key" (include "fraudops.fullname" .)) }}{{- end }}
{{- define "fraudops.waiverKeySecret" -}}{{ .Values.signing.waiverKey.existingSecret | default (printf "%s-waiver-key" (include "fraudops.fullname" .)) }}{{- end }}
{{- define "fraudops.publicKeysSecret" -}}{{ .Values.signing.publicKeys.existingSecret | default (printf "%s-public-keys" (include "fraudops.fullname" .)) }}{{- end }}

{{/* Argument: (dict "root" $ "container" the dict of the container). The mode 256 is 0400 in octal digits. */}}
{{- define "fraudops.keyVolumes" -}}
{{- $signing := .root.Values.signing }}
{{- if .container.verdictKey }}
- {name: verdict-key, secret: {secretName: {{ include "fraudops.verdictKeySecret" .root | quote }}, defaultMode: 256, items: [{key: {{ $signing.verdictKey.secretKey | quote }}, path: key.pem}]}}
{{- end }}
{{- if .container.waiverKey }}
- {name: waiver-key, secret: {secretName: {{ include "fraudops.waiverKeySecret" .root | quote }}, defaultMode: 256, items: [{key: {{ $signing.waiverKey.secretKey | quote }}, path: key.pem}]}}
{{- end }}
{{- if .container.publicKeys }}
- {name: public-keys, secret: {secretName: {{ include "fraudops.publicKeysSecret" .root | quote }}}}
{{- end }}
{{- end }}

{{/* Folders, and no subPath: kubelet then brings a new key into a running pod. Argument: the dict of the container. */}}
{{- define "fraudops.keyMounts" -}}
{{- if .verdictKey }}
- {name: verdict-key, mountPath: /keys/verdict, readOnly: true}
{{- end }}
{{- if .waiverKey }}
- {name: waiver-key, mountPath: /keys/waiver, readOnly: true}
{{- end }}
{{- if .publicKeys }}
- {name: public-keys, mountPath: /keys/public, readOnly: true}
{{- end }}
{{- end }}

{{- define "fraudops.env.keys" -}}
{{- if .verdictKey }}
- {name: FRAUDOPS_SIGNING__VERDICT_KEY, value: /keys/verdict/key.pem}
{{- end }}
{{- if .waiverKey }}
- {name: FRAUDOPS_SIGNING__WAIVER_KEY, value: /keys/waiver/key.pem}
{{- end }}
{{- if .publicKeys }}
- {name: FRAUDOPS_SIGNING__PUBLIC_KEYS, value: /keys/public}
{{- end }}
{{- if .waiver }}
- {name: FRAUDOPS_WAIVER, value: /hand-over/waiver.json}
{{- end }}
{{- end }}

{{/* The name of the step file in /hand-over, as arguments of a step. */}}
{{- define "fraudops.step" -}}["--step", "{{ . }}", "--hand-over", "/hand-over/steps.json"]{{- end }}

{{/*
The steps before the promotion of a pipeline. Argument: (dict "root" $ "module" "jobs.pipeline" "args" …).
Training runs code of many libraries on foreign data, so it has no key and no account. Validation has
only the key that signs verdicts.
*/}}
{{- define "fraudops.pipelineSteps" -}}
{{- $step := dict "module" .module "data" true "request" true }}
{{- $train := merge (dict "name" "train" "args" (concat (include "fraudops.step" "train" | fromJsonArray) .args)) $step }}
{{- $validate := merge (dict "name" "validate" "args" (concat (include "fraudops.step" "validate" | fromJsonArray) .args) "verdictKey" true "production" true) $step }}
{{- toJson (list $train $validate) }}
{{- end }}
