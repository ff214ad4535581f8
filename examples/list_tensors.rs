//! Lists the tensors of a model: `cargo run --example list_tensors -- fixtures/llama-tiny`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), weigh::Error> {
    for path in std::env::args_os().skip(1) {
        // A file, a folder, one file of a set, an Ollama manifest: the format is recognised by content. Only headers are read.
        let model = weigh::open(path)?;
        for tensor in model.tensors() {
            println!("{:<10} {:?} {}", tensor.dtype(), tensor.shape(), tensor.name());
        }
        println!("{} tensors, {} parameters", model.tensors().len(), model.count()?.label);
    }
    Ok(())
}
