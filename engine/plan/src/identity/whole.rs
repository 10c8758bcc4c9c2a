//! The digest of a whole plan: all that decides a byte of the output, and why each tensor is made as it is.

use mixdown_ops::account::Account;

use super::{Digest, FORMAT, Identities};
use crate::plan::{
    AdapterFiles, Factor, Job, LayerChange, Leaf, Merge, OutputFiles, Plan, RowSource, Rows, Side,
    TensorRef, Work,
};

/// The digest of a plan, as 64 hexadecimal digits: equal plans have equal ones.
pub fn digest(plan: &Plan) -> String {
    let by_position =
        |tensor: TensorRef| Some(format!("tensor {} of model {}", tensor.tensor, tensor.model));
    let identities = Identities::new(plan, &by_position);
    let mut digest = Digest::default();
    identities.whole(&mut digest);
    digest.text()
}

impl Identities<'_> {
    /// Tells how a tensor of the output is made, and why.
    pub fn tensor(&self, job: u32, to: &mut dyn Account) {
        to.count("format", FORMAT);
        self.job(&self.plan.jobs[job as usize], to);
    }

    fn whole(&self, to: &mut dyn Account) {
        let Self { plan, .. } = self;
        to.count("format", FORMAT);
        to.thing("models", |to| plan.models.iter().for_each(|name| to.word("", name)));
        for job in &plan.jobs {
            to.thing("tensor", |to| self.job(job, to));
        }
        for group in &plan.groups {
            to.thing("group", |to| {
                to.word("title", &group.title);
                to.counts("jobs", group.jobs.iter().copied());
                to.counts("layers", group.layers.iter().copied());
            });
        }
        for left_out in &plan.left_out {
            to.thing("left out", |to| {
                reference("tensor", left_out.tensor, to);
                to.word("reason", &left_out.reason);
            });
        }
        to.thing("output", |to| plan.output.account(to));
    }

    fn job(&self, job: &Job, to: &mut dyn Account) {
        let Job { name, shape, dtype, work, origin, treatment, quantized } = job;
        to.word("name", name);
        to.counts("shape", shape.dimensions().iter().copied());
        to.word("type", dtype.name());
        let origin = &self.plan.origins[*origin as usize];
        to.word("rule", &origin.rule);
        to.count("line", origin.line);
        to.word("method", &origin.method);
        to.word("treatment", treatment.map_or("", |treatment| treatment.word()));
        if let Some(quantizer) = quantized {
            to.word("quantized", &quantizer.form().to_string());
            to.flag("scales of least squares", quantizer.form().fits_least_squares());
            to.word("stored as", quantizer.name());
            if let Some(sources) = quantizer.taken_over() {
                to.counts("codes kept", sources.iter().map(|&part| part as u32));
                quantizer.parts().iter().for_each(|part| to.word("kept as", part.dtype.name()));
            }
        }
        match work {
            Work::Copy { from, equal_to, within } => to.thing("copy", |to| {
                reference("from", *from, to);
                equal_to.iter().for_each(|&tensor| reference("equal to", tensor, to));
                if let Some(within) = within {
                    to.number("within", *within);
                }
            }),
            Work::Merge(merge) => to.thing("merge", |to| self.merge(merge, to)),
        }
    }

    fn merge(&self, merge: &Merge, to: &mut dyn Account) {
        let Merge { leaves, groups, precision, matrices, factor, lost, .. } = merge;
        self.values(merge, to);
        to.word("precision", precision.name());
        to.counts("groups", groups.iter().copied());
        for leaf in leaves {
            self.stated(merge, leaf, to);
        }
        for (number, step) in matrices.iter().enumerate() {
            to.thing("matrix op", |to| {
                to.count("before pass", step.before);
                // All tensors have a name here, and so all ops an account.
                let told = self.step(merge, number, to);
                debug_assert!(told.is_some());
            });
        }
        if let Some(factor) = factor {
            to.thing("factor", |to| self.factor(merge, factor, to));
        }
        if let Some(lost) = lost {
            to.counts("lost in storage", [lost.lost, lost.update, lost.largest]);
        }
    }

    fn stated(&self, merge: &Merge, leaf: &Leaf, to: &mut dyn Account) {
        let told = self.leaf(merge, leaf, to);
        debug_assert!(told.is_some());
    }

    fn factor(&self, merge: &Merge, factor: &Factor, to: &mut dyn Account) {
        let Factor { terms, side, rank, is_exact, rows, columns, pair } = factor;
        to.word("side", if *side == Side::Left { "left" } else { "right" });
        to.count("rank", *rank);
        to.flag("exact", *is_exact);
        to.counts("shape", [*rows, *columns]);
        to.count("pair", *pair);
        for (leaf, by) in terms {
            to.number("times", *by);
            self.stated(merge, leaf, to);
        }
    }
}

fn reference(name: &'static str, tensor: TensorRef, to: &mut dyn Account) {
    to.counts(name, [tensor.model, tensor.tensor]);
}

impl Rows {
    /// Tells where each row comes from: as a digest, for there are as many as the vocabulary has tokens.
    pub(super) fn account(&self, to: &mut dyn Account) {
        to.count("elements of one", self.row_elements);
        to.count("rows", self.rows.len() as u64);
        let mut digest = Digest::default();
        for row in &self.rows {
            row.account(&mut digest);
        }
        to.word("digest", &digest.text());
    }
}

impl RowSource {
    fn account(&self, to: &mut dyn Account) {
        match self {
            Self::Row(tensor, row) => to.counts("row", [*tensor, *row]),
            Self::Zero => to.word("row", "zero"),
            Self::Mean(rows) => to.thing("mean", |to| {
                rows.iter().for_each(|&(tensor, row)| to.counts("row", [tensor, row]));
            }),
            Self::MeanOfRows => to.word("row", "mean"),
        }
    }
}

impl OutputFiles {
    fn account(&self, to: &mut dyn Account) {
        let Self { files_from, dtype, layers, stacks, tied, vocabulary, adapter, files, gguf } =
            self;
        if let Some(gguf) = gguf {
            to.word("gguf", &gguf.architecture);
            to.count("file type", gguf.file_type);
        }
        to.maybe("files from", *files_from);
        to.word("type", dtype.map_or("", |dtype| dtype.name()));
        for LayerChange { prefix, before, sources } in layers {
            to.thing("layers", |to| {
                to.word("prefix", prefix);
                to.count("before", *before);
                to.counts("sources", sources.iter().copied());
            });
        }
        to.thing("stacks", |to| stacks.iter().for_each(|prefix| to.word("", prefix)));
        to.maybe("tied", tied.map(u32::from));
        to.maybe("vocabulary", *vocabulary);
        if let Some(AdapterFiles { base, updates, replacements }) = adapter {
            to.thing("adapter", |to| {
                to.count("base", *base);
                to.counts("replacements", replacements.iter().copied());
                for update in updates {
                    to.thing("update", |to| {
                        to.count("tensor", update.base_tensor);
                        to.count("rank", update.rank);
                        to.flag("embedding", update.is_embedding);
                    });
                }
            });
        }
        for (name, text) in files {
            to.thing("file", |to| {
                to.word("name", name);
                to.word("text", text);
            });
        }
    }
}
