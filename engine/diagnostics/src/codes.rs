//! Every code a diagnostic can carry, one line each.

/// A code with its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// As shown: `E0214`.
    pub id: &'static str,
    /// One line of meaning, listed in the manual.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: Code = Code { id: $id, meaning: $meaning };)*
        /// All codes, in the order of their ids.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

// 01xx checkpoints and files, 02xx recipe text, 03xx recipe against checkpoints, 04xx execution, 05xx output and search.
codes! {
    MODEL_NOT_FOUND = "E0101", "a model is neither a folder or file here nor in the hub cache, and could not be fetched";
    NO_WEIGHTS = "E0102", "a model folder or file holds no weights that are read";
    SHARD_MISSING = "E0103", "an index names a shard that is not there";
    INDEX_BROKEN = "E0104", "an index file cannot be understood";
    INDEX_ESCAPES = "E0105", "an index names a file outside its folder";
    HEADER_BROKEN = "E0106", "the header of a file of weights cannot be understood";
    SHARD_TRUNCATED = "E0107", "a shard ends before its last tensor does";
    DUPLICATE_TENSOR = "E0108", "two shards of one checkpoint hold the same tensor";
    UNREADABLE = "E0109", "a file cannot be read";
    CONFIG_BROKEN = "E0110", "a config.json cannot be understood";
    HUB_FAILED = "E0111", "the hub could not be reached or refused";
    UNSUPPORTED_FORMAT = "E0112", "a checkpoint is in a format that is not read";
    FILE_CHANGED = "E0113", "a file changed while it was in use";
    ADAPTER_CONFIG = "E0114", "an adapter_config.json is missing or cannot be understood";
    ADAPTER_KIND = "E0115", "an adapter is of a kind that is not supported";
    ADAPTER_BROKEN = "E0116", "an adapter's tensors do not go with each other or with its configuration";
    EMPTY_TENSORS = "E0120", "tensors are empty: a checkpoint was saved without gathering its parts";
    NOT_MERGED = "E0121", "a checkpoint holds an adapter that was not merged into it";
    MODULES_BROKEN = "E0122", "a modules.json cannot be followed";
    TRAINER_STATE = "E0123", "a folder holds a trainer's state or a pipeline, and no model's weights of its own";
    PACKED = "E0140", "weights are packed by a codec that is not decoded";
    PACKED_BROKEN = "E0141", "tensors of a packed weight are missing or do not go with each other";
    PACKED_CONFIG = "E0142", "a configuration promises another packing than the tensors have";
    PACKED_VALUE = "E0143", "a scale, zero point or index of a packed weight cannot be";
    GGUF_FAMILY = "E0144", "nothing is known of the names of a GGUF file's family";
    QUANTIZE_FORM = "E0145", "a form to quantize to is not known, or its settings do not go together";
    CANNOT_QUANTIZE = "E0146", "a tensor cannot be written in the form that is asked for";
    NOT_YAML = "E0201", "a file is not YAML";
    YAML_TOO_LARGE = "E0202", "a YAML file unfolds beyond the limits";
    UNKNOWN_KEY = "E0203", "a key is not known here";
    MISSING_KEY = "E0204", "a required key is missing";
    WRONG_TYPE = "E0205", "a value has the wrong type";
    CONFLICTING_KEYS = "E0206", "keys that exclude each other are both present, or none is";
    UNKNOWN_METHOD = "E0207", "a method is not known";
    UNKNOWN_PARAMETER = "E0208", "a parameter is not known to the method";
    UNKNOWN_MODEL = "E0209", "a model name is not declared";
    BAD_REFERENCE = "E0210", "a model reference cannot be understood";
    BAD_EXPRESSION = "E0211", "an expression cannot be understood";
    UNKNOWN_NAME = "E0212", "a name in an expression, or a `$name`, is not defined";
    WRONG_KIND = "E0213", "a value in an expression has the wrong kind";
    OUT_OF_RANGE = "E0214", "a parameter lies outside its range";
    BAD_SET = "E0215", "a --set override does not fit the recipe";
    BAD_LAYER_RANGE = "E0216", "a layer range is malformed";
    BAD_PATTERN = "E0217", "a tensor pattern cannot be understood";
    RECIPE_CYCLE = "E0218", "a recipe includes itself";
    UNKNOWN_DTYPE = "E0219", "an element type is not known";
    UNSUPPORTED = "E0220", "something valid elsewhere is not supported here";
    DUPLICATE_KEY = "E0221", "a key or a name is given twice";
    REQUIREMENT = "E0222", "what a method requires does not hold";
    CHAT_TEMPLATE = "E0223", "a chat template cannot be understood";
    STAGES = "E0224", "the documents of a file do not make one merge";
    UNKNOWN_MAP = "E0230", "a map is not known";
    MAP_TARGET = "E0231", "the model whose shapes a map gives cannot be told";
    RECIPE_KIND = "E0250", "the kind of a recipe is not known";
    MODALITY_BODY = "E0251", "the body of a modality is not named, or named twice";
    MODALITY_PREFIX = "E0252", "two parts of modalities write under one prefix";
    MODALITY_FORM = "E0253", "layout, space and mode of a modality recipe do not go together";
    COEFFICIENTS = "E0254", "coefficients do not name each modality";
    UNKNOWN_MODALITY = "E0255", "a name is that of no modality";
    MERGEKIT_SWITCH = "E0256", "a switch of mergekit's programs is not known, or cannot be followed";
    ARCHITECTURES_DIFFER = "E0257", "models of different architectures are merged";
    MOE_EXPERTS = "E0258", "the experts of a mixture, or their prompts, make no gates";
    MOE_LAYOUT = "E0259", "models do not make a mixture of experts";
    MISSING_BASE = "E0301", "a method needs a base model and there is none";
    MISSING_PARAMETER = "E0302", "a required parameter is not set";
    WRONG_INPUTS = "E0303", "a method got too many or too few models";
    LAYERS_PAST_END = "E0304", "a layer range goes past the model's last layer";
    DEAD_RULE = "E0305", "a rule can never match";
    UNMATCHED_TENSOR = "E0306", "no rule says what becomes of a tensor";
    SHAPE_MISMATCH = "E0307", "a tensor has different shapes in two models";
    DTYPE_MISMATCH = "E0308", "a tensor has element types that do not go together";
    TENSOR_MISSING = "E0309", "only some of the models have a tensor";
    NOTHING_TO_WRITE = "E0310", "the recipe produces no tensor";
    DUPLICATE_MODEL = "E0311", "a model is listed twice";
    UNKNOWN_MODULE = "E0312", "a module is not part of the models";
    VOCABULARY = "E0313", "vocabularies cannot be brought together";
    ADAPTER_UNMATCHED = "E0314", "what an adapter changes is not one tensor of its base";
    ADAPTER_SHAPE = "E0315", "the tensors of an adapter do not have the shapes that its base needs";
    MISSING_INPUT = "E0316", "a method needs a file beside each model, or a reference, and there is none";
    UNUSED_INPUT = "E0317", "a file beside a model, or a reference, is given and no method reads it";
    UNKNOWN_ROLE = "E0318", "no tensor of the models has a role";
    UNKNOWN_ARCHITECTURE = "E0319", "the architecture of a model is not known";
    STACKED_MATRICES = "E0320", "a tensor is a stack of matrices, and a method takes one matrix";
    LAYERS_NOT_COUNTED = "E0321", "a config.json cannot say how many layers the output has";
    LAYER_MISPLACED = "E0322", "a layer would stand where another kind of layer belongs";
    LAYERS_PACKED = "E0323", "what belongs to single layers is packed or shared, so that they cannot be stacked";
    NO_UPDATE = "E0324", "an adapter would have no product of two factors";
    MAP_SOURCE = "E0330", "the source of a map lacks a tensor that a rule takes";
    MAP_SHAPE = "E0331", "what a map makes does not have the shape that it must have";
    MAP_UNUSED = "E0332", "a tensor of a map's source is neither used nor listed as unused";
    MAP_SIZE = "E0333", "a size that a map uses is not known, or does not fit";
    CONFIG_CONFLICT = "E0350", "the configurations of the inputs disagree about a key";
    FACTORS_MISSING = "E0351", "a file holds no adapter of the name";
    BODY_DIFFERS = "E0352", "a body changes what is kept as in the base";
    SCALE_UNKNOWN = "E0353", "nothing says by which factor an adapter acts";
    ENCODER_MISSING = "E0354", "the encoder of a modality is not there";
    SCALES_DIFFER = "E0355", "adapters that stay factors act by different factors";
    AMBIGUOUS_RANK = "E0360", "a rank could be a share of the directions or their count";
    NO_CUDA_DRIVER = "E0380", "there is no CUDA driver, or it does not start";
    OLD_CUDA_DRIVER = "E0381", "the CUDA driver is too old";
    NO_CUDA_DEVICE = "E0382", "the CUDA driver shows no device";
    CUDA_DEVICE_NUMBER = "E0383", "there is no CUDA device of a number";
    OLD_CUDA_DEVICE = "E0384", "a CUDA device is too old";
    CUDA_FAILED = "E0385", "a CUDA device failed";
    BUDGET_TOO_SMALL = "E0401", "the memory budget is below what one block needs";
    NONFINITE = "E0402", "a weight is NaN or infinite";
    COPIES_DIFFER = "E0403", "tensors that should be equal differ";
    INTERNAL = "E0404", "mixdown broke a promise of its own";
    NUMERICS = "E0405", "a computation gave no usable numbers";
    DISK_FULL = "E0501", "there is not enough space on the disk";
    OUTPUT_EXISTS = "E0502", "the output exists already";
    WRITE_FAILED = "E0503", "the output cannot be written";
    OUTPUT_BUSY = "E0504", "another process is writing the same output";
    MANIFEST_BROKEN = "E0505", "a manifest is missing or cannot be understood";
    VERIFY_FAILED = "E0506", "an output does not agree with its manifest";
    DEVICE = "E0507", "a device cannot be used";
    STORE_FAILED = "E0508", "the store of results cannot be read or changed";
    PROMPTS_WRONG = "E0509", "a file of prompts cannot be used";
    ANSWERS_WRONG = "E0510", "answers do not agree with the prompts";
    GENERATOR_FAILED = "E0511", "a program that answers or scores failed";
    UNDECIDED = "E0512", "a search has no result";
    ENVIRONMENT = "E0513", "a variable of the environment that a search names is missing or cannot be used";
    GENERATOR_MISSING = "E0520", "the program of the embedded generator is not found";
    GENERATOR_FAMILY = "E0521", "the embedded generator does not run models of this kind";
    GENERATOR_TENSOR = "E0522", "a model lacks a tensor that its config promises, or it is another one";
    GENERATOR_TEXT = "E0523", "a tokenizer or a chat template cannot be understood";
    FOREIGN_PARTIAL = "E0524", "something that mixdown did not make stands where its unfinished output would be";
    LINK_LEADS_OUT = "E0525", "a file of a model is a link that leads out of its folder";
    NAME_TOO_LONG = "E0526", "a tensor has a name that is too long";
    TOKENIZER_TOO_LARGE = "E0527", "a tokenizer takes more memory than the merge may use";
    FUSE_ARGUMENTS = "E0550", "what is to be fused does not go together";
    TENSOR_DATA = "E0551", "the data of a tensor in memory is not what its type and shape say";
    PARTS_MISSING = "E0552", "parts of an output are not there";
    PARTS_DIFFER = "E0553", "parts of an output are of different merges, or one is there twice";
    PART_BROKEN = "E0554", "a part of an output is not what was written";
    PART_LOST = "E0555", "the worker or machine of a part died again and again";
    REMOTE_FAILED = "E0556", "a remote file cannot be read";
    REMOTE_RANGES = "E0557", "a server does not give parts of its files";
    IGNORED_KEY = "W0601", "a key of a mergekit configuration has no effect";
    IGNORED_PARAMETER = "W0602", "a parameter of a mergekit configuration has no effect";
    TIED_EMBEDDING = "W0603", "a tied embedding stands in for a missing output layer";
    COPIED_SINGLE = "W0604", "a tensor that only one model has is copied";
    COMPATIBILITY = "W0605", "mergekit's behavior is followed where it may surprise";
    DROPPED = "W0606", "tensors of an input are not in the output";
    NOT_COPIED = "W0607", "a file that belongs to the model was not found";
    NOT_READ = "W0608", "something in a model's folder or files is not read";
    OVERFLOW = "W0609", "results are NaN or infinite though the inputs are not";
    SPECTRAL_GAP = "W0610", "a truncation cuts through nearly equal singular values";
    OP_NOTE = "W0611", "a matrix op did not do all that its settings say";
    DEAD_PATTERN = "W0612", "a pattern of an adapter's configuration matches none of its modules";
    STORE_DAMAGED = "W0613", "an entry of the store is damaged, and its result is computed again";
    STORE_UNUSABLE = "W0614", "a result cannot be kept in the store, or read from it";
    TIED_IN_ADAPTER = "W0615", "an adapter changes an embedding that is the output layer too";
    CONFIGS_DIFFER = "W0616", "the configurations of models say different things behind equal shapes";
    ADDED_BY_ADAPTER = "W0617", "a tensor is taken from an adapter that its base lacks";
    UPDATE_OF_TIED = "W0618", "an adapter updates an embedding that is the output layer too";
    VOCABULARY_RESIZED = "W0619", "the rows of an embedding are those of an adapter";
    NO_EFFECT = "W0620", "an adapter changes nothing";
    HEAD_MISSING = "W0621", "a model's config says that it has an output layer of its own, and it is not stored";
    STALE_QUANTIZATION = "W0622", "a config.json describes a quantization that its weights do not have";
    WRAPPED_NAMES = "W0623", "names begin with what a training framework puts before them";
    TOKENS_DIFFER = "W0624", "the same tokens have different ids";
    NAMES_OF_VERSION = "W0625", "a model has the names of another version of the library that wrote it";
    TOKENIZER_OF_ADAPTER = "W0626", "the tokenizer of the output is an adapter's";
    MODULE_NOT_MERGED = "W0627", "weights in a folder of a model are one model's, and not merged";
    LOST_IN_PEFT = "W0628", "peft may not load all that an adapter says";
    PART_LEFT_OUT = "W0629", "an adapter's updates of another part of a pipeline are left out";
    LEFT_IN_FILE = "W0630", "parts of an adapter's file are not in the output";
    METHOD_UNUSED = "W0631", "a method file that the recipe does not use has mistakes";
    NO_CHAT_TEMPLATE = "W0632", "no chat template could be written";
    STAGE_UNUSED = "W0633", "a document of a file is used by no other";
    MERGEKIT_UNUSED = "W0634", "a switch of mergekit's programs has no effect";
    PACKED_BESIDE = "W0640", "tensors that belong to the quantized form only are left out";
    UNPACKED = "W0641", "a model is quantized, and the output is not";
    GGUF_NAMES = "W0642", "tensors of a GGUF file are not those that its family is known to have";
    QUANTIZING_LOSES = "W0643", "quantizing loses much of a merged update";
    KEPT_WIDE = "W0644", "linear layers are not quantized though a rule is for them";
    MATRICES_AVERAGED = "W0650", "tensors that could be matrices are averaged by a method over matrices";
    ALPHA_OVERRIDDEN = "W0651", "a recipe states another scale than an adapter's own configuration";
    LOST_IN_STORAGE = "W0652", "much of a merged update is lost when it is rounded for storage";
    RESPELLED = "W0653", "a model gets the names that its base has for the same tensors";
    NOISE_LEFT_OUT = "W0654", "experts are updates of low rank stored as whole weights, whose rounding is left out";
    LARGE_DRIFT = "W0655", "an expert is as far from its base as those whose merges fail";
    KEY_NOT_KEPT = "W0660", "the key that unfinished outputs carry cannot be kept";
    ODD_NAME = "W0661", "a file beside the weights is not copied for its name";
    PARTS_COMPUTED = "W0680", "parts of an output were computed with different instructions";
}
