{{/* Rules of NetworkPolicies; each is an item of a list. */}}

{{/* Names: the cluster's DNS, wherever it runs (5353 on OpenShift). */}}
{{- define "rapidfire.toDNS" -}}
- ports:
  {{- range list 53 5353 }}
  - {port: {{ . }}, protocol: UDP}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
{{- end }}

{{/* The API server is no pod: only its addresses can be named. Call with the root. */}}
{{- define "rapidfire.toAPIServer" -}}
{{- $server := .Values.networkPolicy.apiServer -}}
- ports:
  {{- range $server.ports }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
  {{- with $server.cidrs }}
  to:
  {{- range . }}
  - ipBlock: {cidr: {{ . | quote }}}
  {{- end }}
  {{- end }}
{{- end }}

{{/* MLflow: the chart's own, or an address elsewhere, of which a policy can say the port alone. Call with the root. */}}
{{- define "rapidfire.toMLflow" -}}
{{- if .Values.mlflow.enabled -}}
- ports: [{port: {{ .Values.mlflow.port }}, protocol: TCP}]
  to:
  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}}
    podSelector:
      matchLabels: {{- include "rapidfire.selector" (dict "component" "mlflow") | nindent 8 }}
{{- end }}
{{- with .Values.mlflow.url }}
- ports: [{port: {{ include "rapidfire.portOf" . }}, protocol: TCP}]
{{- end }}
{{- end }}

{{/* The volume services of workspaces; call with (dict "root" $ "namespaces" (list ..)). */}}
{{- define "rapidfire.toVolume" -}}
{{- $volume := .root.Values.volume -}}
- ports: [{port: {{ $volume.port }}, protocol: TCP}]
  to: {{- include "rapidfire.podsOf" (dict "component" "volume" "namespaces" .namespaces) | nindent 2 }}
{{- with $volume.url }}
- ports: [{port: {{ include "rapidfire.portOf" . }}, protocol: TCP}]
{{- end }}
{{- end }}

{{/* Peers: a component's pods in some namespaces. */}}
{{- define "rapidfire.podsOf" -}}
- namespaceSelector:
    matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson .namespaces }}}
  podSelector:
    matchLabels: {{- include "rapidfire.selector" (dict "component" .component) | nindent 6 }}
{{- end }}

{{/* The port of a URL. */}}
{{- define "rapidfire.portOf" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end }}

{{/* Prometheus, wherever it is; call with (dict "root" $ "port" 9090). */}}
{{- define "rapidfire.fromMetrics" -}}
- ports: [{port: {{ .port }}, protocol: TCP}]
  from: {{- .root.Values.networkPolicy.metricsFrom | default (list (dict "namespaceSelector" dict)) | toYaml | nindent 2 }}
{{- end }}

{{/* The head of a policy; call with (dict "root" $ "component" "worker" "namespace" ..). */}}
{{- define "rapidfire.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: rapidfire-{{ .component }}
  namespace: {{ .namespace }}
  labels: {{- include "rapidfire.labels" . | nindent 4 }}
spec:
  policyTypes: [Ingress, Egress]
  podSelector:
    matchLabels: {{- include "rapidfire.selector" . | nindent 6 }}
{{- end }}
