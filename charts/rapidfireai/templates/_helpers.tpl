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

{{/* What each pod is told about itself. */}}
{{- define "rapidfire.podEnv" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- end }}

{{/* What the pods of the chart have in common; call with (dict "root" $ "part" .Values.operator). */}}
{{- define "rapidfire.podSpec" -}}
{{- with .root.Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Refuses combinations that the schema cannot see. */}}
{{- define "rapidfire.check" -}}
{{- if and (gt (len .Values.workspaces) 1) .Values.hostNetwork -}}
{{- fail "hostNetwork: with it there is one port for one volume service; name one workspace only" -}}
{{- end -}}
{{- if and (gt (len .Values.workspaces) 1) .Values.volume.url -}}
{{- fail "volume.url: each workspace has a volume service of its own; leave it empty or name one workspace only" -}}
{{- end -}}
{{- if and .Values.volume.hostPath (ne .Values.volume.hostPath .Values.volume.mountPath) -}}
{{- fail (printf "volume.mountPath: must equal volume.hostPath (%s), it is %s" .Values.volume.hostPath .Values.volume.mountPath) -}}
{{- end -}}
{{- if and .Values.mlflow.hostPath (ne .Values.mlflow.hostPath .Values.mlflow.mountPath) -}}
{{- fail (printf "mlflow.mountPath: must equal mlflow.hostPath (%s), it is %s" .Values.mlflow.hostPath .Values.mlflow.mountPath) -}}
{{- end -}}
{{- end }}
