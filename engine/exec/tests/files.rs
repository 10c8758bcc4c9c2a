//! Runs from files into an output folder: resuming, and sharing blocks with an input.

mod world;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mixdown_checkpoint::journal::OwnerKey;
use mixdown_checkpoint::layout::{Layout, OutputTensor};
use mixdown_checkpoint::open::{Checkpoint, open};
use mixdown_checkpoint::output::{OutputFolder, OutputOptions, PlanIdentity};
use mixdown_checkpoint::source::FilePool;
use mixdown_checkpoint::tensor_digest::TensorDigest;
use mixdown_cpu::CpuBackend;
use mixdown_diagnostics::Diagnostic;
use mixdown_exec::{
    NoResults, Options, Outcome, Progress, Report, Silent, Sink, Source, Told, run,
};
use mixdown_ops::program::PIECE;
use mixdown_tensor::DType;
use world::{MemorySink, Model, World, bf16_bytes, linear, values};

const SIZE: u64 = 2 * PIECE + 100;

/// Two models of three tensors, which are merged, merged and copied.
fn world() -> World {
    let model = |model: u64| {
        let tensor = |number: u64| bf16_bytes(&values(model * 10 + number, SIZE));
        Model::of(&[
            ("a", DType::Bf16, &[SIZE], tensor(1)),
            ("b", DType::Bf16, &[SIZE], tensor(2)),
            ("c", DType::Bf16, &[SIZE], tensor(3)),
        ])
    };
    let mut world = World::new(vec![model(0), model(1)]);
    let program = world.program(linear(2));
    world.merge("a", DType::Bf16, program, &[0.5, 0.5]);
    world.merge("b", DType::F32, program, &[0.25, 0.75]);
    world.copy("c", 1, &[]);
    world
}

fn layout(tensors: impl Iterator<Item = OutputTensor>) -> Layout {
    Layout::new(tensors.collect(), 0).unwrap()
}

/// The models of a world as files. Their tensors have the same positions there.
fn write_models(world: &World, folder: &Path) -> Vec<Checkpoint> {
    let write = |(number, model): (usize, &Model)| {
        let tensors = model.index.tensors().iter().map(|entry| OutputTensor {
            name: entry.name.clone(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
        });
        let mut file = layout(tensors).shards()[0].header.clone();
        file.extend_from_slice(&model.bytes);
        let path = folder.join(format!("model-{number}.safetensors"));
        std::fs::write(&path, file).unwrap();
        open(&path, None).unwrap()
    };
    world.models.iter().enumerate().map(write).collect()
}

fn run_files(
    world: &World,
    checkpoints: &[Checkpoint],
    sink: &dyn Sink,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Report {
    let pool = FilePool::new(4);
    let mut sources = Vec::new();
    for checkpoint in checkpoints {
        let shard = pool.source(&checkpoint.index.shards()[0]);
        sources.push(Source { index: &checkpoint.index, shards: vec![Box::new(shard)] });
    }
    let options = Options { threads: 2, stripe_elements: 8192, ..Options::default() };
    let backend = CpuBackend::new();
    run(&world.plan, &sources, &backend, sink, &NoResults, &options, progress, cancel).unwrap()
}

fn expected(world: &World) -> Vec<Vec<u8>> {
    let sink = MemorySink::new(&world.plan);
    world.run(&sink, &Options::default()).unwrap();
    sink.finished()
}

/// Raises the flag when the first tensor is finished.
#[derive(Default)]
struct FirstTensor {
    done: AtomicBool,
    told: AtomicU64,
}

impl Progress for FirstTensor {
    fn tensor_done(&self, _name: &str) {
        self.done.store(true, Ordering::Relaxed);
    }

    fn bytes(&self, read: u64, written: u64) {
        self.told.fetch_add(read + written, Ordering::Relaxed);
    }
}

#[test]
fn an_interrupted_output_folder_is_continued() {
    let space = tempfile::tempdir().unwrap();
    let world = world();
    let checkpoints = write_models(&world, space.path());
    let jobs = world.plan.jobs.iter().map(|job| OutputTensor {
        name: job.name.clone(),
        dtype: job.dtype,
        shape: job.shape.clone(),
    });
    let layout = Arc::new(layout(jobs));
    let target = space.path().join("merged");
    let begin = || {
        let identity = PlanIdentity::new(&[7; 32]);
        let key = OwnerKey::new([7; 32]);
        let options = OutputOptions { force: false, side_bytes: 0, adopted_bytes: 0, key };
        OutputFolder::begin(&target, Arc::clone(&layout), &identity, &options)
            .unwrap()
            .open()
            .unwrap()
    };

    let folder = begin();
    let told = FirstTensor::default();
    let report = run_files(&world, &checkpoints, &folder, &told, &told.done);
    assert_eq!(report.outcome, Outcome::Interrupted);
    assert!(report.tensors_computed >= 1);
    let bytes = report.bytes_read + report.bytes_written + report.bytes_shared;
    assert_eq!(told.told.into_inner(), bytes);
    drop(folder);

    let mut folder = begin();
    folder.confirm(2, &|_| true);
    let second = run_files(&world, &checkpoints, &folder, &Silent, &AtomicBool::new(false));
    assert_eq!(second.outcome, Outcome::Finished);
    assert_eq!(second.tensors_reused, report.tensors_computed);
    assert_eq!(second.tensors_reused + second.tensors_computed, 3);

    let path: PathBuf = folder.partial().join("output").join(&layout.shards()[0].name);
    let written = std::fs::read(path).unwrap();
    for (number, expected) in expected(&world).iter().enumerate() {
        let place = layout.place(number);
        let range = place.offset as usize..(place.offset + place.bytes) as usize;
        assert!(written[range] == **expected, "tensor {number}");
        assert_eq!(folder.finished(number), Some(TensorDigest::of(expected)));
    }
}

/// Shares all that it is offered, and refuses to have it written again.
struct Sharing {
    inner: MemorySink,
    shared: AtomicU64,
}

impl Sink for Sharing {
    fn is_complete(&self, tensor: usize) -> bool {
        self.inner.is_complete(tensor)
    }

    fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        assert_ne!(tensor, 2, "a shared tensor is written");
        self.inner.write_at(tensor, offset, bytes)
    }

    fn share(&self, tensor: usize, from: (&File, u64), bytes: u64) -> Result<u64, Box<Diagnostic>> {
        let mut found = vec![0; bytes as usize];
        from.0.read_exact_at(&mut found, from.1).unwrap();
        self.shared.fetch_add(bytes, Ordering::Relaxed);
        self.inner.write_at(tensor, 0, &found)?;
        Ok(bytes)
    }

    fn complete(
        &self,
        tensor: usize,
        digest: TensorDigest,
        told: &Told,
    ) -> Result<(), Box<Diagnostic>> {
        self.inner.complete(tensor, digest, told)
    }
}

#[test]
fn a_copy_shares_blocks_where_the_output_can() {
    let space = tempfile::tempdir().unwrap();
    let world = world();
    let checkpoints = write_models(&world, space.path());
    let sink = Sharing { inner: MemorySink::new(&world.plan), shared: AtomicU64::new(0) };
    let report = run_files(&world, &checkpoints, &sink, &Silent, &AtomicBool::new(false));
    assert_eq!(report.bytes_shared, SIZE * 2);
    assert_eq!(sink.shared.into_inner(), SIZE * 2);
    assert_eq!(report.bytes_written, SIZE * 2 + SIZE * 4);
    // It is read nevertheless: for its digest, and to find NaN in it.
    assert_eq!(report.bytes_read, SIZE * 2 * 5);
    assert!(sink.inner.finished() == expected(&world));
}
