//! Calls of operators that the caller supplies, or that are linked in: their table, and what their steps run.
//!
//! ```text
//! step ──▶ NAME_k3_custom_foo ──▶ (first buffer).run ──▶ the operator
//! ```
//!
//! The first buffer of such a step is what the runtime knows of the call. An object refers to no operator of the caller by
//! name, and to one that is linked in from the table only.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use cameo_abi as abi;
use cameo_ir::{Attr, Tensor};
use cameo_kernel::program::{Io, Program};

use crate::tables::{Extent, Strings, constant};

/// The structs of `cameo_abi`, field by field.
pub(crate) const TYPES: &str = "\
%Attribute = type { ptr, i32, i32, i64, ptr }
%OperatorTensor = type { i32, i32, i64, ptr, ptr }
%Custom = type { i32, i32, %Slice, %Slice, %Slice, %Slice, %Slice, ptr }
";

/// Defines the kernel of steps that call an operator: `abi::KernelFn`.
pub(crate) fn thunk(out: &mut String, kernel: &str) -> fmt::Result {
    write!(
        out,
        "define internal i32 @{kernel}(ptr %buffers, ptr %dims, i64 %part, i64 %parts, ptr %scratch) {{\n  \
           %call = load ptr, ptr %buffers\n  %run = load ptr, ptr %call\n  \
           %code = tail call i32 %run(ptr %call, ptr %buffers)\n  ret i32 %code\n}}\n"
    )
}

/// Defines the table of calls, and gives the `%Slice` of it. `extents` are those of operands and results.
pub(crate) fn table(
    out: &mut String,
    strings: &mut Strings,
    name: &str,
    program: &Program,
    extents: &[[Vec<Vec<Extent>>; 2]],
) -> String {
    let mut rows = vec![];
    for function in built_in(program) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "@{function} = external constant i8");
    }
    for (i, (custom, [operands, results])) in program.customs.iter().zip(extents).enumerate() {
        let mut attributes = vec![];
        for (a, (key, value)) in custom.attrs.iter().enumerate() {
            let label = format!("custom{i}_attr{a}");
            if let Some((kind, count, data)) = attribute(out, strings, name, &label, value) {
                let key = strings.terminated(name, key);
                attributes.push(format!(
                    "%Attribute {{ {key}, i32 {kind}, i32 0, i64 {count}, {data} }}"
                ));
            }
        }
        let attributes = constant(out, name, &format!("custom{i}_attrs"), "%Attribute", &attributes);
        let mut present = operands.iter();
        let operands = custom.inputs.iter().map(|io| Some((io.as_ref()?, present.next()?)));
        let inputs = tensors(out, strings, name, &format!("custom{i}_inputs"), operands);
        let results = custom.outputs.iter().zip(results).map(Some);
        let outputs = tensors(out, strings, name, &format!("custom{i}_outputs"), results);
        let node = program.steps.get(custom.step).and_then(|s| s.origin.names().first());
        let (operator, node) = (
            strings.add_terminated(name, &custom.operator),
            strings.add_terminated(name, node.map_or("", |n| n)),
        );
        rows.push(format!(
            "%Custom {{ i32 {}, i32 {}, {operator}, {node}, {attributes}, {inputs}, {outputs}, ptr {} }}",
            custom.step,
            i32::from(custom.reads_contents),
            custom.built_in.as_ref().map_or("null".into(), |f| format!("@{f}")),
        ));
    }
    constant(out, name, "customs", "%Custom", &rows)
}

/// The operators that a program brings, by their C names.
pub(crate) fn built_in(program: &Program) -> BTreeSet<&str> {
    program.customs.iter().filter_map(|c| c.built_in.as_deref()).collect()
}

/// Tensors as `%Io`; those that are left out have element type 0.
fn tensors<'a>(
    out: &mut String,
    strings: &mut Strings,
    name: &str,
    label: &str,
    list: impl Iterator<Item = Option<(&'a Io, &'a Vec<Extent>)>>,
) -> String {
    let mut rows = vec![];
    for (i, tensor) in list.enumerate() {
        let (text, dtype) = tensor.map_or(("", 0), |(io, _)| (&*io.name, io.dtype as u32));
        let extents = tensor.into_iter().flat_map(|(_, extents)| extents);
        let extents: Vec<String> = extents
            .map(|e| {
                format!(
                    "%Extent {{ i32 {}, i32 0, i64 {}, {} }}",
                    e.kind,
                    e.value,
                    strings.add(name, &e.name)
                )
            })
            .collect();
        let shape = constant(out, name, &format!("{label}{i}"), "%Extent", &extents);
        rows.push(format!(
            "%Io {{ {}, i32 {dtype}, i32 0, {shape} }}",
            strings.add(name, text)
        ));
    }
    constant(out, name, label, "%Io", &rows)
}

/// Kind, number of values, and pointer to them; `None` for what no operator takes.
fn attribute(
    out: &mut String,
    strings: &mut Strings,
    name: &str,
    label: &str,
    value: &Attr,
) -> Option<(u32, usize, String)> {
    let ints = |out: &mut String, v: &[i64]| array(out, name, label, "i64", v.iter().map(|x| format!("i64 {x}")));
    // As bits: LLVM's decimals are those of doubles.
    let floats = |out: &mut String, v: &[f32]| {
        array(
            out,
            name,
            label,
            "i32",
            v.iter().map(|x| format!("i32 {}", x.to_bits())),
        )
    };
    Some(match value {
        Attr::Int(x) => (abi::ATTRIBUTE_INT, 1, ints(out, &[*x])),
        Attr::Ints(v) => (abi::ATTRIBUTE_INTS, v.len(), ints(out, v)),
        Attr::Float(x) => (abi::ATTRIBUTE_FLOAT, 1, floats(out, &[*x])),
        Attr::Floats(v) => (abi::ATTRIBUTE_FLOATS, v.len(), floats(out, v)),
        Attr::Str(s) => (abi::ATTRIBUTE_STRING, s.len(), strings.terminated(name, s)),
        Attr::Strs(v) => {
            let texts: Vec<String> = v.iter().map(|s| strings.terminated(name, s)).collect();
            (
                abi::ATTRIBUTE_STRINGS,
                v.len(),
                array(out, name, label, "ptr", texts.into_iter()),
            )
        }
        Attr::Tensor(t) => (abi::ATTRIBUTE_TENSOR, 1, tensor(out, name, label, t)),
        Attr::Dims(_) | Attr::DType(_) | Attr::Graph(_) => return None,
    })
}

fn tensor(out: &mut String, name: &str, label: &str, t: &Tensor) -> String {
    let shape = t.shape().iter().map(|n| format!("i64 {n}"));
    let shape = array(out, name, &format!("{label}_shape"), "i64", shape);
    let data = array(
        out,
        name,
        &format!("{label}_data"),
        "i8",
        t.bytes().iter().map(|b| format!("i8 {b}")),
    );
    let (dtype, rank) = (t.dtype() as u32, t.shape().len());
    let row = format!("%OperatorTensor {{ i32 {dtype}, i32 0, i64 {rank}, {shape}, {data} }}");
    array(out, name, label, "%OperatorTensor", std::iter::once(row))
}

/// Defines an array, aligned for anything that an element may be, and gives its address.
fn array(out: &mut String, name: &str, label: &str, ty: &str, rows: impl Iterator<Item = String>) -> String {
    let rows: Vec<String> = rows.collect();
    if rows.is_empty() {
        return format!("ptr inttoptr (i64 {} to ptr)", abi::ALIGNMENT);
    }
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "@{name}_{label} = internal constant [{} x {ty}] [{}], align 8",
        rows.len(),
        rows.join(", ")
    );
    format!("ptr @{name}_{label}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{self, slice, text as str_of};
    use crate::sample;
    use crate::tables::{Facts, text};
    use cameo_ir::{Attrs, DType, Dim};
    use cameo_kernel::program::{Buffer, Custom, Kernel, KernelBody, Place, Step, Storage};
    use std::ffi::c_char;

    fn io(name: &str, dtype: DType, shape: &[Dim]) -> Io {
        Io {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn calls_read_back_through_the_abi() {
        let mut levels = sample::levels(&["x86-64-v3"]);
        let program = &mut levels[0].program;
        let (s, n) = (Dim::sym("S"), Dim::sym("custom.n"));
        program
            .symbols
            .push(("custom.n".into(), cameo_ir::SymbolRange::default()));
        let attrs = [
            ("alpha", Attr::Float(0.5)),
            ("axes", Attr::Ints(vec![-1, 2])),
            ("empty", Attr::Floats(vec![])),
            ("k", Attr::Int(i64::MIN)),
            ("mode", Attr::Str("cubic".into())),
            ("names", Attr::Strs(vec!["a".into(), "bc".into()])),
            ("table", Attr::Tensor(Tensor::f32(&[2, 1], [1.5, -2.0]))),
        ];
        program.storages.push(Storage {
            name: "com.acme::Foo".into(),
            dtype: DType::U8,
            elements: Dim::ZERO,
            place: Place::Operator(0),
        });
        program.kernels.push(Kernel {
            buffers: vec![
                Buffer {
                    dtype: DType::U8,
                    strides: vec![],
                    extents: vec![],
                };
                2
            ],
            dims: 0,
            body: KernelBody::Custom(2),
        });
        program.steps.push(Step {
            kernel: program.kernels.len() - 1,
            buffers: vec![program.storages.len() - 1, 0],
            dims: vec![],
            work: Dim::ONE,
            flops: Dim::ZERO,
            origin: cameo_ir::Origin::new("the node"),
            values: vec![],
        });
        program.customs.push(Custom {
            step: 3,
            operator: "com.acme::Foo".into(),
            attrs: attrs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect::<Attrs>(),
            inputs: vec![Some(io("x", DType::F32, &[s.clone(), Dim::from(4i64)])), None],
            outputs: vec![
                io("y", DType::F16, &[n.clone(), s.clone(), n.clone()]),
                io("z", DType::I64, &[]),
            ],
            built_in: None,
            reads_contents: false,
        });
        let plan = cameo_kernel::memory::plan(&levels[0].program);
        let symbols = crate::level::symbols("tiny", &levels);
        let facts = Facts {
            name: "tiny",
            default_threads: 0,
            weight_offsets: &[0, 64],
            weight_bytes: 128,
            weight_hash: 0,
            embedded: false,
            main: false,
            profile: None,
            operators: false,
        };
        let mut ir = text(&levels, &plan, &symbols, &facts).unwrap();
        for symbol in &symbols[0] {
            ir = ir.replace(
                &format!("declare hidden i32 @{symbol}(ptr, ptr, i64, i64, ptr)\n"),
                &format!("define hidden i32 @{symbol}(ptr %a, ptr %b, i64 %c, i64 %d, ptr %e) {{ ret i32 0 }}\n"),
            );
        }
        let library = harness::load_ir(&ir);
        let model = library.model("tiny_model");
        let [custom] = slice(model.customs) else {
            panic!("one call")
        };
        assert_eq!(
            (custom.step, str_of(custom.operator), str_of(custom.node)),
            (3, "com.acme::Foo", "the node")
        );
        let c_text = |at: *const c_char| harness::c_text(at);
        assert_eq!(c_text(custom.node.ptr.cast()), "the node");
        let tensors = |list: abi::Slice<abi::Io>| -> Vec<(u32, Vec<(u32, i64)>)> {
            let extents = |io: &abi::Io| slice(io.shape).iter().map(|e| (e.kind, e.value)).collect();
            slice(list).iter().map(|io| (io.dtype, extents(io))).collect()
        };
        let (symbol, fixed, given) = (abi::EXTENT_SYMBOL, abi::EXTENT_CONST, abi::EXTENT_GIVEN);
        assert_eq!(
            tensors(custom.inputs),
            [(1, vec![(symbol, 0), (fixed, 4)]), (0, vec![])]
        );
        // The operator gives the extent once and is held to it then.
        assert_eq!(
            tensors(custom.outputs),
            [(10, vec![(given, 1), (symbol, 0), (symbol, 1)]), (7, vec![])]
        );
        let said: Vec<(String, u32, usize)> = slice(custom.attributes)
            .iter()
            .map(|a| (c_text(a.name), a.kind, a.count))
            .collect();
        let expected = [
            ("alpha", abi::ATTRIBUTE_FLOAT, 1),
            ("axes", abi::ATTRIBUTE_INTS, 2),
            ("empty", abi::ATTRIBUTE_FLOATS, 0),
            ("k", abi::ATTRIBUTE_INT, 1),
            ("mode", abi::ATTRIBUTE_STRING, 5),
            ("names", abi::ATTRIBUTE_STRINGS, 2),
            ("table", abi::ATTRIBUTE_TENSOR, 1),
        ];
        assert_eq!(said, expected.map(|(name, kind, count)| (name.to_owned(), kind, count)));
        let a = slice(custom.attributes);
        let list = |i: usize| (a[i].data, a[i].count);
        assert_eq!(harness::values::<f32>(list(0)), [0.5]);
        assert_eq!(harness::values::<i64>(list(1)), [-1, 2]);
        assert_eq!(harness::values::<i64>(list(3)), [i64::MIN]);
        assert_eq!(c_text(a[4].data.cast()), "cubic");
        let names: Vec<String> = harness::values::<*const c_char>(list(5))
            .into_iter()
            .map(c_text)
            .collect();
        assert_eq!(names, ["a", "bc"]);
        let [table] = harness::values::<abi::OperatorTensor>(list(6))[..] else {
            panic!("one tensor")
        };
        assert_eq!((table.dtype, table.rank), (1, 2));
        assert_eq!(harness::values::<i64>((table.shape.cast_const().cast(), 2)), [2, 1]);
        assert_eq!(harness::values::<f32>((table.data.cast_const().cast(), 2)), [1.5, -2.0]);
        let step = slice(slice(model.levels)[0].steps)[3];
        assert_eq!(
            slice(model.buffers)[step.first_buffer as usize].region,
            abi::REGION_OPERATOR
        );
    }
}
