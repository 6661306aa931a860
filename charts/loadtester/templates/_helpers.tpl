{{/* Names and labels, and what is refused before anything is rendered. */}}

{{- define "loadtester.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "loadtester.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 57 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "loadtester.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 57 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 57 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "loadtester.selector" -}}
app.kubernetes.io/name: {{ include "loadtester.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "loadtester.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "loadtester.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "loadtester.serviceAccount" -}}
{{- default (include "loadtester.fullname" .) .Values.serviceAccountName -}}
{{- end -}}

{{- define "loadtester.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "loadtester.check" -}}
{{- if hasSuffix "/flagger-loadtester" .Values.image.repository -}}
{{- fail (printf "image.repository: %q is Flagger's own image, from a values.yaml of Flagger; name Serin's, and drop image.tag" .Values.image.repository) -}}
{{- end -}}
{{- if or .Values.meshName .Values.appmesh.enabled -}}
{{- fail "meshName, appmesh.enabled: this chart makes no objects of App Mesh" -}}
{{- end -}}
{{- if .Values.istio.enabled -}}
{{- fail "istio.enabled: this chart makes no Gateway and no VirtualService; hooks reach the load tester by its Service, and bring your own for people outside" -}}
{{- end -}}
{{- if and (gt (int .Values.replicaCount) 1) (ne .Values.gates.store "configmap") -}}
{{- fail "replicaCount: several replicas need gates.store: configmap, or each would have gates of its own" -}}
{{- end -}}
{{- end -}}
