//! Our messages against those of `onnx-protobuf`, an independent decoder: the same bytes must mean the same.

use cameo_ir::DType;
use cameo_onnx::proto as ours;
use onnx_protobuf as theirs;
use prost::Message;
use protobuf::Message as _;

use crate::models::*;

fn boxed<A, B>(m: &protobuf::MessageField<A>, f: fn(&A) -> B) -> Option<Box<B>> {
    m.as_ref().map(|m| Box::new(f(m)))
}

fn all<A, B>(v: &[A], f: fn(&A) -> B) -> Vec<B> {
    v.iter().map(f).collect()
}

fn model_of(m: &theirs::ModelProto) -> ours::ModelProto {
    ours::ModelProto {
        ir_version: m.ir_version,
        opset_import: all(&m.opset_import, opset_of),
        producer_name: m.producer_name.clone(),
        producer_version: m.producer_version.clone(),
        domain: m.domain.clone(),
        model_version: m.model_version,
        graph: boxed(&m.graph, graph_of),
        functions: all(&m.functions, |f| ours::FunctionProto {
            name: f.name.clone(),
            input: f.input.clone(),
            output: f.output.clone(),
            attribute: f.attribute.clone(),
            attribute_proto: all(&f.attribute_proto, attribute_of),
            node: all(&f.node, node_of),
            opset_import: all(&f.opset_import, opset_of),
            domain: f.domain.clone(),
            overload: f.overload.clone(),
        }),
    }
}

fn opset_of(o: &theirs::OperatorSetIdProto) -> ours::OperatorSetIdProto {
    opset(&o.domain, o.version)
}

fn graph_of(g: &theirs::GraphProto) -> ours::GraphProto {
    ours::GraphProto {
        node: all(&g.node, node_of),
        name: g.name.clone(),
        initializer: all(&g.initializer, tensor_of),
        sparse_initializer: all(&g.sparse_initializer, sparse_of),
        input: all(&g.input, value_of),
        output: all(&g.output, value_of),
        value_info: all(&g.value_info, value_of),
    }
}

fn node_of(n: &theirs::NodeProto) -> ours::NodeProto {
    ours::NodeProto {
        input: n.input.clone(),
        output: n.output.clone(),
        name: n.name.clone(),
        op_type: n.op_type.clone(),
        domain: n.domain.clone(),
        overload: n.overload.clone(),
        attribute: all(&n.attribute, attribute_of),
    }
}

fn attribute_of(a: &theirs::AttributeProto) -> ours::AttributeProto {
    ours::AttributeProto {
        name: a.name.clone(),
        ref_attr_name: a.ref_attr_name.clone(),
        r#type: a.type_.value(),
        f: a.f,
        i: a.i,
        s: a.s.clone().into(),
        t: boxed(&a.t, tensor_of),
        g: boxed(&a.g, graph_of),
        sparse_tensor: boxed(&a.sparse_tensor, sparse_of),
        tp: boxed(&a.tp, type_of),
        floats: a.floats.clone(),
        ints: a.ints.clone(),
        strings: all(&a.strings, |s| s.clone().into()),
        tensors: all(&a.tensors, tensor_of),
        graphs: all(&a.graphs, graph_of),
        sparse_tensors: all(&a.sparse_tensors, sparse_of),
        type_protos: all(&a.type_protos, type_of),
    }
}

fn tensor_of(t: &theirs::TensorProto) -> ours::TensorProto {
    ours::TensorProto {
        dims: t.dims.clone(),
        data_type: t.data_type,
        segment: boxed(&t.segment, |s| ours::Segment {
            begin: s.begin,
            end: s.end,
        }),
        float_data: t.float_data.clone(),
        int32_data: t.int32_data.clone(),
        string_data: all(&t.string_data, |s| s.clone().into()),
        int64_data: t.int64_data.clone(),
        name: t.name.clone(),
        raw_data: t.raw_data.clone().into(),
        external_data: all(&t.external_data, |e| ours::StringStringEntryProto {
            key: e.key.clone(),
            value: e.value.clone(),
        }),
        data_location: t.data_location.value(),
        double_data: t.double_data.clone(),
        uint64_data: t.uint64_data.clone(),
    }
}

fn sparse_of(s: &theirs::SparseTensorProto) -> ours::SparseTensorProto {
    ours::SparseTensorProto {
        values: boxed(&s.values, tensor_of),
        indices: boxed(&s.indices, tensor_of),
        dims: s.dims.clone(),
    }
}

fn value_of(v: &theirs::ValueInfoProto) -> ours::ValueInfoProto {
    ours::ValueInfoProto {
        name: v.name.clone(),
        r#type: v.type_.as_ref().map(type_of),
    }
}

fn shape_of(s: &theirs::TensorShapeProto) -> ours::TensorShapeProto {
    use theirs::tensor_shape_proto::dimension::Value;
    ours::TensorShapeProto {
        dim: all(&s.dim, |d| ours::Dimension {
            value: match &d.value {
                Some(Value::DimValue(n)) => Some(ours::DimensionValue::Value(*n)),
                Some(Value::DimParam(p)) => Some(ours::DimensionValue::Param(p.clone())),
                _ => None,
            },
            denotation: d.denotation.clone(),
        }),
    }
}

fn type_of(t: &theirs::TypeProto) -> ours::TypeProto {
    use theirs::type_proto::Value as V;
    let element = |e: &protobuf::MessageField<theirs::TypeProto>| ours::ElementType {
        elem_type: boxed(e, type_of),
    };
    let tensor = |elem_type, shape: &protobuf::MessageField<theirs::TensorShapeProto>| ours::TensorType {
        elem_type,
        shape: shape.as_ref().map(shape_of),
    };
    ours::TypeProto {
        value: match &t.value {
            Some(V::TensorType(t)) => Some(ours::TypeValue::Tensor(tensor(t.elem_type, &t.shape))),
            Some(V::SparseTensorType(t)) => Some(ours::TypeValue::SparseTensor(tensor(t.elem_type, &t.shape))),
            Some(V::SequenceType(s)) => Some(ours::TypeValue::Sequence(element(&s.elem_type))),
            Some(V::OptionalType(s)) => Some(ours::TypeValue::Optional(element(&s.elem_type))),
            Some(V::MapType(m)) => Some(ours::TypeValue::Map(ours::MapType {
                key_type: m.key_type,
                value_type: boxed(&m.value_type, type_of),
            })),
            _ => None,
        },
        denotation: t.denotation.clone(),
    }
}

/// Both decoders read the bytes and agree; gives our reading.
pub fn agree(bytes: bytes::Bytes) -> ours::ModelProto {
    let other = theirs::ModelProto::parse_from_bytes(&bytes).expect("the independent decoder reads it");
    let mine = ours::ModelProto::decode(bytes).expect("our decoder reads it");
    // As bytes, because a NaN is not equal to itself; not `assert_eq`, because a model of megabytes is not to be printed.
    let equal = model_of(&other).encode_to_vec() == mine.encode_to_vec();
    assert!(equal, "the decoders disagree");
    mine
}

/// A model with every field set to something of its own.
fn everything() -> ours::ModelProto {
    let typed_tensor = ours::TensorProto {
        dims: vec![1, -1, i64::MAX],
        data_type: DType::F32 as i32,
        segment: Some(Box::new(ours::Segment { begin: 3, end: 4 })),
        float_data: vec![1.0, -0.0, f32::MIN_POSITIVE],
        int32_data: vec![-1, i32::MAX],
        string_data: vec![vec![0xff, 0].into()],
        int64_data: vec![i64::MIN, 5],
        double_data: vec![1e300],
        uint64_data: vec![u64::MAX],
        name: "t".into(),
        ..external("", &[], &[("location", "l"), ("offset", "1")])
    };
    let elements = |t| ours::ElementType {
        elem_type: Some(Box::new(t)),
    };
    let inner = value("", DType::F16, &["3", "N", "?"]).r#type.expect("type");
    let types = [
        ours::TypeValue::Sequence(elements(inner.clone())),
        ours::TypeValue::Optional(elements(inner.clone())),
        ours::TypeValue::Map(ours::MapType {
            key_type: 8,
            value_type: Some(Box::new(inner.clone())),
        }),
        // Opaque types belong to ONNX-ML, which that decoder leaves out.
        ours::TypeValue::SparseTensor(ours::TensorType {
            elem_type: 1,
            shape: None,
        }),
    ];
    let mut g = graph(
        vec![value("x", DType::F32, &["B", "4", "?"])],
        vec![typed_tensor.clone(), f32s("w", &[2], &[1.0, 2.0])],
        vec![],
        &["y"],
    );
    g.input
        .extend(types.into_iter().enumerate().map(|(i, t)| typed(&format!("t{i}"), t)));
    g.input[0].r#type.as_mut().expect("type").denotation = "IMAGE".into();
    g.value_info = vec![value("v", DType::I64, &["1"])];
    g.sparse_initializer = vec![sparse("s", &[9], &[3], &[1.0])];
    let mut lists = ints("lists", &[1, -2]);
    lists.strings = vec!["a".into(), "".into()];
    lists.floats = vec![0.5];
    lists.tensors = vec![typed_tensor];
    lists.graphs = vec![graph(vec![], vec![], vec![], &["q"])];
    lists.sparse_tensors = vec![sparse("s", &[9], &[3], &[1.0])];
    lists.type_protos = vec![inner.clone()];
    lists.tp = Some(Box::new(inner));
    let mut n = node(
        "custom::Op",
        &["x", "", "w"],
        &["y", ""],
        vec![
            float("f", 0.25),
            int("i", -7),
            text("s", "text"),
            tensor_attr("t", f32s("", &[], &[1.0])),
            graph_attr(
                "g",
                graph(vec![], vec![], vec![node("Relu", &["x"], &["z"], vec![])], &["z"]),
            ),
            sparse_attr("sp", sparse("", &[3], &[1], &[2.0])),
            reference("r", "of", 2),
            lists,
        ],
    );
    n.overload = "o".into();
    g.node = vec![n.clone()];
    let mut m = model(21, g);
    m.producer_name = "p".into();
    m.producer_version = "1".into();
    m.domain = "d".into();
    m.model_version = 3;
    let mut f = function("F", &["a"], &["b"], vec![n]);
    f.overload = "o".into();
    f.attribute = strings(&["k"]);
    f.attribute_proto = vec![int("l", 2)];
    m.functions = vec![f];
    m
}

#[test]
fn both_decoders_read_every_field_alike() {
    let m = everything();
    assert!(agree(m.encode_to_vec().into()) == m, "a field was lost on the way");
}

#[test]
fn both_decoders_read_the_others_encoding_alike() {
    let other = theirs::ModelProto::parse_from_bytes(&everything().encode_to_vec()).expect("decodes");
    let bytes = other.write_to_bytes().expect("encodes");
    assert!(agree(bytes.into()) == everything());
}

#[test]
fn fields_that_we_do_not_read_are_skipped() {
    let mut other = theirs::ModelProto::parse_from_bytes(&everything().encode_to_vec()).expect("decodes");
    other.doc_string = "doc".into();
    other.metadata_props.push(theirs::StringStringEntryProto::default());
    other.training_info.push(theirs::TrainingInfoProto::default());
    assert!(agree(other.write_to_bytes().expect("encodes").into()) == everything());
}
