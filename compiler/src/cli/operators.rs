//! The table of operators that Cameo supports, from the table that the compiler itself reads.

use cameo_ir::op::{Arity, Param, Schema};
use cameo_ir::ops::FAMILIES;

/// For a terminal: families, operators with their operands, and formulas.
pub fn plain() -> String {
    let mut out = String::new();
    for (family, ops) in FAMILIES {
        out += &format!("{family}\n");
        for op in *ops {
            let s = op.schema();
            out += &format!("  {:40} {}\n", signature(s), s.doc);
        }
    }
    out
}

/// For the README. Cameo's own operators, which no model contains, are left out.
pub fn markdown() -> String {
    let mut out = String::from("| Family | Operators |\n|---|---|\n");
    for (family, ops) in FAMILIES {
        let names = ops
            .iter()
            .map(|o| o.schema().name)
            .filter(|n| !n.starts_with("cameo::"));
        let names: Vec<String> = names.map(|n| format!("`{n}`")).collect();
        if !names.is_empty() {
            out += &format!("| {family} | {} |\n", names.join(" "));
        }
    }
    out
}

/// `Conv(X, W, B?)`.
fn signature(s: &Schema) -> String {
    let one = |p: &Param| {
        let mark = match p.arity {
            Arity::One => "",
            Arity::Optional => "?",
            Arity::Variadic => "…",
        };
        format!("{}{mark}", p.name)
    };
    let params: Vec<String> = s.inputs.iter().map(one).collect();
    format!("{}({})", s.name, params.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_list_every_operator() {
        let (plain, markdown) = (plain(), markdown());
        for op in cameo_ir::ops::all() {
            assert!(plain.contains(&format!("  {}(", op.name())), "{}", op.name());
            assert_eq!(
                markdown.contains(&format!("`{}`", op.name())),
                !op.name().starts_with("cameo::"),
                "{}",
                op.name()
            );
        }
    }
}
