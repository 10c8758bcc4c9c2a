//! The list of elementwise ops, one line each, in alphabetical order: file and type.

use crate::elementwise::{self, Elementwise, Visitor};

/// Calls a macro with the list. This line and a file in `elementwise/` are all that an op needs.
macro_rules! each_op {
    ($callback:ident) => {
        $callback! {
            abs Abs,
            acos Acos,
            add Add,
            add_product AddProduct,
            agreeing Agreeing,
            and And,
            ceil Ceil,
            clamp Clamp,
            cos Cos,
            divide Divide,
            divide_unless_zero DivideUnlessZero,
            equal Equal,
            exp Exp,
            floor Floor,
            greater Greater,
            greater_equal GreaterEqual,
            interpolate Interpolate,
            less Less,
            less_equal LessEqual,
            log Log,
            maximum Maximum,
            minimum Minimum,
            multiply Multiply,
            negate Negate,
            not Not,
            not_equal NotEqual,
            or Or,
            power Power,
            sign Sign,
            sin Sin,
            sqrt Sqrt,
            subtract Subtract,
            r#where Where,
        }
    };
}

pub(crate) use each_op;

macro_rules! table {
    ($($module:ident $op:ident,)*) => {
        /// An elementwise op, by value: what instructions and scalar steps hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum MapOp {
            $(
                #[doc = concat!("See [`", stringify!($op), "`](elementwise::", stringify!($op), ").")]
                $op,
            )*
        }

        impl MapOp {
            /// All ops, in alphabetical order of their names.
            pub const ALL: &'static [Self] = &[$(Self::$op,)*];

            /// Runs a visitor with the op's formula.
            #[inline(always)]
            pub fn visit<V: Visitor>(self, visitor: V) -> V::Output {
                match self {
                    $(Self::$op => visitor.visit::<elementwise::$op>(),)*
                }
            }
        }
    };
}

each_op!(table);

impl MapOp {
    /// Its name in expressions.
    pub fn name(self) -> &'static str {
        self.visit(Name)
    }

    /// The op of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.name() == name)
    }

    /// What it computes, in a few words.
    pub fn summary(self) -> &'static str {
        self.visit(Summary)
    }

    /// How many arguments it reads, 1 to 3.
    pub fn arity(self) -> usize {
        self.visit(Arity)
    }

    /// The formula in f64: for scalar steps, folding of constants, and as the reference of vector code.
    ///
    /// Arguments beyond the arity are ignored; missing ones are 0.
    pub fn apply_f64(self, arguments: &[f64]) -> f64 {
        let mut three = [0.0; 3];
        for (to, from) in three.iter_mut().zip(arguments) {
            *to = *from;
        }
        self.visit(Apply(three))
    }
}

struct Name;

impl Visitor for Name {
    type Output = &'static str;
    fn visit<E: Elementwise>(self) -> &'static str {
        E::NAME
    }
}

struct Summary;

impl Visitor for Summary {
    type Output = &'static str;
    fn visit<E: Elementwise>(self) -> &'static str {
        E::SUMMARY
    }
}

struct Arity;

impl Visitor for Arity {
    type Output = usize;
    fn visit<E: Elementwise>(self) -> usize {
        E::ARITY
    }
}

struct Apply([f64; 3]);

impl Visitor for Apply {
    type Output = f64;
    fn visit<E: Elementwise>(self) -> f64 {
        E::apply(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_found() {
        let names: Vec<_> = MapOp::ALL.iter().map(|op| op.name()).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        for op in MapOp::ALL {
            assert_eq!(MapOp::from_name(op.name()), Some(*op));
            assert!((1..=3).contains(&op.arity()));
        }
        assert_eq!(MapOp::from_name("plus"), None);
    }
}
