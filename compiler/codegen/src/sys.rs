//! The crate's only unsafe: the joint between MLIR's C API (through melior) and LLVM's (through inkwell).
//!
//! Law: both libraries must be the same LLVM in the same process. `mlir-sys` links it statically and inkwell links
//! nothing, so an `LLVMContextRef` means the same thing on both sides.

use inkwell::context::{AsContextRef, Context as LlvmContext};
use inkwell::module::Module as LlvmModule;

/// Translates a module of the LLVM dialect into an LLVM module that lives in `llvm`.
///
/// The MLIR module may be dropped afterwards. `None` when a dialect other than LLVM's (or an operation without
/// translation) is left in the module; the reason goes to the MLIR context's diagnostic handler.
#[expect(
    unsafe_code,
    reason = "melior has no binding for the translation into an existing LLVM context"
)]
pub fn translate<'l>(module: &melior::ir::Module, llvm: &'l LlvmContext) -> Option<LlvmModule<'l>> {
    let operation = module.as_operation().to_raw();
    let context: mlir_sys::LLVMContextRef = llvm.as_ctx_ref().cast();
    // SAFETY: `operation` is a live module operation (borrowed for the call) and `context` a live LLVM context of the
    // same LLVM library. The call reads the first, and allocates a new module in the second.
    let raw = unsafe { mlir_sys::mlirTranslateModuleToLLVMIR(operation, context) };
    if raw.is_null() {
        return None;
    }
    // SAFETY: `raw` is a fresh, non-null module of `llvm` that nobody else owns; inkwell's wrapper disposes of it, and
    // its lifetime `'l` keeps the context alive for at least as long.
    Some(unsafe { LlvmModule::new(raw.cast()) })
}
