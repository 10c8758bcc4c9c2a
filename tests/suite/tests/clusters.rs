//! The scripts for clusters, run with the environment that Slurm and Kubernetes set.
//!
//! Catches a number that counts from the wrong end, a variable that is called otherwise, and scripts that
//! no longer fit the command line.

use std::ffi::OsString;
use std::process::Command;

use mixdown_kit::program::binary;
use mixdown_kit::{Space, mixdown};
use mixdown_suite::{configuration, family, repository};

const PARTS: u32 = 3;

fn prepared() -> Space {
    let space = family();
    let models = [("a", "weight: 1, density: 0.5"), ("b", "weight: 1, density: 0.4")];
    space.write("recipe.yaml", configuration("ties", Some("base"), &models, ""));
    mixdown(&space, ["merge", "recipe.yaml", "--out", "whole"]).success();
    space
}

/// Runs a command of a script in the space, where `mixdown` is the program that is tested.
#[track_caller]
fn run(space: &Space, command: &mut Command, variables: &[(&str, String)]) {
    let beside = binary().parent().expect("the program lies in a folder").as_os_str();
    let mut path = OsString::from(beside);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let home = space.path(".home");
    let outcome = command
        .current_dir(space.root())
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("HF_HUB_OFFLINE", "1")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("a shell can be started");
    let talk = String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success(), "{talk}");
}

#[track_caller]
fn assemble_and_compare(space: &Space) {
    mixdown(space, ["assemble", "merged"]).success();
    assert!(space.files_under("whole") == space.files_under("merged"), "other bytes than one run");
}

#[test]
fn a_slurm_array_merges() {
    let space = prepared();
    let script = repository().join("examples/clusters/slurm.sh");
    for number in 1..=PARTS {
        let variables = [
            ("SLURM_ARRAY_TASK_ID", number.to_string()),
            ("SLURM_ARRAY_TASK_COUNT", PARTS.to_string()),
            ("SLURM_ARRAY_TASK_MIN", "1".to_owned()),
            ("SLURM_CPUS_PER_TASK", "1".to_owned()),
        ];
        let mut command = Command::new("bash");
        command.arg(&script).args(["recipe.yaml", "merged"]);
        run(&space, &mut command, &variables);
    }
    assemble_and_compare(&space);
}

#[test]
fn an_indexed_job_of_kubernetes_merges() {
    let space = prepared();
    let job = std::fs::read_to_string(repository().join("examples/clusters/kubernetes.yaml"))
        .expect("the job can be read");
    let line = job.lines().find_map(|line| line.trim().strip_prefix("command: [sh, -c, '"));
    let script = line.and_then(|line| line.strip_suffix("']")).expect("the job's command");
    for index in 0..PARTS {
        let variables = [("JOB_COMPLETION_INDEX", index.to_string()), ("PARTS", PARTS.to_string())];
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        run(&space, &mut command, &variables);
    }
    assemble_and_compare(&space);
}
