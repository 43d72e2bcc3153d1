//! Linear branches: what the addends of a sum do with a value that several of them read.

use cameo_ir::{Attr, DType, Dim, Graph, NodeId, ValueId};

use super::window::Window;
use crate::fold_scales::channel_axis;

/// An addend: `± after(map(source))`.
#[derive(Clone, Debug)]
pub struct Branch {
    pub source: ValueId,
    pub map: Map,
    /// Constant scales and shifts of the result, innermost first.
    pub after: Vec<After>,
    /// The addend itself.
    pub value: ValueId,
    pub negative: bool,
    /// What computes it from the source, and nothing else needs.
    pub nodes: Vec<NodeId>,
    /// What it would read if it were a branch that can be merged, and why it is not.
    pub look_alike: Option<(ValueId, String)>,
}

/// A linear map.
#[derive(Clone, Debug)]
pub enum Map {
    Identity,
    Conv(Conv),
    /// By a matrix from the right.
    MatMul(Matrix),
}

#[derive(Clone, Debug)]
pub struct Conv {
    pub kernel: Kernel,
    /// One element per output channel.
    pub bias: Option<ValueId>,
    pub form: Form,
}

/// All about a convolution but its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub group: i64,
    /// Channels of the operand and of the result.
    pub inputs: i64,
    pub outputs: i64,
    pub window: Window,
}

/// Where the numbers of a map come from.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// `[outputs, inputs/group, taps…]`, or `[inputs, outputs]`
    Weight(ValueId),
    /// This number everywhere; one group per channel.
    Uniform(f64),
    /// First the one, then the other.
    Product(Box<Branch>, Box<Branch>),
}

#[derive(Clone, Debug)]
pub struct Matrix {
    pub kernel: Kernel,
    /// Whether the weight is `[outputs, inputs]`.
    pub transposed: bool,
    pub inputs: i64,
    pub outputs: i64,
}

/// A step after the map. Constants have one element, or one per index of `axis`.
#[derive(Clone, Copy, Debug)]
pub enum After {
    /// `Mul` or `Div` by a constant.
    Scale {
        op: &'static str,
        by: ValueId,
        axis: Option<usize>,
    },
    /// `Add` or `Sub` of a constant.
    Shift {
        op: &'static str,
        by: ValueId,
        axis: Option<usize>,
    },
    Negate,
}

impl After {
    pub fn axis(&self) -> Option<usize> {
        match self {
            Self::Scale { axis, .. } | Self::Shift { axis, .. } => *axis,
            Self::Negate => None,
        }
    }
}

impl Form {
    /// One channel, one group: what scales, means and identities are.
    pub fn per_channel(channels: i64, window: Window) -> Self {
        Self {
            group: channels,
            inputs: channels,
            outputs: channels,
            window,
        }
    }

    /// Multiplications per position of the result.
    pub fn cost(&self) -> u64 {
        let per = (self.inputs / self.group.max(1)).unsigned_abs();
        self.outputs
            .unsigned_abs()
            .saturating_mul(per)
            .saturating_mul(self.window.taps())
    }
}

impl Branch {
    /// Multiplications per position of the result. A copy has none.
    pub fn cost(&self) -> u64 {
        match &self.map {
            Map::Identity => 0,
            Map::Conv(c) => c.form.cost(),
            Map::MatMul(m) => m.inputs.unsigned_abs().saturating_mul(m.outputs.unsigned_abs()),
        }
    }

    /// The same for the maps of a product, one after the other.
    pub fn apart(&self) -> u64 {
        match self.map.kernel() {
            Some(Kernel::Product(inner, outer)) => inner.apart().saturating_add(outer.apart()),
            _ => self.cost(),
        }
    }

    /// Whether a convolution or product with a weight is in it, which has place for what is merged into it.
    pub fn has_weight(&self) -> bool {
        matches!(self.map.kernel(), Some(Kernel::Weight(_) | Kernel::Product(..)))
    }
}

impl Map {
    pub fn kernel(&self) -> Option<&Kernel> {
        match self {
            Self::Identity => None,
            Self::Conv(c) => Some(&c.kernel),
            Self::MatMul(m) => Some(&m.kernel),
        }
    }
}

/// A sum is looked through up to this depth; no block has more branches than a dozen.
const DEPTH_MAX: usize = 16;
const ADDENDS_MAX: usize = 64;

/// Taps of a mean that could become weights. The largest windows of pooling branches have some 7×7.
const TAPS_MAX: u64 = 1024;

pub struct Search<'a> {
    pub g: &'a Graph,
    pub constants: &'a [bool],
}

impl Search<'_> {
    pub fn constant(&self, v: ValueId) -> bool {
        self.constants.get(v.0 as usize).copied().unwrap_or(false)
    }

    pub fn read_once(&self, v: ValueId) -> bool {
        !self.g.is_output(v) && self.g.user_count(v) == 1
    }

    /// Whether weights made of weights would be rounded more than the results of the branches are.
    pub fn is_coarse(&self, v: ValueId) -> bool {
        !matches!(self.g.fact(v).dtype, DType::F32 | DType::F64)
    }

    /// The addends of `root`; the nodes that add them are put into `nodes`.
    pub fn addends(&self, root: ValueId, nodes: &mut Vec<NodeId>) -> Vec<Branch> {
        let mut out = vec![];
        self.collect(root, true, false, 0, &mut out, nodes);
        out
    }

    fn collect(
        &self,
        v: ValueId,
        root: bool,
        negative: bool,
        depth: usize,
        out: &mut Vec<Branch>,
        nodes: &mut Vec<NodeId>,
    ) {
        if let Some((n, [a, b])) = self.sum(v)
            && (root || self.read_once(v))
            && depth < DEPTH_MAX
            && out.len() < ADDENDS_MAX
        {
            nodes.push(n);
            let minus = self.g.node(n).op == "Sub";
            self.collect(a, false, negative, depth + 1, out, nodes);
            self.collect(b, false, negative != minus, depth + 1, out, nodes);
            return;
        }
        let branch = self.branch(v, root, depth);
        out.push(Branch { negative, ..branch });
    }

    /// The operands of the sum or difference that `v` is, when both are computed and of its shape.
    fn sum(&self, v: ValueId) -> Option<(NodeId, [ValueId; 2])> {
        let (n, _) = self.g.producer(v)?;
        let node = self.g.node(n);
        if !matches!(node.op.name(), "Add" | "Sub") || !self.g.fact(v).dtype.is_float() {
            return None;
        }
        let operands = [node.inputs[0]?, node.inputs[1]?];
        let shape = &self.g.fact(v).shape;
        let fits = |v: &ValueId| !self.constant(*v) && self.g.fact(*v).shape == *shape;
        operands.iter().all(fits).then_some((n, operands))
    }

    /// `v` as a branch. What others read too, unless it is the root, is the identity of itself.
    pub fn branch(&self, v: ValueId, root: bool, depth: usize) -> Branch {
        let found = match self.g.producer(v) {
            Some((n, _)) if depth < DEPTH_MAX => self.map(v, n, depth),
            _ => None,
        };
        let identity = Branch {
            source: v,
            map: Map::Identity,
            after: vec![],
            value: v,
            negative: false,
            nodes: vec![],
            look_alike: None,
        };
        match found {
            None => identity,
            Some(b) if b.look_alike.is_some() => Branch {
                look_alike: b.look_alike,
                ..identity
            },
            Some(b) if !root && !self.read_once(v) => Branch {
                look_alike: match &b.map {
                    Map::Identity => None,
                    _ => Some((b.source, "the result of a branch is also read by others".into())),
                },
                ..identity
            },
            Some(b) => b,
        }
    }

    fn map(&self, v: ValueId, n: NodeId, depth: usize) -> Option<Branch> {
        let node = self.g.node(n);
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        let x = input(0)?;
        let of = |map: Result<Map, String>| {
            let (map, look_alike) = match map {
                Ok(map) => (map, None),
                Err(reason) => (Map::Identity, Some((x, reason))),
            };
            Branch {
                source: x,
                map,
                after: vec![],
                value: v,
                negative: false,
                nodes: vec![n],
                look_alike,
            }
        };
        match node.op.name() {
            "Conv" => Some(of(self.conv(n, x, input(1)?, input(2))?)),
            "AveragePool" => Some(of(self.mean(n, x)?)),
            "MatMul" => self.matrix(x, input(1)?, false).map(of),
            "Gemm" => self.gemm(n, x, input(1)?, input(2), of),
            "Neg" if self.g.fact(v).dtype.is_float() => self.then(v, n, x, &[After::Negate], depth),
            "Add" | "Sub" | "Mul" | "Div" => {
                let (u, after) = self.affine(v, n)?;
                self.then(v, n, u, &after, depth)
            }
            _ => None,
        }
    }

    /// The computed operand and what a scale or shift by a constant does with it.
    fn affine(&self, v: ValueId, n: NodeId) -> Option<(ValueId, Vec<After>)> {
        let node = self.g.node(n);
        let op = node.op.name();
        let (a, b) = (node.inputs[0]?, node.inputs[1]?);
        let (u, by, first) = match (self.constant(a), self.constant(b)) {
            (false, true) => (a, b, true),
            (true, false) if op != "Div" => (b, a, false),
            _ => return None,
        };
        let out = self.g.fact(v);
        if self.g.fact(u).shape != out.shape || !out.dtype.is_float() {
            return None;
        }
        let axis = channel_axis(&self.g.fact(by).shape, &out.shape)?;
        let after = match op {
            "Mul" => vec![After::Scale { op: "Mul", by, axis }],
            "Div" => vec![After::Scale { op: "Div", by, axis }],
            "Sub" if first => vec![After::Shift { op: "Sub", by, axis }],
            "Sub" => vec![After::Negate, After::Shift { op: "Add", by, axis }],
            _ => vec![After::Shift { op: "Add", by, axis }],
        };
        Some((u, after))
    }

    fn then(&self, v: ValueId, n: NodeId, u: ValueId, after: &[After], depth: usize) -> Option<Branch> {
        let mut b = self.branch(u, false, depth + 1);
        b.look_alike = None;
        b.after.extend_from_slice(after);
        b.nodes.push(n);
        b.value = v;
        Some(b)
    }

    /// `None` for what has no weight.
    fn conv(&self, n: NodeId, x: ValueId, w: ValueId, bias: Option<ValueId>) -> Option<Result<Map, String>> {
        let node = self.g.node(n);
        let said = |reason: &str| Some(Err(reason.to_string()));
        if !self.constant(w) || bias.is_some_and(|b| !self.constant(b)) {
            return said("the weight or bias of Conv is not a constant");
        }
        let shape = ints(&self.g.fact(w).shape)?;
        let group = match node.attrs.get("group") {
            Some(Attr::Int(k)) => *k,
            _ => 1,
        };
        let Some(window) = Window::of(node, shape[2..].to_vec(), &self.g.fact(x).shape[2..]) else {
            return said("the padding of Conv is negative or depends on symbolic extents");
        };
        let form = Form {
            group,
            inputs: shape[1].checked_mul(group)?,
            outputs: shape[0],
            window,
        };
        Some(Ok(Map::Conv(Conv {
            kernel: Kernel::Weight(w),
            bias,
            form,
        })))
    }

    fn mean(&self, n: NodeId, x: ValueId) -> Option<Result<Map, String>> {
        let node = self.g.node(n);
        let fact = self.g.fact(x);
        let said = |reason: &str| Some(Err(reason.to_string()));
        let Some(Attr::Ints(kernel)) = node.attrs.get("kernel_shape") else {
            return None;
        };
        let set = |name: &str| matches!(node.attrs.get(name), Some(Attr::Int(v)) if *v != 0);
        let Some(window) = Window::of(node, kernel.clone(), &fact.shape[2..]) else {
            return said("the padding of AveragePool is negative or depends on symbolic extents");
        };
        if set("ceil_mode") {
            return said("the windows of AveragePool may reach beyond the padding");
        }
        if window.is_padded() && !set("count_include_pad") {
            return said("AveragePool has means of fewer elements at the border");
        }
        if window.taps() > TAPS_MAX {
            return said("the windows of AveragePool are too large for a kernel");
        }
        let Some(channels) = fact.shape[1].as_const() else {
            return said("the number of channels is not known");
        };
        let kernel = Kernel::Uniform(1.0 / window.taps() as f64);
        let form = Form::per_channel(channels, window);
        Some(Ok(Map::Conv(Conv {
            kernel,
            bias: None,
            form,
        })))
    }

    fn matrix(&self, x: ValueId, w: ValueId, transposed: bool) -> Option<Result<Map, String>> {
        if !self.constant(w) || self.constant(x) {
            return None;
        }
        let mut shape = ints(&self.g.fact(w).shape)?;
        if transposed {
            shape.reverse();
        }
        let [inputs, outputs] = shape[..] else { return None };
        if self.g.fact(x).rank() < 2 {
            return None;
        }
        Some(Ok(Map::MatMul(Matrix {
            kernel: Kernel::Weight(w),
            transposed,
            inputs,
            outputs,
        })))
    }

    /// A product with a matrix whose bias is a constant per column.
    fn gemm(
        &self,
        n: NodeId,
        x: ValueId,
        w: ValueId,
        bias: Option<ValueId>,
        of: impl Fn(Result<Map, String>) -> Branch,
    ) -> Option<Branch> {
        let node = self.g.node(n);
        let set = |name: &str| matches!(node.attrs.get(name), Some(Attr::Int(v)) if *v != 0);
        let factor = |name: &str| matches!(node.attrs.get(name), Some(Attr::Float(v)) if *v != 1.0);
        if set("transA") || factor("alpha") || factor("beta") {
            return None;
        }
        let mut b = of(self.matrix(x, w, set("transB"))?);
        if let Some(by) = bias {
            let axis = channel_axis(&self.g.fact(by).shape, &self.g.fact(node.outputs[0]).shape)?;
            if !self.constant(by) {
                return None;
            }
            b.after.push(After::Shift { op: "Add", by, axis });
        }
        Some(b)
    }
}

fn ints(shape: &[Dim]) -> Option<Vec<i64>> {
    shape.iter().map(Dim::as_const).collect()
}
