#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use super::*;
use crate::manifest::parse;

fn decoded(text: &str) -> Decoded {
    let document = parse(text).remove(0).unwrap();
    decode(&document, &Provenance::default())
}

#[test]
fn a_kind_that_is_meant_for_us_and_not_taken_is_an_error_with_a_hint() {
    let of = |api_version: &str, kind: &str| {
        let text = format!("{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: a}}}}");
        match decoded(&text) {
            Decoded::Ignored { message, is_error } => (message, is_error),
            other => panic!("{other:?}"),
        }
    };
    let gateway = "gateway.networking.k8s.io/v1";
    for (api_version, kind, message, is_error) in [
        (
            gateway,
            "HttpRoute",
            "unknown kind HttpRoute; did you mean HTTPRoute?",
            true,
        ),
        (
            gateway,
            "GateWays",
            "unknown kind GateWays; did you mean Gateway?",
            true,
        ),
        (
            gateway,
            "GRPCRoute",
            "kind GRPCRoute is not served yet; taken are ",
            true,
        ),
        (
            gateway,
            "Frobnicator",
            "unknown kind Frobnicator; taken are ",
            true,
        ),
        (
            "apps/v1",
            "Deployment",
            "kind Deployment (apps) is not looked at; taken are ",
            false,
        ),
    ] {
        let found = of(api_version, kind);
        assert!(found.0.starts_with(message), "{}", found.0);
        assert_eq!(found.1, is_error, "{kind}");
    }
}

#[test]
fn an_object_that_is_too_large_is_rejected_by_its_name() {
    let text = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: a, namespace: team}}, data: {{x: {}}}}}",
        "y".repeat(OBJECT_BYTES_MAX)
    );
    let Decoded::Rejected(rejected) = decoded(&text) else {
        panic!("taken");
    };
    assert_eq!(rejected.key.to_string(), "ConfigMap team/a");
    assert!(
        rejected.message.contains("an object may have 1048576"),
        "{}",
        rejected.message
    );
}

#[test]
fn a_secret_whose_key_is_not_its_certificates_is_rejected() {
    let (own, other) = (
        rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap(),
        rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap(),
    );
    let secret = |kind: &str, key: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind,
            "metadata": {"name": "a", "namespace": "team"},
            "stringData": {"tls.crt": own.cert.pem(), "tls.key": key.signing_key.serialize_pem()},
        });
        decoded(&object.to_string())
    };
    assert!(matches!(
        secret("kubernetes.io/tls", &own),
        Decoded::Object(_)
    ));
    assert!(matches!(secret("Opaque", &other), Decoded::Object(_)));
    let Decoded::Rejected(rejected) = secret("kubernetes.io/tls", &other) else {
        panic!("taken");
    };
    assert!(
        rejected.message.starts_with("tls.key does not belong"),
        "{}",
        rejected.message
    );
}

/// As an API server sends what was applied without endpoints.
#[test]
fn a_slice_without_endpoints_is_one() {
    let document = Document {
        line: 0,
        group: "discovery.k8s.io".into(),
        version: "v1".into(),
        kind: "EndpointSlice".into(),
        namespace: "a".into(),
        name: "manual".into(),
        object: serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "manual", "namespace": "a", "labels": {"kubernetes.io/service-name": "app"}},
            "addressType": "IPv4", "endpoints": null, "ports": [{"name": "first-port", "port": 3000, "protocol": "TCP"}]}),
    };
    let provenance = Provenance {
        uid: String::new(),
        generation: 0,
        created_at: Timestamp(0),
    };
    match decode_admitted(&document, &provenance) {
        Decoded::Object(Object::EndpointSlice(slice)) => assert!(slice.endpoints.is_empty()),
        other => panic!("no slice: {other:?}"),
    }
}
