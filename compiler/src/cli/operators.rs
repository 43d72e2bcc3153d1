//! The table of operators that Cameo supports, from the tables that the compiler itself reads: `FAMILIES` with their schemas,
//! and what the importer makes other operators of.

use std::ops::RangeInclusive;

use cameo_ir::Op;
use cameo_ir::op::{Arity, AttrDef, Param, Schema, Types};
use cameo_ir::ops::FAMILIES;
use cameo_onnx::operators::{self, DOMAINS, IMPORTED, Imported};
use cameo_onnx::opset::CHANGES;

/// How the rows are to be read.
const LEGEND: &str = "\
An operator is read in each of its opsets: older forms become the newest, and a model of an opset before the first may have
it too.

Inputs and outputs stand in order: `B?` may be left out, of `inputs…` there are any number. Those before one colon are of one
element type. Where the elements of an input decide shapes it is `[bracketed]` and has a type of its own: the elements must be
constants, follow from shapes, or be those of an input of the model, which a run reads before it plans.

Any extent may be symbolic, unless the limits name it.";

struct Row {
    name: String,
    opsets: String,
    inputs: String,
    outputs: String,
    limits: Vec<&'static str>,
}

impl Row {
    fn of(op: Op) -> Self {
        let s = op.schema();
        let counts = s.attrs.iter().any(|(_, def)| def.names_dim());
        Self {
            name: s.name.to_owned(),
            opsets: if s.domain() == "cameo" {
                String::new()
            } else {
                range(&operators::opsets(op))
            },
            inputs: operands(s.inputs, &[]),
            outputs: operands(s.outputs, s.inputs),
            limits: counts
                .then_some("results as long as data says")
                .into_iter()
                .chain(s.limits.iter().copied())
                .collect(),
        }
    }

    fn imported(i: &Imported) -> Self {
        Self {
            name: i.name.to_owned(),
            opsets: range(&i.opsets),
            inputs: String::new(),
            outputs: format!("becomes {}", i.becomes),
            limits: i.limits.to_vec(),
        }
    }
}

/// The families with their rows, at last that of the importer.
fn families() -> Vec<(&'static str, Vec<Row>)> {
    let of = |ops: &[&'static dyn cameo_ir::op::OpDef]| ops.iter().map(|o| Row::of(Op(*o))).collect();
    let mut all: Vec<_> = FAMILIES.iter().map(|(family, ops)| (*family, of(ops))).collect();
    all.push(("Made into others", IMPORTED.iter().map(Row::imported).collect()));
    all
}

/// For a terminal: families, operators with their opsets and operands, and what is refused.
pub fn plain() -> String {
    let mut out = String::new();
    for (family, rows) in families() {
        out += &format!("{family}\n");
        for r in rows {
            let between = if r.inputs.is_empty() { "" } else { " → " };
            out += &format!("  {:24} {:6} {}{between}{}\n", r.name, r.opsets, r.inputs, r.outputs);
            for limit in r.limits {
                out += &format!("  {:24} {:6}   limit: {limit}\n", "", "");
            }
        }
    }
    out + "\n" + LEGEND + "\n\n" + &types("") + "`cameo inspect --ops NAME` has an operator's formula and attributes.\n"
}

/// A page. Cameo's own operators, which no model contains, are left out.
pub fn markdown() -> String {
    let mut out = format!(
        "# Operators\n\n<!-- Written by `cameo inspect --ops --markdown`. -->\n\n{}\n{LEGEND}\n\n",
        domains()
    );
    out += &types("- ");
    out += "\n`cameo inspect --ops NAME` has an operator's formula, its attributes and their defaults.\n";
    for (family, rows) in families() {
        let rows: Vec<Row> = rows.into_iter().filter(|r| !r.name.starts_with("cameo::")).collect();
        if rows.is_empty() {
            continue;
        }
        out += &format!("\n## {family}\n\n| Operator | Opsets | Inputs | Outputs | Limits |\n|---|---|---|---|---|\n");
        for r in rows {
            let limits = r.limits.join("; ");
            out += &format!(
                "| `{}` | {} | {} | {} | {limits} |\n",
                r.name, r.opsets, r.inputs, r.outputs
            );
        }
    }
    out
}

/// How many operators of each domain there are.
fn domains() -> String {
    let mut out = String::from("| Domain | Opsets | Operators |\n|---|---|---|\n");
    for (name, opsets) in DOMAINS {
        let of_table = cameo_ir::ops::all().filter(|o| o.schema().domain() == name).count();
        let count = of_table + IMPORTED.iter().filter(|i| i.domain() == name).count();
        out += &format!("| `{}` | {} | {count} |\n", shown(name), range(&opsets));
    }
    out
}

/// What the names of sets of element types stand for, a line each.
fn types(bullet: &str) -> String {
    let line = |(name, set): &(&str, Types)| {
        let list: Vec<&str> = set.list().iter().map(|t| t.name()).collect();
        format!("{bullet}{name}: {}\n", list.join(" "))
    };
    Types::NAMED.iter().map(line).collect::<String>() + if bullet.is_empty() { "\n" } else { "" }
}

/// Everything that is known of an operator, or of those of that name in all domains; otherwise the one that was meant.
pub fn one(name: &str) -> Result<String, String> {
    if let Some(op) = Op::find(name) {
        return Ok(detail(op));
    }
    if let Some(i) = IMPORTED.iter().find(|i| i.name == name) {
        let mut out = format!("{}: opsets {}; becomes {}\n", i.name, range(&i.opsets), i.becomes);
        section(
            &mut out,
            "limits",
            i.limits.iter().map(|l| ((*l).to_owned(), String::new())),
        );
        return Ok(out);
    }
    let bare = |o: &Op| o.name().rsplit_once("::").is_some_and(|(_, n)| n == name);
    let found: Vec<String> = cameo_ir::ops::all().filter(bare).map(detail).collect();
    match (found.is_empty(), operators::nearest(name)) {
        (false, _) => Ok(found.join("\n")),
        (true, Some(near)) => Err(format!("there is no operator `{name}`; did you mean `{near}`?")),
        (true, None) => Err(format!(
            "there is no operator `{name}`; `cameo inspect --ops` lists all"
        )),
    }
}

fn detail(op: Op) -> String {
    let s = op.schema();
    let mut out = format!("{}\n  {}\n", signature(s), s.doc);
    if s.domain() == "cameo" {
        out += "\nof passes: no model contains it\n";
    } else {
        out += &format!("\nopsets {} of {}", range(&operators::opsets(op)), shown(s.domain()));
        let changed: Vec<i64> = CHANGES
            .iter()
            .filter(|c| c.op == s.name && c.until < i64::MAX)
            .map(|c| c.until)
            .collect();
        if !changed.is_empty() {
            let changed: Vec<String> = changed.iter().map(ToString::to_string).collect();
            out += &format!("; forms of before {} are raised", changed.join(", "));
        }
        out += "\n";
    }
    section(&mut out, "inputs", each(s.inputs, &[]));
    section(&mut out, "outputs", each(s.outputs, s.inputs));
    section(
        &mut out,
        "attributes",
        s.model_attrs().map(|(name, def)| ((*name).to_owned(), attribute(*def))),
    );
    section(
        &mut out,
        "limits",
        Row::of(op).limits.into_iter().map(|l| (l.to_owned(), String::new())),
    );
    out
}

/// A heading and lines of two columns, where there are some.
fn section(out: &mut String, title: &str, lines: impl Iterator<Item = (String, String)>) {
    let lines: Vec<_> = lines.collect();
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (i, (name, what)) in lines.iter().enumerate() {
        let heading = if i == 0 { format!("{title}\n") } else { String::new() };
        *out += &format!("{heading}  {}\n", format!("{name:width$}  {what}").trim_end());
    }
}

/// `an integer, 1 when absent`.
fn attribute(def: AttrDef) -> String {
    let list = |v: &mut dyn Iterator<Item = String>| format!("[{}]", v.collect::<Vec<_>>().join(", "));
    let default = match def {
        AttrDef::Int(v) => v.to_string(),
        AttrDef::Float(v) => v.to_string(),
        AttrDef::OneOf(all) => format!("`{}`", all.first().unwrap_or(&"")),
        AttrDef::Ints(v) => list(&mut v.iter().map(ToString::to_string)),
        AttrDef::Floats(v) => list(&mut v.iter().map(ToString::to_string)),
        _ if def.is_required() => String::new(),
        _ => "nothing".to_owned(),
    };
    let choices = def.choices().map_or(String::new(), |all| {
        let all: Vec<String> = all.iter().filter(|s| !s.is_empty()).map(|s| format!("`{s}`")).collect();
        format!(" of {}", all.join(" "))
    });
    let absent = if default.is_empty() {
        ", required".to_owned()
    } else {
        format!(", {default} when absent")
    };
    format!("{}{choices}{absent}", def.kind())
}

/// `Conv(X, W, B?)`.
fn signature(s: &Schema) -> String {
    let params: Vec<String> = s.inputs.iter().map(marked).collect();
    format!("{}({})", s.name, params.join(", "))
}

/// The name, as the legend says.
fn marked(p: &Param) -> String {
    let name = if p.attr.is_some() {
        format!("[{}]", p.name)
    } else {
        p.name.to_owned()
    };
    let mark = match p.arity {
        Arity::One => "",
        Arity::Optional => "?",
        Arity::Variadic => "…",
    };
    name + mark
}

/// A line for each of the parameters: its marked name and its types.
fn each(params: &[Param], before: &[Param]) -> impl Iterator<Item = (String, String)> {
    params.iter().enumerate().map(|(i, p)| {
        let first = before
            .iter()
            .chain(&params[..i])
            .find(|q| q.group > 0 && q.group == p.group);
        (
            marked(p),
            first.map_or_else(|| p.types.to_string(), |q| format!("as {}", q.name)),
        )
    })
}

/// `X, W, B?: float`: neighbours that are of one type together.
fn operands(params: &[Param], before: &[Param]) -> String {
    let mut parts: Vec<(String, String)> = vec![];
    for (i, (name, kind)) in each(params, before).enumerate() {
        let p = &params[i];
        let together = |q: &Param| match (p.attr, q.attr) {
            (Some(_), Some(_)) => p.types == q.types,
            _ => p.group > 0 && p.group == q.group,
        };
        match parts.last_mut() {
            Some((names, _)) if together(&params[i - 1]) => *names += &format!(", {name}"),
            _ => parts.push((name, kind)),
        }
    }
    let parts: Vec<String> = parts
        .into_iter()
        .map(|(names, kind)| format!("{names}: {kind}"))
        .collect();
    parts.join("; ")
}

/// `1–28`, or one number.
fn range(opsets: &RangeInclusive<i64>) -> String {
    let (first, last) = (opsets.start(), opsets.end());
    if first == last {
        first.to_string()
    } else {
        format!("{first}–{last}")
    }
}

/// As a domain is called where it has to have a name.
fn shown(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_list_every_operator() {
        let (plain, markdown) = (plain(), markdown());
        for op in cameo_ir::ops::all() {
            assert!(plain.contains(&format!("\n  {} ", op.name())), "{op}");
            let own = op.name().starts_with("cameo::");
            assert_eq!(markdown.contains(&format!("\n| `{op}` | ")), !own, "{op}");
        }
        for i in &IMPORTED {
            assert!(markdown.contains(&format!("\n| `{}` | ", i.name)), "{}", i.name);
        }
    }

    #[test]
    fn operands_of_one_type_stand_together() {
        let row = |name| Row::of(Op::find(name).expect("an operator"));
        let conv = row("Conv");
        assert_eq!((&*conv.inputs, &*conv.outputs), ("X, W, B?: float", "Y: as X"));
        assert_eq!(
            row("Slice").inputs,
            "data: any string; [starts], [ends], [axes]?, [steps]?: i32 i64"
        );
        assert_eq!(row("LayerNormalization").outputs, "Y: as X; Mean?, InvStdDev?: float");
        assert_eq!(row("Gelu").opsets, "20–28");
        assert_eq!(row("NonZero").limits, ["results as long as data says"]);
    }

    #[test]
    fn one_operator_is_found_by_its_name() {
        let conv = one("Conv").expect("an operator");
        for line in [
            "opsets 1–28 of ai.onnx",
            "  B?  as X",
            "  group         an integer, 1 when absent",
            "  kernel_shape  a list of integers, nothing when absent",
        ] {
            assert!(conv.contains(&format!("\n{line}\n")), "{line:?} is missing in\n{conv}");
        }
        assert!(
            one("Squeeze")
                .expect("an operator")
                .contains("forms of before 13 are raised")
        );
        assert!(
            one("FastGelu")
                .expect("an operator")
                .starts_with("com.microsoft::FastGelu(")
        );
        assert!(one("Loop").expect("an operator").contains("65,536 iterations"));
        let typo = one("Convv").expect_err("no operator");
        assert_eq!(typo, "there is no operator `Convv`; did you mean `Conv`?");
    }
}
