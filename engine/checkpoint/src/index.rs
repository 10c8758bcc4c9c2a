//! What a checkpoint holds: tensor names, types, shapes and places.
