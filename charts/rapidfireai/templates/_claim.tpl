{{/*
A claim that survives `helm uninstall`, and the volume behind it where a directory of the node is the volume. Call
with (dict "root" $ "component" "volume" "name" .. "namespace" .. "settings" .Values.volume "accessModes" (list ..)).
*/}}
{{- define "rapidfire.claim" -}}
{{- $labels := include "rapidfire.labels" . }}
{{- $volume := printf "%s-%s" .name .namespace }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels: {{- $labels | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
    rapidfire.ai/mount-path: {{ .settings.mountPath }}
spec:
  accessModes: {{- toYaml .accessModes | nindent 2 }}
  {{- if .settings.hostPath }}
  storageClassName: ""
  volumeName: {{ $volume }}
  {{- else if not (kindIs "invalid" .settings.storageClassName) }}
  storageClassName: {{ .settings.storageClassName | quote }}
  {{- end }}
  resources: {requests: {storage: {{ .settings.size }}}}
{{- if .settings.hostPath }}
---
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ $volume }}
  labels: {{- $labels | nindent 4 }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: {{- toYaml .accessModes | nindent 2 }}
  capacity: {storage: {{ .settings.size }}}
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, name: {{ .name }}, namespace: {{ .namespace }}}
  hostPath: {path: {{ .settings.hostPath }}, type: DirectoryOrCreate}
{{- end }}
{{- end }}
