//! The functions that expressions may call: elementwise ops by name, ops across experts, ops within a tensor.

mod across;
mod arguments;
mod axes;
mod basis;
mod counted;
mod interference;
mod joint;
mod known;
mod matrix;
mod settings;
mod within;

use mixdown_diagnostics::{Diagnostic, Span, codes, suggest};
use mixdown_ops::MapOp;
use mixdown_ops::program::Reduction;
use mixdown_recipe::Expression;

use across::{elect_sign, fold, mean, mean_where_sign, sum_where_sign};
use arguments::over_lists;
use within::{count, keep_largest, keep_random, reduce};

use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value};

/// A function with what the manual says about it.
pub struct Function {
    /// Name in expressions.
    pub name: &'static str,
    /// How it is called.
    pub signature: &'static str,
    /// What it gives.
    pub summary: &'static str,
    /// Evaluates a call; elementwise ops have none of their own.
    evaluate: Evaluate,
}

/// How a call is evaluated.
enum Evaluate {
    /// An elementwise op, mapped over lists.
    Map(MapOp),
    /// A list becomes one value.
    Across(fn(&mut Lowering<'_>, &[Value], Span) -> Result<Typed, Reported>, usize),
    /// Values become a scalar, mapped over lists.
    Within(fn(&mut Lowering<'_>, &[Typed], Span) -> Result<Typed, Reported>, usize),
    /// Has named arguments or evaluates its arguments itself.
    Special(fn(&mut Lowering<'_>, &Call<'_>) -> Result<Value, Reported>),
}

/// A call as written.
struct Call<'a> {
    function: &'static Function,
    arguments: &'a [Expression],
    named: &'a [(String, Span, Expression)],
    span: Span,
}

/// All functions, in alphabetical order.
pub static FUNCTIONS: &[Function] = &[
    map("abs", MapOp::Abs, "abs(x)", "|x|."),
    map("acos", MapOp::Acos, "acos(x)", "The angle whose cosine is x, in radians."),
    Function {
        name: "adapter_scale",
        signature: "adapter_scale(values)",
        summary: "What the update of each value as an adapter is multiplied with beside its factors: alpha through the rank, or through its root; 1 for what is none.",
        evaluate: Evaluate::Special(known::adapter_scale),
    },
    Function {
        name: "block_owner",
        signature: "block_owner(values, count=64, block=256, tail=\"pad\")",
        summary: "For each element the place of the value that keeps it, from 1, or 0: in their order each keeps the `count` largest magnitudes of every `block` elements among those that none before it keeps. tail: whether the last block of a tensor, when it is shorter, is as if zeros followed (\"pad\"), or keeps nothing (\"drop\").",
        evaluate: Evaluate::Special(joint::block_owner),
    },
    map("ceil", MapOp::Ceil, "ceil(x)", "The next whole number above."),
    Function {
        name: "calibrate_spectrum",
        signature: "calibrate_spectrum(x, values, alpha=1)",
        summary: "A merged task vector x whose singular values are divided by what its directions have too much of beside the \
                  values: the mean over these of how x projects on them, at least `alpha`.",
        evaluate: Evaluate::Special(matrix::calibrate_spectrum),
    },
    Function {
        name: "center",
        signature: "center(values)",
        summary: "Each value minus the mean over the experts.",
        evaluate: Evaluate::Special(matrix::center),
    },
    map("clamp", MapOp::Clamp, "clamp(x, low, high)", "x, but not below `low` nor above `high`."),
    Function {
        name: "coordinates",
        signature: "coordinates(values)",
        summary: "Each value in the basis that all of them share, the left singular vectors of all side by side: \
                  a row for each direction, and zeros in the rows beyond.",
        evaluate: Evaluate::Special(basis::coordinates),
    },
    Function {
        name: "combine_factors",
        signature: "combine_factors(values, rule=\"sum\", weights=1, density=1, ratio=0.2)",
        summary: "Adapters whose factors A and B are combined each by itself, by weights whose roots multiply both: their \"sum\", the mean of what has the sign of the sum, \"ties_total\", or that most have, \"ties_frequency\", of the `density` share of largest elements; or as RobustMerge does, \"robust\". All have one rank.",
        evaluate: Evaluate::Special(joint::combine_factors),
    },
    map("cos", MapOp::Cos, "cos(x)", "Cosine of x in radians."),
    Function {
        name: "core_space",
        signature: "core_space(values, merge=\"sum\", weights=1, density=0.1, rank=\"1/n\")",
        summary: "Adapters merged in the bases that all their factors share, without being multiplied out. merge: \"sum\", \"ties\" with `density`, \"tsv\", \"iso_c\". A value that is no adapter is cut to the rank first.",
        evaluate: Evaluate::Special(joint::core_space),
    },
    Function {
        name: "cosine",
        signature: "cosine(a, b, scope=\"tensor\")",
        summary: "Cosine of the angle between two tensors, or all tensors of the \"layer\" or the \"model\" \
                  flattened, or each \"row\" or \"column\"; 0 where one of them is all zero.",
        evaluate: Evaluate::Special(within::cosine),
    },
    Function {
        name: "count",
        signature: "count(x)",
        summary: "Count of elements of the tensor.",
        evaluate: Evaluate::Within(count, 1),
    },
    Function {
        name: "count_nonzero",
        signature: "count_nonzero(x)",
        summary: "Count of elements that are not zero.",
        evaluate: Evaluate::Within(|l, x, s| reduce(l, Reduction::CountNonzero, x, s), 1),
    },
    Function {
        name: "depth",
        signature: "depth()",
        summary: "The place of the tensor's layer among the layers: 0 for the first, 1 for the last; 0 outside of layers, and for a layer alone.",
        evaluate: Evaluate::Special(known::depth),
    },
    Function {
        name: "dot",
        signature: "dot(a, b, scope=\"tensor\")",
        summary: "Σ a·b over all elements of the \"tensor\", of all tensors of its \"layer\", or of the \"model\"; \
                  over each \"row\" (along the last dimension) or \"column\" (along the first), or over all that makes an \
                  \"output\" of a linear weight however it is stored, it is one number for all elements there.",
        evaluate: Evaluate::Special(within::dot),
    },
    Function {
        name: "elect_sign",
        signature: "elect_sign(values, zero=\"positive\", scope=\"tensor\")",
        summary: "For each element the sign of the sum over the experts. A sum of zero counts as positive, \
                  or with zero=\"majority\" as the sign that most elements of the tensor (or model) elected.",
        evaluate: Evaluate::Special(elect_sign),
    },
    map("exp", MapOp::Exp, "exp(x)", "e to the power of x."),
    Function {
        name: "filtered_interference",
        signature: "filtered_interference(values, filter=\"exponential\", time=300, gamma=1, …)",
        summary: "One step towards the minimizer of the interference objective along its directions, each weighed: filter \"exponential\" with time, gamma, alpha; \"tikhonov\" with alpha; \"landweber\" with steps, eta; or \"none\". keep: the share of directions that take part; consensus_power, consensus_floor: by how evenly the experts share them; output_time: a filter on the side of outputs too. init: \"sum\", \"mean\", \"zero\". A time in front of the values is that of the tensor.",
        evaluate: Evaluate::Special(joint::filtered_interference),
    },
    map("floor", MapOp::Floor, "floor(x)", "The next whole number below."),
    Function {
        name: "fold_projected",
        signature: "fold_projected(values, alpha=0.5)",
        summary: "Values added up in their order, of each only what is orthogonal to the leading directions of the sum before it: those before its singular values pass the share `alpha` of their sum, and each pair of directions.",
        evaluate: Evaluate::Special(joint::fold_projected),
    },
    Function {
        name: "from_coordinates",
        signature: "from_coordinates(x, values)",
        summary: "What has the coordinates x in the basis that the values share.",
        evaluate: Evaluate::Special(basis::from_coordinates),
    },
    Function {
        name: "gram",
        signature: "gram(x)",
        summary: "The Gram matrix xᵀ·x of a matrix, [in, in], for `regression`: of a task vector it stands in for that of the layer's inputs.",
        evaluate: Evaluate::Special(matrix::gram),
    },
    Function {
        name: "highest",
        signature: "highest(x, scope=\"row\")",
        summary: "The largest element of each \"row\" or \"column\", with its sign.",
        evaluate: Evaluate::Special(axes::highest),
    },
    Function {
        name: "interference",
        signature: "interference(values, targets=\"whole\", rows=\"whole\", rank=\"1/n\", init=\"sum\", optimizer=\"adam\", …)",
        summary: "Minimizes Σ wᵢ‖(X − Aᵢ)·Bᵢᵀ‖² with wᵢ = 1/‖τᵢ‖², from X₀. targets (A) and rows (B): \"whole\", \"truncated\" to the rank, or truncated after being \"centered\". init: \"sum\", \"mean\", \"zero\". optimizer: \"adam\" or \"sgd\" with learning_rate, momentum, steps; or \"filter\" with filter (\"exponential\", \"none\", \"tikhonov\", \"landweber\", \"wiener\"), time, alpha, noise, and keep or rank_rule with level, min_rank, max_rank_ratio, rank_scale. solver: \"closed\" or \"literal\". snap=\"yes\" moves the cut to the nearest gap of the spectrum. storage_noise: \"keep\" or \"recover\".",
        evaluate: Evaluate::Special(interference::interference),
    },
    Function {
        name: "interference_peak",
        signature: "interference_peak(values)",
        summary: "The largest eigenvalue of Σ τᵢᵀτᵢ/‖τᵢ‖², one number for all elements.",
        evaluate: Evaluate::Special(joint::interference_peak),
    },
    map("interpolate", MapOp::Interpolate, "interpolate(a, b, t)", "(1 − t)·a + t·b."),
    Function {
        name: "is_coordinate",
        signature: "is_coordinate(values)",
        summary: "Whether an element of `coordinates(values)` belongs to a direction that the values have: rows beyond \
                  their rank do not.",
        evaluate: Evaluate::Special(basis::is_coordinate),
    },
    Function {
        name: "is_kept",
        signature: "is_kept(classes=\"roles\")",
        summary: "Whether the tensor stays as it is in the base: by \"roles\" none does, by the \"released\" patterns of OptMerge encoders, embeddings, norms, biases and the output layer do.",
        evaluate: Evaluate::Special(matrix::is_kept),
    },
    Function {
        name: "is_linear",
        signature: "is_linear(classes=\"roles\", matrices=\"auto\")",
        summary: "Whether the tensor is a linear weight, a convolution or a stack of them: by its \"roles\" in the language model and the connector, or in an encoder that is the model, or what the \"released\" patterns of OptMerge leave. `matrices`, a parameter of its type, says it otherwise.",
        evaluate: Evaluate::Special(matrix::is_linear),
    },
    Function {
        name: "isotropic",
        signature: "isotropic(x, rank_aware=\"automatic\", of=\"each\", storage_noise=\"keep\")",
        summary: "All singular directions of a matrix with the mean of its singular values, or of=\"sum\" those of the sum of a list. rank_aware: whether directions without energy stay out, \"yes\", \"no\", or \"automatic\", which is yes for adapters. storage_noise=\"recover\" leaves out how values that are clearly of low rank were rounded for storage.",
        evaluate: Evaluate::Special(matrix::isotropic),
    },
    Function {
        name: "isotropic_common",
        signature: "isotropic_common(values, common=0.8, storage_noise=\"keep\")",
        summary: "The `common` share of the singular directions of the sum and the others from each value by itself, orthogonalized, with the mean of their singular values.",
        evaluate: Evaluate::Special(matrix::isotropic_common),
    },
    Function {
        name: "karcher_weights",
        signature: "karcher_weights(values, max_iter=10, tol=1e-5)",
        summary: "What each value, seen as one vector, counts in the Karcher mean of all: their sum so weighted has the mean \
                  of their directions on the sphere and the mean of their lengths.",
        evaluate: Evaluate::Special(axes::karcher_weights),
    },
    Function {
        name: "keep_count",
        signature: "keep_count(x, count, scope=\"tensor\")",
        summary: "Keeps the `count` elements with the largest magnitude, of equal ones those of lower index, and zeroes the \
                  others. scope: of the \"tensor\", or of all tensors of the \"model\".",
        evaluate: Evaluate::Special(counted::keep_count),
    },
    Function {
        name: "keep_largest",
        signature: "keep_largest(x, density, ties=\"exact\", scope=\"tensor\", among=…)",
        summary: "Keeps the `density` share of elements with the largest magnitude and zeroes the others. \
                  ties: \"exact\" keeps max(1, floor(density·n)), of equal ones those of lower index; \"inclusive\" \
                  keeps everything that reaches the (floor(density·n) + 1)-th magnitude. scope: the share of each \
                  \"tensor\", or of the whole \"model\" (all tensors under the same rule or slice). among: the share is \
                  of the elements where this holds; the others are expected to be zero.",
        evaluate: Evaluate::Special(keep_largest),
    },
    Function {
        name: "keep_random",
        signature: "keep_random(x, density)",
        summary: "Keeps each element with probability `density`, one number or one for each, independently, and zeroes the \
                  others. \
                  The draw depends on the recipe's seed, the step, the tensor's name, the expert and the element.",
        evaluate: Evaluate::Special(keep_random),
    },
    Function {
        name: "kth_largest",
        signature: "kth_largest(x, k, scope=\"tensor\")",
        summary: "The magnitude that is the k-th largest, 1 for the largest, of the \"tensor\" or the \"model\": a quantile \
                  or a median as a number.",
        evaluate: Evaluate::Special(counted::kth_largest),
    },
    Function {
        name: "largest",
        signature: "largest(values)",
        summary: "The largest over the experts.",
        evaluate: Evaluate::Across(|l, x, s| fold(l, MapOp::Maximum, x, s), 1),
    },
    Function {
        name: "largest_magnitude",
        signature: "largest_magnitude(x, scope=\"tensor\")",
        summary: "max |x| over all elements of the scope, as in `dot`.",
        evaluate: Evaluate::Special(within::largest_magnitude),
    },
    Function {
        name: "largest_rank",
        signature: "largest_rank(values)",
        summary: "The largest rank that the values have as updates of adapters; the smaller side of a matrix where one of them \
                  is none.",
        evaluate: Evaluate::Special(known::largest_rank),
    },
    Function {
        name: "layers",
        signature: "layers()",
        summary: "Count of layers (under the same rule or slice); a tensor outside layers is one of its own.",
        evaluate: Evaluate::Special(within::layers),
    },
    Function {
        name: "leading_share",
        signature: "leading_share(x, share=0.4)",
        summary: "The leading singular directions of a matrix whose singular values first make up `share` of the sum of all, \
                  scaled so that this sum stays.",
        evaluate: Evaluate::Special(matrix::leading_share),
    },
    Function {
        name: "lift_spectrum",
        signature: "lift_spectrum(x, share=0.01)",
        summary: "A matrix whose singular values are raised to the one at which the leading ones first make up `share` of the \
                  sum of all. Directions without energy stay empty.",
        evaluate: Evaluate::Special(matrix::lift_spectrum),
    },
    map("log", MapOp::Log, "log(x)", "Natural logarithm."),
    map("maximum", MapOp::Maximum, "maximum(a, b)", "The larger of two."),
    Function {
        name: "mean",
        signature: "mean(values)",
        summary: "The mean over the experts.",
        evaluate: Evaluate::Across(mean, 1),
    },
    Function {
        name: "mean_cosine",
        signature: "mean_cosine(values, floor=0, scope=\"tensor\")",
        summary: "The mean over all pairs of values of the cosine of their angle, over all elements or for each \"row\" or \
                  \"column\". floor: what the product of two lengths counts at least.",
        evaluate: Evaluate::Special(axes::mean_cosine),
    },
    Function {
        name: "mean_rotation",
        signature: "mean_rotation(base, values, rest=0.2, conflict=false)",
        summary: "The base turned by the mean of the rotations that bring it nearest to each expert, and `rest` times what they do not explain, as a task vector. The values are task vectors. conflict: rotations from rows alone that go against the mean.",
        evaluate: Evaluate::Special(joint::mean_rotation),
    },
    Function {
        name: "mean_where_sign",
        signature: "mean_where_sign(values, sign, weight)",
        summary: "For each element Σ value / Σ weight over the experts whose value has the sign; 0 where none has. \
                  Values are weighted already.",
        evaluate: Evaluate::Special(mean_where_sign),
    },
    map("minimum", MapOp::Minimum, "minimum(a, b)", "The smaller of two."),
    Function {
        name: "norm",
        signature: "norm(x, scope=\"tensor\")",
        summary: "Euclidean (Frobenius) norm over all elements of the scope, as in `dot`; with \"matrix\" of each matrix of a stack of experts, and else of the tensor.",
        evaluate: Evaluate::Special(within::norm),
    },
    Function {
        name: "norm1",
        signature: "norm1(x)",
        summary: "Σ |x| over all elements.",
        evaluate: Evaluate::Within(|l, x, s| reduce(l, Reduction::SumAbsolute, x, s), 1),
    },
    Function {
        name: "norm2",
        signature: "norm2(x, scope=\"tensor\")",
        summary: "Σ x² over all elements of the \"tensor\", or of all tensors of its \"layer\" or of the \"model\" \
                  (under the same rule or slice). A tensor outside layers is a layer of its own.",
        evaluate: Evaluate::Special(within::norm2),
    },
    Function {
        name: "ordinal",
        signature: "ordinal(values)",
        summary: "The position of each value in the list, from 0.",
        evaluate: Evaluate::Special(known::ordinal),
    },
    Function {
        name: "own_covariances",
        signature: "own_covariances(values, epsilon=0.01, iso_rank=0.3, heterogeneity=0.3)",
        summary: "`regression` with covariances of inputs that are estimated from the task vectors, and a correction where their sizes are uneven: ACE.",
        evaluate: Evaluate::Special(joint::own_covariances),
    },
    Function {
        name: "own_grams",
        signature: "own_grams(values, tolerance=1e-10)",
        summary: "`regression` with the task vectors' own Gram matrices, through a pseudo-inverse that cuts eigenvalues below `tolerance` of the largest.",
        evaluate: Evaluate::Special(joint::own_grams),
    },
    Function {
        name: "place_in_row",
        signature: "place_in_row(x)",
        summary: "The place of each magnitude among those of its row, along the last dimension: 0 for the smallest; of equal \
                  ones the element of lower index has the higher place.",
        evaluate: Evaluate::Special(axes::place_in_row),
    },
    Function {
        name: "polar",
        signature: "polar(x)",
        summary: "The nearest matrix with orthonormal rows or columns: U·Vᵀ of its singular value decomposition.",
        evaluate: Evaluate::Special(matrix::polar),
    },
    Function {
        name: "position",
        signature: "position(x)",
        summary: "The place of this layer's number x among those of all layers (under the same rule or slice): 1 for \
                  the largest; of equal ones the layer that comes first has the lower place. A tensor outside layers \
                  is a layer of its own.",
        evaluate: Evaluate::Within(within::position, 1),
    },
    map("power", MapOp::Power, "power(a, b)", "a to the power of b."),
    Function {
        name: "regression",
        signature: "regression(values, gram, off_diagonal=0.9)",
        summary: "The weights whose outputs come nearest to those of all values, in least squares: (Σ W·Ĝ)·(Σ Ĝ)⁻¹, \
                  where Ĝ keeps `off_diagonal` of the Gram matrix G of the layer's inputs off its diagonal.",
        evaluate: Evaluate::Special(matrix::regression),
    },
    Function {
        name: "require",
        signature: "require(condition, \"what must hold\")",
        summary: "1 where a condition on parameters and counts holds; where it does not, the merge is refused with these words.",
        evaluate: Evaluate::Special(known::require),
    },
    Function {
        name: "row_length",
        signature: "row_length(x)",
        summary: "Count of elements in a row: the last dimension, or all elements of a tensor with one.",
        evaluate: Evaluate::Special(axes::row_length),
    },
    Function {
        name: "shared_cover",
        signature: "shared_cover(values, rank=\"1/n\", smoothing=\"average\", rho=5, keep=0.001)",
        summary: "Task vectors of bounded rank with evened singular values, merged in directions that all share: of each core the share `keep`, the mean of what has the sign of the sum, and no more than what stays with one expert's directions. smoothing: \"average\", \"linear\" from `rho` times the last down, or \"none\".",
        evaluate: Evaluate::Special(joint::shared_cover),
    },
    Function {
        name: "shared_shift",
        signature: "shared_shift(values, eta=0.07, learning_rate=1e-4, steps=400, subspace_divisor=6)",
        summary: "The shift Δ that all task vectors share, found by Adam against the gradient outside their common subspace.",
        evaluate: Evaluate::Special(matrix::shared_shift),
    },
    map("sign", MapOp::Sign, "sign(x)", "−1, 0 or 1."),
    map("sin", MapOp::Sin, "sin(x)", "Sine of x in radians."),
    Function {
        name: "singular_values",
        signature: "singular_values(x)",
        summary: "The singular values of a matrix on the diagonal of one of its shape, descending: `norm1` of it is the nuclear norm, `largest_magnitude` the spectral norm.",
        evaluate: Evaluate::Special(matrix::singular_values),
    },
    Function {
        name: "smallest",
        signature: "smallest(values)",
        summary: "The smallest over the experts.",
        evaluate: Evaluate::Across(|l, x, s| fold(l, MapOp::Minimum, x, s), 1),
    },
    map("sqrt", MapOp::Sqrt, "sqrt(x)", "Square root."),
    Function {
        name: "stored",
        signature: "stored(x)",
        summary: "x rounded to the type in which the base's tensor is stored, or the first model's without a base.",
        evaluate: Evaluate::Within(within::stored, 1),
    },
    Function {
        name: "sum",
        signature: "sum(values)",
        summary: "The sum over the experts, in their order.",
        evaluate: Evaluate::Across(|l, x, s| fold(l, MapOp::Add, x, s), 1),
    },
    Function {
        name: "sum_where_sign",
        signature: "sum_where_sign(values, sign)",
        summary: "For each element the sum over the experts whose value has the sign.",
        evaluate: Evaluate::Special(sum_where_sign),
    },
    Function {
        name: "task_singular_vectors",
        signature: "task_singular_vectors(values, rank=\"1/n\", storage_noise=\"keep\")",
        summary: "The leading singular directions of each value, orthogonalized against each other, added up.",
        evaluate: Evaluate::Special(matrix::task_singular_vectors),
    },
    Function {
        name: "total",
        signature: "total(x, scope=\"tensor\")",
        summary: "Σ x over all elements of the scope, as in `dot`.",
        evaluate: Evaluate::Special(within::total),
    },
    Function {
        name: "truncated_svd",
        signature: "truncated_svd(x, rank=\"1/n\")",
        summary: "The best approximation of a matrix with a bounded rank: \"1/n\" of the smaller side, a fraction of it, or a number.",
        evaluate: Evaluate::Special(matrix::truncated_svd),
    },
    Function {
        name: "where",
        signature: "where(condition, a, b)",
        summary: "a where the condition holds, b elsewhere. With a scalar condition known beforehand only the \
                  chosen one is computed.",
        evaluate: Evaluate::Special(choose),
    },
];

const fn map(
    name: &'static str,
    op: MapOp,
    signature: &'static str,
    summary: &'static str,
) -> Function {
    Function { name, signature, summary, evaluate: Evaluate::Map(op) }
}

/// Evaluates a call of a function by name.
pub(crate) fn call(
    lowering: &mut Lowering<'_>,
    name: &str,
    name_span: Span,
    arguments: &[Expression],
    named: &[(String, Span, Expression)],
    span: Span,
) -> Result<Value, Reported> {
    let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) else {
        let mut diagnostic =
            Diagnostic::error(codes::UNKNOWN_NAME, format!("there is no function `{name}`"));
        diagnostic = match suggest::nearest(name, FUNCTIONS.iter().map(|function| function.name)) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help("`mixdown methods --functions` lists them"),
        };
        return Err(lowering.report(diagnostic, name_span));
    };
    let call = Call { function, arguments, named, span };
    match function.evaluate {
        Evaluate::Special(evaluate) => evaluate(lowering, &call),
        Evaluate::Map(op) => {
            let values = call.values(lowering, op.arity())?;
            lowering.map(op, &values, span)
        }
        Evaluate::Across(evaluate, arity) => {
            let values = call.values(lowering, arity)?;
            Ok(Value::One(evaluate(lowering, &values, span)?))
        }
        Evaluate::Within(evaluate, arity) => {
            let values = call.values(lowering, arity)?;
            over_lists(lowering, &values, span, evaluate)
        }
    }
}

/// `where`: with a known condition only the chosen branch is evaluated, so that the other may not make sense.
fn choose(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    call.options(lowering, &[])?;
    if call.arguments.len() == 3 {
        let condition = lowering.evaluate(&call.arguments[0])?;
        if let Value::One(Typed { node, kind: Kind::Scalar }) = condition
            && let Some(known) = lowering.graph.value(node)
        {
            return lowering.evaluate(&call.arguments[if known != 0.0 { 1 } else { 2 }]);
        }
        if let Value::Text(_) = condition {
            let headline = "a condition is a comparison or a boolean, found a word";
            let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline);
            return Err(lowering.report(diagnostic, call.arguments[0].span));
        }
    }
    let values = call.positional(lowering, 3)?;
    if let [_, Value::Text(_), _] | [_, _, Value::Text(_)] = values.as_slice() {
        // Words can be chosen where the condition is known, which a check by itself does not see.
        return Ok(Value::Text(None));
    }
    lowering.map(MapOp::Where, &values, call.span)
}
