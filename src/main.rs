//! The command line of weigh.

fn main() {}
