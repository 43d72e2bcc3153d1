//! Tests of the importer through its public interface, on models that are built here.

mod branches;
mod custom;
mod fuzz;
mod graphs_inside;
mod import;
mod independent;
mod lists;
mod loops;
mod models;
mod mutate;
mod refusals;
mod seeds;
mod stacked;
mod zoo;
