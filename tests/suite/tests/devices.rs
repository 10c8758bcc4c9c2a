//! Whole merges whose descents run on a device that is none: the kernels' sources through the emulation, or
//! kernels of the tests' own where many merges are needed.
//!
//! Catches a result that is not the processor's within its bound, bits that depend on blocks, memory, threads or the
//! order of a device's threads, a fault of a device that is swallowed or leaves something wrong behind, two
//! devices in one output, and a device that is used or left out without a word.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mixdown_cuda::driver::Driver;
use mixdown_devices::{Installed, StandIn};
use mixdown_diagnostics::Diagnostic;
use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Tensor, checkpoint, read_checkpoint};
use mixdown_session::merge::{Keep, MergeRequest, Merged, merge};
use mixdown_session::{
    Device, Event, Listener, Machine, Places, RecipeInput, Session, Trouble, plan,
};

/// With which each element is moved in a step, at most.
const RATE: f64 = 1e-3;

/// Names of weights, their sides, and how many of their directions are kept: few enough that S is multiplied with
/// in place of G, and too many for that. No tile divides them.
const FACTORED: (&str, [u64; 2]) = ("model.layers.0.mlp.gate_proj.weight", [130, 2000]);
const SQUARE: (&str, [u64; 2]) = ("model.layers.0.self_attn.q_proj.weight", [1030, 700]);

/// A base and three experts with these weights and nothing else.
fn space_of(weights: &[(&str, [u64; 2])]) -> Space {
    let space = Space::new();
    for (seed, model) in (0..).zip(["base", "a", "b", "c"]) {
        let mut builder = checkpoint(model).layers(1).without("");
        for &(name, shape) in weights {
            let count = shape[0] * shape[1];
            let (mut base, mut noise) = (Values::new(1, name), Values::new(100 + seed, name));
            let value = |_| {
                let step = if seed == 0 { 0.0 } else { 0.002 * noise.normal() };
                0.02 * base.normal() + step
            };
            let values: Vec<f64> = (0..count).map(value).collect();
            builder = builder.with(Tensor::new(name, DType::Bf16, &shape, &values));
        }
        builder.write(&space);
    }
    space
}

fn recipe(space: &Space, method: &str, parameters: &str) -> RecipeInput {
    let path = |name: &str| space.path(name).display().to_string();
    let experts = ["a", "b", "c"].map(|name| format!("  - model: {}\n", path(name)));
    let text = format!(
        "merge_method: {method}\nbase_model: {}\nmodels:\n{}parameters: {{{parameters}}}\ndtype: float32\n",
        path("base"),
        experts.concat()
    );
    RecipeInput::of_file(space.write("recipe.yaml", text))
}

/// Too many operations for the processor to iterate in f64, in as few steps as that takes.
fn optmerge(space: &Space) -> RecipeInput {
    recipe(space, "optmerge", &format!("learning_rate: {RATE}, steps: 2, noise: keep"))
}

/// The same with few directions, for the emulation, which is slow.
fn few(space: &Space) -> RecipeInput {
    recipe(space, "optmerge", &format!("learning_rate: {RATE}, steps: 2, noise: keep, rank: 8"))
}

/// What was told.
#[derive(Default)]
struct Heard<'a> {
    told: Mutex<Vec<String>>,
    /// Raised when tensors are merged from now on.
    stop: Option<&'a AtomicBool>,
}

impl Listener for Heard<'_> {
    fn tell(&self, event: &Event<'_>) {
        let mut heard = self.told.lock().unwrap();
        match event {
            Event::Notice(text) => heard.push((*text).to_owned()),
            Event::Warnings(found) => {
                heard.extend(found.iter().map(|one| format!("{} {}", one.code.id, one.headline)));
            }
            Event::Started(_) => {
                if let Some(stop) = self.stop {
                    stop.store(true, Ordering::SeqCst);
                }
            }
        }
    }
}

impl Heard<'_> {
    fn text(&self) -> String {
        self.told.lock().unwrap().join("\n")
    }
}

/// One merge into `out`, with what was told.
fn run(
    space: &Space,
    driver: &Arc<dyn Driver>,
    machine: Machine,
    change: impl FnOnce(&mut MergeRequest),
) -> (Result<Merged, Trouble>, String) {
    let mut request = MergeRequest::new(optmerge(space), space.path("out"));
    (request.machine, request.keep) = (machine, Keep::Nowhere);
    change(&mut request);
    run_and(space, driver, &request, false)
}

/// The same, stopped when it begins with the tensors.
fn run_and(
    space: &Space,
    driver: &Arc<dyn Driver>,
    request: &MergeRequest,
    stops: bool,
) -> (Result<Merged, Trouble>, String) {
    let cancel = AtomicBool::new(false);
    let home = space.path(".home").into_os_string();
    let places = Places::from_env(&|name| (name == "HOME").then(|| home.clone()));
    let heard = Heard { stop: stops.then_some(&cancel), ..Heard::default() };
    let session = Session::new(&places, &heard, &cancel).with_driver(driver);
    let merged = merge(request, &session);
    (merged, heard.text())
}

fn on(device: &str) -> Machine {
    Machine { device: device.parse().unwrap(), ..Machine::default() }
}

/// The weights of the output, which is then removed.
fn take(space: &Space) -> Vec<(String, Vec<u8>)> {
    let stored = read_checkpoint(space.path("out"));
    let weights = stored.tensors.into_values().map(|tensor| (tensor.name, tensor.data)).collect();
    fs::remove_dir_all(space.path("out")).unwrap();
    weights
}

fn manifest(space: &Space) -> serde_json::Value {
    serde_json::from_slice(&space.read("out/mixdown-manifest.json")).unwrap()
}

fn code(trouble: &Trouble) -> &str {
    trouble.found().and_then(<[Diagnostic]>::first).map_or("none", |one| one.code.id)
}

#[track_caller]
fn done(outcome: (Result<Merged, Trouble>, String)) -> String {
    match outcome {
        (Ok(_), heard) => heard,
        (Err(trouble), _) => panic!("{trouble}"),
    }
}

#[track_caller]
fn refused(outcome: (Result<Merged, Trouble>, String), expected: &str, words: &[&str]) {
    let Err(trouble) = outcome.0 else { panic!("it was not refused") };
    assert_eq!(code(&trouble), expected, "{trouble}");
    let text = trouble.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in\n{text}");
    }
}

fn installed(capabilities: &[(u32, u32)]) -> (Arc<Installed>, Arc<dyn Driver>) {
    let driver = Arc::new(Installed::new(&StandIn, 0, capabilities));
    (Arc::clone(&driver), driver)
}

fn emulated(seed: u64, capability: (u32, u32)) -> (Arc<Installed>, Arc<dyn Driver>) {
    let kernels = mixdown_devices::kernels(env!("CARGO_TARGET_TMPDIR"));
    let driver = Arc::new(Installed::new(kernels, seed, &[capability]));
    (Arc::clone(&driver), driver)
}

/// All three forms of the kernels, as they are compiled for devices, through recipe, plan, exec and files.
#[test]
fn a_whole_merge_on_each_kind_of_device_agrees_with_the_processor() {
    // Two tiles of rows, and one: emulated, groups of warps take ten times as long.
    let [two, one] = [[130, 2000], [128, 1990]].map(|shape| space_of(&[(FACTORED.0, shape)]));
    for (capability, form, space) in [
        ((7, 0), "CUDA 7.0, f32", &two),
        ((8, 0), "CUDA 8.0, f16 terms", &two),
        ((9, 0), "CUDA 9.0, f16 terms by warp groups", &one),
    ] {
        let (_, none) = installed(&[]);
        done(run(space, &none, on("cpu"), |request| request.recipe = few(space)));
        assert_eq!(manifest(space)["backend"], "cpu");
        let expected = take(space);
        let mut all = Vec::new();
        // Other orders of threads, and memory for one tile of rows at a time.
        for (seed, memory) in [(0, None), (7, Some(12_000_000))] {
            let (driver, lent) = emulated(seed, capability);
            let machine = Machine { device_memory_bytes: memory, ..on("cuda") };
            done(run(space, &lent, machine, |request| request.recipe = few(space)));
            assert_eq!(manifest(space)["backend"], format!("cuda ({form}, kernels 1)"));
            let device = &driver.opened()[0];
            let launches = device.state().calls.iter().filter(|call| **call == "launch").count();
            // More than proving the device takes.
            assert!(launches > 8, "{launches} launches");
            assert!(memory.is_none_or(|bytes| device.state().peak <= bytes));
            all.push(take(space));
        }
        assert_eq!(all[0], all[1], "{form}");
        for ((name, found), (_, expected)) in all[0].iter().zip(&expected) {
            let numbers = |bytes: &[u8]| -> Vec<f32> {
                bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
            };
            let (found, expected) = (numbers(found), numbers(expected));
            let off = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs()));
            let worst = off.fold(0.0, f64::max);
            // What the op promises, and half a unit of what is stored.
            assert!(
                worst <= 0.01 * RATE + 1e-8,
                "{form}, {name}: {:.1e} of the rate",
                worst / RATE
            );
            assert_ne!(found, expected, "{form}, {name}: the processor's own bits");
        }
    }
}

#[test]
fn neither_threads_nor_blocks_nor_devices_show() {
    let space = space_of(&[FACTORED, SQUARE]);
    let (_, one) = installed(&[(7, 0)]);
    done(run(&space, &one, on("cuda"), |_| {}));
    let expected = take(&space);
    let (several, lent) = installed(&[(7, 0), (7, 0)]);
    for (threads, device, memory) in
        [(1, "cuda:0", 1 << 30), (3, "cuda:1", 7_000_000), (2, "cuda:0,1", 20_000_000)]
    {
        let machine = Machine {
            threads: std::num::NonZeroUsize::new(threads),
            device_memory_bytes: Some(memory),
            ..on(device)
        };
        done(run(&space, &lent, machine, |_| {}));
        assert_eq!(take(&space), expected, "{device}");
    }
    // The last merge had both.
    let opened = several.opened();
    let busy = |device: &Arc<mixdown_devices::Emulated>| {
        // More than proving the device takes.
        device.state().calls.iter().filter(|call| **call == "launch").count() > 8
    };
    assert!(opened.len() == 4 && opened[2..].iter().all(busy), "{} opened", opened.len());
    let (_, mixed) = installed(&[(7, 0), (7, 5)]);
    refused(run(&space, &mixed, on("cuda:0,1"), |_| {}), "E0388", &["several kinds", "CUDA 7.5"]);
}

/// Whatever call fails, and whether it is for memory or for good: the merge says so, and the same command goes on to
/// the same bytes.
#[test]
fn each_call_fails_once_and_the_merge_goes_on() {
    let second = "model.layers.0.mlp.up_proj.weight";
    let space = space_of(&[FACTORED, (second, FACTORED.1)]);
    let machine = Machine { threads: std::num::NonZeroUsize::new(1), ..on("cuda") };
    let (healthy, lent) = installed(&[(7, 0)]);
    done(run(&space, &lent, machine, |_| {}));
    let calls = healthy.opened()[0].state().calls.clone();
    assert!(calls.len() > 50, "{calls:?}");
    // Behind the last result there is only cleaning up.
    let last = calls.iter().rposition(|call| *call == "download").unwrap() + 1;
    let expected = take(&space);
    let mut resumed = 0;
    let takes = ["allocate", "allocate_pinned", "create_stream"];
    for (at, error) in (0..calls.len()).flat_map(|at| [(at, 2), (at, 719)]) {
        if error == 2 && !takes.contains(&calls[at]) {
            continue;
        }
        let tell = move |device: &mixdown_devices::Emulated| {
            device.state().fails_at = Some((at, error));
        };
        let broken: Arc<dyn Driver> =
            Arc::new(Installed::new(&StandIn, 0, &[(7, 0)]).on_opening(tell));
        let (outcome, _) = run(&space, &broken, machine, |_| {});
        match outcome {
            // Memory that others took for a moment made a block smaller.
            Ok(_) => assert!(error == 2 || at > last, "call {at}, {}", calls[at]),
            Err(trouble) => {
                let text = trouble.to_string();
                assert_eq!(code(&trouble), "E0385", "call {at}: {text}");
                assert!(text.contains("cuda:0") && text.contains("help"), "{text}");
                assert!(!space.exists("out"), "call {at}");
                let heard = done(run(&space, &lent, machine, |_| {}));
                resumed += usize::from(heard.contains("interrupted run wrote"));
            }
        }
        assert_eq!(take(&space), expected, "call {at}, error {error}");
    }
    assert!(resumed > 5, "{resumed} merges went on from a tensor that was finished");
}

/// What a device began, the processor does not finish, nor the other way round.
#[test]
fn no_output_is_of_two_devices() {
    let second = "model.layers.0.mlp.up_proj.weight";
    let space = space_of(&[FACTORED, (second, FACTORED.1)]);
    let machine = Machine { threads: std::num::NonZeroUsize::new(1), ..on("cuda") };
    let (driver, lent) = installed(&[(7, 0)]);
    done(run(&space, &lent, machine, |_| {}));
    let calls = driver.opened()[0].state().calls.len();
    let on_device = take(&space);
    // Lost within the second tensor.
    let tell = move |device: &mixdown_devices::Emulated| {
        device.state().fails_at = Some((calls - 4, 719));
    };
    let lost: Arc<dyn Driver> = Arc::new(Installed::new(&StandIn, 0, &[(7, 0)]).on_opening(tell));
    let words = ["cuda:0", "CUDA_ERROR_TOLD (719)", "--force --device cpu", FACTORED.0];
    let outcome = run(&space, &lost, machine, |_| {});
    let Err(trouble) = &outcome.0 else { panic!("the device was not lost") };
    let text = trouble.to_string();
    assert!(words[..3].iter().all(|word| text.contains(word)), "{text}");
    let cpu = Machine { threads: machine.threads, ..on("cpu") };
    let words = ["begun on", "cuda (CUDA 7.0, f32, kernels 1)", "the processor", "--force"];
    refused(run(&space, &lent, cpu, |_| {}), "E0387", &words);
    // Another kind of device neither.
    let (_, other) = installed(&[(7, 5)]);
    refused(run(&space, &other, machine, |_| {}), "E0387", &["CUDA 7.5", "CUDA 7.0"]);
    // The same goes on, and makes only what is missing.
    let heard = done(run(&space, &lent, machine, |_| {}));
    assert!(heard.contains("interrupted run wrote"), "{heard}");
    assert_eq!(take(&space), on_device);
    // Lost again, and begun anew without the device.
    assert!(run(&space, &lost_again(calls), machine, |_| {}).0.is_err());
    done(run(&space, &lent, cpu, |request| request.force = true));
    assert_eq!(manifest(&space)["backend"], "cpu");
    assert_ne!(take(&space), on_device);

    fn lost_again(calls: usize) -> Arc<dyn Driver> {
        let tell = move |device: &mixdown_devices::Emulated| {
            device.state().fails_at = Some((calls - 4, 700));
        };
        Arc::new(Installed::new(&StandIn, 0, &[(7, 0)]).on_opening(tell))
    }
}

#[test]
fn a_device_that_is_asked_for_is_used_or_an_error() {
    let space = space_of(&[FACTORED]);
    let before = space.list();
    let check = |driver: Installed, device: &str, expected: &str, words: &[&str]| {
        let lent: Arc<dyn Driver> = Arc::new(driver);
        refused(run(&space, &lent, on(device), |_| {}), expected, words);
        assert!(!space.exists("out"), "{device}");
    };
    let new = |capabilities: &[(u32, u32)]| Installed::new(&StandIn, 0, capabilities);
    let old = new(&[(9, 0)]).running(11, 8);
    check(old, "cuda", "E0381", &["11.8", "12.0 or newer", "--device cpu"]);
    check(new(&[]), "cuda", "E0382", &["no device", "nvidia-smi"]);
    check(new(&[(7, 0)]), "cuda:1", "E0383", &["no device `cuda:1`", "cuda:0"]);
    check(new(&[(6, 1)]), "cuda", "E0384", &["6.1", "7.0 or newer"]);
    let no_start = new(&[(9, 0)]).failing_to_start(999);
    check(no_start, "cuda", "E0380", &["cuInit", "999"]);
    let no_open = new(&[(9, 0)]).failing_to_open(46);
    check(no_open, "cuda", "E0385", &["does not open", "46"]);
    // Text that only a newer driver compiles is all that there is for it.
    let text_only = new(&[(12, 0)]).running(12, 2);
    check(text_only, "cuda", "E0381", &["12.8", "12.2", "machine code"]);
    let mut after = space.list();
    after.retain(|name| name != ".home" && name != "recipe.yaml");
    assert_eq!(after, before);
}

/// One that computes wrong numbers is found out before it is believed.
#[test]
fn a_device_that_computes_wrong_numbers_is_refused() {
    #[derive(Debug)]
    struct Wrong;
    impl mixdown_devices::Kernels for Wrong {
        fn has(&self, kernel: &str) -> bool {
            mixdown_devices::Kernels::has(&StandIn, kernel)
        }

        fn launch(
            &self,
            _: &str,
            _: mixdown_cuda::driver::Geometry,
            _: u64,
            _: &[mixdown_cuda::driver::Argument],
        ) -> Result<(), String> {
            Ok(())
        }
    }
    let space = space_of(&[FACTORED]);
    let lent: Arc<dyn Driver> = Arc::new(Installed::new(&Wrong, 0, &[(7, 0)]));
    refused(run(&space, &lent, on("cuda"), |_| {}), "E0385", &["wrong numbers"]);
}

/// With others beside it on the device: smaller blocks of rows, or the number of bytes.
#[test]
fn memory_that_others_hold() {
    let space = space_of(&[SQUARE]);
    let (_, lent) = installed(&[(7, 0)]);
    done(run(&space, &lent, on("cuda"), |_| {}));
    let expected = take(&space);
    let with = |memory: u64| -> Arc<dyn Driver> {
        let tell = move |device: &mixdown_devices::Emulated| device.state().memory = memory;
        Arc::new(Installed::new(&StandIn, 0, &[(7, 0)]).on_opening(tell))
    };
    done(run(&space, &with(6_000_000), on("cuda"), |_| {}));
    assert_eq!(take(&space), expected);
    let words = ["ran out of memory", "bytes were asked for", "use the same command"];
    refused(run(&space, &with(1_500_000), on("cuda"), |_| {}), "E0385", &words[..2]);
}

/// What cannot fit is told before anything is read or a device is opened.
#[test]
fn what_does_not_fit_is_told_by_the_plan() {
    let space = space_of(&[SQUARE]);
    let (driver, lent) = installed(&[(7, 0)]);
    let machine = Machine { device_memory_bytes: Some(1_000_000), ..on("cuda") };
    let words = ["1000000", SQUARE.0, "--device-memory"];
    refused(run(&space, &lent, machine, |_| {}), "E0386", &words);
    assert!(driver.opened().is_empty());
    let footprint = footprint(&space, &lent, &optmerge(&space), &on("cuda"));
    let [used] = footprint.devices.as_slice() else { panic!("{footprint:?}") };
    // G of 704 columns, and six parts of all rows, in whole tiles.
    assert_eq!(used.device_bytes, 4 * 704 * 704 + 24 * 1088 * 704);
    assert_eq!((used.ops, used.block_rows, used.device.as_str()), (1, None, "cuda:0"));
    let less = Machine { device_memory_bytes: Some(8_000_000), ..on("cuda") };
    let footprint = self::footprint(&space, &lent, &optmerge(&space), &less);
    assert!(footprint.devices[0].block_rows.is_some_and(|rows| rows < 1030));
    assert!(footprint.devices[0].device_bytes <= 8_000_000);
}

fn footprint(
    space: &Space,
    driver: &Arc<dyn Driver>,
    recipe: &RecipeInput,
    machine: &Machine,
) -> mixdown_session::Footprint {
    let home = space.path(".home").into_os_string();
    let places = Places::from_env(&|name| (name == "HOME").then(|| home.clone()));
    let (heard, cancel) = (Heard::default(), AtomicBool::new(false));
    let session = Session::new(&places, &heard, &cancel).with_driver(driver);
    let planned = plan(recipe, &session, None).unwrap();
    let chosen = planned.backend(machine, &session).unwrap();
    planned.costs(chosen.backend(), machine).unwrap().0
}

/// Weights that take minutes on a processor, without their data: headers are all that a plan reads.
fn large() -> Space {
    let space = Space::new();
    for model in ["base", "a", "b", "c"] {
        let folder: PathBuf = space.path(model);
        fs::create_dir_all(&folder).unwrap();
        let header = r#"{"model.layers.0.mlp.gate_proj.weight":{"dtype":"BF16","shape":[4096,4096],"data_offsets":[0,33554432]}}"#;
        let length = (header.len() as u64).to_le_bytes();
        let file = folder.join("model.safetensors");
        fs::write(&file, [&length, header.as_bytes()].concat()).unwrap();
        let file = File::options().write(true).open(file).unwrap();
        file.set_len(8 + header.len() as u64 + 33_554_432).unwrap();
    }
    space
}

#[test]
fn auto_takes_a_device_where_the_model_says_so_and_says_why_not() {
    let space = large();
    let method = || recipe(&space, "optmerge", "");
    let heard_of = |lent: &Arc<dyn Driver>, device: &str, recipe: RecipeInput| {
        let mut request = MergeRequest::new(recipe, space.path("out"));
        (request.machine, request.keep) = (on(device), Keep::Nowhere);
        run_and(&space, lent, &request, true)
    };
    let (driver, lent) = installed(&[(9, 0)]);
    let devices = footprint(&space, &lent, &method(), &on("auto")).devices;
    assert_eq!(devices.len(), 1);
    let [there, here] = devices[0].milliseconds;
    assert!(there * 10 < here && here > 50_000, "{there} {here}");
    assert!(driver.opened().is_empty(), "a plan opens no device");
    // Headers are enough to choose, and a linear merge gains nothing.
    let linear = recipe(&space, "linear", "weight: 1");
    assert!(footprint(&space, &lent, &linear, &on("auto")).devices.is_empty());
    for (driver, words) in [
        (Installed::new(&StandIn, 0, &[]), "no device to this process"),
        (Installed::new(&StandIn, 0, &[(6, 1)]), "compute capability 7.0 or newer"),
        (Installed::new(&StandIn, 0, &[(9, 0)]).failing_to_open(2), "does not open"),
    ] {
        let lent: Arc<dyn Driver> = Arc::new(driver);
        let (outcome, heard) = heard_of(&lent, "auto", method());
        let Err(Trouble::Interrupted(_)) = outcome else { panic!("{}", outcome.unwrap_err()) };
        let lines: Vec<&str> = heard.lines().filter(|line| line.contains("processor")).collect();
        assert!(matches!(lines[..], [line] if line.contains(words)), "{heard}");
    }
    // What does not fit stays on the processor, with the reason.
    let machine = Machine { device_memory_bytes: Some(1_000_000), ..on("auto") };
    assert!(footprint(&space, &lent, &method(), &machine).devices.is_empty());
    // A device that was asked for and has nothing to do is a warning.
    let (_, heard) = heard_of(&lent, "cuda", recipe(&space, "linear", "weight: 1"));
    assert!(heard.contains("W0670"), "{heard}");
    assert_eq!(Device::default(), Device::Auto);
}
