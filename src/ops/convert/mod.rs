//! Conversion: a plan first, pure and complete; then its execution, streamed.
