//! The command line of Claviger; it follows.

fn main() {}
