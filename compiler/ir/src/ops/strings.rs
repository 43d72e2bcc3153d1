//! Functions of strings.
//!
//! Laws: a string is a handle to loops (`tensor.rs`), which move and compare it; what looks at its bytes is an operator of the
//! runtime (`functions.rs` there), a [`cameo::Custom`](super::custom) whose name begins with `cameo::`. [`own`] says what these
//! mean for the interpreter. A function is called on operands of one shape, none of them as long as data says.

use std::sync::Arc;

use cameo_abi::OWN_OPERATOR;

use crate::dim::COUNTED;
use crate::index::broadcast_facts;
use crate::op::{AttrDef, Cx, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::composed::{Composed, concat, reshape};
use crate::ops::counted::{COUNT, length};
use crate::ops::custom::{Parts, probe};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

pub(super) mod numbers;
mod pattern;

use pattern::Pattern;

pub const OPS: &[&dyn OpDef] = &[&CONCAT, &FULL_MATCH, &NORMALIZER, &SPLIT];

const X: &[Param] = &[Param::new("X", Types::STRING)];
const Y: &[Param] = &[Param::new("Y", Types::STRING)];

/// The results of an operator of the runtime.
fn call(
    g: &mut Fragment,
    name: &str,
    attrs: &[(&str, Attr)],
    operands: &[ValueId],
    outputs: Vec<Fact>,
) -> Result<Vec<ValueId>, OpError> {
    let operator: Arc<str> = format!("{OWN_OPERATOR}{name}").into();
    let count = outputs.len();
    let parts = Parts {
        operator: &operator,
        outputs,
        function: None,
    };
    let attrs = parts.attrs(attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect());
    let attrs: Vec<(&str, Attr)> = attrs.iter().map(|(k, v)| (&**k, v.clone())).collect();
    let operands: Vec<Option<ValueId>> = operands.iter().copied().map(Some).collect();
    g.results("cameo::Custom", &attrs, &operands, count)
}

/// An operator of the runtime whose result has the operands' shape.
fn map(
    g: &mut Fragment,
    name: &str,
    attrs: &[(&str, Attr)],
    operands: &[ValueId],
    to: DType,
) -> Result<ValueId, OpError> {
    let shape = g.fact(operands[0]).shape.clone();
    Ok(call(g, name, attrs, operands, vec![Fact::new(to, shape)])?[0])
}

/// What an operator of the runtime computes.
pub(super) fn own(name: &str, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    let x = cx.tensor(0)?;
    let int = |name: &str| match cx.attrs.get(name) {
        Some(Attr::Int(v)) => Some(*v),
        _ => None,
    };
    if name == "Print" {
        return Ok(vec![numbers::printed(x)?]);
    }
    let given = texts(x)?;
    match name {
        "Parse" => Ok(vec![numbers::stored_as_told(x, cx.attrs)?]),
        "Concat" => {
            let joined = given.iter().zip(texts(cx.tensor(1)?)?).map(|(a, b)| format!("{a}{b}"));
            Ok(vec![strings(x.shape(), joined)?])
        }
        "Case" => {
            let upper = int("upper") == Some(1);
            Ok(vec![strings(x.shape(), given.iter().map(|t| cased(t, upper)))?])
        }
        "Match" => {
            let pattern = Pattern::of_attrs(cx.attrs)?;
            Ok(vec![Tensor::bool(x.shape(), given.iter().map(|t| pattern.accepts(t)))])
        }
        "Split" => {
            let delimiter = match cx.attrs.get("delimiter") {
                Some(Attr::Str(d)) => d,
                _ => "",
            };
            split(x, delimiter, int("maxsplit"))
        }
        _ => unsupported(format!("the runtime has no operator {name}")),
    }
}

/// The texts of a tensor of strings, which the interpreter always has.
fn texts(t: &Tensor) -> Result<Vec<&str>, OpError> {
    match t.to_texts() {
        Some(texts) => Ok(texts),
        None => invalid(format!("the strings of {} are not known here", t.fact())),
    }
}

fn strings(shape: &[usize], texts: impl IntoIterator<Item = String>) -> Result<Tensor, OpError> {
    let texts: Vec<String> = texts.into_iter().collect();
    Tensor::strings(shape, texts.iter().map(String::as_str)).map_err(OpError::Unsupported)
}

fn cased(text: &str, upper: bool) -> String {
    if upper {
        text.to_uppercase()
    } else {
        text.to_lowercase()
    }
}

const CONCAT: Composed = Composed {
    schema: &Schema::new(
        "StringConcat",
        "a and b joined",
        &[Param::new("X", Types::STRING), Param::new("Y", Types::STRING)],
        &[Param::new("Z", Types::STRING)],
        &[],
    )
    .limits(&["no operands as long as data says"])
    .since(20),
    build: |cx, g| {
        let shape = broadcast_facts(&cx.facts()?)?;
        let mut operands = vec![];
        for i in 0..2 {
            let x = g.required(cx, i)?;
            operands.push(if g.fact(x).shape == shape {
                x
            } else {
                g.apply("Expand", &[("shape", Attr::Dims(shape.clone()))], &[x])?
            });
        }
        Ok(vec![map(g, "Concat", &[], &operands, DType::String)?])
    },
    eval: |cx| {
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let (shape, handles) = pointwise::zip(cx, Tensor::to_i64, |x| (x[0] as u64, x[1] as u64))?;
        let text = |t: &Tensor, handle| t.texts().get(handle).map(str::to_owned);
        let both = |(x, y)| Some(text(a, x)? + &text(b, y)?);
        match handles.into_iter().map(both).collect::<Option<Vec<String>>>() {
            Some(joined) => Ok(vec![strings(&shape, joined)?]),
            None => invalid("the strings are not known here"),
        }
    },
};

const FULL_MATCH: Composed = Composed {
    schema: &Schema::new(
        "RegexFullMatch",
        "whether all of x is what the pattern describes",
        X,
        &[Param::new("Y", Types::BOOL).group(2)],
        &[("pattern", AttrDef::ReqStr)],
    )
    .limits(&[
        "the pattern must be of RE2's syntax but for `\\C` and `\\Q`, and give an automaton of at most 2^18 transitions",
        "no operand as long as data says",
    ])
    .since(20),
    build: |cx, g| {
        let pattern = Pattern::new(cx.str("pattern")?)?;
        let x = g.required(cx, 0)?;
        Ok(vec![map(g, "Match", &pattern.attrs(), &[x], DType::Bool)?])
    },
    eval: |cx| {
        let x = cx.tensor(0)?;
        let matches = pattern::search(cx.str("pattern")?, &texts(x)?)?;
        Ok(vec![Tensor::bool(x.shape(), matches)])
    },
};

/// What `StringNormalizer` does.
struct Normal<'a> {
    /// To upper case, or to lower case.
    change: Option<bool>,
    exact: bool,
    stopwords: Vec<&'a str>,
}

impl<'a> Normal<'a> {
    fn of(cx: &Cx<'a>) -> Result<Self, OpError> {
        let change = match cx.str("case_change_action")? {
            "LOWER" => Some(false),
            "UPPER" => Some(true),
            _ => None,
        };
        match cx.opt_str("locale")? {
            None | Some("" | "C" | "POSIX" | "en_US" | "en_US.UTF-8" | "en_US.utf8" | "en-US") => {}
            Some(other) => {
                return unsupported(format!(
                    "attribute `locale` is `{other}`: cases are Unicode's, of no language"
                ));
            }
        }
        let x = cx.fact(0)?;
        let shape = x.shape.as_slice();
        if !matches!(shape, [_] | [_, _]) || shape.len() == 2 && shape[0].as_const().is_some_and(|n| n != 1) {
            return invalid(format!("{x} is neither a row nor a batch of one row"));
        }
        let stopwords = cx.opt_strs("stopwords")?.unwrap_or_default();
        Ok(Self {
            change,
            exact: cx.int("is_case_sensitive")? != 0,
            stopwords: stopwords.iter().map(|s| &**s).collect(),
        })
    }

    /// The stop words as they are compared.
    fn compared(&self) -> Vec<String> {
        let one = |s: &&str| if self.exact { (*s).to_owned() } else { cased(s, false) };
        self.stopwords.iter().map(one).collect()
    }
}

const NORMALIZER: Composed = Composed {
    schema: &Schema::new(
        "StringNormalizer",
        "the words that are no stop words, in another case; one empty string where none is left",
        X,
        Y,
        &[
            ("case_change_action", AttrDef::OneOf(&["NONE", "LOWER", "UPPER"])),
            (COUNT, AttrDef::Symbol(COUNTED)),
            ("is_case_sensitive", AttrDef::Int(0)),
            ("locale", AttrDef::OptStr),
            ("stopwords", AttrDef::OptStrs),
        ],
    )
    .limits(&[
        "cases are Unicode's, of no language: `locale` must be that of English or C",
        "no operand as long as data says",
    ])
    .since(10),
    build: |cx, g| {
        let normal = Normal::of(cx)?;
        let x = g.required(cx, 0)?;
        let case =
            |g: &mut Fragment, upper: bool| map(g, "Case", &[("upper", Attr::Int(upper.into()))], &[x], DType::String);
        let y = normal.change.map_or(Ok(x), |upper| case(g, upper))?;
        if normal.stopwords.is_empty() {
            return Ok(vec![y]);
        }
        length(cx.str(COUNT)?)?;
        let seen = match (normal.exact, normal.change) {
            (true, _) => x,
            (false, Some(false)) => y,
            (false, _) => case(g, false)?,
        };
        let words = normal.compared();
        let stop = g.constant(strings(&[words.len()], words)?);
        // Where only a run knows that it is one row, it checks it.
        let row = cx.fact(0)?.shape.last().cloned().unwrap_or(Dim::ONE);
        let one = |g: &mut Fragment, v: ValueId| match cx.fact(0)?.rank() {
            2 => g.apply(
                "cameo::Fit",
                &[("shape", Attr::Dims(vec![Dim::ONE, row.clone()]))],
                &[v],
            ),
            _ => Ok(v),
        };
        let (seen, y) = (one(g, seen)?, one(g, y)?);
        let seen = reshape(g, seen, vec![row.clone(), Dim::ONE])?;
        let stopped = g.binary("Equal", seen, stop)?;
        let stopped = g.cast(stopped, DType::I64)?;
        let stopped = g.reduce("ReduceSum", stopped, &[1], false)?;
        let zero = g.number(stopped, 0.0);
        let kept = g.binary("Equal", stopped, zero)?;
        // Behind all words an empty one, which stays when nothing else does.
        let number = g.cast(kept, DType::I64)?;
        let number = g.reduce("ReduceSum", number, &[0], true)?;
        let none = g.binary("Equal", number, zero)?;
        let flags = concat(g, &[kept, none], 0)?;
        let y = reshape(g, y, vec![row])?;
        let empty = g.constant(strings(&[1], vec![String::new()])?);
        let y = concat(g, &[y, empty], 0)?;
        let count = cx.str(COUNT)?;
        let at = g.results("cameo::Compact", &[(COUNT, Attr::Str(count.into()))], &[Some(flags)], 2)?[0];
        let y = g.apply("Gather", &[("axis", Attr::Int(0))], &[y, at])?;
        if cx.fact(0)?.rank() == 1 {
            return Ok(vec![y]);
        }
        Ok(vec![reshape(g, y, vec![Dim::ONE, length(count)?])?])
    },
    eval: |cx| {
        let normal = Normal::of(cx)?;
        let (x, stop) = (cx.tensor(0)?, normal.compared());
        if x.shape().len() == 2 && x.shape()[0] != 1 {
            return invalid(format!("{} is no batch of one row", x.fact()));
        }
        let seen = |t: &str| if normal.exact { t.to_owned() } else { cased(t, false) };
        let all = texts(x)?;
        let kept = all.iter().filter(|t| !stop.contains(&seen(t)));
        let mut kept: Vec<String> = kept
            .map(|t| normal.change.map_or_else(|| (*t).to_owned(), |upper| cased(t, upper)))
            .collect();
        if kept.is_empty() && !stop.is_empty() {
            kept.push(String::new());
        }
        let mut shape = x.shape().to_vec();
        let last = shape.len() - 1;
        shape[last] = kept.len();
        Ok(vec![strings(&shape, kept)?])
    },
};

const SPLIT: Composed = Composed {
    schema: &Schema::new(
        "StringSplit",
        "the parts of x between delimiters, or between blanks where there is none, and behind them empty strings; how many",
        X,
        &[Param::new("Y", Types::STRING), Param::new("Z", Types::I64).group(2)],
        &[
            ("delimiter", AttrDef::OptStr),
            ("maxsplit", AttrDef::OptInt),
            (MOST, AttrDef::Probe),
        ],
    )
    .limits(&["the operand must be an input or a constant"])
    .since(20),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        let most = match (cx.opt_str(MOST)?, cx.arg(0).and_then(|a| a.constant)) {
            (Some(most), _) => probe(most)?,
            (None, Some(x)) => Dim::from(pieces(x, cx)?[0].shape()[x.shape().len()]),
            (None, None) => {
                return unsupported(
                    "how many parts there are stands in the strings, which must be an input of the model, outside of loops, or constant",
                );
            }
        };
        let mut attrs = vec![];
        if let Some(delimiter) = cx.opt_str("delimiter")? {
            attrs.push(("delimiter", Attr::Str(delimiter.into())));
        }
        if let Some(n) = cx.opt_int("maxsplit")? {
            attrs.push(("maxsplit", Attr::Int(n)));
        }
        let shape = g.fact(x).shape.clone();
        let parts = shape.iter().cloned().chain([most]).collect::<Vec<_>>();
        let outputs = vec![Fact::new(DType::String, parts), Fact::new(DType::I64, shape)];
        call(g, "Split", &attrs, &[x], outputs)
    },
    eval: |cx| pieces(cx.tensor(0)?, cx),
};

fn pieces(x: &Tensor, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    split(x, cx.opt_str("delimiter")?.unwrap_or(""), cx.opt_int("maxsplit")?)
}

/// Attribute that names the symbol for the most parts of a string.
const MOST: &str = "most";

/// Parts and how many there are, as Python's `str.split` gives them.
fn split(x: &Tensor, delimiter: &str, limit: Option<i64>) -> Result<Vec<Tensor>, OpError> {
    let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let rows: Vec<Vec<&str>> = texts(x)?.into_iter().map(|t| parts(t, delimiter, limit)).collect();
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    let filled = rows
        .iter()
        .flat_map(|r| r.iter().copied().chain(std::iter::repeat_n("", most - r.len())));
    let shape = [x.shape(), &[most]].concat();
    let y = Tensor::strings(&shape, filled).map_err(OpError::Unsupported)?;
    Ok(vec![y, Tensor::i64(x.shape(), rows.iter().map(|r| r.len() as i64))])
}

fn parts<'a>(text: &'a str, delimiter: &str, limit: usize) -> Vec<&'a str> {
    if !delimiter.is_empty() {
        return text.splitn(limit.saturating_add(1), delimiter).collect();
    }
    // Python's blanks are Unicode's and the separators of ASCII.
    let blank = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    let (mut found, mut rest) = (vec![], text.trim_start_matches(blank));
    while !rest.is_empty() {
        if found.len() == limit {
            found.push(rest);
            break;
        }
        let end = rest.find(blank).unwrap_or(rest.len());
        found.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(blank);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples::{eval, in_both_meanings, infer};

    fn words(shape: &[usize], texts: &[&str]) -> Option<Tensor> {
        Some(Tensor::strings(shape, texts.iter().copied()).expect("different"))
    }

    fn said(t: &Tensor) -> Vec<&str> {
        t.to_texts().expect("known")
    }

    #[test]
    fn joined() {
        let x = words(&[2, 1], &["a", "ü"]);
        let y = words(&[3], &["", "b", "漢"]);
        in_both_meanings("StringConcat", &[], &[x.clone(), y.clone()], 1);
        in_both_meanings("StringConcat", &[], &[words(&[], &["a"]), words(&[], &["b"])], 1);
        let z = eval("StringConcat", &[], &[x, y], 1).remove(0);
        assert_eq!(
            (z.shape(), said(&z)),
            (&[2, 3][..], vec!["a", "ab", "a漢", "ü", "üb", "ü漢"])
        );
        let counted = Fact::new(DType::String, [Dim::sym("count.n")]);
        let refused = infer("StringConcat", &[], &[counted.clone(), counted]).expect_err("refused");
        assert!(refused.message().contains("as long as data says"), "{refused}");
    }

    fn stop(list: &[&str]) -> (&'static str, Attr) {
        ("stopwords", Attr::Strs(list.iter().map(|s| (*s).into()).collect()))
    }

    #[test]
    fn normal_words() {
        let op = "StringNormalizer";
        let count = || ("count", Attr::Str("count.n".into()));
        let action = |s: &str| ("case_change_action", Attr::Str(s.into()));
        let x = || words(&[4], &["Monday", "tuesday", "ÄRA", "Monday"]);
        let run = |attrs: &[(&str, Attr)], x: Option<Tensor>| {
            let attrs: Vec<(&str, Attr)> = attrs.iter().cloned().chain([count()]).collect();
            in_both_meanings(op, &attrs, std::slice::from_ref(&x), 1);
            eval(op, &attrs, &[x], 1).remove(0)
        };
        assert_eq!(
            said(&run(&[action("LOWER")], x())),
            ["monday", "tuesday", "ära", "monday"]
        );
        assert_eq!(said(&run(&[stop(&["monday"])], x())), ["tuesday", "ÄRA"]);
        let exact = ("is_case_sensitive", Attr::Int(1));
        assert_eq!(said(&run(&[stop(&["monday"]), exact.clone()], x())).len(), 4);
        assert_eq!(
            said(&run(&[stop(&["Monday"]), exact, action("UPPER")], x())),
            ["TUESDAY", "ÄRA"]
        );
        let nothing = run(&[stop(&["a"])], words(&[1, 2], &["A", "a"]));
        assert_eq!((nothing.shape(), said(&nothing)), (&[1, 1][..], vec![""]));
        let x = Fact::new(DType::String, [Dim::from(3usize)]);
        let refused = infer(
            op,
            &[count(), ("locale", Attr::Str("tr_TR".into()))],
            std::slice::from_ref(&x),
        );
        assert!(refused.expect_err("refused").message().contains("tr_TR"));
        let two = Fact::new(DType::String, [2usize, 3].map(Dim::from));
        assert!(infer(op, &[count()], &[two]).is_err());
        assert!(infer(op, &[count()], &[Fact::new(DType::I64, [Dim::ONE])]).is_err());
    }

    #[test]
    fn matches() {
        let op = "RegexFullMatch";
        let x = || words(&[2, 2], &["abc@x.com", "", "abc@x.comm", "äbc@x.com"]);
        let attrs = |p: &str| vec![("pattern", Attr::Str(p.into()))];
        let run = |p: &str| {
            in_both_meanings(op, &attrs(p), &[x()], 1);
            eval(op, &attrs(p), &[x()], 1)[0].to_i64()
        };
        assert_eq!(run(r"\w+@x\.com"), [1, 0, 0, 0]);
        assert_eq!(run(r".+@x\.com+"), [1, 0, 1, 1]);
        assert_eq!(run(""), [0, 1, 0, 0]);
        assert_eq!(run("(?i)ABC@.*m"), [1, 0, 1, 0]);
        let fact = Fact::new(DType::String, [Dim::ONE]);
        assert!(infer(op, &attrs("a("), &[fact]).is_err());
    }

    #[test]
    fn pieces() {
        let op = "StringSplit";
        let attrs = |delimiter: Option<&str>, limit: Option<i64>| {
            let mut all = vec![("most", Attr::Str("custom.most".into()))];
            all.extend(delimiter.map(|d| ("delimiter", Attr::Str(d.into()))));
            all.extend(limit.map(|n| ("maxsplit", Attr::Int(n))));
            all
        };
        let x = || words(&[2], &["a.b..c", " d  e "]);
        let run = |attrs: &[(&str, Attr)]| {
            in_both_meanings(op, attrs, &[x()], 2);
            eval(op, attrs, &[x()], 2)
        };
        let y = run(&attrs(Some("."), None));
        assert_eq!((y[0].shape(), y[1].to_i64()), (&[2, 4][..], vec![4, 1]));
        assert_eq!(said(&y[0]), ["a", "b", "", "c", " d  e ", "", "", ""]);
        let y = run(&attrs(None, Some(1)));
        assert_eq!(
            (said(&y[0]), y[1].to_i64()),
            (vec!["a.b..c", "", "d", "e "], vec![1, 2])
        );
        let y = eval(op, &attrs(Some(""), None), &[words(&[0, 2], &[])], 2);
        assert_eq!((y[0].shape(), y[1].shape()), (&[0, 2, 0][..], &[0, 2][..]));
        assert!(
            infer(
                op,
                &[("most", Attr::Str("count.n".into()))],
                &[x().expect("words").fact()]
            )
            .is_err()
        );
    }
}
