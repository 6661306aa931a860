//! Every request that reached the API server, from its audit log: who, what verb, which resource. Request budgets are tested with it.
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

/// A place in the audit log, to count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditMark(u64);

/// One request. Watches are entered when they begin, all others when they are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub at: Timestamp,
    pub user: String,
    pub user_agent: String,
    pub verb: String,
    /// `""` for core resources and for requests outside of resources.
    pub group: String,
    /// With its subresource: `canaries/status`. A path such as `/readyz` where no resource is concerned.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    /// HTTP status.
    pub code: u16,
}

/// The requests of a stretch of time.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    pub requests: Vec<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    uri: String,
    user: EntryUser,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<EntryObject>,
    response_status: Option<EntryResponse>,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct EntryUser {
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EntryObject {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct EntryResponse {
    #[serde(default)]
    code: u16,
}

fn request(line: &str) -> Option<Request> {
    let entry: Entry = serde_json::from_str(line).ok()?;
    let counted = if entry.verb == "watch" {
        "ResponseStarted"
    } else {
        "ResponseComplete"
    };
    if entry.stage != counted {
        return None;
    }
    let object = entry.object_ref.unwrap_or_default();
    let resource = match (object.resource.as_str(), object.subresource.as_str()) {
        ("", _) => entry.uri.split('?').next().unwrap_or_default().to_owned(),
        (resource, "") => resource.to_owned(),
        (resource, subresource) => format!("{resource}/{subresource}"),
    };
    Some(Request {
        at: entry.stage_timestamp,
        user: entry.user.username,
        user_agent: entry.user_agent,
        verb: entry.verb,
        group: object.api_group,
        resource,
        namespace: object.namespace,
        name: object.name,
        code: entry.response_status.map_or(0, |status| status.code),
    })
}

impl Audit {
    /// The place that the log has reached.
    pub(super) fn mark(log: &Path) -> Result<AuditMark> {
        Ok(AuditMark(std::fs::metadata(log)?.len()))
    }

    /// What was logged from a mark on. The API server logs before it answers, so nothing that was answered is missing.
    pub(super) fn since(log: &Path, mark: AuditMark) -> Result<Self> {
        let mut file = std::fs::File::open(log)?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(Self::read(&String::from_utf8_lossy(&text)))
    }

    fn read(log: &str) -> Self {
        Self {
            requests: log.lines().filter_map(request).collect(),
        }
    }

    /// How many requests fit.
    pub fn count(&self, fits: impl Fn(&Request) -> bool) -> usize {
        self.requests.iter().filter(|request| fits(request)).count()
    }

    /// Without watches, which are how a controller sees, and without the lease, which is how it is alone.
    #[must_use]
    pub fn work(&self) -> Self {
        Self {
            requests: self
                .requests
                .iter()
                .filter(|request| request.verb != "watch" && request.resource != "leases")
                .cloned()
                .collect(),
        }
    }

    /// Only the requests of one user.
    #[must_use]
    pub fn of_user(&self, user: &str) -> Self {
        Self {
            requests: self
                .requests
                .iter()
                .filter(|request| request.user == user)
                .cloned()
                .collect(),
        }
    }
}

/// A table by user, verb and resource, most frequent first.
impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
        for request in &self.requests {
            *counts
                .entry((&request.user, &request.verb, &request.resource))
                .or_default() += 1;
        }
        let mut rows: Vec<_> = counts.into_iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for ((user, verb, resource), count) in rows {
            writeln!(f, "{count:>7}  {user:<32} {verb:<8} {resource}")?;
        }
        writeln!(f, "{:>7}  in all", self.requests.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        r#"{"kind":"Event","level":"Metadata","stage":"ResponseComplete","requestURI":"/apis/flagger.app/v1beta1/namespaces/t/canaries/app/status?fieldManager=serin","verb":"patch","user":{"username":"serin"},"userAgent":"serin/0.1","objectRef":{"resource":"canaries","namespace":"t","name":"app","apiGroup":"flagger.app","apiVersion":"v1beta1","subresource":"status"},"responseStatus":{"metadata":{},"code":200},"stageTimestamp":"2026-11-23T21:00:00.000001Z"}"#,
        "\n",
        r#"{"kind":"Event","stage":"ResponseStarted","requestURI":"/api/v1/pods?watch=1","verb":"watch","user":{"username":"serin"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200},"stageTimestamp":"2026-11-23T21:00:00Z"}"#,
        "\n",
        r#"{"kind":"Event","stage":"ResponseComplete","requestURI":"/api/v1/pods?watch=1","verb":"watch","user":{"username":"serin"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200},"stageTimestamp":"2026-11-23T21:00:00Z"}"#,
        "\n{\"kind\":\"Ev",
    );

    #[test]
    fn each_request_counts_once_and_a_half_written_line_not_at_all() {
        let audit = Audit::read(LOG);
        assert_eq!(audit.requests.len(), 2);
        assert_eq!(
            audit.count(|request| request.verb == "patch"
                && request.resource == "canaries/status"
                && request.code == 200),
            1
        );
        assert_eq!(
            audit
                .of_user("serin")
                .count(|request| request.verb == "watch"),
            1
        );
        assert_eq!(audit.of_user("admin").requests, []);
    }
}
