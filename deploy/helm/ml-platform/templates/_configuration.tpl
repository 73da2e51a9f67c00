{{/* The files and variables that the platform's processes read. */}}

{{- define "ml-platform.database" -}}
{{- with .root.Values.postgres -}}
postgresql+psycopg2://{{ with .user }}{{ . }}@{{ end }}{{ .host }}:{{ .port }}/{{ get .databases $.database }}
{{- end -}}
{{- end -}}

{{/* The port of a URL, as a list; without one, that of its scheme. */}}
{{- define "ml-platform.port" -}}
{{- $url := urlParse . -}}
{{- $named := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- list ($named | default (get (dict "http" 80 "redis" 6379 "rediss" 6379) $url.scheme) | default 443 | int) | toJson -}}
{{- end -}}

{{- define "ml-platform.tracking-uri" -}}
{{ .Values.mlflow.trackingUri | default (printf "http://%s-mlflow:5000" .Release.Name) }}
{{- end -}}

{{- define "ml-platform.settings" -}}
{{- $objects := .Values.objectStore -}}
{{- $hosts := .Values.ingress.hosts -}}
{{- $own := dict
  "ML_PLATFORM_HOME" "/var/lib/ml-platform"
  "DAGSTER_HOME" "/var/lib/ml-platform/dagster"
  "ML_PLATFORM_DAGSTER_YAML" "/etc/ml-platform/instance/dagster.yaml"
  "ML_PLATFORM_EXECUTION" "kubernetes"
  "ML_PLATFORM_HOST" "0.0.0.0"
  "ML_PLATFORM_K8S_PODS" (toString .Values.runs.maxPodsPerRun)
  "ML_PLATFORM_K8S_DAYS_PER_RUN" (toString .Values.runs.daysPerRun)
  "ML_PLATFORM_DAGSTER_STORAGE_URL" (include "ml-platform.database" (dict "root" . "database" "dagster"))
  "ML_PLATFORM_OPTUNA_URL" (include "ml-platform.database" (dict "root" . "database" "optuna"))
  "ML_PLATFORM_FEAST_REGISTRY_URL" (include "ml-platform.database" (dict "root" . "database" "feast"))
  "ML_PLATFORM_MLFLOW_TRACKING_URI" (include "ml-platform.tracking-uri" .)
  "ML_PLATFORM_MLFLOW_ARTIFACTS_URI" $objects.artifactsUri
  "ML_PLATFORM_REDIS_URL" .Values.redis.url
  "ML_PLATFORM_LAKE_URI" $objects.lakeUri
  "ML_PLATFORM_LANDING" $objects.landingUri
  "ML_PLATFORM_REPORTS" $objects.reportsUri
  "AWS_REGION" $objects.region
  "AWS_DEFAULT_REGION" $objects.region
  "HOME" "/var/lib/ml-platform"
  "TMPDIR" "/tmp"
  "DO_NOT_TRACK" "1"
  "DAGSTER_DISABLE_TELEMETRY" "1"
  "MLFLOW_DISABLE_TELEMETRY" "true"
  "FEAST_USAGE" "False"
  "EVIDENTLY_DISABLE_TELEMETRY" "1"
-}}
{{- if $objects.endpointUrl -}}
{{- $_ := set $own "AWS_ENDPOINT_URL" $objects.endpointUrl -}}
{{- $_ := set $own "MLFLOW_S3_ENDPOINT_URL" $objects.endpointUrl -}}
{{- end -}}
{{- with $objects.computeLogsUri -}}
{{- $_ := set $own "ML_PLATFORM_COMPUTE_LOGS_URI" . -}}
{{- end -}}
{{- if $objects.allowHttp -}}
{{- $_ := set $own "AWS_ALLOW_HTTP" "true" -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
{{- $_ := set $own "ML_PLATFORM_DAGSTER_URL" (printf "https://%s" $hosts.dagster) -}}
{{- $_ := set $own "ML_PLATFORM_REPORTS_URL" (printf "https://%s" $hosts.reports) -}}
{{- if .Values.mlflow.enabled -}}
{{- $_ := set $own "ML_PLATFORM_MLFLOW_URL" (printf "https://%s" $hosts.mlflow) -}}
{{- end -}}
{{- else -}}
{{- /* Links are opened where `kubectl port-forward` runs (NOTES.txt). */ -}}
{{- $_ := set $own "ML_PLATFORM_DAGSTER_URL" "http://127.0.0.1:3000" -}}
{{- $_ := set $own "ML_PLATFORM_REPORTS_URL" "http://127.0.0.1:3001" -}}
{{- if .Values.mlflow.enabled -}}
{{- $_ := set $own "ML_PLATFORM_MLFLOW_URL" "http://127.0.0.1:5000" -}}
{{- end -}}
{{- end -}}
{{- with .Values.mlflow.publicUrl -}}
{{- $_ := set $own "ML_PLATFORM_MLFLOW_URL" . -}}
{{- end -}}
{{- with .Values.alerts.emailTo -}}
{{- $_ := set $own "ML_PLATFORM_ALERT_EMAIL_TO" . -}}
{{- end -}}
{{- with .Values.alerts.emailFrom -}}
{{- $_ := set $own "ML_PLATFORM_ALERT_EMAIL_FROM" . -}}
{{- end -}}
{{- if .Values.backup.enabled -}}
{{- $_ := set $own "ML_PLATFORM_BACKUP_WITHIN_HOURS" (toString .Values.backup.alertAfterHours) -}}
{{- end -}}
{{- range $name, $_ := .Values.settings -}}
{{- if hasKey $own $name -}}
{{- fail (printf "settings.%s is made by the chart from its other values: give it there" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := merge (deepCopy .Values.settings) $own }}
{{ $name }}: {{ $value | quote }}
{{- end -}}
{{- end -}}

{{- define "ml-platform.workspace" -}}
load_from:
{{- range .Values.codeLocations }}
  - grpc_server:
      host: {{ include "ml-platform.name" (dict "root" $ "part" (printf "code-%s" (.name | replace "_" "-"))) }}
      port: 4000
      location_name: {{ .name | quote }}
{{- end }}
{{- end -}}

{{/* In agreement with ml_platform/stores/dagster_home/dagster.yaml, but for what a cluster decides; a test compares them. */}}
{{- define "ml-platform.dagster-yaml" -}}
{{- $run := dict "root" . "component" "run" "homeSizeLimit" .Values.runs.homeSizeLimit -}}
storage:
  postgres:
    postgres_url: {env: ML_PLATFORM_DAGSTER_STORAGE_URL}

{{ if .Values.objectStore.computeLogsUri -}}
{{- $place := splitn "/" 2 (trimPrefix "s3://" .Values.objectStore.computeLogsUri) -}}
# A step writes its output there as it goes, and the web server reads it; both by way of TMPDIR, which is as large as what a run may
# write. Keys, endpoint and region come by AWS_*.
compute_logs:
  module: dagster_aws.s3
  class: S3ComputeLogManager
  config:
    bucket: {{ $place._0 | quote }}
    prefix: {{ trimSuffix "/" $place._1 | quote }}
    local_dir: {env: TMPDIR}
    upload_interval: 15
{{- else -}}
# A step's output is its pod's log: the cluster's log collector keeps it.
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
{{- end }}

telemetry:
  enabled: false
nux:
  enabled: false

concurrency:
  runs:
    max_concurrent_runs: {{ .Values.runs.maxConcurrent }}
  pools:
    # Steps that name a pool (training, the online store) take turns, across runs.
    default_limit: {{ .Values.runs.poolDefaultLimit }}
    granularity: op

run_queue:
  dequeue_interval_seconds: 1

# Sensors tick side by side: none waits for another's.
sensors:
  use_threads: true
  num_workers: 4

# A run whose pod died is tried again; one whose code failed would fail again.
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false

run_launcher:
  module: dagster_k8s
  class: K8sRunLauncher
  config:
    job_namespace: {{ .Release.Namespace }}
    job_image: {{ include "ml-platform.image" . | quote }}
    image_pull_policy: {{ .Values.image.pullPolicy }}
    {{- with .Values.image.pullSecrets }}
    image_pull_secrets:
    {{- range . }}
      - {name: {{ . }}}
    {{- end }}
    {{- end }}
    service_account_name: {{ .Release.Name }}-run
    instance_config_map: {{ .Release.Name }}-dagster-instance
    dagster_home: /var/lib/ml-platform/dagster
    env_config_maps:
      - {{ .Release.Name }}-settings
    {{- with .Values.objectStore.credentialsSecret }}
    env_secrets:
      - {{ . }}
    {{- end }}
    env_vars:
    {{- range $name, $value := (include "ml-platform.secret-files" $run | fromYaml) }}
      - {{ printf "%s=%s" $name $value | quote }}
    {{- end }}
    labels: {{- include "ml-platform.release-labels" . | nindent 6 }}
    volumes: {{- include "ml-platform.volumes" $run | nindent 6 }}
    volume_mounts: {{- include "ml-platform.volume-mounts" $run | nindent 6 }}
    resources: {{- toYaml .Values.runs.resources | nindent 6 }}
    security_context: {{- include "ml-platform.container-security" . | nindent 6 }}
    run_k8s_config:
      pod_template_spec_metadata:
        annotations:
          # Moving a pod to save a node would lose what its run has done.
          cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
      pod_spec_config:
        security_context: {{- include "ml-platform.pod-security" . | nindent 10 }}
        enable_service_links: false
        {{- with .Values.runs.nodeSelector }}
        node_selector: {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with .Values.runs.tolerations }}
        tolerations: {{- toYaml . | nindent 10 }}
        {{- end }}
      job_spec_config:
        ttl_seconds_after_finished: {{ .Values.runs.ttlSecondsAfterFinished }}
    only_allow_user_defined_k8s_config_fields: {{- toYaml .Values.runs.allowedFields | nindent 6 }}
    only_allow_user_defined_env_vars: []

run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  # An image must be pulled, and a node may have to be found for it.
  start_timeout_seconds: {{ .Values.runs.startTimeoutSeconds }}
  cancel_timeout_seconds: 180
  # A run whose pod died fails, and is tried again as a whole: resumed executors leave steps running when people end the run.
  max_resume_run_attempts: 0
  # A killed step must not hold its pool for ever.
  free_slots_after_run_end_seconds: 60

# Sensors tick every half minute and mostly skip; what they did is kept long enough to ask why.
retention:
  schedule:
    purge_after_days: 90
  sensor:
    purge_after_days: {skipped: 2, success: 30, failure: 90, started: 2}
  auto_materialize:
    purge_after_days: {skipped: 2, success: 30, failure: 90, started: 2}
{{- end -}}
