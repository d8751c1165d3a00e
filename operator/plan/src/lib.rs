//! What the operator decides: resource types, validation, plan and status, without any client.
