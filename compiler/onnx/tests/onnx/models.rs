//! Small models, built from messages.

use bytes::Bytes;
use cameo_ir::{DType, Def, Graph, Tensor, ValueId};
use cameo_onnx::proto::*;
use cameo_onnx::{ImportOptions, Problem};
use prost::Message;

pub fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// A node named as its first output.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attrs: Vec<AttributeProto>) -> NodeProto {
    let (domain, op) = op.split_once("::").unwrap_or(("", op));
    NodeProto {
        name: format!("n_{}", outputs.first().unwrap_or(&"")),
        op_type: op.into(),
        domain: domain.into(),
        input: strings(inputs),
        output: strings(outputs),
        attribute: attrs,
        ..NodeProto::default()
    }
}

fn attr(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type,
        ..AttributeProto::default()
    }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..attr(name, attribute_type::INT)
    }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        f,
        ..attr(name, attribute_type::FLOAT)
    }
}

pub fn text(name: &str, s: &'static str) -> AttributeProto {
    AttributeProto {
        s: Bytes::from_static(s.as_bytes()),
        ..attr(name, attribute_type::STRING)
    }
}

pub fn texts(name: &str, list: &[&'static str]) -> AttributeProto {
    AttributeProto {
        strings: list.iter().map(|s| (*s).into()).collect(),
        ..attr(name, attribute_type::STRINGS)
    }
}

pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: ints.to_vec(),
        ..attr(name, attribute_type::INTS)
    }
}

pub fn floats(name: &str, floats: &[f32]) -> AttributeProto {
    AttributeProto {
        floats: floats.to_vec(),
        ..attr(name, attribute_type::FLOATS)
    }
}

pub fn tensor_attr(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(Box::new(t)),
        ..attr(name, attribute_type::TENSOR)
    }
}

pub fn sparse_attr(name: &str, t: SparseTensorProto) -> AttributeProto {
    AttributeProto {
        sparse_tensor: Some(Box::new(t)),
        ..attr(name, attribute_type::SPARSE_TENSOR)
    }
}

pub fn graph_attr(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto {
        g: Some(Box::new(g)),
        ..attr(name, attribute_type::GRAPH)
    }
}

/// The attribute `name` is the caller's `of`.
pub fn reference(name: &str, of: &str, r#type: i32) -> AttributeProto {
    AttributeProto {
        ref_attr_name: of.into(),
        ..attr(name, r#type)
    }
}

pub fn weight(name: &str, t: &Tensor) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: t.shape().iter().map(|d| *d as i64).collect(),
        data_type: t.dtype() as i32,
        raw_data: t.bytes().clone(),
        ..TensorProto::default()
    }
}

pub fn f32s(name: &str, shape: &[usize], v: &[f32]) -> TensorProto {
    weight(name, &Tensor::f32(shape, v.iter().copied()))
}

pub fn i64s(name: &str, v: &[i64]) -> TensorProto {
    weight(name, &Tensor::i64(&[v.len()], v.iter().copied()))
}

pub fn sparse(name: &str, dims: &[i64], indices: &[i64], values: &[f32]) -> SparseTensorProto {
    SparseTensorProto {
        values: Some(Box::new(f32s(name, &[values.len()], values))),
        indices: Some(Box::new(i64s("", indices))),
        dims: dims.to_vec(),
    }
}

/// A tensor of the model's folder.
pub fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DType::F32 as i32,
        data_location: 1,
        external_data: entries
            .iter()
            .map(|(k, v)| StringStringEntryProto {
                key: (*k).into(),
                value: (*v).into(),
            })
            .collect(),
        ..TensorProto::default()
    }
}

/// Extents: numbers, names, or `?`.
pub fn value(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|d| Dimension {
            value: match (d.parse(), *d) {
                (Ok(n), _) => Some(DimensionValue::Value(n)),
                (_, "?") => None,
                _ => Some(DimensionValue::Param((*d).into())),
            },
            ..Dimension::default()
        })
        .collect();
    typed(
        name,
        TypeValue::Tensor(TensorType {
            elem_type: dtype as i32,
            shape: Some(TensorShapeProto { dim }),
        }),
    )
}

pub fn typed(name: &str, value: TypeValue) -> ValueInfoProto {
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(value),
            ..TypeProto::default()
        }),
    }
}

/// A result of which nothing is declared.
pub fn output(name: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: name.into(),
        r#type: None,
    }
}

pub fn graph(
    inputs: Vec<ValueInfoProto>,
    weights: Vec<TensorProto>,
    node: Vec<NodeProto>,
    outputs: &[&str],
) -> GraphProto {
    GraphProto {
        name: "g".into(),
        input: inputs,
        initializer: weights,
        node,
        output: outputs.iter().map(|o| output(o)).collect(),
        ..GraphProto::default()
    }
}

pub fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto {
        domain: domain.into(),
        version,
    }
}

pub fn model(version: i64, g: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![opset("", version)],
        graph: Some(Box::new(g)),
        ..ModelProto::default()
    }
}

/// A function of domain `local`.
pub fn function(name: &str, inputs: &[&str], outputs: &[&str], node: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: strings(inputs),
        output: strings(outputs),
        node,
        opset_import: vec![opset("", 18), opset("local", 1)],
        ..FunctionProto::default()
    }
}

pub fn import(m: &ModelProto) -> Result<Graph, Vec<Problem>> {
    import_with(m, &ImportOptions::default())
}

pub fn import_with(m: &ModelProto, options: &ImportOptions) -> Result<Graph, Vec<Problem>> {
    cameo_onnx::import_bytes(m.encode_to_vec().into(), None, options)
}

/// The problems as text.
pub fn problems(m: &ModelProto) -> Vec<String> {
    match import(m) {
        Ok(g) => panic!("imported:\n{}", show(&g).join("\n")),
        Err(p) => p.iter().map(|p| p.to_string().replace('\n', "")).collect(),
    }
}

/// The graph, a line per node: `a/n_y: f32[2] = Add(x, w)`, then the outputs.
pub fn show(g: &Graph) -> Vec<String> {
    let name = |v: ValueId| match &g.value(v).def {
        Def::Weight(t) if t.len() <= 8 => format!("{:?}", t.to_f64()).replace(".0", ""),
        _ if g.value(v).name.is_empty() => v.to_string(),
        _ => g.value(v).name.to_string(),
    };
    let mut lines = vec![];
    for n in g.order() {
        let node = g.node(n);
        let inputs: Vec<String> = node.inputs.iter().map(|i| i.map_or("-".to_owned(), name)).collect();
        let facts: Vec<String> = node.outputs.iter().map(|o| g.fact(*o).to_string()).collect();
        let origin: Vec<&str> = node.origin.names().iter().map(|s| &**s).collect();
        let (origin, facts, inputs) = (origin.join("+"), facts.join(" "), inputs.join(", "));
        lines.push(format!("{origin}: {facts} = {}({inputs})", node.op));
    }
    let outputs: Vec<String> = g.outputs().iter().map(|(n, v)| format!("{n} = {}", name(*v))).collect();
    lines.push(outputs.join(", "));
    lines
}
