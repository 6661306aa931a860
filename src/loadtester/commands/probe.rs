//! `grpc_health_probe`: asks a gRPC service once for its health.

use super::ghz::{HEALTH_CHECK, address};
use super::options::{Known, Meaning, Style, duration, header, read as read_options};
use super::{Action, USER_AGENT, default_header, headers};
use crate::loadtester::generator::{GrpcPlan, Tls, health_message};
use std::time::Duration;

struct Draft {
    address: String,
    service: String,
    connect: Duration,
    answer: Duration,
    tls: bool,
    verify: bool,
    server_name: Option<String>,
    metadata: Vec<(String, String)>,
}

const OPTIONS: &[Known<Draft>] = &[
    Known(
        &["addr"],
        Meaning::Value(|draft, text| {
            text.clone_into(&mut draft.address);
            Ok(())
        }),
    ),
    Known(
        &["service"],
        Meaning::Value(|draft, text| {
            text.clone_into(&mut draft.service);
            Ok(())
        }),
    ),
    Known(
        &["connect-timeout"],
        Meaning::Value(|draft, text| {
            draft.connect = duration(text)?;
            Ok(())
        }),
    ),
    Known(
        &["rpc-timeout"],
        Meaning::Value(|draft, text| {
            draft.answer = duration(text)?;
            Ok(())
        }),
    ),
    Known(&["tls"], Meaning::Switch(|draft| draft.tls = true)),
    Known(
        &["tls-no-verify"],
        Meaning::Switch(|draft| draft.verify = false),
    ),
    Known(
        &["tls-server-name"],
        Meaning::Value(|draft, text| {
            draft.server_name = Some(text.to_owned());
            Ok(())
        }),
    ),
    Known(
        &["rpc-header"],
        Meaning::Value(|draft, text| {
            draft.metadata.push(header(text)?);
            Ok(())
        }),
    ),
    Known(
        &["user-agent"],
        Meaning::Value(|draft, text| {
            draft
                .metadata
                .push(("user-agent".to_owned(), text.to_owned()));
            Ok(())
        }),
    ),
    Known(&["v"], Meaning::IdleSwitch),
    Known(
        &["tls-ca-cert", "tls-client-cert", "tls-client-key"],
        Meaning::Refused("no files are read; -tls-no-verify does not verify"),
    ),
    Known(
        &["spiffe", "alts", "gzip"],
        Meaning::Refused("plain text and TLS are what there is"),
    ),
];

#[cfg(test)]
pub(super) fn known() -> Vec<(String, bool)> {
    super::options::names(OPTIONS)
}

pub(super) fn read(words: &[String]) -> Result<Action, String> {
    let mut draft = Draft {
        address: String::new(),
        service: String::new(),
        connect: Duration::from_secs(1),
        answer: Duration::from_secs(1),
        tls: false,
        verify: true,
        server_name: None,
        metadata: Vec::new(),
    };
    let rest = read_options(OPTIONS, Style::Go, words, &mut draft)?;
    if let Some(word) = rest.first() {
        return Err(format!("{word:?} is no option"));
    }
    if draft.address.is_empty() {
        return Err("option --addr is missing".to_owned());
    }
    let (host, port) = address(&draft.address)?;
    default_header(&mut draft.metadata, "user-agent", USER_AGENT);
    let (headers, _) = headers(draft.metadata)?;
    Ok(Action::Health {
        plan: GrpcPlan {
            host,
            port,
            tls: draft.tls.then_some(Tls {
                verify: draft.verify,
                server_name: draft.server_name,
                protocols: &["h2"],
            }),
            authority: None,
            path: HEALTH_CHECK.to_owned(),
            message: health_message(&draft.service),
            data: None,
            headers,
        },
        timeout: draft.connect + draft.answer,
    })
}
