{{- define "tracer-agent.name" -}}
{{- if contains "tracer-agent" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-tracer-agent" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- define "tracer-agent.selector" -}}
app.kubernetes.io/name: tracer-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "tracer-agent.labels" -}}
{{ include "tracer-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "tracer-agent.metricsPort" -}}
{{ dig "metrics" "prometheus_port" 9464 .Values.config }}
{{- end }}
