//! Formulas of methods typeset as MathML, which browsers show without further programs.

use std::collections::BTreeSet;

use mixdown_recipe::expression::{BinaryOperator, UnaryOperator};
use mixdown_recipe::method::Per;
use mixdown_recipe::{Expression, ExpressionKind, Method};

/// Functions that make one value of the list of experts. A test holds this list and the next equal to the
/// functions that take `values`.
const ONE_OF_ALL: &[&str] = &[
    "block_owner",
    "calibrate_spectrum",
    "combine_factors",
    "core_space",
    "elect_sign",
    "filtered_interference",
    "fold_projected",
    "from_coordinates",
    "interference",
    "interference_peak",
    "is_coordinate",
    "isotropic_common",
    "largest",
    "largest_rank",
    "mean",
    "mean_cosine",
    "mean_rotation",
    "mean_where_sign",
    "own_covariances",
    "own_grams",
    "regression",
    "shared_cover",
    "shared_shift",
    "smallest",
    "sum",
    "sum_where_sign",
    "task_singular_vectors",
];

/// Functions that take the list and give a list.
#[cfg(test)]
const EACH_OF_ALL: &[&str] =
    &["adapter_scale", "center", "coordinates", "karcher_weights", "ordinal"];

/// How tightly what stands there binds.
type Binding = u8;
const EITHER: Binding = 0;
const BOTH: Binding = 1;
const COMPARED: Binding = 2;
const SUM: Binding = 3;
const PRODUCT: Binding = 4;
const SINGLE: Binding = 5;

/// The formulas of a method, one line for each step, and the output.
pub fn formulas(method: &Method) -> String {
    let mut lists: BTreeSet<&str> = ["experts", "importance", "gram"].into();
    lists.extend(
        method
            .parameters
            .iter()
            .filter(|parameter| parameter.per == Per::Expert)
            .map(|parameter| parameter.name.value.as_str()),
    );
    let mut rows = String::new();
    for step in &method.steps {
        let right = Typeset { lists: &lists }.expression(&step.expression);
        if is_list(&step.expression, &lists) {
            lists.insert(&step.name.value);
        }
        let left = Typeset { lists: &lists }.name(&step.name.value);
        rows.push_str(&row(&left, &right));
    }
    let right = Typeset { lists: &lists }.expression(&method.output);
    rows.push_str(&row("<mi>merged weights</mi>", &right));
    format!("<math display=\"block\">\n<mtable class=\"formulas\">\n{rows}</mtable>\n</math>\n")
}

fn row(left: &str, right: &str) -> String {
    format!(
        "<mtr><mtd class=\"left-side\">{left}</mtd><mtd><mo>=</mo></mtd><mtd class=\"right-side\">{right}</mtd></mtr>\n"
    )
}

/// Whether an expression has a value for each expert.
fn is_list(expression: &Expression, lists: &BTreeSet<&str>) -> bool {
    match &expression.kind {
        ExpressionKind::Name(name) => lists.contains(name.as_str()),
        ExpressionKind::Unary(_, inner) => is_list(inner, lists),
        ExpressionKind::Binary(_, left, right) => is_list(left, lists) || is_list(right, lists),
        ExpressionKind::Call { function, arguments, named, .. } => {
            let of_sum = named.iter().any(|(name, _, value)| {
                name == "of" && value.kind == ExpressionKind::Text("sum".to_owned())
            });
            let is_one = ONE_OF_ALL.contains(&function.as_str()) || of_sum;
            !is_one && arguments.iter().any(|argument| is_list(argument, lists))
        }
        ExpressionKind::Index(..)
        | ExpressionKind::Number(_)
        | ExpressionKind::Boolean(_)
        | ExpressionKind::Text(_) => false,
    }
}

struct Typeset<'a> {
    lists: &'a BTreeSet<&'a str>,
}

impl Typeset<'_> {
    fn expression(&self, expression: &Expression) -> String {
        self.bound(expression).0
    }

    /// In parentheses where it binds less tightly than its place needs.
    fn within(&self, expression: &Expression, least: Binding) -> String {
        let (text, binding) = self.bound(expression);
        if binding < least { format!("<mrow><mo>(</mo>{text}<mo>)</mo></mrow>") } else { text }
    }

    fn name(&self, name: &str) -> String {
        let symbol = match name {
            "base" => return "<msub><mi>θ</mi><mn>0</mn></msub>".to_owned(),
            "experts" => "θ".to_owned(),
            "delta" => "τ".to_owned(),
            "importance" => "F".to_owned(),
            "gram" => "G".to_owned(),
            "lambda" => "λ".to_owned(),
            "alpha" => "α".to_owned(),
            "beta" => "β".to_owned(),
            "gamma" => "γ".to_owned(),
            "epsilon" => "ε".to_owned(),
            "eta" => "η".to_owned(),
            "rho" => "ρ".to_owned(),
            "sigma" => "σ".to_owned(),
            "omega" => "ω".to_owned(),
            "mu" => "μ".to_owned(),
            other => escaped(&other.replace('_', "\u{a0}")),
        };
        if self.lists.contains(name) {
            format!("<msub><mi>{symbol}</mi><mi>i</mi></msub>")
        } else {
            format!("<mi>{symbol}</mi>")
        }
    }

    fn bound(&self, expression: &Expression) -> (String, Binding) {
        match &expression.kind {
            ExpressionKind::Number(number) => (number_text(*number), SINGLE),
            ExpressionKind::Boolean(value) => (format!("<mtext>{value}</mtext>"), SINGLE),
            ExpressionKind::Text(text) => (format!("<mtext>{}</mtext>", escaped(text)), SINGLE),
            ExpressionKind::Name(name) => (self.name(name), SINGLE),
            ExpressionKind::Index(inner, position) => {
                let one = match &inner.kind {
                    ExpressionKind::Name(name) if name == "experts" => "<mi>θ</mi>".to_owned(),
                    _ => Typeset { lists: &BTreeSet::new() }.within(inner, SINGLE),
                };
                (format!("<msub>{one}<mn>{}</mn></msub>", position + 1), SINGLE)
            }
            ExpressionKind::Unary(UnaryOperator::Negate, inner) => {
                (format!("<mrow><mo>−</mo>{}</mrow>", self.within(inner, PRODUCT)), SUM)
            }
            ExpressionKind::Unary(UnaryOperator::Not, inner) => (
                format!("<mrow><mtext>not&#160;</mtext>{}</mrow>", self.within(inner, SINGLE)),
                BOTH,
            ),
            ExpressionKind::Binary(operator, left, right) => self.binary(*operator, left, right),
            ExpressionKind::Call { function, arguments, named, .. } => {
                self.call(function, arguments, named)
            }
        }
    }

    fn binary(
        &self,
        operator: BinaryOperator,
        left: &Expression,
        right: &Expression,
    ) -> (String, Binding) {
        let between = |sign: &str, least: (Binding, Binding), binding| {
            let (left, right) = (self.within(left, least.0), self.within(right, least.1));
            (format!("<mrow>{left}{sign}{right}</mrow>"), binding)
        };
        match operator {
            BinaryOperator::Divide => {
                let (left, right) = (self.expression(left), self.expression(right));
                (format!("<mfrac>{left}{right}</mfrac>"), SINGLE)
            }
            BinaryOperator::Multiply => between("<mo>·</mo>", (PRODUCT, PRODUCT), PRODUCT),
            BinaryOperator::Add => between("<mo>+</mo>", (SUM, SUM), SUM),
            BinaryOperator::Subtract => between("<mo>−</mo>", (SUM, PRODUCT), SUM),
            BinaryOperator::Equal => between("<mo>=</mo>", (SUM, SUM), COMPARED),
            BinaryOperator::NotEqual => between("<mo>≠</mo>", (SUM, SUM), COMPARED),
            BinaryOperator::Less => between("<mo>&lt;</mo>", (SUM, SUM), COMPARED),
            BinaryOperator::LessEqual => between("<mo>≤</mo>", (SUM, SUM), COMPARED),
            BinaryOperator::Greater => between("<mo>&gt;</mo>", (SUM, SUM), COMPARED),
            BinaryOperator::GreaterEqual => between("<mo>≥</mo>", (SUM, SUM), COMPARED),
            BinaryOperator::And => between("<mtext>&#160;and&#160;</mtext>", (BOTH, BOTH), BOTH),
            BinaryOperator::Or => {
                between("<mtext>&#160;or&#160;</mtext>", (EITHER, EITHER), EITHER)
            }
        }
    }

    fn call(
        &self,
        function: &str,
        arguments: &[Expression],
        named: &[(String, mixdown_diagnostics::Span, Expression)],
    ) -> (String, Binding) {
        let fenced = |open: &str, close: &str, below: &str| {
            let inner = self.expression(&arguments[0]);
            let fence = format!("<mrow><mo>{open}</mo>{inner}<mo>{close}</mo></mrow>");
            let text = match below {
                "" => fence,
                below => format!("<msub>{fence}{below}</msub>"),
            };
            (text, SINGLE)
        };
        let over_all = |before: &str| {
            let inner = self.within(&arguments[0], PRODUCT);
            let sign = "<munder><mo>∑</mo><mi>i</mi></munder>";
            (format!("<mrow>{before}{sign}{inner}</mrow>"), PRODUCT)
        };
        match (function, arguments.len()) {
            ("where", 3) => {
                return (self.cases(&arguments[0], &arguments[1], &arguments[2]), SINGLE);
            }
            ("sum", 1) if is_list(&arguments[0], self.lists) => return over_all(""),
            ("mean", 1) if is_list(&arguments[0], self.lists) => {
                return over_all("<mfrac><mn>1</mn><mi>n</mi></mfrac>");
            }
            ("abs", 1) => return fenced("|", "|", ""),
            ("floor", 1) => return fenced("⌊", "⌋", ""),
            ("ceil", 1) => return fenced("⌈", "⌉", ""),
            ("norm1", 1) if named.is_empty() => return fenced("‖", "‖", "<mn>1</mn>"),
            ("norm", 1) if named.is_empty() => return fenced("‖", "‖", ""),
            ("norm2", 1) if named.is_empty() => {
                let (inner, binding) = fenced("‖", "‖", "");
                return (format!("<msup>{inner}<mn>2</mn></msup>"), binding);
            }
            ("sqrt", 1) => {
                return (format!("<msqrt>{}</msqrt>", self.expression(&arguments[0])), SINGLE);
            }
            ("power", 2) => {
                let (one, two) =
                    (self.within(&arguments[0], SINGLE), self.expression(&arguments[1]));
                return (format!("<msup>{one}{two}</msup>"), SINGLE);
            }
            ("exp", 1) => {
                return (
                    format!("<msup><mi>e</mi>{}</msup>", self.expression(&arguments[0])),
                    SINGLE,
                );
            }
            ("dot", 2) if named.is_empty() => {
                let (one, two) = (self.expression(&arguments[0]), self.expression(&arguments[1]));
                let text = format!("<mrow><mo>⟨</mo>{one}<mo>,</mo>{two}<mo>⟩</mo></mrow>");
                return (text, SINGLE);
            }
            _ => {}
        }
        let function = match function {
            "minimum" | "smallest" => "min".to_owned(),
            "maximum" | "largest" => "max".to_owned(),
            "acos" => "arccos".to_owned(),
            other => escaped(&other.replace('_', "\u{a0}")),
        };
        let mut inside: Vec<String> =
            arguments.iter().map(|argument| self.expression(argument)).collect();
        inside.extend(named.iter().map(|(name, _, value)| match &value.kind {
            ExpressionKind::Name(same) if same == name => self.name(name),
            _ => {
                let name = escaped(&name.replace('_', "\u{a0}"));
                format!("<mrow><mtext>{name}</mtext><mo>=</mo>{}</mrow>", self.expression(value))
            }
        }));
        let inside = inside.join("<mo>,</mo>");
        (format!("<mrow><mi>{function}</mi><mo>(</mo>{inside}<mo>)</mo></mrow>"), SINGLE)
    }

    /// `where` as a brace with a line for each case.
    fn cases(&self, condition: &Expression, then: &Expression, otherwise: &Expression) -> String {
        let mut rows = String::new();
        let (mut condition, mut then, mut otherwise) = (condition, then, otherwise);
        loop {
            rows.push_str(&format!(
                "<mtr><mtd>{}</mtd><mtd><mtext>if&#160;</mtext>{}</mtd></mtr>",
                self.expression(then),
                self.expression(condition)
            ));
            match &otherwise.kind {
                ExpressionKind::Call { function, arguments, .. }
                    if function == "where" && arguments.len() == 3 =>
                {
                    (condition, then, otherwise) = (&arguments[0], &arguments[1], &arguments[2]);
                }
                _ => break,
            }
        }
        rows.push_str(&format!(
            "<mtr><mtd>{}</mtd><mtd><mtext>otherwise</mtext></mtd></mtr>",
            self.expression(otherwise)
        ));
        format!("<mrow><mo>{{</mo><mtable class=\"cases\">{rows}</mtable></mrow>")
    }
}

fn number_text(number: f64) -> String {
    if number != 0.0 && !(1e-4..1e15).contains(&number.abs()) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent = exponent.replace('-', "−");
        let power = format!("<msup><mn>10</mn><mn>{exponent}</mn></msup>");
        return match digits {
            "1" => power,
            digits => format!("<mrow><mn>{digits}</mn><mo>·</mo>{power}</mrow>"),
        };
    }
    format!("<mn>{number}</mn>")
}

/// As text of a page.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use mixdown_plan::functions::FUNCTIONS;
    use mixdown_recipe::expression::parse;

    use super::*;

    fn typeset(text: &str) -> String {
        let lists: BTreeSet<&str> = ["experts", "delta", "weight"].into();
        Typeset { lists: &lists }.expression(&parse(text).unwrap())
    }

    #[test]
    fn products_of_sums_have_parentheses() {
        let check = |text, expected: &str| assert_eq!(typeset(text), expected, "{text}");
        check("a * b", "<mrow><mi>a</mi><mo>·</mo><mi>b</mi></mrow>");
        check(
            "(a - b) * c",
            "<mrow><mrow><mo>(</mo><mrow><mi>a</mi><mo>−</mo><mi>b</mi></mrow><mo>)</mo></mrow><mo>·</mo><mi>c</mi></mrow>",
        );
        check(
            "a - (b - c)",
            "<mrow><mi>a</mi><mo>−</mo><mrow><mo>(</mo><mrow><mi>b</mi><mo>−</mo><mi>c</mi></mrow><mo>)</mo></mrow></mrow>",
        );
        check(
            "a / (b + c)",
            "<mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mi>c</mi></mrow></mfrac>",
        );
        check(
            "a and (b or c)",
            "<mrow><mi>a</mi><mtext>&#160;and&#160;</mtext><mrow><mo>(</mo><mrow><mi>b</mi><mtext>&#160;or&#160;</mtext><mi>c</mi></mrow><mo>)</mo></mrow></mrow>",
        );
        check("1e-7", "<msup><mn>10</mn><mn>−7</mn></msup>");
    }

    #[test]
    fn experts_have_an_index_and_sums_run_over_it() {
        assert_eq!(
            typeset("sum(weight * delta)"),
            "<mrow><munder><mo>∑</mo><mi>i</mi></munder><mrow><msub><mi>weight</mi><mi>i</mi></msub><mo>·</mo><msub><mi>τ</mi><mi>i</mi></msub></mrow></mrow>"
        );
        assert_eq!(typeset("experts[0]"), "<msub><mi>θ</mi><mn>1</mn></msub>");
    }

    #[test]
    fn choices_are_cases() {
        let cases = typeset("where(a, 1, where(b, 2, 3))");
        assert_eq!(cases.matches("<mtr>").count(), 3, "{cases}");
        assert!(cases.contains("otherwise"));
    }

    #[test]
    fn what_takes_all_experts_is_known() {
        let mut taking: Vec<&str> = FUNCTIONS
            .iter()
            .filter(|function| {
                let inside = function.signature.split_once('(').map_or("", |(_, inside)| inside);
                inside.split([',', ')']).any(|one| one.trim() == "values")
            })
            .map(|function| function.name)
            .collect();
        let mut known = [ONE_OF_ALL, EACH_OF_ALL].concat();
        taking.sort_unstable();
        known.sort_unstable();
        assert_eq!(taking, known);
    }
}
