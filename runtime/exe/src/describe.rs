//! `--describe`: the model as JSON. Every number comes from the descriptor that a run uses.

use crate::Failure;
use cameo_npz::Array;
use cameo_runtime::{Description, Dim, SymbolInfo, TensorInfo};
use std::fmt::Write;

/// One JSON object and a newline. Arena bytes are for the shapes of `inputs`, or for the smallest dimensions.
///
/// `shape` has a number for a fixed axis, the dimension's name for a symbolic one, and an expression such as `"2*S+1"` for
/// one that is computed from the dimensions. `max` is `null` when unbounded, arena bytes when the model has no plan for these dimensions.
pub fn json(description: &Description, inputs: Option<&[Array]>) -> Result<String, Failure> {
    let symbols: Box<[i64]> = match inputs {
        Some(inputs) => {
            let shapes: Vec<&[i64]> = inputs.iter().map(|array| &*array.shape).collect();
            description.bind_symbols(&shapes)?
        }
        None => description.symbols().map(|symbol| symbol.min.max(0)).collect(),
    };
    let sizes = description.sizes(&symbols).ok();
    let names: Vec<&str> = description.symbols().map(|symbol| symbol.name).collect();

    let mut text = format!("{{\n  \"name\": {},\n", quoted(description.name()));
    let inputs = description.inputs().map(|info| tensor(&info, &names));
    let outputs = description.outputs().map(|info| tensor(&info, &names));
    let ranges = description.symbols().map(|info| symbol(&info));
    let values: Vec<String> = names
        .iter()
        .zip(&symbols)
        .map(|(name, v)| format!("{}: {v}", quoted(name)))
        .collect();
    let bytes = |bytes: Option<usize>| bytes.map_or("null".to_owned(), |bytes| bytes.to_string());
    for (key, value) in [
        ("inputs", list(inputs)),
        ("outputs", list(outputs)),
        ("symbols", list(ranges)),
        ("arena_bytes", bytes(sizes.map(|sizes| sizes.arena_bytes))),
        (
            "scratch_bytes_per_thread",
            bytes(sizes.map(|sizes| sizes.scratch_bytes)),
        ),
        ("arena_at", format!("{{{}}}", values.join(", "))),
        ("levels", list(description.levels().map(quoted))),
        ("operators", list(description.operators().into_iter().map(quoted))),
        ("weight_bytes", description.weight_bytes().to_string()),
        (
            "weights",
            quoted(if description.has_embedded_weights() {
                "embedded"
            } else {
                "file"
            }),
        ),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  \"{key}\": {value},");
    }
    let _ = write!(text, "  \"steps\": {}\n}}\n", description.step_count());
    Ok(text)
}

fn tensor(info: &TensorInfo, symbols: &[&str]) -> String {
    let shape: Vec<String> = info
        .extents
        .iter()
        .map(|dim| match dim {
            Dim::Const(extent) => extent.to_string(),
            Dim::Symbol(index) => quoted(symbols[index]),
            Dim::Derived { expression, .. } => quoted(expression),
        })
        .collect();
    let (name, dtype, shape) = (quoted(info.name), info.dtype.name(), shape.join(", "));
    format!("{{\"name\": {name}, \"dtype\": \"{dtype}\", \"shape\": [{shape}]}}")
}

fn symbol(info: &SymbolInfo) -> String {
    let max = if info.max == i64::MAX {
        "null".to_owned()
    } else {
        info.max.to_string()
    };
    format!(
        "{{\"name\": {}, \"min\": {}, \"max\": {max}}}",
        quoted(info.name),
        info.min
    )
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        "[]".to_owned()
    } else {
        format!("[\n    {}\n  ]", items.join(",\n    "))
    }
}

/// A JSON string (RFC 8259, section 7).
pub fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0'..='\x1f' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quoted("a\"b\\c\nö"), "\"a\\\"b\\\\c\\u000aö\"");
    }
}
