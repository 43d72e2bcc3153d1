//! The builder through which every kernel is rendered: its state, constants, calls and control flow.
//!
//! Arithmetic is in [`arith`](super::arith), [`convert`](super::convert), memory in [`memory`](super::memory), lanes in [`vector`](super::vector):
//! further `impl` blocks of the same [`Builder`].
//!
//! Laws: constants and stack slots are rendered once, at the head of the kernel, so neither grows in a loop; an operation
//! whose operands are constants is not rendered but computed; an `if` or `for` that constants decide is not rendered.

use super::{Elem, Features, Signature, Ty, Val};
use melior::ir::attribute::{
    DenseElementsAttribute, DenseI32ArrayAttribute, FlatSymbolRefAttribute, FloatAttribute, IntegerAttribute,
    StringAttribute,
};
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationBuilder, OperationRef};
use melior::ir::r#type::IntegerType;

use melior::ir::{Attribute, Block, BlockRef, Identifier, Location, Region, RegionLike, Type, Value};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Renders one kernel. All methods take `&self` so that calls nest: `b.add(b.mul(x, y), z)`.
///
/// Wherever an operation takes two values of the same type, a scalar beside a vector is spread over its lanes.
///
/// # Panics
/// Methods panic on operands of wrong types: that is a defect of the calling emitter, whatever the model.
pub struct Builder<'c> {
    pub(super) ctx: &'c melior::Context,
    /// Of the operations that are rendered next.
    location: Cell<Location<'c>>,
    /// The listing that lines are of.
    listing: Option<&'c str>,
    kernel: u32,
    pub(super) features: Features,
    slots: RefCell<Vec<Slot<'c>>>,
    /// Blocks under construction, the kernel's entry first; operations go to the end of the last one.
    blocks: RefCell<Vec<BlockRef<'c, 'c>>>,
    constants: RefCell<BTreeMap<(Ty, Const), Val>>,
    /// Last of the operations at the head of the entry block.
    head: Cell<Option<OperationRef<'c, 'c>>>,
    calls: RefCell<BTreeMap<String, Signature>>,
    /// See [`Builder::contracted`].
    pub(super) contract: Cell<bool>,
}

struct Slot<'c> {
    value: Value<'c, 'c>,
    /// Known value of a scalar, or of all lanes of a vector.
    constant: Option<Const>,
}

/// A number known while rendering: sign-extended, or the bits of the `f64` it was written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Const {
    Int(i64),
    Float(u64),
}

/// An attribute by name.
pub(super) type Named<'a, 'c> = (&'a str, Attribute<'c>);

impl<'c> Builder<'c> {
    /// Starts a kernel in `region`; returns its arguments.
    pub(super) fn begin(
        ctx: &'c melior::Context,
        location: Location<'c>,
        listing: Option<&'c str>,
        kernel: u32,
        features: Features,
        region: &Region<'c>,
        args: &[Ty],
    ) -> (Self, Vec<Val>) {
        let builder = Self {
            ctx,
            location: Cell::new(location),
            listing,
            kernel,
            features,
            slots: RefCell::new(Vec::new()),
            blocks: RefCell::new(Vec::new()),
            constants: RefCell::new(BTreeMap::new()),
            head: Cell::new(None),
            calls: RefCell::new(BTreeMap::new()),
            contract: Cell::new(false),
        };
        let values = builder.enter(region, args);
        (builder, values)
    }

    /// Ends the kernel; returns what it called.
    pub(super) fn finish(self, result: Option<Val>) -> BTreeMap<String, Signature> {
        self.op("llvm.return", &Vec::from_iter(result), &[], &[]);
        self.calls.into_inner()
    }

    /// Renders what `body` does for a line of the listing, where there is one.
    pub fn at_line<T>(&self, line: usize, body: impl FnOnce() -> T) -> T {
        let Some(file) = self.listing.filter(|_| line > 0) else {
            return body();
        };
        let before = self.location.replace(Location::new(self.ctx, file, line, 0));
        let value = body();
        self.location.set(before);
        value
    }

    // Constants.

    /// An integer constant, spread over the lanes of `ty`; wraps to its width.
    pub fn int(&self, ty: Ty, value: i64) -> Val {
        assert!(ty.elem.is_int(), "{ty:?} is no integer type");
        self.constant(ty, Const::Int(wrap(ty.elem, value)))
    }

    /// A float constant, rounded to `ty` and spread over its lanes; infinities and NaN are fine.
    pub fn float(&self, ty: Ty, value: f64) -> Val {
        assert!(ty.elem.is_float(), "{ty:?} is no float type");
        self.constant(ty, Const::Float(value.to_bits()))
    }

    /// The scalar `i64` constant.
    pub fn i64(&self, value: i64) -> Val {
        self.int(Ty::I64, value)
    }

    /// The scalar `f32` constant.
    pub fn f32(&self, value: f32) -> Val {
        self.float(Ty::F32, f64::from(value))
    }

    /// A truth value.
    pub fn bool(&self, value: bool) -> Val {
        self.int(Ty::I1, i64::from(value))
    }

    /// 0 of any integer or float type.
    pub fn zero(&self, ty: Ty) -> Val {
        if ty.elem.is_float() {
            self.float(ty, 0.0)
        } else {
            self.int(ty, 0)
        }
    }

    /// The value of a constant integer (of all lanes, for a vector).
    #[must_use]
    pub fn as_int(&self, value: Val) -> Option<i64> {
        match self.known(value)? {
            Const::Int(int) => Some(int),
            Const::Float(_) => None,
        }
    }

    /// The constant integer vector with these lanes.
    pub fn int_lanes(&self, elem: Elem, lanes: &[i64]) -> Val {
        let ty = elem.x(u32::try_from(lanes.len()).expect("a few lanes"));
        let elem_type = elem.x(0).mlir(self.ctx);
        let attributes: Vec<Attribute> = lanes
            .iter()
            .map(|&lane| IntegerAttribute::new(elem_type, wrap(elem, lane)).into())
            .collect();
        let dense = DenseElementsAttribute::new(ty.mlir(self.ctx), &attributes).expect("a vector type is shaped");
        self.op1("arith.constant", &[], ty, &[("value", dense.into())])
    }

    /// The constant float vector with these lanes.
    pub fn float_lanes(&self, elem: Elem, lanes: &[f64]) -> Val {
        let ty = elem.x(u32::try_from(lanes.len()).expect("a few lanes"));
        let elem_type = elem.x(0).mlir(self.ctx);
        let attributes: Vec<Attribute> = lanes
            .iter()
            .map(|&lane| FloatAttribute::new(self.ctx, elem_type, lane).into())
            .collect();
        let dense = DenseElementsAttribute::new(ty.mlir(self.ctx), &attributes).expect("a vector type is shaped");
        self.op1("arith.constant", &[], ty, &[("value", dense.into())])
    }

    pub(super) fn known(&self, value: Val) -> Option<Const> {
        self.check(value);
        self.slots.borrow()[value.id as usize].constant
    }

    pub(super) fn constant(&self, ty: Ty, constant: Const) -> Val {
        if let Some(&value) = self.constants.borrow().get(&(ty, constant)) {
            return value;
        }
        let elem = ty.elem.x(0).mlir(self.ctx);
        let scalar: Attribute = match constant {
            Const::Int(int) => IntegerAttribute::new(elem, int).into(),
            Const::Float(bits) => FloatAttribute::new(self.ctx, elem, f64::from_bits(bits)).into(),
        };
        let attribute = match ty.lanes {
            0 => scalar,
            _ => DenseElementsAttribute::splat(ty.mlir(self.ctx), scalar).into(),
        };
        let value = self.at_head("arith.constant", &[], ty, &[("value", attribute)]);
        self.slots.borrow_mut()[value.id as usize].constant = Some(constant);
        self.constants.borrow_mut().insert((ty, constant), value);
        value
    }

    // Functions.

    /// Calls a function of this module, or an external one that must be linked in. `ret` is what it returns.
    pub fn call(&self, name: &str, args: &[Val], ret: Option<Ty>) -> Option<Val> {
        let signature = Signature {
            args: args.iter().map(|arg| arg.ty).collect(),
            ret,
        };
        self.calls.borrow_mut().entry(name.to_owned()).or_insert(signature);
        let callee = FlatSymbolRefAttribute::new(self.ctx, name).into();
        let segments = self.segments(args.len());
        let attributes = [
            ("callee", callee),
            ("operandSegmentSizes", segments),
            ("op_bundle_sizes", self.no_bundles()),
        ];
        self.op("llvm.call", args, &Vec::from_iter(ret), &attributes)
            .first()
            .copied()
    }

    /// Calls through a function pointer.
    pub fn call_ptr(&self, callee: Val, args: &[Val], ret: Option<Ty>) -> Option<Val> {
        let operands: Vec<Val> = std::iter::once(callee).chain(args.iter().copied()).collect();
        let segments = self.segments(operands.len());
        let attributes = [
            ("operandSegmentSizes", segments),
            ("op_bundle_sizes", self.no_bundles()),
        ];
        self.op("llvm.call", &operands, &Vec::from_iter(ret), &attributes)
            .first()
            .copied()
    }

    /// Calls an LLVM intrinsic by its full name (`llvm.x86.avx512.vpdpbusd.512`).
    pub fn intrinsic(&self, name: &str, args: &[Val], ret: Option<Ty>) -> Option<Val> {
        let attributes = [
            ("intrin", StringAttribute::new(self.ctx, name).into()),
            ("operandSegmentSizes", self.segments(args.len())),
            ("op_bundle_sizes", self.no_bundles()),
        ];
        self.op("llvm.call_intrinsic", args, &Vec::from_iter(ret), &attributes)
            .first()
            .copied()
    }

    /// The address of a function or constant that this module defines.
    pub fn address(&self, name: &str) -> Val {
        let symbol = FlatSymbolRefAttribute::new(self.ctx, name).into();
        self.op1("llvm.mlir.addressof", &[], Ty::PTR, &[("global_name", symbol)])
    }

    fn segments(&self, operands: usize) -> Attribute<'c> {
        let operands = i32::try_from(operands).expect("a few operands");
        DenseI32ArrayAttribute::new(self.ctx, &[operands, 0]).into()
    }

    fn no_bundles(&self) -> Attribute<'c> {
        DenseI32ArrayAttribute::new(self.ctx, &[]).into()
    }

    // Control flow.

    /// `for iv in (lo..hi).step_by(step)` with values carried from turn to turn: `body` gets the loop variable and the
    /// carried values and returns the next ones; the result is the last ones (`inits` if there is no turn).
    ///
    /// All three bounds are scalar `i64`, compared as signed; `step` is positive.
    pub fn for_(
        &self,
        lo: Val,
        hi: Val,
        step: Val,
        inits: &[Val],
        body: impl FnOnce(&Self, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        for bound in [lo, hi, step] {
            assert_eq!(bound.ty, Ty::I64, "loop bounds are i64");
        }
        if let (Some(lo_int), Some(hi_int)) = (self.as_int(lo), self.as_int(hi)) {
            let length = hi_int.saturating_sub(lo_int);
            if length <= 0 {
                return inits.to_vec();
            }
            if self.as_int(step).is_some_and(|step| length <= step) {
                let results = body(self, lo, inits);
                self.same_types(&results, inits);
                return results;
            }
        }
        let region = Region::new();
        let tys: Vec<Ty> = inits.iter().map(|value| value.ty).collect();
        let args: Vec<Ty> = std::iter::once(Ty::I64).chain(tys.iter().copied()).collect();
        let values = self.enter(&region, &args);
        let results = body(self, values[0], &values[1..]);
        self.same_types(&results, inits);
        self.leave("scf.yield", &results);
        let operands: Vec<Val> = [lo, hi, step].into_iter().chain(inits.iter().copied()).collect();
        self.op_with_regions("scf.for", &operands, &tys, &[], vec![region])
    }

    /// A loop of side effects only: [`Builder::for_`] that carries nothing.
    pub fn for_each(&self, lo: Val, hi: Val, step: Val, body: impl FnOnce(&Self, Val)) {
        self.for_(lo, hi, step, &[], |b, iv, _| {
            body(b, iv);
            Vec::new()
        });
    }

    /// `if cond { then } else { otherwise }` on a scalar condition; both branches return values of the types `tys`.
    pub fn if_(
        &self,
        cond: Val,
        tys: &[Ty],
        then: impl FnOnce(&Self) -> Vec<Val>,
        otherwise: impl FnOnce(&Self) -> Vec<Val>,
    ) -> Vec<Val> {
        assert_eq!(cond.ty, Ty::I1, "a condition is one truth value");
        if let Some(known) = self.as_int(cond) {
            return if known != 0 { then(self) } else { otherwise(self) };
        }
        let branch = |body: &mut dyn FnMut() -> Vec<Val>| {
            let region = Region::new();
            self.enter(&region, &[]);
            let results = body();
            assert!(
                results.iter().map(|value| value.ty).eq(tys.iter().copied()),
                "branches return the declared types"
            );
            self.leave("scf.yield", &results);
            region
        };
        let (mut then, mut otherwise) = (Some(then), Some(otherwise));
        let yes = branch(&mut || then.take().map_or_else(Vec::new, |then| then(self)));
        let no = branch(&mut || otherwise.take().map_or_else(Vec::new, |otherwise| otherwise(self)));
        self.op_with_regions("scf.if", &[cond], tys, &[], vec![yes, no])
    }

    /// `if cond { then }` for side effects.
    pub fn when(&self, cond: Val, then: impl FnOnce(&Self)) {
        let then = |b: &Self| {
            then(b);
            Vec::new()
        };
        self.if_(cond, &[], then, |_| Vec::new());
    }

    /// `while let (true, state) = test(state) { state = body(state) }`, with the state that `test` last returned.
    pub fn while_(
        &self,
        inits: &[Val],
        test: impl FnOnce(&Self, &[Val]) -> (Val, Vec<Val>),
        body: impl FnOnce(&Self, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let before = Region::new();
        let tys: Vec<Ty> = inits.iter().map(|value| value.ty).collect();
        let state = self.enter(&before, &tys);
        let (cond, passed) = test(self, &state);
        assert_eq!(cond.ty, Ty::I1, "a condition is one truth value");
        let passed_tys: Vec<Ty> = passed.iter().map(|value| value.ty).collect();
        let operands: Vec<Val> = std::iter::once(cond).chain(passed).collect();
        self.leave("scf.condition", &operands);

        let after = Region::new();
        let state = self.enter(&after, &passed_tys);
        let results = body(self, &state);
        self.same_types(&results, inits);
        self.leave("scf.yield", &results);
        self.op_with_regions("scf.while", inits, &passed_tys, &[], vec![before, after])
    }

    /// Runs `body` with leave to fuse multiplications and additions (`fastmath<contract>`) where LLVM sees fit.
    pub fn contracted<R>(&self, body: impl FnOnce() -> R) -> R {
        let before = self.contract.replace(true);
        let result = body();
        self.contract.set(before);
        result
    }

    fn same_types(&self, results: &[Val], inits: &[Val]) {
        let types = |values: &[Val]| values.iter().map(|value| value.ty).collect::<Vec<_>>();
        assert_eq!(
            types(results),
            types(inits),
            "a loop returns values of the types that it carries"
        );
    }

    // Rendering.

    /// Renders an operation at the current place; returns its results.
    pub(super) fn op(&self, name: &str, operands: &[Val], results: &[Ty], attributes: &[Named<'_, 'c>]) -> Vec<Val> {
        self.op_with_regions(name, operands, results, attributes, Vec::new())
    }

    /// Renders an operation that has one result.
    pub(super) fn op1(&self, name: &str, operands: &[Val], result: Ty, attributes: &[Named<'_, 'c>]) -> Val {
        self.op(name, operands, &[result], attributes)[0]
    }

    /// Renders an operation at the head of the kernel, after the others there.
    pub(super) fn at_head(&self, name: &str, operands: &[Val], result: Ty, attributes: &[Named<'_, 'c>]) -> Val {
        let operation = self.build(name, operands, &[result], attributes, Vec::new());
        let entry = self.blocks.borrow()[0];
        let operation = match self.head.get() {
            Some(last) => entry.insert_operation_after(last, operation),
            None => entry.insert_operation(0, operation),
        };
        self.head.set(Some(operation));
        self.results(operation, &[result])[0]
    }

    pub(super) fn int_attribute(&self, bits: u32, value: i64) -> Attribute<'c> {
        IntegerAttribute::new(IntegerType::new(self.ctx, bits).into(), value).into()
    }

    pub(super) fn parsed(&self, attribute: &str) -> Attribute<'c> {
        Attribute::parse(self.ctx, attribute).expect("a well-formed attribute of a loaded dialect")
    }

    fn op_with_regions(
        &self,
        name: &str,
        operands: &[Val],
        results: &[Ty],
        attributes: &[Named<'_, 'c>],
        regions: Vec<Region<'c>>,
    ) -> Vec<Val> {
        let operation = self.build(name, operands, results, attributes, regions);
        let block = *self.blocks.borrow().last().expect("a kernel has a block");
        self.results(block.append_operation(operation), results)
    }

    fn build(
        &self,
        name: &str,
        operands: &[Val],
        results: &[Ty],
        attributes: &[Named<'_, 'c>],
        regions: Vec<Region<'c>>,
    ) -> melior::ir::Operation<'c> {
        let operands: Vec<Value> = operands.iter().map(|&value| self.value(value)).collect();
        let results: Vec<Type> = results.iter().map(|ty| ty.mlir(self.ctx)).collect();
        let attributes: Vec<(Identifier, Attribute)> = attributes
            .iter()
            .map(|&(name, attribute)| (Identifier::new(self.ctx, name), attribute))
            .collect();
        OperationBuilder::new(name, self.location.get())
            .add_operands(&operands)
            .add_results(&results)
            .add_attributes(&attributes)
            .add_regions_vec(regions)
            .build()
            .expect("attributes fit the operation")
    }

    fn results(&self, operation: OperationRef<'c, 'c>, tys: &[Ty]) -> Vec<Val> {
        let values = tys.iter().enumerate();
        values
            .map(|(i, &ty)| self.adopt(operation.result(i).expect("declared above").into(), ty))
            .collect()
    }

    /// Opens a block with arguments of these types in `region`, and renders into it from now on.
    fn enter(&self, region: &Region<'c>, args: &[Ty]) -> Vec<Val> {
        let types: Vec<_> = args.iter().map(|ty| (ty.mlir(self.ctx), self.location.get())).collect();
        let block: BlockRef<'c, 'c> = region.append_block(Block::new(&types));
        self.blocks.borrow_mut().push(block);
        let args = args.iter().enumerate();
        args.map(|(i, &ty)| self.adopt(block.argument(i).expect("declared above").into(), ty))
            .collect()
    }

    /// Closes the block with its terminator.
    fn leave(&self, terminator: &str, operands: &[Val]) {
        self.op(terminator, operands, &[], &[]);
        self.blocks.borrow_mut().pop();
    }

    fn adopt(&self, value: Value<'c, 'c>, ty: Ty) -> Val {
        let mut slots = self.slots.borrow_mut();
        let id = u32::try_from(slots.len()).expect("a kernel has fewer than 2^32 values");
        slots.push(Slot { value, constant: None });
        Val {
            id,
            kernel: self.kernel,
            ty,
        }
    }

    fn value(&self, value: Val) -> Value<'c, 'c> {
        self.check(value);
        self.slots.borrow()[value.id as usize].value
    }

    fn check(&self, value: Val) {
        assert_eq!(value.kernel, self.kernel, "a value of another kernel");
    }
}

/// `value` as an integer of the element's width: sign-extended, truth values 0 or 1.
pub(super) fn wrap(elem: Elem, value: i64) -> i64 {
    match elem {
        Elem::I1 => value & 1,
        Elem::I8 => i64::from(value as i8),
        Elem::I16 => i64::from(value as i16),
        Elem::I32 => i64::from(value as i32),
        _ => value,
    }
}
