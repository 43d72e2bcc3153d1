//! Patterns as automata over bytes, whose tables are all that a program has of them.
//!
//! Law: syntax and meaning are those of RE2, which ONNX names: Perl's classes are those of ASCII, all else is about
//! characters. What differs from the syntax of the `regex` crates is written in their words.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::{primitives::StateID, syntax};
use regex_automata::{Anchored, Input, nfa::thompson};
use rustc_hash::FxHashMap;

use crate::Attr;
use crate::op::{Attrs, OpError, invalid, unsupported};

/// Transitions of a table: 2 MB, more than the words of a language's letters take.
const MOST_TRANSITIONS: usize = 1 << 18;

/// Bytes that the automaton may take while it is made.
const MOST_BYTES: usize = 1 << 25;

/// The table of an automaton. It begins in state 0.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// The class of each byte.
    classes: Vec<i64>,
    /// Number of classes.
    width: i64,
    /// From state and class to state.
    next: Vec<i64>,
    /// Whether a text may end in a state.
    accepts: Vec<i64>,
}

impl Pattern {
    pub fn new(pattern: &str) -> Result<Self, OpError> {
        let dfa = automaton(pattern)?;
        let start = start(&dfa)?;
        let mut numbers: FxHashMap<StateID, usize> = FxHashMap::default();
        numbers.insert(start, 0);
        let (mut states, mut rows) = (vec![start], vec![]);
        while rows.len() < states.len() {
            let from = states[rows.len()];
            let row: Vec<i64> = (0..=255u8)
                .map(|byte| {
                    let to = dfa.next_state(from, byte);
                    let number = *numbers.entry(to).or_insert_with(|| {
                        states.push(to);
                        states.len() - 1
                    });
                    number as i64
                })
                .collect();
            rows.push(row);
            if rows.len() > MOST_TRANSITIONS / 8 {
                return too_large(pattern);
            }
        }
        // Bytes that lead everywhere to the same states are one class.
        let (mut columns, mut classes): (Vec<Vec<i64>>, Vec<i64>) = (vec![], vec![]);
        for byte in 0..256 {
            let column: Vec<i64> = rows.iter().map(|row| row[byte]).collect();
            let class = columns.iter().position(|c| *c == column).unwrap_or_else(|| {
                columns.push(column);
                columns.len() - 1
            });
            classes.push(class as i64);
        }
        if columns.len() * rows.len() > MOST_TRANSITIONS {
            return too_large(pattern);
        }
        Ok(Self {
            classes,
            width: columns.len() as i64,
            next: (0..rows.len())
                .flat_map(|state| columns.iter().map(move |c| c[state]))
                .collect(),
            accepts: states
                .iter()
                .map(|s| i64::from(dfa.is_match_state(dfa.next_eoi_state(*s))))
                .collect(),
        })
    }

    /// As attributes of the runtime's operator.
    pub fn attrs(&self) -> [(&'static str, Attr); 4] {
        [
            ("accepts", Attr::Ints(self.accepts.clone())),
            ("classes", Attr::Ints(self.classes.clone())),
            ("next", Attr::Ints(self.next.clone())),
            ("width", Attr::Int(self.width)),
        ]
    }

    /// The way back.
    pub fn of_attrs(attrs: &Attrs) -> Result<Self, OpError> {
        let ints = |name: &str| match attrs.get(name) {
            Some(Attr::Ints(v)) => v.clone(),
            _ => vec![],
        };
        let width = match attrs.get("width") {
            Some(Attr::Int(width @ 1..=256)) => *width,
            _ => 0,
        };
        let all = Self {
            classes: ints("classes"),
            width,
            next: ints("next"),
            accepts: ints("accepts"),
        };
        let states = all.accepts.len();
        let whole = all.classes.len() == 256 && states > 0 && all.next.len() == states * width as usize;
        let inside = all.classes.iter().all(|c| (0..width).contains(c))
            && all.next.iter().all(|s| (0..states as i64).contains(s));
        if whole && inside {
            Ok(all)
        } else {
            invalid("the table of a pattern contradicts itself")
        }
    }

    pub fn accepts(&self, text: &str) -> bool {
        let step = |state: i64, byte: u8| self.next[(state * self.width + self.classes[usize::from(byte)]) as usize];
        self.accepts[text.bytes().fold(0, step) as usize] != 0
    }
}

/// Whether each text is what the pattern describes, by the library's own search.
pub(super) fn search(pattern: &str, texts: &[&str]) -> Result<Vec<bool>, OpError> {
    let dfa = automaton(pattern)?;
    let one = |text: &&str| match dfa.try_search_fwd(&Input::new(*text).anchored(Anchored::Yes)) {
        Ok(found) => Ok(found.is_some_and(|end| end.offset() == text.len())),
        Err(e) => unsupported(format!("pattern `{pattern}`: {e}")),
    };
    texts.iter().map(one).collect()
}

fn too_large<T>(pattern: &str) -> Result<T, OpError> {
    unsupported(format!("the automaton of pattern `{pattern}` is too large"))
}

fn start(dfa: &dense::DFA<Vec<u32>>) -> Result<StateID, OpError> {
    let start = dfa.start_state_forward(&Input::new("").anchored(Anchored::Yes));
    start.or_else(|e| unsupported(format!("a pattern without a beginning: {e}")))
}

fn automaton(pattern: &str) -> Result<dense::DFA<Vec<u32>>, OpError> {
    let whole = format!(r"\A(?:{})\z", translated(pattern));
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .minimize(false)
        .dfa_size_limit(Some(MOST_BYTES))
        .determinize_size_limit(Some(MOST_BYTES));
    let built = dense::Builder::new()
        .configure(config)
        // What is matched are texts: that no character is cut is not the pattern's business.
        .syntax(syntax::Config::new().utf8(false))
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(MOST_BYTES)))
        .build(&whole);
    built.or_else(|e| {
        let mut too_large = e.is_size_limit_exceeded();
        let mut cause: &dyn std::error::Error = &e;
        while let Some(inner) = cause.source() {
            cause = inner;
            let nfa = cause.downcast_ref::<thompson::BuildError>();
            too_large |= nfa.is_some_and(|e| e.size_limit().is_some());
        }
        // Of several lines the last says what is wrong.
        let why = cause.to_string();
        let why = why
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error:")
            .trim();
        match too_large {
            true => self::too_large(pattern),
            false => invalid(format!("pattern `{pattern}`: {why}")),
        }
    })
}

/// The pattern in the syntax of the `regex` crates.
fn translated(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    // Inside of a class, and whether it has begun with nothing but `[` and `^`.
    let (mut class, mut first) = (false, false);
    while let Some(c) = chars.next() {
        let at_start = std::mem::take(&mut first);
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(r"[\t\n\f\r ]"),
                Some('S') => out.push_str(r"[^\t\n\f\r ]"),
                Some(edge @ ('b' | 'B')) if !class => {
                    out.push_str(r"(?-u:\");
                    out.push(edge);
                    out.push(')');
                }
                other => {
                    out.push('\\');
                    out.extend(other);
                }
            },
            '[' if !class => {
                class = true;
                first = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            '[' if chars.peek() == Some(&':') => {
                // `[:alpha:]` goes on to its own end.
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            ']' if at_start => out.push_str(r"\]"),
            ']' => {
                class = false;
                out.push(']');
            }
            // Two in a row take one set from another: of `!--` and `--a` the second is the end or the beginning of a range.
            '-' if class && chars.peek() == Some(&'-') => {
                chars.next();
                match at_start {
                    true => out.push_str(r"\--"),
                    false => out.push_str(r"-\-"),
                }
            }
            // Sets in sets, and what joins them, are characters here.
            '[' | '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_searches_agree() {
        let texts = [
            "", "a", "ab", "abc", "aab", "ä", "äb", "a b", "a\nb", "9", "٣", "_x", "]", "[", "a&&b", "foo bar",
            "foo.bar", "ß", "K", "\u{212a}", "a@b.cc", "]a", "-",
        ];
        for pattern in [
            "",
            "a*b?",
            "a|ab|abc",
            ".",
            ".*",
            "(?s).*",
            r"\d",
            r"\w+",
            r"\W",
            r"[\w-]+",
            r"[^\d]",
            "[]a]+",
            "[[]",
            "[a[&~]+b?",
            "[[:alpha:]]+",
            r"foo\b.bar",
            r"\Ba",
            "(?i)k",
            "ä+b{0,2}",
            "^a$",
            r"[^\s@]+@[^\s@]+\.\w{2}",
            r"\pL",
            r"[\pL\d]+",
            "(a*)*(b|c)",
            "a{2}b",
            r"\]",
            "x*?",
        ] {
            let table = Pattern::new(pattern).expect(pattern);
            let searched = search(pattern, &texts).expect(pattern);
            for (text, want) in texts.iter().zip(searched) {
                assert_eq!(table.accepts(text), want, "{pattern:?} {text:?}");
            }
            let attrs = table.attrs().into_iter().map(|(k, v)| (k.into(), v)).collect();
            assert_eq!(Pattern::of_attrs(&attrs).expect("whole"), table);
        }
    }

    #[test]
    fn meanings_are_re2s() {
        let is = |pattern: &str, text: &str| Pattern::new(pattern).expect(pattern).accepts(text);
        // Classes of Perl are those of ASCII, a dot is a character.
        assert!(is(r"\d", "9") && !is(r"\d", "٣") && !is(r"\w", "ä") && is(r"\W", "ä") && is(".", "ä"));
        assert!(!is(".", "\n") && is("(?s).", "\n"));
        assert!(is("[]a]", "]") && is("[[a]+", "[a") && is("[a&&b]+", "a&b"));
        assert!(is("(?i)straSSE", "Strasse") && !is("abc", "abcd") && !is("abc", "xabc"));
        assert!(is("a|ab", "ab"), "all of the text, not the first that fits");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, part) in [
            ("a(", "unclosed group"),
            ("*", "repetition"),
            (r"(a)\1", "backreference"),
            ("[z-a]", "range"),
        ] {
            let said = Pattern::new(pattern).expect_err(pattern).to_string();
            assert!(said.starts_with("invalid: pattern `") && said.contains(part), "{said}");
        }
        let said = Pattern::new(r"(\pL{1,100}x){1,100}").expect_err("large").to_string();
        assert!(said.contains("too large"), "{said}");
        let mut attrs: Attrs = Pattern::new("a")
            .expect("small")
            .attrs()
            .into_iter()
            .map(|(k, v)| (k.into(), v))
            .collect();
        attrs.insert("next".into(), Attr::Ints(vec![9]));
        assert!(Pattern::of_attrs(&attrs).is_err());
    }
}
