{{/* What will not work, or not for long, as lines for NOTES. What the cluster has is known to install and upgrade alone. */}}
{{- define "rapidfire.warnings" -}}
{{- $mlflow := .Values.mlflow -}}
{{- if and $mlflow.enabled (not $mlflow.hostPath) (not $mlflow.backendStoreUri) (not $mlflow.backendStoreSecret.name) }}
- MLflow keeps its records in SQLite on one claim: good for one team; for more name a database in mlflow.backendStoreSecret.
{{- end }}
{{- if and .Values.ingress.enabled .Values.ingress.mlflowHost }}
- MLflow asks nobody for a password: whoever reaches {{ .Values.ingress.mlflowHost }} reads and changes all that is tracked.
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.tlsSecretName) }}
- The ingress has no ingress.tlsSecretName: unless something in front of it speaks TLS, tokens travel in the clear.
{{- end }}
{{- if not .Values.rbac.create }}
- rbac.create is false: nothing works before somebody makes the roles of docs/reference/rights.md.
{{- end }}
{{- $nodes := (lookup "v1" "Node" "" "").items | default list }}
{{- if $nodes }}
{{- include "rapidfire.warnNodes" (dict "root" . "nodes" $nodes) }}
{{- if not .Values.volume.hostPath }}
{{- include "rapidfire.warnStorage" (dict "root" . "nodes" $nodes) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether a node has what each worker takes by default. */}}
{{- define "rapidfire.warnNodes" -}}
{{- $limits := dig "limits" dict (.root.Values.worker.resources | default dict) | default dict }}
{{- $nodes := .nodes }}
{{- range $name, $count := $limits }}
{{- if contains "/" $name }}
{{- $having := 0 }}
{{- range $nodes }}
{{- if ge (get (.status.allocatable | default dict) $name | default "0" | int) (int $count) }}{{ $having = add1 $having }}{{ end }}
{{- end }}
{{- if not $having }}
- No node has {{ $count }} {{ $name }}, which each worker takes (worker.resources): workers stay Pending until one has.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether the claims will be bound, and to what several pods can share. */}}
{{- define "rapidfire.warnStorage" -}}
{{- $root := .root }}
{{- $volume := .root.Values.volume }}
{{- $several := gt (len .nodes) 1 }}
{{- if $volume.existingClaim }}
{{- range .root.Values.workspaces }}
{{- $modes := dig "spec" "accessModes" list (lookup "v1" "PersistentVolumeClaim" . $volume.existingClaim) }}
{{- if and $several (not (has "ReadWriteMany" $modes)) }}
- The claim {{ $volume.existingClaim }} in {{ . }} is {{ join ", " $modes }}: workers on a second node will not start; it has to be ReadWriteMany.
{{- end }}
{{- end }}
{{- else }}
{{- if and $several (not (has "ReadWriteMany" $volume.accessModes)) }}
- volume.accessModes is {{ join ", " $volume.accessModes }} and there are {{ len .nodes }} nodes: workers on a second one will not start; use a class that can ReadWriteMany.
{{- end }}
{{- include "rapidfire.warnClass" (dict "value" "volume" "settings" $volume "shared" (has "ReadWriteMany" $volume.accessModes)) }}
{{- end }}
{{- with .root.Values.mlflow }}
{{- if and .enabled (not .existingClaim) (not .hostPath) }}
{{- include "rapidfire.warnClass" (dict "value" "mlflow" "settings" . "shared" false) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether there is the storage class that a claim asks for, and whether it can be shared by pods on several nodes. */}}
{{- define "rapidfire.warnClass" -}}
{{- $classes := (lookup "storage.k8s.io/v1" "StorageClass" "" "").items | default list }}
{{- $wanted := .settings.storageClassName }}
{{- $names := list }}
{{- $class := dict }}
{{- range $classes }}
{{- $names = append $names .metadata.name }}
{{- $default := eq "true" (dig "annotations" "storageclass.kubernetes.io/is-default-class" "" .metadata) }}
{{- if or (eq .metadata.name (toString $wanted)) (and (kindIs "invalid" $wanted) $default) }}{{ $class = . }}{{ end }}
{{- end }}
{{- $known := join ", " $names | default "none" }}
{{- if and (not $class) (kindIs "invalid" $wanted) }}
- The cluster has no default StorageClass: the claim stays Pending until {{ .value }}.storageClassName names one (there are: {{ $known }}).
{{- else if and (not $class) $wanted }}
- There is no StorageClass {{ $wanted }} ({{ .value }}.storageClassName): the claim stays Pending unless somebody makes such a volume (there are: {{ $known }}).
{{- else if and .shared (has (get $class "provisioner") (include "rapidfire.blockProvisioners" . | fromYamlArray)) }}
- The StorageClass {{ $class.metadata.name }} ({{ $class.provisioner }}) has disks of one node, not ReadWriteMany: the claim stays Pending. Set {{ .value }}.storageClassName to one for shared files (NFS, CephFS, EFS, Filestore, Azure Files), or {{ .value }}.accessModes to [ReadWriteOnce] to stay on one node.
{{- end }}
{{- end }}

{{/* Provisioners of disks, which one node mounts at a time. */}}
{{- define "rapidfire.blockProvisioners" -}}
- disk.csi.azure.com
- disk.csi.cloud.com
- ebs.csi.aws.com
- kubernetes.io/aws-ebs
- kubernetes.io/azure-disk
- kubernetes.io/gce-pd
- pd.csi.storage.gke.io
- cinder.csi.openstack.org
- csi.hetzner.cloud
- dobs.csi.digitalocean.com
- linodebs.csi.linode.com
- local.csi.openebs.io
- openebs.io/local
- rancher.io/local-path
- rbd.csi.ceph.com
- rook-ceph.rbd.csi.ceph.com
- topolvm.io
- vpc.block.csi.ibm.io
{{- end }}
