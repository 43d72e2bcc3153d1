//! The C header of a model: its descriptor, indices of its tensors, and a typed way to run it in one call.

use std::collections::BTreeSet;
use std::fmt::Write;

use cameo_ir::{DType, Dim, Sym};
use cameo_kernel::program::{Io, Program};

use crate::names;

/// The interface of the runtime, which the header includes.
pub const CAMEO_H: &str = include_str!("../../../runtime/include/cameo.h");

/// A tensor as generated interfaces show it.
pub struct Tensor<'a> {
    pub io: &'a Io,
    /// Identifier of its field.
    pub field: String,
}

/// Inputs and outputs with their identifiers. Symbols that shapes of inputs name come first in `taken`.
pub fn tensors<'a>(list: &'a [Io], taken: &mut BTreeSet<String>) -> Vec<Tensor<'a>> {
    let fields = names::identifiers(list.iter().map(|io| &*io.name), taken);
    list.iter()
        .zip(fields)
        .map(|(io, field)| Tensor { io, field })
        .collect()
}

/// `int64 [B, S]`, with numpy's names of types.
pub fn type_of(io: &Io) -> String {
    // Text from a model must not end the comment that it is in.
    let shape: Vec<String> = io.shape.iter().map(plain).collect();
    format!("{} [{}]", numpy(io.dtype), shape.join(", "))
}

/// A dim in a comment.
fn plain(dim: &Dim) -> String {
    comment(&dim.to_string())
}

/// Text of a model as part of a comment.
pub fn comment(text: &str) -> String {
    text.replace("*/", "* /").replace(char::is_control, " ")
}

fn numpy(dtype: DType) -> &'static str {
    cameo_abi::DType::from_raw(dtype as u32).map_or("?", cameo_abi::DType::name)
}

fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F64 => "double",
        // Halves as bits, booleans as bytes of 0 or 1.
        DType::U16 | DType::F16 | DType::BF16 => "uint16_t",
        DType::U8 | DType::Bool => "uint8_t",
        // As bits; those of less than a byte are packed.
        t if t.is_narrow() => "uint8_t",
        DType::I8 => "int8_t",
        DType::I16 => "int16_t",
        DType::I32 => "int32_t",
        DType::I64 => "int64_t",
        DType::String => "cameo_string",
        DType::U32 => "uint32_t",
        _ => "uint64_t",
    }
}

fn c_constant(dtype: DType) -> String {
    format!("CAMEO_{}", numpy(dtype).to_uppercase())
}

/// How an axis of an input gets its extent in C.
enum Axis {
    Fixed(i64),
    /// A member of the struct of inputs.
    Member(String),
}

/// The header of the model `name`.
pub fn text(program: &Program, name: &str, embedded: bool) -> String {
    let upper = name.to_uppercase();
    // Members of the struct: first the symbols that inputs name, then axes that are computed, then data.
    let mut taken = BTreeSet::new();
    let mut symbols: Vec<&str> = vec![];
    for dim in program.inputs.iter().flat_map(|io| &io.shape) {
        if let Some(Sym::Named(symbol)) = dim.as_sym()
            && !symbols.contains(&&**symbol)
        {
            symbols.push(symbol);
        }
    }
    let symbol_members = names::identifiers(symbols.iter().copied(), &mut taken);
    let inputs = tensors(&program.inputs, &mut taken);
    let outputs = tensors(&program.outputs, &mut BTreeSet::new());
    let mut members = String::new();
    // Writing to strings cannot fail, hence the discarded results.
    for (symbol, member) in symbols.iter().zip(&symbol_members) {
        let range = program
            .symbols
            .iter()
            .find(|(name, _)| **name == **symbol)
            .map(|(_, range)| range);
        let range = range.map_or(String::new(), |range| match range.max {
            i64::MAX => format!("{} or more", range.min),
            max => format!("{} to {max}", range.min),
        });
        let _ = writeln!(members, "    int64_t {member}; /* {}: {range} */", comment(symbol));
    }
    let mut axes: Vec<Vec<Axis>> = vec![];
    for input in &inputs {
        let mut list = vec![];
        for (i, dim) in input.io.shape.iter().enumerate() {
            let symbol = match dim.as_sym() {
                Some(Sym::Named(name)) => symbols.iter().position(|symbol| **symbol == **name),
                _ => None,
            };
            list.push(match (dim.as_const(), symbol) {
                (Some(extent), _) => Axis::Fixed(extent),
                (None, Some(index)) => Axis::Member(symbol_members[index].clone()),
                (None, None) => {
                    let base = format!("{}_axis{i}", input.field);
                    let member = names::identifiers([&*base], &mut taken).remove(0);
                    let _ = writeln!(members, "    int64_t {member}; /* {} */", plain(dim));
                    Axis::Member(member)
                }
            });
        }
        axes.push(list);
    }

    let mut out = format!("/* The model {}, compiled by Cameo.\n *\n", comment(&program.name));
    for (side, list) in [("input", &inputs), ("output", &outputs)] {
        for (i, tensor) in list.iter().enumerate() {
            let _ = writeln!(
                out,
                " *     {side} {i}  {}  {}",
                comment(&tensor.io.name),
                type_of(tensor.io)
            );
        }
    }
    let mut operators: Vec<&str> = program.supplied().map(|c| &*c.operator).collect();
    operators.sort_unstable();
    operators.dedup();
    for operator in &operators {
        let _ = writeln!(out, " *     operator  {}", comment(operator));
    }
    let weights = if embedded {
        "The weights are linked in: weights_path may be NULL."
    } else {
        "Its weights are a file."
    };
    let _ = write!(
        out,
        " *\n * {weights} cameo.h says how to open and run it; {name}_run below does so in one call.\n */\n\
         #ifndef CAMEO_MODEL_{upper}_H\n#define CAMEO_MODEL_{upper}_H\n\n#include \"cameo.h\"\n\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n\nextern const struct cameo_model_desc {name}_model;\n\n"
    );
    for (side, list) in [("INPUT", &inputs), ("OUTPUT", &outputs)] {
        if !list.is_empty() {
            let _ = writeln!(
                out,
                "/* Indices for cameo_bind_{0}, cameo_{0}_describe and the like. */",
                side.to_lowercase()
            );
            let rows: Vec<String> = list
                .iter()
                .enumerate()
                .map(|(i, tensor)| format!("    {upper}_{side}_{} = {i}", tensor.field.to_uppercase()))
                .collect();
            let unique: BTreeSet<&String> = rows.iter().collect();
            // Names that differ in case alone give equal constants, all of which then carry their index.
            let same = unique
                .iter()
                .map(|row| row.split(" = ").next())
                .collect::<BTreeSet<_>>()
                .len()
                < rows.len();
            let rows: Vec<String> = rows
                .iter()
                .enumerate()
                .map(|(i, row)| {
                    if same {
                        row.replacen(" = ", &format!("_{i} = "), 1)
                    } else {
                        row.clone()
                    }
                })
                .collect();
            let _ = writeln!(out, "enum {{\n{}\n}};\n", rows.join(",\n"));
        }
    }

    for input in &inputs {
        let _ = writeln!(
            members,
            "    const {} *{}; /* {} */",
            c_type(input.io.dtype),
            input.field,
            type_of(input.io)
        );
    }
    if members.is_empty() {
        members.push_str("    char unused; /* the model has no inputs */\n");
    }
    let _ = write!(
        out,
        "/* What {name}_run reads. Data is dense, row-major, and not copied. */\ntypedef struct {name}_inputs {{\n{members}}} {name}_inputs;\n\n"
    );
    let _ = write!(
        out,
        "/* What {name}_run gives. Pointers are the context's, valid until it is used again. */\ntypedef struct {name}_outputs {{\n"
    );
    for output in &outputs {
        let _ = writeln!(
            out,
            "    const {} *{}; /* {} */",
            c_type(output.io.dtype),
            output.field,
            type_of(output.io)
        );
        if !output.io.shape.is_empty() {
            let _ = writeln!(out, "    int64_t {}_shape[{}];", output.field, output.io.shape.len());
        }
    }
    if outputs.is_empty() {
        out.push_str("    char unused; /* the model has no outputs */\n");
    }
    let open = if operators.is_empty() {
        format!(
            "static inline cameo_status {name}_open(const char *weights_path, cameo_model **out) {{\n    \
                 return cameo_model_open(&{name}_model, weights_path, out);\n}}\n\n"
        )
    } else {
        format!(
            "static inline cameo_status {name}_open(const char *weights_path, const cameo_operator *operators,\n    \
                                                size_t operator_count, cameo_model **out) {{\n    \
                 return cameo_model_open_with(&{name}_model, weights_path, operators, operator_count, out);\n}}\n\n"
        )
    };
    let _ = write!(
        out,
        "}} {name}_outputs;\n\n\
         {open}\
         /* Binds the inputs, runs, and finds the outputs. `context` was made for this model. */\n\
         static inline cameo_status {name}_run(cameo_context *context, const {name}_inputs *inputs, {name}_outputs *outputs) {{\n    \
             cameo_status status;\n"
    );
    if !outputs.is_empty() {
        out.push_str("    cameo_output_info info;\n");
    }
    if inputs.is_empty() {
        out.push_str("    (void)inputs;\n");
    }
    if outputs.is_empty() {
        out.push_str("    (void)outputs;\n");
    }
    for (i, (input, axes)) in inputs.iter().zip(&axes).enumerate() {
        let extent = |axis: &Axis| match axis {
            Axis::Fixed(extent) => extent.to_string(),
            Axis::Member(member) => format!("inputs->{member}"),
        };
        let mut extents: Vec<String> = axes.iter().map(extent).collect();
        let mut bytes = format!("sizeof(*inputs->{})", input.field);
        for extent in &extents {
            let _ = write!(bytes, " * (size_t){extent}");
        }
        let shared = 8 * input.io.dtype.size() / input.io.dtype.bits();
        if shared > 1 {
            bytes = format!("({bytes} + {}) / {shared}", shared - 1);
        }
        if extents.is_empty() {
            // C has no arrays of no elements; the rank says that it is not read.
            extents.push("1".to_owned());
        }
        let _ = write!(
            out,
            "    {{\n        const int64_t shape[] = {{{}}};\n        \
                 status = cameo_bind_input(context, {i}, {}, shape, {}, inputs->{},\n                                  {bytes});\n        \
                 if (status != CAMEO_OK)\n            return status;\n    }}\n",
            extents.join(", "),
            c_constant(input.io.dtype),
            axes.len(),
            input.field,
        );
    }
    out.push_str("    status = cameo_run(context);\n");
    for (i, output) in outputs.iter().enumerate() {
        let _ = write!(
            out,
            "    if (status == CAMEO_OK)\n        status = cameo_output_get(context, {i}, &info);\n    \
                 if (status != CAMEO_OK)\n        return status;\n    \
                 outputs->{} = (const {} *)info.data;\n",
            output.field,
            c_type(output.io.dtype)
        );
        for axis in 0..output.io.shape.len() {
            let _ = writeln!(out, "    outputs->{}_shape[{axis}] = info.shape[{axis}];", output.field);
        }
    }
    out.push_str("    return status;\n}\n\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_less_than_a_byte_share_it() {
        let mut program = crate::sample::program();
        program.inputs[0].dtype = DType::I4;
        program.outputs[0].dtype = DType::F8E5M2;
        let header = text(&program, "sample", false);
        assert!(
            header.contains("+ 1) / 2)") && header.contains("CAMEO_INT4"),
            "{header}"
        );
        assert!(header.contains("const uint8_t *"), "{header}");
    }

    #[test]
    fn header_of_the_sample() {
        insta::assert_snapshot!(text(&crate::sample::program(), "sample", false));
    }

    #[test]
    fn operators_are_given_where_the_model_is_opened() {
        let mut program = crate::sample::program();
        program.customs.push(cameo_kernel::program::Custom {
            step: 0,
            operator: "com.acme::Foo*/".into(),
            attrs: cameo_ir::Attrs::default(),
            inputs: vec![],
            outputs: vec![],
            built_in: None,
            reads_contents: false,
        });
        let text = text(&program, "sample", true);
        assert!(text.contains(" *     operator  com.acme::Foo* /\n"), "{text}");
        assert!(text.contains("cameo_model_open_with(&sample_model, weights_path, operators, operator_count, out)"));
        assert!(!text.contains("cameo_model_open("), "{text}");
    }

    #[test]
    fn texts_of_a_model_stay_in_their_comments() {
        let mut program = crate::sample::program();
        program.inputs[0].name = "*/ x /*\n#error".into();
        let text = text(&program, "sample", true);
        assert!(text.contains("* / x /* #error"), "{text}");
    }
}
