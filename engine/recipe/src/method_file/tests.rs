//! Methods that are read, and every message about those that are not.

use mixdown_diagnostics::render::{Color, render_all};

use super::*;

const TIES: &str = "\
method: ties
title: TIES-Merging
source: Yadav et al. 2023, arXiv:2306.01708
summary: Trim each task vector, elect one sign per element, average the values that agree.
inputs:
  base: required
  experts: {at_least: 1}
parameters:
  density: {per: expert, type: fraction, default: 1.0, doc: Share of elements kept.}
  weight: {per: expert, type: real, doc: Weight of the expert., aliases: [w]}
  scope: {type: choice, choices: [tensor, model], default: tensor, doc: Where the threshold is found.}
  lambda: {default: 1.0, at_least: 0, doc: Factor.}
steps:
  delta: experts - base
  trimmed: keep_largest(delta, density, scope=scope)
output: base + lambda * trimmed
";

fn read(text: &str) -> Result<Method, Vec<Diagnostic>> {
    read_method(&Source::new("m.yaml", text))
}

#[test]
fn a_method_is_read_whole() {
    let method = read(TIES).unwrap();
    assert_eq!((method.name.value.as_str(), method.base), ("ties", BaseUse::Required));
    assert_eq!(method.experts, ExpertCount { at_least: 1, at_most: None });
    let kinds: Vec<_> =
        method.parameters.iter().map(|p| (p.name.value.as_str(), p.per, p.kind.clone())).collect();
    assert_eq!(
        kinds,
        [
            ("density", Per::Expert, ParameterKind::Fraction),
            ("weight", Per::Expert, ParameterKind::Real(Bounds::default())),
            ("scope", Per::Merge, ParameterKind::Choice(vec!["tensor".into(), "model".into()])),
            (
                "lambda",
                Per::Merge,
                ParameterKind::Real(Bounds { at_least: Some(0.0), ..Bounds::default() })
            ),
        ]
    );
    assert_eq!(method.parameters[1].aliases, ["w"]);
    assert_eq!(method.parameters[2].default, Some(Scalar::Text("tensor".into())));
    assert_eq!(method.steps[1].expression.to_string(), "keep_largest(delta, density, scope=scope)");
    assert_eq!(method.steps[1].expression.span, Span { line: 15, column: 12, length: 41 });
    assert_eq!(method.steps[1].span, Span { line: 15, column: 3, length: 50 });
    assert_eq!(method.output.to_string(), "base + lambda * trimmed");
}

#[test]
fn what_a_method_takes_is_found_from_its_formulas() {
    let base = |output: &str| {
        read(&format!("method: m\ntitle: t\nsource: s\nsummary: s\noutput: {output}\n"))
            .unwrap()
            .base
    };
    assert_eq!(base("mean(experts)"), BaseUse::Ignored);
    assert_eq!(base("base + mean(experts)"), BaseUse::Required);
    assert_eq!(base("where(has_base, base, experts)"), BaseUse::Optional);
}

#[test]
fn what_must_go_with_models_is_declared_or_found() {
    use crate::recipe::Attachment::{Gram, Importance};
    let check = |rest: &str, attachments: &[Attachment], reference: bool| {
        let method =
            read(&format!("method: m\ntitle: t\nsource: s\nsummary: s\n{rest}\n")).unwrap();
        assert_eq!((&*method.attachments, method.reference), (attachments, reference), "{rest}");
    };
    check("output: mean(experts)", &[], false);
    check("output: sum(experts * importance)", &[Importance], false);
    check("output: mean(experts + reference)", &[], true);
    let declared = "inputs: {gram: required, importance: required, reference: required}";
    check(&format!("{declared}\noutput: mean(experts)"), &[Importance, Gram], true);
}

#[test]
fn mistakes() {
    let head = "method: m\ntitle: t\nsource: s\nsummary: s\n";
    let cases = [
        "method: m\noutpt: base\n".to_owned(),
        format!(
            "{head}output: base\ninputs: {{base: needed, experts: {{exactly: 2, at_least: 1}}, expert: 1}}\nmissing: copy\n"
        ),
        format!("{head}output: base\ninputs: {{experts: {{at_least: 3, at_most: 2}}}}\n"),
        format!(
            "{head}steps: {{gram: base}}\noutput: base\ninputs: {{gram: optional, reference: true}}\n"
        ),
        format!(
            "{head}output: base\nparameters: {{a: {{type: rael}}, b: {{type: choice}}, c: {{type: choice, choices: []}}, d: {{}}, e: {{per: model, type: real}}}}\n"
        ),
        format!(
            "{head}output: base\nparameters: {{a: {{type: fraction, default: 20}}, b: {{type: integer, default: 1.5}}, c: {{type: boolean, default: 1}}, d: {{type: choice, choices: [one, two], default: tow}}, e: {{type: real, at_least: 0, default: -1}}}}\n"
        ),
        format!(
            "{head}output: base\nparameters: {{a: {{type: boolean, at_least: 1}}, c: {{type: fraction, above: 0}}, d: {{type: real, above: 0, default: 0}}, b: {{type: real, aliases: [a]}}, n: {{type: real}}, λ: {{type: real}}}}\n"
        ),
        format!(
            "{head}parameters: {{a: {{type: real}}}}\nsteps: {{x: base, x: base, a: base, base: 1, experts: 2, n: 3}}\noutput: x\n"
        ),
        format!("{head}steps:\n  x: λ * base\n  y: a b\n  z: [1]\noutput: \"base + \\\"\"\n"),
        "[]".to_owned(),
    ];
    let mut out = String::new();
    for case in cases {
        let errors = read(&case).unwrap_err();
        out.push_str(&format!("{:=<60}\n{}\n", "", render_all(&errors, Color::Plain)));
    }
    insta::assert_snapshot!("mistakes", out);
}
