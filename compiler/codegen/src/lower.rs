//! From a rendered [`Module`] to an LLVM module: verification, the MLIR pipeline, translation.
//!
//! Laws: the pipeline is fixed and single-threaded; optimisation is left to LLVM, so the pipeline only converts.
//! Nothing is printed: what MLIR has to say comes back in [`LowerError`].

use crate::emit::Module;
use crate::sys;
use inkwell::context::Context as LlvmContext;
use inkwell::module::Module as LlvmModule;
use melior::dialect::DialectRegistry;
use melior::ir::operation::OperationLike;
use melior::pass::{self, PassManager};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// The MLIR context with the dialects that kernels are rendered in. Costs some milliseconds: one per compilation.
pub struct Context {
    mlir: melior::Context,
}

/// The dialects that a kernel may contain before lowering.
const DIALECTS: [&str; 5] = ["arith", "llvm", "math", "scf", "vector"];

impl Context {
    #[must_use]
    pub fn new() -> Self {
        let registry = DialectRegistry::new();
        melior::utility::register_all_dialects(&registry);
        let mlir = melior::Context::new_with_registry(&registry, false);
        for dialect in DIALECTS {
            mlir.get_or_load_dialect(dialect);
        }
        melior::utility::register_all_llvm_translations(&mlir);
        Self { mlir }
    }

    pub(crate) fn mlir(&self) -> &melior::Context {
        &self.mlir
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

/// A step of the way to LLVM that failed. Each is a defect of the code that rendered the module, not of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerError {
    pub step: LowerStep,
    /// What MLIR or LLVM said, one message each; locations are kernel names.
    pub diagnostics: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowerStep {
    /// The module as rendered breaks a rule of MLIR (a type, dominance, an unknown symbol).
    Verify,
    /// A conversion pass failed.
    Convert,
    /// Something is left that has no LLVM counterpart.
    Translate,
    /// LLVM's own verifier refuses the result.
    VerifyLlvm,
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let what = match self.step {
            LowerStep::Verify => "the rendered kernels are not valid MLIR",
            LowerStep::Convert => "the kernels could not be converted to the LLVM dialect",
            LowerStep::Translate => "the LLVM dialect could not be translated to LLVM IR",
            LowerStep::VerifyLlvm => "the generated LLVM IR is not valid",
        };
        write!(f, "{what}")?;
        for diagnostic in &self.diagnostics {
            write!(f, "\n  {diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LowerError {}

/// The module as MLIR text, as rendered (before [`lower`]). It parses back if the module is sealed ([`Module::seal`]).
#[must_use]
pub fn text(module: &Module) -> String {
    module.operation().to_string()
}

/// Checks the module as rendered; reports all of MLIR's messages.
fn verify(module: &Module) -> Result<(), LowerError> {
    let (valid, diagnostics) = listening(module.context(), || module.operation().verify());
    if valid {
        Ok(())
    } else {
        Err(LowerError {
            step: LowerStep::Verify,
            diagnostics,
        })
    }
}

/// Lowers the module to LLVM IR in `llvm`, not yet optimised.
///
/// Functions that kernels call and the module does not define become external declarations.
///
/// # Errors
/// See [`LowerStep`].
pub fn lower<'l>(mut module: Module, llvm: &'l LlvmContext) -> Result<LlvmModule<'l>, LowerError> {
    module.seal();
    verify(&module)?;
    let (context, lines) = (module.context(), module.has_lines());
    let mut mlir = module.into_mlir();

    let passes = PassManager::new(context);
    // Our own verification is above, and LLVM's verifier follows: no need to verify between passes.
    passes.enable_verifier(false);
    // Order matters only in that `scf` must become `cf` before `cf` is converted.
    passes.add_pass(pass::conversion::create_vector_to_llvm());
    passes.add_pass(pass::conversion::create_math_to_llvm());
    passes.add_pass(pass::conversion::create_scf_to_control_flow());
    passes.add_pass(pass::conversion::create_arith_to_llvm());
    passes.add_pass(pass::conversion::create_control_flow_to_llvm());
    passes.add_pass(pass::conversion::create_reconcile_unrealized_casts());
    if lines {
        passes.add_pass(pass::llvm::create_di_scope_for_llvm_func_op_pass());
    }
    let (converted, diagnostics) = listening(context, || passes.run(&mut mlir).is_ok());
    if !converted {
        return Err(LowerError {
            step: LowerStep::Convert,
            diagnostics,
        });
    }

    let (translated, diagnostics) = listening(context, || sys::translate(&mlir, llvm));
    let Some(translated) = translated else {
        return Err(LowerError {
            step: LowerStep::Translate,
            diagnostics,
        });
    };
    translated.verify().map_err(|message| LowerError {
        step: LowerStep::VerifyLlvm,
        diagnostics: vec![message.to_string()],
    })?;
    Ok(translated)
}

/// Runs `action` and returns the diagnostics that it caused, which would go to stderr otherwise.
fn listening<T>(context: &melior::Context, action: impl FnOnce() -> T) -> (T, Vec<String>) {
    let messages = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&messages);
    let id = context.attach_diagnostic_handler(move |diagnostic| {
        let mut message = format!("{}: {diagnostic}", diagnostic.location());
        for index in 0..diagnostic.note_count() {
            if let Ok(note) = diagnostic.note(index) {
                message.push_str(&format!("; {note}"));
            }
        }
        sink.borrow_mut().push(message);
        true
    });
    let value = action();
    context.detach_diagnostic_handler(id);
    let messages = messages.borrow().clone();
    (value, messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{ARGS, object};
    use crate::{Builder, Elem, Linkage, Machine, Ty, Val};

    /// out[i] = max(a[i] + b[i], 0) for i < n, 16 lanes at a time.
    fn tiny(b: &Builder, args: &[Val]) -> Option<Val> {
        b.for_each(b.i64(0), args[3], b.i64(16), |b, i| {
            let mask = b.mask_first(b.sub(args[3], i), 16);
            let x = b.load_masked(args[0], Elem::F32, i, mask);
            let y = b.load_masked(args[1], Elem::F32, i, mask);
            b.store_masked(args[2], i, b.max_fast(b.f32(0.0), b.add(x, y)), mask);
        });
        None
    }

    #[test]
    fn mlir_of_a_tiny_kernel() {
        let context = Context::new();
        let mut module = Module::new(&context);
        module.kernel("add_relu", &ARGS, None, Linkage::Export, tiny);
        insta::assert_snapshot!(text(&module));
    }

    #[test]
    fn sealed_text_parses_back() {
        let context = Context::new();
        let mut module = Module::new(&context);
        module.constant("table", &[1, 2, 255], 64, Linkage::Internal);
        module.kernel("k", &[Ty::F64], Some(Ty::F64), Linkage::Export, |b, args| {
            b.load(b.address("table"), Elem::I8, b.i64(1), 0);
            Some(crate::emit::math::exp(b, args[0]))
        });
        assert_eq!(module.externals()[0].0, "exp");
        module.seal();
        assert!(module.externals().is_empty());
        let first = text(&module);
        let parsed = melior::ir::Module::parse(context.mlir(), &first).expect("valid MLIR");
        assert_eq!(parsed.as_operation().to_string(), first);
    }

    #[test]
    fn objects_are_reproducible() {
        let machine = Machine::new(None, "x86-64-v3").unwrap();
        let make = || {
            object(&machine, |module| {
                module.kernel("add_relu", &ARGS, None, Linkage::Export, tiny);
                module.kernel("again", &ARGS, None, Linkage::Internal, tiny);
                module.kernel("caller", &ARGS, None, Linkage::Hidden, |b, args| {
                    b.call("again", args, None);
                    b.call("add_relu", args, None);
                    None
                });
            })
        };
        let first = make();
        assert_eq!(&first[..4], b"\x7fELF");
        assert_eq!(first, make());
    }

    #[test]
    fn objects_for_another_architecture() {
        let machine = Machine::new(Some(crate::object::AARCH64_LINUX), "generic").unwrap();
        let bytes = object(&machine, |module| {
            module.kernel("add_relu", &ARGS, None, Linkage::Export, tiny);
        });
        // e_machine: EM_AARCH64.
        assert_eq!(bytes[18..20], [183, 0]);
    }

    #[test]
    fn texts_name_target_and_sections() {
        let machine = Machine::new(None, "x86-64-v4").unwrap();
        let context = Context::new();
        let mut module = Module::new(&context);
        module.kernel("add_relu", &ARGS, None, Linkage::Export, tiny);
        let llvm = LlvmContext::create();
        let lowered = lower(module, &llvm).unwrap();
        machine.optimize(&lowered).unwrap();
        let ir = crate::object::llvm_text(&lowered);
        for attribute in [
            "nounwind",
            "\"target-cpu\"=\"x86-64-v4\"",
            "\"prefer-vector-width\"=\"512\"",
        ] {
            assert!(ir.contains(attribute), "{attribute} is missing in\n{ir}");
        }
        let assembly = machine.emit_assembly(&lowered).unwrap();
        assert!(
            assembly.contains(".text.add_relu") && assembly.contains("zmm"),
            "{assembly}"
        );
        assert!(!assembly.contains("rbp"), "no frame pointer");
    }

    #[test]
    fn defects_are_reported_not_printed() {
        let context = Context::new();
        let mut module = Module::new(&context);
        module.kernel("k", &[Ty::I1], None, Linkage::Export, |b, args| {
            // A value of an inner region that is used outside of it.
            let mut inner = None;
            b.when(args[0], |b| {
                inner = Some(b.add(b.resize_u(args[0], Elem::I64), b.i64(1)));
            });
            b.add(inner.unwrap(), b.i64(2));
            None
        });
        let error = lower(module, &LlvmContext::create()).map(|_| ()).unwrap_err();
        assert_eq!(error.step, LowerStep::Verify);
        assert!(
            error.to_string().contains("dominate") && error.to_string().contains("\"k\""),
            "{error}"
        );
    }
}
