{{/* Refuses what the schema cannot see: combinations of values, and what the cluster has already. */}}
{{- define "rapidfire.check" -}}
{{- include "rapidfire.checkValues" . }}
{{- if lookup "v1" "Namespace" "" "kube-system" }}
{{- include "rapidfire.checkCluster" . }}
{{- end }}
{{- end }}

{{- define "rapidfire.checkValues" -}}
{{- if and (gt (len .Values.workspaces) 1) .Values.hostNetwork -}}
{{- fail "hostNetwork: with it there is one port for one volume service; name one workspace only" -}}
{{- end -}}
{{- if and (gt (len .Values.workspaces) 1) .Values.volume.url -}}
{{- fail "volume.url: each workspace has a volume service of its own; leave it empty or name one workspace only" -}}
{{- end -}}
{{- range $name, $part := dict "volume" .Values.volume "mlflow" .Values.mlflow -}}
{{- if and $part.hostPath (ne $part.hostPath $part.mountPath) -}}
{{- fail (printf "%s.mountPath: must equal %s.hostPath (%s), it is %s" $name $name $part.hostPath $part.mountPath) -}}
{{- end -}}
{{- if and $part.hostPath $part.existingClaim -}}
{{- fail (printf "%s.existingClaim: the claim says already what the volume is; leave it or %s.hostPath empty" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.mlflow.backendStoreUri .Values.mlflow.backendStoreSecret.name -}}
{{- fail "mlflow.backendStoreUri: mlflow.backendStoreSecret names another one; leave one of them empty" -}}
{{- end -}}
{{- if regexMatch "://[^/@]*:[^/@]+@" .Values.mlflow.backendStoreUri -}}
{{- fail "mlflow.backendStoreUri: there is a password in it; put it into a Secret and name that in mlflow.backendStoreSecret" -}}
{{- end -}}
{{- include "rapidfire.checkIngress" . -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and $policy.enabled (not $policy.workerInternet) (not $policy.apiServer.cidrs) -}}
{{- fail "networkPolicy.apiServer.cidrs: name the API server's addresses (kubectl get endpointslices -n default kubernetes); without them port 443 of every address stays open to workers, whatever networkPolicy.workerInternet says" -}}
{{- end -}}
{{- end }}

{{- define "rapidfire.checkIngress" -}}
{{- $ingress := .Values.ingress -}}
{{- if $ingress.enabled -}}
{{- $hosts := without (list $ingress.apiHost $ingress.dashboardHost $ingress.mlflowHost) "" -}}
{{- if not $hosts -}}
{{- fail "ingress.enabled: name a host in ingress.apiHost, ingress.dashboardHost or ingress.mlflowHost" -}}
{{- end -}}
{{- if ne (len $hosts) (len (uniq $hosts)) -}}
{{- fail "ingress: the REST API, the dashboard and MLflow need a host each" -}}
{{- end -}}
{{- if and (not .Values.gateway.enabled) (or $ingress.apiHost $ingress.dashboardHost) -}}
{{- fail "ingress.apiHost, ingress.dashboardHost: there is nothing behind them while gateway.enabled is false" -}}
{{- end -}}
{{- if $ingress.mlflowHost -}}
{{- if not .Values.mlflow.enabled -}}
{{- fail "ingress.mlflowHost: there is nothing behind it while mlflow.enabled is false" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.mlflowFrom) -}}
{{- fail "networkPolicy.mlflowFrom: name the pods of the ingress controller, else ingress.mlflowHost cannot reach MLflow" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What only the cluster can say: nothing of this is known to `helm template`. */}}
{{- define "rapidfire.checkCluster" -}}
{{- $root := . -}}
{{- include "rapidfire.checkOwner" (dict "root" . "object" (lookup "admissionregistration.k8s.io/v1" "ValidatingAdmissionPolicy" "" "rapidfire-run-status")) -}}
{{- range $index, $workspace := .Values.workspaces -}}
{{- if and (ne $workspace $root.Release.Namespace) (not (lookup "v1" "Namespace" "" $workspace)) -}}
{{- fail (printf "workspaces[%d]: there is no namespace %s; make it first: kubectl create namespace %s" $index $workspace $workspace) -}}
{{- end -}}
{{- include "rapidfire.checkOwner" (dict "root" $root "object" (lookup "v1" "ConfigMap" $workspace "rapidfire-workspace") "workspace" $workspace) -}}
{{- with $root.Values.volume.existingClaim -}}
{{- if not (lookup "v1" "PersistentVolumeClaim" $workspace .) -}}
{{- fail (printf "volume.existingClaim: namespace %s has no claim %s; kubectl get pvc -n %s shows those it has" $workspace . $workspace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.mlflow.existingClaim -}}
{{- if and $root.Values.mlflow.enabled (not (lookup "v1" "PersistentVolumeClaim" $root.Release.Namespace .)) -}}
{{- fail (printf "mlflow.existingClaim: namespace %s has no claim %s" $root.Release.Namespace .) -}}
{{- end -}}
{{- end -}}
{{- $monitoring := .Values.monitoring -}}
{{- range $value, $kind := dict "serviceMonitor" "ServiceMonitor" "podMonitor" "PodMonitor" "prometheusRule" "PrometheusRule" -}}
{{- if and (get $monitoring $value).enabled (not ($root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind))) -}}
{{- fail (printf "monitoring.%s.enabled: the cluster knows no %s; install the Prometheus operator first, or use monitoring.scrapeAnnotations" $value $kind) -}}
{{- end -}}
{{- end -}}
{{- include "rapidfire.checkDefinitions" . -}}
{{- end }}

{{/* Two releases cannot share a cluster: the fence knows one operator. Call with (dict "root" $ "object" .. "workspace" ..). */}}
{{- define "rapidfire.checkOwner" -}}
{{- if .object -}}
{{- $annotations := .object.metadata.annotations | default dict -}}
{{- $name := get $annotations "meta.helm.sh/release-name" -}}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" -}}
{{- $release := .root.Release -}}
{{- if and $name (or (ne $name $release.Name) (ne $namespace $release.Namespace)) -}}
{{- if .workspace -}}
{{- fail (printf "workspaces: %s belongs to the release %s in namespace %s; take it out of the workspaces of one of them" .workspace $name $namespace) -}}
{{- else -}}
{{- fail (printf "the release %s in namespace %s runs RapidFire AI in this cluster already, and there is one fence for one operator; upgrade that one and add workspaces to it: helm upgrade %s -n %s --reset-then-reuse-values --set workspaces={...}" $name $namespace $name $namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Definitions that somebody else installs have to be there and not older than the chart. */}}
{{- define "rapidfire.checkDefinitions" -}}
{{- if not .Values.crds.install -}}
{{- $chart := .Chart.Version -}}
{{- range $plural := list "experiments" "runs" "icops" -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" (printf "%s.rapidfire.ai" $plural) -}}
{{- if not $found -}}
{{- fail (printf "crds.install: it is false and the cluster has no %s.rapidfire.ai; apply the CRDs of version %s first: kubectl apply --server-side -f crds/" $plural $chart) -}}
{{- end -}}
{{- $version := dig "metadata" "annotations" "rapidfire.ai/version" "0.0.0" $found -}}
{{- if semverCompare (printf "< %s-0" $chart) $version -}}
{{- fail (printf "crds.install: %s.rapidfire.ai in the cluster is of version %s, older than this chart (%s); apply its CRDs first: kubectl apply --server-side -f crds/" $plural $version $chart) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
