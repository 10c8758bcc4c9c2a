//! One method and one tensor become nodes: expressions evaluated over graph values, kinds checked.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use mixdown_diagnostics::{Diagnostic, Span, codes, suggest};
use mixdown_ops::MapOp;
use mixdown_recipe::expression::{BinaryOperator, UnaryOperator};
use mixdown_recipe::{Expression, ExpressionKind, Method};
use mixdown_tensor::DType;

use crate::families::tensor_class::{Class, Known};
use crate::formulas::functions;
use crate::formulas::graph::{Graph, NodeId};
use crate::formulas::kind::{self, Kind};
use crate::formulas::named::Beside;

/// A value of an expression.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A tensor or a scalar.
    One(Typed),
    /// One for each expert.
    List(Vec<Typed>),
    /// A word, of a parameter or in quotes; none where a check does not know it.
    Text(Option<String>),
}

/// A node with its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Typed {
    pub node: NodeId,
    pub kind: Kind,
}

/// What a method is applied to.
pub(crate) struct Inputs<'a> {
    /// The base model's tensor.
    pub base: Option<NodeId>,
    /// The experts' tensors.
    pub experts: &'a [NodeId],
    /// What goes with them beside weights.
    pub beside: &'a Beside,
    /// Values of the parameters, by name.
    pub parameters: &'a BTreeMap<String, Value>,
    /// Elements of the tensor.
    pub elements: u64,
    /// Its shape; none when a method is checked by itself.
    pub shape: Option<&'a [u64]>,
    /// Type in which the base's tensor is stored, or the first expert's; none when a method is checked by
    /// itself.
    pub stored: Option<DType>,
    /// Seed of the recipe.
    pub seed: u64,
    /// What is the output tensor's own.
    pub own: Own<'a>,
    /// What is known of it as a matrix; of use only together with its name.
    pub known: Known,
    /// The recipe and its section: tensors with the same one share facts of scope `model`.
    pub section: (u32, u64),
}

/// Name and place of a tensor, which know what was made of them: what does not depend on them is the same for
/// other tensors.
#[derive(Debug)]
pub(crate) struct Own<'a> {
    name: &'a str,
    depth: Option<f64>,
    asked: Cell<bool>,
    draws: RefCell<Vec<Draw>>,
}

/// A random stream of a tensor, but for the tensor: the op that draws from it, and which expert.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    seed: u64,
    op: String,
    expert: u64,
}

impl Draw {
    /// The key of the stream for a tensor.
    pub fn key(&self, tensor: &str) -> u64 {
        mixdown_ops::random::stream_key(self.seed, &self.op, tensor, self.expert)
    }
}

impl<'a> Own<'a> {
    pub fn new(name: &'a str, depth: Option<f64>) -> Self {
        Self { name, depth, asked: Cell::new(false), draws: RefCell::default() }
    }

    /// Name of the output tensor.
    pub fn name(&self) -> &'a str {
        self.asked.set(true);
        self.name
    }

    /// Place of its layer among the layers, 0 to 1; 0 outside of them. None when a method is checked by
    /// itself.
    pub fn depth(&self) -> Option<f64> {
        self.asked.set(true);
        self.depth
    }

    /// The key of a random stream, which depends on the name and is found anew for others.
    pub fn draw(&self, seed: u64, op: String, expert: u64) -> u64 {
        let draw = Draw { seed, op, expert };
        let key = draw.key(self.name);
        self.draws.borrow_mut().push(draw);
        key
    }

    /// The streams that were asked for, in order.
    pub fn draws(&self) -> Vec<Draw> {
        self.draws.borrow().clone()
    }

    /// Whether anybody got name or place.
    pub fn was_asked(&self) -> bool {
        self.asked.get()
    }
}

/// The evaluation failed and has been reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported;

/// A method applied to one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lowered {
    /// The merged weights.
    pub output: NodeId,
    /// What the tensor is to a method that asks.
    pub class: Option<Class>,
}

/// Applies a method to one tensor. Mistakes go to `diagnostics`, each with its place in the method's file.
pub(crate) fn lower(
    graph: &mut Graph,
    method: &Method,
    inputs: &Inputs<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Lowered, Reported> {
    let mut lowering = Lowering {
        graph,
        method,
        inputs,
        diagnostics,
        names: HashMap::new(),
        step: String::new(),
        facts: 0,
        class: None,
    };
    let output = lowering.run()?;
    Ok(Lowered { output, class: lowering.class })
}

/// The state of one evaluation.
pub(crate) struct Lowering<'a> {
    pub graph: &'a mut Graph,
    pub method: &'a Method,
    pub inputs: &'a Inputs<'a>,
    diagnostics: &'a mut Vec<Diagnostic>,
    names: HashMap<String, Value>,
    /// The step under evaluation.
    pub step: String,
    /// Facts of group scope and random streams made by it so far.
    pub facts: u32,
    /// What the tensor is, once the method has asked.
    pub class: Option<Class>,
}

impl Lowering<'_> {
    fn run(&mut self) -> Result<NodeId, Reported> {
        self.define_inputs();
        let mut failed = false;
        for step in &self.method.steps {
            self.step.clone_from(&step.name.value);
            self.facts = 0;
            match self.evaluate(&step.expression) {
                Ok(value) => {
                    self.names.insert(step.name.value.clone(), value);
                }
                // What depends on it fails in silence: one mistake, one message.
                Err(Reported) => failed = true,
            }
        }
        self.step = "output".to_owned();
        self.facts = 0;
        let output = self.evaluate(&self.method.output)?;
        if failed {
            return Err(Reported);
        }
        self.check_output(&output)
    }

    fn define_inputs(&mut self) {
        let weights = |&node: &NodeId| Typed { node, kind: Kind::Weights };
        if let Some(base) = &self.inputs.base {
            self.names.insert("base".to_owned(), Value::One(weights(base)));
        }
        let experts: Vec<Typed> = self.inputs.experts.iter().map(weights).collect();
        let (n, has_base) = (experts.len() as f64, self.inputs.base.is_some());
        self.names.insert("experts".to_owned(), Value::List(experts));
        let n = self.scalar(n);
        self.names.insert("n".to_owned(), n);
        let has_base = self.scalar(f64::from(has_base));
        self.names.insert("has_base".to_owned(), has_base);
        for (name, value) in self.inputs.parameters {
            self.names.insert(name.clone(), value.clone());
        }
    }

    /// A number known now.
    pub fn scalar(&mut self, number: f64) -> Value {
        Value::One(Typed { node: self.graph.constant(number), kind: Kind::Scalar })
    }

    fn check_output(&mut self, output: &Value) -> Result<NodeId, Reported> {
        let span = self.method.output.span;
        match output {
            Value::One(Typed { node, kind: Kind::Weights | Kind::Number }) => Ok(*node),
            Value::One(Typed { kind: Kind::Delta, .. }) => Err(self.report(
                Diagnostic::error(codes::WRONG_KIND, "the output is a task vector, not weights")
                    .help("add the base: `base + …`"),
                span,
            )),
            other => {
                let headline = format!("the output is {}, not weights", describe(other));
                Err(self.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
            }
        }
    }

    /// Notes a mistake at a place of the method's file.
    pub fn report(&mut self, diagnostic: Diagnostic, span: Span) -> Reported {
        self.diagnostics.push(diagnostic.at(&self.method.file, span));
        Reported
    }

    /// The value of an expression.
    pub fn evaluate(&mut self, expression: &Expression) -> Result<Value, Reported> {
        match &expression.kind {
            ExpressionKind::Number(number) => Ok(self.scalar(*number)),
            ExpressionKind::Boolean(flag) => Ok(self.scalar(f64::from(*flag))),
            ExpressionKind::Text(text) => Ok(Value::Text(Some(text.clone()))),
            ExpressionKind::Name(name) => self.name(name, expression.span),
            ExpressionKind::Index(list, position) => self.index(list, *position, expression.span),
            ExpressionKind::Unary(operator, operand) => {
                let operand = self.evaluate(operand)?;
                let op = match operator {
                    UnaryOperator::Negate => MapOp::Negate,
                    UnaryOperator::Not => MapOp::Not,
                };
                self.map(op, &[operand], expression.span)
            }
            ExpressionKind::Binary(operator, left, right) => {
                let (left, right) = (self.evaluate(left), self.evaluate(right));
                self.binary(*operator, left?, right?, expression.span)
            }
            ExpressionKind::Call { function, function_span, arguments, named } => {
                functions::call(self, function, *function_span, arguments, named, expression.span)
            }
        }
    }

    fn name(&mut self, name: &str, span: Span) -> Result<Value, Reported> {
        if let Some(value) = self.names.get(name) {
            return Ok(value.clone());
        }
        if let Some(value) = self.inputs.beside.value(name) {
            return value;
        }
        if self
            .method
            .steps
            .iter()
            .any(|step| step.name.value == name && step.name.value != self.step)
            && self.is_above(name)
        {
            // The step failed; its own message has been given.
            return Err(Reported);
        }
        if name == "base" {
            let help = "declare it: `inputs: {base: required}`";
            let headline = "the method uses `base` but is applied without one";
            return Err(
                self.report(Diagnostic::error(codes::UNKNOWN_NAME, headline).help(help), span)
            );
        }
        let headline = format!("`{name}` is not defined here");
        let mut diagnostic = Diagnostic::error(codes::UNKNOWN_NAME, headline);
        let above = self.method.steps.iter().map(|step| step.name.value.as_str());
        let above = above.filter(|step| self.is_above(step));
        let known: Vec<&str> = self.names.keys().map(String::as_str).chain(above).collect();
        diagnostic = match suggest::nearest(name, known.iter().copied()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic
                .note("a step sees `base`, `experts`, `n`, `has_base`, the parameters and the steps above it"),
        };
        Err(self.report(diagnostic, span))
    }

    /// Whether the step of this name stands above the one under evaluation.
    fn is_above(&self, name: &str) -> bool {
        let place = |wanted: &str| self.method.steps.iter().position(|s| s.name.value == wanted);
        match (place(name), place(&self.step)) {
            (Some(theirs), Some(ours)) => theirs < ours,
            (Some(_), None) => true,
            _ => false,
        }
    }

    fn index(&mut self, list: &Expression, position: usize, span: Span) -> Result<Value, Reported> {
        let value = self.evaluate(list)?;
        let Value::List(items) = &value else {
            let headline = format!("{} has no positions", describe(&value));
            return Err(self.report(Diagnostic::error(codes::WRONG_KIND, headline), span));
        };
        match items.get(position) {
            Some(&item) => Ok(Value::One(item)),
            None => {
                let headline =
                    format!("there is no position {position} in a list of {}", items.len());
                let help = "positions count from 0";
                Err(self.report(Diagnostic::error(codes::WRONG_INPUTS, headline).help(help), span))
            }
        }
    }

    fn binary(
        &mut self,
        operator: BinaryOperator,
        left: Value,
        right: Value,
        span: Span,
    ) -> Result<Value, Reported> {
        if let (Value::Text(left), Value::Text(right)) = (&left, &right) {
            return self.compare_text(operator, left.as_deref(), right.as_deref(), span);
        }
        if let Some(answer) = self.compare_with_text(operator, &left, &right) {
            return Ok(answer);
        }
        let op = match operator {
            BinaryOperator::Add => MapOp::Add,
            BinaryOperator::Subtract => MapOp::Subtract,
            BinaryOperator::Multiply => MapOp::Multiply,
            BinaryOperator::Divide => MapOp::Divide,
            BinaryOperator::Equal => MapOp::Equal,
            BinaryOperator::NotEqual => MapOp::NotEqual,
            BinaryOperator::Less => MapOp::Less,
            BinaryOperator::LessEqual => MapOp::LessEqual,
            BinaryOperator::Greater => MapOp::Greater,
            BinaryOperator::GreaterEqual => MapOp::GreaterEqual,
            BinaryOperator::And => MapOp::And,
            BinaryOperator::Or => MapOp::Or,
        };
        self.map(op, &[left, right], span)
    }

    /// A number is no word: `learning_rate == "auto"` where the recipe gives a number.
    fn compare_with_text(
        &mut self,
        operator: BinaryOperator,
        left: &Value,
        right: &Value,
    ) -> Option<Value> {
        let is_scalar =
            |value: &Value| matches!(value, Value::One(Typed { kind: Kind::Scalar, .. }));
        match (left, right) {
            (Value::Text(Some(_)), other) | (other, Value::Text(Some(_))) if is_scalar(other) => {
                // A method checked by itself: the parameter may be a number or the word.
                if self.inputs.shape.is_none()
                    && [BinaryOperator::Equal, BinaryOperator::NotEqual].contains(&operator)
                {
                    return Some(Value::One(self.unknown_scalar()));
                }
                match operator {
                    BinaryOperator::Equal => Some(self.scalar(0.0)),
                    BinaryOperator::NotEqual => Some(self.scalar(1.0)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn compare_text(
        &mut self,
        operator: BinaryOperator,
        left: Option<&str>,
        right: Option<&str>,
        span: Span,
    ) -> Result<Value, Reported> {
        let wanted = match operator {
            BinaryOperator::Equal => true,
            BinaryOperator::NotEqual => false,
            _ => {
                let headline = "words can only be compared with `==` and `!=`";
                return Err(self.report(Diagnostic::error(codes::WRONG_KIND, headline), span));
            }
        };
        match (left, right) {
            (Some(left), Some(right)) => Ok(self.scalar(f64::from((left == right) == wanted))),
            _ => Ok(Value::One(self.unknown_scalar())),
        }
    }

    /// A scalar that no check knows: stands for a parameter when a method is checked by itself.
    pub fn unknown_scalar(&mut self) -> Typed {
        let marker = self.graph.leaf(crate::plan::Leaf::Rows(u32::MAX));
        let reduction = mixdown_ops::program::Reduction::Sum;
        let reach = crate::formulas::graph::Reach::Tensor;
        let node =
            self.graph.add(crate::formulas::graph::Node::Reduce(reduction, reach), &[marker]);
        Typed { node, kind: Kind::Scalar }
    }

    /// An elementwise op over values; over lists it is applied to each position.
    pub fn map(&mut self, op: MapOp, values: &[Value], span: Span) -> Result<Value, Reported> {
        let Some(length) = self.common_length(values, span)? else {
            let items: Vec<Typed> = values.iter().map(|value| item(value, 0)).collect();
            return Ok(Value::One(self.map_one(op, &items, span)?));
        };
        let mut results = Vec::with_capacity(length);
        for position in 0..length {
            let items: Vec<Typed> = values.iter().map(|value| item(value, position)).collect();
            results.push(self.map_one(op, &items, span)?);
        }
        Ok(Value::List(results))
    }

    /// The length of the lists among values, which must agree; none when there is no list.
    pub fn common_length(
        &mut self,
        values: &[Value],
        span: Span,
    ) -> Result<Option<usize>, Reported> {
        let mut common = None;
        for value in values {
            match value {
                Value::Text(_) => {
                    let headline = "a word stands where a number is needed";
                    return Err(self.report(Diagnostic::error(codes::WRONG_KIND, headline), span));
                }
                Value::One(_) => {}
                Value::List(items) => match common {
                    None => common = Some(items.len()),
                    Some(length) if length == items.len() => {}
                    Some(length) => {
                        let headline =
                            format!("a list of {length} meets a list of {}", items.len());
                        return Err(
                            self.report(Diagnostic::error(codes::WRONG_KIND, headline), span)
                        );
                    }
                },
            }
        }
        Ok(common)
    }

    /// An elementwise op over single values.
    pub fn map_one(&mut self, op: MapOp, items: &[Typed], span: Span) -> Result<Typed, Reported> {
        let kinds: Vec<Kind> = items.iter().map(|item| item.kind).collect();
        let kind = kind::of_map(op, &kinds)
            .map_err(|words| self.report(Diagnostic::error(codes::WRONG_KIND, words), span))?;
        if op == MapOp::Divide && self.graph.value(items[1].node) == Some(0.0) {
            let headline =
                format!("`{}` of method `{}` divides by zero", self.step, self.method.name.value);
            let mut diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline);
            if self.inputs.parameters.contains_key("normalize") {
                diagnostic = diagnostic
                    .note(format!("at tensor `{}`", self.inputs.own.name()))
                    .help("weights that add up to 0 cannot be normalized; set `normalize: false`");
            }
            return Err(self.report(diagnostic, span));
        }
        let nodes: Vec<NodeId> = items.iter().map(|item| item.node).collect();
        Ok(Typed { node: self.graph.map(op, &nodes), kind })
    }
}

/// The value at a position of a list; a single value is the same at all positions.
pub(crate) fn item(value: &Value, position: usize) -> Typed {
    match value {
        Value::One(item) => *item,
        Value::List(items) => items[position],
        Value::Text(_) => unreachable!("`common_length` refuses words"),
    }
}

/// What a value is, for messages.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::One(item) => item.kind.name().to_owned(),
        Value::List(items) => match items.first() {
            Some(item) => format!("a list of {}", item.kind.name().trim_start_matches("a ")),
            None => "an empty list".to_owned(),
        },
        Value::Text(_) => "a word".to_owned(),
    }
}
