//! What README.md says about this repository is true.
//!
//! Two of its blocks are copies, of `--help` and of the doctest on the crate's first page:
//! `UPDATE_README=1 cargo test --test readme` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::{
    collections::BTreeSet,
    env, fs,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// Tests run beside each other, and two of them may write.
static WRITING: Mutex<()> = Mutex::new(());

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Where the text between a heading and the next of its level stands.
fn section(readme: &str, heading: &str) -> Range<usize> {
    let title = format!("\n## {heading}\n");
    let start = readme.find(&title).unwrap_or_else(|| panic!("README.md needs: ## {heading}"));
    let start = start + title.len();
    let length = readme[start..].find("\n## ").unwrap_or(readme.len() - start);
    start..start + length
}

/// Where the first code block of a section stands, without its fences.
fn block(readme: &str, heading: &str, language: &str) -> Range<usize> {
    let section = section(readme, heading);
    let (open, close) = (format!("```{language}\n"), "```\n");
    let missing = || panic!("README.md needs a block ```{language} under ## {heading}");
    let start = readme[section.clone()].find(&open).unwrap_or_else(missing);
    let start = section.start + start + open.len();
    let end = start + readme[start..].find(close).unwrap_or_else(missing);
    start..end
}

/// The block is this text; with `UPDATE_README` set it becomes this text.
fn assert_copy(heading: &str, language: &str, original: &str) {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut readme = read("README.md");
    let block = block(&readme, heading, language);
    if env::var_os("UPDATE_README").is_some() {
        readme.replace_range(block, original);
        // Renamed, so that the other tests never read half of it.
        let new = root().join("target/README.md.new");
        fs::create_dir_all(root().join("target")).unwrap();
        fs::write(&new, readme).unwrap();
        return fs::rename(new, root().join("README.md")).unwrap();
    }
    let copy = &readme[block];
    let lacking = original.lines().find(|line| copy.lines().all(|other| other != *line));
    assert!(
        copy == original,
        "README.md, ## {heading}, is no true copy any more. It lacks {lacking:?}. \
         Write it anew: UPDATE_README=1 cargo test --test readme"
    );
}

/// The words in backticks in the first or last column of a section's table rows.
fn column(heading: &str, last: bool) -> Vec<String> {
    let readme = read("README.md");
    let rows = readme[section(&readme, heading)].lines().filter_map(|line| {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        if last { cells.rsplit(" | ").next() } else { cells.split(" | ").next() }
    });
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let names: Vec<String> = rows.flat_map(|cell: &str| -> Vec<String> { quoted(cell) }).collect();
    assert!(!names.is_empty(), "README.md needs a table under ## {heading}");
    names
}

/// `--help` as a terminal of 100 columns shows it, whatever the environment sets.
fn help() -> String {
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_hubnerite"));
    let output = daemon.arg("--help").env_clear().env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn the_flags_are_those_of_help() {
    if cfg!(feature = "default") {
        return assert_copy("Flags", "text", &help());
    }
    // A build with fewer features has fewer flags.
    let readme = read("README.md");
    let flags = &readme[block(&readme, "Flags", "text")];
    for flag in help().split_whitespace().filter(|word| word.starts_with("--")) {
        assert!(flags.contains(flag), "README.md, ## Flags, does not name {flag}");
    }
}

#[test]
fn the_embedding_example_is_the_doctest() {
    let page = read("src/lib.rs");
    let page = page.lines().map_while(|line| line.strip_prefix("//!"));
    let page = page.map(|line| line.strip_prefix(' ').unwrap_or(line));
    let doctest = page.skip_while(|line| !line.starts_with("```")).skip(1);
    let shown = doctest.take_while(|line| !line.starts_with("```"));
    // What rustdoc hides is hidden here too.
    let shown = shown.filter(|line| *line != "#" && !line.starts_with("# "));
    assert_copy("Embedding", "rust", &(shown.collect::<Vec<_>>().join("\n") + "\n"));
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { source_files(&path) } else { vec![path] }).collect()
}

#[test]
fn every_source_file_has_its_row_and_every_row_its_file() {
    let rows: BTreeSet<_> = column("Which idea is in which file", true).into_iter().collect();
    let files = source_files(&root().join("src")).into_iter();
    let name = |path: PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    // The map of all of them needs no row.
    let files = files.map(name).filter(|path| path != "src/lib.rs").collect();
    let missing: Vec<_> = BTreeSet::difference(&files, &rows).collect();
    assert!(missing.is_empty(), "add a row to the table of files in README.md for {missing:?}");
    let gone: Vec<_> = rows.difference(&files).collect();
    assert!(gone.is_empty(), "take out of the table of files in README.md: {gone:?}");
}

#[test]
fn the_table_of_files_keeps_the_reading_order_of_the_crate_page() {
    let page = read("src/lib.rs");
    let order = page.split("//! # ").find(|part| part.starts_with("Reading order")).unwrap();
    let modules = order.split('`').skip(1).step_by(2);
    let rows = column("Which idea is in which file", true);
    let mut last = (0, "the first row");
    for module in modules {
        let files = [format!("src/{module}.rs"), format!("src/{module}/mod.rs")];
        let row = rows.iter().position(|row| files.contains(row));
        let row = row.unwrap_or_else(|| panic!("no row for {module} in README.md"));
        assert!(row >= last.0, "in src/lib.rs {module} comes after {}, not in README.md", last.1);
        last = (row, module);
    }
}

#[test]
fn every_example_exists_and_those_to_study_are_short() {
    for name in column("Embedding", false) {
        let lines = read(&format!("examples/{name}.rs")).lines().count();
        assert!(lines < 100, "examples/{name}.rs has {lines} lines; README.md says under 100");
    }
    for command in read("README.md").split("--example ").skip(1) {
        let name = command.split([' ', '`', '\n']).next().unwrap();
        let found = [format!("examples/{name}.rs"), format!("examples/{name}/main.rs")];
        let exists = found.iter().any(|path| root().join(path).exists());
        assert!(exists, "README.md runs --example {name}, which does not exist");
    }
}

#[test]
fn every_direct_dependency_is_explained() {
    let manifest = read("Cargo.toml");
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned());
    let (names, rows) = (names.collect(), column("Dependencies", false).into_iter().collect());
    let difference: Vec<_> = BTreeSet::symmetric_difference(&names, &rows).collect();
    assert!(difference.is_empty(), "only in README.md or only in Cargo.toml: {difference:?}");
}
