//! Pods, a Service with a load-balancer address, a volume and DNS in a cluster.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use perf_cluster::process::Ending;
use perf_cluster::{Cluster, containerd, images, process};
use serde_json::{Value, json};

use super::wait;

const WITHIN: Duration = Duration::from_secs(60);
const SERVICES: &str = "/api/v1/namespaces/test/services";

/// Runs them and checks what they answer.
pub(crate) fn runs(cluster: &Cluster) {
    for manifest in manifests() {
        let file = cluster.state().join("manifest.json");
        fs::write(&file, manifest.to_string()).unwrap();
        cluster
            .kubectl(&["apply", "-f", &file.to_string_lossy()])
            .unwrap();
    }
    let addresses = addresses(cluster);
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        let answers =
            || ask(cluster, *address).is_some_and(|answer| answer.contains("\"pod\": \"echo-"));
        wait(WITHIN, answers);
    }
    a_pod_finds_the_service_by_name(cluster);
    a_container_that_is_killed_comes_back(cluster);
    a_volume_goes_with_its_claim(cluster);
    addresses_are_wanted_and_released(cluster, addresses[0]);
    the_api_server_comes_back(cluster);
}

/// An image of a program of this machine with what it loads, as a user that is not root.
fn a_pod_finds_the_service_by_name(cluster: &Cluster) {
    images::load(cluster, "test/curl:1", &["/usr/bin/curl".into()]).unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "asks", "namespace": "test"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "curl", "image": "test/curl:1", "imagePullPolicy": "Never",
                "args": ["-sS", "--retry", "9", "--retry-connrefused", "http://echo.test.svc.cluster.local/name"],
                "securityContext": restricted(),
            }],
        },
    });
    let path = "/api/v1/namespaces/test/pods";
    let answer = cluster
        .inside(|| cluster.api()?.create(path, &pod))
        .unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    wait(WITHIN, || {
        get(cluster, &format!("{path}/asks"))["status"]["phase"] == "Succeeded"
    });
    let said = cluster
        .kubectl(&["logs", "--namespace=test", "asks"])
        .unwrap();
    assert!(said.contains("\"path\": \"/name\""), "{said}");
}

fn a_container_that_is_killed_comes_back(cluster: &Cluster) {
    let list = get(
        cluster,
        "/api/v1/namespaces/test/pods?labelSelector=app%3Decho",
    );
    let pod = list["items"][0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/api/v1/namespaces/test/pods/{pod}");
    let restarts =
        || get(cluster, &path)["status"]["containerStatuses"][0]["restartCount"].as_u64();
    assert_eq!(restarts(), Some(0));
    containerd::kill(cluster, "test", &pod, "echo").unwrap();
    wait(WITHIN, || restarts() == Some(1));
    let error = containerd::kill(cluster, "test", &pod, "other").unwrap_err();
    assert!(error.to_string().contains("no container other"), "{error}");
}

fn a_volume_goes_with_its_claim(cluster: &Cluster) {
    let claim = "/api/v1/namespaces/test/persistentvolumeclaims/data";
    let name = get(cluster, claim)["spec"]["volumeName"]
        .as_str()
        .unwrap()
        .to_owned();
    let folder = cluster.state().join("volumes").join(&name);
    assert!(folder.is_dir(), "{}", folder.display());
    // A pod that uses a claim keeps it.
    delete(cluster, "/apis/apps/v1/namespaces/test/deployments/echo");
    delete(cluster, claim);
    wait(WITHIN, || !folder.exists());
    let volume = format!("/api/v1/persistentvolumes/{name}");
    wait(WITHIN, || get(cluster, &volume).is_null());
}

fn addresses_are_wanted_and_released(cluster: &Cluster, taken: IpAddr) {
    let wants = |name: &str, address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "test"},
            "spec": {"type": "LoadBalancer", "loadBalancerIP": address, "ports": [{"port": 80}]},
        })
    };
    let has = |name: &str| {
        let service = get(cluster, &format!("{SERVICES}/{name}"));
        service["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .map(str::to_owned)
    };
    for service in [wants("a", "10.98.0.200"), wants("b", &taken.to_string())] {
        let answer = cluster
            .inside(|| cluster.api()?.create(SERVICES, &service))
            .unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    wait(WITHIN, || has("a").as_deref() == Some("10.98.0.200"));
    // Events come in order, so the answer to the first is the answer to both: no.
    wait(WITHIN, || {
        let log = fs::read_to_string(cluster.log("load-balancer")).unwrap();
        log.contains(&format!("test/b: {taken} is taken by test/echo"))
    });
    assert_eq!(has("b"), None);
    delete(cluster, &format!("{SERVICES}/echo"));
    wait(WITHIN, || has("b") == Some(taken.to_string()));
}

/// What the cluster holds outlives a killed API server, and its controllers find it again.
fn the_api_server_comes_back(cluster: &Cluster) {
    process::stop(cluster, "kube-apiserver", Ending::Killed).unwrap();
    assert!(
        cluster
            .inside(|| Ok(cluster.api()?.answers("/readyz")))
            .is_ok_and(|answers| !answers)
    );
    process::start_again(cluster, "kube-apiserver").unwrap();
    wait(WITHIN, || {
        cluster
            .inside(|| Ok(cluster.api()?.answers("/readyz")))
            .unwrap()
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "late", "namespace": "test"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    });
    cluster
        .inside(|| cluster.api()?.create(SERVICES, &service))
        .unwrap();
    wait(WITHIN, || {
        let late = get(cluster, &format!("{SERVICES}/late"));
        late["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
    });
}

fn addresses(cluster: &Cluster) -> Vec<IpAddr> {
    let mut found = Vec::new();
    wait(WITHIN, || {
        let service = get(cluster, &format!("{SERVICES}/echo"));
        found = service["status"]["loadBalancer"]["ingress"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["ip"].as_str()?.parse().ok())
            .collect();
        !found.is_empty()
    });
    found
}

/// One request from inside the cluster's network.
fn ask(cluster: &Cluster, address: IpAddr) -> Option<String> {
    let answer = cluster.inside(|| {
        let mut stream = TcpStream::connect_timeout(&(address, 80).into(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    answer.ok()
}

/// An object; null when it is not there.
fn get(cluster: &Cluster, path: &str) -> Value {
    cluster
        .inside(|| cluster.api()?.get(path))
        .unwrap_or_default()
}

fn delete(cluster: &Cluster, path: &str) {
    let answer = cluster.inside(|| cluster.api()?.delete(path)).unwrap();
    assert!(answer.status < 300, "{answer:?}");
}

fn restricted() -> Value {
    json!({
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn manifests() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "test", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": "test"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "test"},
            "spec": {
                "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack",
                "allocateLoadBalancerNodePorts": false,
                "selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": 3000}],
            },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "echo", "namespace": "test"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "echo"}},
                "template": {
                    "metadata": {"labels": {"app": "echo"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{
                            "name": "echo",
                            "image": "registry.k8s.io/gateway-api/echo-basic:v1.5.1",
                            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                            "readinessProbe": {"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 1},
                            "securityContext": restricted(),
                            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                        }],
                        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
                    },
                },
            },
        }),
    ]
}
