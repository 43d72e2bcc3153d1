//! Tokens of the text form.

/// A piece of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Token<'t> {
    /// `[A-Za-z_][A-Za-z0-9_]*`, several joined by single points.
    Ident(&'t str),
    /// Digits with optional fraction and exponent, without sign; or `0x` and hexadecimal digits.
    Number(&'t str),
    /// With escapes resolved.
    Str(String),
    /// `%12`.
    Value(u64),
    /// `..`, `::` or a single character.
    Punct(&'t str),
    End,
}

impl Token<'_> {
    /// As messages name it.
    pub fn describe(&self) -> String {
        match self {
            Self::Ident(s) | Self::Number(s) | Self::Punct(s) => format!("`{s}`"),
            Self::Str(s) => format!("the string {s:?}"),
            Self::Value(v) => format!("`%{v}`"),
            Self::End => "the end of the text".into(),
        }
    }
}

/// Whether `s` is one [`Token::Ident`].
pub fn is_ident(s: &str) -> bool {
    !s.is_empty() && ident_len(s) == s.len()
}

fn ident_len(s: &str) -> usize {
    let part = |s: &str| {
        let head = s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let end = s
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(s.len());
        if head { end } else { 0 }
    };
    let mut at = part(s);
    while at > 0 && s[at..].starts_with('.') {
        match part(&s[at + 1..]) {
            0 => break,
            n => at += 1 + n,
        }
    }
    at
}

fn number_len(s: &str) -> usize {
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    if let Some(hex) = s.strip_prefix("0x") {
        return 2 + hex.bytes().take_while(u8::is_ascii_hexdigit).count();
    }
    let mut at = digits(s);
    // `1..5` is a range, not a fraction.
    if s[at..].starts_with('.') && !s[at..].starts_with("..") {
        at += 1 + digits(&s[at + 1..]);
    }
    if let Some(rest) = s[at..].strip_prefix(['e', 'E']) {
        let sign = usize::from(rest.starts_with(['+', '-']));
        let n = digits(&rest[sign..]);
        if n > 0 {
            at += 1 + sign + n;
        }
    }
    at
}

/// The next token from byte `at` on, as `(token, where it begins, where it ends)`; an error is a place and a message.
pub fn next(text: &str, mut at: usize) -> Result<(Token<'_>, usize, usize), (usize, String)> {
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        if blank > 0 {
            at += blank;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else {
            break;
        }
    }
    let rest = &text[at..];
    let Some(c) = rest.chars().next() else {
        return Ok((Token::End, at, at));
    };
    let (token, len) = match c {
        '"' => {
            let (s, n) = string(rest).map_err(|(offset, m)| (at + offset, m))?;
            (Token::Str(s), n)
        }
        '%' => {
            let n = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
            match rest[1..=n].parse() {
                Ok(v) => (Token::Value(v), 1 + n),
                Err(_) => return Err((at, "expected a value such as `%12`".into())),
            }
        }
        '0'..='9' => {
            let n = number_len(rest);
            (Token::Number(&rest[..n]), n)
        }
        _ => match ident_len(rest) {
            0 if rest.starts_with("..") || rest.starts_with("::") => (Token::Punct(&rest[..2]), 2),
            0 => (Token::Punct(&rest[..c.len_utf8()]), c.len_utf8()),
            n => (Token::Ident(&rest[..n]), n),
        },
    };
    Ok((token, at, at + len))
}

/// Text in quotes, with its length.
fn string(s: &str) -> Result<(String, usize), (usize, String)> {
    let mut out = String::new();
    let mut chars = s.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((out, at + 1)),
            '\n' => break,
            '\\' => {
                let bad = || {
                    (
                        at,
                        "expected one of the escapes \\\" \\\\ \\n \\r \\t \\u{1f}".to_owned(),
                    )
                };
                match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some(c @ ('"' | '\\')) => out.push(c),
                    Some('u') => {
                        let hex: String = chars
                            .by_ref()
                            .map(|(_, c)| c)
                            .take_while(|c| *c != '}')
                            .take(8)
                            .collect();
                        let code = hex.strip_prefix('{').and_then(|h| u32::from_str_radix(h, 16).ok());
                        out.push(code.and_then(char::from_u32).ok_or_else(bad)?);
                    }
                    _ => return Err(bad()),
                }
            }
            c => out.push(c),
        }
    }
    Err((0, "the string does not end on its line".into()))
}

/// `s` in quotes, so that the lexer gives it back.
pub fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        let (mut at, mut out) = (0, vec![]);
        loop {
            let (t, _, end) = next(text, at).expect("tokens");
            if t == Token::End {
                return out;
            }
            out.push(t);
            at = end;
        }
    }

    #[test]
    fn ranges_numbers_and_names_are_told_apart() {
        use Token::*;
        assert_eq!(
            tokens("S=1..512 1.5e-3 1e5 0x7f a.b::C_1 %12 // no\n-"),
            [
                Ident("S"),
                Punct("="),
                Number("1"),
                Punct(".."),
                Number("512"),
                Number("1.5e-3"),
                Number("1e5"),
                Number("0x7f"),
                Ident("a.b"),
                Punct("::"),
                Ident("C_1"),
                Value(12),
                Punct("-"),
            ]
        );
        assert!(is_ident("a.b") && !is_ident("a.") && !is_ident("1a") && !is_ident("") && !is_ident("a b"));
    }

    #[test]
    fn strings_round_trip() {
        for s in ["", "a\"b\\c\nd\u{1}é\u{301}\u{7f}\u{2028}", "{}"] {
            assert_eq!(tokens(&quote(s)), [Token::Str(s.into())]);
        }
        assert!(next("\"abc", 0).is_err());
        assert!(next("\"a\\q\"", 0).is_err());
        assert!(next("\"\\u{110000}\"", 0).is_err());
        assert!(next("%x", 0).is_err());
    }
}
