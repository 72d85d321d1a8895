{{/* Authentication of clients: what the service reads of it, and the checks of its values. */}}
{{- define "fraudops.env.clientAuth" -}}
{{- with .Values.clientAuth }}
- {name: FRAUDOPS_CLIENT_AUTH__MODE, value: {{ .mode | quote }}}
- {name: FRAUDOPS_CLIENT_AUTH__JWT_SCOPE_CLAIM, value: {{ .jwtScopeClaim | quote }}}
- {name: FRAUDOPS_CLIENT_AUTH__JWT_CLIENT_CLAIM, value: {{ .jwtClientClaim | quote }}}
{{- if .existingSecret }}
- {name: FRAUDOPS_CLIENT_AUTH__KEYS_FILE, value: /keys/clients/keys.json}
{{- end }}
{{- if not (kindIs "invalid" .ratePerSecond) }}
- {name: FRAUDOPS_CLIENT_AUTH__RATE_PER_SECOND, value: {{ .ratePerSecond | quote }}}
{{- end }}
{{- if .jwtIssuer }}
- {name: FRAUDOPS_CLIENT_AUTH__JWT_ISSUER, value: {{ .jwtIssuer | quote }}}
{{- end }}
{{- if .jwtAudience }}
- {name: FRAUDOPS_CLIENT_AUTH__JWT_AUDIENCE, value: {{ .jwtAudience | quote }}}
{{- end }}
{{- if .jwksUrl }}
- {name: FRAUDOPS_CLIENT_AUTH__JWKS_URL, value: {{ .jwksUrl | quote }}}
{{- end }}
{{- if .jwksExistingSecret }}
- {name: FRAUDOPS_CLIENT_AUTH__JWKS_FILE, value: /keys/jwks/jwks.json}
{{- end }}
{{- end }}
{{- end }}

{{/* Folders, and no subPath: kubelet then brings a new key into a running pod. */}}
{{- define "fraudops.clientAuth.mounts" -}}
{{- if .Values.clientAuth.existingSecret }}
- {name: client-keys, mountPath: /keys/clients, readOnly: true}
{{- end }}
{{- if .Values.clientAuth.jwksExistingSecret }}
- {name: client-jwks, mountPath: /keys/jwks, readOnly: true}
{{- end }}
{{- end }}

{{/* The mode 256 is 0400 in octal digits. */}}
{{- define "fraudops.clientAuth.volumes" -}}
{{- with .Values.clientAuth }}
{{- if .existingSecret }}
- {name: client-keys, secret: {secretName: {{ .existingSecret | quote }}, defaultMode: 256, items: [{key: {{ .secretKey | quote }}, path: keys.json}]}}
{{- end }}
{{- if .jwksExistingSecret }}
- {name: client-jwks, secret: {secretName: {{ .jwksExistingSecret | quote }}, defaultMode: 256, items: [{key: {{ .jwksSecretKey | quote }}, path: jwks.json}]}}
{{- end }}
{{- end }}
{{- end }}

{{- define "fraudops.clientAuth.checks" -}}
{{- $auth := .Values.clientAuth }}
{{- $jwks := or $auth.jwksUrl $auth.jwksExistingSecret }}
{{- if and (ne $auth.mode "disabled") (not (or $auth.existingSecret $jwks)) }}
{{- fail (printf "\n\nclientAuth.mode is %s: name in clientAuth.existingSecret the Secret with the keys' hashes, or set clientAuth.jwksUrl or clientAuth.jwksExistingSecret. docs/authentication.md shows how to make them.\n" $auth.mode) }}
{{- end }}
{{- if and $auth.jwksUrl $auth.jwksExistingSecret }}
{{- fail "\n\nclientAuth: set either jwksUrl or jwksExistingSecret.\n" }}
{{- end }}
{{- if and $jwks (not (and $auth.jwtIssuer $auth.jwtAudience)) }}
{{- fail "\n\nclientAuth: tokens need jwtIssuer and jwtAudience, otherwise the service would accept the tokens of other audiences.\n" }}
{{- end }}
{{- /* Not in the schema, whose message would quote the password. */}}
{{- if or (contains "@" $auth.jwksUrl) (and $auth.jwksUrl (not (hasPrefix "https://" $auth.jwksUrl))) }}
{{- fail "\n\nclientAuth.jwksUrl must begin with https:// and have no user and no password: whoever can change the answer can make tokens.\n" }}
{{- end }}
{{- end }}
