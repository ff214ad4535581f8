//! The single-threaded replacement for rayon.

/// Iterates over items on the calling thread.
pub(crate) fn par<I: IntoIterator>(items: I) -> Serial<I::IntoIter> {
    Serial(items.into_iter())
}

/// Runs a function once, on the only thread.
pub(crate) fn broadcast(work: impl Fn()) {
    work();
}

/// Sorts a slice; equal items may change places.
pub(crate) fn sort_unstable<T: Ord>(items: &mut [T]) {
    items.sort_unstable();
}

/// Runs `work` on the only thread.
#[cfg(test)]
pub(crate) fn on_one_thread(work: impl FnOnce() + Send) {
    work();
}

/// Returns the number of threads, which is always one.
pub fn start(_wanted: usize) -> usize {
    1
}

/// Returns the number of threads.
#[cfg(feature = "remote")]
pub(crate) fn count() -> usize {
    1
}

/// A sequential iterator with rayon's methods.
pub(crate) struct Serial<I>(I);

/// The part of `rayon::prelude` in use.
pub(crate) mod prelude {
    use super::Serial;

    /// Methods of rayon's iterators, in a trait as in rayon.
    pub(crate) trait ParallelIterator: Sized {
        type Iter: Iterator;

        fn items(self) -> Self::Iter;

        fn map<R, F: FnMut(<Self::Iter as Iterator>::Item) -> R>(self, work: F) -> Serial<std::iter::Map<Self::Iter, F>> {
            Serial(self.items().map(work))
        }

        fn zip<J: IntoIterator>(self, others: J) -> Serial<std::iter::Zip<Self::Iter, J::IntoIter>> {
            Serial(self.items().zip(others))
        }

        /// Does nothing: there is only one thread.
        fn with_max_len(self, _items: usize) -> Self {
            self
        }

        fn try_for_each<E>(self, work: impl FnMut(<Self::Iter as Iterator>::Item) -> Result<(), E>) -> Result<(), E> {
            self.items().try_for_each(work)
        }

        fn collect<C: FromIterator<<Self::Iter as Iterator>::Item>>(self) -> C {
            self.items().collect()
        }
    }

    impl<I: Iterator> ParallelIterator for Serial<I> {
        type Iter = I;

        fn items(self) -> I {
            self.0
        }
    }
}
