//! `cargo xtask firmware`: the device core for a Cortex-M4F, and how large it is.
//!
//! The compiler needs `core` and `alloc` for that machine. Where the toolchain has them (`rustup target
//! add`), it is asked; elsewhere Debian's compiler builds them from Debian's sources. That compiler is older
//! than ours: what it has only as a feature is switched on by a wrapper around it, this program again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, output, passes, program, root, target_folder};

const TARGET: &str = "thumbv7em-none-eabihf";
/// What our crates, and those that they use, have by name of a later compiler than Debian's.
const FEATURES: &str = "-Zcrate-attr=feature(let_chains,slice_as_chunks,integer_sign_cast,\
                        const_black_box,const_eq_ignore_ascii_case,unsigned_is_multiple_of)";
/// Makes this program a wrapper around the compiler.
const WRAPPER: &str = "CLAVIGER_XTASK_IS_A_WRAPPER";
const DEBIANS: &str = "/usr/bin/rustc";
const SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";

/// Tells whether the device core can be built here.
pub(crate) fn can_build() -> bool {
    has_target().unwrap_or(false) || [DEBIANS, SOURCES].iter().all(|path| Path::new(path).is_file())
}

/// Builds and prints the sizes; the task for people.
pub(crate) fn run() -> Result<ExitCode> {
    if !can_build() {
        bail!(
            "no compiler for {TARGET}: `rustup target add {TARGET}`, or on Debian install rustc-web \
             and rust-web-src"
        );
    }
    Ok(if build()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds and prints the sizes; tells whether it was built.
pub(crate) fn build() -> Result<bool> {
    let folder = root().join("firmware/cortex-m");
    let target_folder = target_folder()?.join("cortex-m");
    let mut build = cargo();
    build.current_dir(&folder).args(["build", "--release", "--locked", "--target", TARGET]);
    build.env("CARGO_TARGET_DIR", &target_folder);
    let linker = linker()?;
    if has_target()? {
        build.env("RUSTFLAGS", "");
    } else {
        build.args(["--ignore-rust-version", "-Zbuild-std=core,alloc"]);
        build.env("RUSTC", DEBIANS).env("RUSTC_BOOTSTRAP", "1").env(WRAPPER, "1");
        build.env("RUSTC_WRAPPER", std::env::current_exe().context("this program is nowhere")?);
        let flags = format!("-Clinker={} -Clinker-flavor=ld.lld", linker.display());
        build.env("RUSTFLAGS", flags);
    }
    if !passes(&mut build)? {
        return Ok(false);
    }
    let file = target_folder.join(TARGET).join("release/claviger-cortex-m");
    println!("{}", sizes(&output(program("size").arg(&file))?)?);
    Ok(true)
}

/// Reads what `size` says: a line of names, and one of numbers.
fn sizes(said: &str) -> Result<String> {
    let numbers = said.lines().nth(1).context("`size` said too little")?.split_whitespace();
    let numbers: Vec<u64> = numbers.take(3).map_while(|number| number.parse().ok()).collect();
    let [text, data, _arena] = numbers[..] else { bail!("`size` said no numbers: {said}") };
    Ok(format!("device core on {TARGET}: {text} bytes of code and constants, {data} of data"))
}

/// Where this program was started as a wrapper: runs the compiler, with features for what is not its own.
pub(crate) fn wrapped() -> Option<ExitCode> {
    std::env::var_os(WRAPPER)?;
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (compiler, rest) = args.split_first()?;
    let mut command = Command::new(compiler);
    command.args(rest);
    if needs_features(rest) {
        command.arg(FEATURES);
    }
    let status = command.status().ok()?;
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn needs_features(args: &[OsString]) -> bool {
    let after = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1)?.to_str()
    };
    let own = ["core", "alloc", "compiler_builtins"];
    let is_its_own = |name: &str| own.contains(&name) || name.starts_with("rustc_std_workspace");
    after("--target") == Some(TARGET) && after("--crate-name").is_some_and(|name| !is_its_own(name))
}

fn has_target() -> Result<bool> {
    let print = ["--print", "target-libdir", "--target", TARGET];
    let folder = output(program("rustc").args(print))?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// Returns the linker that comes with the toolchain.
fn linker() -> Result<PathBuf> {
    let sysroot = output(program("rustc").args(["--print", "sysroot"]))?;
    let version = output(program("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("the compiler does not say for which machine it is")?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/rust-lld"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_the_compilers_own_gets_features() {
        let args = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let on_target = |name: &str| args(&format!("--crate-name {name} --target {TARGET}"));
        assert!(needs_features(&on_target("claviger_device")));
        for own in ["core", "alloc", "compiler_builtins", "rustc_std_workspace_core"] {
            assert!(!needs_features(&on_target(own)), "{own}");
        }
        assert!(!needs_features(&args("--crate-name build_script_build src/main.rs")));
        assert!(!needs_features(&args("-vV")));
    }

    #[test]
    fn sizes_are_read() {
        let said = "   text\t   data\t    bss\n  88742\t     12\t  16389\t 105131\n";
        assert!(sizes(said).unwrap().contains("88742 bytes of code and constants, 12 of data"));
        assert!(sizes("").is_err() && sizes("a\nb c d").is_err());
    }
}
