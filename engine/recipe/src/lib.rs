//! Recipes and method files: text in, types and diagnostics out. All errors of a text are reported at once.
//!
//! Nothing here knows which ops or methods exist, or reads a checkpoint.

pub mod architecture;
mod architecture_file;
mod decode;
pub mod expression;
mod load;
pub mod map;
mod map_file;
mod matrices;
pub mod method;
mod method_file;
pub mod modality;
pub mod moe_file;
mod overrides;
pub mod pattern;
pub mod recipe;
pub mod schema;
pub mod setting;
pub mod shuffle_file;
pub mod tree;
pub mod yaml;

pub use architecture::{Architecture, Role};
pub use architecture_file::read_architectures;
pub use decode::chat_template::{AUTO as AUTO_TEMPLATE, NAMES as CHAT_TEMPLATES};
pub use decode::reader::{Decoder, Fields};
pub use decode::{decode, read, read_partly};
pub use expression::{Expression, ExpressionKind};
pub use load::{Loaded, LoadedRecipe, load, load_partly};
pub use map::ArchitectureMap;
pub use map_file::read_map;
pub use matrices::{MatrixAxes, MatrixSelector};
pub use method::Method;
pub use method_file::read_method;
pub use overrides::apply_overrides;
pub use pattern::Pattern;
pub use recipe::Recipe;
