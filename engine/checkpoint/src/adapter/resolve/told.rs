//! What is told of an adapter's names that do not fit its base: faults, layers together, and warnings.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Code, Diagnostic, codes};

use super::Resolver;
use crate::adapter::names::{Role, role_of, without_numbers};
use crate::shown::{grouped, shown, some_of};

/// Names listed in one message; layers count once.
const LISTED: usize = 20;

impl Resolver<'_> {
    pub(super) fn half(&mut self, module: &str, there: &str, lacking: &str) {
        let facts = vec![
            ("there".to_owned(), format!("`{there}`")),
            ("missing".to_owned(), format!("`{lacking}`")),
        ];
        let help = Some("fetch the adapter again, or save it again");
        let headline = "the update of `{}` has only one of its two factors";
        self.faults.add(codes::ADAPTER_BROKEN, headline, module, self.shown(), facts, help);
    }

    pub(super) fn twice(&mut self, position: u32, other: u32, name: &str) {
        let other = &self.adapter.tensors()[other.min(position) as usize];
        let headline = format!("`{}` is in the adapter under two names", shown(name));
        let fault = self.fault(codes::ADAPTER_BROKEN, headline);
        self.faults.push(fault.fact("other", format!("`{}`", shown(&other.name))));
    }

    pub fn collision(&mut self, base_tensor: u32, first: &str, second: &str) {
        let target = &self.base.tensors()[base_tensor as usize];
        let facts = vec![
            ("first".to_owned(), format!("`{}`", shown(&without_numbers(first)))),
            ("second".to_owned(), format!("`{}`", shown(&without_numbers(second)))),
        ];
        let headline = "two parts of the adapter change `{}`";
        self.faults.add(
            codes::ADAPTER_UNMATCHED,
            headline,
            &target.name,
            self.shown(),
            facts,
            None,
        );
    }

    pub(super) fn several(&mut self, name: &str, found: &[String]) {
        let found: Vec<String> = found.iter().map(|name| without_numbers(name)).collect();
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        let facts = vec![("base".to_owned(), some_of(&found))];
        let headline = "`{}` may be any of several tensors of the base";
        self.faults.add(codes::ADAPTER_UNMATCHED, headline, name, self.shown(), facts, None);
    }

    /// Lists all that the base does not have, layers together.
    pub(super) fn unmatched(&mut self, names: &[String], all: usize, matched: usize) {
        let base = self.base.by_name().next().map(|first| self.base.shard_of(first).shown.clone());
        if all == 0 {
            let fault = self.fault(codes::ADAPTER_BROKEN, "the adapter changes no tensor".into());
            if self.faults.is_empty() {
                self.faults.push(fault);
            }
            return;
        }
        let Some(first) = names.first() else { return };
        let headline = match (matched, names.len() == all) {
            (0, true) => "the adapter fits nothing in the base".to_owned(),
            _ => format!(
                "{} of {} tensors that the adapter changes are not in the base",
                grouped(names.len() as u64),
                grouped(all as u64)
            ),
        };
        let mut fault = self.fault(codes::ADAPTER_UNMATCHED, headline);
        let mut groups: Vec<(String, &str, usize)> = Vec::new();
        let mut place: HashMap<String, usize> = HashMap::new();
        for name in names {
            let group = without_numbers(name);
            let next = groups.len();
            match *place.entry(group.clone()).or_insert(next) {
                at if at < next => groups[at].2 += 1,
                _ => groups.push((group, name, 1)),
            }
        }
        for (group, name, count) in groups.iter().take(LISTED) {
            let text = match count {
                1 => format!("`{}`", shown(name)),
                _ => format!("`{}`, {} times", shown(group), grouped(*count as u64)),
            };
            fault = fault.fact("not there", text);
        }
        if groups.len() > LISTED {
            fault = fault.note(format!("{} more names are not shown", groups.len() - LISTED));
        }
        fault = fault.fact("base", base.unwrap_or_else(|| "no tensor".to_owned()));
        if let Some(base) = &self.config.base_model {
            fault = fault.fact("trained on", format!("`{}`", shown(base)));
        }
        let near = nearest(first, self.base.by_name().map(|tensor| tensor.name.as_str()));
        let fault = match near {
            Some(near) if matched > 0 => fault.help(format!("did you mean `{}`?", shown(near))),
            _ if matched == 0 => fault.help("name the base that the adapter was trained on"),
            _ => fault,
        };
        self.faults.push(fault);
    }

    /// Leaves out, and tells, what the adapter does to parts of a pipeline of which nothing is in the base while
    /// another part is; returns how many modules these are.
    pub(super) fn other_parts<'n>(
        &mut self,
        modules: impl Iterator<Item = &'n String>,
        unmatched: &mut Vec<String>,
    ) -> usize {
        let Some(dialect) = self.config.dialect else { return 0 };
        let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for module in modules {
            counts.entry(dialect.split(module).0).or_default()[0] += 1;
        }
        for name in unmatched.iter() {
            counts.entry(dialect.split(name).0).or_default()[1] += 1;
        }
        if counts.values().all(|[all, lacking]| lacking >= all) {
            return 0;
        }
        let mut left = 0;
        for (group, [all, lacking]) in counts {
            if group.is_empty() || lacking < all {
                continue;
            }
            left += all;
            unmatched.retain(|name| dialect.split(name).0 != group);
            let headline = format!(
                "{} updates whose names begin with `{group}` are left out: they are for another part of the pipeline",
                grouped(all as u64)
            );
            let help = "name that part as another base with this adapter, if it is to be merged";
            let warning = Diagnostic::warning(codes::PART_LEFT_OUT, headline);
            self.warnings.push(warning.in_file(self.shown()).help(help));
        }
        left
    }

    /// Modules that the configuration says were saved whole must be: peft fails without them.
    pub(super) fn not_saved(&mut self, is_replaced: impl Fn(u32) -> bool) {
        for module in &self.config.modules_to_save {
            let inner = format!(".{module}.");
            let lacking: Vec<&str> = (0_u32..)
                .zip(self.base.tensors())
                .filter(|(position, tensor)| {
                    format!(".{}", tensor.name).contains(&inner) && !is_replaced(*position)
                })
                .map(|(_, tensor)| tensor.name.as_str())
                .collect();
            if !lacking.is_empty() {
                let headline =
                    format!("the adapter lacks `{}`, which it says it saved", shown(module));
                let fault = self.fault(codes::ADAPTER_BROKEN, headline);
                let fault = fault.fact("missing", some_of(&lacking));
                self.faults.push(
                    fault.help(
                        "save the adapter again, or remove the module from `modules_to_save`",
                    ),
                );
            }
        }
    }

    /// A pattern that matches nothing may be a name of another version, and a scale be wrong.
    pub(super) fn dead_patterns(&self) -> Vec<Diagnostic> {
        let modules: Vec<String> = self
            .adapter
            .tensors()
            .iter()
            .filter_map(|tensor| match role_of(&tensor.name, self.config.kind) {
                Role::Factor { module, .. }
                | Role::Parameter { module, .. }
                | Role::OfKind { module, .. } => Some(module),
                _ => None,
            })
            .collect();
        // Patterns of parameters go with the parameter's name, too.
        let last = |parameter: &String| parameter.rsplit('.').next().unwrap_or_default().to_owned();
        let parameters: BTreeSet<String> = self.config.target_parameters.iter().map(last).collect();
        let of_module = |module: &String| {
            let named = parameters.iter().map(|own| format!("{module}.{own}")).collect::<Vec<_>>();
            named.into_iter().chain([module.clone()])
        };
        let modules: Vec<String> = modules.iter().flat_map(of_module).collect();
        let ranks = self.config.rank_pattern.iter().map(|(pattern, _)| ("rank_pattern", pattern));
        let alphas =
            self.config.alpha_pattern.iter().map(|(pattern, _)| ("alpha_pattern", pattern));
        let mut dead: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, pattern) in ranks.chain(alphas) {
            if !modules.iter().any(|module| pattern.matches(module)) {
                dead.entry(key).or_default().push(pattern.text());
            }
        }
        let warning = |(key, patterns): (&str, Vec<&str>)| {
            let headline = format!("`{key}` names modules that the adapter does not change");
            Diagnostic::warning(codes::DEAD_PATTERN, headline)
                .in_file(&self.config.shown)
                .fact("modules", some_of(&patterns))
        };
        dead.into_iter().map(warning).collect()
    }

    pub fn fault(&self, code: Code, headline: String) -> Diagnostic {
        Diagnostic::error(code, headline).in_file(self.shown())
    }
}

/// Faults; those that differ only in the number of a layer are one.
#[derive(Default)]
pub(in crate::adapter) struct Faults {
    list: Vec<(Diagnostic, Option<Group>)>,
    known: HashMap<(String, String, Facts), usize>,
}

type Facts = Vec<(String, String)>;

struct Group {
    /// With `{}` for the name.
    headline: &'static str,
    name: String,
    pattern: String,
    count: u64,
}

impl Faults {
    pub fn push(&mut self, fault: Diagnostic) {
        self.list.push((fault, None));
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn add(
        &mut self,
        code: Code,
        headline: &'static str,
        name: &str,
        file: String,
        facts: Facts,
        help: Option<&str>,
    ) {
        let pattern = without_numbers(name);
        let key = (headline.to_owned(), pattern.clone(), facts.clone());
        if let Some(&at) = self.known.get(&key) {
            if let Some(group) = &mut self.list[at].1 {
                group.count += 1;
            }
            return;
        }
        self.known.insert(key, self.list.len());
        let mut fault = Diagnostic::error(code, String::new()).in_file(file);
        fault.facts = facts;
        fault.help = help.map(str::to_owned);
        self.list.push((fault, Some(Group { headline, name: name.to_owned(), pattern, count: 1 })));
    }

    pub(super) fn finish(self) -> Vec<Diagnostic> {
        let word = |(mut fault, group): (Diagnostic, Option<Group>)| {
            if let Some(group) = group {
                let name = if group.count == 1 { &group.name } else { &group.pattern };
                fault.headline = group.headline.replace("{}", &shown(name));
                if group.count > 1 {
                    fault.notes.push(format!("so it is {} times", grouped(group.count)));
                }
            }
            fault
        };
        self.list.into_iter().map(word).collect()
    }
}
