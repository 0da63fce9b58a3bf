//! Entry point: hands the arguments to `cli` and its answer to the shell. Holds no logic.

fn main() -> std::process::ExitCode {
    defenseclaw::cli::main(std::env::args_os())
}
