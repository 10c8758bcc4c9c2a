//! The keys of a search's settings, from which the JSON Schema and the lists of known keys are made.

use std::collections::BTreeMap;

use mixdown_recipe::schema::ScalarKey;

/// The candidates.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum GridKey {
    /// A path alone: from 0.0 to 0.6 in steps of 0.1.
    Path(String),
    /// Paths, each with its values.
    Values(BTreeMap<String, ValuesKey>),
}

/// Values of a parameter.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum ValuesKey {
    /// One after the other.
    List(#[schemars(length(min = 1))] Vec<ScalarKey>),
    /// In equal steps.
    Range(RangeKeys),
}

/// How differences are counted.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum DiffKey {
    /// An answer counts once for each of the two neighbors that it differs from.
    Sum,
    /// An answer counts once if it differs from a neighbor.
    Union,
    /// An answer counts if it differs from that of the candidate before; the last can be chosen.
    Prev,
    /// The angle between vectors that `embed` makes of the answers.
    Embedding,
}

/// One step of what is done to answers before they are compared.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum NormalizeKey {
    /// Lower case.
    Lower,
    /// No white space at the ends.
    Strip,
    /// Each run of white space is one space.
    CollapseWs,
    /// Nothing; stands alone.
    None,
}

/// Which of equally good candidates is chosen.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum TiesKey {
    /// The first.
    Smallest,
    /// The last.
    Largest,
    /// The one in the middle.
    Middle,
    /// None: the search fails.
    Error,
}

/// Which scores are good.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum GoalKey {
    /// High ones.
    Maximize,
    /// Low ones.
    Minimize,
}

/// What makes vectors of answers.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum EmbedKey {
    /// A program and its arguments; `{texts}` and `{out}` are filled in.
    Command(Vec<String>),
    /// A server.
    Http(EmbedHttpKeys),
}

/// What the files of a replay are.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum FormatKey {
    /// One JSON object per line, as generators write it.
    Responses,
    /// Logs of lmms-eval, answers as generated.
    LmmsEval,
    /// Logs of lmms-eval, answers as it filtered them.
    LmmsEvalFiltered,
    /// Tables of VLMEvalKit: JSON, CSV, TSV, or the first sheet of a workbook (`.xlsx`).
    #[schemars(rename = "vlmevalkit")]
    VlmEvalKit,
}

mixdown_recipe::keys! {
    /// What is searched, by which answers or scores, and how it is chosen.
    pub struct SearchKeys {
        /// The version of this form: 1.
        pub search: u64,
        /// Paths of parameters of the recipe, as for `--set`, each with its values; with `optimizer`, each
        /// with the range of its values.
        pub grid: GridKey,
        /// Tries only some of the values, each generation by the scores of those before. For
        /// objectives with a `command` that scores. Left out: all values are tried.
        pub optimizer: Option<OptimizerKeys>,
        /// The file of prompts, relative to this one.
        pub prompts: Option<String>,
        /// How many prompts are asked, and which.
        pub sample: Option<SampleKeys>,
        /// Where answers come from.
        pub generator: Option<GeneratorKeys>,
        /// What makes a candidate good.
        pub objective: Option<ObjectiveKeys>,
        /// Prompts asked at a time, of all candidates; those that cannot win any more are not asked
        /// further. Left out: all at once.
        pub chunk: Option<u64>,
        /// So many prompts of the first candidate are asked twice, in reversed order the second time.
        pub verify: Option<u64>,
    }

    /// A parameter's values in equal steps, exact to the last digit.
    pub struct RangeKeys {
        /// The first value.
        pub from: f64,
        /// The last, if the steps meet it.
        pub to: f64,
        /// From one to the next. Can be left out with an optimizer: it then is a power of ten, of which
        /// the range has more than ten thousand.
        pub step: Option<f64>,
    }

    /// How values are chosen: exactly one of them.
    pub struct OptimizerKeys {
        /// By samples of a normal distribution that follows the best of them.
        pub cma_es: Option<CmaEsKeys>,
    }

    /// CMA-ES, with the defaults of Hansen's tutorial (arXiv:1604.00772). The first generation lies
    /// around the middle of all ranges; samples beyond a range are reflected at its ends.
    pub struct CmaEsKeys {
        /// Candidates that are merged and scored, at most. Of n parameters that are smooth, a hundred
        /// times n are plenty.
        #[schemars(range(min = 2))]
        pub budget: u64,
        /// Candidates of a generation; 4 + 3 ln n if left out. More of them see through noisy scores.
        #[schemars(range(min = 2))]
        pub population: Option<u64>,
        /// One standard deviation of the first generation, as a fraction of each range; 0.3 if left out.
        pub sigma: Option<f64>,
        /// Another seed, another sequence of candidates; 0 if left out.
        pub seed: Option<u64>,
    }

    /// Which prompts are asked.
    pub struct SampleKeys {
        /// How many; 100 if left out.
        pub count: Option<u64>,
        /// Another seed, another sample; 0 if left out.
        pub seed: Option<u64>,
        /// These and no others.
        pub ids: Option<Vec<String>>,
    }

    /// Where answers come from: exactly one of them.
    pub struct GeneratorKeys {
        /// A program, run once for each candidate.
        pub command: Option<CommandKeys>,
        /// mixdown's own program `mixdown-generate`, for small text models.
        pub embedded: Option<EmbeddedKeys>,
        /// A server that speaks OpenAI's protocol.
        pub http: Option<HttpKeys>,
        /// Answers of earlier runs.
        pub replay: Option<ReplayKeys>,
    }

    /// A program that reads prompts and writes answers.
    pub struct CommandKeys {
        /// The program and its arguments; `{model_dir}`, `{prompts}` and `{out}` are filled in.
        pub argv: Vec<String>,
        /// Your name for this version of it; kept answers of another version are not used.
        pub version: Option<String>,
        /// Seconds that one run may take.
        pub timeout: Option<f64>,
        /// How often it is run again for answers that are missing; 0 if left out.
        pub retries: Option<u64>,
    }

    /// mixdown's own program, beside `mixdown` or on the path: gpt2, llama, mistral and qwen2, on the
    /// processor.
    pub struct EmbeddedKeys {
        /// The most tokens of answers whose prompt says nothing of it; 256 if left out.
        pub max_new_tokens: Option<u64>,
        /// Seconds that one run may take.
        pub timeout: Option<f64>,
    }

    /// A server.
    pub struct HttpKeys {
        /// The command that starts it; `{model_dir}` and `{port}` are filled in. Without `reload` it is
        /// started for each candidate and stopped after it.
        pub serve: Option<Vec<String>>,
        /// A command that has the running server load another model; `{model_dir}` and `{port}` are filled
        /// in. It ends when the model is loaded, or the server's list of models tells. With `serve`, that
        /// starts the server once, for the first candidate.
        pub reload: Option<Vec<String>>,
        /// Its address without `/v1`. With `serve`, `http://127.0.0.1:{port}` if left out.
        pub base_url: Option<String>,
        /// The model's name there; `{model_dir}` if left out.
        pub model: Option<String>,
        /// The variable of the environment that holds its key. The key is sent to the server alone, and
        /// kept nowhere; an address with `https://` keeps it secret on the way.
        #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
        pub api_key_env: Option<String>,
        /// Your name for this version of it.
        pub version: Option<String>,
        /// Seconds that its start or a reload may take; 600 if left out.
        pub startup: Option<f64>,
        /// Seconds that one request may take; 600 if left out.
        pub timeout: Option<f64>,
        /// Requests at a time; 1 if left out, because batches can change answers.
        pub concurrency: Option<u64>,
    }

    /// Answers that exist already.
    pub struct ReplayKeys {
        /// The folder with a file for each candidate, named like its value, relative to this file.
        pub folder: String,
        /// What the files are; `responses` if left out.
        pub format: Option<FormatKey>,
    }

    /// A server that makes vectors, over `/v1/embeddings`. It runs already.
    pub struct EmbedHttpKeys {
        /// Its address without `/v1`.
        pub base_url: String,
        /// The model's name there.
        pub model: String,
        /// The variable of the environment that holds its key.
        #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
        pub api_key_env: Option<String>,
        /// Seconds that one request may take; 60 if left out.
        pub timeout: Option<f64>,
    }

    /// What makes a candidate good: answers that differ little from its neighbors', or a score.
    pub struct ObjectiveKeys {
        /// How differences are counted; `sum` if left out.
        pub diff: Option<DiffKey>,
        /// What is done to answers before they are compared; `[lower]` if left out.
        pub normalize: Option<Vec<NormalizeKey>>,
        /// A regular expression; its first group, or all of it, is what counts of an answer.
        pub extract: Option<String>,
        /// For `embedding`: what makes vectors of answers.
        pub embed: Option<EmbedKey>,
        /// Differences are means over so many neighbors each side; 0 if left out.
        pub smooth: Option<u64>,
        /// Answers of a candidate that may be missing; 0 if left out.
        pub max_errors: Option<u64>,
        /// A program that prints a score of a model; `{model_dir}` is filled in.
        pub command: Option<Vec<String>>,
        /// Your name for this version of the scoring program; kept scores of another are not used.
        pub version: Option<String>,
        /// Which scores are good; `maximize` if left out.
        pub goal: Option<GoalKey>,
        /// Seconds that scoring a model, or making its vectors, may take.
        pub timeout: Option<f64>,
        /// Which of equally good candidates is chosen; `smallest` if left out.
        pub ties: Option<TiesKey>,
    }
}

/// The JSON Schema, with the name of its file.
pub fn schema() -> (&'static str, String) {
    let mut schema = schemars::generate::SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<SearchKeys>()
        .to_value();
    schema["title"] = "mixdown search".into();
    ("search.schema.json", format!("{schema:#}\n"))
}
