//! The Helm chart, rendered by Helm's own engine. No cluster is asked: what Kubernetes makes of it is not seen here.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use supersync::config::settings::variables;
use supersync::config::{Config, Database};

fn helm(arguments: &[&str], values: &Value) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/helm-render");
    let mut command = Command::new(script);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3 runs");
    child.stdin.take().expect("it is piped").write_all(values.to_string().as_bytes()).expect("it reads its values");
    child.wait_with_output().expect("it ends")
}

/// What it says when it refuses these values.
fn refusal(values: &Value) -> String {
    let output = helm(&[], values);
    assert!(!output.status.success(), "{values} is accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every object that it makes of these values, which `helm lint --strict` has nothing against either.
fn rendered(values: &Value) -> Vec<Value> {
    let linted = helm(&["--lint"], values);
    let found = String::from_utf8_lossy(&linted.stdout);
    assert!(linted.status.success() && found == "[]", "{found}{}", String::from_utf8_lossy(&linted.stderr));
    let output = helm(&[], values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let templates: HashMap<String, String> = serde_json::from_slice(&output.stdout).expect("JSON");
    let manifests = templates.iter().filter(|(name, _)| !name.ends_with("NOTES.txt"));
    let documents = manifests.flat_map(|(name, text)| {
        text.split("\n---\n")
            .filter(|part| !part.trim().is_empty())
            .map(move |part| serde_yaml_ng::from_str(part).unwrap_or_else(|error| panic!("{name}: {error}\n{part}")))
    });
    documents.filter(|document: &Value| !document.is_null()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const URL: &str = "postgres://supersync:secret@db.example.org/supersync";

/// The least that it needs, and this.
fn least(and: &Value) -> Value {
    let mut values = json!({
        "image": { "repository": "registry.example.org/supersync" },
        "supersync": { "publicUrl": "https://sync.example.org", "secret": { "jwtSecret": SECRET } },
    });
    merge(&mut values, and);
    values
}

fn container(objects: &[Value]) -> &Value {
    let containers = &one(objects, "Deployment")["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

/// The settings that the server gets from the chart's own objects.
fn settings(objects: &[Value]) -> HashMap<String, String> {
    let given = [&one(objects, "ConfigMap")["data"], &one(objects, "Secret")["stringData"]];
    let given = given.into_iter().flat_map(|given| given.as_object().expect("names and values"));
    given.map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned())).collect()
}

#[test]
fn what_can_not_work_is_refused_with_its_reason() {
    let partly = json!({ "contactName": "Ada", "addressCity": "London" });
    for (values, reason) in [
        (json!({}), "image.repository: say where"),
        (least(&json!({ "supersync": { "publicUrl": "http://sync.example.org" } })), "supersync.publicUrl: needs"),
        (least(&json!({ "supersync": { "secret": { "jwtSecret": "" } } })), "jwtSecret: needs at least 32 characters"),
        (least(&json!({ "supersync": { "secret": { "jwtSecret": "short" } } })), "has less than 32 characters"),
        (least(&json!({ "supersync": { "existingSecret": "mine" } })), "give one of them, not both"),
        (least(&json!({ "replicaCount": 2 })), "several replicas need PostgreSQL"),
        (least(&json!({ "autoscaling": { "enabled": true } })), "several replicas need PostgreSQL"),
        (least(&json!({ "externalDatabase": { "url": "mysql://x" } })), "must begin with postgres://"),
        (least(&json!({ "externalDatabase": { "directUrl": URL } })), "directUrl: goes beside url"),
        (
            least(&json!({ "externalDatabase": { "url": URL, "existingSecret": "x" } })),
            "url or existingSecret, not both",
        ),
        (least(&json!({ "supersync": { "persistence": { "enabled": false } } })), "all data would go with the pod"),
        (
            least(&json!({ "supersync": { "privacy": partly } })),
            "all five or none; missing: addressStreet, addressCountry, contactEmail",
        ),
        (least(&json!({ "supersync": { "extraEnv": { "DATABASE_URL": URL } } })), "is a secret and has its own place"),
        (least(&json!({ "ingress": { "enabled": true } })), "ingress.host: needs"),
        (
            least(&json!({ "externalDatabase": { "url": URL }, "autoscaling": { "enabled": true, "maxReplicas": 1 } })),
            "maxReplicas is less than minReplicas",
        ),
    ] {
        let told = refusal(&values);
        assert!(told.contains(reason), "{told} does not say: {reason}");
    }
}

#[test]
fn one_replica_keeps_its_data_on_a_volume_that_outlives_the_release() {
    let objects = rendered(&least(&json!({})));
    let kinds: BTreeSet<_> = objects.iter().map(|object| object["kind"].as_str().expect("a kind")).collect();
    let expected = ["ConfigMap", "Deployment", "PersistentVolumeClaim", "Secret", "Service", "ServiceAccount"];
    assert_eq!(kinds, BTreeSet::from(expected));
    let deployment = &one(&objects, "Deployment")["spec"];
    assert_eq!((&deployment["replicas"], &deployment["strategy"]), (&json!(1), &json!({ "type": "Recreate" })));
    let claim = one(&objects, "PersistentVolumeClaim");
    assert_eq!(claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let volume = &deployment["template"]["spec"]["volumes"][0];
    assert_eq!(volume["persistentVolumeClaim"]["claimName"], claim["metadata"]["name"]);
    assert_eq!(container(&objects)["volumeMounts"][0], json!({ "name": "data", "mountPath": "/data" }));
    let config = Config::parse(&settings(&objects)).expect("the settings are right");
    assert!(matches!(config.database, Database::Sqlite { .. }));

    let claimed = rendered(&least(&json!({ "supersync": { "persistence": { "existingClaim": "mine" } } })));
    assert!(of_kind(&claimed, "PersistentVolumeClaim").is_empty());
}

#[test]
fn several_replicas_are_replaced_one_by_one_and_none_before_the_next_serves() {
    let objects = rendered(&least(&json!({ "replicaCount": 3, "externalDatabase": { "url": URL } })));
    let deployment = &one(&objects, "Deployment")["spec"];
    let rolling = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    assert_eq!((&deployment["replicas"], &deployment["strategy"]), (&json!(3), &rolling));
    assert!(of_kind(&objects, "PersistentVolumeClaim").is_empty());
    assert!(deployment["template"]["spec"]["volumes"][0]["emptyDir"].is_object());
    let budget = one(&objects, "PodDisruptionBudget");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["selector"], deployment["selector"]);
    let config = Config::parse(&settings(&objects)).expect("the settings are right");
    assert!(matches!(config.database, Database::Postgres { .. }));

    let scaled = rendered(&least(&json!({
        "externalDatabase": { "existingSecret": "db" },
        "autoscaling": { "enabled": true }, "podDisruptionBudget": { "enabled": false },
    })));
    let autoscaler = &one(&scaled, "HorizontalPodAutoscaler")["spec"];
    assert_eq!((&autoscaler["minReplicas"], &autoscaler["maxReplicas"]), (&json!(2), &json!(4)));
    assert!(one(&scaled, "Deployment")["spec"].get("replicas").is_none());
    assert!(of_kind(&scaled, "PodDisruptionBudget").is_empty());
}

#[test]
fn the_pod_may_do_nothing_that_it_need_not_and_has_time_to_finish() {
    let objects = rendered(&least(&json!({ "supersync": { "shutdownTimeoutSeconds": 50 } })));
    let pod = &one(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(one(&objects, "ServiceAccount")["automountServiceAccountToken"], false);
    assert_eq!(pod["enableServiceLinks"], false);
    let rights = &pod["securityContext"];
    assert_eq!((&rights["runAsNonRoot"], &rights["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")));
    // The image's user.
    let dockerfile =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).expect("it is shipped");
    assert!(dockerfile.contains(&format!("\nUSER {0}:{0}\n", rights["runAsUser"])), "{rights}");
    let rights = json!({
        "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
    });
    let container = container(&objects);
    assert_eq!(container["securityContext"], rights);
    assert!(container["resources"]["limits"]["memory"].is_string() && container["resources"]["requests"].is_object());
    // SHUTDOWN_DELAY_SECONDS, SHUTDOWN_TIMEOUT_SECONDS, closing what is open, and some.
    assert_eq!(settings(&objects)["SHUTDOWN_DELAY_SECONDS"], "5");
    assert_eq!(pod["terminationGracePeriodSeconds"], 5 + 50 + 10);
    assert_eq!(settings(&objects)["SHUTDOWN_TIMEOUT_SECONDS"], "50");
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz/reads")]
    {
        assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "http" }), "{probe}");
    }
    assert_eq!(container["image"], format!("registry.example.org/supersync:{}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_value_becomes_a_setting_that_the_server_knows() {
    let everything = json!({ "supersync": {
        "cors": { "origins": "https://app.example.org" }, "registration": "invite", "allowedEmails": "*@example.org",
        "encryptionPolicy": "required", "defaultStorageQuotaBytes": 104_857_600, "dataRegion": "EU", "logLevel": "debug",
        "webauthn": { "rpId": "example.org", "rpName": "Sync", "origin": "https://sync.example.org" },
        "smtp": { "host": "mail.example.org", "port": 465, "secure": true, "user": "me", "from": "sync@example.org" },
        "privacy": {
            "contactName": "Ada", "addressStreet": "1 Lane", "addressCity": "London", "addressCountry": "UK",
            "contactEmail": "ada@example.org", "hostingProvider": "Somebody", "supervisoryAuthority": "ICO",
        },
        "cleanup": { "deleteBatchSize": 1000, "maxDeletedPerRun": 1_000_000 },
        "secret": { "smtpPassword": "hush" },
        "extraEnv": { "ARCHIVE_DAYS": 60, "LOG_LEVEL": "warn" },
    } });
    let objects = rendered(&least(&everything));
    let settings = settings(&objects);
    let known: BTreeSet<_> = variables().map(|variable| variable.name).collect();
    for name in settings.keys() {
        assert!(known.contains(name.as_str()), "{name}");
    }
    for (name, value) in [
        ("SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES", "104857600"),
        ("OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN", "1000000"),
        ("SMTP_PORT", "465"),
        ("SMTP_SECURE", "true"),
        ("SMTP_PASS", "hush"),
        ("ARCHIVE_DAYS", "60"),
        ("LOG_LEVEL", "warn"),
        ("PRIVACY_SUPERVISORY_AUTHORITY", "ICO"),
    ] {
        assert_eq!(settings.get(name).map(String::as_str), Some(value), "{name}");
    }
    let config = Config::parse(&settings).expect("the settings are right");
    assert_eq!(config.limits.default_quota_bytes, 104_857_600);
    // Secrets are in the secret.
    let open = one(&objects, "ConfigMap")["data"].as_object().expect("names and values");
    for variable in variables().filter(|variable| variable.secret) {
        assert!(!open.contains_key(variable.name), "{}", variable.name);
    }
}

#[test]
fn secrets_can_be_somebody_elses() {
    let values = json!({
        "supersync": { "existingSecret": "mine", "secret": { "jwtSecret": "" } },
        "externalDatabase": { "existingSecret": "db" },
    });
    let objects = rendered(&least(&values));
    assert!(of_kind(&objects, "Secret").is_empty());
    let container = container(&objects);
    let env = container["env"].as_array().expect("variables");
    let from: Vec<_> =
        env.iter().map(|one| (one["name"].as_str(), &one["valueFrom"]["secretKeyRef"]["name"])).collect();
    let (mine, db) = (json!("mine"), json!("db"));
    assert_eq!(
        from,
        [
            (Some("JWT_SECRET"), &mine),
            (Some("SMTP_PASS"), &mine),
            (Some("DATABASE_URL"), &db),
            (Some("DATABASE_DIRECT_URL"), &db)
        ]
    );
    assert_eq!(container["envFrom"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_service_ingress_policy_and_monitor_lead_to_the_pods() {
    let values = json!({
        "externalDatabase": { "url": URL, "port": 6432, "directUrl": "postgres://direct/x", "directPort": 5433 },
        "ingress": { "enabled": true, "host": "sync.example.org", "tlsSecret": "tls" },
        "networkPolicy": { "enabled": true },
        "serviceMonitor": { "enabled": true, "labels": { "release": "prometheus" } },
        "supersync": { "smtp": { "host": "mail.example.org" } },
    });
    let objects = rendered(&least(&values));
    assert_eq!(one(&objects, "Secret")["stringData"]["DATABASE_DIRECT_URL"], "postgres://direct/x");
    let labels = one(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"].clone();
    let ports: Vec<_> =
        container(&objects)["ports"].as_array().expect("ports").iter().map(|port| &port["name"]).collect();
    let services = of_kind(&objects, "Service");
    assert_eq!(services.len(), 2);
    for service in &services {
        assert_eq!(service["spec"]["selector"], labels);
        assert!(ports.contains(&&service["spec"]["ports"][0]["targetPort"]), "{service}");
    }
    let ingress = one(&objects, "Ingress");
    let backend = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert!(services.iter().any(|service| service["metadata"]["name"] == backend["name"]));
    assert_eq!(ingress["spec"]["tls"][0]["hosts"], json!(["sync.example.org"]));
    let annotation = |name: &str| &ingress["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{name}")];
    assert_eq!((annotation("proxy-read-timeout"), annotation("proxy-body-size")), (&json!("85"), &json!("30m")));
    assert_eq!(annotation("enable-access-log"), "false");
    let policy = &one(&objects, "NetworkPolicy")["spec"];
    assert_eq!(policy["podSelector"]["matchLabels"], labels);
    let allowed: Vec<_> =
        policy["egress"].as_array().expect("rules").iter().map(|rule| &rule["ports"][0]["port"]).collect();
    assert_eq!(allowed, [&json!(53), &json!(6432), &json!(587)]);
    assert_eq!(policy["egress"][1]["ports"][1]["port"], 5433);
    let monitor = one(&objects, "ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let watched = monitor["spec"]["selector"]["matchLabels"].as_object().expect("labels");
    let matching = services
        .iter()
        .filter(|service| watched.iter().all(|(name, value)| service["metadata"]["labels"][name] == *value));
    assert_eq!(matching.count(), 1);
}
