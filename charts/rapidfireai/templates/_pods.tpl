{{/*
What the Deployments have in common. All take (dict "root" $ "component" "operator" "part" .Values.operator) and what
their own comment adds.
*/}}

{{/* The metadata of pods; with "metrics", the port where theirs are. Labels of the chart win over the user's. */}}
{{- define "rapidfire.podMetadata" -}}
{{- $annotations := dict }}
{{- if and .metrics .root.Values.monitoring.scrapeAnnotations }}
{{- $annotations = dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .metrics) "prometheus.io/path" "/metrics" }}
{{- end }}
{{- $labels := include "rapidfire.labels" . | fromYaml }}
labels: {{- merge (dict) $labels (.part.podLabels | default dict) | toYaml | nindent 2 }}
{{- with merge (dict) (.part.podAnnotations | default dict) $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where pods run and who they are. */}}
{{- define "rapidfire.podSpec" -}}
{{- with .root.Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "rapidfire.pullSecrets" .root }}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .part.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml .part.topologySpreadConstraints | nindent 0 }}
{{- else if gt (int .part.replicas) 1 }}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "rapidfire.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* What each pod is told about itself; call with the root. */}}
{{- define "rapidfire.podEnv" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- end }}

{{/* The end of a container: mounts, rights, resources. With "mounts", a list, beside /tmp. */}}
{{- define "rapidfire.container" -}}
volumeMounts: {{- concat (.mounts | default list) (list (dict "name" "tmp" "mountPath" "/tmp")) (.part.extraVolumeMounts | default list) | toYaml | nindent 0 }}
{{- with .root.Values.containerSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
resources: {{- toYaml .part.resources | nindent 2 }}
{{- end }}

{{/* The volumes behind them. With "volumes", a list. */}}
{{- define "rapidfire.volumes" -}}
volumes: {{- concat (.volumes | default list) (list (dict "name" "tmp" "emptyDir" dict)) (.part.extraVolumes | default list) | toYaml | nindent 0 }}
{{- end }}

{{/* What every worker pod has unless its experiment says otherwise, as JSON for the operator; call with the root. */}}
{{- define "rapidfire.workerPod" -}}
{{- $pod := dict }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "extraEnv" "extraVolumes" "extraVolumeMounts" }}
{{- with get $.Values.worker $name }}
{{- $_ := set $pod (trimPrefix "extra" $name | untitle) . }}
{{- end }}
{{- end }}
{{- toJson $pod }}
{{- end }}

{{/* The volume of a claim. Call with the claim's name. */}}
{{- define "rapidfire.claimVolume" -}}
{{- dict "name" "data" "persistentVolumeClaim" (dict "claimName" .) | toYaml }}
{{- end }}
