//! `InfluxDB` 2 (Flagger chapter 4.5): a Flux query, answered as annotated CSV; `_value` of the first row counts.
//!
//! An answer without rows is no data. Flagger makes 0 of it, so that every limit of the kind "at most" passes where nothing is measured. It
//! also takes floats only; integers are numbers here.

use super::exchange::{
    self, Point, Several, among, headers, key, measured, post, sensitive, shortened,
};
use super::http::{Call, Http};
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use futures::future::BoxFuture;
use jiff::Timestamp;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde_json::json;

/// The backend.
pub(super) struct Influxdb;

impl Provider for Influxdb {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            let asked = async {
                let answer = exchange::send(http, &call(request, &request.query)?).await?;
                read(request, &String::from_utf8_lossy(&answer.body))
            };
            asked.await.unwrap_or_else(Measurement::Error)
        })
    }

    /// Any token may read the list of its buckets; Flagger asks for one called `default`, which need not exist.
    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let call = call(request, "buckets() |> limit(n: 1)")?;
            let answer = exchange::send(http, &call).await?;
            table(&String::from_utf8_lossy(&answer.body)).map(|_| ())
        })
    }
}

fn call(request: &QueryRequest, query: &str) -> Result<Call, String> {
    let mut url = exchange::url(request, "/api/v2/query")?;
    let mut headers = headers(request)?;
    if request.credentials.is_some() {
        url.query_pairs_mut()
            .append_pair("org", key(request, "org")?);
        let text = format!("Token {}", key(request, "token")?);
        headers.insert(AUTHORIZATION, sensitive(request, &text)?);
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/csv"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = json!({
        "query": query,
        "type": "flux",
        "dialect": {"header": true, "delimiter": ",", "annotations": ["datatype", "group", "default"]},
    });
    Ok(post(request, url, headers, body.to_string().into_bytes()))
}

fn read(request: &QueryRequest, text: &str) -> Result<Measurement, String> {
    let rows = table(text)?;
    let Some(first) = rows.first() else {
        return Ok(exchange::nothing());
    };
    let Some((kind, value)) = first.cell("_value") else {
        return Err("the rows of the answer have no column _value".to_owned());
    };
    let value: Option<f64> = match kind {
        _ if value.is_empty() => None,
        // Without its type a column is told by what it holds.
        "double" | "long" | "unsignedLong" | "" => Some(
            value
                .parse()
                .map_err(|_| format!("_value is {:?}; expected a number", shortened(value)))?,
        ),
        other => {
            return Err(format!(
                "_value is of type {}; expected a number: convert it with toFloat()",
                shortened(other)
            ));
        }
    };
    // What was aggregated over the whole range has no time of its own, and is of the range's end.
    let at = ["_time", "_stop"]
        .iter()
        .find_map(|column| first.cell(column)?.1.parse::<Timestamp>().ok())
        .map(exchange::seconds);
    let point = value.map(|value| Point { value, at });
    Ok(among(measured(request, point), Several::First(rows.len())))
}

/// A row of an annotated table.
struct Row {
    names: Vec<String>,
    kinds: Vec<String>,
    cells: Vec<String>,
}

impl Row {
    /// Type and content of a cell.
    fn cell(&self, column: &str) -> Option<(&str, &str)> {
        let position = self.names.iter().position(|name| name == column)?;
        let kind = self.kinds.get(position).map_or("", String::as_str);
        Some((kind, self.cells.get(position)?))
    }
}

/// The rows of all tables of an answer. An answer may break off in an error, which is a table of its own.
fn table(text: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let (mut names, mut kinds, mut defaults): (Vec<String>, Vec<String>, Vec<String>) =
        Default::default();
    for record in records(text) {
        match record.first().map(String::as_str) {
            None => names.clear(),
            Some("#datatype") => {
                names.clear();
                kinds = record;
            }
            Some("#default") => defaults = record,
            Some(mark) if mark.starts_with('#') => {}
            Some(_) if names.is_empty() => {
                let known = |name: &String| name == "table" || name == "error";
                if !record.iter().any(known) {
                    return Err(format!(
                        "the answer is not annotated CSV: {}",
                        exchange::beginning(text.as_bytes())
                    ));
                }
                names = record;
            }
            Some(_) => {
                let mut cells = record;
                for (cell, default) in cells.iter_mut().zip(&defaults) {
                    if cell.is_empty() {
                        cell.clone_from(default);
                    }
                }
                let row = Row {
                    names: names.clone(),
                    kinds: kinds.clone(),
                    cells,
                };
                if let (Some((_, why)), None) = (row.cell("error"), row.cell("_value")) {
                    return Err(format!(
                        "InfluxDB can't answer the query: {}",
                        shortened(why)
                    ));
                }
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// The records of CSV (RFC 4180); an empty line is a record without fields.
fn records(text: &str) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let mut record: Vec<String> = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            character if quoted => field.push(character),
            '\r' => {}
            ',' => record.push(std::mem::take(&mut field)),
            '\n' => {
                if !(record.is_empty() && field.is_empty()) {
                    record.push(std::mem::take(&mut field));
                }
                records.push(std::mem::take(&mut record));
            }
            character => field.push(character),
        }
    }
    if !(record.is_empty() && field.is_empty()) {
        record.push(field);
        records.push(record);
    }
    records
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_may_be_quoted_and_hold_what_separates_them() {
        assert_eq!(
            records("a,\"b,\"\"c\"\"\nd\",\r\n\r\n,e"),
            [
                vec!["a".to_owned(), "b,\"c\"\nd".to_owned(), String::new()],
                Vec::new(),
                vec![String::new(), "e".to_owned()],
            ]
        );
    }

    #[test]
    fn an_answer_that_breaks_off_says_why() {
        let text = "#datatype,string,long,double\n#group,false,false,false\n#default,_result,,\n,result,table,_value\n,,0,1.5\n\n#datatype,string,string\n#group,true,true\n#default,,\n,error,reference\n,query timed out,897\n";
        assert_eq!(
            table(text).err().unwrap(),
            "InfluxDB can't answer the query: query timed out"
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(text in "([#,\"a-z_0-9.\\n]|#datatype|#default|,result,table,_value\\n){0,60}") {
            let _ = table(&text);
        }
    }
}
