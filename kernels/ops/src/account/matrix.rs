//! Matrix ops and their parameters.

use super::Account;
use crate::matrix::axes::{Axis, Blocks, Fact, Karcher};
use crate::matrix::interference::{
    Adam, Cut, Filter, Init, Interference, NoiseLevel, Optimizer, RankRule, Rows, Sgd, Solver,
    Targets,
};
use crate::matrix::spectral::{Doge, Reshape};
use crate::matrix::{MatrixLayout, MatrixOp, Rank, RankAware};

impl MatrixOp {
    /// Tells what determines its result, beside its operands.
    pub fn account(&self, to: &mut dyn Account) {
        to.word("op", self.name());
        to.count("version", self.version());
        self.parameters(to);
    }

    /// Tells its parameters.
    pub fn parameters(&self, to: &mut dyn Account) {
        match self {
            Self::TruncatedSvd(rank) | Self::TaskSingularVectors(rank) => rank.account(to),
            Self::Isotropic(aware) => to.word("rank_aware", aware.name()),
            Self::IsotropicCommon(share) => to.number("common", share.get()),
            Self::Interference(interference) => interference.account(to),
            Self::OutOfBasis { experts } => to.count("experts", *experts),
            Self::SharedShift(Doge { eta, learning_rate, steps, subspace_divisor }) => {
                to.number("eta", eta.get());
                to.number("learning_rate", learning_rate.get());
                to.count("steps", *steps);
                to.count("subspace_divisor", *subspace_divisor);
            }
            Self::Regression { off_diagonal } => to.number("off_diagonal", off_diagonal.get()),
            Self::Reshaped(Reshape::Leading(share) | Reshape::Lifted(share)) => {
                to.number("share", share.get());
            }
            Self::CalibratedSpectrum { alpha } => to.number("alpha", alpha.get()),
            Self::AxisFact(fact, axis) => {
                to.word("fact", fact.name());
                to.word("axis", axis.name());
            }
            Self::KarcherWeights(Karcher { max_iter, tol }) => {
                to.count("max_iter", *max_iter);
                to.number("tol", tol.get());
            }
            Self::BlockOwner(Blocks { count, block, keeps_tail }) => {
                to.count("count", *count);
                to.count("block", *block);
                to.flag("keeps tail", *keeps_tail);
            }
            Self::Joint(op) => op.account(to),
            Self::Recovered(op) => {
                op.parameters(to);
                to.word("storage_noise", "recover");
            }
            Self::Polar
            | Self::SingularValues
            | Self::Gram
            | Self::CommonBasis
            | Self::PlaceInRow => {}
        }
    }
}

impl MatrixLayout {
    /// Tells all of it.
    pub fn account(&self, to: &mut dyn Account) {
        let Self { matrices, rows, columns, inputs_first } = self;
        to.count("matrices", *matrices);
        to.count("rows", *rows);
        to.count("columns", *columns);
        to.flag("inputs first", *inputs_first);
        if *inputs_first {
            // The version of how matrices are turned.
            to.count("turned", 2_u64);
        }
    }
}

impl Rank {
    pub(super) fn account(self, to: &mut dyn Account) {
        match self {
            Self::PerExpert => to.word("rank", "auto"),
            Self::Literal => to.word("rank", "literal"),
            Self::Full => to.word("rank", "full"),
            Self::Share(share) => to.number("rank", share.get()),
            Self::Count(count) => to.count("rank", count),
        }
    }
}

impl RankAware {
    fn name(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::No => "no",
            Self::Yes => "yes",
        }
    }
}

impl Fact {
    fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::SumProduct => "dot",
            Self::Highest => "highest",
        }
    }
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Columns => "columns",
        }
    }
}

impl Interference {
    fn account(&self, to: &mut dyn Account) {
        let Self { targets, rows, rank, snap, init, solver } = self;
        let targets = match targets {
            Targets::Whole => "whole",
            Targets::Truncated => "truncated",
            Targets::Centered => "centered",
        };
        to.word("targets", targets);
        let rows = match rows {
            Rows::Whole => "whole",
            Rows::Truncated => "truncated",
            Rows::Centered => "centered",
        };
        to.word("rows", rows);
        rank.account(to);
        to.flag("snap", *snap);
        let init = match init {
            Init::Sum => "sum",
            Init::Mean => "mean",
            Init::Zero => "zero",
        };
        to.word("init", init);
        solver.account(to);
    }
}

impl Solver {
    fn account(&self, to: &mut dyn Account) {
        match self {
            Self::Filter(filter, cut) => {
                to.word("optimizer", "filter");
                filter.account(to);
                cut.account(to);
            }
            Self::Adam(adam) => {
                to.word("optimizer", "adam");
                adam.account(to);
            }
            Self::Literal(Optimizer::Adam(adam)) => {
                to.word("optimizer", "literal adam");
                adam.account(to);
            }
            Self::Literal(Optimizer::Sgd(sgd)) => {
                to.word("optimizer", "literal sgd");
                sgd.account(to);
            }
        }
    }
}

impl Adam {
    fn account(self, to: &mut dyn Account) {
        to.number("learning_rate", self.learning_rate.get());
        to.count("steps", self.steps);
    }
}

impl Sgd {
    fn account(self, to: &mut dyn Account) {
        to.number("learning_rate", self.learning_rate.get());
        to.number("momentum", self.momentum.get());
        to.count("steps", self.steps);
    }
}

impl Filter {
    fn account(self, to: &mut dyn Account) {
        match self {
            Self::Sgd(sgd) => {
                to.word("filter", "sgd");
                sgd.account(to);
            }
            Self::Exponential(time) => {
                to.word("filter", "exponential");
                to.number("time", time.get());
            }
            Self::Tikhonov(strength) => {
                to.word("filter", "tikhonov");
                to.number("alpha", strength.get());
            }
            Self::Landweber(steps) => {
                to.word("filter", "landweber");
                to.count("time", steps);
            }
            Self::Exact => to.word("filter", "none"),
            Self::Wiener(level) => {
                to.word("filter", "wiener");
                let level = match level {
                    NoiseLevel::Mean => "mean",
                    NoiseLevel::First => "first",
                    NoiseLevel::Median => "median",
                };
                to.word("noise", level);
            }
        }
    }
}

impl Cut {
    fn account(self, to: &mut dyn Account) {
        match self {
            Self::None => to.word("rank_rule", "keep"),
            Self::Share(share) => to.number("keep", share.get()),
            Self::Rule { rule, min_rank, max_rank_ratio, rank_scale } => {
                to.word("rank_rule", rule.name());
                if let Some(level) = rule.level() {
                    to.number("level", level);
                }
                to.count("min_rank", min_rank);
                to.number("max_rank_ratio", max_rank_ratio.get());
                to.number("rank_scale", rank_scale.get());
            }
        }
    }
}

impl RankRule {
    /// As recipes write it.
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::StableRank => "stable_rank",
            Self::Entropy => "entropy",
            Self::EntropySquared => "entropy_sq",
            Self::Participation => "participation",
            Self::ParticipationSqrt => "participation_sqrt",
            Self::ParticipationSqrtC2 => "participation_sqrt_c2",
            Self::ParticipationSqrtC2Half => "participation_sqrt_c2_half",
            Self::ParticipationSqrtPlus => "participation_sqrt_plus",
            Self::CumulativeVariance(_) => "cumvar",
            Self::GavishDonoho => "gavish_donoho",
            Self::DataAwareParticipationSqrt => "d_aware_participation_sqrt",
            Self::DataAwareCumulativeVariance(_) => "d_aware_cumvar",
            Self::DataAwareEntropy => "d_aware_entropy",
            Self::LossElbow(_) => "loss_elbow",
            Self::LossResidual(_) => "loss_residual",
            Self::Risk(_) => "wudi_risk",
        }
    }

    /// Its level, where it has one.
    fn level(self) -> Option<f64> {
        match self {
            Self::CumulativeVariance(level)
            | Self::DataAwareCumulativeVariance(level)
            | Self::LossElbow(level)
            | Self::LossResidual(level)
            | Self::Risk(level) => Some(level.get()),
            _ => None,
        }
    }
}
