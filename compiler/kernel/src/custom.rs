//! Steps that call operators of the caller, and those that the program brings.
//!
//! ```text
//! y = Custom(x) {cameo.operator="a::B"}     →     operator 0 is a::B(f32[S,3]) -> f32[custom.b1_0_0,3]
//!                                                 step: custom(operator 0, x, y)
//! ```
//!
//! The runtime asks operators for the extents of their results before it plans, in the order of [`Program::customs`], and
//! gives each step what it calls as the first buffer.
//!
//! [`Program::customs`]: crate::program::Program::customs

use cameo_ir::ops::custom::{Parts, of_operator};
use cameo_ir::{DType, Dim, OpError, Origin, ValueId};

use crate::build::Builder;
use crate::expand::LowerError;
use crate::group::Group;
use crate::program::{Buffer, Custom, Io, Kernel, KernelBody, Place, Step, Storage};

impl Builder<'_> {
    pub(crate) fn custom(&mut self, g: &Group) -> Result<(), LowerError> {
        let node = self.info.graph.node(g.seed).clone();
        let parts = Parts::of(&node.attrs).map_err(|error| LowerError {
            op: node.op.to_string(),
            origin: node.origin.clone(),
            error,
        })?;
        let fail = |error| LowerError {
            op: parts.operator.to_string(),
            origin: node.origin.clone(),
            error,
        };
        let index = self.program.customs.len();
        let mut storages = vec![self.operator(parts.operator, index)];
        let mut buffers = vec![buffer(DType::U8, &[])];
        let mut inputs = vec![];
        for v in &node.inputs {
            inputs.push(v.map(|v| self.io(v)));
            if let Some(v) = v {
                storages.push(self.dense(*v)?);
                let fact = self.info.graph.fact(*v);
                buffers.push(buffer(fact.dtype, &fact.shape));
            }
        }
        let results = buffers.len();
        let known = |s: &usize| matches!(self.program.storages[*s].place, Place::Input(_) | Place::Weight(_));
        if parts.reads_contents() && !storages[1..].iter().all(known) {
            return Err(fail(OpError::Unsupported(
                "the elements of an operand say how large a result is: it must be an input or a constant, which are there before a run".into(),
            )));
        }
        let mut values = vec![];
        for v in &node.outputs {
            let fact = self.info.graph.fact(*v).clone();
            storages.push(if g.exits.contains(v) {
                let storage = self.place(*v, self.row_major(*v));
                values.push((*v, storage));
                storage
            } else {
                // Nobody reads it, but the operator writes it.
                self.add_storage("", fact.dtype, fact.element_count())
            });
            buffers.push(buffer(fact.dtype, &fact.shape));
        }
        self.program.customs.push(Custom {
            step: self.program.steps.len(),
            operator: parts.operator.clone(),
            attrs: of_operator(&node.attrs),
            inputs,
            outputs: node.outputs.iter().map(|v| self.io(*v)).collect(),
            built_in: parts.function.cloned(),
            reads_contents: parts.reads_contents(),
        });
        let kernel = Kernel {
            buffers,
            dims: 0,
            body: KernelBody::Custom(results),
        };
        let (kernel, dims) = kernel.numbered();
        let kernel = self.kernels.number(kernel);
        self.program.steps.push(Step {
            kernel,
            buffers: storages,
            dims,
            // What it takes is the caller's business, and it has no shares.
            work: Dim::ONE,
            flops: Dim::ZERO,
            origin: node.origin,
            values,
        });
        Ok(())
    }

    fn io(&self, v: ValueId) -> Io {
        let value = self.info.graph.value(v);
        Io {
            name: value.name.clone(),
            dtype: value.fact.dtype,
            shape: value.fact.shape.clone(),
        }
    }

    /// What stands for the call in a step's buffers.
    pub(crate) fn operator(&mut self, name: &str, index: usize) -> usize {
        self.program.storages.push(Storage {
            name: name.into(),
            dtype: DType::U8,
            elements: Dim::ZERO,
            place: Place::Operator(index),
        });
        self.program.storages.len() - 1
    }

    /// Brings the operators into an order in which the shapes of operands are known: that of the steps is not, where only a
    /// shape depends on another operator.
    pub(crate) fn order_customs(&mut self) -> Result<(), LowerError> {
        let mut left: Vec<(usize, Custom)> = std::mem::take(&mut self.program.customs)
            .into_iter()
            .enumerate()
            .collect();
        let mut place = vec![0; left.len()];
        while !left.is_empty() {
            let open: Vec<_> = left.iter().flat_map(|(_, c)| c.given()).collect();
            let ready = left
                .iter()
                .position(|(_, c)| c.needed().iter().all(|s| !open.contains(s)));
            let Some(ready) = ready else {
                let (_, first) = &left[0];
                return Err(LowerError {
                    op: first.operator.to_string(),
                    origin: self
                        .program
                        .steps
                        .get(first.step)
                        .map_or_else(Origin::default, |s| s.origin.clone()),
                    error: OpError::Unsupported("the shapes of its operands depend on its results".into()),
                });
            };
            let (was, custom) = left.remove(ready);
            place[was] = self.program.customs.len();
            self.program.customs.push(custom);
        }
        for s in &mut self.program.storages {
            if let Place::Operator(i) = &mut s.place {
                *i = place[*i];
            }
        }
        Ok(())
    }
}

/// A row-major tensor.
fn buffer(dtype: DType, shape: &[Dim]) -> Buffer {
    Buffer {
        dtype,
        strides: (0..shape.len()).map(|axis| Dim::product(&shape[axis + 1..])).collect(),
        extents: shape.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use crate::program::{KernelBody, Place};
    use crate::testing::program;

    fn node(operands: &str, name: &str, extents: &str, ranks: &str, types: &str) -> String {
        format!(
            "cameo::Custom({operands}) {{cameo.extents=dims[{extents}], cameo.operator=\"{name}\", \
             cameo.ranks=[{ranks}], cameo.types=strs[{types}], k=2}}"
        )
    }

    #[test]
    fn a_node_is_a_step_with_dense_operands() {
        let p = program(&format!(
            "graph @g (%0 \"x\": f32[S,3]) symbols S=1.. {{\n  %1 = Transpose(%0) {{perm=[1,0]}}\n  \
             %2, %3 = {}\n  %4 = Neg(%2)\n  return %4 \"y\"\n}}",
            node("%1, _, %0", "a::B", "3,custom.b,custom.c", "2,1", "\"f32\",\"i64\"")
        ));
        let [custom] = p.customs.as_slice() else {
            panic!("{:?}", p.customs)
        };
        assert_eq!((&*custom.operator, custom.inputs.len()), ("a::B", 3));
        assert_eq!(custom.attrs.keys().map(|k| &**k).collect::<Vec<_>>(), ["k"]);
        assert!(custom.inputs[1].is_none());
        assert_eq!(custom.given(), ["custom.b".into(), "custom.c".into()]);
        let step = &p.steps[custom.step];
        let kernel = &p.kernels[step.kernel];
        assert_eq!(kernel.body, KernelBody::Custom(3));
        assert_eq!(step.buffers.len(), 5);
        let places: Vec<Place> = step.buffers.iter().map(|s| p.storages[*s].place).collect();
        // The transposed operand is copied, and the second result has memory although nobody reads it.
        assert_eq!(
            places,
            [
                Place::Operator(0),
                Place::Arena,
                Place::Input(0),
                Place::Arena,
                Place::Arena
            ]
        );
        assert!(!kernel.writes(2) && kernel.writes(3) && kernel.writes(4));
        assert!((0..5).all(|from| !kernel.may_share(from, 3)));
        let traffic = p.traffic(custom.step);
        assert_eq!(traffic.read.to_string(), "24*S");
        assert_eq!(p.unknown_symbol(), None);
        let shown = crate::print::program(&p, &crate::memory::plan(&p));
        assert!(
            shown.contains("operator 0 is a::B(f32[3, S], _, f32[S, 3]) -> f32[3, custom.b], i64[custom.c] in step 1"),
            "{shown}"
        );
    }

    #[test]
    fn operators_come_behind_those_that_their_shapes_depend_on() {
        // The second one's operand has a shape that depends on the first, but no elements of its result.
        let p = program(&format!(
            "graph @g (%0 \"x\": f32[S]) symbols S=1.. {{\n  %1 = {}\n  %2 = Shape(%1)\n  \
             %3 = Expand(%0, %2)\n  %4 = {}\n  return %4 \"y\", %1 \"z\"\n}}",
            node("%0", "a::First", "custom.a,1", "2", "\"f32\""),
            node("%3", "a::Second", "custom.c", "1", "\"f32\"")
        ));
        let names: Vec<&str> = p.customs.iter().map(|c| &*c.operator).collect();
        assert_eq!(names, ["a::First", "a::Second"]);
        for (i, c) in p.customs.iter().enumerate() {
            let storage = p.steps[c.step].buffers[0];
            assert_eq!(p.storages[storage].place, Place::Operator(i), "step {}", c.step);
        }
    }

    #[test]
    fn shapes_of_results_that_nobody_reads_are_not_known() {
        let p = program(&format!(
            "graph @g (%0 \"x\": f32[S,1]) symbols S=1.. {{\n  %1 = {}\n  %2 = Shape(%1)\n  %3 = Expand(%0, %2)\n  \
             return %3 \"y\"\n}}",
            node("%0", "a::B", "1,custom.b", "2", "\"f32\"")
        ));
        assert_eq!(p.unknown_symbol().as_deref(), Some("custom.b"));
    }
}
