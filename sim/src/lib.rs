//! Seeded simulation of members, ring and planner in one process.
