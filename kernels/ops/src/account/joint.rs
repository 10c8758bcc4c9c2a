//! Ops on several whole matrices and their parameters.

use super::Account;
use crate::matrix::Exact;
use crate::matrix::interference::Init;
use crate::matrix::joint::{
    CoreMerge, CoreSpace, Covariances, Covers, FactorRule, FactorWise, Joint, Rotations, Smoothing,
    Swudi, SwudiFilter,
};

impl Joint {
    /// Tells its parameters.
    pub(super) fn account(&self, to: &mut dyn Account) {
        match self {
            Self::OwnGrams { tolerance } => to.number("tolerance", tolerance.get()),
            Self::Covariances(Covariances { epsilon, iso_rank, heterogeneity }) => {
                to.number("epsilon", epsilon.get());
                to.number("iso_rank", iso_rank.get());
                to.number("heterogeneity", heterogeneity.get());
            }
            Self::Covers(Covers { rank, smoothing, keep }) => {
                rank.account(to);
                match smoothing {
                    Smoothing::None => to.word("smoothing", "none"),
                    Smoothing::Average => to.word("smoothing", "average"),
                    Smoothing::Linear(rho) => {
                        to.word("smoothing", "linear");
                        to.number("rho", rho.get());
                    }
                }
                to.number("keep", keep.get());
            }
            Self::Rotations(Rotations { rest, conflict }) => {
                to.number("rest", rest.get());
                to.flag("conflict", *conflict);
            }
            Self::Fold { alpha } => to.number("alpha", alpha.get()),
            Self::CoreSpace(CoreSpace { merge, weights, rank }) => {
                match merge {
                    CoreMerge::Sum => to.word("merge", "sum"),
                    CoreMerge::Ties(density) => {
                        to.word("merge", "ties");
                        to.number("density", density.get());
                    }
                    CoreMerge::TaskSingularVectors => to.word("merge", "tsv"),
                    CoreMerge::Isotropic => to.word("merge", "iso_c"),
                }
                of_weights(weights, to);
                rank.account(to);
            }
            Self::FactorWise(FactorWise { rule, density, weights }) => {
                match rule {
                    FactorRule::Sum => to.word("rule", "sum"),
                    FactorRule::TiesTotal => to.word("rule", "ties_total"),
                    FactorRule::TiesFrequency => to.word("rule", "ties_frequency"),
                    FactorRule::Robust(ratio) => {
                        to.word("rule", "robust");
                        to.number("ratio", ratio.get());
                    }
                }
                to.number("density", density.get());
                of_weights(weights, to);
            }
            Self::Swudi(swudi) => swudi.account(to),
            Self::Peak => {}
        }
    }
}

fn of_weights(weights: &[Exact], to: &mut dyn Account) {
    let weights: Vec<f64> = weights.iter().map(|weight| weight.get()).collect();
    to.numbers("weights", &weights);
}

impl Swudi {
    fn account(&self, to: &mut dyn Account) {
        let Self { filter, is_aligned, keep, consensus_power, consensus_floor, output_time, init } =
            self;
        match *filter {
            SwudiFilter::Exponential { time, gamma, alpha } => {
                to.word("filter", "exponential");
                to.number("time", time.get());
                to.number("gamma", gamma.get());
                to.number("alpha", alpha.get());
            }
            SwudiFilter::Tikhonov(alpha) => {
                to.word("filter", "tikhonov");
                to.number("alpha", alpha.get());
            }
            SwudiFilter::Landweber { steps, eta } => {
                to.word("filter", "landweber");
                to.count("steps", steps);
                to.number("eta", eta.get());
            }
            SwudiFilter::Exact => to.word("filter", "none"),
        }
        to.flag("aligned", *is_aligned);
        to.number("keep", keep.get());
        to.number("consensus_power", consensus_power.get());
        to.number("consensus_floor", consensus_floor.get());
        to.number("output_time", output_time.get());
        let init = match init {
            Init::Sum => "sum",
            Init::Mean => "mean",
            Init::Zero => "zero",
        };
        to.word("init", init);
    }
}
