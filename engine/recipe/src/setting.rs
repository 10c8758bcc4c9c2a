//! Values of parameters as a recipe writes them: scalars, gradients over layers, conditions on names.

use mixdown_diagnostics::Span;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place in the recipe.
    pub span: Span,
}

/// One scalar of YAML.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// `true`, `yes`.
    Boolean(bool),
    /// `3`, `0.5`, `.inf`.
    Number(f64),
    /// Anything else. Numbers that YAML 1.1 leaves as text (`1e-5`) are converted where a number is wanted.
    Text(String),
}

/// The truth value that mergekit takes a text for, such as a quoted `"yes"`.
pub fn truth_of(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "t" | "y" => Some(true),
        "false" | "no" | "off" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// What a parameter is set to.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// The same everywhere.
    Scalar(Spanned<Scalar>),
    /// Knots over the layers of a slice.
    Gradient(Vec<Spanned<Scalar>>),
    /// The first whose filter matches the tensor's name. When none does, the next level of precedence speaks.
    Conditional(Vec<Condition>),
}

/// One entry of a conditional setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// A case-sensitive substring of the tensor's name; none or `*` matches all.
    pub filter: Option<Spanned<String>>,
    /// A scalar or a gradient.
    pub value: Setting,
}

/// `parameters:` at one level: name, place of the name, place of the value, value. In order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(pub Vec<NamedSetting>);

/// One parameter of a level.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedSetting {
    /// Name of the parameter, at its place.
    pub name: Spanned<String>,
    /// Its value.
    pub setting: Setting,
    /// Place of the value as a whole.
    pub span: Span,
}

impl Settings {
    /// The setting of this name.
    pub fn get(&self, name: &str) -> Option<&NamedSetting> {
        self.0.iter().find(|entry| entry.name.value == name)
    }
}
