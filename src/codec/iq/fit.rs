//! A scale for values that should not be negative (ggml-quants.c: `make_qp_quants`).

use super::nearest;

/// The scale for codes from 0 to `most`: nine are tried, then single codes are changed as long as that helps.
///
/// The reference keeps codes in bytes, and so does this: that of a negative value wraps.
pub(super) fn positive_scale(x: &[f32], weights: &[f32], most: i32) -> f32 {
    let largest = x.iter().fold(0f32, |largest, &x| if largest > x { largest } else { x });
    if largest < 1e-15 {
        return 0.0;
    }
    let error = |inverse: f32, code: &dyn Fn(f32) -> f32| {
        let scale = 1.0 / inverse;
        x.iter().zip(weights).fold(0.0, |error, (x, w)| {
            let difference = x - scale * code(inverse * x);
            error + w * difference * difference
        })
    };
    let mut inverse = most as f32 / largest;
    let mut least = error(inverse, &|x| f32::from(nearest(x) as u8));
    for offset in [-4i8, -3, -2, -1, 1, 2, 3, 4] {
        let tried = (0.1 * f32::from(offset) + most as f32) / largest;
        let error = error(tried, &|x| nearest(x).min(most) as f32);
        if error < least {
            (least, inverse) = (error, tried);
        }
    }
    let (mut lx, mut l2) = (0.0, 0.0);
    let mut codes = vec![0u8; x.len()];
    for ((x, w), kept) in x.iter().zip(weights).zip(&mut codes) {
        let code = nearest(inverse * x).min(most);
        lx += w * x * code as f32;
        l2 += w * code as f32 * code as f32;
        *kept = code as u8;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((x, w), kept) in x.iter().zip(weights).zip(&mut codes) {
            let old = f32::from(*kept);
            let (rest_lx, rest_l2) = (lx - w * x * old, l2 - w * old * old);
            if !(rest_lx > 0.0 && rest_l2 > 0.0) {
                continue;
            }
            let code = nearest(x * rest_l2 / rest_lx).min(most);
            if code == i32::from(*kept) {
                continue;
            }
            let new = code as f32;
            let (new_lx, new_l2) = (rest_lx + w * x * new, rest_l2 + w * new * new);
            if new_lx * new_lx * l2 > lx * lx * new_l2 {
                (lx, l2, *kept) = (new_lx, new_l2, code as u8);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}
