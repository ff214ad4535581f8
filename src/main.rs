//! The `weigh` binary.

use std::io::{self, BufWriter};
use std::process::ExitCode;

/// Size of the output buffer.
const BUFFER_BYTES: usize = 64 << 10;

fn main() -> ExitCode {
    weigh::source::exit_on_truncation(weigh::write::signals::remove_temporaries);
    // If this fails, output beyond the file size limit ends the process: no reason not to run.
    let _ = weigh::cli::signals::clean_up_on_signals();
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    weigh::cli::run(std::env::args_os(), &mut out, &mut io::stderr())
}
