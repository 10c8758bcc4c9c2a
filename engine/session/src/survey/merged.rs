//! What of each task vector is in weights that were merged of them.

use mixdown_plan::ModelSource;

use super::measure::{Outcome, Plan};
use super::models::{Compared, Model};
use super::{of_base, threads};
use crate::planning::{PROGRAM_BYTES, TENSOR_BYTES};
use crate::progress::Task;
use crate::recipes::Loaded;
use crate::{Event, Machine, Session, Trouble};

/// What of each expert's task vector is in one merged tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Survived {
    /// The tensor.
    pub tensor: String,
    /// ‖θ − θ₀‖, of the tensor as it is stored.
    pub norm: f64,
    /// For each expert by name (θ − θ₀)·τ / ‖τ‖²: 1 where all of τ is in the merged update, 0 where nothing
    /// along it is, and below 0 where its opposite is. None where the expert is as its base, or lacks the tensor.
    pub experts: Vec<(String, Option<f64>)>,
}

/// Measures that of the last of the loaded models, which was merged of experts of a base. The result depends on
/// neither threads nor budget; where the budget has no room for it, nothing is measured, which is told.
///
/// **Errors.** What reading fails of.
pub fn survived(
    loaded: &Loaded,
    base: ModelSource,
    experts: &[(String, ModelSource)],
    machine: &Machine,
    session: &Session<'_>,
) -> Result<Vec<Survived>, Trouble> {
    let of = |source: &ModelSource| Model::of(loaded, *source);
    let Some(base) = of(&base) else { return Ok(Vec::new()) };
    let last = loaded.models.len() as u32 - 1;
    let mut models = vec![Model { checkpoint: last, adapter: None }];
    models.extend(experts.iter().filter_map(|(_, source)| of(source)));
    let compared = Compared::among(loaded, base, &models);
    let described = of_base(loaded, &compared);
    let sources = loaded.open();
    let plan = Plan::new(&compared, &described, &sources, false);
    let tensors: usize = loaded.models.iter().map(|input| input.model.checkpoint.index.len()).sum();
    let held = PROGRAM_BYTES + tensors as u64 * TENSOR_BYTES;
    let Ok(threads) = threads(&plan, held, machine.threads(), machine.budget().bytes) else {
        let words = "what survives of task vectors is not in the report: the memory budget has no room for it";
        session.tell(Event::Notice(words));
        return Ok(Vec::new());
    };
    let meter = session.meter(Task::Comparing);
    meter.enter("measuring what survives");
    meter.expect(0, plan.bytes());
    let measured = match session.watch(&meter, || plan.run(threads, &meter, session.cancel)) {
        Outcome::Done(measured) => measured,
        Outcome::Failed(fault) => return Err(Trouble::Found(vec![*fault])),
        Outcome::Cancelled => {
            let words = "interrupted: the output is complete, and its report lacks what survives";
            return Err(Trouble::Interrupted(words.to_owned()));
        }
    };
    let index = &loaded.models[base.checkpoint as usize].model.checkpoint.index;
    let places = compared.places.iter().zip(measured);
    let of_place =
        |(place, measured): (&super::models::Place, Option<super::measure::Measured>)| {
            let tally = measured?.tally;
            place.experts.first().filter(|merged| merged.is_made())?;
            // The pairs of the first, which was merged, come before all others.
            let shares = experts.iter().enumerate().map(|(at, (name, _))| {
                let squares = tally.experts[at + 1].squares;
                (name.clone(), (squares > 0.0).then(|| tally.pairs[at].product / squares))
            });
            Some(Survived {
                tensor: index.tensors()[place.tensor as usize].name.clone(),
                norm: tally.experts[0].squares.sqrt(),
                experts: shares.collect(),
            })
        };
    Ok(places.filter_map(of_place).collect())
}
