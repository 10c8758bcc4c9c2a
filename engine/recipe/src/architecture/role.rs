//! What a tensor does in its module.

macro_rules! roles {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)*) => {
        /// What a tensor does in its module. A bias, and a scale beside a weight, has the role of its weight.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
        #[schemars(rename_all = "snake_case")]
        pub enum Role {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Role {
            /// All roles with their words, in order.
            pub const ALL: &[(&'static str, Self)] = &[$(($word, Self::$name)),*];
        }
    };
}

roles! {
    /// Rows by token.
    Embedding = "embedding",
    /// The output layer: rows by token.
    Unembedding = "unembedding",
    /// Rows, or values, by place.
    PositionEmbedding = "position_embedding",
    /// A learned token, or several: of a class, a query, the end of an image's line.
    Token = "token",
    /// Scale and shift of a normalization.
    Norm = "norm",
    /// A factor for each channel.
    Scale = "scale",
    /// Queries of attention.
    AttentionQ = "attention_q",
    /// Keys of attention.
    AttentionK = "attention_k",
    /// Values of attention.
    AttentionV = "attention_v",
    /// Queries, keys and values in one.
    AttentionQkv = "attention_qkv",
    /// Output of attention.
    AttentionOutput = "attention_output",
    /// The gate of an MLP.
    MlpGate = "mlp_gate",
    /// The first layer of an MLP.
    MlpUp = "mlp_up",
    /// Gate and first layer in one.
    MlpGateUp = "mlp_gate_up",
    /// The last layer of an MLP.
    MlpDown = "mlp_down",
    /// Chooses experts, or weighs one, in a mixture of experts.
    Router = "router",
    /// A linear layer between modules.
    Projection = "projection",
    /// A convolution, such as the one that makes patches.
    Convolution = "convolution",
    /// The first factor of a low-rank update.
    AdapterA = "adapter_a",
    /// The second factor of a low-rank update.
    AdapterB = "adapter_b",
    /// Computed from the configuration when a model is loaded.
    Buffer = "buffer",
}

impl Role {
    /// The word for it in files and recipes.
    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Whether its weights are those of a linear layer: a matrix between features.
    pub fn is_linear(self) -> bool {
        matches!(
            self,
            Self::AttentionQ
                | Self::AttentionK
                | Self::AttentionV
                | Self::AttentionQkv
                | Self::AttentionOutput
                | Self::MlpGate
                | Self::MlpUp
                | Self::MlpGateUp
                | Self::MlpDown
                | Self::Router
                | Self::Projection
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_the_word_of_its_schema() {
        let schema = schemars::schema_for!(Role).to_value();
        let words: Vec<&str> = schema["oneOf"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["const"].as_str().unwrap())
            .collect();
        assert_eq!(words, Role::ALL.iter().map(|(word, _)| *word).collect::<Vec<_>>());
        for &(word, role) in Role::ALL {
            assert_eq!(role.word(), word);
        }
    }
}
