//! What an unfinished output holds already, so that a merge can continue.
