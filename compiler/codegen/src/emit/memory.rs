//! Memory: addresses, loads and stores of scalars and vectors, masks, gathers, stack slots.
//!
//! Laws: an index counts elements of the type that is named beside it; a vector access needs only the alignment of its
//! element. I1 in memory is a byte that is 0 or 1 (anything but 0 reads as true). BF16 moves as I16: where LLVM takes a
//! vector of it apart, it would call library functions to convert the lanes.

use super::{Builder, Cmp, Elem, Ty, Val};
use melior::ir::attribute::{DenseI32ArrayAttribute, TypeAttribute};

/// The `rawConstantIndices` entry that means "see the operand".
const DYNAMIC: i32 = i32::MIN;

/// Stack slots are aligned for the widest vectors.
const STACK_ALIGN: i64 = 64;

impl Builder<'_> {
    /// The address of element `idx` (scalar integer) from `ptr`; a vector of addresses for a vector of indices (I32, read
    /// as signed, or I64).
    pub fn gep(&self, ptr: Val, elem: Elem, idx: Val) -> Val {
        let elem_type = TypeAttribute::new(stored(elem).x(0).mlir(self.ctx)).into();
        let (operands, raw) = match self.as_int(idx).filter(|_| idx.ty.is_scalar()) {
            Some(0) => return ptr,
            Some(constant) => match i32::try_from(constant).ok().filter(|&constant| constant != DYNAMIC) {
                Some(constant) => (vec![ptr], constant),
                None => (vec![ptr, idx], DYNAMIC),
            },
            None => (vec![ptr, idx], DYNAMIC),
        };
        let indices = DenseI32ArrayAttribute::new(self.ctx, &[raw]).into();
        let ty = Elem::Ptr.x(idx.ty.lanes.max(ptr.ty.lanes));
        self.op1(
            "llvm.getelementptr",
            &operands,
            ty,
            &[("rawConstantIndices", indices), ("elem_type", elem_type)],
        )
    }

    /// `lanes` elements (0: a scalar) from element `idx` on.
    pub fn load(&self, ptr: Val, elem: Elem, idx: Val, lanes: u32) -> Val {
        let at = self.gep(ptr, elem, idx);
        let alignment = self.int_attribute(64, elem.bytes().cast_signed());
        let value = self.op1("llvm.load", &[at], stored(elem).x(lanes), &[("alignment", alignment)]);
        self.loaded(value, elem)
    }

    /// Stores a scalar or vector from element `idx` on.
    pub fn store(&self, ptr: Val, idx: Val, value: Val) {
        let elem = value.ty.elem;
        let at = self.gep(ptr, elem, idx);
        let alignment = self.int_attribute(64, elem.bytes().cast_signed());
        let value = self.storable(value);
        self.op("llvm.store", &[value, at], &[], &[("alignment", alignment)]);
    }

    /// As [`Builder::load`], but reads only the lanes that `mask` has; the others are 0.
    pub fn load_masked(&self, ptr: Val, elem: Elem, idx: Val, mask: Val) -> Val {
        let lanes = mask.ty.lanes;
        if self.as_int(mask) == Some(1) {
            return self.load(ptr, elem, idx, lanes);
        }
        let at = self.gep(ptr, elem, idx);
        let ty = stored(elem).x(lanes);
        let alignment = self.int_attribute(32, elem.bytes().cast_signed());
        let operands = [at, mask, self.zero(ty)];
        let value = self.op1("llvm.intr.masked.load", &operands, ty, &[("alignment", alignment)]);
        self.loaded(value, elem)
    }

    /// As [`Builder::store`], but writes only the lanes that `mask` has.
    pub fn store_masked(&self, ptr: Val, idx: Val, value: Val, mask: Val) {
        if self.as_int(mask) == Some(1) {
            return self.store(ptr, idx, value);
        }
        let elem = value.ty.elem;
        let at = self.gep(ptr, elem, idx);
        let alignment = self.int_attribute(32, elem.bytes().cast_signed());
        let value = self.storable(value);
        self.op(
            "llvm.intr.masked.store",
            &[value, at, mask],
            &[],
            &[("alignment", alignment)],
        );
    }

    /// The elements at a vector of indices, for the lanes that `mask` has; the others are 0.
    pub fn gather(&self, ptr: Val, elem: Elem, idx: Val, mask: Val) -> Val {
        let at = self.gep(ptr, elem, self.lanes_of(idx, mask));
        let ty = stored(elem).x(mask.ty.lanes);
        let alignment = self.int_attribute(32, elem.bytes().cast_signed());
        let operands = [at, mask, self.zero(ty)];
        let value = self.op1("llvm.intr.masked.gather", &operands, ty, &[("alignment", alignment)]);
        self.loaded(value, elem)
    }

    /// Stores the lanes that `mask` has to a vector of indices; of equal indices the last lane wins.
    pub fn scatter(&self, ptr: Val, idx: Val, value: Val, mask: Val) {
        let elem = value.ty.elem;
        let at = self.gep(ptr, elem, self.lanes_of(idx, mask));
        let alignment = self.int_attribute(32, elem.bytes().cast_signed());
        let value = self.storable(value);
        self.op(
            "llvm.intr.masked.scatter",
            &[value, at, mask],
            &[],
            &[("alignment", alignment)],
        );
    }

    /// The mask whose lane `i` is set iff `i < n` (scalar `i64`, any value).
    pub fn mask_first(&self, n: Val, lanes: u32) -> Val {
        // The narrowest element whose vector is still a full register, so that one comparison makes the mask.
        let elem = match lanes {
            0..=16 => Elem::I32,
            17..=32 => Elem::I16,
            _ => Elem::I8,
        };
        if let Some(n) = self.as_int(n)
            && !(1..i64::from(lanes)).contains(&n)
        {
            return self.int(Elem::I1.x(lanes), i64::from(n > 0));
        }
        let clamped = self.min(self.max(n, self.i64(0)), self.i64(i64::from(lanes)));
        let bound = self.splat(self.resize_s(clamped, elem), lanes);
        self.cmp(Cmp::Lt, self.iota(elem, lanes), bound)
    }

    /// Uninitialised stack memory for `count` elements, aligned to 64 bytes, the same for every turn of a loop.
    pub fn alloca(&self, elem: Elem, count: u64) -> Val {
        let count = self.i64(count.cast_signed());
        let elem_type = TypeAttribute::new(stored(elem).x(0).mlir(self.ctx)).into();
        let alignment = self.int_attribute(64, STACK_ALIGN);
        self.at_head(
            "llvm.alloca",
            &[count],
            Ty::PTR,
            &[("elem_type", elem_type), ("alignment", alignment)],
        )
    }

    /// Asks for the cache line of element `idx`, to be read, into L2; any address is allowed.
    pub fn prefetch(&self, ptr: Val, elem: Elem, idx: Val) {
        let at = self.gep(ptr, elem, idx);
        let attributes = [
            ("rw", self.int_attribute(32, 0)),
            ("hint", self.int_attribute(32, 2)),
            ("cache", self.int_attribute(32, 1)),
        ];
        self.op("llvm.intr.prefetch", &[at], &[], &attributes);
    }

    /// Copies `bytes` (scalar `i64`) bytes between regions that do not overlap.
    pub fn copy(&self, to: Val, from: Val, bytes: Val) {
        self.op(
            "llvm.intr.memcpy",
            &[to, from, bytes],
            &[],
            &[("isVolatile", self.int_attribute(1, 0))],
        );
    }

    /// Sets `bytes` (scalar `i64`) bytes to 0.
    pub fn clear(&self, to: Val, bytes: Val) {
        let zero = self.int(Ty::I8, 0);
        self.op(
            "llvm.intr.memset",
            &[to, zero, bytes],
            &[],
            &[("isVolatile", self.int_attribute(1, 0))],
        );
    }

    /// The null pointer.
    pub fn null(&self) -> Val {
        self.op1("llvm.mlir.zero", &[], Ty::PTR, &[])
    }

    pub fn is_null(&self, ptr: Val) -> Val {
        let address = self.op1("llvm.ptrtoint", &[ptr], Ty::I64, &[]);
        self.cmp(Cmp::Eq, address, self.i64(0))
    }

    fn lanes_of(&self, idx: Val, mask: Val) -> Val {
        if idx.ty.is_scalar() {
            self.splat(idx, mask.ty.lanes)
        } else {
            idx
        }
    }

    fn loaded(&self, value: Val, elem: Elem) -> Val {
        match elem {
            Elem::I1 => self.cmp(Cmp::Ne, value, self.zero(value.ty)),
            Elem::BF16 => self.bitcast(value, value.ty.with_elem(elem)),
            _ => value,
        }
    }

    fn storable(&self, value: Val) -> Val {
        match value.ty.elem {
            Elem::I1 => self.resize_u(value, Elem::I8),
            Elem::BF16 => self.bitcast(value, value.ty.with_elem(Elem::I16)),
            _ => value,
        }
    }
}

/// The element that stands for `elem` in memory.
const fn stored(elem: Elem) -> Elem {
    match elem {
        Elem::I1 => Elem::I8,
        Elem::BF16 => Elem::I16,
        _ => elem,
    }
}
