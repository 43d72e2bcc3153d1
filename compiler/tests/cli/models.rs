//! Tiny ONNX files, encoded with the importer's own messages.

use std::path::{Path, PathBuf};

use cameo_onnx::proto::{
    AttributeProto, Dimension, DimensionValue, ElementType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto, attribute_type,
};
use prost::Message;

const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// A model under construction.
pub struct Model {
    graph: GraphProto,
}

impl Model {
    pub fn new(name: &str) -> Self {
        Self {
            graph: GraphProto {
                name: name.into(),
                ..GraphProto::default()
            },
        }
    }

    /// A float input; extents are numbers or names.
    pub fn input(mut self, name: &str, shape: &[&str]) -> Self {
        self.graph.input.push(value(name, shape));
        self
    }

    /// A sequence of such tensors.
    pub fn sequence(mut self, name: &str, shape: &[&str]) -> Self {
        let element = value(name, shape).r#type.map(Box::new);
        self.graph.input.push(ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto {
                value: Some(TypeValue::Sequence(ElementType { elem_type: element })),
                ..TypeProto::default()
            }),
        });
        self
    }

    pub fn output(mut self, name: &str, shape: &[&str]) -> Self {
        self.graph.output.push(value(name, shape));
        self
    }

    pub fn floats(mut self, name: &str, dims: &[i64], data: &[f32]) -> Self {
        let raw: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.graph.initializer.push(tensor(name, FLOAT, dims, raw));
        self
    }

    pub fn ints(mut self, name: &str, data: &[i64]) -> Self {
        let raw: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.graph
            .initializer
            .push(tensor(name, INT64, &[data.len() as i64], raw));
        self
    }

    pub fn node(self, op: &str, name: &str, inputs: &[&str], output: &str) -> Self {
        self.node_with(op, name, inputs, output, vec![])
    }

    pub fn node_with(
        mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        output: &str,
        attrs: Vec<AttributeProto>,
    ) -> Self {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            name: name.into(),
            op_type: op.into(),
            attribute: attrs,
            ..NodeProto::default()
        });
        self
    }

    /// A node of an operator `domain::Name`, with any number of outputs.
    pub fn custom(
        mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        outputs: &[&str],
        attrs: Vec<AttributeProto>,
    ) -> Self {
        let (domain, op_type) = op.split_once("::").unwrap_or(("", op));
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            name: name.into(),
            op_type: op_type.into(),
            domain: domain.into(),
            attribute: attrs,
            ..NodeProto::default()
        });
        self
    }

    /// Writes the file `name.onnx` into a folder.
    pub fn write(self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("{}.onnx", self.graph.name));
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: 17,
            }],
            graph: Some(Box::new(self.graph)),
            ..ModelProto::default()
        };
        std::fs::write(&path, model.encode_to_vec()).expect("writes the model");
        path
    }
}

pub fn ints_attr(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: attribute_type::INTS,
        ints: ints.to_vec(),
        ..AttributeProto::default()
    }
}

fn tensor(name: &str, data_type: i32, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type,
        raw_data: raw.into(),
        ..TensorProto::default()
    }
}

fn value(name: &str, shape: &[&str]) -> ValueInfoProto {
    let dim = |d: &&str| Dimension {
        value: Some(match d.parse() {
            Ok(n) => DimensionValue::Value(n),
            Err(_) => DimensionValue::Param(d.to_string()),
        }),
        ..Dimension::default()
    };
    let tensor = TensorType {
        elem_type: FLOAT,
        shape: Some(TensorShapeProto {
            dim: shape.iter().map(dim).collect(),
        }),
    };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(TypeValue::Tensor(tensor)),
            ..TypeProto::default()
        }),
    }
}

/// `y = relu(x · w + b)`, `x: [N, 2]`, `w = [[1, -1], [2, 3]]`, `b = [0.5, -0.5]`.
pub fn linear(folder: &Path) -> PathBuf {
    Model::new("linear")
        .input("x", &["N", "2"])
        .floats("w", &[2, 2], &[1.0, -1.0, 2.0, 3.0])
        .floats("b", &[2], &[0.5, -0.5])
        .node("MatMul", "mm", &["x", "w"], "xw")
        .node("Add", "bias", &["xw", "b"], "sum")
        .node("Relu", "act", &["sum"], "y")
        .output("y", &["N", "2"])
        .write(folder)
}

/// Something for every pass: shape arithmetic, constants to fold, twins, a scale after a matrix product, transposes.
pub fn busy(folder: &Path) -> PathBuf {
    let perm = || vec![ints_attr("perm", &[0, 2, 1])];
    let weights: Vec<f32> = (0..96).map(|i| (i % 7) as f32 / 4.0 - 0.75).collect();
    Model::new("busy")
        .input("x", &["N", "S", "12"])
        .floats("w", &[12, 8], &weights)
        .floats("c", &[1], &[0.5])
        .floats("d", &[1], &[3.0])
        .ints("zero", &[0])
        .ints("minus", &[-1])
        .ints("eight", &[8])
        .node("Shape", "shape", &["x"], "s")
        .node_with("Gather", "first", &["s", "zero"], "n", vec![])
        .node_with(
            "Concat",
            "target",
            &["n", "minus", "eight"],
            "shape2",
            vec![int_attr("axis", 0)],
        )
        .node("Add", "consts", &["c", "d"], "cd")
        .node("MatMul", "mm", &["x", "w"], "xw")
        .node("Mul", "scale", &["xw", "cd"], "h")
        .node("Relu", "twin_a", &["h"], "ra")
        .node("Relu", "twin_b", &["h"], "rb")
        .node_with("Transpose", "t1", &["ra"], "ta", perm())
        .node_with("Transpose", "t2", &["rb"], "tb", perm())
        .node("Add", "sum", &["ta", "tb"], "ts")
        .node_with("Transpose", "t3", &["ts"], "back", perm())
        .node("Reshape", "reshape", &["back", "shape2"], "y")
        .output("y", &["N", "S", "8"])
        .write(folder)
}

pub fn int_attr(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: attribute_type::INT,
        i,
        ..AttributeProto::default()
    }
}

/// Two operators that nobody knows, and one that uses a result of them.
pub fn strange(folder: &Path) -> PathBuf {
    Model::new("strange")
        .input("x", &["2"])
        .node("Relu", "before", &["x"], "a")
        .node("Foo", "first_stranger", &["a"], "b")
        .node("Abs", "between", &["b"], "c")
        .node("Bar", "", &["c"], "y")
        .output("y", &["2"])
        .write(folder)
}
