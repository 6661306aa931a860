{{/* Names and labels, and what is refused before anything is rendered. */}}

{{- define "serin.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "serin.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "serin.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A values.yaml of Flagger may use these two in its affinity, as its default does. */}}
{{- define "flagger.name" -}}{{ include "serin.name" . }}{{- end -}}
{{- define "flagger.fullname" -}}{{ include "serin.fullname" . }}{{- end -}}

{{- define "serin.selector" -}}
app.kubernetes.io/name: {{ include "serin.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "serin.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "serin.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "serin.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "serin.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "serin.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that are watched, as {"names": […]}; none for the whole cluster. */}}
{{- define "serin.namespaces" -}}
{{- $names := list -}}
{{- range concat (splitList "," (default "" .Values.namespace)) .Values.namespaces -}}
{{- with trim . -}}
{{- $names = append $names . -}}
{{- end -}}
{{- end -}}
{{- dict "names" (uniq $names) | toJson -}}
{{- end -}}

{{/* Where the lease is: the first namespace that is watched, as the controller has it, or the release's. */}}
{{- define "serin.leaseNamespace" -}}
{{- $names := (include "serin.namespaces" . | fromJson).names -}}
{{- if $names -}}{{ first $names }}{{- else -}}{{ .Release.Namespace }}{{- end -}}
{{- end -}}

{{/* The rules for watched namespaces, as {"rules": […]}, out of the table that `serin rbac` prints. */}}
{{- define "serin.rules" -}}
{{- $table := .Files.Get "files/permissions.yaml" | fromYaml -}}
{{- $rules := $table.core -}}
{{- if .Values.configTracking.enabled -}}
{{- $rules = concat $rules $table.configTracking -}}
{{- end -}}
{{- $wanted := list -}}
{{- range .Values.rbac.providers -}}
{{- $name := first (splitList ":" .) -}}
{{- if not (hasKey $table.providers $name) -}}
{{- fail (printf "rbac.providers: this version has no router %q; it has %s" . (keys $table.providers | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $wanted = append $wanted $name -}}
{{- end -}}
{{- with .Values.meshProvider -}}
{{- $wanted = append $wanted (first (splitList ":" .)) -}}
{{- end -}}
{{- if not $wanted -}}
{{- $wanted = keys $table.providers -}}
{{- end -}}
{{- range uniq $wanted | sortAlpha -}}
{{- $rules = concat $rules (get $table.providers . | default list) -}}
{{- end -}}
{{- range uniq .Values.rbac.metricsProviders | sortAlpha -}}
{{- if not (hasKey $table.metricsProviders .) -}}
{{- fail (printf "rbac.metricsProviders: %q needs no rights or is none; those that do are %s" . (keys $table.metricsProviders | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $rules = concat $rules (get $table.metricsProviders .) -}}
{{- end -}}
{{- dict "rules" $rules | toJson -}}
{{- end -}}

{{- define "serin.admission" -}}
{{- printf "%s-admission" (include "serin.fullname" . | trunc 53 | trimSuffix "-") -}}
{{- end -}}

{{- define "serin.admissionSecret" -}}
{{- default (include "serin.admission" .) .Values.admission.existingSecret -}}
{{- end -}}

{{- define "serin.check" -}}
{{- with .Values.admission -}}
{{- if and .enabled .existingSecret (not .caBundle) (not .certManager.enabled) -}}
{{- fail "admission.existingSecret: name the authority of its certificate in admission.caBundle, or the API server trusts nobody" -}}
{{- end -}}
{{- end -}}
{{- if hasSuffix "/flagger" .Values.image.repository -}}
{{- fail (printf "image.repository: %q is Flagger's own image, from a values.yaml of Flagger; name Serin's, and drop image.tag" .Values.image.repository) -}}
{{- end -}}
{{- if and (gt (int .Values.leaderElection.replicaCount) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "leaderElection.replicaCount: several replicas need leaderElection.enabled, or all of them would work at the same time" -}}
{{- end -}}
{{- if .Values.prometheus.install -}}
{{- fail "prometheus.install: this chart brings no Prometheus; install one (the chart prometheus-community/prometheus, for example), name it in metricsServer, and set prometheus.install to false" -}}
{{- end -}}
{{- if .Values.controlplane.kubeconfig.secretName -}}
{{- fail "controlplane.kubeconfig.secretName: routes in another cluster are not supported; install Serin in the cluster that has both workloads and routes" -}}
{{- end -}}
{{- end -}}
