//! The processor's backend does what every backend must, with each set of vector instructions that this machine has.

use std::sync::Arc;

use mixdown_backends::conformance;
use mixdown_cpu::{CpuBackend, Features};
use mixdown_ops::Backend;

#[test]
fn every_instruction_set_conforms() {
    for features in Features::available() {
        let backend: Arc<dyn Backend> = Arc::new(CpuBackend::with_features(features));
        conformance::check(&backend, 0..2000);
    }
}
