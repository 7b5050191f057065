//! Compiles the proto file of the wire: no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/wire/frostkeep.proto");
    let descriptors = protox::compile(["src/wire/frostkeep.proto"], ["src/wire"])?;
    // Shares and messages of ceremonies are on their way to their readers; nothing of them belongs in a log.
    tonic_prost_build::configure().build_transport(false).skip_debug(["."]).compile_fds(descriptors)?;
    Ok(())
}
