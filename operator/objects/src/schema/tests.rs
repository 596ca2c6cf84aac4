#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
use serde_json::json;

use super::*;

fn refusals(schema: &Value, value: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    Node::compile(schema, "T").validate(value, &mut "spec".to_owned(), &mut violations);
    violations.iter().map(ToString::to_string).collect()
}

#[test]
fn an_address_has_one_of_the_forms_that_its_type_allows() {
    let gateway = |address: Value| {
        let mut object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "team"},
            "spec": {
                "gatewayClassName": "shardway", "addresses": [address],
                "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
            },
        });
        match admit("Gateway", "v1", &mut object) {
            Ok(()) => Vec::new(),
            Err(violations) => violations.iter().map(ToString::to_string).collect(),
        }
    };
    for good in [
        json!({"value": "127.1.0.5"}),
        json!({"type": "IPAddress", "value": "fd00::1"}),
        json!({"type": "IPAddress"}),
        json!({"type": "Hostname", "value": "a.example.com"}),
    ] {
        assert_eq!(gateway(good), Vec::<String>::new());
    }
    assert_eq!(
        gateway(json!({"value": "127.1.0.5:80"})),
        [
            "spec.addresses[0].value: \"127.1.0.5:80\" is not an IPv4 address, and \"127.1.0.5:80\" is not an IPv6 address"
        ]
    );
}

#[test]
fn forms_are_combined_as_json_schema_says() {
    let short = json!({"maxLength": 3});
    let digits = json!({"pattern": "^[0-9]+$"});
    let of = |word: &str| json!({"type": "string", word: [short, digits]});
    for (word, value, good) in [
        ("allOf", "123", true),
        ("allOf", "abc", false),
        ("anyOf", "abc", true),
        ("anyOf", "abcd", false),
        ("oneOf", "abc", true),
        ("oneOf", "12345", true),
        ("oneOf", "123", false),
        ("oneOf", "abcd", false),
    ] {
        let found = refusals(&of(word), &json!(value));
        assert_eq!(found.is_empty(), good, "{word} {value}: {found:?}");
    }
    let not = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "not": {"required": ["a", "b"]}});
    assert!(refusals(&not, &json!({"a": "x"})).is_empty());
    assert_eq!(refusals(&not, &json!({"a": "x", "b": "y"})).len(), 1);
}

#[test]
fn what_is_not_known_of_a_schema_is_named() {
    let schema = json!({
        "type": "object",
        "properties": {
            "a": {"type": "string", "format": "bsonobjectid"},
            "b": {"type": "string", "pattern": "(?=x)"},
            "c": {"anyOf": [{"uniqueItems": true}]},
        },
    });
    let mut found = Vec::new();
    Node::compile(&schema, "T").not_evaluated("T", &mut found);
    assert_eq!(
        found,
        [
            "T.a: format bsonobjectid",
            "T.b: pattern (?=x)",
            "T.c: uniqueItems"
        ]
    );
}
