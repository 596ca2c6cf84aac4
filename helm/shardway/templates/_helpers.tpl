{{/* Prefix of all names. */}}
{{- define "shardway.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of names that no namespace holds apart: two installations may have the same release name. */}}
{{- define "shardway.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "shardway.name" .) -}}
{{- end -}}

{{/* What selects the operator's pods; never changes. */}}
{{- define "shardway.operatorSelector" -}}
app.kubernetes.io/name: shardway
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ include "shardway.name" . }}
{{- end -}}

{{/* What selects the pool's pods, which the operator makes. */}}
{{- define "shardway.shardSelector" -}}
app.kubernetes.io/name: shardway-shard
shardway.dev/pool: {{ .Values.pool.name }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "shardway.labels" -}}
app.kubernetes.io/instance: {{ include "shardway.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: shardway
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "shardway.operatorImage" -}}
{{ .Values.image.operator.repository }}:{{ .Values.image.operator.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "shardway.shardImage" -}}
{{ .Values.image.shardProxy.repository }}:{{ .Values.image.shardProxy.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Rights on what users make, in every namespace that is watched. */}}
{{- define "shardway.rulesOfUsers" -}}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, httproutes, referencegrants]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways/status, httproutes/status]
  verbs: [get, update, patch]
# Where owners may be named only by who may finalize them.
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways/finalizers]
  verbs: [update]
# Backends, and a Service with EndpointSlices for each Gateway.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, update, patch, delete]
# Where a Service may have EndpointSlices of others only by who may restrict it.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices/restricted]
  verbs: [create]
# Read by name, when something refers to them; a watch of one name is a list to RBAC.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
