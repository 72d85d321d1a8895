{{/*
What a container reads of the database Secret: URLs, as variables or as files, and the files of TLS.
Argument of the first three: (dict "root" $ "keys" (list "url")), where the keys are those of
postgresql.secretKeys, with
  optional   those of the keys that the Secret may lack
*/}}
{{- define "fraudops.database.env" -}}
{{- $postgresql := .root.Values.postgresql }}
{{- $secret := include "fraudops.databaseSecret" .root }}
{{- $variables := dict "url" "DATABASE_URL" "mlflowUrl" "MLFLOW_BACKEND_STORE_URI" "adminUrl" "DATABASE_ADMIN_URL" }}
{{- $optional := .optional }}
{{- $explicit := hasKey . "optional" }}
{{- range $key := .keys }}
{{- if eq $postgresql.secretAs "file" }}
- {name: {{ get $variables $key }}, value: {{ printf "file:/secrets/database/%s" (kebabcase $key) | quote }}}
{{- else }}
- {name: {{ get $variables $key }}, valueFrom: {secretKeyRef: {name: {{ $secret | quote }}, key: {{ get $postgresql.secretKeys $key | quote }}{{ if $explicit }}, optional: {{ has $key $optional }}{{ end }}}}}
{{- end }}
{{- end }}
{{- with $postgresql.tls.mode }}
- {name: PGSSLMODE, value: {{ . | quote }}}
{{- end }}
{{- if $postgresql.tls.existingSecret }}
{{- range $variable, $file := include "fraudops.database.tlsFiles" .root | fromJson }}
- {name: {{ $variable }}, value: {{ printf "/secrets/postgresql-tls/%s" $file.path | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Folders, and no subPath: the kubelet then brings a new password into a running pod. */}}
{{- define "fraudops.database.mounts" -}}
{{- if and .keys (eq .root.Values.postgresql.secretAs "file") }}
- {name: database, mountPath: /secrets/database, readOnly: true}
{{- end }}
{{- if and .keys .root.Values.postgresql.tls.existingSecret }}
- {name: postgresql-tls, mountPath: /secrets/postgresql-tls, readOnly: true}
{{- end }}
{{- end }}

{{/*
The volumes of a pod; `keys` are those of all its containers. The mode 288 is 0440 in octal digits: libpq
refuses a private key that others may read. The fsGroup of the pod is the group.
*/}}
{{- define "fraudops.database.volumes" -}}
{{- $postgresql := .root.Values.postgresql }}
{{- $optional := .optional | default list }}
{{- if and .keys (eq $postgresql.secretAs "file") }}
{{- $sources := list }}
{{- /* `optional` belongs to a source and not to a key, so the keys that may be missing have their own. */}}
{{- range $may := list false true }}
{{- $items := list }}
{{- range $.keys }}
{{- if eq $may (has . $optional) }}{{ $items = append $items (dict "key" (get $postgresql.secretKeys .) "path" (kebabcase .)) }}{{ end }}
{{- end }}
{{- if $items }}
{{- $source := dict "name" (include "fraudops.databaseSecret" $.root) "items" $items }}
{{- if $may }}{{ $_ := set $source "optional" true }}{{ end }}
{{- $sources = append $sources (dict "secret" $source) }}
{{- end }}
{{- end }}
- {name: database, projected: {defaultMode: 288, sources: {{ toJson $sources }}}}
{{- end }}
{{- if and .keys $postgresql.tls.existingSecret }}
{{- $items := list }}
{{- range include "fraudops.database.tlsFiles" .root | fromJson }}{{ $items = append $items . }}{{ end }}
- {name: postgresql-tls, secret: {secretName: {{ $postgresql.tls.existingSecret | quote }}, defaultMode: 288, items: {{ toJson $items }}}}
{{- end }}
{{- end }}

{{/* Variable of libpq and asyncpg: the key in the Secret, and the file. */}}
{{- define "fraudops.database.tlsFiles" -}}
{{- $tls := .Values.postgresql.tls }}
{{- $files := dict }}
{{- with $tls.caKey }}{{ $_ := set $files "PGSSLROOTCERT" (dict "key" . "path" "ca.crt") }}{{ end }}
{{- with $tls.certKey }}{{ $_ := set $files "PGSSLCERT" (dict "key" . "path" "tls.crt") }}{{ end }}
{{- with $tls.keyKey }}{{ $_ := set $files "PGSSLKEY" (dict "key" . "path" "tls.key") }}{{ end }}
{{- toJson $files }}
{{- end }}

{{/* Checks for _checks.tpl. */}}
{{- define "fraudops.database.checks" -}}
{{- $image := .Values.postgresql.image }}
{{- if and .Values.postgresql.enabled (not (or $image.tag $image.digest)) }}
{{- fail "\n\npostgresql.image needs a tag or a digest: PostgreSQL has no image of the chart's version. Set postgresql.image.tag, such as \"17\".\n" }}
{{- end }}
{{- $tls := .Values.postgresql.tls }}
{{- if and .Values.postgresql.enabled (or $tls.mode $tls.existingSecret) }}
{{- fail "\n\npostgresql.tls is for your own PostgreSQL, and that of this chart has no TLS: leave postgresql.tls.mode and postgresql.tls.existingSecret empty, or set postgresql.enabled to false.\n" }}
{{- end }}
{{- if ne (empty $tls.certKey) (empty $tls.keyKey) }}
{{- fail "\n\npostgresql.tls: a certificate of the client needs its private key. Set certKey and keyKey, or none of them.\n" }}
{{- end }}
{{- if and $tls.certKey (not $tls.existingSecret) }}
{{- fail "\n\npostgresql.tls.certKey and keyKey are keys of a Secret: name it in postgresql.tls.existingSecret.\n" }}
{{- end }}
{{- if and $tls.existingSecret (not (or $tls.caKey $tls.certKey)) }}
{{- fail "\n\npostgresql.tls.existingSecret has no key to mount: set caKey, or certKey and keyKey.\n" }}
{{- end }}
{{- end }}
