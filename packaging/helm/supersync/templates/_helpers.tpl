{{- define "supersync.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "supersync.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "supersync.labels" -}}
{{ include "supersync.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* "yes" with PostgreSQL, nothing with the embedded database. */}}
{{- define "supersync.postgres" -}}
{{- if or .Values.externalDatabase.url .Values.externalDatabase.existingSecret }}yes{{ end }}
{{- end }}

{{/* "yes" when there may be more than one pod. */}}
{{- define "supersync.several" -}}
{{- if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled }}yes{{ end }}
{{- end }}

{{/* What can't work is told here, and not by a pod that does not start. */}}
{{- define "supersync.validate" -}}
{{- $s := .Values.supersync }}
{{- if not .Values.image.repository }}{{ fail "image.repository: say where you pushed the image" }}{{ end }}
{{- if not (hasPrefix "https://" $s.publicUrl) }}{{ fail "supersync.publicUrl: needs the address of the server, beginning with https://" }}{{ end }}
{{- if not (or $s.secret.jwtSecret $s.existingSecret) }}{{ fail "supersync.secret.jwtSecret: needs at least 32 characters (openssl rand -hex 32), or supersync.existingSecret the name of a secret with JWT_SECRET" }}{{ end }}
{{- if and $s.secret.jwtSecret (lt (len $s.secret.jwtSecret) 32) }}{{ fail "supersync.secret.jwtSecret: has less than 32 characters" }}{{ end }}
{{- if and $s.existingSecret (or $s.secret.jwtSecret $s.secret.smtpPassword) }}{{ fail "supersync.existingSecret and supersync.secret: give one of them, not both" }}{{ end }}
{{- if and .Values.externalDatabase.url .Values.externalDatabase.existingSecret }}{{ fail "externalDatabase: give url or existingSecret, not both" }}{{ end }}
{{- if and .Values.externalDatabase.url (not (regexMatch "^postgres(ql)?://" .Values.externalDatabase.url)) }}{{ fail "externalDatabase.url: must begin with postgres://" }}{{ end }}
{{- if and .Values.externalDatabase.directUrl (not .Values.externalDatabase.url) }}{{ fail "externalDatabase.directUrl: goes beside url; in an existingSecret it is DATABASE_DIRECT_URL" }}{{ end }}
{{- if and (include "supersync.several" .) (not (include "supersync.postgres" .)) }}{{ fail "replicaCount or autoscaling: several replicas need PostgreSQL; set externalDatabase.url or externalDatabase.existingSecret" }}{{ end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}{{ fail "autoscaling: maxReplicas is less than minReplicas" }}{{ end }}
{{- if and (not (include "supersync.postgres" .)) (not $s.persistence.enabled) }}{{ fail "supersync.persistence.enabled: without a volume and without PostgreSQL all data would go with the pod" }}{{ end }}
{{- $missing := list }}
{{- range $name := list "contactName" "addressStreet" "addressCity" "addressCountry" "contactEmail" }}
{{- if not (trim (toString (index $s.privacy $name))) }}{{ $missing = append $missing $name }}{{ end }}
{{- end }}
{{- if and $missing (lt (len $missing) 5) }}{{ fail (printf "supersync.privacy: all five or none; missing: %s" (join ", " $missing)) }}{{ end }}
{{- range $name, $_ := $s.extraEnv }}
{{- if has $name (list "JWT_SECRET" "SMTP_PASS" "DATABASE_URL" "DATABASE_DIRECT_URL") }}{{ fail (printf "supersync.extraEnv: %s is a secret and has its own place" $name) }}{{ end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host: needs the name that users reach the server by" }}{{ end }}
{{- end }}
