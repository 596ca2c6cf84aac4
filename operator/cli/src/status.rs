//! `status`, `revisions`, `shards`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;

use serde_json::Value;

use crate::client::Client;
use crate::notes::notes;
use crate::objects::documents;
use crate::table::render;

/// Notes that are shown; a folder may be full of kinds that are not looked at.
const NOTES_MAX: usize = 20;

/// How the operator and its shards are.
pub(crate) async fn status(client: &Client) -> anyhow::Result<String> {
    let info: Value = client.json("/api/v1/info").await?;
    let text = |pointer: &str| info.pointer(pointer).map_or_else(String::new, plain);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "operator   {} (pid {}), raft {} in term {}",
        text("/version"),
        text("/pid"),
        text("/raft/role"),
        text("/raft/term")
    );
    if let Some(members) = members(&info) {
        let _ = writeln!(out, "replicas   {members}");
    }
    let _ = writeln!(out, "source     {}", text("/source"));
    let _ = writeln!(
        out,
        "revision   {} (root hash {})",
        text("/revision"),
        text("/rootHash")
    );
    let _ = writeln!(
        out,
        "objects    {} gateways, {} routes, {} rejected, {} problems",
        text("/gateways"),
        text("/routes"),
        text("/rejected"),
        text("/problems")
    );
    out.push('\n');
    out.push_str(&shards(client).await?);
    let problems: Vec<Value> = client.json("/api/v1/problems").await?;
    let is_error = |problem: &&Value| problem["error"] == true;
    for problem in problems.iter().filter(is_error) {
        let _ = write!(out, "\nproblem: {}\n", plain(&problem["message"]));
    }
    let said: Vec<String> = problems
        .iter()
        .filter(|problem| !is_error(problem))
        .map(|problem| plain(&problem["message"]))
        .collect();
    // A folder that cannot be read from here is no reason to show nothing.
    let documents = documents(client).await.unwrap_or_default();
    let all: Vec<String> = said.into_iter().chain(notes(&documents)).collect();
    for note in all.iter().take(NOTES_MAX) {
        let _ = write!(out, "\nnote: {note}\n");
    }
    if all.len() > NOTES_MAX {
        let _ = write!(out, "\nand {} more notes\n", all.len() - NOTES_MAX);
    }
    Ok(out)
}

/// The members of Raft, when there are several: which of them are heard of, and how far behind they are.
fn members(info: &Value) -> Option<String> {
    let members: Vec<&Value> = list(&info["raft"]["members"]).collect();
    if members.len() < 2 {
        return None;
    }
    let commit = info["raft"]["commit"].as_u64().unwrap_or_default();
    let away = |member: &&&Value| member["active"] == false;
    let learners = members.iter().filter(|member| member["voter"] == false);
    let behind = members.iter().filter_map(|member| {
        let matched = member["matched"].as_u64()?;
        let lacks = commit.saturating_sub(matched);
        (lacks > 0).then(|| format!("member {} lacks {lacks} entries", member["id"]))
    });
    let mut text = format!("{} members", members.len());
    let counts = [
        (learners.count(), "join"),
        (members.iter().filter(away).count(), "not heard of"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(text, ", {count} {what}");
    }
    for behind in behind {
        let _ = write!(text, ", {behind}");
    }
    Some(text)
}

/// The newest revisions.
pub(crate) async fn revisions(client: &Client, last: usize) -> anyhow::Result<String> {
    let records: Vec<Value> = client.json("/api/v1/revisions").await?;
    let rows: Vec<Vec<String>> = records
        .iter()
        .skip(records.len().saturating_sub(last))
        .map(|record| {
            let objects: Vec<String> = list(&record["objects"]).map(object).collect();
            let gateways: Vec<String> = list(&record["gateways"]).map(object).collect();
            let total = record["objects_total"].as_u64().unwrap_or_default() as usize;
            let shown: Vec<&str> = objects.iter().take(3).map(String::as_str).collect();
            let more = total.saturating_sub(shown.len());
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            vec![
                plain(&record["revision"]),
                time(record["seen_at_us"].as_u64().unwrap_or_default()),
                plain(&record["entries"]),
                plain(&record["facts"]),
                gateways.into_iter().take(3).collect::<Vec<_>>().join(","),
                format!("{}{more}", shown.join(", ")),
            ]
        })
        .collect();
    Ok(render(
        &[
            "REVISION", "TIME", "ENTRIES", "FACTS", "GATEWAYS", "OBJECTS",
        ],
        &rows,
    ))
}

/// The pool.
pub(crate) async fn shards(client: &Client) -> anyhow::Result<String> {
    let mut told: Vec<Value> = client.json("/api/v1/shards").await?;
    // A replica knows the load of those alone that are connected to it. One that does not answer now is no reason to show
    // nothing.
    for other in client.others() {
        let more: Vec<Value> = other.json("/api/v1/shards").await.unwrap_or_default();
        told.extend(more);
    }
    let shards = best_of_each(told);
    let rows: Vec<Vec<String>> = shards
        .iter()
        .map(|shard| {
            vec![
                format!("shard-{}", shard["shard"]),
                if shard["connected"] == true {
                    "yes".into()
                } else {
                    "no".into()
                },
                plain(&shard["gateways"]),
                plain(&shard["connections"]),
                plain(&shard["requests_in_flight"]),
                plain(&shard["requests_total"]),
                format!(
                    "{:.1} MiB",
                    shard["rss_bytes"].as_f64().unwrap_or_default() / 1_048_576.0
                ),
                plain(&shard["admin"]),
            ]
        })
        .collect();
    Ok(render(
        &[
            "SHARD",
            "CONNECTED",
            "GATEWAYS",
            "CONNECTIONS",
            "IN-FLIGHT",
            "REQUESTS",
            "MEMORY",
            "ADMIN",
        ],
        &rows,
    ))
}

/// Of each shard what the replica says that it is connected to; else what the first one says.
fn best_of_each(told: Vec<Value>) -> Vec<Value> {
    let mut best: BTreeMap<u64, Value> = BTreeMap::new();
    let is_first_hand = |shard: &Value| {
        let has_admin = shard["admin"]
            .as_str()
            .is_some_and(|admin| !admin.is_empty());
        shard["connected"] == true && has_admin
    };
    for shard in told {
        let number = shard["shard"].as_u64().unwrap_or_default();
        match best.entry(number) {
            Entry::Vacant(entry) => {
                entry.insert(shard);
            }
            Entry::Occupied(mut entry) => {
                if is_first_hand(&shard) && !is_first_hand(entry.get()) {
                    entry.insert(shard);
                }
            }
        }
    }
    best.into_values().collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn object(value: &Value) -> String {
    let name = match value["namespace"].as_str() {
        Some(namespace) if !namespace.is_empty() => {
            format!("{namespace}/{}", plain(&value["name"]))
        }
        _ => plain(&value["name"]),
    };
    match value["kind"].as_str() {
        Some(kind) => format!("{kind} {name}"),
        None => name,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Time of day in UTC.
fn time(us: u64) -> String {
    let seconds = us / 1_000_000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{:03}Z",
        seconds % 60,
        us / 1000 % 1000
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shard_is_as_the_replica_says_that_it_is_connected_to() {
        let told = |shard: u64, connected: bool, admin: &str, requests: u64| json!({"shard": shard, "connected": connected, "admin": admin, "requests_total": requests});
        let of_leader = [told(0, true, "", 0), told(1, true, "1", 7)];
        let of_other = [
            told(0, true, "0", 5),
            told(1, false, "1", 3),
            told(2, false, "", 0),
        ];
        let best = best_of_each(of_leader.into_iter().chain(of_other).collect());
        let requests: Vec<u64> = best
            .iter()
            .filter_map(|s| s["requests_total"].as_u64())
            .collect();
        assert_eq!(requests, [5, 7, 0]);
    }

    #[test]
    fn members_are_told_by_what_is_wrong_with_them() {
        let member = |id: u64, voter: bool, matched: u64, active: bool| json!({"id": id, "voter": voter, "matched": matched, "active": active});
        let info = |members: Vec<Value>| json!({"raft": {"commit": 9, "members": members}});
        let alone = info(vec![member(1, true, 9, true)]);
        assert_eq!(members(&alone), None);
        let well = (1..4).map(|id| member(id, true, 9, true)).collect();
        assert_eq!(members(&info(well)).as_deref(), Some("3 members"));
        let ill = info(vec![
            member(1, true, 9, true),
            member(2, true, 7, false),
            member(4, false, 9, true),
        ]);
        let text = members(&ill);
        let expected = "3 members, 1 join, 1 not heard of, member 2 lacks 2 entries";
        assert_eq!(text.as_deref(), Some(expected));
    }
}
