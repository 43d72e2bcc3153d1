//! The masks of attention logits, brought together.

use cameo_ir::op::{OpError, unsupported};
use cameo_ir::rewrite::Rewriter;
use cameo_ir::{Attr, Dim, Tensor, ValueId};

use crate::fold_scales::reshaped;

/// Numbers at most this, added to logits, give exactly themselves: no logit is near their last digit.
const LOWEST: f64 = -1e30;

/// A mask of the logits, and their shape where it is applied.
pub struct Mask {
    pub value: ValueId,
    pub kind: Kind,
    pub logits: Vec<Dim>,
}

pub enum Kind {
    Add,
    /// Where the value has the given truth the logits stay, elsewhere they are the number.
    Select {
        keep: bool,
        number: f64,
    },
}

/// One mask of all, and the number that a condition selects.
pub fn combined(rw: &mut Rewriter, masks: &[Mask], lead: &[Dim; 2]) -> Result<(Option<ValueId>, f64), OpError> {
    if let [mask] = masks
        && let Kind::Select { keep, number } = mask.kind
    {
        let fitted = fitted(rw, mask, mask.value, lead)?;
        let condition = if keep { fitted } else { rw.apply("Not", &[], &[fitted])? };
        return Ok((Some(condition), number));
    }
    let mut sum = None;
    for mask in masks.iter().rev() {
        let value = match mask.kind {
            Kind::Add => mask.value,
            Kind::Select { keep, number } => {
                if number > LOWEST {
                    return unsupported(format!(
                        "a mask selects {number} where another is added, which is not the same as adding it"
                    ));
                }
                let zero = rw.add_weight("", Tensor::f32(&[], [0.0]));
                let number = rw.add_weight("", Tensor::f32(&[], [number as f32]));
                let [yes, no] = if keep { [zero, number] } else { [number, zero] };
                rw.apply("Where", &[], &[mask.value, yes, no])?
            }
        };
        let value = fitted(rw, mask, value, lead)?;
        sum = Some(match sum {
            None => value,
            Some(s) => rw.apply("Add", &[], &[s, value])?,
        });
    }
    Ok((sum, f64::NEG_INFINITY))
}

/// The mask `[batch or 1, heads or 1, queries or 1, keys]`.
fn fitted(rw: &mut Rewriter, mask: &Mask, value: ValueId, lead: &[Dim; 2]) -> Result<ValueId, OpError> {
    let rank = mask.logits.len();
    let own = rw.fact(value).shape.clone();
    let mut full = vec![Dim::ONE; rank - own.len()];
    full.extend(own);
    let (outer, local) = (&full[..rank - 2], &mask.logits[..rank - 2]);
    // How many of the local axes make up the batch: the first place at which both products agree.
    let parts = (0..=local.len())
        .find(|j| Dim::product(&local[..*j]) == lead[0] && Dim::product(&local[*j..]) == lead[1])
        .map(|j| [0..j, j..local.len()]);
    let (mut wide, mut shape) = (full.clone(), vec![]);
    match parts {
        _ if outer.iter().all(Dim::is_one) => shape.extend([Dim::ONE, Dim::ONE]),
        Some(parts) => {
            for (range, whole) in parts.into_iter().zip(lead) {
                if outer[range.clone()].iter().all(Dim::is_one) {
                    shape.push(Dim::ONE);
                } else {
                    wide[range.clone()].clone_from_slice(&local[range]);
                    shape.push(whole.clone());
                }
            }
        }
        None => {
            wide[..rank - 2].clone_from_slice(local);
            shape.extend(lead.clone());
        }
    }
    shape.push(full[rank - 2].clone());
    // One number for all keys becomes one for each.
    let keys = mask.logits[rank - 1].clone();
    wide[rank - 1].clone_from(&keys);
    shape.push(keys);
    let mut value = value;
    if wide != full {
        value = rw.apply("Expand", &[("shape", Attr::Dims(wide))], &[value])?;
    }
    reshaped(rw, value, &shape)
}
