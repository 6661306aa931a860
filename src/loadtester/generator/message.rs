//! Messages of gRPC from JSON, by the descriptors that a server tells of itself. Only what a request needs is read of a descriptor; a
//! message is written as Protocol Buffers' wire format has it.

use base64::Engine as _;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// How deep messages may lie in each other.
const DEEPEST: usize = 64;

/// Why a message can't be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// What the server told can't be understood.
    #[error("the server's description of {0} can't be understood")]
    Description(String),
    /// A type that the descriptors name and don't have.
    #[error("the type {0} is not described")]
    Unknown(String),
    /// A method that is no unary one.
    #[error("{0} is a stream, only unary methods are called")]
    Stream(String),
    /// A field that the message does not have.
    #[error("{message} has no field {field:?}; it has {known}")]
    Field {
        /// The message's type.
        message: String,
        /// What was given.
        field: String,
        /// What there is.
        known: String,
    },
    /// A value that does not fit its field.
    #[error("field {field}: expected {expected}, found {found}")]
    Value {
        /// The field.
        field: String,
        /// What would fit.
        expected: &'static str,
        /// What was given.
        found: String,
    },
}

/// One field of a message on the wire: its number, and its content if it is a number or bytes.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, in order; none if it is malformed.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Raw<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = read_varint(&mut bytes)?;
        let content = match tag & 7 {
            0 => Raw::Number(read_varint(&mut bytes)?),
            1 => {
                take(&mut bytes, 8)?;
                Raw::Other
            }
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)?).ok()?;
                Raw::Bytes(take(&mut bytes, length)?)
            }
            5 => {
                take(&mut bytes, 4)?;
                Raw::Other
            }
            _ => return None,
        };
        found.push((tag >> 3, content));
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(first)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Appends a number as the wire has it.
pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation)]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)]
    out.push(value as u8);
}

/// Appends a field of bytes.
pub(super) fn bytes_field(number: u64, content: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// All contents of this number that are bytes.
pub(super) fn all_bytes(message: &[u8], number: u64) -> Option<Vec<&[u8]>> {
    Some(
        fields(message)?
            .into_iter()
            .filter_map(|(found, content)| match content {
                Raw::Bytes(bytes) if found == number => Some(bytes),
                _ => None,
            })
            .collect(),
    )
}

fn text(message: &[u8], number: u64) -> Option<String> {
    let last = all_bytes(message, number)?.pop().unwrap_or_default();
    String::from_utf8(last.to_vec()).ok()
}

fn number(message: &[u8], wanted: u64) -> Option<u64> {
    let last = fields(message)?
        .into_iter()
        .rfind(|(found, _)| *found == wanted);
    Some(match last {
        Some((_, Raw::Number(value))) => value,
        _ => 0,
    })
}

struct Field {
    name: String,
    json_name: String,
    number: u64,
    repeated: bool,
    kind: u64,
    type_name: String,
}

#[derive(Default)]
struct Message {
    fields: Vec<Field>,
    is_map_entry: bool,
}

struct Method {
    input: String,
    streams: bool,
}

/// What descriptors say.
#[derive(Default)]
pub struct Types {
    messages: HashMap<String, Message>,
    enums: HashMap<String, HashMap<String, u64>>,
    methods: HashMap<String, Method>,
}

impl Types {
    /// Reads a `FileDescriptorProto`.
    ///
    /// # Errors
    /// If it is none.
    pub fn add(&mut self, file: &[u8]) -> Result<(), MessageError> {
        self.read_file(file)
            .ok_or_else(|| MessageError::Description(text(file, 1).unwrap_or_default()))
    }

    fn read_file(&mut self, file: &[u8]) -> Option<()> {
        let package = text(file, 2)?;
        let scope = if package.is_empty() {
            String::new()
        } else {
            format!(".{package}")
        };
        for message in all_bytes(file, 4)? {
            self.read_message(message, &scope, 0)?;
        }
        for listed in all_bytes(file, 5)? {
            self.read_enum(listed, &scope)?;
        }
        for service in all_bytes(file, 6)? {
            let service_name = text(service, 1)?;
            for method in all_bytes(service, 2)? {
                let path = format!("{scope}.{service_name}/{}", text(method, 1)?);
                let found = Method {
                    input: text(method, 2)?,
                    streams: number(method, 5)? != 0 || number(method, 6)? != 0,
                };
                self.methods.insert(path[1..].to_owned(), found);
            }
        }
        Some(())
    }

    fn read_message(&mut self, message: &[u8], scope: &str, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        let name = format!("{scope}.{}", text(message, 1)?);
        let mut read = Message::default();
        for field in all_bytes(message, 2)? {
            read.fields.push(Field {
                name: text(field, 1)?,
                json_name: text(field, 10)?,
                number: number(field, 3)?,
                repeated: number(field, 4)? == 3,
                kind: number(field, 5)?,
                type_name: text(field, 6)?,
            });
        }
        if let Some(options) = all_bytes(message, 7)?.pop() {
            read.is_map_entry = number(options, 7)? != 0;
        }
        for nested in all_bytes(message, 3)? {
            self.read_message(nested, &name, depth + 1)?;
        }
        for listed in all_bytes(message, 4)? {
            self.read_enum(listed, &name)?;
        }
        self.messages.insert(name, read);
        Some(())
    }

    fn read_enum(&mut self, listed: &[u8], scope: &str) -> Option<()> {
        let name = format!("{scope}.{}", text(listed, 1)?);
        let mut values = HashMap::new();
        for value in all_bytes(listed, 2)? {
            values.insert(text(value, 1)?, number(value, 2)?);
        }
        self.enums.insert(name, values);
        Some(())
    }

    /// The request of `package.Service/Method`, from JSON.
    ///
    /// # Errors
    /// If it can't be written so; [`MessageError::Unknown`] names the type to ask for.
    pub fn request(&self, method: &str, data: &Value) -> Result<Vec<u8>, MessageError> {
        let found = self
            .methods
            .get(method)
            .ok_or_else(|| MessageError::Unknown(method.to_owned()))?;
        if found.streams {
            return Err(MessageError::Stream(method.to_owned()));
        }
        let mut out = Vec::new();
        let object = data.as_object().cloned().unwrap_or_default();
        self.message(&found.input, &object, 0, &mut out)?;
        Ok(out)
    }

    fn described(&self, name: &str) -> Result<&Message, MessageError> {
        self.messages
            .get(name)
            .ok_or_else(|| MessageError::Unknown(name.trim_start_matches('.').to_owned()))
    }

    fn message(
        &self,
        name: &str,
        data: &Map<String, Value>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), MessageError> {
        let message = self.described(name)?;
        if depth > DEEPEST {
            return Err(MessageError::Description(name.to_owned()));
        }
        for (key, value) in data {
            let field = message
                .fields
                .iter()
                .find(|field| field.name == *key || field.json_name == *key)
                .ok_or_else(|| MessageError::Field {
                    message: name.trim_start_matches('.').to_owned(),
                    field: key.clone(),
                    known: message
                        .fields
                        .iter()
                        .map(|field| field.name.as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                })?;
            self.field(field, value, depth, out)?;
        }
        Ok(())
    }

    fn field(
        &self,
        field: &Field,
        value: &Value,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), MessageError> {
        if value.is_null() {
            return Ok(());
        }
        let is_map =
            field.repeated && field.kind == 11 && self.described(&field.type_name)?.is_map_entry;
        match value {
            Value::Object(entries) if is_map => {
                for (key, value) in entries {
                    let mut entry = Map::new();
                    entry.insert("key".to_owned(), Value::String(key.clone()));
                    entry.insert("value".to_owned(), value.clone());
                    self.one(field, &Value::Object(entry), depth, out)?;
                }
                Ok(())
            }
            _ if is_map => Err(wrong(field, "an object", value)),
            Value::Array(values) if field.repeated => values
                .iter()
                .try_for_each(|value| self.one(field, value, depth, out)),
            _ if field.repeated => Err(wrong(field, "a list", value)),
            value => self.one(field, value, depth, out),
        }
    }

    /// Numbers of a list are written one by one, which every reader takes.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the wire has the bits"
    )]
    fn one(
        &self,
        field: &Field,
        value: &Value,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), MessageError> {
        let tag = |wire: u64| field.number << 3 | wire;
        let number = |value: u64, out: &mut Vec<u8>| {
            varint(tag(0), out);
            varint(value, out);
        };
        match field.kind {
            1 => {
                let value = float(field, value)?;
                varint(tag(1), out);
                out.extend_from_slice(&value.to_le_bytes());
            }
            2 => {
                let value = float(field, value)? as f32;
                varint(tag(5), out);
                out.extend_from_slice(&value.to_le_bytes());
            }
            3 => number(signed(field, value, 64)? as u64, out),
            5 => number(signed(field, value, 32)? as u64, out),
            4 => number(unsigned(field, value, 64)?, out),
            13 => number(unsigned(field, value, 32)?, out),
            17 | 18 => {
                let bits = if field.kind == 17 { 32 } else { 64 };
                let value = signed(field, value, bits)?;
                number(((value << 1) ^ (value >> 63)) as u64, out);
            }
            6 | 16 => {
                let value = match field.kind {
                    6 => unsigned(field, value, 64)?,
                    _ => signed(field, value, 64)? as u64,
                };
                varint(tag(1), out);
                out.extend_from_slice(&value.to_le_bytes());
            }
            7 | 15 => {
                let value = match field.kind {
                    7 => unsigned(field, value, 32)? as u32,
                    _ => signed(field, value, 32)? as u32,
                };
                varint(tag(5), out);
                out.extend_from_slice(&value.to_le_bytes());
            }
            8 => {
                // The key of a map is a text.
                let value = match value {
                    Value::Bool(value) => *value,
                    Value::String(text) if text == "true" || text == "false" => text == "true",
                    _ => return Err(wrong(field, "true or false", value)),
                };
                number(u64::from(value), out);
            }
            9 => {
                let text = value
                    .as_str()
                    .ok_or_else(|| wrong(field, "a text", value))?;
                bytes_field(field.number, text.as_bytes(), out);
            }
            12 => {
                let bytes = value
                    .as_str()
                    .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok())
                    .ok_or_else(|| wrong(field, "bytes in base64", value))?;
                bytes_field(field.number, &bytes, out);
            }
            14 => {
                let listed = self.enums.get(&field.type_name).ok_or_else(|| {
                    MessageError::Unknown(field.type_name.trim_start_matches('.').to_owned())
                })?;
                let value = match value {
                    Value::String(name) => listed
                        .get(name)
                        .copied()
                        .ok_or_else(|| wrong(field, "a name of its enumeration", value))?,
                    _ => signed(field, value, 32)? as u64,
                };
                number(value, out);
            }
            11 => {
                let object = value
                    .as_object()
                    .ok_or_else(|| wrong(field, "an object", value))?;
                let mut inner = Vec::new();
                self.message(&field.type_name, object, depth + 1, &mut inner)?;
                bytes_field(field.number, &inner, out);
            }
            _ => return Err(MessageError::Description(field.name.clone())),
        }
        Ok(())
    }
}

fn wrong(field: &Field, expected: &'static str, found: &Value) -> MessageError {
    MessageError::Value {
        field: field.name.clone(),
        expected,
        found: found.to_string(),
    }
}

fn float(field: &Field, value: &Value) -> Result<f64, MessageError> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| wrong(field, "a number", value))
}

/// A whole number within so many bits; JSON may have it as a text.
fn signed(field: &Field, value: &Value, bits: u32) -> Result<i64, MessageError> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| bits == 64 || i32::try_from(*number).is_ok())
        .ok_or_else(|| wrong(field, "a whole number", value))
}

fn unsigned(field: &Field, value: &Value, bits: u32) -> Result<u64, MessageError> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| bits == 64 || u32::try_from(*number).is_ok())
        .ok_or_else(|| wrong(field, "a whole number of zero or more", value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    fn text_field(number: u64, text: &str, out: &mut Vec<u8>) {
        bytes_field(number, text.as_bytes(), out);
    }

    fn number_field(number: u64, value: u64, out: &mut Vec<u8>) {
        varint(number << 3, out);
        varint(value, out);
    }

    fn built(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        build(&mut out);
        out
    }

    fn field(name: &str, number: u64, label: u64, kind: u64, type_name: &str) -> Vec<u8> {
        built(|out| {
            text_field(1, name, out);
            number_field(3, number, out);
            number_field(4, label, out);
            number_field(5, kind, out);
            if !type_name.is_empty() {
                text_field(6, type_name, out);
            }
            text_field(10, &name.replace("_id", "Id"), out);
        })
    }

    /// `shop.v1`: a service with a unary method and a stream, whose request has a field of each kind.
    pub(in super::super) fn file() -> Vec<u8> {
        let entry = built(|out| {
            text_field(1, "LabelsEntry", out);
            bytes_field(2, &field("key", 1, 1, 9, ""), out);
            bytes_field(2, &field("value", 2, 1, 5, ""), out);
            bytes_field(7, &built(|out| number_field(7, 1, out)), out);
        });
        let order = built(|out| {
            text_field(1, "Order", out);
            for (name, number, label, kind, type_name) in [
                ("item_id", 1, 1, 9, ""),
                ("count", 2, 1, 5, ""),
                ("price", 3, 1, 1, ""),
                ("express", 4, 1, 8, ""),
                ("tags", 5, 3, 9, ""),
                ("state", 6, 1, 14, ".shop.v1.State"),
                ("next", 7, 1, 11, ".shop.v1.Order"),
                ("labels", 8, 3, 11, ".shop.v1.Order.LabelsEntry"),
                ("picture", 9, 1, 12, ""),
                ("change", 10, 1, 17, ""),
                ("serial", 11, 1, 6, ""),
                ("elsewhere", 12, 1, 11, ".other.Thing"),
            ] {
                bytes_field(2, &field(name, number, label, kind, type_name), out);
            }
            bytes_field(3, &entry, out);
        });
        let state = built(|out| {
            text_field(1, "State", out);
            for (name, number) in [("NEW", 0), ("PAID", 3)] {
                let value = built(|out| {
                    text_field(1, name, out);
                    number_field(2, number, out);
                });
                bytes_field(2, &value, out);
            }
        });
        let method = |name: &str, streams: bool| {
            built(|out| {
                text_field(1, name, out);
                text_field(2, ".shop.v1.Order", out);
                if streams {
                    number_field(6, 1, out);
                }
            })
        };
        let service = built(|out| {
            text_field(1, "Orders", out);
            bytes_field(2, &method("Place", false), out);
            bytes_field(2, &method("Watch", true), out);
        });
        built(|out| {
            text_field(1, "shop.proto", out);
            text_field(2, "shop.v1", out);
            bytes_field(4, &order, out);
            bytes_field(5, &state, out);
            bytes_field(6, &service, out);
        })
    }

    fn types() -> Types {
        let mut types = Types::default();
        types.add(&file()).unwrap();
        types
    }

    #[test]
    fn a_message_is_written_as_the_wire_has_it() {
        for (data, expected) in [
            (json!({}), &b""[..]),
            (json!({"item_id": "ab"}), b"\x0a\x02ab"),
            (json!({"itemId": "ab"}), b"\x0a\x02ab"),
            (json!({"count": 300}), b"\x10\xac\x02"),
            (
                json!({"count": -1}),
                b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            ),
            (json!({"price": 1.5}), b"\x19\0\0\0\0\0\0\xf8\x3f"),
            (json!({"express": true, "count": null}), b"\x20\x01"),
            (json!({"tags": ["a", "b"]}), b"\x2a\x01a\x2a\x01b"),
            (json!({"state": "PAID"}), b"\x30\x03"),
            (json!({"state": 3}), b"\x30\x03"),
            (json!({"next": {"count": 1}}), b"\x3a\x02\x10\x01"),
            (json!({"labels": {"x": 7}}), b"\x42\x05\x0a\x01x\x10\x07"),
            (json!({"picture": "AQI="}), b"\x4a\x02\x01\x02"),
            (json!({"change": -2}), b"\x50\x03"),
            (json!({"serial": "258"}), b"\x59\x02\x01\0\0\0\0\0\0"),
        ] {
            let written = types().request("shop.v1.Orders/Place", &data).unwrap();
            assert_eq!(written, expected, "{data}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (method, data, told) in [
            (
                "shop.v1.Orders/Place",
                json!({"colour": 1}),
                "shop.v1.Order has no field \"colour\"; it has item_id, count",
            ),
            (
                "shop.v1.Orders/Place",
                json!({"count": "many"}),
                "field count: expected a whole number, found \"many\"",
            ),
            (
                "shop.v1.Orders/Place",
                json!({"count": 3_000_000_000_u64}),
                "field count: expected a whole number",
            ),
            (
                "shop.v1.Orders/Place",
                json!({"tags": "a"}),
                "field tags: expected a list, found \"a\"",
            ),
            (
                "shop.v1.Orders/Place",
                json!({"state": "LOST"}),
                "field state: expected a name of its enumeration",
            ),
            (
                "shop.v1.Orders/Place",
                json!({"picture": "?"}),
                "field picture: expected bytes in base64",
            ),
            (
                "shop.v1.Orders/Place",
                json!({"elsewhere": {}}),
                "the type other.Thing is not described",
            ),
            (
                "shop.v1.Orders/Watch",
                json!({}),
                "shop.v1.Orders/Watch is a stream",
            ),
            (
                "shop.v1.Orders/Cancel",
                json!({}),
                "the type shop.v1.Orders/Cancel is not described",
            ),
        ] {
            let error = types().request(method, &data).unwrap_err().to_string();
            assert!(error.starts_with(told), "{data}: {error}");
        }
    }

    #[test]
    fn nonsense_from_a_server_is_an_error_and_no_more() {
        let whole = file();
        for cut in 0..whole.len() {
            let mut types = Types::default();
            let _ = types.add(&whole[..cut]);
            let mut odd = whole.clone();
            odd[cut] ^= 0xff;
            let _ = types.add(&odd);
            let _ = types.request(
                "shop.v1.Orders/Place",
                &json!({"next": {"labels": {"x": 1}}}),
            );
        }
        assert!(Types::default().add(b"\xff\xff\xff").is_err());
    }
}
