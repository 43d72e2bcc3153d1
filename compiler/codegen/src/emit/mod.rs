//! Rendering kernels as MLIR: types, values, and the module that kernels are rendered into.
//!
//! Laws: memory is reached through LLVM-dialect pointers, never memrefs; all indices and loop variables are `i64`, counted
//! in elements; a [`Val`] belongs to the kernel it was made in. A boolean in memory is one byte, 0 or 1.

pub mod across;
mod arith;
pub mod body;
pub mod builder;
pub mod chain;
pub mod contraction;
pub mod convert;
mod dots;
mod in_order;
pub mod kernel;
pub mod math;
pub mod memory;
pub mod nest;
pub mod panels;
mod small;
pub mod vector;
pub mod window;
mod winograd;

#[cfg(test)]
mod tests;

pub use arith::Cmp;
pub use builder::Builder;
pub use vector::Reduce;

use crate::lower::Context;
use melior::ir::attribute::{DenseElementsAttribute, IntegerAttribute, StringAttribute, TypeAttribute};
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationBuilder, OperationRef};
use melior::ir::r#type::{IntegerType, RankedTensorType};
use melior::ir::{Attribute, Identifier, Location, Region, Type};
use std::collections::{BTreeMap, BTreeSet};

/// What one lane of a value is. Integers have no sign of their own: operations choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Elem {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    /// A truth value or mask lane. In memory it takes a byte.
    I1,
    Ptr,
}

impl Elem {
    /// Size in memory, in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F64 | Self::I64 | Self::Ptr => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::I1 => 1,
        }
    }

    /// Width in a register, in bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::I1 => 1,
            _ => self.bytes() as u32 * 8,
        }
    }

    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    #[must_use]
    pub const fn is_int(self) -> bool {
        matches!(self, Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::I1)
    }

    /// Storage-only float types: arithmetic on them is done in F32 and rounded after every operation.
    #[must_use]
    pub const fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::BF16)
    }

    /// LLVM's name in overloaded intrinsics.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::I1 => "i1",
            Self::Ptr => "p0",
        }
    }

    /// The vector type of `lanes` such elements; the scalar type for `lanes == 0`.
    #[must_use]
    pub const fn x(self, lanes: u32) -> Ty {
        Ty { elem: self, lanes }
    }
}

/// Type of a value: `lanes` is 0 for a scalar. Lanes should be a power of two: `vector<48xf32>` becomes thousands of
/// shuffles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ty {
    pub elem: Elem,
    pub lanes: u32,
}

impl Ty {
    pub const F64: Self = Elem::F64.x(0);
    pub const F32: Self = Elem::F32.x(0);
    pub const I64: Self = Elem::I64.x(0);
    pub const I32: Self = Elem::I32.x(0);
    pub const I8: Self = Elem::I8.x(0);
    pub const I1: Self = Elem::I1.x(0);
    pub const PTR: Self = Elem::Ptr.x(0);

    /// The same number of lanes of another element.
    #[must_use]
    pub const fn with_elem(self, elem: Elem) -> Self {
        Self {
            elem,
            lanes: self.lanes,
        }
    }

    #[must_use]
    pub const fn is_scalar(self) -> bool {
        self.lanes == 0
    }

    /// LLVM's name in overloaded intrinsics.
    pub(crate) fn suffix(self) -> String {
        match self.lanes {
            0 => self.elem.suffix().to_owned(),
            lanes => format!("v{lanes}{}", self.elem.suffix()),
        }
    }

    pub(crate) fn mlir(self, ctx: &melior::Context) -> Type<'_> {
        let int = |bits| IntegerType::new(ctx, bits).into();
        let elem = match self.elem {
            Elem::F64 => Type::float64(ctx),
            Elem::F32 => Type::float32(ctx),
            Elem::F16 => Type::float16(ctx),
            Elem::BF16 => Type::bfloat16(ctx),
            Elem::I64 | Elem::I32 | Elem::I16 | Elem::I8 | Elem::I1 => int(self.elem.bits()),
            Elem::Ptr => melior::dialect::llvm::r#type::pointer(ctx, 0),
        };
        match self.lanes {
            0 => elem,
            lanes => Type::vector(&[u64::from(lanes)], elem),
        }
    }
}

/// A value of the kernel that is being built. Copying it copies a name, not data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Val {
    pub(crate) id: u32,
    /// Which kernel of its module it belongs to: a value used in another kernel is a defect that is caught at once.
    pub(crate) kernel: u32,
    pub(crate) ty: Ty,
}

impl Val {
    #[must_use]
    pub const fn ty(self) -> Ty {
        self.ty
    }

    #[must_use]
    pub const fn elem(self) -> Elem {
        self.ty.elem
    }

    /// 0 for a scalar.
    #[must_use]
    pub const fn lanes(self) -> u32 {
        self.ty.lanes
    }
}

/// Who may call a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// Only this module.
    Internal,
    /// The objects that it is linked with, but not users of the shared library they make.
    Hidden,
    /// Everybody.
    Export,
}

/// Argument and result types of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub args: Vec<Ty>,
    pub ret: Option<Ty>,
}

/// Instructions that kernels are written for.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Multiply and add, and conversions of halves.
    pub fma: bool,
    /// The smaller or larger of two floats, NaN if either is.
    pub minimum: bool,
    /// AVX-512's product of sixteen F32 and powers of two.
    pub scale: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            fma: true,
            minimum: true,
            scale: false,
        }
    }
}

/// An MLIR module under construction.
pub struct Module<'c> {
    ctx: &'c melior::Context,
    mlir: melior::ir::Module<'c>,
    kernels: u32,
    features: Features,
    /// Of debug information, and the line at which the next function begins.
    listing: Option<&'c str>,
    line: usize,
    defined: BTreeSet<String>,
    called: BTreeMap<String, Signature>,
}

impl<'c> Module<'c> {
    #[must_use]
    pub fn new(context: &'c Context) -> Self {
        let ctx = context.mlir();
        let mlir = melior::ir::Module::new(Location::unknown(ctx));
        Self {
            ctx,
            mlir,
            kernels: 0,
            features: Features::default(),
            listing: None,
            line: 0,
            defined: BTreeSet::new(),
            called: BTreeMap::new(),
        }
    }

    /// The same for a machine that has these instructions.
    #[must_use]
    pub fn with(self, features: Features) -> Self {
        Self { features, ..self }
    }

    /// The same with debug information, whose lines are those of a listing of this name.
    #[must_use]
    pub fn with_lines(self, listing: &'c str) -> Self {
        Self {
            listing: Some(listing),
            ..self
        }
    }

    /// Whether there is debug information.
    pub(crate) const fn has_lines(&self) -> bool {
        self.listing.is_some()
    }

    /// The next function begins at this line.
    pub(crate) fn at_line(&mut self, line: usize) {
        self.line = line;
    }

    /// Renders a function: `body` gets the builder and the arguments, and returns the value to return, if any.
    ///
    /// Names must be unique in the module: [`lower`](crate::lower::lower) reports a second definition.
    pub fn kernel(
        &mut self,
        name: &str,
        args: &[Ty],
        ret: Option<Ty>,
        linkage: Linkage,
        body: impl FnOnce(&Builder<'c>, &[Val]) -> Option<Val>,
    ) {
        let source = match self.listing {
            Some(file) => Location::new(self.ctx, file, self.line, 0),
            None => Location::unknown(self.ctx),
        };
        let location = Location::name(self.ctx, name, source);
        let region = Region::new();
        let (builder, values) = Builder::begin(
            self.ctx,
            location,
            self.listing,
            self.kernels,
            self.features,
            &region,
            args,
        );
        self.kernels += 1;
        let result = body(&builder, &values);
        assert_eq!(
            result.map(Val::ty),
            ret,
            "kernel {name} returns another type than it declares"
        );
        for (callee, signature) in builder.finish(result) {
            self.called.entry(callee).or_insert(signature);
        }
        self.function(name, args, ret, linkage, region, location);
        self.defined.insert(name.to_owned());
    }

    /// Defines read-only bytes under a name that [`Builder::address`] gives the pointer of. `align` is in bytes.
    pub fn constant(&mut self, name: &str, bytes: &[u8], align: u32, linkage: Linkage) {
        // An array of no elements is no valid dense attribute; a byte of padding is.
        let bytes = if bytes.is_empty() { &[0] } else { bytes };
        let byte = IntegerType::new(self.ctx, 8).into();
        let length = u32::try_from(bytes.len()).expect("constants in code are far below 4 GiB: weights are not code");
        let array = melior::dialect::llvm::r#type::array(byte, length);
        let tensor = RankedTensorType::new(&[u64::from(length)], byte, None).into();
        let int = |bits, value| -> Attribute<'c> {
            IntegerAttribute::new(IntegerType::new(self.ctx, bits).into(), value).into()
        };
        let mut attributes = vec![
            (self.name("sym_name"), StringAttribute::new(self.ctx, name).into()),
            (self.name("global_type"), TypeAttribute::new(array).into()),
            (self.name("constant"), Attribute::unit(self.ctx)),
            (
                self.name("value"),
                DenseElementsAttribute::raw_buffer(tensor, bytes).into(),
            ),
            (self.name("alignment"), int(64, i64::from(align))),
            (self.name("addr_space"), int(32, 0)),
        ];
        attributes.extend(self.linkage(linkage));
        self.append(
            "llvm.mlir.global",
            &attributes,
            Region::new(),
            Location::unknown(self.ctx),
        );
        self.defined.insert(name.to_owned());
    }

    /// Functions that kernels call and this module does not define, by name, with their types.
    #[must_use]
    pub fn externals(&self) -> Vec<(String, Signature)> {
        let external = self.called.iter().filter(|(name, _)| !self.defined.contains(*name));
        external
            .map(|(name, signature)| (name.clone(), signature.clone()))
            .collect()
    }

    /// Declares [`Module::externals`], which makes the module complete: its text is then valid MLIR on its own. Call it
    /// when all kernels are rendered; [`lower`](crate::lower::lower) does so too.
    pub fn seal(&mut self) {
        for (name, signature) in self.externals() {
            let location = Location::unknown(self.ctx);
            self.function(
                &name,
                &signature.args,
                signature.ret,
                Linkage::Export,
                Region::new(),
                location,
            );
            self.defined.insert(name);
        }
    }

    pub(crate) fn context(&self) -> &'c melior::Context {
        self.ctx
    }

    pub(crate) fn operation(&self) -> OperationRef<'c, '_> {
        self.mlir.as_operation()
    }

    pub(crate) fn into_mlir(self) -> melior::ir::Module<'c> {
        self.mlir
    }

    fn function(
        &self,
        name: &str,
        args: &[Ty],
        ret: Option<Ty>,
        linkage: Linkage,
        body: Region<'c>,
        location: Location<'c>,
    ) {
        use melior::dialect::llvm::r#type as llvm_type;
        let result = ret.map_or_else(|| llvm_type::void(self.ctx), |ty| ty.mlir(self.ctx));
        let args: Vec<Type> = args.iter().map(|ty| ty.mlir(self.ctx)).collect();
        let mut attributes = vec![
            (self.name("sym_name"), StringAttribute::new(self.ctx, name).into()),
            (
                self.name("function_type"),
                TypeAttribute::new(llvm_type::function(result, &args, false)).into(),
            ),
        ];
        attributes.extend(self.linkage(linkage));
        self.append("llvm.func", &attributes, body, location);
    }

    fn linkage(&self, linkage: Linkage) -> [(Identifier<'c>, Attribute<'c>); 2] {
        let (text, visibility) = match linkage {
            Linkage::Internal => ("#llvm.linkage<internal>", 0),
            Linkage::Hidden => ("#llvm.linkage<external>", 1),
            Linkage::Export => ("#llvm.linkage<external>", 0),
        };
        let attribute = Attribute::parse(self.ctx, text).expect("the LLVM dialect is loaded");
        let visibility = IntegerAttribute::new(IntegerType::new(self.ctx, 64).into(), visibility);
        [
            (self.name("linkage"), attribute),
            (self.name("visibility_"), visibility.into()),
        ]
    }

    fn append(
        &self,
        operation: &str,
        attributes: &[(Identifier<'c>, Attribute<'c>)],
        region: Region<'c>,
        location: Location<'c>,
    ) {
        let operation = OperationBuilder::new(operation, location)
            .add_attributes(attributes)
            .add_regions([region]);
        self.mlir
            .body()
            .append_operation(operation.build().expect("attributes fit the operation"));
    }

    fn name(&self, name: &str) -> Identifier<'c> {
        Identifier::new(self.ctx, name)
    }
}
