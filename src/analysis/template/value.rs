//! The values that templates compute with, with the Go types that `printf "%T"` and error messages name.

use std::collections::BTreeMap;
use std::rc::Rc;

/// A value of the template language.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// No value: the dot at the root, and `nil`.
    Nil,
    Bool(bool),
    Int(i64),
    /// One byte of a string, from `index`.
    Byte(u8),
    Float(f64),
    Text(Rc<str>),
    /// `variables`.
    Map(Rc<BTreeMap<String, String>>),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(Rc::from(text))
    }

    /// The type's name in Go.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Byte(_) => "uint8",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::Map(_) => "map[string]string",
        }
    }

    /// What `if` thinks of the value: everything but nil, false, zero and empty is true.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Byte(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(value) => !value.is_empty(),
            Self::Map(value) => !value.is_empty(),
        }
    }

    /// The value as an integer, if its type is one.
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Byte(value) => Some(i64::from(*value)),
            _ => None,
        }
    }
}
