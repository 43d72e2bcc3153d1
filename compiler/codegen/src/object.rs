//! From an LLVM module to object code for one machine.
//!
//! Laws: the bytes depend on the module and the [`Machine`] alone. LLVM optimises scalar code and allocates registers;
//! it neither unrolls nor vectorises, because kernels come already shaped by their schedule.

use crate::emit::Features;
use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::module::Module as LlvmModule;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetMachineOptions, TargetTriple,
};
use inkwell::types::BasicTypeEnum;
use inkwell::values::{AnyValue, AnyValueEnum, BasicValue, BasicValueEnum, InstructionValue, PointerValue};
use std::fmt;

/// The machine that code is generated for.
pub struct Machine {
    pub triple: String,
    /// LLVM's name of the instruction set: `x86-64-v2` to `x86-64-v4` or `generic`. The runtime checks for all that it has.
    pub cpu: String,
    /// LLVM's name of the processor whose latencies instructions are ordered by; `None`: the level's own.
    pub tune: Option<String>,
    pub arch: Arch,
    vector: VectorUnit,
    target: TargetMachine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    X86_64,
    Aarch64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VectorUnit {
    Sse,
    Avx2,
    Avx512,
    Neon,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineError {
    /// The triple names an architecture or system that no object can be written for.
    UnknownTriple {
        triple: String,
    },
    /// The processor is not one of those that the architecture offers.
    UnknownCpu {
        arch: Arch,
        cpu: String,
    },
    /// `native` asked for while generating code for another architecture.
    ForeignNative {
        triple: String,
    },
    /// The host lacks an instruction set that generated code relies on.
    TooOld {
        cpu: String,
        missing: &'static str,
    },
    Llvm(String),
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::UnknownTriple { triple } => {
                write!(f, "unknown target {triple:?}; known: {X86_LINUX}, {AARCH64_LINUX}")
            }
            Self::UnknownCpu { arch, cpu } => {
                let known = match arch {
                    Arch::X86_64 => "native, x86-64-v2, x86-64-v3, x86-64-v4",
                    Arch::Aarch64 => "native, generic",
                };
                write!(f, "unknown processor {cpu:?} for {arch:?}; known: {known}")
            }
            Self::ForeignNative { triple } => {
                write!(
                    f,
                    "the processor \"native\" needs the host's own architecture, not {triple}"
                )
            }
            Self::TooOld { cpu, missing } => {
                write!(
                    f,
                    "the processor {cpu} lacks {missing}; generated code needs x86-64-v2 or later"
                )
            }
            Self::Llvm(message) => write!(f, "LLVM: {message}"),
        }
    }
}

impl std::error::Error for MachineError {}

pub const X86_LINUX: &str = "x86_64-unknown-linux-gnu";
pub const AARCH64_LINUX: &str = "aarch64-unknown-linux-gnu";

/// Without a triple, code is for the architecture that this compiler was itself compiled for.
const HOST: &str = if cfg!(target_arch = "aarch64") {
    AARCH64_LINUX
} else {
    X86_LINUX
};

impl Machine {
    /// The machine for `triple` (the host's if `None`; `x86_64` or `aarch64` Linux) and `cpu`: `x86-64-v2` to `x86-64-v4`, or
    /// `native`, the highest of them that the host has, tuned for the host; on aarch64 `native` or `generic`.
    ///
    /// # Errors
    /// See [`MachineError`].
    pub fn new(triple: Option<&str>, cpu: &str) -> Result<Self, MachineError> {
        let triple = triple.unwrap_or(HOST);
        let unknown = || MachineError::UnknownTriple {
            triple: triple.to_owned(),
        };
        let arch = match triple.split('-').next() {
            Some("x86_64") => Arch::X86_64,
            Some("aarch64") => Arch::Aarch64,
            _ => return Err(unknown()),
        };
        if !triple.contains("linux") {
            return Err(unknown());
        }
        let (cpu, tune) = match (arch, cpu) {
            (_, "native") => {
                if !HOST.starts_with(triple.split('-').next().unwrap_or_default()) {
                    return Err(MachineError::ForeignNative {
                        triple: triple.to_owned(),
                    });
                }
                let host = TargetMachine::get_host_cpu_name().to_string();
                let features = TargetMachine::get_host_cpu_features().to_string();
                (level(arch, &host, &features)?.to_owned(), Some(host))
            }
            (Arch::X86_64, "x86-64-v2" | "x86-64-v3" | "x86-64-v4") | (Arch::Aarch64, "generic") => {
                (cpu.to_owned(), None)
            }
            _ => {
                return Err(MachineError::UnknownCpu {
                    arch,
                    cpu: cpu.to_owned(),
                });
            }
        };
        let vector = match (arch, cpu.as_str()) {
            (Arch::Aarch64, _) => VectorUnit::Neon,
            (_, "x86-64-v4") => VectorUnit::Avx512,
            (_, "x86-64-v2") => VectorUnit::Sse,
            _ => VectorUnit::Avx2,
        };

        let config = InitializationConfig {
            asm_parser: false,
            disassembler: false,
            ..InitializationConfig::default()
        };
        match arch {
            Arch::X86_64 => Target::initialize_x86(&config),
            Arch::Aarch64 => Target::initialize_aarch64(&config),
        }
        let llvm_triple = TargetTriple::create(triple);
        let options = TargetMachineOptions::new()
            .set_cpu(&cpu)
            .set_level(OptimizationLevel::Default)
            .set_reloc_mode(RelocMode::PIC)
            .set_code_model(CodeModel::Small);
        let target = Target::from_triple(&llvm_triple)
            .map_err(|message| MachineError::Llvm(message.to_string()))?
            .create_target_machine_from_options(&llvm_triple, options)
            .ok_or_else(|| MachineError::Llvm(format!("no target machine for {triple}, {cpu}")))?;
        Ok(Self {
            triple: triple.to_owned(),
            cpu,
            tune,
            arch,
            vector,
            target,
        })
    }

    /// Width of the vector registers that kernels should fill, in bits.
    #[must_use]
    pub fn vector_bits(&self) -> u32 {
        match self.vector {
            VectorUnit::Avx512 => 512,
            VectorUnit::Avx2 => 256,
            VectorUnit::Neon | VectorUnit::Sse => 128,
        }
    }

    /// Instructions that kernels are written for.
    #[must_use]
    pub fn features(&self) -> Features {
        Features {
            fma: self.vector != VectorUnit::Sse,
            minimum: self.vector == VectorUnit::Neon,
            scale: self.vector == VectorUnit::Avx512,
        }
    }

    /// Number of vector registers.
    #[must_use]
    pub fn vector_registers(&self) -> u32 {
        match self.vector {
            VectorUnit::Avx512 | VectorUnit::Neon => 32,
            VectorUnit::Avx2 | VectorUnit::Sse => 16,
        }
    }

    /// Makes a module one for this machine.
    pub fn adopt(&self, module: &LlvmModule) {
        module.set_triple(&TargetTriple::create(&self.triple));
        module.set_data_layout(&self.target.get_target_data().get_data_layout());
        self.mark(module);
    }

    /// Sets the module's target and attributes and optimises it in place.
    ///
    /// # Errors
    /// [`MachineError::Llvm`] when LLVM refuses the module.
    pub fn optimize(&self, module: &LlvmModule) -> Result<(), MachineError> {
        self.adopt(module);
        let options = PassBuilderOptions::create();
        // Schedules decide what is unrolled and vectorised. Partial unrolling of a K loop costs 10-30 % in spills.
        options.set_loop_unrolling(false);
        options.set_loop_interleaving(false);
        options.set_loop_vectorization(false);
        options.set_loop_slp_vectorization(false);
        options.set_merge_functions(false);
        module
            .run_passes("default<O2>", &self.target, options)
            .map_err(|message| MachineError::Llvm(message.to_string()))?;
        write_single_lanes(module).map_err(|e| MachineError::Llvm(e.to_string()))
    }

    /// Object code (ELF, position independent, one section per function) of an optimised module.
    ///
    /// # Errors
    /// [`MachineError::Llvm`] when LLVM cannot select instructions.
    pub fn emit_object(&self, module: &LlvmModule) -> Result<Vec<u8>, MachineError> {
        self.write(module, FileType::Object)
    }

    /// The same as assembly text.
    ///
    /// # Errors
    /// As [`Machine::emit_object`].
    pub fn emit_assembly(&self, module: &LlvmModule) -> Result<String, MachineError> {
        let bytes = self.write(module, FileType::Assembly)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn write(&self, module: &LlvmModule, kind: FileType) -> Result<Vec<u8>, MachineError> {
        let buffer = self
            .target
            .write_to_memory_buffer(module, kind)
            .map_err(|message| MachineError::Llvm(message.to_string()))?;
        Ok(buffer.as_slice().to_vec())
    }

    /// Gives every defined function the attributes that code generation reads, and a section of its own.
    fn mark(&self, module: &LlvmModule) {
        let context = module.get_context();
        let string = |key: &str, value: &str| context.create_string_attribute(key, value);
        let flag = |name: &str| context.create_enum_attribute(Attribute::get_named_enum_kind_id(name), 0);
        let mut attributes = vec![flag("nounwind"), flag("noinline"), string("target-cpu", &self.cpu)];
        if let Some(tune) = &self.tune {
            attributes.push(string("tune-cpu", tune));
        }
        if self.vector == VectorUnit::Avx512 {
            // LLVM prefers 256 bits on several processors, which would split every accumulator.
            attributes.push(string("prefer-vector-width", "512"));
            attributes.push(string("min-legal-vector-width", "512"));
        }
        // Nobody reads floating-point exception flags.
        attributes.push(string("no-trapping-math", "true"));
        for function in module.get_functions() {
            if function.count_basic_blocks() == 0 {
                continue;
            }
            for attribute in &attributes {
                function.add_attribute(AttributeLoc::Function, *attribute);
            }
            let section = format!(".text.{}", function.get_name().to_string_lossy());
            function.as_global_value().set_section(Some(&section));
        }
    }
}

/// Writes stores of one lane of a vector as stores of a number.
///
/// LLVM 22 does so itself on AVX-512, and then forgets that a store of narrower elements narrows them: it writes the bytes behind
/// the element, too.
fn write_single_lanes(module: &LlvmModule) -> Result<(), Box<dyn std::error::Error>> {
    let context = module.get_context();
    let builder = context.create_builder();
    let stores = module.get_functions().filter(|f| {
        let name = f.get_name().to_bytes();
        f.count_basic_blocks() == 0 && name.starts_with(b"llvm.masked.store.")
    });
    let calls = stores.flat_map(|f| uses(f.as_global_value().as_pointer_value()));
    for call in calls.collect::<Vec<InstructionValue>>() {
        let operand = |i: u32| call.get_operand(i).and_then(inkwell::values::Operand::value);
        let (Some(value), Some(to), Some(mask)) = (operand(0), operand(1), operand(2)) else {
            continue;
        };
        let lane = match mask {
            BasicValueEnum::VectorValue(mask) if mask.is_const() => single_lane(&mask.print_to_string().to_string()),
            _ => None,
        };
        let Some(lane) = lane else { continue };
        let (value, to) = (value.into_vector_value(), to.into_pointer_value());
        builder.position_before(&call);
        let index = context.i64_type().const_int(lane, false);
        let element = builder.build_extract_element(value, index, "")?;
        let bits = |t: BasicTypeEnum| match t {
            BasicTypeEnum::IntType(t) => u64::from(t.get_bit_width()),
            BasicTypeEnum::FloatType(t) => u64::from(t.get_bit_width()),
            _ => 64,
        };
        let place = match lane {
            0 => to,
            _ => {
                let offset = context.i64_type().const_int(lane * bits(element.get_type()) / 8, false);
                let place = builder.build_ptr_to_int(to, context.i64_type(), "")?;
                let place = builder.build_int_add(place, offset, "")?;
                builder.build_int_to_ptr(place, to.get_type(), "")?
            }
        };
        let store = builder.build_store(place, element)?;
        // What the vector's place was aligned to is not told here; no processor of ours asks.
        store.set_alignment(1)?;
        call.erase_from_basic_block();
    }
    Ok(())
}

/// The calls of a function.
fn uses(function: PointerValue) -> Vec<InstructionValue> {
    let mut found = vec![];
    let mut next = function.get_first_use();
    while let Some(one) = next {
        if let AnyValueEnum::InstructionValue(call) = one.get_user() {
            found.push(call);
        }
        next = one.get_next_use();
    }
    found
}

/// The only lane of a constant mask, as LLVM prints it, that is set.
fn single_lane(mask: &str) -> Option<u64> {
    let (_, lanes) = mask.split_once("> <")?;
    let mut set = lanes.split(',').enumerate().filter(|(_, lane)| lane.contains("true"));
    match (set.next(), set.next()) {
        (Some((lane, _)), None) => Some(lane as u64),
        _ => None,
    }
}

/// The module as LLVM IR text.
#[must_use]
pub fn llvm_text(module: &LlvmModule) -> String {
    module.print_to_string().to_string()
}

/// What x86-64-v2 has over what every x86-64 processor has, in LLVM's and in the manuals' words.
const V2: [(&str, &str); 4] = [
    ("ssse3", "SSSE3"),
    ("sse4.2", "SSE4.2"),
    ("popcnt", "POPCNT"),
    ("cx16", "CMPXCHG16B"),
];

/// What x86-64-v3 has over x86-64-v2, in LLVM's.
const V3: [&str; 7] = ["avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"];

/// What x86-64-v4 has over x86-64-v3.
const V4: [&str; 5] = ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];

/// The highest level that a host has. Single features beyond it are left alone: the runtime could not check for them.
fn level(arch: Arch, host: &str, features: &str) -> Result<&'static str, MachineError> {
    if arch == Arch::Aarch64 {
        return Ok("generic");
    }
    if let Some((_, missing)) = V2.iter().find(|(name, _)| !has_feature(features, name)) {
        return Err(MachineError::TooOld {
            cpu: host.to_owned(),
            missing,
        });
    }
    let has = |level: &[&str]| level.iter().all(|name| has_feature(features, name));
    Ok(match (has(&V3), has(&V4)) {
        (true, true) => "x86-64-v4",
        (true, false) => "x86-64-v3",
        (false, _) => "x86-64-v2",
    })
}

fn has_feature(features: &str, name: &str) -> bool {
    features
        .split(',')
        .any(|feature| feature.strip_prefix('+') == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_described() {
        let v4 = Machine::new(Some(X86_LINUX), "x86-64-v4").unwrap();
        assert_eq!(
            (v4.vector_bits(), v4.vector_registers(), v4.arch),
            (512, 32, Arch::X86_64)
        );
        assert_eq!((v4.cpu.as_str(), &v4.tune), ("x86-64-v4", &None));
        let v3 = Machine::new(Some(X86_LINUX), "x86-64-v3").unwrap();
        assert_eq!((v3.vector_bits(), v3.vector_registers()), (256, 16));
        let v2 = Machine::new(Some(X86_LINUX), "x86-64-v2").unwrap();
        assert_eq!((v2.vector_bits(), v2.vector_registers()), (128, 16));
        assert_eq!([&v2, &v3, &v4].map(|m| m.features().fma), [false, true, true]);
        let arm = Machine::new(Some(AARCH64_LINUX), "generic").unwrap();
        assert_eq!(
            (arm.vector_bits(), arm.vector_registers(), arm.arch),
            (128, 32, Arch::Aarch64)
        );
    }

    #[test]
    fn unknown_machines_are_refused() {
        let error = |triple, cpu| Machine::new(Some(triple), cpu).map(|_| ()).unwrap_err().to_string();
        assert!(error("sparc-sun-solaris", "native").contains("unknown target"));
        assert!(error(X86_LINUX, "i386").contains("known: native, x86-64-v2"));
        assert!(error(AARCH64_LINUX, "x86-64-v3").contains("unknown processor"));
        if cfg!(target_arch = "x86_64") {
            assert!(error(AARCH64_LINUX, "native").contains("own architecture"));
        }
    }

    #[test]
    fn features_are_matched_whole() {
        assert!(has_feature("+avx,-avx2", "avx"));
        assert!(!has_feature("+avx,-avx2", "avx2"));
    }

    #[test]
    fn hosts_have_levels() {
        let v2 = "+ssse3,+sse4.2,+popcnt,+cx16";
        let v3 = &format!("{v2},+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe");
        let with = |more: &str| level(Arch::X86_64, "host", &format!("{v3},{more}"));
        assert_eq!(with("-avx512f"), Ok("x86-64-v3"));
        // Half of AVX-512 is none, and what comes after v4 changes nothing.
        assert_eq!(with("+avx512f,+avx512cd"), Ok("x86-64-v3"));
        let v4 = "+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl";
        assert_eq!(with(v4), Ok("x86-64-v4"));
        assert_eq!(with(&format!("{v4},+avx512vnni,+amx-tile")), Ok("x86-64-v4"));
        let half = "+avx2,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl";
        assert_eq!(level(Arch::X86_64, "host", &format!("{v2},{half}")), Ok("x86-64-v2"));
        for (name, said) in V2 {
            let others = V2.iter().filter(|(other, _)| *other != name);
            let features: Vec<String> = others.map(|(other, _)| format!("+{other}")).collect();
            let features = features.join(",");
            let error = level(Arch::X86_64, "k8", &features).unwrap_err();
            assert_eq!(
                error,
                MachineError::TooOld {
                    cpu: "k8".to_owned(),
                    missing: said
                }
            );
        }
        assert_eq!(level(Arch::Aarch64, "neoverse-n1", "+sve"), Ok("generic"));
    }

    #[test]
    fn the_host_is_a_level_with_a_tuning() {
        let Ok(machine) = Machine::new(None, "native") else {
            return;
        };
        assert!(["x86-64-v2", "x86-64-v3", "x86-64-v4", "generic"].contains(&&*machine.cpu));
        assert_eq!(machine.tune, Some(TargetMachine::get_host_cpu_name().to_string()));
        let context = inkwell::context::Context::create();
        let text = "define void @f() {\n  ret void\n}\n";
        let buffer = inkwell::memory_buffer::MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "f");
        let module = context.create_module_from_ir(buffer).unwrap();
        machine.optimize(&module).unwrap();
        let text = llvm_text(&module);
        assert!(text.contains(&format!("\"target-cpu\"=\"{}\"", machine.cpu)), "{text}");
        assert!(
            text.contains("\"tune-cpu\"=") && !text.contains("target-features"),
            "{text}"
        );
    }
}
