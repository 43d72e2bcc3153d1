//! The bytes that a step moves: what its FLOPs are set against.
//!
//! Each element of a tensor that a step reads counts once, and each one that it writes; that caches may have to fetch some
//! of them again is a property of schedule and machine. Where a step makes fewer accesses than a tensor has elements (a table
//! that is looked up, the first row of many, one iteration's slice), the accesses count.

use std::collections::BTreeMap;

use cameo_ir::Dim;
use cameo_ir::structured::{Body, Expr};

use crate::program::{BOperand, InOrder, Kernel, KernelBody, Program, RED, Store};
use crate::select::nominal;

/// Bytes in one run, all iterations of the loops around the step together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub read: Dim,
    pub written: Dim,
}

impl Program {
    /// What step `index` moves.
    pub fn traffic(&self, index: usize) -> Traffic {
        let step = &self.steps[index];
        // Two buffers may be the same storage.
        let mut counts: [BTreeMap<usize, Dim>; 2] = [BTreeMap::new(), BTreeMap::new()];
        for (storage, accesses) in step.buffers.iter().zip(accesses(&self.kernels[step.kernel])) {
            for (counts, accesses) in counts.iter_mut().zip(accesses).filter(|(_, a)| !a.is_zero()) {
                let sum = counts.entry(*storage).or_insert(Dim::ZERO);
                *sum = sum.clone() + step.bind(&accesses);
            }
        }
        let times = self.loops.iter().filter(|l| l.steps.contains(&index));
        let times = times.fold(Dim::ONE, |a, l| a * l.count.clone());
        let [read, written] = counts.map(|counts| {
            let bytes = counts.iter().map(|(storage, accesses)| {
                let s = &self.storages[*storage];
                // That there are usually fewer accesses decides; a minimum where there are more would only be harder to read.
                let elements = if nominal(accesses) < nominal(&s.elements) {
                    s.elements.minimum(accesses)
                } else {
                    s.elements.clone()
                };
                elements * Dim::from(s.dtype.size())
            });
            bytes.fold(Dim::ZERO, |a, b| a + b) * times.clone()
        });
        Traffic { read, written }
    }
}

/// How many reads and writes of each buffer a call makes, in `d0, d1, …`; reads that a schedule repeats count once.
fn accesses(kernel: &Kernel) -> Vec<[Dim; 2]> {
    let mut out = vec![[Dim::ZERO, Dim::ZERO]; kernel.buffers.len()];
    let mut add = |buffer: usize, which: usize, count: &Dim| {
        let sum = &mut out[buffer][which];
        *sum = sum.clone() + count.clone();
    };
    for link in kernel.body.links() {
        let mut body = |body: &Body, stores: &[Store], points: &Dim| {
            for e in body.nodes() {
                // Results of reductions are operands too, but not in memory.
                if let Expr::Load { operand, .. } = e
                    && *operand < RED
                {
                    add(*operand as usize, 0, points);
                }
            }
            for s in stores {
                add(s.buffer, 1, points);
            }
        };
        match link {
            KernelBody::Nest(n) => body(&n.body, &n.stores, &Dim::product(&link.extents())),
            KernelBody::Contraction(c) => {
                let results = Dim::product(&c.batch) * c.m.clone() * c.n.clone();
                body(&c.epilogue, &c.stores, &results);
                let k = Dim::product(&c.batch) * Dim::product(&c.k);
                add(c.a.buffer, 0, &(k.clone() * c.m.clone()));
                match &c.b {
                    BOperand::Packed { buffer, .. } => {
                        add(*buffer, 0, &Dim::product(&kernel.buffers[*buffer].extents));
                    }
                    BOperand::Direct(o) | BOperand::Gathered(o) => add(o.buffer, 0, &(k * c.n.clone())),
                }
            }
            KernelBody::Winograd(w) => {
                let results = w.images.clone() * w.height.clone() * w.width.clone() * w.n.clone();
                body(&w.epilogue, &w.stores, &results);
                // Windows overlap: a tile reads its border once more than its own inputs.
                let [ty, tx] = w.tiles();
                let points = Dim::from(w.points() * w.points());
                add(
                    w.a.buffer,
                    0,
                    &(w.images.clone() * ty * tx * points * w.depth.clone() * w.channels.clone()),
                );
                add(w.b, 0, &Dim::product(&kernel.buffers[w.b].extents));
            }
            KernelBody::InOrder(InOrder::Rule { .. }) => {}
            KernelBody::InOrder(o) => {
                add(0, 0, &o.n());
                for written in InOrder::OUTPUTS..kernel.buffers.len() {
                    add(written, 1, &o.n());
                }
            }
            KernelBody::Custom(results) => {
                for (i, b) in kernel.buffers.iter().enumerate().skip(1) {
                    add(i, usize::from(i >= *results), &Dim::product(&b.extents));
                }
            }
            // Links are no chains.
            KernelBody::Chain(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::targets::x86_64::V4;

    /// Read and written bytes of each step of a graph in text form.
    fn traffic(text: &str) -> Vec<(String, String)> {
        let g = cameo_ir::text::parse(text, &|_, _| None).expect("parses");
        let p = crate::partition(&g, &V4, crate::Choices::default()).expect("compiles");
        let one = |i| {
            let t = p.traffic(i);
            (t.read.to_string(), t.written.to_string())
        };
        (0..p.steps.len()).map(one).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(r, w)| ((*r).into(), (*w).into())).collect()
    }

    #[test]
    fn each_element_counts_once() {
        // Both operands of the sum are the same tensor; the bias is small and read again and again.
        let sum = "graph @g (%0 \"x\": f32[N,8], %1 \"b\": f32[8]) {\n  %2 = Add(%0, %0) : f32[N,8]\n  \
                   %3 = Mul(%2, %1) : f32[N,8]\n  return %3 \"y\"\n}\n";
        assert_eq!(traffic(sum), pairs(&[("32*N+32", "32*N")]));
        let product = "graph @g (%0 \"a\": f32[N,8], %1 \"b\": f32[8,24]) {\n  %2 = MatMul(%0, %1) : f32[N,24]\n  \
                       return %2 \"y\"\n}\n";
        assert_eq!(traffic(product), pairs(&[("32*N+768", "96*N")]));
    }

    #[test]
    fn what_is_not_read_does_not_count() {
        // 128 of 100000 rows, and the indices.
        let lookup = "graph @g (%0 \"table\": f32[100000,4], %1 \"i\": i64[128]) {\n  \
                      %2 = Gather(%0, %1) {axis=0} : f32[128,4]\n  return %2 \"y\"\n}\n";
        assert_eq!(traffic(lookup), pairs(&[("3072", "2048")]));
        let first = "graph @g (%0 \"x\": f32[512,4]) {\n  %1 = Slice(%0) {axes=[0], ends=[1], starts=[0]} : f32[1,4]\n  \
                     %2 = Neg(%1) : f32[1,4]\n  return %2 \"y\"\n}\n";
        assert_eq!(traffic(first), pairs(&[("16", "16")]));
    }
}
