//! The data engine: RESP, commands, keyspace in lanes, the shard log and the slot stream.
