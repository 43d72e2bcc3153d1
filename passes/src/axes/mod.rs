//! Which axes of which tensors belong together, and cutting all of them alike.
//!
//! ```text
//! %1 = MatMul(%0, w)    : f32[N,8]        columns of w, the axes of %1, %2 and %3, rows of v: one class
//! %2 = Relu(%1)         : f32[N,8]
//! %3 = Reshape(%2)      : f32[N,2,4]      … here as the product of two axes
//! %4 = Reshape(%3)      : f32[N,8]
//! %5 = MatMul(%4, v)    : f32[N,3]
//! ```
//!
//! An operation says as [`Tie`]s how its axes correspond: they are equal, a product of others, a part of another, summed
//! together, or bound to their extent. [`cut`] follows a choice of elements through the ties to everything that has to
//! agree with it, and [`rebuild`] makes the nodes again with the constants cut by recipes. Laws: a weight has no ties
//! itself, each of its readers takes the part that it needs (equal constants of different classes may have become one);
//! an operation without ties of its own binds all its axes.

pub mod cut;
pub mod rebuild;
pub mod sets;
pub mod ties;

use cameo_ir::{Dim, Graph, NodeId, ValueId};

/// What has an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An input of the graph or the result of a node.
    Value(ValueId),
    /// A weight or what is computed from weights only, as operand `.1` of a node.
    Weight(NodeId, usize),
    /// Not written in any shape: the heads of an operation whose operands have them flat.
    Inner(NodeId),
}

/// Axis `axis` of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Axis {
    pub place: Place,
    pub axis: usize,
}

impl Axis {
    pub fn of(v: ValueId, axis: usize) -> Self {
        Self {
            place: Place::Value(v),
            axis,
        }
    }

    /// Axis `axis` of operand `slot` of `n`, which is present. `constants` as [`Graph::constants`] says.
    pub fn operand(g: &Graph, constants: &[bool], n: NodeId, slot: usize, axis: usize) -> Option<Self> {
        let v = g.node(n).inputs.get(slot).copied().flatten()?;
        let place = match constants[v.0 as usize] {
            true => Place::Weight(n, slot),
            false => Place::Value(v),
        };
        Some(Self { place, axis })
    }

    /// What has the axis, where that is a value.
    pub fn value(&self, g: &Graph) -> Option<ValueId> {
        match self.place {
            Place::Value(v) => Some(v),
            Place::Weight(n, slot) => g.node(n).inputs.get(slot).copied().flatten(),
            Place::Inner(_) => None,
        }
    }

    pub fn inner(n: NodeId) -> Self {
        Self {
            place: Place::Inner(n),
            axis: 0,
        }
    }
}

/// How axes of a node's operands and results correspond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tie {
    /// Element by element.
    Equal(Axis, Axis),
    /// Both are the same elements, as row-major products. A factor without an axis stays whole.
    Product(Vec<(Option<Axis>, Dim)>, Vec<(Option<Axis>, Dim)>),
    /// Element `i` of `part` is element `start + step * i` of `whole`.
    Part {
        whole: Axis,
        part: Axis,
        start: usize,
        step: i64,
        len: usize,
    },
    /// Products of elements of both are summed: the axes end here.
    Summed(Axis, Axis),
    /// The axis ends here, or its elements influence each other: a reduction, a normalisation. With the reason why a
    /// smaller extent means something else, where it does.
    Reduced(Axis, Option<&'static str>),
    /// No element may go, for this reason.
    Whole(Axis, &'static str),
}
