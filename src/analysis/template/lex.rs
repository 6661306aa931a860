//! Splits a template into tokens. Spaces separate arguments in this language, so each token knows whether one stood before it.

use super::Fault;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text outside of actions, already trimmed.
    Text(String),
    LeftDelim,
    RightDelim,
    /// A function's name.
    Identifier(String),
    /// `if`, `range`, `end` and so on.
    Keyword(&'static str),
    /// `.name`, without the dot.
    Field(String),
    /// `$name`, with the dollar; `$` alone is the root.
    Variable(String),
    Dot,
    Nil,
    Bool(bool),
    /// An integer constant; character constants are integers, too.
    Int(i64),
    Float(f64),
    /// A string constant without its quotes.
    Quoted(String),
    LeftParen,
    RightParen,
    Pipe,
    Declare,
    Assign,
    /// Any other ASCII character.
    Other(char),
    End,
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    /// Byte offset in the source.
    pub at: usize,
    /// Whether white space stood before it, inside of the action.
    pub spaced: bool,
}

const KEYWORDS: [&str; 10] = [
    "block", "break", "continue", "define", "else", "end", "if", "range", "template", "with",
];

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Splits `source` into tokens; the last one is [`Kind::End`].
pub(super) fn lex(source: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer {
        source,
        at: 0,
        tokens: Vec::new(),
    };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn push(&mut self, kind: Kind, at: usize, spaced: bool) {
        self.tokens.push(Token { kind, at, spaced });
    }

    /// Whether a `{{` at the current place carries a trim marker: a dash and a space.
    fn trims_left(after_delim: &str) -> bool {
        let mut chars = after_delim.chars();
        chars.next() == Some('-') && chars.next().is_some_and(is_space)
    }

    fn skip_text_space(&mut self) {
        let trimmed = self.rest().trim_start_matches(is_space).len();
        self.at = self.source.len() - trimmed;
    }

    /// The length of the closing delimiter here, and whether it trims what follows.
    fn right_delim(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with("}}") {
            return Some((2, false));
        }
        let after_space = rest.strip_prefix(is_space)?;
        after_space.starts_with("-}}").then_some((4, true))
    }

    fn run(&mut self) -> Result<(), Fault> {
        while self.at < self.source.len() {
            let start = self.at;
            let Some(found) = self.rest().find("{{") else {
                self.push(Kind::Text(self.rest().to_owned()), start, false);
                self.at = self.source.len();
                break;
            };
            let trims = Self::trims_left(&self.rest()[found + 2..]);
            let mut text = &self.rest()[..found];
            if trims {
                text = text.trim_end_matches(is_space);
            }
            if !text.is_empty() {
                let text = text.to_owned();
                self.push(Kind::Text(text), start, false);
            }
            self.at = start + found;
            let delim = self.at;
            self.at += if trims { 4 } else { 2 };
            // A comment directly follows the delimiter or its trim marker.
            if self.rest().starts_with("/*") {
                self.comment(delim)?;
                continue;
            }
            if trims {
                // The space of the marker also separates tokens.
                self.at -= 1;
            }
            self.push(Kind::LeftDelim, delim, false);
            self.action(delim)?;
        }
        self.push(Kind::End, self.source.len(), false);
        Ok(())
    }

    fn comment(&mut self, delim: usize) -> Result<(), Fault> {
        let Some(end) = self.rest().find("*/") else {
            return Err(Fault::new(
                delim,
                "the comment is not closed; expected */}}",
            ));
        };
        self.at += end + 2;
        let Some((length, trims)) = self.right_delim() else {
            return Err(Fault::new(
                self.at,
                "a comment must end directly before }}: {{/* like this */}}",
            ));
        };
        self.at += length;
        if trims {
            self.skip_text_space();
        }
        Ok(())
    }

    fn action(&mut self, delim: usize) -> Result<(), Fault> {
        let mut parens: Vec<usize> = Vec::new();
        let mut spaced = false;
        loop {
            if let Some((length, trims)) = self.right_delim() {
                if let Some(open) = parens.pop() {
                    return Err(Fault::new(
                        open,
                        "this ( is not closed before }}; expected )",
                    ));
                }
                self.push(Kind::RightDelim, self.at, spaced);
                self.at += length;
                if trims {
                    self.skip_text_space();
                }
                return Ok(());
            }
            let at = self.at;
            let Some(c) = self.peek() else {
                return Err(Fault::new(delim, "this {{ is not closed; expected }}"));
            };
            if is_space(c) {
                self.next();
                spaced = true;
                continue;
            }
            let kind = match c {
                '=' => self.single(Kind::Assign),
                '|' => self.single(Kind::Pipe),
                '(' => {
                    parens.push(at);
                    self.single(Kind::LeftParen)
                }
                ')' => {
                    if parens.pop().is_none() {
                        return Err(Fault::new(at, "this ) closes nothing"));
                    }
                    self.single(Kind::RightParen)
                }
                ':' => {
                    self.next();
                    if self.next() != Some('=') {
                        return Err(Fault::new(at, "found \":\", expected \":=\""));
                    }
                    Kind::Declare
                }
                '"' => self.quoted()?,
                '`' => self.raw()?,
                '\'' => self.character()?,
                '$' => {
                    self.next();
                    let word = self.word();
                    self.terminated(at)?;
                    Kind::Variable(format!("${word}"))
                }
                '.' if !self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                    self.next();
                    let word = self.word();
                    self.terminated(at)?;
                    if word.is_empty() {
                        Kind::Dot
                    } else {
                        Kind::Field(word)
                    }
                }
                '.' | '+' | '-' | '0'..='9' => self.number()?,
                c if is_word(c) => {
                    let word = self.word();
                    self.terminated(at)?;
                    match word.as_str() {
                        "true" => Kind::Bool(true),
                        "false" => Kind::Bool(false),
                        "nil" => Kind::Nil,
                        _ => KEYWORDS
                            .iter()
                            .find(|keyword| **keyword == word)
                            .map_or(Kind::Identifier(word), |keyword| Kind::Keyword(keyword)),
                    }
                }
                c if c.is_ascii_graphic() => self.single(Kind::Other(c)),
                c => {
                    return Err(Fault::new(
                        at,
                        format!("the character {c:?} has no meaning inside of {{{{ }}}}"),
                    ));
                }
            };
            self.push(kind, at, spaced);
            spaced = false;
        }
    }

    fn single(&mut self, kind: Kind) -> Kind {
        self.next();
        kind
    }

    fn word(&mut self) -> String {
        let rest = self.rest();
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = rest[..length].to_owned();
        self.at += length;
        word
    }

    /// Names end at a space or at one of a few characters; `a-b` and `a"b"` are mistakes.
    fn terminated(&self, start: usize) -> Result<(), Fault> {
        match self.peek() {
            Some(c)
                if !is_space(c)
                    && !matches!(c, '.' | ',' | '|' | ':' | ')' | '(')
                    && !self.rest().starts_with("}}") =>
            {
                let word = &self.source[start..self.at];
                let hint = if c == '-' {
                    format!(
                        "; a key with a dash needs index, for example {{{{ index variables \"{}-…\" }}}}",
                        word.trim_start_matches('.')
                    )
                } else {
                    String::new()
                };
                Err(Fault::new(
                    self.at,
                    format!(
                        "found {c:?} directly after {word:?}; expected a space, |, . or }}}}{hint}"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    fn quoted(&mut self) -> Result<Kind, Fault> {
        let at = self.at;
        self.next();
        let mut bytes = Vec::new();
        loop {
            match self.peek() {
                None | Some('\n') => {
                    return Err(Fault::new(
                        at,
                        "this string is not closed; expected \" on the same line (`…` may span lines)",
                    ));
                }
                Some('"') => {
                    self.next();
                    break;
                }
                Some('\\') => self.escape('"', &mut bytes)?,
                Some(c) => {
                    self.next();
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
        String::from_utf8(bytes).map(Kind::Quoted).map_err(|_| {
            Fault::new(
                at,
                "the escapes of this string don't make UTF-8 text; use \\u for characters",
            )
        })
    }

    fn raw(&mut self) -> Result<Kind, Fault> {
        let at = self.at;
        self.next();
        let Some(length) = self.rest().find('`') else {
            return Err(Fault::new(at, "this string is not closed; expected `"));
        };
        // Go drops carriage returns from raw strings.
        let text = self.rest()[..length].replace('\r', "");
        self.at += length + 1;
        Ok(Kind::Quoted(text))
    }

    fn character(&mut self) -> Result<Kind, Fault> {
        let at = self.at;
        let wrong = || {
            Fault::new(
                at,
                "a character constant is one character in ' quotes; text is written in \" quotes",
            )
        };
        self.next();
        let value = match self.peek() {
            None | Some('\n' | '\'') => return Err(wrong()),
            Some('\\') => {
                let mut bytes = Vec::new();
                let single_byte = matches!(self.rest().chars().nth(1), Some('x' | '0'..='7'));
                self.escape('\'', &mut bytes)?;
                if single_byte {
                    bytes.first().copied().map(i64::from)
                } else {
                    String::from_utf8(bytes)
                        .ok()
                        .and_then(|text| text.chars().next())
                        .map(|c| i64::from(u32::from(c)))
                }
            }
            Some(c) => {
                self.next();
                Some(i64::from(u32::from(c)))
            }
        };
        if self.next() != Some('\'') {
            return Err(wrong());
        }
        value.map(Kind::Int).ok_or_else(wrong)
    }

    /// Reads a backslash escape and adds the bytes that it stands for.
    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let at = self.at;
        self.next();
        let wrong = || {
            Fault::new(
                at,
                "unknown escape; expected one of \\a \\b \\f \\n \\r \\t \\v \\\\ \\\" \\ooo \\xhh \\uhhhh \\Uhhhhhhhh (in PromQL regular expressions write \\\\d, or use a `raw string`)",
            )
        };
        let Some(c) = self.next() else {
            return Err(wrong());
        };
        let simple = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(10),
            'r' => Some(13),
            't' => Some(9),
            'v' => Some(11),
            '\\' => Some(b'\\'),
            c if c == quote => u8::try_from(c).ok(),
            _ => None,
        };
        if let Some(byte) = simple {
            bytes.push(byte);
            return Ok(());
        }
        let (skip, count, radix) = match c {
            'x' => (0, 2, 16),
            'u' => (0, 4, 16),
            'U' => (0, 8, 16),
            '0'..='7' => (1, 3, 8),
            _ => return Err(wrong()),
        };
        let start = self.at - skip;
        let digits = self.source.get(start..start + count).ok_or_else(wrong)?;
        if !digits.chars().all(|d| d.is_digit(radix)) {
            return Err(wrong());
        }
        let code = u32::from_str_radix(digits, radix).map_err(|_| wrong())?;
        self.at = start + count;
        if matches!(c, 'u' | 'U') {
            let c = char::from_u32(code).ok_or_else(wrong)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            bytes.push(u8::try_from(code).map_err(|_| wrong())?);
        }
        Ok(())
    }

    fn accept(&mut self, set: &str) -> bool {
        if self.peek().is_some_and(|c| set.contains(c)) {
            self.next();
            return true;
        }
        false
    }

    fn number(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.accept("+-");
        let mut digits = "0123456789_";
        if self.accept("0") {
            if self.accept("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        while self.accept(digits) {}
        if self.accept(".") {
            while self.accept(digits) {}
        }
        if digits.len() == 11 && self.accept("eE") {
            self.accept("+-");
            while self.accept("0123456789_") {}
        }
        if self
            .peek()
            .is_some_and(|c| is_word(c) || matches!(c, '+' | '-'))
        {
            self.next();
            return Err(Fault::new(
                start,
                format!("{:?} is not a number", &self.source[start..self.at]),
            ));
        }
        let text = &self.source[start..self.at];
        constant(text).ok_or_else(|| Fault::new(start, format!("{text:?} is not a number that fits 64 bits; expected for example 5, -5, 0x1f, 1_000, 2.5 or 1e3")))
    }
}

/// The value of a number by Go's rules: a leading 0 means octal, underscores separate digits.
fn constant(text: &str) -> Option<Kind> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = body.to_ascii_lowercase();
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if lower.len() > 1 && lower.starts_with('0') && !lower.contains(['.', 'e']) {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let prefixed = radix != 10;
    let separated = |digits: &str| {
        !digits.ends_with('_') && !digits.contains("__") && (prefixed || !digits.starts_with('_'))
    };
    if !separated(digits) {
        return None;
    }
    let plain = digits.replace('_', "");
    if radix != 10 || !plain.contains(['.', 'e']) {
        let magnitude = i128::from(u64::from_str_radix(&plain, radix).ok()?);
        let signed = if negative { -magnitude } else { magnitude };
        return i64::try_from(signed).ok().map(Kind::Int);
    }
    if digits.contains('_') || !plain.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let value: f64 = plain.parse().ok()?;
    value
        .is_finite()
        .then_some(Kind::Float(if negative { -value } else { value }))
}
