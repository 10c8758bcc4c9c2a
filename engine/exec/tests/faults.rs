//! Runs that meet bad values, bad files, a full disk or an interruption: what is reported must be
//! true and the same whatever the threads.

mod world;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mixdown_cpu::CpuBackend;
use mixdown_diagnostics::{Diagnostic, Place, codes};
use mixdown_exec::{NoResults, Options, Outcome, Progress, Report, footprint, run};
use mixdown_ops::program::{PIECE, Scope};
use mixdown_ops::selection::Ties;
use mixdown_plan::{Group, RowSource, Rows};
use mixdown_tensor::DType;
use world::{MemorySink, Model, World, bf16_bytes, f32_bytes, linear, trimmed, values};

const THREADS: [usize; 4] = [1, 2, 3, 7];

/// The one error of a run, which must be the same for all threads and stripes.
fn error(world: &World) -> Diagnostic {
    let mut first: Option<Diagnostic> = None;
    for threads in THREADS.repeat(3) {
        for stripe_elements in [1024, 65536] {
            let sink = MemorySink::new(&world.plan);
            let options = Options { threads, stripe_elements, ..Options::default() };
            let mut errors = world.run(&sink, &options).unwrap_err();
            assert_eq!(errors.len(), 1);
            let error = errors.remove(0);
            assert_eq!(*first.get_or_insert_with(|| error.clone()), error, "{threads} threads");
        }
    }
    first.unwrap()
}

fn fact<'a>(error: &'a Diagnostic, label: &str) -> &'a str {
    let fact = error.facts.iter().find(|(found, _)| found == label);
    &fact.unwrap_or_else(|| panic!("no `{label}` in {error:?}")).1
}

/// Two models of four tensors of `[.., 64]`, with special values at (model, tensor, element).
fn spoiled(places: &[(usize, usize, usize, f32)]) -> World {
    let size = 5 * PIECE;
    let models = (0..2)
        .map(|model| {
            let tensors: Vec<_> = (0..4)
                .map(|tensor| {
                    let mut data = values(model * 10 + tensor + 1, size);
                    for &(m, t, at, value) in places {
                        if (m as u64, t as u64) == (model, tensor) {
                            data[at] = value;
                        }
                    }
                    (["t0", "t1", "t2", "t3"][tensor as usize], bf16_bytes(&data))
                })
                .collect();
            let list: Vec<_> = tensors
                .into_iter()
                .map(|(name, bytes)| (name, DType::Bf16, &[5 * PIECE / 64, 64][..], bytes))
                .collect();
            Model::of(&list)
        })
        .collect();
    World::new(models)
}

fn merge_all(mut world: World) -> World {
    let program = world.program(linear(2));
    for name in ["t0", "t1", "t2", "t3"] {
        world.merge(name, DType::Bf16, program, &[0.5, 0.5]);
    }
    world
}

#[test]
fn the_first_special_value_is_named() {
    let later = 4 * PIECE as usize + 11;
    let world = merge_all(spoiled(&[
        (0, 3, 0, f32::NAN),
        (1, 1, later, f32::INFINITY),
        (0, 1, later, f32::NAN),
        (1, 1, later + 1, f32::NAN),
        (1, 2, 5, f32::NAN),
    ]));
    let error = error(&world);
    assert_eq!(error.code, codes::NONFINITE);
    assert_eq!(error.headline, "`t1` holds a weight that is NaN");
    // Of one element the input that comes first.
    assert_eq!(fact(&error, "model"), "m0");
    assert_eq!(fact(&error, "element"), "262155, at [4096, 11]");
    let byte = (5 * PIECE + 262_155) * 2;
    assert_eq!(error.place, Some(Place::Byte("model.safetensors".to_owned(), byte)));
    assert_eq!(error.help.unwrap(), "to merge it all the same, add `--allow-nonfinite`");
}

#[test]
fn special_values_are_merged_when_allowed() {
    let world = merge_all(spoiled(&[(1, 2, 7, f32::INFINITY)]));
    let sink = MemorySink::new(&world.plan);
    let options = Options { threads: 2, allow_nonfinite: true, ..Options::default() };
    let report = world.run(&sink, &options).unwrap();
    assert_eq!(sink.finished()[2][14..16], [0x80, 0x7f]);
    assert!(report.warnings.is_empty());
}

#[test]
fn special_values_in_a_sample_a_copy_or_a_group() {
    let at = 3 * PIECE as usize + 1;
    let mut world = spoiled(&[(1, 0, at, f32::NEG_INFINITY)]);
    let program = world.program(trimmed(1, Ties::Exact, |_| Scope::Tensor));
    world.merge("t0", DType::Bf16, program, &[0.3, 0.0]);
    let found = error(&world);
    assert_eq!(found.headline, "`t0` holds a weight that is infinite");
    assert_eq!((fact(&found, "model"), fact(&found, "element")), ("m1", "196609, at [3072, 1]"));

    let mut world = spoiled(&[(0, 2, at, f32::NAN), (0, 2, at + 1, f32::NAN)]);
    world.copy("t2", 0, &[]);
    assert_eq!(fact(&error(&world), "element"), "196609, at [3072, 1]");

    let mut world = spoiled(&[(0, 2, at, f32::NAN), (1, 1, 9, f32::NAN)]);
    let program = world.program(trimmed(1, Ties::Exact, Scope::Group));
    for name in ["t0", "t2", "t1"] {
        world.merge(name, DType::Bf16, program, &[0.3, 0.0]).groups = vec![0];
    }
    world.plan.groups.push(Group { title: "all".to_owned(), jobs: vec![0, 1, 2], layers: vec![] });
    assert_eq!(error(&world).headline, "`t2` holds a weight that is NaN");
}

#[test]
fn copies_that_differ() {
    let mut world = spoiled(&[(1, 1, 70_000, 0.5), (1, 1, 70_001, 0.25)]);
    world.models[0] = Model::of(&[(
        "ids",
        DType::I16,
        &[2, 2],
        [1_i16, -2, 3, 4].iter().flat_map(|n| n.to_le_bytes()).collect(),
    )]);
    world.models[1] = Model::of(&[(
        "ids",
        DType::I16,
        &[2, 2],
        [1_i16, -2, -3, 4].iter().flat_map(|n| n.to_le_bytes()).collect(),
    )]);
    world.copy("ids", 0, &[1]);
    let error = error(&world);
    assert_eq!(error.code, codes::COPIES_DIFFER);
    assert_eq!(fact(&error, "first difference"), "element 2, at [1, 0]");
    assert_eq!(fact(&error, "m0"), "3, model.safetensors");
    assert_eq!(fact(&error, "m1"), "-3, model.safetensors");
}

#[test]
fn a_read_that_fails() {
    let mut world = merge_all(spoiled(&[]));
    let byte = 2 * 5 * PIECE * 2 + 100_000;
    world.fault = Some((1, byte));
    for threads in THREADS {
        let sink = MemorySink::new(&world.plan);
        let options = Options { threads, ..Options::default() };
        let errors = world.run(&sink, &options).unwrap_err();
        assert_eq!(errors[0].code, codes::UNREADABLE);
        assert_eq!((fact(&errors[0], "model"), fact(&errors[0], "tensor")), ("m1", "t2"));
        assert_eq!(errors[0].place, Some(Place::Byte("model.safetensors".to_owned(), byte)));
        // What came before is finished, and nothing after is.
        let digests = sink.digests.lock().unwrap();
        assert!(digests.contains_key(&0) && digests.contains_key(&1));
        assert!(!digests.contains_key(&2) && !digests.contains_key(&3));
    }
}

#[test]
fn a_write_that_fails() {
    let world = merge_all(spoiled(&[]));
    for threads in THREADS {
        for fail_at_write in [0, 1, 7, 19] {
            let mut sink = MemorySink::new(&world.plan);
            sink.fail_at_write = fail_at_write;
            let options = Options { threads, ..Options::default() };
            let errors = world.run(&sink, &options).unwrap_err();
            assert_eq!((errors.len(), errors[0].code), (1, codes::DISK_FULL));
            // Threads that are at work end their piece, and none begins another.
            assert!(sink.writes.into_inner() <= fail_at_write + threads);
        }
    }
}

/// Raises the flag after so many bytes.
struct Impatient {
    left: AtomicUsize,
    cancel: AtomicBool,
}

impl Progress for Impatient {
    fn bytes(&self, read: u64, _written: u64) {
        if self.left.fetch_sub((read as usize).min(1), Ordering::Relaxed) == 1 {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn an_interruption_ends_soon_and_a_second_run_completes() {
    let world = merge_all(spoiled(&[]));
    let options = Options { threads: 3, ..Options::default() };
    let whole = MemorySink::new(&world.plan);
    world.run(&whole, &options).unwrap();
    for reads in [1, 10, 25, 39] {
        let sink = MemorySink::new(&world.plan);
        let told = Impatient { left: reads.into(), cancel: AtomicBool::new(false) };
        let backend = CpuBackend::new();
        let sources = world.sources();
        let report =
            run(&world.plan, &sources, &backend, &sink, &NoResults, &options, &told, &told.cancel)
                .unwrap();
        assert_eq!(report.outcome, Outcome::Interrupted);
        let mut done: Vec<usize> = sink.digests.lock().unwrap().keys().copied().collect();
        assert_eq!(report.tensors_computed, done.len());
        assert!(report.bytes_read <= (reads as u64 + 6) * PIECE * 2);
        done.sort_unstable();

        let mut second = MemorySink::new(&world.plan);
        second.complete = done.clone();
        let report = world.run(&second, &options).unwrap();
        assert_eq!((report.tensors_reused, report.tensors_computed), (done.len(), 4 - done.len()));
        let output = second.finished();
        for (tensor, computed) in output.into_iter().enumerate() {
            let found = if done.contains(&tensor) { sink.bytes(tensor) } else { computed };
            assert!(found == whole.bytes(tensor));
        }
    }
}

#[test]
fn a_finished_tensor_still_counts_for_its_group() {
    let mut world = spoiled(&[]);
    let program = world.program(trimmed(1, Ties::Exact, Scope::Group));
    for name in ["t0", "t1", "t2"] {
        world.merge(name, DType::Bf16, program, &[0.3, 0.0]).groups = vec![0];
    }
    world.plan.groups.push(Group { title: "all".to_owned(), jobs: vec![0, 1, 2], layers: vec![] });
    let whole = MemorySink::new(&world.plan);
    let options = Options { threads: 2, ..Options::default() };
    world.run(&whole, &options).unwrap();
    let mut second = MemorySink::new(&world.plan);
    second.complete = vec![0, 2];
    let report = world.run(&second, &options).unwrap();
    assert_eq!(report.tensors_computed, 1);
    assert!(second.bytes(1) == whole.bytes(1));
    // With nothing left to do, nothing is read.
    let mut third = MemorySink::new(&world.plan);
    third.complete = vec![0, 1, 2];
    let report: Report = world.run(&third, &options).unwrap();
    assert_eq!((report.bytes_read, report.tensors_computed, report.tensors_reused), (0, 0, 3));
}

#[test]
fn results_out_of_range_are_counted() {
    let mut data = values(3, PIECE + 10);
    data[5] = 1e30;
    data[PIECE as usize + 1] = -1e30;
    let tensors = [("w", DType::F32, &[PIECE + 10][..], f32_bytes(&data))];
    let mut world = World::new(vec![Model::of(&tensors)]);
    let program = world.program(linear(1));
    world.merge("w", DType::F16, program, &[1.0]);
    let sink = MemorySink::new(&world.plan);
    let report = world.run(&sink, &Options::default()).unwrap();
    assert_eq!(report.warnings.len(), 1);
    assert_eq!(report.warnings[0].code, codes::OVERFLOW);
    assert_eq!(fact(&report.warnings[0], "w"), "2 elements, f16");
}

#[test]
fn a_budget_below_one_block_is_refused_and_the_named_one_is_enough() {
    let mut world = merge_all(spoiled(&[]));
    let program = world.program(trimmed(1, Ties::Exact, |_| Scope::Tensor));
    world.merge("t0", DType::Bf16, program, &[0.3, 0.0]);
    let least = world.least(&Options::default());
    for held_bytes in [0, 1_000_000] {
        let options =
            Options { memory_bytes: least + held_bytes - 1, held_bytes, ..Options::default() };
        let sink = MemorySink::new(&world.plan);
        let errors = world.run(&sink, &options).unwrap_err();
        assert_eq!(errors[0].code, codes::BUDGET_TOO_SMALL);
        assert_eq!(fact(&errors[0], "needed"), format!("{} bytes", least + held_bytes));
        let options = Options { memory_bytes: least + held_bytes, ..options };
        let report = world.run(&sink, &options).unwrap();
        assert_eq!((report.threads, report.stripe_elements), (1, 1024));
        assert!(report.peak_bytes <= options.memory_bytes);
    }
    assert!(least < 700_000, "{least}");
}

#[test]
fn the_footprint_is_what_the_run_does() {
    let mut world = merge_all(spoiled(&[]));
    world.copy("t3", 0, &[]);
    let indexes: Vec<_> = world.models.iter().map(|model| &model.index).collect();
    let options = Options { threads: 2, ..Options::default() };
    let told = footprint(&world.plan, &indexes, &CpuBackend::new(), &options).unwrap();
    let sink = MemorySink::new(&world.plan);
    let report = world.run(&sink, &options).unwrap();
    assert_eq!((told.bytes_read, told.bytes_written), (report.bytes_read, report.bytes_written));
    assert_eq!(told.bytes_read_by_pass, [report.bytes_read]);
    assert!(report.peak_bytes <= told.peak_bytes && told.peak_bytes < 8_000_000, "{told:?}");

    let mut world = spoiled(&[]);
    let program = world.program(trimmed(1, Ties::Inclusive, |_| Scope::Tensor));
    world.merge("t0", DType::Bf16, program, &[0.3, 0.0]);
    let indexes: Vec<_> = world.models.iter().map(|model| &model.index).collect();
    let told = footprint(&world.plan, &indexes, &CpuBackend::new(), &options).unwrap();
    let sink = MemorySink::new(&world.plan);
    assert_eq!(world.run(&sink, &options).unwrap().bytes_read, told.bytes_read);
    // A sample of five blocks and two readings, of two inputs.
    assert_eq!(told.bytes_read, (5 * 1024 + 2 * 5 * PIECE) * 2 * 2);
}

#[test]
fn a_plan_that_does_not_fit_its_inputs_is_a_fault_of_ours() {
    let mut world = spoiled(&[]);
    world.plan.rows.push(std::sync::Arc::new(Rows {
        tensors: vec![world.tensor(0, "t0")],
        row_elements: 64,
        rows: vec![RowSource::Row(0, u32::MAX)],
    }));
    let errors = world.run(&MemorySink::new(&world.plan), &Options::default()).unwrap_err();
    assert_eq!(errors[0].code, codes::INTERNAL);
}
