//! Dependencies between the modules point one way.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("sync", &[]),
    ("sys", &[]),
    ("pickle", &["ids"]),
    ("wire", &["ids", "pickle"]),
    ("storage", &["ids", "sync", "sys", "pickle"]),
    ("literals", &[]),
    ("passwords", &["literals"]),
    ("config", &["ids", "literals", "logging"]),
    ("logging", &["sync", "literals"]),
    ("server", &["ids", "sync", "pickle", "wire", "storage", "logging", "passwords"]),
    ("client", &["literals", "pickle", "wire"]),
    ("admin", &["literals", "pickle", "config", "logging", "client", "server", "storage", "passwords"]),
];

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The top-level modules that a source text names after `crate::`.
fn used(source: &str) -> BTreeSet<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut names = BTreeSet::new();
    for line in code {
        for (_, rest) in line.match_indices("crate::").map(|(at, found)| (at, &line[at + found.len()..])) {
            let list = rest.strip_prefix('{').unwrap_or(rest);
            let end = if list.len() < rest.len() { '}' } else { ';' };
            for item in list.split(end).next().unwrap_or("").split(", ") {
                let name: String = item.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                names.insert(name);
            }
        }
    }
    names
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in rust_files(&source) {
        let inner = path.strip_prefix(&source).expect("below src");
        let top = inner.components().next().expect("a component").as_os_str().to_string_lossy().into_owned();
        let module = top.strip_suffix(".rs").unwrap_or(&top);
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
            assert!(matches!(module, "lib" | "bin"), "{module} has no place in the layers");
            continue;
        };
        let text = fs::read_to_string(&path).expect("source text");
        for name in used(&text) {
            let known = ALLOWED.iter().any(|(module, _)| *module == name);
            assert!(
                !known || name == module || allowed.contains(&name.as_str()),
                "{} uses {name}, which lies above {module}",
                inner.display()
            );
            seen += usize::from(known);
        }
    }
    assert!(seen > 20, "the check has found too little to be working: {seen}");
}

#[test]
fn only_sys_is_unsafe() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let unsafe_files: Vec<_> = rust_files(&source)
        .into_iter()
        .filter(|path| fs::read_to_string(path).expect("source text").contains("unsafe_code"))
        .collect();
    assert_eq!(unsafe_files, [source.join("sys.rs")]);
}
