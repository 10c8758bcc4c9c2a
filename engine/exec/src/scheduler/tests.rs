use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use mixdown_diagnostics::codes;

use super::*;

/// What a test does in a piece: flow, round, piece.
type Action<'a> = dyn Fn(usize, u64, u64) -> Result<(), Failure> + Sync + 'a;

/// Flows with these counts of pieces per round.
struct MockQueue<'a> {
    flows: Vec<Vec<u64>>,
    bytes: u64,
    budget: &'a Budget,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
    action: &'a Action<'a>,
}

struct MockFlow<'a> {
    number: usize,
    queue: &'a MockQueue<'a>,
    state: Mutex<MockState>,
}

#[derive(Default)]
struct MockState {
    rounds: u64,
    seen: Vec<bool>,
}

impl Queue<usize> for MockQueue<'_> {
    fn len(&self) -> usize {
        self.flows.len()
    }

    fn bytes(&self, _position: usize) -> u64 {
        self.bytes
    }

    fn start(&self, number: usize) -> Result<Arc<dyn Flow<usize> + '_>, Failure> {
        let count = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(count, Ordering::SeqCst);
        assert!(self.budget.used() >= self.bytes);
        Ok(Arc::new(MockFlow { number, queue: self, state: Mutex::default() }))
    }
}

impl Flow<usize> for MockFlow<'_> {
    fn advance(&self) -> Result<Step, Failure> {
        let state = &mut *self.state.lock().unwrap();
        assert!(state.seen.iter().all(|seen| *seen), "a round ended before its last piece");
        match self.queue.flows[self.number].get(state.rounds as usize) {
            None => {
                self.queue.in_flight.fetch_sub(1, Ordering::SeqCst);
                Ok(Step::Done)
            }
            Some(&pieces) => {
                state.rounds += 1;
                state.seen = vec![false; pieces as usize];
                Ok(Step::Round(pieces))
            }
        }
    }

    fn piece(&self, index: u64, done: &mut usize) -> Result<(), Failure> {
        let round = self.state.lock().unwrap().rounds - 1;
        (self.queue.action)(self.number, round, index)?;
        let state = &mut *self.state.lock().unwrap();
        assert_eq!(state.rounds - 1, round, "a round began before the last one ended");
        assert!(!std::mem::replace(&mut state.seen[index as usize], true), "a piece ran twice");
        *done += 1;
        Ok(())
    }
}

struct Outcome {
    end: End,
    pieces: usize,
    most_in_flight: u64,
}

fn go(
    threads: usize,
    limit: u64,
    flows: &[&[u64]],
    cancel: &AtomicBool,
    action: &Action<'_>,
) -> Outcome {
    let budget = Budget::new(limit);
    let queue = MockQueue {
        flows: flows.iter().map(|rounds| rounds.to_vec()).collect(),
        bytes: 10,
        budget: &budget,
        in_flight: AtomicU64::new(0),
        most_in_flight: AtomicU64::new(0),
        action,
    };
    let mut workers = vec![0; threads];
    let end = run(&queue, &mut workers, &budget, cancel);
    assert_eq!(budget.used(), 0, "something is still admitted");
    assert!(budget.peak() <= limit);
    Outcome { end, pieces: workers.iter().sum(), most_in_flight: queue.most_in_flight.into_inner() }
}

fn input_failure(flow: usize, piece: u64) -> Failure {
    let headline = format!("flow {flow}, piece {piece}");
    Failure::Input(Box::new(Diagnostic::error(codes::UNREADABLE, headline)))
}

fn headline(end: &End) -> &str {
    match end {
        End::Failed(Failure::Input(diagnostic) | Failure::Fatal(diagnostic)) => {
            &diagnostic.headline
        }
        End::Failed(Failure::Panic(text)) => text,
        end => panic!("{end:?}"),
    }
}

/// A place where several threads must be at the same time. Panics rather than wait forever.
#[derive(Default)]
struct Meeting(Mutex<usize>, Condvar);

impl Meeting {
    fn join(&self, count: usize) {
        let mut here = self.0.lock().unwrap();
        *here += 1;
        self.1.notify_all();
        while !here.is_multiple_of(count) {
            let before = *here / count;
            let (guard, timeout) = self.1.wait_timeout(here, Duration::from_secs(20)).unwrap();
            here = guard;
            if *here / count > before {
                return;
            }
            assert!(!timeout.timed_out(), "a thread is idle while a piece is ready");
        }
    }
}

static CALM: AtomicBool = AtomicBool::new(false);

#[test]
fn every_piece_runs_once_and_rounds_follow_each_other() {
    let flows: [&[u64]; 8] =
        [&[3, 1, 5], &[], &[0], &[1], &[0, 0, 2, 0], &[40], &[1, 1, 1, 1], &[7, 0, 7]];
    for threads in [1, 2, 3, 7] {
        for limit in [10, 20, 1000] {
            let outcome = go(threads, limit, &flows, &CALM, &|_, _, _| Ok(()));
            assert!(matches!(outcome.end, End::Done), "{:?}", outcome.end);
            assert_eq!(outcome.pieces, 9 + 1 + 2 + 40 + 4 + 14);
            assert!(outcome.most_in_flight <= limit / 10);
            assert!(outcome.most_in_flight <= threads as u64);
        }
    }
    assert!(matches!(go(3, 10, &[], &CALM, &|_, _, _| Ok(())).end, End::Done));
}

#[test]
fn no_thread_is_idle_while_a_piece_is_ready() {
    // In each of these, all threads must be within a piece at the same time.
    let check = |flows: &[&[u64]]| {
        let meeting = Meeting::default();
        let outcome = go(4, 1000, flows, &CALM, &|_, _, _| {
            meeting.join(4);
            Ok(())
        });
        assert!(matches!(outcome.end, End::Done), "{:?}", outcome.end);
    };
    check(&[&[8]]);
    check(&[&[4, 4, 4]]);
    check(&[&[1], &[1], &[1], &[1]]);
    check(&[&[2], &[1], &[3], &[2]]);
}

#[test]
fn raising_the_flag_ends_the_run_soon() {
    for threads in [1, 2, 7] {
        let cancel = AtomicBool::new(false);
        let begun = AtomicUsize::new(0);
        let outcome = go(threads, 1000, &[&[50, 50], &[50]], &cancel, &|_, _, _| {
            if begun.fetch_add(1, Ordering::SeqCst) == 20 {
                cancel.store(true, Ordering::SeqCst);
            }
            Ok(())
        });
        assert!(matches!(outcome.end, End::Interrupted));
        assert!(outcome.pieces <= 21 + threads, "{} pieces", outcome.pieces);
    }
}

#[test]
fn a_panic_ends_the_run_with_its_message() {
    for threads in [1, 2, 7] {
        let outcome = go(threads, 1000, &[&[20], &[20]], &CALM, &|flow, _, piece| {
            assert!((flow, piece) != (0, 5), "the kernel met a wall");
            Ok(())
        });
        assert_eq!(headline(&outcome.end), "the kernel met a wall");
    }
}

#[test]
fn a_fatal_failure_ends_the_run_at_once() {
    for threads in [1, 2, 7] {
        let outcome = go(threads, 1000, &[&[100], &[100]], &CALM, &|flow, _, piece| match piece {
            3 => match input_failure(flow, piece) {
                Failure::Input(diagnostic) => Err(Failure::Fatal(diagnostic)),
                other => Err(other),
            },
            _ => Ok(()),
        });
        assert_eq!(headline(&outcome.end), "flow 0, piece 3");
        // Other threads may do any number of pieces while the failure is on its way.
        assert!(threads > 1 || outcome.pieces == 3, "{} pieces", outcome.pieces);
    }
}

#[test]
fn the_failure_reported_does_not_depend_on_the_threads() {
    let fails = |flow, piece| matches!((flow, piece), (1, 9) | (1, 10) | (2, 0) | (3, 2) | (3, 7));
    for threads in [1, 2, 3, 7].repeat(20) {
        let outcome = go(threads, 1000, &[&[5], &[20], &[9], &[8, 8]], &CALM, &|flow, _, piece| {
            if fails(flow, piece) { Err(input_failure(flow, piece)) } else { Ok(()) }
        });
        assert_eq!(headline(&outcome.end), "flow 1, piece 9");
    }
}

#[test]
fn of_two_flows_that_fail_at_once_the_earlier_is_reported() {
    for _ in 0..50 {
        let meeting = Meeting::default();
        let outcome = go(2, 1000, &[&[2], &[3]], &CALM, &|flow, _, piece| match (flow, piece) {
            (0, 1) | (1, 0) => {
                meeting.join(2);
                Err(input_failure(flow, piece))
            }
            _ => Ok(()),
        });
        assert_eq!(headline(&outcome.end), "flow 0, piece 1");
    }
}
