//! The part of `JSONPath` with which a user names one value: keys after dots or in quoted brackets, and positions in lists. It leads to a
//! JSON pointer, so a path always names exactly one place.

/// What the path may begin with: weights are asked for in the spec, some kinds have them in annotations or labels.
const ROOTS: &str = "expected a place below .spec, .metadata.annotations, .metadata.labels or a field of the kind's own";

/// A path that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<String>);

impl Path {
    /// Reads `.spec.split[0].weight`, `$.spec['a.b']`, `{.spec.weight}`, `.metadata.annotations.a\.b/c`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(inner);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = if let Some(after) = rest.strip_prefix('[') {
                bracket(after)?
            } else if let Some(after) = rest.strip_prefix('.') {
                key(after)?
            } else if steps.is_empty() {
                key(rest)?
            } else {
                return Err(format!("expected . or [ before {rest:?}"));
            };
            steps.push(step);
            rest = after;
        }
        let step = |position: usize| steps.get(position).map(String::as_str);
        match (step(0), step(1)) {
            (None, _) => Err(format!("empty; {ROOTS}")),
            (Some("status" | "apiVersion" | "kind"), _) => Err(ROOTS.to_owned()),
            (Some("metadata"), second) if !matches!(second, Some("annotations" | "labels")) => {
                Err(ROOTS.to_owned())
            }
            (Some("metadata"), _) if steps.len() != 3 => Err(ROOTS.to_owned()),
            _ => Ok(Self(steps)),
        }
    }

    /// The same as a JSON pointer.
    #[must_use]
    pub fn pointer(&self) -> String {
        self.0.iter().fold(String::new(), |mut pointer, step| {
            pointer.push('/');
            pointer.push_str(&escape(step));
            pointer
        })
    }
}

/// A step of a JSON pointer (RFC 6901).
#[must_use]
pub fn escape(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

/// A bare key; a backslash takes what follows as it is.
fn key(text: &str) -> Result<(String, &str), String> {
    let mut found = String::new();
    let mut characters = text.char_indices();
    let mut end = text.len();
    while let Some((position, character)) = characters.next() {
        match character {
            '.' | '[' => {
                end = position;
                break;
            }
            '\\' => found.extend(characters.next().map(|(_, escaped)| escaped)),
            '*' | '?' | '@' | '(' | ')' | ']' | '\'' | '"' | '{' | '}' | ' ' => {
                return Err(format!(
                    "{character:?} is not understood; write keys as .key or ['key'] and positions as [0], no wildcards or filters"
                ));
            }
            other => found.push(other),
        }
    }
    if found.is_empty() {
        return Err("a key is missing after a dot".to_owned());
    }
    Ok((found, &text[end..]))
}

/// What follows an opening bracket: a position or a quoted key.
fn bracket(text: &str) -> Result<(String, &str), String> {
    let unclosed = || "a bracket is not closed; write ['key'] or [0]".to_owned();
    if let Some(quote) = text
        .chars()
        .next()
        .filter(|first| matches!(first, '\'' | '"'))
    {
        let (found, after) = text[1..].split_once(quote).ok_or_else(unclosed)?;
        let after = after.strip_prefix(']').ok_or_else(unclosed)?;
        if found.is_empty() {
            return Err("a key is missing between quotes".to_owned());
        }
        return Ok((found.to_owned(), after));
    }
    let (found, after) = text.split_once(']').ok_or_else(unclosed)?;
    match found.parse::<u16>() {
        Ok(position) if !found.starts_with('+') => Ok((position.to_string(), after)),
        _ => Err(format!(
            "[{found}] is not understood; write a position such as [0] or a key in quotes, no wildcards, slices or filters"
        )),
    }
}
