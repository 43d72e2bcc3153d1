//! Old operators raised to the newest form: one function per change (in `changes`), all in [`CHANGES`].
//!
//! Source: the operator changelog of ONNX 1.23 (opset 28). Changes that only admit more (types, negative axes, optional
//! inputs, new attributes whose default is the old meaning) need no entry.
//!
//! Attributes that became inputs turn into weights, so that after this step every operator is in one form.

mod changes;

use std::sync::Arc;

use cameo_ir::op::{AttrDef, OpError, invalid, unsupported};
use cameo_ir::{Attr, Attrs, Graph, Op, Origin, Tensor, ValueId};

use crate::attributes;

/// A node that is not added to the graph yet.
pub struct Draft<'g> {
    pub graph: &'g mut Graph,
    pub op: String,
    pub attrs: Attrs,
    pub inputs: Vec<Option<ValueId>>,
    /// How many outputs are wanted.
    pub outputs: usize,
    pub origin: Origin,
    /// Operators to apply to output 0 after the node: name and further inputs.
    pub after: Vec<(&'static str, Vec<ValueId>)>,
}

/// An operator of an opset below `until` needs `raise`.
pub struct Change {
    pub op: &'static str,
    pub until: i64,
    pub raise: fn(&mut Draft) -> Result<(), OpError>,
}

const fn change(op: &'static str, until: i64, raise: fn(&mut Draft) -> Result<(), OpError>) -> Change {
    Change { op, until, raise }
}

/// All opsets, the newest too.
const ALWAYS: i64 = i64::MAX;

/// Sorted by `until`; applied from the first to the last, each to what the ones before have made.
pub const CHANGES: &[Change] = &[
    change("GlobalLpPool", 2, changes::whole_power),
    change("LpPool", 2, changes::whole_power),
    change("Pad", 2, changes::paddings),
    change("Concat", 4, changes::concat_axis),
    change("Reshape", 5, changes::reshape_input),
    change("Abs", 6, changes::in_place),
    change("Add", 6, changes::in_place),
    change("BatchNormalization", 6, changes::in_place),
    change("Cast", 6, changes::cast_name),
    change("Ceil", 6, changes::in_place),
    change("Clip", 6, changes::in_place),
    change("Div", 6, changes::in_place),
    change("Dropout", 6, changes::in_place),
    change("Elu", 6, changes::in_place),
    change("Exp", 6, changes::in_place),
    change("Floor", 6, changes::in_place),
    change("HardSigmoid", 6, changes::in_place),
    change("InstanceNormalization", 6, changes::in_place),
    change("LeakyRelu", 6, changes::in_place),
    change("Log", 6, changes::in_place),
    change("Max", 6, changes::in_place),
    change("Mean", 6, changes::in_place),
    change("Min", 6, changes::in_place),
    change("Mul", 6, changes::in_place),
    change("Neg", 6, changes::in_place),
    change("PRelu", 6, changes::in_place),
    change("Reciprocal", 6, changes::in_place),
    change("Relu", 6, changes::in_place),
    change("Selu", 6, changes::selu_constants),
    change("Sigmoid", 6, changes::in_place),
    change("Sqrt", 6, changes::in_place),
    change("Sub", 6, changes::in_place),
    change("Sum", 6, changes::in_place),
    change("Tanh", 6, changes::in_place),
    change("Tile", 6, changes::tile_one_axis),
    change("Add", 7, changes::aligned_broadcast),
    change("And", 7, changes::aligned_broadcast),
    change("BatchNormalization", 7, changes::inference_only),
    change("Div", 7, changes::aligned_broadcast),
    change("Dropout", 7, changes::inference_only),
    change("Equal", 7, changes::aligned_broadcast),
    change("GRU", 7, changes::whole_sequence),
    change("Gemm", 7, changes::gemm_broadcast),
    change("Greater", 7, changes::aligned_broadcast),
    change("LSTM", 7, changes::whole_sequence),
    change("Less", 7, changes::aligned_broadcast),
    change("Mul", 7, changes::aligned_broadcast),
    change("Or", 7, changes::aligned_broadcast),
    change("PRelu", 7, changes::prelu_channels),
    change("Pow", 7, changes::aligned_broadcast),
    change("RNN", 7, changes::whole_sequence),
    change("Sub", 7, changes::aligned_broadcast),
    change("Upsample", 7, changes::upsample_height_width),
    change("Xor", 7, changes::aligned_broadcast),
    change("BatchNormalization", 9, changes::batch_norm_spatial),
    change("Upsample", 9, changes::upsample_scales),
    change("Slice", 10, changes::slice_inputs),
    change("TopK", 10, changes::topk_input),
    change("Upsample", 10, changes::upsample_is_resize),
    change("Clip", 11, changes::clip_inputs),
    change("Pad", 11, changes::pad_inputs),
    change("Resize", 11, changes::resize_modes),
    change("Scatter", 11, changes::scatter_elements),
    change("Dropout", 12, changes::dropout_ratio),
    change("Hardmax", 13, changes::flattened_axis),
    change("LogSoftmax", 13, changes::flattened_axis),
    change("ReduceSum", 13, changes::axes_input),
    change("Softmax", 13, changes::flattened_axis),
    change("Split", 13, changes::split_input),
    change("Squeeze", 13, changes::axes_input),
    change("Unsqueeze", 13, changes::axes_input),
    change("BatchNormalization", 14, changes::batch_norm_training),
    change("RoiAlign", 16, changes::roi_align_mode),
    change("ReduceL1", 18, changes::axes_input),
    change("ReduceL2", 18, changes::axes_input),
    change("ReduceLogSum", 18, changes::axes_input),
    change("ReduceLogSumExp", 18, changes::axes_input),
    change("ReduceMax", 18, changes::axes_input),
    change("ReduceMean", 18, changes::axes_input),
    change("ReduceMin", 18, changes::axes_input),
    change("ReduceProd", 18, changes::axes_input),
    change("ReduceSumSquare", 18, changes::axes_input),
    change("Split", 18, changes::split_count),
    change("DFT", 20, changes::dft_axis),
    change("GridSample", 20, changes::grid_sample_mode),
    change("GroupNormalization", 21, changes::group_norm_channels),
    change("QuantizeLinear", 23, changes::quotient_in_float),
    change("Resize", ALWAYS, changes::resize_empty_inputs),
];

/// Raises a node of the default domain.
///
/// # Errors
/// Old forms without counterpart in the newest opset.
pub fn raise(draft: &mut Draft, opset: i64) -> Result<(), OpError> {
    for c in CHANGES {
        if opset < c.until && draft.op == c.op {
            (c.raise)(draft)?;
        }
    }
    Ok(())
}

impl Draft<'_> {
    /// The value of an attribute of the kind of `wanted`.
    fn take<T>(&mut self, name: &str, wanted: AttrDef, get: fn(Attr) -> Option<T>) -> Result<Option<T>, OpError> {
        let Some(a) = self.attrs.remove(name) else {
            return Ok(None);
        };
        let misfit = attributes::misfit(wanted, &a);
        match get(a) {
            None => invalid(format!("attribute `{name}`: {misfit}")),
            some => Ok(some),
        }
    }

    fn take_int(&mut self, name: &str) -> Result<Option<i64>, OpError> {
        self.take(
            name,
            AttrDef::OptInt,
            |a| if let Attr::Int(v) = a { Some(v) } else { None },
        )
    }

    fn take_float(&mut self, name: &str) -> Result<Option<f32>, OpError> {
        self.take(name, AttrDef::OptFloat, |a| {
            if let Attr::Float(v) = a { Some(v) } else { None }
        })
    }

    fn take_ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, OpError> {
        self.take(name, AttrDef::OptInts, |a| {
            if let Attr::Ints(v) = a { Some(v) } else { None }
        })
    }

    fn need_ints(&mut self, name: &str) -> Result<Vec<i64>, OpError> {
        match self.take_ints(name)? {
            Some(v) => Ok(v),
            None => invalid(format!("attribute `{name}` is missing")),
        }
    }

    fn str(&self, name: &str) -> Option<&str> {
        match self.attrs.get(name) {
            Some(Attr::Str(s)) => Some(s),
            _ => None,
        }
    }

    fn set(&mut self, name: &str, value: Attr) {
        self.attrs.insert(name.into(), value);
    }

    fn set_str(&mut self, name: &str, value: &str) {
        self.set(name, Attr::Str(Arc::from(value)));
    }

    fn input(&self, i: usize) -> Result<ValueId, OpError> {
        match self.inputs.get(i).copied().flatten() {
            Some(v) => Ok(v),
            None => invalid(format!("input {i} is missing")),
        }
    }

    /// Puts a weight at input `i`, which did not exist in the old form.
    fn put(&mut self, i: usize, name: &str, t: Tensor) -> Result<(), OpError> {
        if self.inputs.len() > i {
            return invalid(format!("{} inputs given, at most {i} taken", self.inputs.len()));
        }
        self.inputs.resize(i, None);
        let v = self.graph.add_weight(name, t);
        self.inputs.push(Some(v));
        Ok(())
    }

    fn put_ints(&mut self, i: usize, name: &str, v: &[i64]) -> Result<(), OpError> {
        self.put(i, name, Tensor::i64(&[v.len()], v.iter().copied()))
    }

    /// A scalar of the type of input 0.
    fn put_scalar(&mut self, i: usize, name: &str, v: f32) -> Result<(), OpError> {
        let dtype = self.graph.fact(self.input(0)?).dtype;
        self.put(i, name, Tensor::from_f64(dtype, &[], [v.into()]))
    }

    /// Adds a node before this one.
    fn before(&mut self, op: &str, attrs: &[(&str, Attr)], inputs: &[ValueId]) -> Result<ValueId, OpError> {
        let Some(op) = Op::find(op) else {
            return unsupported(format!("needs operator `{op}`"));
        };
        let attrs = attrs.iter().map(|(k, v)| (Arc::from(*k), v.clone())).collect();
        let inputs = inputs.iter().copied().map(Some).collect();
        let out = self.graph.add_node(op, attrs, inputs, 1, self.origin.clone())?;
        match out.first() {
            Some(v) => Ok(*v),
            None => invalid("no output"),
        }
    }

    fn ints_weight(&mut self, v: &[i64]) -> ValueId {
        self.graph.add_weight("", Tensor::i64(&[v.len()], v.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cameo_ir::{DType, Dim, Fact};

    struct Case {
        op: &'static str,
        opset: i64,
        attrs: Vec<(&'static str, Attr)>,
        shape: Vec<i64>,
        outputs: usize,
    }

    fn case(op: &'static str, opset: i64, attrs: &[(&'static str, Attr)]) -> Case {
        Case {
            op,
            opset,
            attrs: attrs.to_vec(),
            shape: vec![2, 4, 3],
            outputs: 1,
        }
    }

    /// Raises a node with input 0 and gives operator, attributes and inputs to `look`.
    fn raised<R>(c: &Case, more: &[Tensor], look: impl FnOnce(Result<&Draft, OpError>) -> R) -> R {
        let mut graph = Graph::new("g");
        let shape: Vec<Dim> = c.shape.iter().map(|d| Dim::from(*d)).collect();
        let mut inputs = vec![Some(graph.add_input("x", Fact::new(DType::F32, shape)))];
        for t in more {
            inputs.push(Some(graph.add_weight("w", t.clone())));
        }
        let mut d = Draft {
            graph: &mut graph,
            op: c.op.into(),
            attrs: c.attrs.iter().map(|(k, v)| (Arc::from(*k), v.clone())).collect(),
            inputs,
            outputs: c.outputs,
            origin: Origin::new("n"),
            after: vec![],
        };
        let r = raise(&mut d, c.opset);
        look(r.map(|()| &d))
    }

    /// The elements of a weight of that type.
    fn is_weight(g: &Graph, v: Option<ValueId>, dtype: DType) -> Option<Vec<f64>> {
        let t = g.constant(v?)?;
        (t.dtype() == dtype).then(|| t.to_f64())
    }

    fn ints(v: &[i64]) -> Attr {
        Attr::Ints(v.to_vec())
    }

    fn text(v: &str) -> Attr {
        Attr::Str(v.into())
    }

    /// The weights at inputs 1.. that the change made of attributes.
    fn weights(c: &Case, dtype: DType) -> Vec<Option<Vec<f64>>> {
        raised(c, &[], |d| {
            let d = d.expect("raises");
            d.inputs[1..].iter().map(|v| is_weight(d.graph, *v, dtype)).collect()
        })
    }

    #[test]
    fn quotients_of_halves_were_floats() {
        let precision = |opset: i64, t: DType| {
            let scale = Tensor::from_f64(t, &[], [0.5]);
            raised(&case("QuantizeLinear", opset, &[]), &[scale], |d| {
                d.expect("raised").attrs.get("precision").cloned()
            })
        };
        assert_eq!(precision(21, DType::F16), Some(Attr::DType(DType::F32)));
        assert_eq!(precision(21, DType::F32), None);
        assert_eq!(precision(23, DType::F16), None);
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(CHANGES.is_sorted_by_key(|c| c.until));
    }

    #[test]
    fn attributes_become_weights() {
        let slice = case(
            "Slice",
            9,
            &[("starts", ints(&[1])), ("ends", ints(&[2])), ("axes", ints(&[0]))],
        );
        assert_eq!(
            weights(&slice, DType::I64),
            [Some(vec![1.0]), Some(vec![2.0]), Some(vec![0.0])]
        );
        let clip = case("Clip", 6, &[("max", Attr::Float(6.0)), ("min", Attr::Float(f32::MIN))]);
        assert_eq!(weights(&clip, DType::F32), [None, Some(vec![6.0])]);
        let pad = case(
            "Pad",
            10,
            &[
                ("pads", ints(&[0; 6])),
                ("value", Attr::Float(2.0)),
                ("mode", text("constant")),
            ],
        );
        assert_eq!(weights(&pad, DType::F32)[1], Some(vec![2.0]));
        assert_eq!(
            weights(&case("TopK", 9, &[("k", Attr::Int(5))]), DType::I64),
            [Some(vec![5.0])]
        );
        for (op, last) in [
            ("Squeeze", 12),
            ("Unsqueeze", 12),
            ("ReduceSum", 12),
            ("ReduceMean", 17),
        ] {
            let c = case(op, last, &[("axes", ints(&[1, -1]))]);
            assert_eq!(weights(&c, DType::I64), [Some(vec![1.0, -1.0])], "{op}");
            let newer = case(op, last + 1, &[("axes", ints(&[1]))]);
            assert!(weights(&newer, DType::I64).is_empty(), "{op} is newest");
        }
        assert_eq!(weights(&case("ReduceMax", 7, &[]), DType::I64), []);
        assert_eq!(weights(&case("DFT", 17, &[]), DType::I64), [None, Some(vec![1.0])]);
        assert_eq!(
            weights(&case("Split", 12, &[("split", ints(&[1, 1]))]), DType::I64),
            [Some(vec![1.0, 1.0])]
        );
    }

    #[test]
    fn equal_splits_say_their_number() {
        for opset in [7, 13, 17] {
            let mut c = case("Split", opset, &[]);
            c.outputs = 2;
            raised(&c, &[], |d| {
                assert_eq!(d.expect("raises").attrs["num_outputs"], Attr::Int(2));
            });
        }
    }

    #[test]
    fn names_change() {
        raised(&case("Scatter", 9, &[]), &[], |d| {
            assert_eq!(d.expect("raises").op, "ScatterElements");
        });
        raised(&case("GridSample", 16, &[]), &[], |d| {
            assert_eq!(d.expect("raises").str("mode"), Some("linear"));
        });
        let roi = case("RoiAlign", 10, &[]);
        raised(&roi, &[], |d| {
            assert_eq!(
                d.expect("raises").str("coordinate_transformation_mode"),
                Some("output_half_pixel")
            );
        });
        raised(&case("Dropout", 7, &[("ratio", Attr::Float(0.1))]), &[], |d| {
            assert!(d.expect("raises").attrs.is_empty());
        });
    }

    #[test]
    fn operands_were_aligned_by_an_axis() {
        let c = case("Add", 6, &[("broadcast", Attr::Int(1)), ("axis", Attr::Int(1))]);
        raised(&c, &[Tensor::f32(&[4], [0.0; 4])], |d| {
            let d = d.expect("raises");
            assert_eq!(d.graph.fact(d.inputs[1].expect("b")).to_string(), "f32[4,1]");
        });
        let c = case("Add", 6, &[("broadcast", Attr::Int(1)), ("axis", Attr::Int(2))]);
        raised(&c, &[Tensor::f32(&[4, 3], [0.0; 12])], |d| assert!(d.is_err()));
        let c = case("Add", 6, &[("broadcast", Attr::Int(1))]);
        raised(&c, &[Tensor::f32(&[3], [0.0; 3])], |d| {
            assert!(d.expect("raises").attrs.is_empty());
        });
    }

    #[test]
    fn slopes_were_per_channel() {
        raised(&case("PRelu", 6, &[]), &[Tensor::f32(&[4], [0.0; 4])], |d| {
            let d = d.expect("raises");
            assert_eq!(d.graph.fact(d.inputs[1].expect("slope")).to_string(), "f32[4,1]");
        });
    }

    #[test]
    fn old_resizing() {
        let up = case(
            "Upsample",
            7,
            &[
                ("mode", text("bilinear")),
                ("scales", Attr::Floats(vec![1.0, 1.0, 2.0])),
            ],
        );
        raised(&up, &[], |d| {
            let d = d.expect("raises");
            assert_eq!((d.op.as_str(), d.str("mode")), ("Resize", Some("linear")));
            assert_eq!(d.inputs.len(), 3);
            assert_eq!(is_weight(d.graph, d.inputs[2], DType::F32), Some(vec![1.0, 1.0, 2.0]));
            assert_eq!(d.str("coordinate_transformation_mode"), Some("asymmetric"));
        });
        for (scale, want) in [(2.0, Some("floor")), (0.6, Some("ceil"))] {
            let scales = Tensor::f32(&[3], [1.0, 1.0, scale]);
            raised(&case("Resize", 10, &[]), &[scales], |d| {
                assert_eq!(d.expect("raises").str("nearest_mode"), want);
            });
        }
        let mixed = Tensor::f32(&[3], [1.0, 0.5, 2.0]);
        raised(&case("Resize", 10, &[]), &[mixed], |d| assert!(d.is_err()));
        let empties = [
            Tensor::f32(&[0], []),
            Tensor::f32(&[0], []),
            Tensor::i64(&[3], [2, 4, 6]),
        ];
        raised(&case("Resize", 11, &[]), &empties, |d| {
            let present: Vec<bool> = d.expect("raises").inputs.iter().map(Option::is_some).collect();
            assert_eq!(present, [true, false, false, true]);
        });
    }

    #[test]
    fn softmax_over_the_last_axis_is_kept() {
        let mut c = case("Softmax", 12, &[("axis", Attr::Int(2))]);
        raised(&c, &[], |d| assert_eq!(d.expect("raises").attrs["axis"], Attr::Int(2)));
        c.shape = vec![2, 10, 1, 1];
        c.attrs = vec![];
        raised(&c, &[], |d| {
            let d = d.expect("raises");
            assert!(d.after.is_empty());
            assert_eq!(d.attrs["axis"], Attr::Int(1));
        });
    }

    #[test]
    fn softmax_over_several_axes_is_flattened() {
        raised(&case("Softmax", 12, &[]), &[], |d| {
            let d = d.expect("raises");
            assert_eq!(d.graph.fact(d.inputs[0].expect("input")).to_string(), "f32[2,12]");
            assert_eq!(d.after[0].0, "Reshape");
        });
    }

    #[test]
    fn training_is_refused() {
        let mut c = case("BatchNormalization", 9, &[]);
        raised(&c, &[], |d| assert!(d.is_ok()));
        c.outputs = 5;
        raised(&c, &[], |d| assert!(d.is_err()));
        let c = case("BatchNormalization", 7, &[("spatial", Attr::Int(0))]);
        raised(&c, &[], |d| assert!(d.is_err()));
    }

    #[test]
    fn group_scales_are_repeated() {
        let c = case("GroupNormalization", 18, &[("num_groups", Attr::Int(2))]);
        let per_group = Tensor::f32(&[2], [1.0, 2.0]);
        raised(&c, &[per_group.clone(), per_group], |d| {
            let d = d.expect("raises");
            assert_eq!(d.graph.fact(d.inputs[1].expect("scale")).to_string(), "f32[4]");
        });
    }
}
