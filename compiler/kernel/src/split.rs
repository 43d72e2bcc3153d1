//! Contractions with few tiles and a long reduction: parts of the reduction are summed by different threads.
//!
//! ```text
//!                                                                k0 contraction  P[c, m, n] = Σ A B over part c of k
//! k0 contraction   Y[m, n] = Σ A B over k, epilogue         →    k1 nest         Y[m, n] = Σ P over c, epilogue
//! ```
//!
//! A single query that attends to many positions is the case that matters: its weighted sum is one row of one tile. In how
//! many parts depends on nothing but the kernel, so that results do not depend on the number of threads.

use cameo_ir::structured::{Body, Combine, Expr};
use cameo_ir::{DType, Dim};

use crate::chain::Whole;
use crate::program::{
    ACC, BOperand, Buffer, Contraction, Kernel, KernelBody, Kernels, Nest, NestSchedule, Place, Program, RED,
    Reduction, Step, Storage, Store,
};
use crate::select;
use crate::targets::Target;

/// Contractions of fewer tiles than this do not make shares for all threads.
const FEW_TILES: i64 = 8;

/// A reduction that is worth two kernels.
const LONG: i64 = 1024;

/// Parts of a reduction.
const PARTS: usize = 16;

/// Splits what is worth it.
pub fn reductions(p: &mut Program, target: &Target) {
    let mut kernels = Kernels::default();
    let mut out = vec![];
    let mut place = vec![];
    for at in 0..p.steps.len() {
        place.push(out.len());
        if !p.in_loop(at)
            && let Some(two) = split(p, at, target)
        {
            out.extend(two.map(|(kernel, step)| {
                let (kernel, dims) = crate::flat::merge_axes(kernel).numbered();
                let kernel = kernels.number(kernel);
                Step { kernel, dims, ..step }
            }));
            continue;
        }
        let step = p.steps[at].clone();
        let kernel = kernels.number(p.kernels[step.kernel].clone());
        out.push(Step { kernel, ..step });
    }
    p.renumber(&place, out.len());
    p.steps = out;
    p.kernels = kernels.list;
}

/// Whether a contraction has one reduction of which any part can be computed alone, and too few tiles.
fn is_few_and_long(c: &Contraction, target: &Target) -> bool {
    let [k] = c.k.as_slice() else {
        return false;
    };
    // In tiles of the plan: the schedule's own are those of a level.
    let s = select::contraction(target.plan(), &c.m, &c.n, &c.k);
    let tiles = [
        Dim::product(&c.batch),
        c.m.ceil_div(&Dim::from(s.mr)),
        c.n.ceil_div(&Dim::from(s.nv * s.lanes)),
    ];
    !c.a_fill
        && !matches!(c.b, BOperand::Gathered(_))
        && Dim::product(&tiles).as_const().is_some_and(|t| t < FEW_TILES)
        && k.as_const().is_none_or(|k| k >= LONG)
}

fn split(p: &mut Program, at: usize, target: &Target) -> Option<[(Kernel, Step); 2]> {
    let whole = Whole::new(p, at);
    let KernelBody::Contraction(c) = whole.kernel.body else {
        return None;
    };
    if !is_few_and_long(&c, target) {
        return None;
    }
    let step = p.steps[at].clone();
    let buffers = whole.kernel.buffers;
    let nb = c.batch.len();
    let head: Vec<Dim> = c.batch.iter().chain([&c.m, &c.n]).cloned().collect();
    let parts = Dim::from(PARTS);
    let extents: Vec<Dim> = [&parts].into_iter().chain(&head).cloned().collect();
    let strides = (0..extents.len()).map(|i| Dim::product(&extents[i + 1..])).collect();
    let elements = Dim::product(&extents);
    let partial = p.storages.len();
    p.storages.push(Storage {
        name: "partial sums".into(),
        dtype: DType::F32,
        elements: elements.clone(),
        place: Place::Arena,
    });
    let sums = Buffer {
        dtype: DType::F32,
        strides,
        extents,
    };

    // Parts of k are the outermost batch.
    let later: Vec<Dim> = (0..nb + 2 + c.k.len()).map(|i| Dim::iter(i + 1)).collect();
    let mut first = c.clone();
    let index = |v: &mut Vec<Dim>| v.iter_mut().for_each(|d| *d = d.at(&later));
    index(&mut first.a.index);
    let other = match &mut first.b {
        BOperand::Packed { buffer, batch } => {
            batch.insert(0, false);
            buffer
        }
        BOperand::Direct(o) | BOperand::Gathered(o) => {
            index(&mut o.index);
            &mut o.buffer
        }
    };
    let from = [first.a.buffer, *other];
    (first.a.buffer, *other) = (0, 1);
    first.batch.insert(0, parts.clone());
    first.schedule.split = PARTS;
    first.epilogue = Body::new();
    let acc = Expr::Load {
        operand: ACC,
        dtype: DType::F32,
        index: vec![],
        fill: None,
    };
    first.stores = vec![Store {
        buffer: 2,
        index: (0..nb + 3).map(Dim::iter).collect(),
        root: first.epilogue.push(acc),
    }];
    let sum_up = Kernel {
        buffers: vec![buffers[from[0]].clone(), buffers[from[1]].clone(), sums.clone()],
        dims: 0,
        body: KernelBody::Contraction(first),
    };
    let sum_up_step = Step {
        buffers: vec![step.buffers[from[0]], step.buffers[from[1]], partial],
        values: vec![],
        ..step.clone()
    };

    // The epilogue reads the sum of the parts in place of the accumulator.
    let mut body = c.epilogue;
    let used: Vec<usize> = (0..buffers.len())
        .filter(|b| {
            let load = |e: &Expr| matches!(e, Expr::Load { operand, .. } if *operand as usize == *b);
            body.nodes().iter().any(load) || c.stores.iter().any(|s| s.buffer == *b)
        })
        .collect();
    let number = |b: usize| used.iter().position(|u| *u == b).map_or(0, |i| i + 1);
    let map = body.map_loads(&|operand, _| match *operand {
        ACC => *operand = RED,
        b if b < RED => *operand = number(b as usize) as u32,
        _ => {}
    });
    let mut at: Vec<Dim> = vec![Dim::iter(nb + 2)];
    at.extend((0..nb + 2).map(Dim::iter));
    let root = body.push(Expr::Load {
        operand: 0,
        dtype: DType::F32,
        index: at,
        fill: None,
    });
    let nest = Nest {
        outer: head,
        row: vec![parts],
        body,
        reductions: vec![Reduction {
            combine: Combine::Add,
            dtype: DType::F32,
            root,
        }],
        stores: c
            .stores
            .into_iter()
            .map(|s| Store {
                buffer: number(s.buffer),
                root: map[s.root as usize],
                ..s
            })
            .collect(),
        temps: vec![],
        schedule: NestSchedule { vector: Some(nb + 1) },
    };
    let finish = Kernel {
        buffers: [&sums]
            .into_iter()
            .chain(used.iter().map(|b| &buffers[*b]))
            .cloned()
            .collect(),
        dims: 0,
        body: KernelBody::Nest(nest),
    };
    let finish_step = Step {
        buffers: [partial]
            .into_iter()
            .chain(used.iter().map(|b| step.buffers[*b]))
            .collect(),
        work: elements.clone(),
        flops: elements,
        ..step
    };
    Some([(sum_up, sum_up_step), (finish, finish_step)])
}

#[cfg(test)]
mod tests {
    use crate::program::KernelBody;

    /// Into how many parts each contraction is split.
    fn parts(graph: &str) -> Vec<usize> {
        let p = crate::testing::program(graph);
        let parts = |s: &crate::program::Step| match &p.kernels[s.kernel].body {
            KernelBody::Contraction(c) => Some(c.schedule.split),
            _ => None,
        };
        p.steps.iter().filter_map(parts).collect()
    }

    fn product(m: &str, k: &str, n: &str) -> Vec<usize> {
        parts(&format!(
            r#"graph @g (%0 "a": f32[{m},{k}], %1 "b": f32[{k},{n}]) symbols S=1.. {{
              %2 = MatMul(%0, %1)
              %3 = Relu(%2)
              return %3 "y"
            }}"#
        ))
    }

    #[test]
    fn one_tile_over_a_long_reduction() {
        assert_eq!(product("1", "16384", "64"), [16]);
        assert_eq!(product("5", "S", "64"), [16]);
        // Short, many columns, many rows, and as many rows as there may be.
        assert_eq!(product("1", "512", "64"), [1]);
        assert_eq!(product("1", "16384", "1024"), [1]);
        assert_eq!(product("256", "16384", "64"), [1]);
        assert_eq!(product("S", "16384", "64"), [1]);
    }

    #[test]
    fn windows_stay_whole() {
        let text = r#"graph @g (%0 "x": f32[1,512,4,4]) {
          weight %1: f32[16,512,5,5] = blob("w")
          %2 = Conv(%0, %1) {pads=[2,2,2,2]}
          return %2 "y"
        }"#;
        assert_eq!(parts(text), [1]);
    }
}
