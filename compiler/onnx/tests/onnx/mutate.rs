//! Mutated models: a case is a number, and the same number gives the same bytes.

use cameo_ir::DType;
use cameo_onnx::proto::*;
use cameo_onnx::{DimBinding, ImportOptions};
use prost::Message;

use crate::models::*;
use crate::seeds::{Random, wild};

fn tensors(m: &mut ModelProto) -> Vec<&mut TensorProto> {
    let Some(g) = &mut m.graph else { return vec![] };
    let sparse = g
        .sparse_initializer
        .iter_mut()
        .flat_map(|s| [s.values.as_deref_mut(), s.indices.as_deref_mut()]);
    let attrs = g
        .node
        .iter_mut()
        .flat_map(|n| &mut n.attribute)
        .map(|a| a.t.as_deref_mut());
    g.initializer.iter_mut().chain(sparse.chain(attrs).flatten()).collect()
}

fn nodes(m: &mut ModelProto) -> Vec<&mut NodeProto> {
    let own = m.graph.as_mut().map(|g| &mut g.node).into_iter().flatten();
    let inner = m.functions.iter_mut().flat_map(|f| &mut f.node);
    own.chain(inner).collect()
}

/// Changes one thing that a decoder accepts.
fn twist(m: &mut ModelProto, r: &mut Random, ops: &[&str]) {
    let n = r.hostile();
    match r.below(16) {
        0 | 1 => {
            let mut all = tensors(m);
            let i = r.below(all.len());
            if let Some(t) = all.get_mut(i) {
                match r.below(6) {
                    0 => t.dims.push(n),
                    1 => t.data_type = n as i32 & 31,
                    2 => t.int64_data.push(n),
                    3 => t.data_location = 1,
                    4 => t.raw_data = t.raw_data.slice(..r.below(t.raw_data.len())),
                    _ => {
                        let j = r.below(t.dims.len());
                        if let Some(d) = t.dims.get_mut(j) {
                            *d = n;
                        }
                    }
                }
            }
        }
        // Integers that operators take as shapes and axes: the bytes of an i64 weight.
        2..=4 => {
            let mut all = tensors(m);
            all.retain(|t| t.data_type == DType::I64 as i32);
            let i = r.below(all.len());
            if let Some(t) = all.get_mut(i) {
                let mut v: Vec<i64> = t
                    .raw_data
                    .chunks_exact(8)
                    .map(|b| b.iter().rev().fold(0, |a, b| a << 8 | i64::from(*b)))
                    .collect();
                let j = r.below(v.len());
                match (r.below(3), v.get_mut(j)) {
                    (0, _) => v.push(n),
                    (_, Some(x)) => *x = n,
                    _ => {}
                }
                if t.dims.len() == 1 {
                    t.dims = vec![v.len() as i64];
                }
                t.raw_data = v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into();
            }
        }
        5 => {
            const PATHS: [&str; 9] = [
                "/etc/passwd",
                "../w.bin",
                "a/../../x",
                "w.bin",
                "",
                "\0",
                "/dev/zero",
                "link",
                ".",
            ];
            let mut all = tensors(m);
            let i = r.below(all.len());
            if let (Some(t), Some(p)) = (all.get_mut(i), r.pick(&PATHS)) {
                let name = t.name.clone();
                let (offset, length) = (n.to_string(), r.hostile().to_string());
                **t = external(
                    &name,
                    &t.dims,
                    &[("location", p), ("offset", &offset), ("length", &length)],
                );
            }
        }
        6 => {
            let Some(g) = &mut m.graph else { return };
            let i = r.below(g.input.len());
            let Some(TypeValue::Tensor(t)) = g.input.get_mut(i).and_then(|v| v.r#type.as_mut()?.value.as_mut()) else {
                return;
            };
            let dims = t.shape.get_or_insert_default();
            let dim = Dimension {
                value: match r.below(3) {
                    0 => Some(DimensionValue::Param("B".into())),
                    1 => Some(DimensionValue::Param(format!("B * {n} + S - 3"))),
                    _ => Some(DimensionValue::Value(n)),
                },
                ..Dimension::default()
            };
            let j = r.below(dims.dim.len() + 1);
            match dims.dim.get_mut(j) {
                Some(d) if r.below(4) > 0 => *d = dim,
                _ => dims.dim.push(dim),
            }
            if r.below(8) == 0 {
                t.elem_type = n as i32;
            }
        }
        7 | 8 => {
            let mut all = nodes(m);
            let i = r.below(all.len());
            let Some(node) = all.get_mut(i) else { return };
            let j = r.below(node.attribute.len());
            if let Some(a) = node.attribute.get_mut(j) {
                match r.below(5) {
                    0 => a.r#type = n as i32 & 15,
                    1 => a.ints.push(n),
                    2 => a.f = f32::from_bits(n as u32),
                    3 => a.ints.iter_mut().for_each(|x| *x = n),
                    _ => a.i = n,
                }
            }
        }
        9 | 10 => {
            let Some(op) = r.pick(ops).copied() else { return };
            let mut all = nodes(m);
            let i = r.below(all.len());
            if let Some(node) = all.get_mut(i) {
                (node.op_type, node.domain) = (op.into(), String::new());
                if r.below(2) == 0 {
                    node.attribute.clear();
                }
            }
        }
        11 | 12 => {
            let names: Vec<String> = nodes(m)
                .iter()
                .flat_map(|n| n.input.iter().chain(&n.output))
                .cloned()
                .collect();
            let Some(name) = r.pick(&names).cloned() else { return };
            let mut all = nodes(m);
            let i = r.below(all.len());
            let Some(node) = all.get_mut(i) else { return };
            let list = if r.below(4) > 0 {
                &mut node.input
            } else {
                &mut node.output
            };
            let j = r.below(list.len() + 1);
            match list.get_mut(j) {
                Some(old) => *old = name,
                None => list.push(name),
            }
        }
        13 => {
            let i = r.below(m.opset_import.len());
            if let Some(o) = m.opset_import.get_mut(i) {
                o.version = if r.below(4) == 0 { n } else { 7 + r.below(22) as i64 };
            }
        }
        14 => {
            let Some(g) = &mut m.graph else { return };
            let names: Vec<String> = g.node.iter().flat_map(|n| &n.output).cloned().collect();
            if let Some(name) = r.pick(&names) {
                g.output.push(output(name));
            }
        }
        _ => {
            let i = r.below(m.functions.len());
            if let Some(f) = m.functions.get_mut(i) {
                match r.below(3) {
                    0 => f.input.push("extra".into()),
                    1 => drop(f.output.pop()),
                    _ => f.node.iter_mut().for_each(|n| n.domain = "local".into()),
                }
            }
        }
    }
}

/// Puts a message of `other` where `m` has one of the same kind: names and versions do not match then.
fn splice(m: &mut ModelProto, other: &ModelProto, r: &mut Random) {
    let (Some(to), Some(from)) = (&mut m.graph, &other.graph) else {
        return;
    };
    match r.below(6) {
        0 => mix(&mut to.node, &from.node, r),
        1 => mix(&mut to.initializer, &from.initializer, r),
        2 => mix(&mut to.input, &from.input, r),
        3 => mix(&mut to.output, &from.output, r),
        4 => m.functions.extend(r.pick(&other.functions).cloned()),
        _ => {
            let (i, j) = (r.below(to.node.len()), r.below(from.node.len()));
            if let (Some(to), Some(from)) = (to.node.get_mut(i), from.node.get(j)) {
                mix(&mut to.attribute, &from.attribute, r);
            }
        }
    }
}

/// Replaces or inserts one entry.
fn mix<T: Clone>(to: &mut Vec<T>, from: &[T], r: &mut Random) {
    let Some(new) = r.pick(from).cloned() else { return };
    let i = r.below(to.len() + 1);
    match to.get_mut(i) {
        Some(old) if r.below(2) == 0 => *old = new,
        _ => to.insert(i, new),
    }
}

/// Changes bytes.
fn scramble(bytes: &mut Vec<u8>, other: &[u8], r: &mut Random) {
    match r.below(4) {
        0 => {
            for _ in 0..1 + r.below(8) {
                let i = r.below(bytes.len());
                if let Some(b) = bytes.get_mut(i) {
                    *b ^= 1 << r.below(8);
                }
            }
        }
        1 => bytes.truncate(r.below(bytes.len())),
        2 => {
            let from = r.below(other.len());
            let part = &other[from..(from + r.below(64)).min(other.len())];
            let at = r.below(bytes.len());
            let end = if r.below(2) == 0 {
                at
            } else {
                (at + part.len()).min(bytes.len())
            };
            bytes.splice(at..end, part.iter().copied());
        }
        _ => {
            // A varint that says a lot.
            let i = r.below(bytes.len());
            let end = (i + r.below(3)).min(bytes.len());
            let mut long = vec![0xff; 1 + r.below(9)];
            long.push(r.below(128) as u8);
            bytes.splice(i..end, long);
        }
    }
}

/// The bytes of a case and the options to import them with; `seeds` are what is mutated, `ops` the operators to put in.
pub fn case(number: u64, seeds: &[ModelProto], ops: &[&str]) -> (Vec<u8>, ImportOptions) {
    let mut r = Random(number.wrapping_mul(0xd134_2543_de82_ef95));
    let fresh = r.below(3) == 0;
    let mut m = if fresh {
        wild(&mut r)
    } else {
        seeds[r.below(seeds.len())].clone()
    };
    if !fresh && r.below(4) > 0 {
        for _ in 0..1 + r.below(3) {
            if r.below(5) == 0 {
                let other = r.below(seeds.len());
                splice(&mut m, &seeds[other], &mut r);
            } else {
                twist(&mut m, &mut r, ops);
            }
        }
    }
    // One value alone: the others' problems do not hide what becomes of it.
    let outputs = match r.below(16) {
        0 => Some(strings(&["a", "t"])),
        1..=8 => {
            let names: Vec<String> = nodes(&mut m).iter().flat_map(|n| &n.output).cloned().collect();
            r.pick(&names).map(|n| vec![n.clone()])
        }
        _ => None,
    };
    let mut bytes = m.encode_to_vec();
    if r.below(3) == 0 {
        let other = seeds[r.below(seeds.len())].encode_to_vec();
        for _ in 0..1 + r.below(3) {
            scramble(&mut bytes, &other, &mut r);
        }
    }
    let binding = match r.below(8) {
        0 => vec![("B".to_owned(), DimBinding::Fixed(r.hostile()))],
        1 => vec![(
            "S".to_owned(),
            DimBinding::Range {
                min: r.hostile(),
                max: r.hostile(),
            },
        )],
        _ => vec![],
    };
    let options = ImportOptions {
        dims: binding,
        outputs,
        frozen: vec![],
        custom_ops: match r.below(4) {
            0 => ["Add(any, any?) -> =0", "Relu(f32...) -> i64[2], =0[3]", "Mul"]
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            _ => vec![],
        },
        items: match r.below(4) {
            0 => ["xs=3", "xs=[2],[?,N]", "x=none", "o=1"]
                .iter()
                .filter_map(|text| text.split_once('='))
                .filter_map(|(name, items)| Some((name.to_owned(), items.parse().ok()?)))
                .take(r.below(5))
                .collect(),
            _ => vec![],
        },
    };
    (bytes, options)
}

/// Where cases are imported: with external data, and a link that leads out.
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("w.bin"), [0u8; 64]).expect("write");
    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("link");
    dir
}
