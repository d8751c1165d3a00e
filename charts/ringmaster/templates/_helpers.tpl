{{- define "ringmaster.name" -}}
{{- if contains "ringmaster" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-ringmaster" .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ringmaster.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "ringmaster.name" .) }}
{{- end }}

{{- define "ringmaster.selector" -}}
app.kubernetes.io/name: ringmaster
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ringmaster.labels" -}}
{{ include "ringmaster.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "ringmaster.image" -}}
{{ .image.repository }}:{{ .image.tag | default .context.Chart.AppVersion }}
{{- end }}
