#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use serde_json::json;

use super::*;

fn document(object: Value) -> Document {
    let text = object.to_string();
    operator_objects::manifest::parse(&text).remove(0).unwrap()
}

#[test]
fn only_listeners_that_the_parent_names_are_targets_and_a_certificate_in_base64_is_one() {
    let api = "gateway.networking.k8s.io/v1";
    let certificate = include_str!("../../../../api/examples/quickstart/tls-team-a.yaml");
    let secret = operator_objects::manifest::parse(certificate)
        .remove(0)
        .unwrap();
    let plain = pem(&secret).unwrap();
    let mut encoded = secret.clone();
    let given = encoded.object["stringData"].take();
    encoded.object.as_object_mut().unwrap().remove("stringData");
    for field in ["tls.crt", "tls.key"] {
        encoded.object["data"][field] = json!(base64(given[field].as_str().unwrap().as_bytes()));
    }
    assert_eq!(pem(&encoded).unwrap(), plain);

    let gateway = document(json!({
        "apiVersion": api, "kind": "Gateway", "metadata": {"name": "web", "namespace": "a"},
        "spec": {"listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "other", "port": 81, "protocol": "HTTP"},
        ]},
    }));
    let route = document(json!({
        "apiVersion": api, "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "a"},
        "spec": {"parentRefs": [{"name": "web", "port": 81}]},
    }));
    let statuses = json!([
        {"kind": "Gateway", "namespace": "a", "name": "web", "status": {"conditions": [{"type": "Programmed", "status": "True"}]}},
        {"kind": "HTTPRoute", "namespace": "a", "name": "r", "status": {"parents": []}},
    ]);
    let bindings = json!([
        {"namespace": "a", "name": "web", "port": 80, "publicPort": 80, "addresses": ["127.1.0.1"]},
        {"namespace": "a", "name": "web", "port": 81, "publicPort": 10081, "addresses": ["127.1.0.1"]},
    ]);
    let documents = [gateway, route, encoded];
    let found: Vec<Target<'_>> = targets(&documents, &statuses, &bindings).collect();
    assert_eq!(found.len(), 1);
    let request = Request {
        method: "POST".into(),
        headers: vec!["x-a: b".into()],
        target: "/x".into(),
    };
    let line = line(&documents, &found[0], &request, Path::new("unused")).unwrap();
    assert_eq!(
        line.unwrap(),
        "curl -s -X POST -H 'x-a: b' -H 'Host: example.test' http://127.1.0.1:10081/x"
    );
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let at = (group >> (18 - 6 * digit)) & 63;
            let is_padding = digit > chunk.len();
            out.push(if is_padding {
                '='
            } else {
                char::from(DIGITS[at as usize])
            });
        }
    }
    out
}
