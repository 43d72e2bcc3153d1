//! Runs rendered kernels inside the tests: object code, `cc -shared`, `dlopen`. The tests' only unsafe.

use crate::{Builder, Context, Linkage, Machine, Module, Ty, Val, lower};
use std::process::Command;

/// A loaded shared library of test kernels; the file is gone once it is loaded.
pub struct Library {
    library: libloading::Library,
}

/// Every test kernel takes these: two inputs, an output, a length.
pub const ARGS: [Ty; 4] = [Ty::PTR, Ty::PTR, Ty::PTR, Ty::I64];

/// Compiles one kernel, `body(builder, a, b, out, n)`, for `cpu`.
pub fn kernel(cpu: &str, body: impl FnOnce(&Builder, Val, Val, Val, Val)) -> Library {
    compile(cpu, |module| {
        module.kernel("kernel", &ARGS, None, Linkage::Export, |b, args| {
            body(b, args[0], args[1], args[2], args[3]);
            None
        });
    })
}

/// Object code of a module.
pub fn object(machine: &Machine, render: impl FnOnce(&mut Module)) -> Vec<u8> {
    let context = Context::new();
    let mut module = Module::new(&context).with(machine.features());
    render(&mut module);
    let text = crate::lower::text(&module);
    let llvm = inkwell::context::Context::create();
    let lowered = lower(module, &llvm).unwrap_or_else(|error| panic!("{error}\n{text}"));
    machine.optimize(&lowered).unwrap();
    machine.emit_object(&lowered).unwrap()
}

/// Compiles and loads a module.
pub fn compile(cpu: &str, render: impl FnOnce(&mut Module)) -> Library {
    let machine = Machine::new(None, cpu).unwrap();
    load(&object(&machine, render))
}

/// Links an object to a shared library and loads it.
pub fn load(object: &[u8]) -> Library {
    let directory = tempfile::tempdir().unwrap();
    let (object_path, library_path) = (directory.path().join("k.o"), directory.path().join("k.so"));
    std::fs::write(&object_path, object).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-Wl,-z,defs", "-o"])
        .args([&library_path, &object_path])
        .arg("-lm")
        .status()
        .unwrap();
    assert!(status.success(), "the linker failed");
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    // SAFETY: the library was just made from kernels that have no initialisers.
    let library = unsafe { libloading::Library::new(&library_path) }.unwrap();
    Library { library }
}

impl Library {
    /// Calls the test kernel `name` on three arrays. What the kernel does is the test's affair.
    pub fn call<A, B, O>(&self, name: &str, a: &[A], b: &[B], out: &mut [O], n: usize) {
        type Entry = unsafe extern "C" fn(*const u8, *const u8, *mut u8, i64);
        #[expect(unsafe_code, reason = "calling generated code")]
        // SAFETY: test kernels are rendered with the signature `ARGS`, and keep within the arrays they are given.
        unsafe {
            let entry = self.library.get::<Entry>(name.as_bytes()).unwrap();
            entry(a.as_ptr().cast(), b.as_ptr().cast(), out.as_mut_ptr().cast(), n as i64);
        }
    }

    /// The kernel of [`kernel`].
    pub fn run<A, B, O>(&self, a: &[A], b: &[B], out: &mut [O], n: usize) {
        self.call("kernel", a, b, out, n);
    }
}

/// The C library's error function in double precision, which Rust's standard library has not.
pub fn erf(x: f64) -> f64 {
    #[expect(unsafe_code, reason = "a C function")]
    mod c {
        unsafe extern "C" {
            pub safe fn erf(x: f64) -> f64;
        }
    }
    c::erf(x)
}

/// Compiles LLVM IR text for the host and loads it.
pub fn load_ir(text: &str) -> Library {
    let machine = Machine::new(None, "x86-64-v3").unwrap();
    let context = inkwell::context::Context::create();
    let object = crate::tables::assemble(&machine, &context, "ir", text).unwrap();
    load(&machine.emit_object(&object).unwrap())
}

impl Library {
    /// Calls a `cameo_abi::ShapeFn`. The slices are as long as the function was made for.
    pub fn call_shape(
        &self,
        name: &str,
        symbols: &[i64],
        dims: &mut [i64],
        offsets: &mut [i64],
        sizes: &mut [i64; 2],
    ) -> i32 {
        #[expect(unsafe_code, reason = "calling generated code")]
        // SAFETY: the test made the function for tables of these lengths.
        unsafe {
            let shape = self.library.get::<cameo_abi::ShapeFn>(name.as_bytes()).unwrap();
            shape(
                symbols.as_ptr(),
                dims.as_mut_ptr(),
                offsets.as_mut_ptr(),
                sizes.as_mut_ptr(),
            )
        }
    }

    /// A copy of the model descriptor of this name, whose pointers lead into the library.
    pub fn model(&self, name: &str) -> cameo_abi::ModelDesc {
        #[expect(unsafe_code, reason = "reading generated tables")]
        // SAFETY: the symbol is a descriptor, which the test made.
        unsafe {
            **self
                .library
                .get::<*const cameo_abi::ModelDesc>(name.as_bytes())
                .unwrap()
        }
    }
}

/// The elements of a slice of generated tables.
pub fn slice<T>(slice: cameo_abi::Slice<T>) -> &'static [T] {
    if slice.len == 0 {
        return &[];
    }
    #[expect(unsafe_code, reason = "reading generated tables")]
    // SAFETY: constant data of a library that is loaded until the test ends.
    unsafe {
        std::slice::from_raw_parts(slice.ptr, slice.len)
    }
}

/// A generated text.
pub fn text(text: cameo_abi::Str) -> &'static str {
    std::str::from_utf8(slice(text)).unwrap()
}

impl Library {
    /// Calls a descriptor's shape function.
    pub fn call_shape_of(
        &self,
        model: &cameo_abi::ModelDesc,
        symbols: &[i64],
        dims: &mut [i64],
        offsets: &mut [i64],
        sizes: &mut [i64; 2],
    ) -> i32 {
        #[expect(unsafe_code, reason = "calling generated code")]
        // SAFETY: the tables have the lengths that the descriptor names; the library is loaded.
        unsafe {
            (model.shape)(
                symbols.as_ptr(),
                dims.as_mut_ptr(),
                offsets.as_mut_ptr(),
                sizes.as_mut_ptr(),
            )
        }
    }
}

/// Calls a kernel that reads nothing.
pub fn call_kernel(kernel: cameo_abi::KernelFn) -> i32 {
    #[expect(unsafe_code, reason = "calling generated code")]
    // SAFETY: the kernel reads none of its arguments.
    unsafe {
        kernel(std::ptr::null(), std::ptr::null(), 0, 1, std::ptr::null_mut())
    }
}

/// A generated text that ends with 0.
pub fn c_text(at: *const std::ffi::c_char) -> String {
    #[expect(unsafe_code, reason = "reading generated tables")]
    // SAFETY: constant data of a library that is loaded until the test ends.
    let text = unsafe { std::ffi::CStr::from_ptr(at) };
    text.to_str().unwrap().to_owned()
}

/// So many values at an address in generated tables.
pub fn values<T: Copy + 'static>((at, count): (*const std::ffi::c_void, usize)) -> Vec<T> {
    slice(cameo_abi::Slice {
        ptr: at.cast::<T>(),
        len: count,
    })
    .to_vec()
}
