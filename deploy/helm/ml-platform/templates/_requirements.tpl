{{/* What no schema can say: values that contradict one another. */}}
{{/* Kubernetes' quantity as a number. */}}
{{- define "ml-platform.amount" -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "Ki" 1024 "M" 1e6 "Mi" 1048576 "G" 1e9 "Gi" 1073741824 "T" 1e12 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- mulf $number (get $units (trimPrefix $number (toString .))) -}}
{{- end -}}

{{- define "ml-platform.requirements" -}}
{{- $objects := .Values.objectStore -}}
{{- if .Values.ingress.enabled -}}
{{- $hosts := compact (list .Values.ingress.hosts.dagster (ternary .Values.ingress.hosts.mlflow "" .Values.mlflow.enabled) .Values.ingress.hosts.reports) -}}
{{- if ne (len $hosts) (len (uniq $hosts)) -}}
{{- fail "ingress.hosts: each server needs a host of its own" -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- $asked := dict "web" .Values.web "daemon" .Values.daemon "mlflow" .Values.mlflow "reports" .Values.reports "runs" .Values.runs "proxy" .Values.proxy "backup" .Values.backup -}}
{{- range .Values.codeLocations -}}
{{- $_ := set $asked (printf "codeLocations.%s" .name) . -}}
{{- end -}}
{{- range $name, $part := $asked -}}
{{- range $what, $request := $part.resources.requests -}}
{{- $limit := get $part.resources.limits $what | default $request -}}
{{- if gt (include "ml-platform.amount" $request | float64) (include "ml-platform.amount" $limit | float64) -}}
{{- fail (printf "%s.resources: more %s is requested (%v) than the limit allows (%v), which Kubernetes refuses" $name $what $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.codeLocations -}}
{{- $names = append $names (.name | replace "_" "-") -}}
{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- fail "codeLocations: two names are the same, or differ by _ and - alone, which names of objects do not" -}}
{{- end -}}
{{- $databases := values .Values.postgres.databases -}}
{{- if ne (len $databases) (len (uniq $databases)) -}}
{{- fail "postgres.databases: Dagster, MLflow, Optuna and Feast need a database each, for their tables have the same names" -}}
{{- end -}}
{{- if and .Values.alerts.emailTo (not .Values.alerts.smtpSecret.name) -}}
{{- fail "alerts.emailTo: no e-mail is sent without alerts.smtpSecret" -}}
{{- end -}}
{{- $lake := printf "%s/" (trimSuffix "/" $objects.lakeUri) -}}
{{- $others := dict "objectStore.landingUri" $objects.landingUri "objectStore.reportsUri" $objects.reportsUri "objectStore.artifactsUri" $objects.artifactsUri "objectStore.computeLogsUri" $objects.computeLogsUri "backup.target" (ternary .Values.backup.target "" .Values.backup.enabled) -}}
{{- range $name, $place := $others -}}
{{- if and $place (hasPrefix $lake (printf "%s/" (trimSuffix "/" $place))) -}}
{{- fail (printf "%s is inside objectStore.lakeUri, whose tables are swept: give it a place of its own" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
