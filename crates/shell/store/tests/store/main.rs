//! The store on a real disk: what it refuses, what it keeps, what it leaves behind.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod at_rest;
mod group_commit;
mod home;
mod model;
mod opening;
