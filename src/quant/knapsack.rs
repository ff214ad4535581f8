//! The choice of one candidate for each item with the least total loss within a number of bytes: a multiple-choice knapsack.
//!
//! The Lagrangian relaxation is solved along the lower convex hull of every item's candidates; its value bounds the loss of any choice from
//! below. What the last step leaves of the budget is filled greedily. Items much larger than the others, such as the embeddings of small
//! models, would leave a gap: the candidates of the two largest are tried in turn.

/// Number of the largest items whose candidates are all tried.
const TRIED: usize = 2;

/// A candidate of an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Size in bytes.
    pub bytes: u64,
    /// Loss; finite and not negative.
    pub loss: f64,
}

/// A choice of one candidate for each item.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// Index of the chosen candidate of each item.
    pub chosen: Vec<usize>,
    /// Total size in bytes.
    pub bytes: u64,
    /// Total loss.
    pub loss: f64,
    /// A loss that no choice within the budget is below.
    pub bound: f64,
}

/// Returns a choice of at most `budget` bytes; `None` if there is none, or an item has no candidates.
///
/// The result depends on the order of items and candidates only among equal losses.
pub fn solve(items: &[Vec<Candidate>], budget: u64) -> Option<Solution> {
    let bound = Relaxed::new(items, budget)?.bound;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&item| (std::cmp::Reverse(spread(&items[item])), item));
    let tried = order.get(..TRIED.min(order.len())).unwrap_or_default();
    let combinations: usize = tried.iter().map(|&item| items[item].len()).product();
    let mut best: Option<Solution> = None;
    for number in 0..combinations {
        let mut limited: Vec<Vec<Candidate>> = items.to_vec();
        let mut rest = number;
        let mut fixed = Vec::new();
        for &item in tried {
            let candidate = rest % items[item].len();
            rest /= items[item].len();
            limited[item] = vec![items[item][candidate]];
            fixed.push((item, candidate));
        }
        let Some(relaxed) = Relaxed::new(&limited, budget) else { continue };
        let mut chosen = relaxed.filled(&limited, budget);
        fixed.iter().for_each(|&(item, candidate)| chosen[item] = candidate);
        let (bytes, loss) = total(items, &chosen);
        if best.as_ref().is_none_or(|best| loss < best.loss) {
            best = Some(Solution { chosen, bytes, loss, bound });
        }
    }
    best
}

/// Returns the size and the loss of a choice.
fn total(items: &[Vec<Candidate>], chosen: &[usize]) -> (u64, f64) {
    let chosen = items.iter().zip(chosen).map(|(candidates, &index)| candidates[index]);
    chosen.fold((0, 0.0), |(bytes, loss), candidate| (bytes + candidate.bytes, loss + candidate.loss))
}

/// Returns the difference in bytes between the largest candidate and the smallest.
fn spread(candidates: &[Candidate]) -> u64 {
    let bytes = || candidates.iter().map(|candidate| candidate.bytes);
    bytes().max().unwrap_or(0) - bytes().min().unwrap_or(0)
}

/// A step along the hull of an item, from one candidate to the next larger one.
struct Step {
    item: usize,
    to: usize,
    bytes: u64,
    /// The loss that it saves.
    gain: f64,
}

impl Step {
    fn rate(&self) -> f64 {
        self.gain / self.bytes as f64
    }
}

/// The solution of the relaxation: the whole steps in order of gain per byte that fit in the budget.
struct Relaxed {
    chosen: Vec<usize>,
    bytes: u64,
    /// The steps that do not fit, in order of gain per byte.
    rest: Vec<Step>,
    bound: f64,
}

impl Relaxed {
    /// Solves the relaxation; `None` if the smallest candidates exceed the budget.
    fn new(items: &[Vec<Candidate>], budget: u64) -> Option<Self> {
        let hulls = items.iter().map(|candidates| hull(candidates)).collect::<Option<Vec<_>>>()?;
        let mut chosen: Vec<usize> = hulls.iter().map(|hull| hull[0]).collect();
        let (mut bytes, mut bound) = total(items, &chosen);
        if bytes > budget {
            return None;
        }
        let mut steps: Vec<Step> = Vec::new();
        for (item, (hull, candidates)) in hulls.iter().zip(items).enumerate() {
            for pair in hull.windows(2) {
                let (from, to) = (candidates[pair[0]], candidates[pair[1]]);
                steps.push(Step { item, to: pair[1], bytes: to.bytes - from.bytes, gain: from.loss - to.loss });
            }
        }
        // A stable sort: the steps of an item stay in order, since their rates fall along the hull.
        steps.sort_by(|a, b| b.rate().total_cmp(&a.rate()));
        let fitting = steps.iter().position(|step| {
            bytes + step.bytes > budget || {
                chosen[step.item] = step.to;
                bytes += step.bytes;
                bound -= step.gain;
                false
            }
        });
        let rest = steps.split_off(fitting.unwrap_or(steps.len()));
        if let Some(step) = rest.first() {
            bound -= step.rate() * (budget - bytes) as f64;
        }
        Some(Self { chosen, bytes, rest, bound: bound.max(0.0) })
    }

    /// Fills what is left of the budget: with later steps of items whose earlier steps were all taken, then with any candidate that saves
    /// loss, the largest saving first.
    fn filled(self, items: &[Vec<Candidate>], budget: u64) -> Vec<usize> {
        let Self { mut chosen, mut bytes, rest, .. } = self;
        let mut stopped = vec![false; items.len()];
        for step in rest {
            if !stopped[step.item] && bytes + step.bytes <= budget {
                chosen[step.item] = step.to;
                bytes += step.bytes;
            } else {
                stopped[step.item] = true;
            }
        }
        loop {
            let mut best: Option<(f64, usize, usize, u64)> = None;
            for (item, candidates) in items.iter().enumerate() {
                let now = candidates[chosen[item]];
                for (index, candidate) in candidates.iter().enumerate() {
                    let after = bytes - now.bytes + candidate.bytes;
                    let gain = now.loss - candidate.loss;
                    if gain > 0.0 && after <= budget && best.is_none_or(|(other, ..)| gain > other) {
                        best = Some((gain, item, index, after));
                    }
                }
            }
            let Some((_, item, index, after)) = best else { return chosen };
            chosen[item] = index;
            bytes = after;
        }
    }
}

/// Returns the candidates on the lower convex hull, by size: larger ones have less loss, and gain less and less per byte. `None` without
/// candidates.
fn hull(candidates: &[Candidate]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (candidates[a], candidates[b]);
        a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss))
    });
    let rate = |from: usize, to: usize| {
        let (from, to) = (candidates[from], candidates[to]);
        (from.loss - to.loss) / (to.bytes - from.bytes) as f64
    };
    let mut hull: Vec<usize> = Vec::new();
    for index in order {
        if hull.last().is_some_and(|&last| candidates[index].loss >= candidates[last].loss) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && rate(before, last) <= rate(last, index)
        {
            hull.pop();
        }
        hull.push(index);
    }
    (!hull.is_empty()).then_some(hull)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(rows: &[&[(u64, f64)]]) -> Vec<Vec<Candidate>> {
        rows.iter().map(|row| row.iter().map(|&(bytes, loss)| Candidate { bytes, loss }).collect()).collect()
    }

    /// The least loss of all choices.
    fn least(items: &[Vec<Candidate>], budget: u64) -> Option<f64> {
        let all = items.iter().fold(vec![(0u64, 0f64)], |all, candidates| {
            all.iter().flat_map(|(bytes, loss)| candidates.iter().map(move |c| (bytes + c.bytes, loss + c.loss))).collect()
        });
        all.into_iter().filter(|(bytes, _)| *bytes <= budget).map(|(_, loss)| loss).min_by(f64::total_cmp)
    }

    #[test]
    fn the_hull_skips_candidates_that_a_mixture_of_others_beats() {
        let row = items(&[&[(1, 9.0), (2, 8.0), (3, 1.0), (4, 1.0), (5, 0.5)]]).remove(0);
        assert_eq!(hull(&row), Some(vec![0, 2, 4]));
        assert_eq!(hull(&[]), None);
    }

    #[test]
    fn small_cases_are_solved_within_the_bound() {
        // Numbers of a linear congruence.
        let mut state = 5u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut exact, mut cases) = (0, 0);
        for _ in 0..200 {
            let items: Vec<Vec<Candidate>> = (0..5)
                .map(|_| (0..4).map(|i| Candidate { bytes: (i + 1) * (1 + next(30)), loss: next(1000) as f64 / (i + 1) as f64 }).collect())
                .collect();
            let budget = 40 + next(150);
            let (found, least) = (solve(&items, budget), least(&items, budget));
            assert_eq!(found.is_some(), least.is_some());
            let (Some(found), Some(least)) = (found, least) else { continue };
            assert_eq!((found.bytes, found.loss), total(&items, &found.chosen));
            assert!(found.bytes <= budget);
            assert!(found.bound <= least + 1e-9 && least <= found.loss + 1e-9, "{} {least} {}", found.bound, found.loss);
            exact += usize::from(found.loss <= least + 1e-9);
            cases += 1;
        }
        assert!(cases > 100 && exact * 10 > cases * 8, "{exact} of {cases}");
    }

    #[test]
    fn a_budget_below_the_smallest_choice_has_no_solution() {
        let items = items(&[&[(10, 1.0), (20, 0.0)], &[(5, 1.0)]]);
        assert_eq!(solve(&items, 14), None);
        assert_eq!(solve(&items, 15).map(|found| found.chosen), Some(vec![0, 0]));
        assert_eq!(solve(&items, 25).map(|found| found.chosen), Some(vec![1, 0]));
        assert_eq!(solve(&[], 0).map(|found| found.loss), Some(0.0));
        assert_eq!(solve(&[Vec::new()], 9), None);
    }
}
