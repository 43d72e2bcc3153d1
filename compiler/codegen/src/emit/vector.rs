//! Lanes: spreading, extracting, shuffling, transposing and reducing vectors.

use super::{Builder, Elem, Ty, Val};
use melior::ir::attribute::DenseI64ArrayAttribute;

/// How the lanes of a vector become one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Floats are added in any order.
    Add,
    /// Floats are multiplied in any order.
    Mul,
    /// Signed for integers; NaN if any float is NaN.
    Min,
    /// Signed for integers; NaN if any float is NaN.
    Max,
    /// Of floats, the NaNs left out; of integers without sign.
    MinNum,
    /// Of floats, the NaNs left out; of integers without sign.
    MaxNum,
    And,
    Or,
    Xor,
}

impl Builder<'_> {
    /// A scalar in all lanes; for `lanes == 0` the scalar itself.
    pub fn splat(&self, x: Val, lanes: u32) -> Val {
        if lanes == 0 || x.ty.lanes == lanes {
            return x;
        }
        assert!(x.ty.is_scalar(), "a vector cannot be spread");
        let ty = x.ty.elem.x(lanes);
        match self.known(x) {
            Some(constant) => self.constant(ty, constant),
            None => self.op1("vector.broadcast", &[x], ty, &[]),
        }
    }

    /// 0, 1, 2, … in the lanes of an integer vector.
    pub fn iota(&self, elem: Elem, lanes: u32) -> Val {
        self.int_lanes(elem, &(0..i64::from(lanes)).collect::<Vec<_>>())
    }

    /// One lane, at a scalar `i64` position.
    pub fn extract(&self, x: Val, lane: Val) -> Val {
        self.op1("llvm.extractelement", &[x, lane], x.ty.elem.x(0), &[])
    }

    /// The vector with one lane replaced, at a scalar `i64` position.
    pub fn insert(&self, x: Val, lane: Val, value: Val) -> Val {
        self.op1("llvm.insertelement", &[x, value, lane], x.ty, &[])
    }

    /// Lanes chosen from `a` (0 ≤ index < lanes) and `b` (lanes ≤ index): as many as `mask` has.
    pub fn shuffle(&self, a: Val, b: Val, mask: &[i64]) -> Val {
        assert_eq!(a.ty, b.ty, "operands differ in type");
        let ty = a.ty.elem.x(u32::try_from(mask.len()).expect("a few lanes"));
        let mask = DenseI64ArrayAttribute::new(self.ctx, mask).into();
        self.op1("vector.shuffle", &[a, b], ty, &[("mask", mask)])
    }

    /// Lanes `from..from + lanes` of `x`.
    pub fn slice(&self, x: Val, from: u32, lanes: u32) -> Val {
        if from == 0 && lanes == x.ty.lanes {
            return x;
        }
        let mask: Vec<i64> = (from..from + lanes).map(i64::from).collect();
        self.shuffle(x, x, &mask)
    }

    /// The lanes of `a`, then those of `b`.
    pub fn concat(&self, a: Val, b: Val) -> Val {
        let mask: Vec<i64> = (0..2 * i64::from(a.ty.lanes)).collect();
        self.shuffle(a, b, &mask)
    }

    /// All lanes reduced to a scalar.
    pub fn reduce(&self, kind: Reduce, x: Val) -> Val {
        if x.ty.is_scalar() {
            return x;
        }
        if x.ty.elem.is_half() {
            let wide = self.reduce(kind, self.resize_f(x, Elem::F32));
            return self.resize_f(wide, x.ty.elem);
        }
        let float = x.ty.elem.is_float();
        let name = match kind {
            Reduce::Add => "add",
            Reduce::Mul => "mul",
            Reduce::Min if float => "minimumf",
            Reduce::Max if float => "maximumf",
            Reduce::MinNum if float => "minnumf",
            Reduce::MaxNum if float => "maxnumf",
            Reduce::Min => "minsi",
            Reduce::Max => "maxsi",
            Reduce::MinNum => "minui",
            Reduce::MaxNum => "maxui",
            Reduce::And => "and",
            Reduce::Or => "or",
            Reduce::Xor => "xor",
        };
        let mut attributes = vec![("kind", self.parsed(&format!("#vector.kind<{name}>")))];
        if matches!(kind, Reduce::Add | Reduce::Mul) && float {
            // In order, a sum of 16 lanes would be 16 dependent additions.
            attributes.push(("fastmath", self.parsed("#arith.fastmath<reassoc>")));
        }
        self.op1("vector.reduction", &[x], x.ty.elem.x(0), &attributes)
    }

    /// Whether any lane of a mask is set.
    pub fn any(&self, mask: Val) -> Val {
        self.reduce(Reduce::Or, mask)
    }

    /// Whether all lanes of a mask are set.
    pub fn all(&self, mask: Val) -> Val {
        self.reduce(Reduce::And, mask)
    }

    /// The square matrix of `rows.len()` vectors with as many lanes, transposed. The size is a power of two.
    ///
    /// Rendered as the shuffles that x86 has one instruction for: interleaving within 128 bits, then moving 128-bit
    /// blocks. That is `n log n` shuffles of 32-bit lanes.
    pub fn transpose(&self, rows: &[Val]) -> Vec<Val> {
        let size = rows.len();
        assert!(size.is_power_of_two(), "a square of a power of two");
        assert!(
            rows.iter().all(|row| row.ty.lanes as usize == size),
            "as many lanes as rows"
        );
        if size < 4 {
            return self.transpose_pairs(rows);
        }
        // Within each 128-bit block (4 lanes): the four lanes at the same place in four rows become neighbours.
        let unpack = |a: Val, b: Val, order: [usize; 4]| {
            let mask: Vec<i64> = (0..size / 4)
                .flat_map(|block| {
                    order.map(|lane| {
                        if lane < 4 {
                            block * 4 + lane
                        } else {
                            size + block * 4 + lane - 4
                        }
                    })
                })
                .map(|lane| lane as i64)
                .collect();
            self.shuffle(a, b, &mask)
        };
        // columns[g][j], block l: rows 4g..4g+4 at column 4l + j.
        let columns: Vec<[Val; 4]> = rows
            .chunks_exact(4)
            .map(|row| {
                let low = [
                    unpack(row[0], row[1], [0, 4, 1, 5]),
                    unpack(row[2], row[3], [0, 4, 1, 5]),
                ];
                let high = [
                    unpack(row[0], row[1], [2, 6, 3, 7]),
                    unpack(row[2], row[3], [2, 6, 3, 7]),
                ];
                [
                    unpack(low[0], low[1], [0, 1, 4, 5]),
                    unpack(low[0], low[1], [2, 3, 6, 7]),
                    unpack(high[0], high[1], [0, 1, 4, 5]),
                    unpack(high[0], high[1], [2, 3, 6, 7]),
                ]
            })
            .collect();
        // Then the square of blocks is transposed, once for each of the four columns.
        let mut result = vec![rows[0]; size];
        for j in 0..4 {
            let blocks: Vec<Val> = columns.iter().map(|group| group[j]).collect();
            for (l, row) in self.transpose_blocks(&blocks).into_iter().enumerate() {
                result[4 * l + j] = row;
            }
        }
        result
    }

    /// `vectors.len()` vectors of as many 4-lane blocks, transposed block by block: one shuffle level splits the blocks
    /// into even and odd ones, so that each level halves the problem.
    fn transpose_blocks(&self, vectors: &[Val]) -> Vec<Val> {
        let count = vectors.len();
        if count == 1 {
            return vectors.to_vec();
        }
        let pick = |a: Val, b: Val, first: usize| {
            let mask: Vec<i64> = (0..count)
                .map(|block| first + 2 * block)
                .flat_map(|block| (0..4).map(move |lane| (block * 4 + lane) as i64))
                .collect();
            self.shuffle(a, b, &mask)
        };
        // Blocks of (a, b) are numbered 0..count in a and count..2 count in b: the even numbers are even blocks of both.
        let mut level = vectors.to_vec();
        let mut parts = 1;
        // After each level, a vector of part p holds blocks whose number is p modulo `parts`.
        while parts < count {
            let width = level.len() / parts;
            let mut next = Vec::with_capacity(count);
            for half in 0..2 {
                for part in level.chunks_exact(width) {
                    next.extend(part.chunks_exact(2).map(|pair| pick(pair[0], pair[1], half)));
                }
            }
            level = next;
            parts *= 2;
        }
        level
    }

    /// Squares of one and two.
    fn transpose_pairs(&self, rows: &[Val]) -> Vec<Val> {
        match rows {
            [a, b] => vec![self.shuffle(*a, *b, &[0, 2]), self.shuffle(*a, *b, &[1, 3])],
            _ => rows.to_vec(),
        }
    }

    /// The mask with all lanes set.
    pub fn full_mask(&self, lanes: u32) -> Val {
        self.int(Ty { elem: Elem::I1, lanes }, 1)
    }
}
