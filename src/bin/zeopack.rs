//! See `zeolite::admin::zeopack`.

fn main() -> std::process::ExitCode {
    zeolite::admin::zeopack::main()
}
