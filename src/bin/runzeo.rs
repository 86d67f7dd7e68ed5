//! See `zeolite::admin::runzeo`.

fn main() -> std::process::ExitCode {
    zeolite::admin::runzeo::main()
}
