{{/* Names, labels and the parts that every pod of the platform shares. */}}

{{- define "ml-platform.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* A name of 63 characters at most: what is longer is refused, for cut names collide. */}}
{{- define "ml-platform.name" -}}
{{- $name := printf "%s-%s" .root.Release.Name .part -}}
{{- if gt (len $name) 63 -}}
{{- fail (printf "the name %s is longer than 63 characters: choose a shorter name of the release or code location" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "ml-platform.selector" -}}
app.kubernetes.io/name: ml-platform
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .of }}
ml-platform/of: {{ . }}
{{- end }}
{{- end -}}

{{/* What all pods of the release carry, those of runs too, which bring a component of their own. */}}
{{- define "ml-platform.release-labels" -}}
app.kubernetes.io/name: ml-platform
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: ml-platform
{{- end -}}

{{- define "ml-platform.labels" -}}
{{ include "ml-platform.selector" . }}
app.kubernetes.io/part-of: ml-platform
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "ml-platform.pod-security" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "ml-platform.container-security" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Which secrets a component needs; it gets no others. The web server reads the output of steps where that is in object storage. */}}
{{- define "ml-platform.needs" -}}
{{- $needs := dict
  "web" (ternary (list "postgres" "objects") (list "postgres") (not (empty .root.Values.objectStore.computeLogsUri)))
  "daemon" (list "postgres")
  "code-location" (list "postgres" "redis" "objects" "alerts")
  "mlflow" (list "postgres" "objects")
  "reports" (list "objects")
  "run" (list "postgres" "redis" "objects")
  "backup" (list "postgres" "objects")
  "restore" (list "postgres" "redis" "objects")
  "task" (list "postgres" "redis" "objects" "alerts")
-}}
{{- get $needs .component | join " " -}}
{{- end -}}

{{/* By what a component that needs object storage is known there: its own Secret or annotations, if it has any, or everybody's. */}}
{{- define "ml-platform.object-identity" -}}
{{- if has "objects" (splitList " " (include "ml-platform.needs" .)) -}}
{{- $values := .root.Values -}}
{{- $own := get (dict "reports" $values.reports "backup" $values.backup "restore" $values.backup) .component -}}
{{- if not (and $own (or $own.credentialsSecret $own.serviceAccountAnnotations)) -}}
{{- $own = $values.objectStore -}}
{{- end -}}
{{- dict "secret" $own.credentialsSecret "annotations" $own.serviceAccountAnnotations | toJson -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{- define "ml-platform.env-from" -}}
- configMapRef: {name: {{ .root.Release.Name }}-settings}
{{- with (include "ml-platform.object-identity" . | fromJson).secret }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* Secrets and authorities are mounted as folders: a file mounted by subPath would not follow its rotation. */}}
{{- define "ml-platform.volume-mounts" -}}
{{- $needs := splitList " " (include "ml-platform.needs" .) -}}
{{- $values := .root.Values -}}
- {name: home, mountPath: /var/lib/ml-platform}
- {name: dagster-home, mountPath: /var/lib/ml-platform/dagster}
- {name: tmp, mountPath: /tmp}
- {name: instance, mountPath: /etc/ml-platform/instance, readOnly: true}
- {name: instance, mountPath: /var/lib/ml-platform/dagster/dagster.yaml, subPath: dagster.yaml, readOnly: true}
{{- if has "postgres" $needs }}
- {name: postgres, mountPath: /var/run/secrets/ml-platform/postgres, readOnly: true}
{{- if $values.postgres.caConfigMap.name }}
- {name: postgres-ca, mountPath: /etc/ml-platform/postgres-ca, readOnly: true}
{{- end }}
{{- end }}
{{- if has "redis" $needs }}
{{- if $values.redis.passwordSecret.name }}
- {name: redis, mountPath: /var/run/secrets/ml-platform/redis, readOnly: true}
{{- end }}
{{- if $values.redis.caConfigMap.name }}
- {name: redis-ca, mountPath: /etc/ml-platform/redis-ca, readOnly: true}
{{- end }}
{{- end }}
{{- if and (has "objects" $needs) $values.objectStore.caConfigMap.name }}
- {name: objects-ca, mountPath: /etc/ml-platform/objects-ca, readOnly: true}
{{- end }}
{{- if has "alerts" $needs }}
{{- if $values.alerts.webhookSecret.name }}
- {name: alert-webhook, mountPath: /var/run/secrets/ml-platform/alert-webhook, readOnly: true}
{{- end }}
{{- if $values.alerts.smtpSecret.name }}
- {name: alert-smtp, mountPath: /var/run/secrets/ml-platform/alert-smtp, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "ml-platform.volumes" -}}
{{- $needs := splitList " " (include "ml-platform.needs" .) -}}
{{- $values := .root.Values -}}
{{- $release := .root.Release.Name -}}
- {name: home, emptyDir: {sizeLimit: {{ .homeSizeLimit | default "2Gi" }}}}
- {name: dagster-home, emptyDir: {sizeLimit: 1Gi}}
- {name: tmp, emptyDir: {sizeLimit: {{ .homeSizeLimit | default "2Gi" }}}}
- {name: instance, configMap: {name: {{ $release }}-dagster-instance}}
{{- if has "postgres" $needs }}
- name: postgres
  secret:
    secretName: {{ $values.postgres.serviceSecret.name }}
    # 0440: libpq refuses a password file that a group can read (PGPASSFILE), not a service file.
    defaultMode: 288
    items: [{key: {{ $values.postgres.serviceSecret.key }}, path: pg_service.conf}]
{{- with $values.postgres.caConfigMap }}
{{- if .name }}
- {name: postgres-ca, configMap: {name: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}]}}
{{- end }}
{{- end }}
{{- end }}
{{- if has "redis" $needs }}
{{- with $values.redis.passwordSecret }}
{{- if .name }}
- {name: redis, secret: {secretName: {{ .name }}, defaultMode: 288, items: [{key: {{ .key }}, path: password}]}}
{{- end }}
{{- end }}
{{- with $values.redis.caConfigMap }}
{{- if .name }}
- {name: redis-ca, configMap: {name: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}]}}
{{- end }}
{{- end }}
{{- end }}
{{- if has "objects" $needs }}
{{- with $values.objectStore.caConfigMap }}
{{- if .name }}
- {name: objects-ca, configMap: {name: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}]}}
{{- end }}
{{- end }}
{{- end }}
{{- if has "alerts" $needs }}
{{- with $values.alerts.webhookSecret }}
{{- if .name }}
- {name: alert-webhook, secret: {secretName: {{ .name }}, defaultMode: 288, items: [{key: {{ .key }}, path: url}]}}
{{- end }}
{{- end }}
{{- with $values.alerts.smtpSecret }}
{{- if .name }}
- {name: alert-smtp, secret: {secretName: {{ .name }}, defaultMode: 288, items: [{key: {{ .key }}, path: url}]}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The addresses of secrets' files are set where the files are mounted: elsewhere reading them would fail. */}}
{{- define "ml-platform.secret-files" -}}
{{- $needs := splitList " " (include "ml-platform.needs" .) -}}
{{- $values := .root.Values -}}
{{- if has "postgres" $needs }}
PGSERVICE: {{ $values.postgres.service }}
PGSERVICEFILE: /var/run/secrets/ml-platform/postgres/pg_service.conf
PGSSLMODE: {{ $values.postgres.sslmode }}
{{- if $values.postgres.caConfigMap.name }}
PGSSLROOTCERT: /etc/ml-platform/postgres-ca/ca.crt
{{- end }}
{{- end }}
{{- if has "redis" $needs }}
{{- if $values.redis.passwordSecret.name }}
ML_PLATFORM_REDIS_PASSWORD_FILE: /var/run/secrets/ml-platform/redis/password
{{- end }}
{{- if $values.redis.caConfigMap.name }}
ML_PLATFORM_REDIS_CA_FILE: /etc/ml-platform/redis-ca/ca.crt
{{- end }}
{{- end }}
{{- if and (has "objects" $needs) $values.objectStore.caConfigMap.name }}
# boto3 reads the one, deltalake and polars the other.
AWS_CA_BUNDLE: /etc/ml-platform/objects-ca/ca.crt
SSL_CERT_FILE: /etc/ml-platform/objects-ca/ca.crt
{{- end }}
{{- if has "alerts" $needs }}
{{- if $values.alerts.webhookSecret.name }}
ML_PLATFORM_ALERT_WEBHOOK_URL_FILE: /var/run/secrets/ml-platform/alert-webhook/url
{{- end }}
{{- if $values.alerts.smtpSecret.name }}
ML_PLATFORM_ALERT_SMTP_URL_FILE: /var/run/secrets/ml-platform/alert-smtp/url
{{- end }}
{{- end }}
{{- end -}}

{{- define "ml-platform.env" -}}
{{- range $name, $value := (include "ml-platform.secret-files" . | fromYaml) }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{/* A change of configuration restarts what has read it. */}}
{{- define "ml-platform.checksums" -}}
checksum/configuration: {{ printf "%s%s%s" (include "ml-platform.settings" .) (include "ml-platform.dagster-yaml" .) (include "ml-platform.workspace" .) | sha256sum }}
{{- end -}}

{{- define "ml-platform.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "ml-platform.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "ml-platform.selector" . | nindent 8 }}
{{- end -}}

{{/* What every pod of the platform begins with. */}}
{{- define "ml-platform.pod" -}}
serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
automountServiceAccountToken: {{ .callsKubernetes | default false }}
# One variable for each Service would be set otherwise, and some programs take DAGSTER_* or MLFLOW_* for their own.
enableServiceLinks: false
securityContext: {{- include "ml-platform.pod-security" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - {name: {{ . }}}
{{- end }}
{{- end }}
{{- end -}}
