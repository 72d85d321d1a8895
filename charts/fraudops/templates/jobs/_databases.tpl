{{/* The init container that makes roles and databases where it may, prints the SQL where not, and runs MLflow's own upgrade; (dict "root" $ "wait" args). */}}
{{- define "fraudops.prepareDatabases" -}}
{{- $jobs := .root.Values.jobs }}
{{- $database := .root.Values.postgresql }}
- name: databases
  image: {{ include "fraudops.image" (dict "root" .root "image" $jobs.image) }}
  imagePullPolicy: {{ $jobs.image.pullPolicy }}
  command: [python, -m, jobs.prepare_databases]
  args: {{ toJson .wait }}
  {{- include "fraudops.container" .root | nindent 2 }}
  env:
    {{- include "fraudops.env.database" .root | nindent 4 }}
    {{- if .root.Values.mlflow.enabled }}
    {{- include "fraudops.env.mlflowDatabase" .root | nindent 4 }}
    {{- end }}
    - {name: DATABASE_ADMIN_URL, valueFrom: {secretKeyRef: {name: {{ include "fraudops.databaseSecret" .root }}, key: {{ $database.secretKeys.adminUrl }}, optional: true}}}
  resources: {{ toYaml $jobs.migrate.resources | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
{{- end }}
