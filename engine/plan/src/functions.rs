//! The functions that expressions may call: elementwise ops by name, ops across experts, ops within a tensor.

use mixdown_diagnostics::{Diagnostic, Span, codes, suggest};
use mixdown_ops::MapOp;
use mixdown_ops::program::Reduction;
use mixdown_ops::selection::Ties;
use mixdown_recipe::Expression;

use crate::graph::{GroupKey, Node, Reach};
use crate::kind::Kind;
use crate::lower::{Lowering, Reported, Typed, Value, describe, item};

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
    map("ceil", MapOp::Ceil, "ceil(x)", "The next whole number above."),
    map("clamp", MapOp::Clamp, "clamp(x, low, high)", "x, but not below `low` nor above `high`."),
    map("cos", MapOp::Cos, "cos(x)", "Cosine of x in radians."),
    Function {
        name: "cosine",
        signature: "cosine(a, b)",
        summary: "Cosine of the angle between two tensors; 0 where one of them is all zero.",
        evaluate: Evaluate::Within(cosine, 2),
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
        name: "dot",
        signature: "dot(a, b)",
        summary: "Σ a·b over all elements.",
        evaluate: Evaluate::Within(|l, x, s| reduce(l, Reduction::SumProduct, x, s), 2),
    },
    Function {
        name: "elect_sign",
        signature: "elect_sign(values, zero=\"positive\", scope=\"tensor\")",
        summary: "For each element the sign of the sum over the experts. A sum of zero counts as positive, \
                  or with zero=\"majority\" as the sign that most elements of the tensor (or model) elected.",
        evaluate: Evaluate::Special(elect_sign),
    },
    map("exp", MapOp::Exp, "exp(x)", "e to the power of x."),
    map("floor", MapOp::Floor, "floor(x)", "The next whole number below."),
    map("interpolate", MapOp::Interpolate, "interpolate(a, b, t)", "(1 − t)·a + t·b."),
    Function {
        name: "keep_largest",
        signature: "keep_largest(x, density, ties=\"exact\", scope=\"tensor\")",
        summary: "Keeps the `density` share of elements with the largest magnitude and zeroes the others. \
                  ties: \"exact\" keeps max(1, floor(density·n)), of equal ones those of lower index; \"inclusive\" \
                  keeps everything that reaches the (floor(density·n) + 1)-th magnitude. scope: the share of each \
                  \"tensor\", or of the whole \"model\" (all tensors under the same rule).",
        evaluate: Evaluate::Special(keep_largest),
    },
    Function {
        name: "keep_random",
        signature: "keep_random(x, density)",
        summary: "Keeps each element with probability `density`, independently, and zeroes the others. \
                  The draw depends on the recipe's seed, the step, the tensor's name, the expert and the element.",
        evaluate: Evaluate::Special(keep_random),
    },
    Function {
        name: "largest",
        signature: "largest(values)",
        summary: "The largest over the experts.",
        evaluate: Evaluate::Across(|l, x, s| fold(l, MapOp::Maximum, x, s), 1),
    },
    Function {
        name: "largest_magnitude",
        signature: "largest_magnitude(x)",
        summary: "max |x| over all elements.",
        evaluate: Evaluate::Within(|l, x, s| reduce(l, Reduction::LargestAbsolute, x, s), 1),
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
        name: "mean_where_sign",
        signature: "mean_where_sign(values, sign, weight)",
        summary: "For each element Σ value / Σ weight over the experts whose value has the sign; 0 where none has. \
                  Values are weighted already.",
        evaluate: Evaluate::Special(mean_where_sign),
    },
    map("minimum", MapOp::Minimum, "minimum(a, b)", "The smaller of two."),
    Function {
        name: "norm",
        signature: "norm(x)",
        summary: "Euclidean (Frobenius) norm over all elements.",
        evaluate: Evaluate::Within(norm, 1),
    },
    Function {
        name: "norm1",
        signature: "norm1(x)",
        summary: "Σ |x| over all elements.",
        evaluate: Evaluate::Within(|l, x, s| reduce(l, Reduction::SumAbsolute, x, s), 1),
    },
    map("power", MapOp::Power, "power(a, b)", "a to the power of b."),
    map("sign", MapOp::Sign, "sign(x)", "−1, 0 or 1."),
    map("sin", MapOp::Sin, "sin(x)", "Sine of x in radians."),
    Function {
        name: "smallest",
        signature: "smallest(values)",
        summary: "The smallest over the experts.",
        evaluate: Evaluate::Across(|l, x, s| fold(l, MapOp::Minimum, x, s), 1),
    },
    map("sqrt", MapOp::Sqrt, "sqrt(x)", "Square root."),
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
        name: "total",
        signature: "total(x)",
        summary: "Σ x over all elements.",
        evaluate: Evaluate::Within(|l, x, s| reduce(l, Reduction::Sum, x, s), 1),
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

impl Call<'_> {
    /// Evaluates the positional arguments of a function that has no named ones.
    fn values(&self, lowering: &mut Lowering<'_>, arity: usize) -> Result<Vec<Value>, Reported> {
        self.options(lowering, &[])?;
        self.positional(lowering, arity)
    }

    /// Evaluates the positional arguments and checks how many there are.
    fn positional(
        &self,
        lowering: &mut Lowering<'_>,
        arity: usize,
    ) -> Result<Vec<Value>, Reported> {
        if self.arguments.len() != arity {
            let headline = format!(
                "`{}` takes {arity} {}, found {}",
                self.function.name,
                if arity == 1 { "argument" } else { "arguments" },
                self.arguments.len(),
            );
            let diagnostic = Diagnostic::error(codes::BAD_EXPRESSION, headline)
                .help(format!("write `{}`", self.function.signature));
            return Err(lowering.report(diagnostic, self.span));
        }
        // All are evaluated, so that all their mistakes are found.
        let values: Vec<_> =
            self.arguments.iter().map(|argument| lowering.evaluate(argument)).collect();
        values.into_iter().collect()
    }

    /// Evaluates named arguments that choose among words; the first word of each is the default.
    fn options(
        &self,
        lowering: &mut Lowering<'_>,
        known: &[(&str, &[&str])],
    ) -> Result<Vec<Option<String>>, Reported> {
        for (name, span, _) in self.named {
            if !known.iter().any(|(known, _)| known == name) {
                let headline = format!("`{}` has no argument `{name}`", self.function.name);
                let diagnostic = Diagnostic::error(codes::BAD_EXPRESSION, headline)
                    .help(format!("write `{}`", self.function.signature));
                return Err(lowering.report(diagnostic, *span));
            }
        }
        let mut chosen = Vec::new();
        for (name, words) in known {
            let Some((_, _, expression)) = self.named.iter().find(|(given, ..)| given == name)
            else {
                chosen.push(Some(words[0].to_owned()));
                continue;
            };
            match lowering.evaluate(expression)? {
                Value::Text(None) => chosen.push(None),
                Value::Text(Some(word)) if words.contains(&word.as_str()) => {
                    chosen.push(Some(word))
                }
                _ => {
                    let list: Vec<String> =
                        words.iter().map(|word| format!("\"{word}\"")).collect();
                    let headline = format!("`{name}` is one of {}", list.join(", "));
                    let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline);
                    return Err(lowering.report(diagnostic, expression.span));
                }
            }
        }
        Ok(chosen)
    }
}

/// Applies a function of single values to each position of lists.
fn over_lists(
    lowering: &mut Lowering<'_>,
    values: &[Value],
    span: Span,
    mut apply: impl FnMut(&mut Lowering<'_>, &[Typed], Span) -> Result<Typed, Reported>,
) -> Result<Value, Reported> {
    let at = |position: usize| values.iter().map(|value| item(value, position)).collect::<Vec<_>>();
    match lowering.common_length(values, span)? {
        None => Ok(Value::One(apply(lowering, &at(0), span)?)),
        Some(length) => {
            let items = (0..length).map(|position| apply(lowering, &at(position), span));
            Ok(Value::List(items.collect::<Result<_, _>>()?))
        }
    }
}

/// The items of a list over the experts.
fn list(lowering: &mut Lowering<'_>, value: &Value, span: Span) -> Result<Vec<Typed>, Reported> {
    match value {
        Value::List(items) => Ok(items.clone()),
        other => {
            let headline = format!("a list over the experts is needed, found {}", describe(other));
            Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
        }
    }
}

fn fold(
    lowering: &mut Lowering<'_>,
    op: MapOp,
    values: &[Value],
    span: Span,
) -> Result<Typed, Reported> {
    let items = list(lowering, &values[0], span)?;
    let mut items = items.into_iter();
    let Some(mut result) = items.next() else {
        return Ok(Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar });
    };
    for item in items {
        result = lowering.map_one(op, &[result, item], span)?;
    }
    Ok(result)
}

fn mean(lowering: &mut Lowering<'_>, values: &[Value], span: Span) -> Result<Typed, Reported> {
    let count = list(lowering, &values[0], span)?.len();
    let sum = fold(lowering, MapOp::Add, values, span)?;
    let count = Typed { node: lowering.graph.constant(count.max(1) as f64), kind: Kind::Scalar };
    lowering.map_one(MapOp::Divide, &[sum, count], span)
}

/// A tensor is needed; a scalar has no elements to go over.
fn tensors(lowering: &mut Lowering<'_>, items: &[Typed], span: Span) -> Result<(), Reported> {
    if items.iter().all(|item| item.kind.is_tensor()) {
        return Ok(());
    }
    let headline = "a tensor is needed here, found a scalar";
    Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
}

fn reduce(
    lowering: &mut Lowering<'_>,
    reduction: Reduction,
    items: &[Typed],
    span: Span,
) -> Result<Typed, Reported> {
    reduce_over(lowering, reduction, items, Reach::Tensor, span)
}

fn reduce_over(
    lowering: &mut Lowering<'_>,
    reduction: Reduction,
    items: &[Typed],
    reach: Reach,
    span: Span,
) -> Result<Typed, Reported> {
    tensors(lowering, items, span)?;
    let nodes: Vec<_> = items.iter().map(|item| item.node).collect();
    Ok(Typed {
        node: lowering.graph.add(Node::Reduce(reduction, reach), &nodes),
        kind: Kind::Scalar,
    })
}

fn norm(lowering: &mut Lowering<'_>, items: &[Typed], span: Span) -> Result<Typed, Reported> {
    let square = reduce(lowering, Reduction::SumProduct, &[items[0], items[0]], span)?;
    lowering.map_one(MapOp::Sqrt, &[square], span)
}

fn cosine(lowering: &mut Lowering<'_>, items: &[Typed], span: Span) -> Result<Typed, Reported> {
    let dot = reduce(lowering, Reduction::SumProduct, items, span)?;
    let (left, right) = (norm(lowering, &items[..1], span)?, norm(lowering, &items[1..], span)?);
    let product = lowering.map_one(MapOp::Multiply, &[left, right], span)?;
    let zero = Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar };
    let one = Typed { node: lowering.graph.constant(1.0), kind: Kind::Scalar };
    let is_zero = lowering.map_one(MapOp::Equal, &[product, zero], span)?;
    let divisor = lowering.map_one(MapOp::Where, &[is_zero, one, product], span)?;
    lowering.map_one(MapOp::Divide, &[dot, divisor], span)
}

fn count(lowering: &mut Lowering<'_>, items: &[Typed], span: Span) -> Result<Typed, Reported> {
    tensors(lowering, items, span)?;
    let elements = lowering.inputs.elements as f64;
    Ok(Typed { node: lowering.graph.constant(elements), kind: Kind::Scalar })
}

/// A new fact of scope `model`, or of this tensor.
fn reach(lowering: &mut Lowering<'_>, scope: Option<&str>) -> Reach {
    if scope != Some("model") {
        return Reach::Tensor;
    }
    let key = GroupKey {
        section: lowering.inputs.section,
        step: lowering.step.clone(),
        ordinal: lowering.facts,
    };
    lowering.facts += 1;
    Reach::Group(lowering.graph.group(key))
}

const SCOPES: &[&str] = &["tensor", "model"];

fn keep_largest(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let options = call.options(lowering, &[("ties", &["exact", "inclusive"]), ("scope", SCOPES)]);
    let values = call.positional(lowering, 2)?;
    let options = options?;
    let ties =
        if options[0].as_deref() == Some("inclusive") { Ties::Inclusive } else { Ties::Exact };
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        tensors(lowering, &items[..1], span)?;
        density_is_scalar(lowering, items[1], span)?;
        match lowering.graph.value(items[1].node) {
            Some(density) if density >= 1.0 => return Ok(items[0]),
            Some(density) if density <= 0.0 => return zeroed(lowering, items[0], span),
            _ => {}
        }
        let reach = reach(lowering, options[1].as_deref());
        let node = Node::KeepLargest(ties, reach);
        let node = lowering.graph.add(node, &[items[0].node, items[1].node]);
        Ok(Typed { node, kind: items[0].kind })
    })
}

fn keep_random(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    call.options(lowering, &[])?;
    let values = call.positional(lowering, 2)?;
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        tensors(lowering, &items[..1], span)?;
        density_is_scalar(lowering, items[1], span)?;
        let expert = u64::from(lowering.facts);
        lowering.facts += 1;
        match lowering.graph.value(items[1].node) {
            Some(density) if density >= 1.0 => return Ok(items[0]),
            Some(density) if density <= 0.0 => return zeroed(lowering, items[0], span),
            _ => {}
        }
        let op = format!("keep_random {}", lowering.step);
        let (seed, tensor) = (lowering.inputs.seed, lowering.inputs.tensor);
        let key = mixdown_ops::random::stream_key(seed, &op, tensor, expert);
        let stream = lowering.graph.stream(key);
        let node = lowering.graph.add(Node::KeepRandom(stream), &[items[0].node, items[1].node]);
        Ok(Typed { node, kind: items[0].kind })
    })
}

fn density_is_scalar(lowering: &mut Lowering<'_>, item: Typed, span: Span) -> Result<(), Reported> {
    if item.kind == Kind::Scalar {
        return Ok(());
    }
    let headline = format!("a density is a scalar, found {}", item.kind.name());
    Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
}

fn zeroed(lowering: &mut Lowering<'_>, item: Typed, span: Span) -> Result<Typed, Reported> {
    let zero = Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar };
    lowering.map_one(MapOp::Multiply, &[zero, item], span)
}

fn elect_sign(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let options = call.options(lowering, &[("zero", &["positive", "majority"]), ("scope", SCOPES)]);
    let values = call.positional(lowering, 1)?;
    let (options, span) = (options?, call.span);
    let sum = fold(lowering, MapOp::Add, &values, span)?;
    let constant = |lowering: &mut Lowering<'_>, number: f64| Typed {
        node: lowering.graph.constant(number),
        kind: Kind::Scalar,
    };
    let (zero, one) = (constant(lowering, 0.0), constant(lowering, 1.0));
    let minus = constant(lowering, -1.0);
    let sign = if options[0].as_deref() == Some("majority") && sum.kind.is_tensor() {
        let sign = lowering.map_one(MapOp::Sign, &[sum], span)?;
        let reach = reach(lowering, options[1].as_deref());
        let votes = reduce_over(lowering, Reduction::Sum, &[sign], reach, span)?;
        let majority = lowering.map_one(MapOp::Sign, &[votes], span)?;
        let is_zero = lowering.map_one(MapOp::Equal, &[sum, zero], span)?;
        lowering.map_one(MapOp::Where, &[is_zero, majority, sign], span)?
    } else {
        let positive = lowering.map_one(MapOp::GreaterEqual, &[sum, zero], span)?;
        lowering.map_one(MapOp::Where, &[positive, one, minus], span)?
    };
    let kind = if sign.kind == Kind::Scalar { Kind::Scalar } else { Kind::Sign };
    Ok(Value::One(Typed { node: sign.node, kind }))
}

/// For each expert its value where that has the sign, 0 elsewhere.
fn agreeing(
    lowering: &mut Lowering<'_>,
    values: &[Typed],
    sign: Typed,
    span: Span,
) -> Result<Vec<Typed>, Reported> {
    values.iter().map(|&value| lowering.map_one(MapOp::Agreeing, &[value, sign], span)).collect()
}

fn sum_where_sign(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let values = call.values(lowering, 2)?;
    let (items, sign) = signed(lowering, &values, call.span)?;
    let agreeing = agreeing(lowering, &items, sign, call.span)?;
    Ok(Value::One(fold(lowering, MapOp::Add, &[Value::List(agreeing)], call.span)?))
}

fn mean_where_sign(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let values = call.values(lowering, 3)?;
    let span = call.span;
    let (items, sign) = signed(lowering, &values, span)?;
    let weights: Vec<Typed> = match &values[2] {
        Value::Text(_) => return lowering.common_length(&values, span).map(|_| values[2].clone()),
        Value::One(weight) => vec![*weight; items.len()],
        Value::List(weights) => weights.clone(),
    };
    lowering.common_length(&[values[0].clone(), Value::List(weights.clone())], span)?;
    let agreeing = agreeing(lowering, &items, sign, span)?;
    let zero = Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar };
    let mut shares = Vec::with_capacity(weights.len());
    for (&value, weight) in agreeing.iter().zip(weights) {
        // A value that agrees is not zero, which is what `where` asks.
        shares.push(lowering.map_one(MapOp::Where, &[value, weight, zero], span)?);
    }
    let sum = fold(lowering, MapOp::Add, &[Value::List(agreeing)], span)?;
    let share = fold(lowering, MapOp::Add, &[Value::List(shares)], span)?;
    Ok(Value::One(lowering.map_one(MapOp::DivideUnlessZero, &[sum, share], span)?))
}

/// The values and the sign of a function that counts those that agree.
fn signed(
    lowering: &mut Lowering<'_>,
    values: &[Value],
    span: Span,
) -> Result<(Vec<Typed>, Typed), Reported> {
    let items = list(lowering, &values[0], span)?;
    match &values[1] {
        Value::One(sign) => Ok((items, *sign)),
        other => {
            let headline =
                format!("one sign for each element is needed, found {}", describe(other));
            Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
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
    lowering.map(MapOp::Where, &values, call.span)
}
