//! Builds the kernels' sources for the emulation, as they are or with changes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The sources with the kernels in them.
pub const SOURCES: [&str; 3] = ["descent_f32", "descent_f16", "descent_sm90"];

/// A change of a source: file, what is there, what comes in its place.
pub type Change<'a> = (&'a str, &'a str, &'a str);

/// The folder of the kernels' crate.
pub fn crate_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/cuda")
}

/// The kernels that a source declares.
pub fn kernels(text: &str) -> Vec<String> {
    let after = text.split("extern \"C\" __global__").skip(1);
    let name = |text: &str| {
        let head = text.split_once(")\n").map_or(text, |(_, rest)| rest);
        head.split('(').next().unwrap_or("").trim().to_owned()
    };
    after.map(name).collect()
}

/// Builds a library of these sources into a folder, and gives its path.
///
/// **Panics.** There is no C++ compiler, or it has something to say.
pub fn build(folder: &Path, sources: &[&str], changes: &[Change<'_>]) -> PathBuf {
    let from = crate_folder();
    fs::create_dir_all(folder).unwrap();
    for file in fs::read_dir(from.join("kernels")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut text = fs::read_to_string(&path).unwrap();
        for (_, old, new) in changes.iter().filter(|change| change.0 == name) {
            assert!(text.contains(old), "{name} has no `{old}`");
            text = text.replace(old, new);
        }
        fs::write(folder.join(name), text).unwrap();
    }
    let mut units = Vec::new();
    let mut table = String::from(
        "#include \"emulation.hpp\"\nusing Table = std::map<std::string, emulation::Launcher>;\n",
    );
    let mut entries = String::new();
    for source in sources {
        let text = fs::read_to_string(folder.join(format!("{source}.cu"))).unwrap();
        let adds: String = kernels(&text)
            .iter()
            .map(|name| format!("    table[\"{name}\"] = emulation::bind({name});\n"))
            .collect();
        let unit = format!(
            "#include \"emulation.hpp\"\n#include \"{source}.cu\"\n\
             void add_{source}(std::map<std::string, emulation::Launcher>& table) {{\n{adds}}}\n"
        );
        let path = folder.join(format!("{source}.cpp"));
        fs::write(&path, unit).unwrap();
        units.push(path);
        table.push_str(&format!("void add_{source}(Table&);\n"));
        entries.push_str(&format!("        add_{source}(table);\n"));
    }
    table.push_str(&format!(
        r#"
static const Table& all() {{
    static const Table made = [] {{
        Table table;
{entries}        return table;
    }}();
    return made;
}}

// 1 if there is such a kernel.
extern "C" int emulation_has(const char* kernel) {{
    return all().count(kernel) > 0;
}}

// 0, or the length of what went wrong.
extern "C" std::size_t emulation_launch(const char* kernel, unsigned across, unsigned down, unsigned threads,
                                        std::size_t shared, std::uint64_t seed, void* const* arguments,
                                        char* error, std::size_t room) {{
    const std::string said =
        all().at(kernel)({{across, down, 1}}, threads, shared, seed, arguments);
    const std::size_t length = said.size() < room ? said.size() : room;
    std::memcpy(error, said.data(), length);
    return length;
}}
"#
    ));
    let path = folder.join("table.cpp");
    fs::write(&path, table).unwrap();
    units.push(path);
    let driver = from.join("emulation/driver.cpp");
    if driver.exists() {
        units.push(driver);
    }
    let library = folder.join("libcuda.so.1");
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(&compiler);
    // Jumps between stacks are what `_FORTIFY_SOURCE` takes for a fault.
    command.args([
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-ftls-model=initial-exec",
        "-shared",
        "-pthread",
        "-U_FORTIFY_SOURCE",
    ]);
    command.args([
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Wno-clobbered",
        "-Wno-unknown-pragmas",
    ]);
    if !changes.is_empty() {
        // What a change leaves unused is no fault.
        command.arg("-w");
    }
    command.arg("-I").arg(from.join("emulation")).arg("-I").arg(folder);
    command.args(&units).arg("-o").arg(&library);
    let run = command.output();
    let run = run
        .unwrap_or_else(|error| panic!("these tests need a C++ compiler, `{compiler}`: {error}"));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.is_empty(), "{command:?}:\n{said}");
    library
}
