//! See `zeolite::admin::zeopasswd`.

fn main() -> std::process::ExitCode {
    zeolite::admin::zeopasswd::main()
}
