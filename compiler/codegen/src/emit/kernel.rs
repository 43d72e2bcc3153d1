//! One function per kernel, with the signature that the runtime calls.

use std::cell::OnceCell;

use cameo_ir::structured::Body;
use cameo_kernel::print::KernelLines;
use cameo_kernel::program::{Kernel, KernelBody};

use super::body::KernelCx;
use super::{Elem, Linkage, Module, Ty, chain, contraction, in_order, nest, winograd};

/// `cameo_abi::KernelFn`: buffers, dims, part, parts, scratch.
pub const ARGS: [Ty; 5] = [Ty::PTR, Ty::PTR, Ty::I64, Ty::I64, Ty::PTR];

/// Renders one kernel as a function; `lanes` are the f32 lanes of a vector, `lines` those of the module's listing.
pub fn emit(
    module: &mut Module,
    name: &str,
    kernel: &Kernel,
    lanes: u32,
    linkage: Linkage,
    lines: Option<&KernelLines>,
) {
    let (heads, bodies) = lines.map_or((&[][..], &[][..]), |l| (&l.heads, &l.bodies));
    let line = |list: &[usize]| list.first().copied().unwrap_or(0);
    module.at_line(line(heads));
    module.kernel(name, &ARGS, Some(Ty::I32), linkage, |b, args| {
        let [buffers, dims, part, parts, scratch] = args[..] else {
            return None;
        };
        let none = Body::new();
        let body = match &kernel.body {
            KernelBody::Nest(n) => &n.body,
            KernelBody::Contraction(c) => &c.epilogue,
            KernelBody::Winograd(w) => &w.epilogue,
            KernelBody::Chain(_) | KernelBody::InOrder(_) | KernelBody::Custom(_) => &none,
        };
        let status = b.alloca(Elem::I32, 1);
        b.store(status, b.i64(0), b.int(Ty::I32, 0));
        let cx = KernelCx {
            buffers: &kernel.buffers,
            ptrs: (0..kernel.params())
                .map(|i| b.load(buffers, Elem::Ptr, b.i64(i as i64), 0))
                .collect(),
            dims: (0..kernel.dims)
                .map(|i| b.load(dims, Elem::I64, b.i64(i as i64), 0))
                .collect(),
            extents: kernel.body.extents(),
            status,
            spare: OnceCell::new(),
            body,
            line: line(bodies),
        };
        match &kernel.body {
            KernelBody::Nest(n) => nest::emit(b, &cx, n, lanes, part, parts, scratch),
            KernelBody::Contraction(c) => contraction::emit(b, &cx, c, part, parts, scratch),
            KernelBody::Winograd(w) => winograd::emit(b, &cx, w, part, parts, scratch),
            KernelBody::InOrder(o) => in_order::emit(b, &cx, o, part),
            // It is written with the tables.
            KernelBody::Custom(_) => {}
            KernelBody::Chain(c) => {
                let links = chain::Lines { heads, bodies };
                chain::emit(b, &cx, kernel, c, lanes, &links, part, parts, scratch);
            }
        }
        Some(b.load(status, Elem::I32, b.i64(0), 0))
    });
}
