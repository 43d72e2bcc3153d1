//! One function per kernel, with the signature that the runtime calls.

use cameo_ir::structured::Body;
use cameo_kernel::Program;
use cameo_kernel::program::{Kernel, KernelBody};

use super::body::KernelCx;
use super::{Elem, Linkage, Module, Ty, chain, contraction, in_order, nest, winograd};

/// `cameo_abi::KernelFn`: buffers, dims, part, parts, scratch.
pub const ARGS: [Ty; 5] = [Ty::PTR, Ty::PTR, Ty::I64, Ty::I64, Ty::PTR];

/// Symbol of kernel `i`.
#[must_use]
pub fn symbol(i: usize) -> String {
    format!("cameo_k{i}")
}

/// Renders the given kernels of a program; `lanes` are the f32 lanes of a vector.
pub fn emit_kernels(module: &mut Module, program: &Program, which: impl IntoIterator<Item = usize>, lanes: u32) {
    for i in which {
        emit(module, &symbol(i), &program.kernels[i], lanes, Linkage::Hidden);
    }
}

/// Renders one kernel.
pub fn emit(module: &mut Module, name: &str, kernel: &Kernel, lanes: u32, linkage: Linkage) {
    module.kernel(name, &ARGS, Some(Ty::I32), linkage, |b, args| {
        let [buffers, dims, part, parts, scratch] = args[..] else {
            return None;
        };
        let none = Body::new();
        let body = match &kernel.body {
            KernelBody::Nest(n) => &n.body,
            KernelBody::Contraction(c) => &c.epilogue,
            KernelBody::Winograd(w) => &w.epilogue,
            KernelBody::Chain(_) | KernelBody::InOrder(_) => &none,
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
            body,
        };
        match &kernel.body {
            KernelBody::Nest(n) => nest::emit(b, &cx, n, lanes, part, parts, scratch),
            KernelBody::Contraction(c) => contraction::emit(b, &cx, c, part, parts, scratch),
            KernelBody::Winograd(w) => winograd::emit(b, &cx, w, part, parts, scratch),
            KernelBody::InOrder(o) => in_order::emit(b, &cx, o, part),
            KernelBody::Chain(c) => chain::emit(b, &cx, kernel, c, lanes, part, parts, scratch),
        }
        Some(b.load(status, Elem::I32, b.i64(0), 0))
    });
}
