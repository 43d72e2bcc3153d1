//! Which operators of which opsets are read: those of the table of operations and a few more, which the importer makes
//! others of; and what is said of an operator that is not among them.

use std::ops::RangeInclusive;

use cameo_ir::{Op, ops};

use crate::OPSETS;
use crate::error::{Fault, Site};
use crate::gradient::GRADIENT;

/// Domains of operators and the versions of their opsets that are read. Operators of other domains are functions of the
/// model, or unknown.
pub const DOMAINS: [(&str, RangeInclusive<i64>); 5] = [
    ("", OPSETS),
    ("ai.onnx.ml", 1..=5),
    ("ai.onnx.preview", 1..=1),
    ("ai.onnx.preview.training", 1..=1),
    ("com.microsoft", 1..=1),
];

/// An operator that no graph has.
pub struct Imported {
    pub name: &'static str,
    /// What becomes of it.
    pub becomes: &'static str,
    /// Oldest and newest opset whose form of it is read.
    pub opsets: RangeInclusive<i64>,
    /// As of [`cameo_ir::op::Schema::limits`].
    pub limits: &'static [&'static str],
}

const fn imported(name: &'static str, becomes: &'static str, first: i64, last: i64) -> Imported {
    Imported {
        name,
        becomes,
        opsets: first..=last,
        limits: &[],
    }
}

/// Of a sequence or an optional.
const fn of_lists(name: &'static str, becomes: &'static str, first: i64) -> Imported {
    imported(name, becomes, first, NEWEST).limits(&["what takes a sequence apart must know how many tensors it has"])
}

impl Imported {
    /// Of the operator's name; the default one is `""`.
    pub fn domain(&self) -> &'static str {
        self.name.split_once("::").map_or("", |(domain, _)| domain)
    }

    const fn limits(self, limits: &'static [&'static str]) -> Self {
        Self { limits, ..self }
    }
}

const OLDEST: i64 = *OPSETS.start();
const NEWEST: i64 = *OPSETS.end();

/// By name.
pub const IMPORTED: [Imported; 20] = [
    of_lists("ConcatFromSequence", "`Concat`", 11),
    imported("Constant", "a weight", OLDEST, NEWEST),
    imported("If", "the nodes of a branch", OLDEST, NEWEST).limits(&[]),
    imported("Loop", "a loop over time", OLDEST, NEWEST)
        .limits(&["where nothing tells how often it runs, it may stack the results of 65,536 iterations"]),
    of_lists("Optional", "what it holds", 15),
    of_lists("OptionalGetElement", "what it holds", 15),
    of_lists("OptionalHasElement", "a weight", 15),
    imported("Scan", "a loop over time", 8, NEWEST).limits(&["no `sequence_lens`"]),
    imported("Scatter", "`ScatterElements`", 9, 10),
    of_lists("SequenceAt", "a tensor of the sequence", 11),
    of_lists("SequenceConstruct", "its tensors", 11),
    of_lists("SequenceEmpty", "nothing", 11),
    of_lists("SequenceErase", "the other tensors", 11),
    of_lists("SequenceInsert", "the tensors and one more", 11),
    of_lists("SequenceLength", "a weight", 11),
    of_lists("SequenceMap", "the body for each tensor", 17),
    of_lists("SplitToSequence", "`Split`", 11),
    imported("Upsample", "`Resize`", OLDEST, 9),
    imported(
        "ai.onnx.ml::ZipMap",
        "its operand: the values, a column for each key",
        1,
        5,
    ),
    imported(GRADIENT, "the derivatives of nodes", 1, 1).limits(&[
        "at the values that `y` is computed of",
        "of element by element functions, products of matrices, and moved axes",
    ]),
];

/// The opsets of its domain in which an operator of the table is there: since when is what its schema says.
pub fn opsets(op: Op) -> RangeInclusive<i64> {
    let schema = op.schema();
    let known = DOMAINS.iter().find(|(name, _)| *name == schema.domain());
    let (first, last) = known.map_or((1, 1), |(_, all)| (*all.start(), *all.end()));
    first.max(schema.since)..=last
}

/// Whether the operator can be imported at all. In a model of an opset before the one that brought it, it is what it
/// became: ONNX Runtime writes `LayerNormalization` into models of any opset.
pub(crate) fn known(site: &Site) -> bool {
    // Cameo's own operators are made by its passes, not by files.
    if site.op.starts_with("cameo::") {
        return false;
    }
    match IMPORTED.iter().find(|i| i.name == site.op) {
        Some(i) => site.opset.is_none_or(|v| v <= *i.opsets.end()),
        None => Op::find(&site.op).is_some(),
    }
}

/// What is wrong with the version of an operator's domain. That of the default domain is checked once for the model.
pub(crate) fn version(site: &Site) -> Result<(), Fault> {
    let domain = site.op.split_once("::").map_or("", |(domain, _)| domain);
    let known = DOMAINS.iter().find(|(name, _)| *name == domain);
    match (known, site.opset) {
        (Some((_, versions)), Some(v)) if !versions.contains(&v) && !domain.is_empty() => {
            let (first, last) = (versions.start(), versions.end());
            Err(Fault::unsupported(format!(
                "opset {v} of domain `{domain}`; opsets {first} to {last} are supported"
            ))
            .hint("export with one of these versions"))
        }
        _ => Ok(()),
    }
}

/// What is said of an operator that is not [`known`].
pub(crate) fn unknown(op: &str) -> Fault {
    let said = format!("unsupported operator `{op}`");
    if let Some(i) = IMPORTED.iter().find(|i| i.name == op) {
        let last = i.opsets.end();
        return Fault::unsupported(format!("{said}: opset {last} is the last one that has it"))
            .hint(format!("since then it is {}", i.becomes));
    }
    let domain = op.split_once("::").map_or("", |(domain, _)| domain);
    if domain == "com.microsoft.nchwc" {
        return Fault::unsupported(format!("{said}: ONNX Runtime arranged the model for its own kernels"))
            .hint("save it at the level ORT_ENABLE_EXTENDED at most, or take the model as it was before");
    }
    if DOMAINS.iter().all(|(name, _)| *name != domain) {
        let names: Vec<String> = DOMAINS.iter().map(|(name, _)| format!("`{}`", shown(name))).collect();
        return Fault::unsupported(format!("{said}: its domain `{domain}` is not known")).hint(format!(
            "known are {}; export without it, add it to the model as a function, or supply a kernel (`--custom-op`)",
            names.join(", ")
        ));
    }
    let fault = Fault::unsupported(said);
    match (nearest(op), domain) {
        (Some(near), _) => fault.hint(format!("did you mean `{near}`?")),
        (None, "") => fault.hint(
            "export with operators of the support table, add the operator to the model as a function of supported ones, or \
             supply a kernel (`--custom-op`)",
        ),
        (None, _) => fault.hint(
            "operators of this domain are runtime extensions; export without them, add them to the model as a function, or \
             supply a kernel (`--custom-op`)",
        ),
    }
}

/// As a domain is called where it has to have a name.
fn shown(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// The known operator that is nearest in spelling, if it is near: of the same name in another domain, or with a typo.
pub fn nearest(op: &str) -> Option<&'static str> {
    let (domain, name) = op.rsplit_once("::").unwrap_or(("", op));
    let most = name.len() / 4;
    let table = ops::all().map(Op::name).filter(|n| !n.starts_with("cameo::"));
    let all = table.chain(IMPORTED.iter().map(|i| i.name));
    let measured = all.filter_map(|n| {
        let (its, bare) = n.rsplit_once("::").unwrap_or(("", n));
        let far = distance(name, bare);
        // A typo stays in its domain.
        (far == 0 || far <= most && its == domain).then_some((far, its != domain, n))
    });
    measured.min().map(|(_, _, n)| n)
}

/// How many letters must be changed, added or left out to make `b` of `a` (Levenshtein); case does not count.
fn distance(a: &str, b: &str) -> usize {
    // Longer names than any operator's are none of them: this bounds the work on hostile files.
    const MOST: usize = 64;
    if a.len() > MOST || b.len() > MOST {
        return MOST;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = before + usize::from(!x.eq_ignore_ascii_case(&y));
            before = row[j + 1];
            row[j + 1] = change.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opset::CHANGES;

    #[test]
    fn distances() {
        let far = [
            ("Relu", "relu"),
            ("Gelu", "Relu"),
            ("MatMull", "MatMul"),
            ("Cov", "Conv"),
            ("", "Abs"),
        ];
        assert_eq!(far.map(|(a, b)| distance(a, b)), [0, 1, 1, 1, 3]);
        assert_eq!(distance(&"x".repeat(1 << 20), "Relu"), 64);
    }

    #[test]
    fn near_names() {
        let near = [
            "relu",
            "MatMull",
            "com.microsoft::Conv",
            "LabelEncoder",
            "ai.onnx.ml::Scalar",
            "Sequel",
            "Abz",
        ];
        assert_eq!(
            near.map(nearest),
            [
                Some("Relu"),
                Some("MatMul"),
                Some("Conv"),
                Some("ai.onnx.ml::LabelEncoder"),
                Some("ai.onnx.ml::Scaler"),
                None,
                None,
            ]
        );
    }

    #[test]
    fn every_domain_of_the_table_has_versions() {
        for op in ops::all().filter(|o| o.schema().domain() != "cameo") {
            assert!(DOMAINS.iter().any(|(name, _)| *name == op.schema().domain()), "{op}");
            assert!(!opsets(op).is_empty(), "{op} is newer than what is read of its domain");
        }
    }

    /// What is raised is an operator, and was one in an opset before.
    #[test]
    fn changes_are_of_known_operators() {
        for c in CHANGES {
            let since = match IMPORTED.iter().find(|i| i.name == c.op) {
                Some(i) => *i.opsets.start(),
                None => Op::find(c.op).expect(c.op).schema().since,
            };
            assert!(since < c.until, "{} was not there before opset {}", c.op, c.until);
        }
        let renamed: Vec<&str> = IMPORTED
            .iter()
            .filter(|i| i.domain().is_empty() && *i.opsets.end() < NEWEST)
            .map(|i| i.name)
            .collect();
        for name in renamed {
            assert!(CHANGES.iter().any(|c| c.op == name), "{name} becomes another");
        }
    }
}
