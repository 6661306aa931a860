//! The test bed: a real cluster on one machine without containers.
