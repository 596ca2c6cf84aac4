//! Mistakes that take nobody else down, and their repair, as a user meets them.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::net::TcpListener;

use perf_e2e::{Up, wait_for};
use serde_json::Value;

/// A Gateway on one port, with a route that answers.
fn gateway(name: &str, address: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: team-c}}\nspec:\n  \
         gatewayClassName: shardway\n  addresses: [{{value: {address}}}]\n  \
         listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: team-c}}\nspec:\n  \
         parentRefs: [{{name: {name}}}]\n  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {name}.test}}}}]}}]\n"
    )
}

/// Reason of a Gateway's Programmed condition.
fn programmed(up: &Up, name: &str) -> Option<String> {
    let text = up
        .shardway(&["get", "gateway", name, "-n", "team-c", "-o", "json"])
        .ok()?;
    let document: Value = serde_json::from_str(&text).ok()?;
    let object = document.get("items").map_or(&document, |items| &items[0]);
    let conditions = object["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|c| c["type"] == "Programmed")?;
    Some(condition["reason"].as_str()?.to_owned())
}

fn wait_programmed(up: &Up, name: &str, reason: &str) {
    wait_for(&format!("{name} to be {reason}"), || {
        (programmed(up, name)? == reason).then_some(())
    });
}

/// Where a Gateway's route leads.
fn location(up: &Up, address: &str, port: u16) -> String {
    up.shell(&format!(
        "curl -s -m 5 -o /dev/null -w '%{{redirect_url}}' http://{address}:{port}/ || true"
    ))
}

#[test]
fn an_address_that_is_held_is_had_once_it_is_free_or_another_is_chosen() {
    let up = Up::start("quickstart");
    let (one, two) = (up.address(200), up.address(201));
    fs::write(up.folder.join("a.yaml"), gateway("a", &one, 8080)).unwrap();
    wait_programmed(&up, "a", "Programmed");
    fs::write(up.folder.join("b.yaml"), gateway("b", &one, 8080)).unwrap();
    fs::write(up.folder.join("c.yaml"), gateway("c", &one, 8080)).unwrap();
    wait_programmed(&up, "b", "AddressNotUsable");
    wait_programmed(&up, "c", "AddressNotUsable");
    assert!(location(&up, &one, 8080).starts_with("http://a.test"));

    // Another address.
    up.edit("c.yaml", |text| text.replace(&one, &two));
    wait_programmed(&up, "c", "Programmed");
    assert!(location(&up, &two, 8080).starts_with("http://c.test"));

    // The holder goes.
    fs::remove_file(up.folder.join("a.yaml")).unwrap();
    wait_programmed(&up, "b", "Programmed");
    assert!(location(&up, &one, 8080).starts_with("http://b.test"));

    // One save that swaps two addresses: on each, its new Gateway answers and goes on to.
    up.edit("b.yaml", |text| text.replace(&one, "SWAP"));
    up.edit("c.yaml", |text| text.replace(&two, &one));
    up.edit("b.yaml", |text| text.replace("SWAP", &two));
    wait_for("the swap", || {
        let swapped = location(&up, &one, 8080).starts_with("http://c.test")
            && location(&up, &two, 8080).starts_with("http://b.test");
        swapped.then_some(())
    });
}

#[test]
fn a_port_that_is_taken_is_tried_again_and_other_changes_do_not_lose_it() {
    let up = Up::start("quickstart");
    let address = up.address(200);
    let taken = TcpListener::bind((address.as_str(), 8080)).unwrap();
    fs::write(up.folder.join("a.yaml"), gateway("a", &address, 8080)).unwrap();
    wait_for("the port to be unavailable", || {
        let yaml = up
            .shardway(&["get", "gateway", "a", "-n", "team-c", "-o", "yaml"])
            .ok()?;
        yaml.contains("PortUnavailable").then_some(())
    });
    // A change of the same Gateway that has nothing to do with it.
    up.edit("a.yaml", |text| {
        text.replace(
            "protocol: HTTP}",
            "protocol: HTTP}, {name: more, port: 8081, protocol: HTTP}",
        )
    });
    wait_for("the other listener", || {
        location(&up, &address, 8081)
            .starts_with("http://a.test")
            .then_some(())
    });
    drop(taken);
    wait_for("the port that was taken", || {
        location(&up, &address, 8080)
            .starts_with("http://a.test")
            .then_some(())
    });
    wait_programmed(&up, "a", "Programmed");
}

#[test]
fn a_restart_while_manifests_are_broken_keeps_what_was_served() {
    let mut up = Up::start("quickstart");
    let (address, port, _) = up.binding("team-b", "api", 8080);
    let (shop, shop_port, _) = up.binding("team-a", "web", 80);
    let api = format!("curl -s -m 5 -f -H 'Host: api.team-b.test' http://{address}:{port}/");
    let web = format!("curl -s -m 5 -f -H 'Host: shop.team-a.test' http://{shop}:{shop_port}/");
    // One file that no YAML parser reads, and one route that is refused.
    up.edit("team-b.yaml", |text| text.replacen("spec:", "spec: [", 1));
    up.edit("team-a.yaml", |text| {
        text.replacen("backendRefs:", "backendRfs:", 1)
    });
    wait_for("both problems", || {
        let status = up.shardway(&["status"]).ok()?;
        (status.contains("team-b.yaml") && status.contains("backendRfs")).then_some(())
    });
    assert_eq!(up.interrupt(), Some(0));
    up.run();
    for line in [&api, &web] {
        up.shell(line);
    }
    // Repaired, it follows edits again.
    up.edit("team-b.yaml", |text| text.replacen("spec: [", "spec:", 1));
    up.edit("team-a.yaml", |text| {
        text.replace("backendRfs:", "backendRefs:")
    });
    up.wait_for_line("HTTPRoute team-a/");
    for line in [&api, &web] {
        up.shell(line);
    }
    // What is deleted after all goes.
    fs::remove_file(up.folder.join("team-b.yaml")).unwrap();
    wait_for("the end of team-b's gateway", || {
        let code = up.shell(&format!("{api} -o /dev/null; echo $?"));
        (code.trim() != "0").then_some(())
    });
}
