{{/* Labels of every object; call with (dict "root" $ "component" "operator"). */}}
{{- define "rapidfire.labels" -}}
{{ include "rapidfire.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: rapidfireai
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Labels by which pods are found; they never change. */}}
{{- define "rapidfire.selector" -}}
app.kubernetes.io/name: rapidfireai
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The image of a part; call with (dict "root" $ "part" "operator" "image" .Values.operator.image). */}}
{{- define "rapidfire.image" -}}
{{- $image := .root.Values.image -}}
{{ .image | default (printf "%s/%s:%s" $image.repository .part ($image.tag | default .root.Chart.AppVersion)) }}
{{- end }}

{{/* The worker's image. */}}
{{- define "rapidfire.workerImage" -}}
{{ include "rapidfire.image" (dict "root" . "part" "worker" "image" .Values.worker.image) }}
{{- end }}

{{/* Who the operator is to the API server. The fence names it. */}}
{{- define "rapidfire.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:rapidfire-operator
{{- end }}

{{/* The annotations of a service account, if any; call with (dict "root" $ "component" "worker"). */}}
{{- define "rapidfire.accountAnnotations" -}}
{{- with dig .component "annotations" dict .root.Values.serviceAccounts }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The Secrets that pull images, as a pod and a service account have them. */}}
{{- define "rapidfire.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The claim that is the volume of each workspace. */}}
{{- define "rapidfire.claimName" -}}
{{ .Values.volume.existingClaim | default "rapidfire-data" }}
{{- end }}

{{/* Where MLflow is reached; empty if nothing is tracked. */}}
{{- define "rapidfire.mlflowURL" -}}
{{- if .Values.mlflow.url -}}
{{ .Values.mlflow.url }}
{{- else if .Values.mlflow.enabled -}}
http://rapidfire-mlflow.{{ .Release.Namespace }}.svc:{{ .Values.mlflow.port }}
{{- end -}}
{{- end }}

{{/* Where the volume service of a workspace is reached; call with (dict "root" $ "workspace" "default"). */}}
{{- define "rapidfire.volumeURL" -}}
{{ .root.Values.volume.url | default (printf "http://rapidfire-volume.%s.svc:%v" .workspace .root.Values.volume.port) }}
{{- end }}

{{/* An address as browsers reach it; call with (dict "root" $ "url" .Values.gateway.url "host" .Values.ingress.apiHost). */}}
{{- define "rapidfire.publicURL" -}}
{{- $ingress := .root.Values.ingress -}}
{{- if .url -}}
{{ .url }}
{{- else if and $ingress.enabled .host -}}
{{ ternary "https" "http" (not (empty $ingress.tlsSecretName)) }}://{{ .host }}
{{- end -}}
{{- end }}
