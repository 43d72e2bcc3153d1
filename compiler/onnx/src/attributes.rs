//! Attribute messages to attribute values, and those to what a schema wants.

use std::sync::Arc;

use cameo_ir::op::{AttrDef, Schema};
use cameo_ir::{Attr, Attrs, DType, Dim};

use crate::error::Fault;
use crate::proto::{AttributeProto, attribute_type as ty};
use crate::weights::{self, Weights};

/// The value of an attribute that is not a graph.
pub(crate) fn value(a: &AttributeProto, weights: &mut Weights) -> Result<Attr, Fault> {
    let text = |b: &bytes::Bytes| {
        std::str::from_utf8(b)
            .map(Arc::<str>::from)
            .map_err(|_| Fault::invalid("the text is not UTF-8"))
    };
    Ok(match kind(a) {
        ty::FLOAT => Attr::Float(a.f),
        ty::INT => Attr::Int(a.i),
        ty::STRING => Attr::Str(text(&a.s)?),
        ty::FLOATS => Attr::Floats(a.floats.clone()),
        ty::INTS => Attr::Ints(a.ints.clone()),
        ty::STRINGS => Attr::Strs(a.strings.iter().map(text).collect::<Result<_, _>>()?),
        ty::TENSOR => match &a.t {
            Some(t) => Attr::Tensor(weights.dense(t)?),
            None => return Err(Fault::invalid("the tensor is missing")),
        },
        ty::SPARSE_TENSOR => match &a.sparse_tensor {
            Some(t) => Attr::Tensor(weights.sparse(t)?),
            None => return Err(Fault::invalid("the tensor is missing")),
        },
        n => {
            let what = match n {
                ty::GRAPH | ty::GRAPHS => "a graph",
                ty::TENSORS | ty::SPARSE_TENSORS => "a list of tensors",
                ty::TYPE_PROTO | ty::TYPE_PROTOS => "a type",
                ty::UNDEFINED => return Err(Fault::invalid("it has no type")),
                _ => return Err(Fault::invalid(format!("attribute type {n} does not exist"))),
            };
            return Err(Fault::unsupported(format!("its value is {what}")));
        }
    })
}

/// The type, guessed from the fields that are set when it is not said (files of IR version 1 and some tools).
pub(crate) fn kind(a: &AttributeProto) -> i32 {
    let set = [
        (a.t.is_some(), ty::TENSOR),
        (a.g.is_some(), ty::GRAPH),
        (a.sparse_tensor.is_some(), ty::SPARSE_TENSOR),
        (a.tp.is_some(), ty::TYPE_PROTO),
        (!a.s.is_empty(), ty::STRING),
        (!a.floats.is_empty(), ty::FLOATS),
        (!a.ints.is_empty(), ty::INTS),
        (!a.strings.is_empty(), ty::STRINGS),
        (a.f != 0.0, ty::FLOAT),
        (a.i != 0, ty::INT),
    ];
    match a.r#type {
        ty::UNDEFINED => set.iter().find(|(s, _)| *s).map_or(ty::UNDEFINED, |(_, t)| *t),
        t => t,
    }
}

/// Attributes that say nothing about inference with the types that Cameo has: `(operator, attribute)`.
const INERT: [(&str, &str); 5] = [
    ("Dropout", "seed"),
    ("Dropout", "ratio"),
    // The running mean is not updated.
    ("BatchNormalization", "momentum"),
    // The order of the pooled indices, not of the pooled values.
    ("MaxPool", "storage_order"),
    // Precision of intermediate results.
    ("Range", "stash_type"),
];

/// Attributes of ONNX at the value that asks for nothing special: `(operator, attribute, value)`. Where the schema has
/// such an attribute it decides itself.
const NEUTRAL: [(&str, &str, i64); 6] = [
    ("BatchNormalization", "training_mode", 0),
    ("LayerNormalization", "stash_type", 1),
    ("GroupNormalization", "stash_type", 1),
    ("RMSNormalization", "stash_type", 1),
    ("Shape", "start", 0),
    ("Reshape", "allowzero", 0),
];

fn means_nothing(op: &str, name: &str, value: &Attr) -> bool {
    INERT.iter().any(|(o, n)| *o == op && *n == name)
        || NEUTRAL
            .iter()
            .any(|(o, n, v)| *o == op && *n == name && *value == Attr::Int(*v))
}

/// Gives the attributes the kinds that the schema has; every attribute that does not fit is a fault.
pub(crate) fn adapt(schema: &Schema, attrs: Attrs) -> Result<Attrs, Vec<Fault>> {
    let (mut out, mut faults) = (Attrs::new(), vec![]);
    for (name, value) in attrs {
        let Some(def) = schema.attr(&name) else {
            if !means_nothing(schema.name, &name, &value) {
                faults.push(unknown(schema, &name));
            }
            continue;
        };
        // No element type: as if it were not there.
        if matches!(def, AttrDef::OptDType) && value == Attr::Int(0) {
            continue;
        }
        match convert(def, value) {
            Ok(v) => {
                out.insert(name, v);
            }
            Err(f) => faults.push(f.of(&format!("attribute `{name}`"))),
        }
    }
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

/// What is said of an attribute that the schema does not have.
fn unknown(schema: &Schema, name: &str) -> Fault {
    // Attributes became inputs in newer opsets.
    if schema.inputs.iter().any(|p| p.name == name || p.attr == Some(name)) {
        return Fault::unsupported(format!(
            "attribute `{name}` is not supported: it is an input in this opset"
        ))
        .hint("the model may say a newer opset than the one it was written in");
    }
    let known: Vec<String> = schema.model_attrs().map(|(n, _)| format!("`{n}`")).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Fault::unsupported(format!("attribute `{name}` is not supported")).hint(format!(
        "export without it, or with its default value left out; known attributes of {}: {known}",
        schema.name
    ))
}

fn convert(def: AttrDef, value: Attr) -> Result<Attr, Fault> {
    use AttrDef as D;
    Ok(match (def, value) {
        (D::OptDType | D::ReqDType, Attr::Int(n)) => {
            let n = i32::try_from(n).map_err(|_| Fault::invalid("no such element type"))?;
            Attr::DType(weights::dtype(n)?)
        }
        (D::OptDims | D::ReqDims, Attr::Ints(v)) => Attr::Dims(v.into_iter().map(Dim::from).collect()),
        (D::Int(_) | D::OptInt | D::ReqInt, v @ Attr::Int(_))
        | (D::Float(_) | D::OptFloat, v @ Attr::Float(_))
        | (D::OneOf(_) | D::ReqOneOf(_) | D::ReqStr | D::OptStr, v @ Attr::Str(_))
        | (D::Ints(_) | D::OptInts | D::ReqInts, v @ Attr::Ints(_))
        | (D::Floats(_) | D::OptFloats, v @ Attr::Floats(_))
        | (D::OptStrs, v @ Attr::Strs(_))
        | (D::OptTensor | D::ReqTensor, v @ Attr::Tensor(_))
        | (D::OptDims | D::ReqDims, v @ Attr::Dims(_))
        | (D::OptDType | D::ReqDType, v @ Attr::DType(_)) => v,
        (def, v) => {
            return Err(Fault::invalid(misfit(def, &v)));
        }
    })
}

/// That the value is of another kind than the attribute.
pub(crate) fn misfit(def: AttrDef, value: &Attr) -> String {
    format!("it must be {}, not {}", def.kind(), given(value))
}

fn given(value: &Attr) -> &'static str {
    match value {
        Attr::Int(_) => "an integer",
        Attr::Float(_) => "a float",
        Attr::Str(_) => "a text",
        Attr::Ints(_) | Attr::Dims(_) => "a list of integers",
        Attr::Floats(_) => "a list of floats",
        Attr::Strs(_) => "a list of texts",
        Attr::DType(_) => "an element type",
        Attr::Tensor(_) => "a tensor",
        Attr::Graph(_) => "a graph",
    }
}

/// Elements that cloning the value copies; tensors in raw form are shared.
pub(crate) fn copied_elements(a: &AttributeProto) -> usize {
    let tensor = |t: &crate::proto::TensorProto| {
        t.string_data.len()
            + t.float_data.len()
            + t.int32_data.len()
            + t.int64_data.len()
            + t.double_data.len()
            + t.uint64_data.len()
    };
    // A raw tensor is shared, but a bool one is looked through and a sparse one made dense.
    let sparse = a.sparse_tensor.as_ref().map_or(0, |s| {
        s.dims
            .iter()
            .fold(1usize, |n, d| n.saturating_mul(usize::try_from(*d).unwrap_or(0)))
    });
    a.ints.len()
        + a.floats.len()
        + a.s.len()
        + a.strings.len()
        + sparse
        + a.t.as_ref().map_or(0, |t| {
            tensor(t)
                + if t.data_type == DType::Bool as i32 {
                    t.raw_data.len()
                } else if DType::from_onnx(t.data_type).is_some_and(|t| t.bits() < 8) {
                    // Taken apart: four elements at most of each byte.
                    t.raw_data.len().saturating_mul(4)
                } else {
                    0
                }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cameo_ir::op::Param;

    const SCHEMA: Schema = Schema::new(
        "Cast",
        "",
        &[Param::new("x", cameo_ir::op::Types::ANY)],
        &[],
        &[
            ("to", AttrDef::ReqDType),
            ("alpha", AttrDef::Float(1.0)),
            ("dims", AttrDef::OptDims),
        ],
    );

    fn attrs(list: &[(&str, Attr)]) -> Attrs {
        list.iter().map(|(k, v)| (Arc::from(*k), v.clone())).collect()
    }

    #[test]
    fn values_get_the_kind_that_the_schema_has() {
        let a = adapt(&SCHEMA, attrs(&[("to", Attr::Int(10)), ("dims", Attr::Ints(vec![2]))]));
        let a = a.expect("fits");
        assert_eq!(a["to"], Attr::DType(DType::F16));
        assert_eq!(a["dims"], Attr::Dims(vec![Dim::from(2i64)]));
        assert_eq!(a.len(), 2);
    }

    #[test]
    fn all_misfits_are_listed() {
        let faults = adapt(
            &SCHEMA,
            attrs(&[("to", Attr::Int(27)), ("alpha", Attr::Int(1)), ("beta", Attr::Int(1))]),
        );
        let text: Vec<String> = faults.expect_err("misfits").into_iter().map(|f| f.message).collect();
        assert_eq!(
            text,
            [
                "attribute `alpha`: it must be a float, not an integer",
                "attribute `beta` is not supported",
                "attribute `to`: element type float6e2m3 is not supported"
            ]
        );
    }
}
