//! The `serin` binary: hands over to the command line room.

fn main() -> std::process::ExitCode {
    serin::cli::main()
}
