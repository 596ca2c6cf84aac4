#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use super::*;

fn data(text: &str) -> BTreeMap<String, String> {
    [(PARAMETERS_KEY.to_owned(), text.to_owned())].into()
}

fn pool() -> ServiceSettings {
    ServiceSettings {
        type_: Some(ServiceType::LoadBalancer),
        load_balancer_class: Some("cloud.example/lb".into()),
        external_traffic_policy: Some(TrafficPolicy::Cluster),
        annotations: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
        ..ServiceSettings::default()
    }
}

#[test]
fn what_a_gateway_says_takes_the_place_of_what_the_pool_says() {
    let over = "externalTrafficPolicy: Local\nipFamilies: [IPv6]\nannotations: {b: '3', c: '4'}\n";
    let settings = pool().overridden(&data(over)).unwrap();
    let expected = ServiceSettings {
        external_traffic_policy: Some(TrafficPolicy::Local),
        ip_families: vec![Family::V6],
        annotations: [("a", "1"), ("b", "3"), ("c", "4")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..pool()
    };
    assert_eq!(settings, expected);
}

#[test]
fn an_empty_document_changes_nothing() {
    assert_eq!(pool().overridden(&data("")).unwrap(), pool());
    assert_eq!(pool().overridden(&data("{}\n")).unwrap(), pool());
}

#[test]
fn another_type_leaves_the_class_behind() {
    let settings = pool().overridden(&data("type: ClusterIP")).unwrap();
    assert_eq!(settings.service_type(), ServiceType::ClusterIp);
    assert_eq!(settings.load_balancer_class, None);
}

#[test]
fn one_family_of_a_gateway_is_not_made_two_by_the_pool() {
    let dual = ServiceSettings {
        ip_families: vec![Family::V4, Family::V6],
        ip_family_policy: Some(FamilyPolicy::RequireDualStack),
        ..ServiceSettings::default()
    };
    let settings = dual.overridden(&data("ipFamilies: [IPv6]")).unwrap();
    assert_eq!(settings.ip_families, [Family::V6]);
    assert_eq!(settings.ip_family_policy, None);
}

#[test]
fn what_cannot_be_is_refused_with_words() {
    for (text, expected) in [
        ("colour: red", "colour"),
        ("type: ExternalName", "ExternalName"),
        ("type: [", "service"),
        ("annotations: 3", "service"),
        (
            "{type: ClusterIP, loadBalancerClass: a}",
            "needs type LoadBalancer",
        ),
        ("ipFamilies: [IPv4, IPv4]", "a family once"),
        ("ipFamilies: [IPv4, IPv6]", "need ipFamilyPolicy"),
        ("ipFamilies: [IPv4, IPv6, IPv4]", "at most two"),
    ] {
        let error = pool().overridden(&data(text)).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains('\n'), "{text}: {error}");
    }
    let unknown = [("sevrice".to_owned(), String::new())].into();
    assert_eq!(
        pool().overridden(&unknown),
        Err(ParametersError::UnknownKey("sevrice".into()))
    );
    assert_eq!(
        pool().overridden(&BTreeMap::new()),
        Err(ParametersError::Missing)
    );
}
