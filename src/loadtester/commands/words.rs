//! Splits a command line into words as a shell would, as far as no shell is needed: quotes, backslashes, comments, and the operators
//! between commands. What only a shell can do (variables, substitution, redirection, background) is an error that names it.

/// A word or what stands between commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// One argument, without its quotes.
    Word(String),
    /// `;` or the end of a line.
    Then,
    /// `&&`.
    And,
    /// `|`.
    Pipe,
}

/// Why a line can't be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// Only a shell understands this.
    #[error("{0} is for a shell")]
    Shell(String),
    /// A quote without its end.
    #[error("the quote {0} is not closed")]
    OpenQuote(char),
}

/// Unquoted characters that mean something to a shell, and what.
const SHELL_ONLY: [(char, &str); 6] = [
    ('`', "a command substitution (`)"),
    ('<', "a redirection (<)"),
    ('>', "a redirection (>)"),
    ('(', "a subshell"),
    (')', "a subshell"),
    ('&', "a job in the background (&)"),
];

/// Splits a line.
///
/// # Errors
/// Where only a shell would do, or a quote is open.
pub fn tokens(line: &str) -> Result<Vec<Token>, WordsError> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' => quoted(&mut characters, word.get_or_insert_default())?,
            '"' => double_quoted(&mut characters, word.get_or_insert_default())?,
            '\\' => match characters.next() {
                // A line that goes on in the next one.
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => word.get_or_insert_default().push('\\'),
            },
            '$' => {
                dollar(characters.peek().copied())?;
                word.get_or_insert_default().push('$');
            }
            '#' if word.is_none() => while characters.next_if(|next| *next != '\n').is_some() {},
            '\n' | ';' | '|' | '&' => {
                let doubled = "|&".contains(character)
                    && characters.next_if(|next| *next == character).is_some();
                tokens.extend(word.take().map(Token::Word));
                tokens.push(match (character, doubled) {
                    ('&', true) => Token::And,
                    ('|', false) => Token::Pipe,
                    ('|', true) => return Err(WordsError::Shell("an alternative (||)".into())),
                    ('&', false) => return Err(shell_only('&')),
                    _ => Token::Then,
                });
            }
            _ if character.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            _ if SHELL_ONLY.iter().any(|(only, _)| *only == character) => {
                return Err(shell_only(character));
            }
            _ => word.get_or_insert_default().push(character),
        }
    }
    tokens.extend(word.map(Token::Word));
    Ok(tokens)
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn quoted(characters: &mut Characters, word: &mut String) -> Result<(), WordsError> {
    for character in characters {
        if character == '\'' {
            return Ok(());
        }
        word.push(character);
    }
    Err(WordsError::OpenQuote('\''))
}

fn double_quoted(characters: &mut Characters, word: &mut String) -> Result<(), WordsError> {
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok(()),
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                Some(other) => word.extend(['\\', other]),
                None => break,
            },
            '`' => return Err(shell_only('`')),
            '$' => {
                dollar(characters.peek().copied())?;
                word.push('$');
            }
            _ => word.push(character),
        }
    }
    Err(WordsError::OpenQuote('"'))
}

/// A dollar is itself unless a name or a bracket follows.
fn dollar(next: Option<char>) -> Result<(), WordsError> {
    match next {
        Some('(') => Err(WordsError::Shell("a command substitution ($()".into())),
        Some(next) if next == '{' || next == '_' || next.is_alphanumeric() => {
            Err(WordsError::Shell("a variable ($)".into()))
        }
        _ => Ok(()),
    }
}

fn shell_only(character: char) -> WordsError {
    let meaning = SHELL_ONLY
        .iter()
        .find(|(only, _)| *only == character)
        .map_or_else(|| character.to_string(), |(_, what)| (*what).to_owned());
    WordsError::Shell(meaning)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        tokens(line)
            .unwrap()
            .into_iter()
            .map(|token| match token {
                Token::Word(word) => word,
                Token::Then => "<then>".into(),
                Token::And => "<and>".into(),
                Token::Pipe => "<pipe>".into(),
            })
            .collect()
    }

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        for (line, expected) in [
            (
                "hey -z 1m  http://a/",
                &["hey", "-z", "1m", "http://a/"][..],
            ),
            ("-d '{test: 2}'", &["-d", "{test: 2}"]),
            (r#"-d '{"a": "b c"}'"#, &["-d", r#"{"a": "b c"}"#]),
            (r#"-H "Accept: text/html""#, &["-H", "Accept: text/html"]),
            (r#""a \"b\" \n""#, &[r#"a "b" \n"#]),
            (r"a\ b \'", &["a b", "'"]),
            ("a''b ''", &["ab", ""]),
            ("hey \\\n -c 2", &["hey", "-c", "2"]),
            (
                "a; b && c | d",
                &["a", "<then>", "b", "<and>", "c", "<pipe>", "d"],
            ),
            ("a\nb # c\nd", &["a", "<then>", "b", "<then>", "d"]),
            (
                "'http://a/?b=c&d=$e' a#b 5$",
                &["http://a/?b=c&d=$e", "a#b", "5$"],
            ),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn what_only_a_shell_understands_is_named() {
        for (line, what) in [
            ("hey http://$HOST/", "a variable"),
            ("hey \"http://${HOST}/\"", "a variable"),
            ("echo $(date)", "a command substitution"),
            ("echo `date`", "a command substitution"),
            ("hey http://a/?b=c&d=e", "in the background"),
            ("hey http://a/ > /dev/null", "a redirection"),
            ("a || b", "an alternative"),
            ("(a; b)", "a subshell"),
        ] {
            let told = tokens(line).unwrap_err().to_string();
            assert!(told.contains(what), "{line}: {told}");
        }
        assert_eq!(tokens("a 'b"), Err(WordsError::OpenQuote('\'')));
        assert_eq!(tokens("a \"b"), Err(WordsError::OpenQuote('"')));
    }
}
